//! A run: the directory in the store where one action's writes go.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use super::LayerStore;
use super::error::StoreError;
use crate::fsat;
use crate::locked_dir::{self, LockedDir};

/// `runs/<id>` with `upper` (0755) and `work` (0700), both empty. While the run lives it holds the directory's lock;
/// dropped without [`Run::remove`] it is left to the next [`LayerStore::sweep`].
#[derive(Debug)]
pub struct Run {
    dir: LockedDir,
    upper: OwnedFd,
    work: OwnedFd,
    path: PathBuf,
}

/// What [`LayerStore::sweep`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Directories of dead actions.
    pub runs: usize,
    /// Directories of half-written files.
    pub scratch: usize,
}

impl LayerStore {
    /// Makes the directory of a new action.
    pub fn new_run(&self) -> Result<Run, StoreError> {
        let fail = || StoreError::io("make a run in", self.path.join("runs"));
        let dir = LockedDir::create(&self.runs).map_err(fail())?;
        let made = make_parts(&dir).map_err(fail());
        match made {
            Ok((upper, work)) => {
                let path = self.path.join("runs").join(dir.id());
                Ok(Run { dir, upper, work, path })
            }
            Err(error) => {
                // The first error counts; what stays is swept.
                let _ = dir.remove();
                Err(error)
            }
        }
    }

    /// Removes what dead processes left: runs without a `keep` marker, half-written files. Files whose owner this
    /// process cannot act as (subordinate ids outside of their user namespace) are an error of the first such file.
    pub fn sweep(&self) -> Result<Swept, StoreError> {
        let runs = locked_dir::sweep(&self.runs).map_err(StoreError::io("sweep", self.path.join("runs")))?;
        let scratch = locked_dir::sweep(&self.tmp).map_err(StoreError::io("sweep", self.path.join("tmp")))?;
        Ok(Swept { runs, scratch })
    }
}

impl Run {
    pub fn id(&self) -> &str {
        self.dir.id()
    }

    /// Where the run lies, for messages: the place to look for an upper that was kept.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.dir().as_fd()
    }

    pub fn upper(&self) -> BorrowedFd<'_> {
        self.upper.as_fd()
    }

    pub fn work(&self) -> BorrowedFd<'_> {
        self.work.as_fd()
    }

    /// The upper survives this process and every sweep.
    pub fn keep(&self) -> Result<(), StoreError> {
        self.dir.keep().map_err(StoreError::io("keep", &self.path))
    }

    /// Removes the run with all that was written.
    pub fn remove(self) -> Result<(), StoreError> {
        let Run { dir, path, .. } = self;
        dir.remove().map_err(StoreError::io("remove", &path))
    }
}

fn make_parts(dir: &LockedDir) -> io::Result<(OwnedFd, OwnedFd)> {
    fsat::make_dir(dir.dir(), "upper", 0o755)?;
    let upper = fsat::open_dir(dir.dir(), "upper")?;
    // The root of the action: its mode must not depend on the caller's umask.
    rustix::fs::fchmod(&upper, rustix::fs::Mode::from_raw_mode(0o755))?;
    fsat::make_dir(dir.dir(), "work", 0o700)?;
    Ok((upper, fsat::open_dir(dir.dir(), "work")?))
}
