//! What a backup or a restore has made, so that it goes again if the whole does not come about.
//!
//! Only what is noted here is removed, each file and each directory by its own name, and a directory only
//! when it is empty: what somebody else puts beside it stays.

use super::{BackupError, failed};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// See the module page. What is dropped before [`Made::keep`] goes.
#[derive(Debug, Default)]
pub struct Made {
    files: Vec<PathBuf>,
    /// Those above come before those below.
    directories: Vec<PathBuf>,
}

impl Made {
    /// Makes a directory and those above it, as far as they are missing.
    ///
    /// # Errors
    /// [`BackupError`]
    pub fn directory(&mut self, path: &Path) -> Result<(), BackupError> {
        let missing: Vec<&Path> = path.ancestors().take_while(|path| is_missing(path)).collect();
        for path in missing.into_iter().rev() {
            match fs::create_dir(path) {
                Ok(()) => self.directories.push(path.to_path_buf()),
                // Somebody else has just made it, and keeps it.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed("create", path)(error)),
            }
        }
        Ok(())
    }

    /// Makes a file, which must be new.
    ///
    /// # Errors
    /// [`BackupError`]
    pub fn file(&mut self, path: &Path) -> Result<File, BackupError> {
        let file = File::create_new(path).map_err(failed("create", path))?;
        self.files.push(path.to_path_buf());
        Ok(file)
    }

    /// A file has another name now.
    pub(super) fn renamed(&mut self, from: &Path, to: &Path) {
        let file = self.files.iter_mut().find(|file| *file == from);
        *file.expect("it was made here") = to.to_path_buf();
    }

    /// All of it stays.
    pub fn keep(mut self) {
        self.files.clear();
        self.directories.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // What cannot be removed is left to whoever is told why all this failed.
        for file in &self.files {
            let _left = fs::remove_file(file);
        }
        for directory in self.directories.iter().rev() {
            let _left = fs::remove_dir(directory);
        }
    }
}

/// The empty path is where the process is.
fn is_missing(path: &Path) -> bool {
    !path.as_os_str().is_empty() && !path.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_goes_by_the_name_it_has_then_and_nothing_else() {
        let above = std::env::temp_dir().join(format!("catena-made-{}", std::process::id()));
        let (first, last) = (above.join("first"), above.join("last"));
        let mut made = Made::default();
        made.directory(&above).expect("a temporary directory");
        drop(made.file(&first).expect("it is new"));
        fs::rename(&first, &last).expect("it is there");
        made.renamed(&first, &last);
        fs::write(&first, "somebody else's").expect("a temporary file");
        drop(made);
        assert!(!last.exists(), "it was made, and renamed");
        assert!(first.exists(), "it was not made");
        fs::remove_dir_all(&above).expect("nobody uses it");
    }
}
