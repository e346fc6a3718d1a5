//! A fault: something a segment could not serve as its description promised. Faults do not stop a run by
//! themselves; the caller reports them and refuses to cache what the run produced.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Relative to the root of the segment.
    pub path: PathBuf,
    pub reason: FaultReason,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultReason {
    /// The host file an input manifest names cannot be opened as a regular file.
    InputUnusable { file: PathBuf, cause: String },
    /// The blob an input manifest or layer names is not in the store, or no longer holds what its name says.
    BlobUnusable { digest: String, cause: String },
    /// `types: error` and two branches disagree about what the name is.
    TypeConflict { first: String, second: String },
    /// `policy: error` and two branches have a file of this name.
    SeveralFiles { first: String, second: String },
    /// A branch that is declared an overlay's upper has only a part of the file, or has the directory from elsewhere.
    OnlyAPart,
    /// More names than a listing may have.
    TooManyNames { most: usize },
    /// More names in use than the server may remember.
    TooManyNodes { most: usize },
    /// What has it did not answer in time.
    NoAnswer { branch: String, within: Duration },
    /// The name meant one thing when it was served and another afterwards, so that somebody got an error.
    Changed,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.reason {
            FaultReason::InputUnusable { file, cause } => {
                write!(f, "/{path}: cannot use the input file {}: {cause}", file.display())
            }
            FaultReason::BlobUnusable { digest, cause } => {
                write!(f, "/{path}: cannot use blob {digest}: {cause}")
            }
            FaultReason::TypeConflict { first, second } => {
                write!(f, "/{path}: branches {first} and {second} disagree about its type")
            }
            FaultReason::SeveralFiles { first, second } => {
                write!(f, "/{path}: branches {first} and {second} both have it")
            }
            FaultReason::OnlyAPart => {
                write!(
                    f,
                    "/{path}: overlayfs has left the rest of it in a lower directory (metacopy or redirect)"
                )
            }
            FaultReason::TooManyNames { most } => write!(f, "/{path}: it has more than {most} names"),
            FaultReason::TooManyNodes { most } => {
                write!(f, "/{path}: more than {most} names are in use at once")
            }
            FaultReason::NoAnswer { branch, within } => {
                write!(f, "/{path}: {branch} did not answer within {} s", within.as_secs_f64())
            }
            FaultReason::Changed => write!(f, "/{path}: changed while it was served"),
        }
    }
}
