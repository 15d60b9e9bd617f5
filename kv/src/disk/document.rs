//! Small files that are replaced whole: written under another name, synced, renamed, the directory synced.
//! Whoever reads one sees the old content or the new, after any crash.

use super::DiskError;
use catena_engine::Local;
use catena_engine::driver::{FileBuffer, OpenFile};
use std::io;
use std::path::Path;

/// The largest such file in bytes: a manifest of a thousand older logs has some 200 KiB.
const DOCUMENT_BYTES_MAX: u64 = 16 << 20;

/// What a file holds. `None`: there is none.
///
/// # Errors
/// If it cannot be read, or is far too long to be what it should.
pub async fn read(local: &Local, path: &Path) -> Result<Option<Vec<u8>>, DiskError> {
    let length = match local.file_length(path).await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(DiskError::of("read", path)(error)),
    };
    if length > DOCUMENT_BYTES_MAX {
        let error = io::Error::new(io::ErrorKind::FileTooLarge, "it is far too long to be one");
        return Err(DiskError::of("read", path)(error));
    }
    let file = local.open_file(path, OpenFile::default()).await;
    let file = file.map_err(DiskError::of("open", path))?;
    let buffer = FileBuffer::zeroed(length as usize);
    let (buffer, read) = local.read_file(file, 0, buffer).await;
    local.close_file(file);
    let read = read.map_err(DiskError::of("read", path))?;
    Ok(Some(buffer.bytes()[..read].to_vec()))
}

/// Replaces what a file holds, or creates it; durable when this returns.
///
/// # Errors
/// The step that failed; the file holds the old content or the new.
pub async fn replace(local: &Local, path: &Path, content: &[u8]) -> Result<(), DiskError> {
    let directory = path.parent().expect("a document lies in a directory");
    let mut name = path.file_name().expect("a document has a name").to_os_string();
    name.push(".new");
    let unready = path.with_file_name(name);
    // One that was left behind may be longer than what is written now.
    match local.remove_file(&unready).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(DiskError::of("remove", &unready)(error));
        }
        _ => {}
    }
    let options = OpenFile { create: true, direct: false };
    let file = local.open_file(&unready, options).await;
    let file = file.map_err(DiskError::of("create", &unready))?;
    let (_, written) = local.write_file(file, 0, FileBuffer::copy_of(content)).await;
    let synced = match written {
        Ok(_) => local.sync_file(file).await,
        Err(error) => Err(error),
    };
    local.close_file(file);
    synced.map_err(DiskError::of("write", &unready))?;
    local.rename(&unready, path).await.map_err(DiskError::of("rename", &unready))?;
    local.sync_directory(directory).await.map_err(DiskError::of("sync", directory))
}
