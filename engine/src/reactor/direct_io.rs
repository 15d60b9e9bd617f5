//! Going past the page cache where the file system takes it: one rule for both drivers.
//!
//! Some file systems refuse the flag, others take it and refuse the operation. Either way the file
//! then goes through the page cache, unless the caller broke the rules of direct I/O itself.

use crate::driver::OpenFile;
use crate::limits::DIRECT_IO_ALIGN_BYTES;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// The permissions of new files, less what the process masks out.
pub(super) const MODE: u32 = 0o644;

/// Opens a file to read and write. The flag says whether it goes past the page cache. A file that
/// exists is never cut.
pub(super) fn open(path: &Path, options: OpenFile) -> Result<(OwnedFd, bool), Errno> {
    let mut flags = OFlags::RDWR | OFlags::CLOEXEC;
    flags.set(OFlags::CREATE, options.create);
    let mode = Mode::from_raw_mode(MODE);
    if options.direct {
        match rustix::fs::open(path, flags | OFlags::DIRECT, mode) {
            Ok(descriptor) => return Ok((descriptor, true)),
            Err(Errno::INVAL) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((rustix::fs::open(path, flags, mode)?, false))
}

/// True if the refusal of a direct operation is the file system's doing: it kept to the rules.
pub(super) fn is_refused(error: Errno, offset: u64, length: usize) -> bool {
    error == Errno::INVAL
        && offset.is_multiple_of(DIRECT_IO_ALIGN_BYTES as u64)
        && length.is_multiple_of(DIRECT_IO_ALIGN_BYTES)
}

/// Lets a file go through the page cache from now on. True if that worked.
pub(super) fn give_up(file: impl AsFd) -> bool {
    rustix::fs::fcntl_getfl(&file)
        .and_then(|flags| rustix::fs::fcntl_setfl(&file, flags - OFlags::DIRECT))
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_keeps_to_the_rules_is_refused_by_the_file_system() {
        let block = DIRECT_IO_ALIGN_BYTES;
        assert!(is_refused(Errno::INVAL, 0, block));
        assert!(is_refused(Errno::INVAL, 7 * block as u64, 3 * block));
        assert!(!is_refused(Errno::INVAL, 1, block), "the caller's offset");
        assert!(!is_refused(Errno::INVAL, 0, block - 1), "the caller's length");
        assert!(!is_refused(Errno::IO, 0, block), "the disk's fault");
    }
}
