//! A read lease: the kernel's word that nobody has a file open for writing, writable mappings included.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// asm-generic/fcntl.h; libc has it for one architecture only, where it is the same.
const F_SETSIG: libc::c_int = 10;

/// Whether somebody could be writing to a file right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    None,
    /// Open for writing or mapped writable somewhere, as far as can be told.
    Some,
    /// The lease may not be asked for: not the file's owner, or a file system without leases.
    Unknown,
}

/// Takes a read lease (fcntl(2), F_SETLEASE) on a regular file and gives it back at once. `file` must be open for
/// reading only; a descriptor open for writing is itself the writer.
///
/// A writer that comes in between waits until the lease is back, some microseconds.
pub fn writer(file: impl AsFd) -> Writer {
    match hold(&file) {
        // Closing the file would give it back, too; an error here changes nothing.
        Writer::None => {
            control(&file, libc::F_SETLEASE, libc::F_UNLCK).map_or(Writer::Unknown, |()| Writer::None)
        }
        other => other,
    }
}

/// The same; if there is no writer the lease is kept until the file, with all copies of its descriptor, is closed. A
/// writer that comes waits so long, but not longer than /proc/sys/fs/lease-break-time says, 45 seconds by default.
///
/// The signal that tells of it is set to SIGURG, whose default is to be ignored; the usual SIGIO would end the process.
pub fn hold(file: impl AsFd) -> Writer {
    if control(&file, F_SETSIG, libc::SIGURG).is_err() {
        return Writer::Unknown;
    }
    match control(&file, libc::F_SETLEASE, libc::F_RDLCK) {
        Ok(()) => Writer::None,
        Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EINVAL)) => Writer::Unknown,
        // EAGAIN, or the kernel is out of memory.
        Err(_) => Writer::Some,
    }
}

fn control(file: impl AsFd, command: libc::c_int, argument: libc::c_int) -> io::Result<()> {
    // SAFETY: the file is open for the whole call, and the commands above take an integer.
    let result = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), command, argument) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};

    use super::*;

    #[test]
    fn a_writer_is_seen_while_it_has_the_file_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "x").unwrap();
        let reader = File::open(&path).unwrap();
        assert_eq!(writer(&reader), Writer::None);
        let writing = OpenOptions::new().write(true).open(&path).unwrap();
        assert_eq!(writer(&reader), Writer::Some);
        drop(writing);
        assert_eq!(writer(&reader), Writer::None);
    }

    #[test]
    fn a_writable_mapping_of_a_closed_file_is_a_writer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "x").unwrap();
        let reader = File::open(&path).unwrap();
        let map = |protection| {
            let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
            // SAFETY: a new mapping of a file of one byte; nothing reads or writes it.
            let place = unsafe {
                libc::mmap(std::ptr::null_mut(), 1, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
            };
            assert_ne!(place, libc::MAP_FAILED);
            place
        };
        for protection in [libc::PROT_READ | libc::PROT_WRITE, libc::PROT_READ] {
            // One that is read could be made writable later.
            let place = map(protection);
            assert_eq!(writer(&reader), Writer::Some);
            // SAFETY: the mapping from above, which nothing refers to.
            assert_eq!(unsafe { libc::munmap(place, 1) }, 0);
            assert_eq!(writer(&reader), Writer::None);
        }
    }

    #[test]
    fn nobody_opens_a_held_file_for_writing_until_it_is_closed() {
        use std::os::unix::fs::OpenOptionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "x").unwrap();
        let open = || OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&path);
        let held = File::open(&path).unwrap();
        assert_eq!(hold(&held), Writer::None);
        assert_eq!(open().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(held);
        open().unwrap();
    }

    #[test]
    fn a_directory_has_no_lease() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(writer(File::open(dir.path()).unwrap()), Writer::Unknown);
    }
}
