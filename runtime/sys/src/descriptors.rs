//! Descriptors: what a process must not hand on to the program it executes.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Marks every descriptor from `first` on close-on-exec.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: close_range with CLOSE_RANGE_CLOEXEC closes nothing now; no owner of a descriptor is affected.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Closes every descriptor from 3 on but those in `keep` and the first `preserved`, of which those are closed that do not go on to what
/// is executed: nobody has handed them to this program. Only for a process that uses no other from here on, and ends or becomes
/// another program without running destructors.
pub fn close_all_but(preserved: u32, keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    for fd in (3..3 + preserved).filter(|fd| is_close_on_exec(*fd) && !is_one_of(*fd, keep)) {
        close_range(fd, fd)?;
    }
    close_from_but(3 + preserved, keep)
}

fn is_one_of(fd: u32, all: &[BorrowedFd<'_>]) -> bool {
    all.iter().any(|one| one.as_raw_fd().cast_unsigned() == fd)
}

fn is_close_on_exec(fd: u32) -> bool {
    // SAFETY: F_GETFD reads a flag of the number, whatever it refers to.
    let flags = unsafe { libc::fcntl(fd.cast_signed(), libc::F_GETFD) };
    flags != -1 && flags & libc::FD_CLOEXEC != 0
}

/// Closes every descriptor from `first` on but those in `keep`, whoever owns it. Only for a process as of [`close_all_but`].
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
