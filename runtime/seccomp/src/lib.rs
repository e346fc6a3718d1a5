//! A seccomp filter: an OCI `linux.seccomp` profile compiled to the classic BPF program that seccomp(2) loads.
//!
//! The decisions are libseccomp's, so that a profile means here what it means under runc, crun and podman; the
//! program is shaped differently: one binary search over ranges of system calls that share a verdict.
//! Pure computation: loading the program is the caller's.

#![forbid(unsafe_code)]

pub mod action;
mod arch;
mod assemble;
mod compile;
pub mod engines;
mod error;
mod key;
mod precedence;
mod profile;
mod rules;
mod simulate;
#[cfg(test)]
#[path = "../../../tests/src/skip.rs"]
mod skip;
mod spans;
pub mod stored;
mod syscalls;
mod table;

pub use arch::Arch;
pub use compile::{Filter, MAX_INSTRUCTIONS, NewerCalls, SockFilter, compile, compile_with};
pub use error::SeccompError;
pub use key::Key;
pub use profile::{Action, Architecture, Argument, Flag, Operator, Profile, Syscall};
pub use simulate::{BadProgram, Run, SeccompData, run, simulate};
pub use syscalls::{syscall_name, syscall_number};

/// Values that a filter returns: an action in the upper 16 bits, its data (errno, trace message) in the lower.
/// See seccomp(2).
pub mod ret {
    pub const KILL_PROCESS: u32 = 0x8000_0000;
    pub const KILL_THREAD: u32 = 0x0000_0000;
    pub const TRAP: u32 = 0x0003_0000;
    pub const ERRNO: u32 = 0x0005_0000;
    pub const USER_NOTIF: u32 = 0x7fc0_0000;
    pub const TRACE: u32 = 0x7ff0_0000;
    pub const LOG: u32 = 0x7ffc_0000;
    pub const ALLOW: u32 = 0x7fff_0000;
}

/// Error numbers that profiles use, the same on every architecture compiled here.
pub(crate) mod errno {
    pub const EPERM: u32 = 1;
    pub const EINVAL: u32 = 22;
    pub const ENOSYS: u32 = 38;
    pub const EAFNOSUPPORT: u32 = 97;
}
