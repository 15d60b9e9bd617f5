//! Where a report goes: people read it on standard output, machines where `--json` says, and what is
//! drawn of it goes where `--svg` says.

use crate::Failure;
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Where a report goes. Opened before anything is measured, so that no run is lost to a wrong path.
#[derive(Debug)]
pub struct Publisher {
    json: Option<Target>,
    svg: Option<Target>,
}

#[derive(Debug)]
enum Target {
    StandardOutput,
    File(PathBuf, File),
}

impl Publisher {
    /// For what `--json` says: nothing, `-`, or a file, whose content stays as it is until there is a
    /// report.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn open(json: Option<&Path>) -> Result<Publisher, Failure> {
        Ok(Publisher { json: json.map(Target::open).transpose()?, svg: None })
    }

    /// A drawing, too, for what `--svg` says: nothing, `-`, or a file. Not where the JSON goes.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn and_svg(self, svg: Option<&Path>) -> Result<Publisher, Failure> {
        Ok(Publisher { svg: svg.map(Target::open).transpose()?, ..self })
    }

    /// Writes the drawing where it is wanted, and does not draw where it is not.
    ///
    /// # Errors
    /// What could not be written, and where.
    pub fn publish_svg(&mut self, draw: impl FnOnce() -> String) -> Result<(), Failure> {
        self.svg.as_mut().map_or(Ok(()), |target| target.write(draw().as_bytes()))
    }

    /// Prints the text, and writes the report as JSON where it is wanted. Where standard output is
    /// taken by the JSON or the drawing, the text goes to standard error.
    ///
    /// # Errors
    /// What could not be written, and where.
    pub fn publish(&mut self, text: &str, report: &impl Serialize) -> Result<(), Failure> {
        let is_taken = |target: &Option<Target>| matches!(target, Some(Target::StandardOutput));
        match is_taken(&self.json) || is_taken(&self.svg) {
            true => write!(io::stderr(), "{text}")
                .map_err(|error| cannot_write("standard error", error))?,
            false => print(text)?,
        }
        let Some(target) = &mut self.json else { return Ok(()) };
        let mut bytes = serde_json::to_vec_pretty(report)?;
        bytes.push(b'\n');
        target.write(&bytes)
    }
}

impl Target {
    /// `-` is standard output.
    fn open(path: &Path) -> Result<Target, Failure> {
        if path == Path::new("-") {
            return Ok(Target::StandardOutput);
        }
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let file = file.map_err(|error| cannot_write(&path.display().to_string(), error))?;
        Ok(Target::File(path.to_owned(), file))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match self {
            Target::StandardOutput => to_standard_output(bytes),
            Target::File(path, file) => replace(file, bytes)
                .map_err(|error| cannot_write(&path.display().to_string(), error)),
        }
    }
}

/// Writes to standard output.
///
/// # Errors
/// If it cannot be written to; the error says that it was standard output.
pub fn print(text: &str) -> Result<(), Failure> {
    to_standard_output(text.as_bytes())
}

fn to_standard_output(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let written = out.write_all(bytes).and_then(|()| out.flush());
    written.map_err(|error| cannot_write("standard output", error))
}

/// What was there before goes away. A device or a pipe has no length to cut.
fn replace(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    if file.metadata()?.is_file() {
        file.set_len(0)?;
    }
    file.write_all(bytes)
}

fn cannot_write(what: &str, error: io::Error) -> Failure {
    format!("cannot write to {what}: {error}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_opened_early_and_replaced_late() {
        let name = format!("catena-bench-publish-{}.json", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, "a longer report of an earlier run").expect("it can be written");
        let mut publisher = Publisher::open(Some(&path)).expect("it is there");
        let before = std::fs::read_to_string(&path).expect("it is there");
        assert_eq!(before, "a longer report of an earlier run", "there is no report yet");
        publisher.publish("", &1).expect("it can be written");
        assert_eq!(std::fs::read_to_string(&path).expect("it is there"), "1\n");
        std::fs::remove_file(&path).expect("it is there");

        let nowhere = Path::new("/nowhere/at/all.json");
        let error = Publisher::open(Some(nowhere)).expect_err("there is no such place").to_string();
        assert!(error.starts_with("cannot write to /nowhere/at/all.json: "), "{error}");
    }

    #[test]
    fn an_error_says_what_was_written_to() {
        let full = Path::new("/dev/full");
        let mut publisher = Publisher::open(Some(full)).expect("it can be opened");
        let error = publisher.publish("", &1).expect_err("it is always full").to_string();
        assert!(error.starts_with("cannot write to /dev/full: "), "{error}");
    }
}
