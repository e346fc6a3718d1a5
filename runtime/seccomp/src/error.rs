//! A refused profile: what in it cannot be compiled, by field.

use crate::{Arch, BadProgram};

/// Why a profile was not turned into a filter. Fields are named as in the profile's JSON, `syscalls[3].errnoRet`.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    #[error("seccomp profile: bad value at {field}")]
    Parse {
        field: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("seccomp profile: {field} is {value}, must be at most {limit}")]
    TooLarge { field: String, value: u64, limit: u64 },
    #[error(
        "seccomp profile: {second} gives {syscall} on {arch:?} another action than {first} for the same arguments"
    )]
    Conflict { syscall: u32, arch: Arch, first: String, second: String },
    #[error("seccomp profile compiles to {instructions} instructions, the kernel takes at most {limit}")]
    TooLong { instructions: usize, limit: usize },
    #[error("compiled seccomp program is not one the kernel would load")]
    Unloadable(#[source] BadProgram),
}
