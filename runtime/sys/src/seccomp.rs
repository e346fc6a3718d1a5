//! A seccomp filter: a BPF program that the kernel runs before every system call of this process from now on.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// One BPF instruction; the kernel's `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// The flag that makes a listener.
pub const NEW_LISTENER: u64 = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;

/// Loads a filter. `flags` as in seccomp(2); with SECCOMP_FILTER_FLAG_NEW_LISTENER the listener is returned.
///
/// Errors: EACCES without no_new_privs and CAP_SYS_ADMIN, EINVAL for a program the kernel refuses.
pub fn load(program: &[Instruction], flags: u64) -> io::Result<Option<OwnedFd>> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from(rustix::io::Errno::INVAL))?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: Instruction has the layout of sock_filter; the kernel reads `length` of them and writes nothing.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER as libc::c_ulong,
            flags,
            &raw const program,
        )
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    let listener = flags & NEW_LISTENER != 0;
    // SAFETY: with NEW_LISTENER the result is a new descriptor that nobody else owns.
    Ok(listener.then(|| unsafe { OwnedFd::from_raw_fd(result as i32) }))
}
