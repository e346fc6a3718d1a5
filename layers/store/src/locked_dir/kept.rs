//! Locked directories that were kept: they have outlived their owners, until somebody takes them over.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::{KEEP, LOCK, LockedDir, PARENT_LOCK, is_owned, lock, lock_if_there, lock_to_look};
use crate::digest::Digest;
use crate::fsat;

/// What `keep` is while the directory is not kept.
const RESERVE: &str = "reserve";
/// Bytes of a record for which there is always room.
const ROOM: usize = 4096;

/// What a mark outlives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasting {
    Processes,
    PowerFailures,
}

/// One that is kept, seen by somebody who does not own it.
#[derive(Debug)]
pub struct KeptDir {
    pub dir: OwnedFd,
    /// Seconds since the epoch.
    pub since: i64,
    /// `None` for one that is not whole, or of another owner.
    pub record: Option<Vec<u8>>,
    /// It has an owner.
    pub is_busy: bool,
}

#[derive(Debug)]
pub enum Claimed {
    Ours { dir: LockedDir, record: Option<Vec<u8>> },
    Busy,
    NotKept,
}

impl LockedDir {
    /// Takes room for a record, so that there is some when the disk is full.
    pub fn reserve(&self) -> io::Result<()> {
        let file = fsat::create(&self.dir, RESERVE, 0o600)?;
        File::from(file).write_all_at(&padded(Vec::new()), 0)
    }

    /// From now on a sweep leaves the directory alone, also after its owner's death. The first of the `records` is
    /// written that there is room for; without room for any of them the directory is kept all the same. One that is kept
    /// already gets another record. What lies in it is not synced, see [`LockedDir::sync`].
    ///
    /// A file that had another record before has that again after a power failure, unless `lasting` says otherwise: each is
    /// sealed with the directory's id.
    pub fn keep(&self, records: &[Vec<u8>], lasting: Lasting) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let (file, is_kept) = match rustix::fs::openat(&self.dir, KEEP, flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                let mode = Mode::from_raw_mode(0o600);
                (rustix::fs::openat(&self.dir, RESERVE, flags | OFlags::CREATE, mode)?, false)
            }
            opened => (opened?, true),
        };
        let file = File::from(file);
        if !records.iter().any(|record| write_whole(&file, &padded(sealed(&self.id, record))).is_ok()) {
            file.set_len(0)?;
        }
        if lasting == Lasting::PowerFailures {
            rustix::fs::fdatasync(&file)?;
        }
        if !is_kept {
            rustix::fs::renameat(&self.dir, RESERVE, &self.dir, KEEP)?;
        }
        if lasting == Lasting::PowerFailures {
            rustix::fs::fsync(&self.dir)?;
        }
        Ok(())
    }

    /// Puts on disk what lies in the directory, with all else on its file system.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.dir)?)
    }

    /// A sweep may remove the directory once its owner is dead. The room for a record stays, the record goes: a command line
    /// is nothing to leave behind. What is removed from a directory that was kept for good must not be missed after a power failure,
    /// so that this has to be as lasting.
    pub fn unkeep(&self, lasting: Lasting) -> io::Result<()> {
        rustix::fs::renameat(&self.dir, KEEP, &self.dir, RESERVE)?;
        if lasting == Lasting::PowerFailures {
            rustix::fs::fsync(&self.dir)?;
        }
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = File::from(rustix::fs::openat(&self.dir, RESERVE, flags, Mode::empty())?);
        write_whole(&file, &padded(Vec::new()))
    }

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
        let _guard = lock_to_look(&parent)?;
        let dir = match fsat::open_dir(&parent, id) {
            Err(Errno::NOENT) => return Ok(None),
            other => other?,
        };
        let Some((since, record)) = read_mark(&dir, id)? else { return Ok(None) };
        let locked = lock_if_there(&dir, LOCK, FlockOperation::NonBlockingLockExclusive);
        let is_busy = matches!(locked, Err(Errno::WOULDBLOCK));
        Ok(Some(KeptDir { dir, since, record, is_busy }))
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
        // Its owner may have been done with it just before it let go of the lock.
        let Some((_, record)) = read_mark(&dir, id)? else { return Ok(Claimed::NotKept) };
        let parent = parent.as_fd().try_clone_to_owned()?;
        Ok(Claimed::Ours { dir: LockedDir { parent, id: id.to_owned(), dir, lock: own }, record })
    }
}

/// When the directory was kept, in seconds since the epoch, and its record; `None` if it is not kept. Its owner may end that
/// at any time.
fn read_mark(dir: &OwnedFd, id: &str) -> io::Result<Option<(i64, Option<Vec<u8>>)>> {
    let mut file = match fsat::open_quietly(dir, KEEP) {
        Err(Errno::NOENT) => return Ok(None),
        opened => File::from(opened?),
    };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(Some((rustix::fs::fstat(&file)?.st_mtime, unsealed(id, &bytes))))
}

/// Makes `content` all that is in the file, in place.
fn write_whole(file: &File, content: &[u8]) -> io::Result<()> {
    file.write_all_at(content, 0)?;
    let length = content.len() as u64;
    if file.metadata()?.len() == length { Ok(()) } else { file.set_len(length) }
}

/// A record of the directory `id`: a line that says so, and the record.
fn sealed(id: &str, record: &[u8]) -> Vec<u8> {
    let record = record.trim_ascii_end();
    [format!("{}\n", seal(id, record)).as_bytes(), record].concat()
}

/// `None` if it is another directory's record, or not whole.
fn unsealed(id: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let record = bytes[end + 1..].trim_ascii_end();
    (bytes[..end] == *seal(id, record).as_bytes()).then(|| record.to_vec())
}

fn seal(id: &str, record: &[u8]) -> String {
    Digest::of(&[id.as_bytes(), b"\n", record].concat()).to_string()
}

/// As much as there is room for at least: a record takes the place of another one whole, and gives back no room.
fn padded(mut record: Vec<u8>) -> Vec<u8> {
    record.resize(record.len().max(ROOM), b' ');
    record
}
