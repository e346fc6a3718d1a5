//! Why a path is left alone.

use std::path::{Path, PathBuf};

use rustix::io::Errno;
use thiserror::Error;

use super::snapshot::Difference;
use crate::escape;

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Why {
    #[error("it has changed since the command saw it")]
    Changed,
    #[error("it changed while the command ran")]
    ChangedMeanwhile,
    #[error("it is gone since the command saw it")]
    Gone,
    #[error("what the command saw there is gone, and nobody knows what it was")]
    Lost,
    #[error("something is there that the command did not see")]
    Exists,
    #[error("it is open for writing: end the process that has it open")]
    Written,
    #[error("a file system is mounted there")]
    Mounted,
    #[error("it comes from {branch}, which is no directory of the host")]
    Fixed { branch: String },
    #[error("its directory is not the one that the command saw: {}", path.display())]
    Directory { path: PathBuf },
    #[error("{}, which is in it: {why}", escape::shown_path(path))]
    Within { path: PathBuf, why: Box<Why> },
    #[error("{} is left alone, in which it is", escape::shown_path(path))]
    Around { path: PathBuf },
    #[error("{} is left alone, of which it is another name", escape::shown_path(path))]
    LinkOf { path: PathBuf },
    #[error("it is another name of {}, which lies on another file system", escape::shown_path(path))]
    OtherFileSystem { path: PathBuf },
    #[error("it is the same file of the host as {}", escape::shown_path(path))]
    SameFile { path: PathBuf },
    #[error("it would belong to {uid}:{gid}, which only root may set")]
    Owner { uid: u32, gid: u32 },
    #[error("its attribute {name} cannot be set here")]
    Attribute { name: String },
    #[error("its mode would be {wanted:o} and came to be {found:o}: the group is none of yours")]
    Mode { wanted: u32, found: u32 },
    #[error("its content there cannot be compared, as nobody knows what the command saw")]
    NotKnown,
    #[error("cannot {attempt} it: {errno}")]
    Failed { attempt: &'static str, errno: Errno },
}

impl Why {
    pub(super) fn of(difference: Difference) -> Why {
        match difference {
            Difference::Gone => Why::Gone,
            Difference::Changed => Why::Changed,
            Difference::Unknown => Why::Exists,
            Difference::Mounted => Why::Mounted,
            Difference::Written => Why::Written,
            Difference::Failed(errno) => Why::Failed { attempt: "look at", errno },
        }
    }

    /// Of what is at `path` below `top`, which is left alone.
    pub(super) fn below(top: &Path, path: &Path, difference: Difference) -> Why {
        match path.as_os_str().is_empty() {
            true => Why::of(difference),
            false => Why::Within { path: top.join(path), why: Box::new(Why::of(difference)) },
        }
    }
}
