//! Commands: one file each.

pub mod doctor;
pub mod layer;
pub mod new;
pub mod plan;
pub mod run;
pub mod spec;
pub mod trace;
pub mod view;
pub mod which;

use std::error::Error;

use vfsrun_sys::chain;

/// A command's failure, as it leaves the program.
pub struct Failure {
    pub message: String,
    pub code: u8,
}

impl Failure {
    /// With the exit code of a failure of our own.
    pub fn own(error: &dyn Error) -> Failure {
        Failure { message: chain(error), code: 125 }
    }
}

pub type Outcome = Result<u8, Failure>;
