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

/// Whether this kernel knows a flag of seccomp(2). Loads nothing: the program is missing, which is EFAULT only where the flags
/// are right.
pub fn knows_flag(flag: u64) -> bool {
    // Some are for listeners alone, and others not.
    [flag, flag | NEW_LISTENER].into_iter().any(|flags| {
        let nothing = std::ptr::null::<libc::sock_fprog>();
        let mode = libc::SECCOMP_SET_MODE_FILTER as libc::c_ulong;
        // SAFETY: the kernel reads no program at address 0 and changes nothing.
        let result = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, nothing) };
        result == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
    })
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_known_or_not() {
        // TSYNC is as old as seccomp(2) itself.
        assert!(knows_flag(1) && knows_flag(NEW_LISTENER));
        assert!(!knows_flag(1 << 30));
    }
}
