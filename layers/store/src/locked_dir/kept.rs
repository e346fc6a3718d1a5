//! Locked directories that were kept: they have outlived their owners, until somebody takes them over.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::{KEEP, LOCK, LockedDir, PARENT_LOCK, is_owned, lock};
use crate::fsat;

/// One that is kept, seen by somebody who does not own it.
#[derive(Debug)]
pub struct KeptDir {
    pub dir: OwnedFd,
    /// Seconds since the epoch.
    pub since: i64,
    pub record: Vec<u8>,
    /// It has an owner.
    pub is_busy: bool,
}

#[derive(Debug)]
pub enum Claimed {
    Ours { dir: LockedDir, record: Vec<u8> },
    Busy,
    NotKept,
}

impl LockedDir {
    /// The directories of `parent` that are kept.
    pub fn kept(parent: impl AsFd) -> io::Result<Vec<String>> {
        let names = fsat::names(&parent)?.into_iter().filter_map(|name| name.into_string().ok());
        let is_kept = |name: &String| {
            is_owned(name)
                && fsat::open_dir(&parent, name).is_ok_and(|dir| matches!(fsat::stat(dir, KEEP), Ok(Some(_))))
        };
        Ok(names.filter(is_kept).collect())
    }

    /// What there is to know about one that is kept, if it is.
    pub fn look(parent: impl AsFd, id: &str) -> io::Result<Option<KeptDir>> {
        let dir = match fsat::open_dir(&parent, id) {
            Err(Errno::NOENT) => return Ok(None),
            other => other?,
        };
        let Some(stat) = fsat::stat(&dir, KEEP)? else { return Ok(None) };
        let record = fsat::read(&dir, KEEP)?;
        let is_busy =
            matches!(lock(&dir, LOCK, FlockOperation::NonBlockingLockExclusive), Err(Errno::WOULDBLOCK));
        Ok(Some(KeptDir { dir, since: stat.st_mtime, record, is_busy }))
    }

    /// Takes one that is kept over from its dead owner.
    pub fn claim(parent: impl AsFd, id: &str) -> io::Result<Claimed> {
        let _guard = lock(&parent, PARENT_LOCK, FlockOperation::LockExclusive)?;
        if !is_owned(id) {
            return Ok(Claimed::NotKept);
        }
        let dir = match fsat::open_dir(&parent, id) {
            Err(Errno::NOENT) => return Ok(Claimed::NotKept),
            other => other?,
        };
        if fsat::stat(&dir, KEEP)?.is_none() {
            return Ok(Claimed::NotKept);
        }
        let own = match lock(&dir, LOCK, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Ok(Claimed::Busy),
            other => other?,
        };
        let record = fsat::read(&dir, KEEP)?;
        let parent = parent.as_fd().try_clone_to_owned()?;
        Ok(Claimed::Ours { dir: LockedDir { parent, id: id.to_owned(), dir, lock: own }, record })
    }
}
