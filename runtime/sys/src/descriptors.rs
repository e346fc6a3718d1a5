//! Descriptors: what a process must not hand on to the program it executes.

use std::io;

/// Marks every descriptor from `first` on close-on-exec.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    range(first, libc::CLOSE_RANGE_CLOEXEC)
}

fn range(first: u32, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: close_range with CLOSE_RANGE_CLOEXEC closes nothing now; no owner of a descriptor is affected.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
