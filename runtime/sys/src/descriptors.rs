//! Descriptors: what a process must not hand on to the program it executes.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Marks every descriptor from `first` on close-on-exec.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: close_range with CLOSE_RANGE_CLOEXEC closes nothing now; no owner of a descriptor is affected.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Closes every descriptor from `first` on but those in `keep`, whoever owns it. Only for a process that uses no other from here
/// on, and ends or becomes another program without running destructors.
pub fn close_from_but(first: u32, keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut kept: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd() as u32).filter(|fd| *fd >= first).collect();
    kept.sort_unstable();
    let mut next = first;
    for fd in kept {
        if fd > next {
            close_range(next, fd - 1)?;
        }
        next = fd + 1;
    }
    close_range(next, u32::MAX)
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: the promise of the caller of `close_from_but`: whoever owned a closed number neither uses nor drops it any more, so that it
    // may be opened again.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0u32) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
