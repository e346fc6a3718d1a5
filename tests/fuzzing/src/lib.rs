//! What the fuzz targets have in common.

#![forbid(unsafe_code)]

/// Shared with the compiler's own tests.
#[path = "../../../runtime/seccomp/tests/common/reading.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod reading;
pub mod seccomp;
