//! Descriptors: what a process must not hand on to the program it executes.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Marks every descriptor from `first` on close-on-exec.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: close_range with CLOSE_RANGE_CLOEXEC closes nothing now; no owner of a descriptor is affected.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Closes every descriptor above stderr but `keep`, whoever owns it. Only for a process that uses no other from here
/// on and ends without running destructors: init while it waits.
pub fn close_all_but(keep: BorrowedFd<'_>) -> io::Result<()> {
    let keep = keep.as_raw_fd() as u32;
    for (first, last) in [(3, keep.saturating_sub(1)), (keep.max(2) + 1, u32::MAX)] {
        if first > last {
            continue;
        }
        // SAFETY: the caller's promise above; a closed number is not opened again by anything that runs here.
        let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0u32) };
        if result == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
