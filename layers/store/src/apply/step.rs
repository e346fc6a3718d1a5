//! A step: what is done at one name of the host, a file or a whole tree.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::look::Wanted;
use super::snapshot::Snapshot;
use crate::base::{Access, escaped};
use crate::fsat;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Step {
    /// In the root of the action.
    #[serde(rename = "p", with = "escaped")]
    pub path: PathBuf,
    /// Which of the parents.
    pub parent: usize,
    #[serde(with = "escaped")]
    pub name: PathBuf,
    /// Its name in the parent's staging directory.
    pub slot: usize,
    #[serde(rename = "do")]
    pub act: Act,
    /// What is to be there before; nothing for what is new.
    pub old: Snapshot,
    /// What is there afterwards, once it is staged.
    pub new: Snapshot,
    /// Of what takes the place of something; otherwise as the layer has it.
    #[serde(skip)]
    pub wanted: Option<Wanted>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Act {
    Add,
    Exchange,
    Remove,
    /// Of a directory that stays: its permissions and its owner, as the host has them.
    Access {
        was: Access,
        is: Access,
    },
}

impl Step {
    pub fn name(&self) -> &OsStr {
        self.name.as_os_str()
    }

    pub fn slot(&self) -> String {
        self.slot.to_string()
    }

    /// Whether something is in the staging directory, before or afterwards.
    pub fn is_staged(&self) -> bool {
        !matches!(self.act, Act::Access { .. })
    }
}

/// A directory of the host in which something is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Parent {
    #[serde(with = "escaped")]
    pub path: PathBuf,
    pub dev: u64,
    pub ino: u64,
    /// Device and inode of its staging directory, once that is made. The journal has them in a record of their own.
    #[serde(skip)]
    pub staging: Option<(u64, u64)>,
}

impl Parent {
    /// Opens the directory at `path` without following a symlink.
    pub fn find(path: &Path) -> Result<(Parent, OwnedFd), Errno> {
        let root = fsat::open_dir(rustix::fs::CWD, "/")?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let dir = vfsrun_sys::beneath::open(root, path.strip_prefix("/").unwrap_or(path), flags)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        let stat = rustix::fs::fstat(&dir)?;
        Ok((Parent { path: path.to_owned(), dev: stat.st_dev, ino: stat.st_ino, staging: None }, dir))
    }

    /// Opens it again. Errors: ESTALE if another directory is there by now.
    pub fn open(&self) -> Result<OwnedFd, Errno> {
        let (found, dir) = Parent::find(&self.path)?;
        if (found.dev, found.ino) == (self.dev, self.ino) { Ok(dir) } else { Err(Errno::STALE) }
    }

    /// Opens the staging directory `name` in it. Errors: ESTALE if it is not the one that was made: whoever owns the parent can
    /// rename another directory to its name.
    pub fn open_staging(&self, dir: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
        let staging = fsat::open_dir(dir, name)?;
        let stat = rustix::fs::fstat(&staging)?;
        if self.staging == Some((stat.st_dev, stat.st_ino)) { Ok(staging) } else { Err(Errno::STALE) }
    }

    /// Whether it is not where it was any more, or another one is.
    pub fn is_gone(errno: Errno) -> bool {
        matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE)
    }
}
