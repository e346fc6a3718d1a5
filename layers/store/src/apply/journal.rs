//! A journal: what an apply is about to do, written down before it does it, so that whoever comes after its death can complete it
//! or take it back.
//!
//! ```text
//! applies/lock      held by the one that is at work
//! applies/<id>      a line for each record: 16 digits of the BLAKE3 of the rest of the line, a space, JSON
//! ```
//!
//! begin, parents -> staging directories -> which they are -> ways, steps, committing -> renames -> done -> clean-up -> no file.
//! A line that is not whole, and all after it, was never written.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FileType, FlockOperation, Stat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::ApplyError;
use super::step::{Parent, Step};
use crate::base::Seen;
use crate::digest::Digest;
use crate::locked_dir;
use crate::store::LayerStore;
use crate::{escape, fsat};

pub const DIRECTORY: &str = "applies";
const LOCK: &str = "lock";
const VERSION: u64 = 1;
/// Of the digest of a line.
const DIGITS: usize = 16;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Record {
    Begin {
        version: u64,
        /// Of the layer that is applied.
        name: Option<String>,
    },
    Parent(Parent),
    /// Which directory was made in a parent. Nothing is put into it before.
    Staging {
        parent: usize,
        dev: u64,
        ino: u64,
    },
    Way(Seen),
    Step(Step),
    /// From now on names may be renamed. All that goes is in this layer.
    Committing {
        undo: String,
    },
    /// All is done but for these steps, which are taken back.
    Done {
        refused: BTreeSet<usize>,
    },
}

/// What a journal says.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub id: String,
    /// Of the layer that is applied.
    pub name: Option<String>,
    pub parents: Vec<Parent>,
    pub ways: Vec<Seen>,
    pub steps: Vec<Step>,
    /// The layer of all that goes; something may have gone if there is one.
    pub undo: Option<Digest>,
    /// Positions of steps that are no more; `Some` once all is done.
    pub done: Option<BTreeSet<usize>>,
}

impl Work {
    /// Of the directories in which things wait for their place.
    pub fn staging(&self) -> String {
        format!(".vfsrun-apply-{}", self.id)
    }
}

/// Held by the one apply that is at work in a store.
pub(super) struct Applies {
    dir: OwnedFd,
    _lock: OwnedFd,
}

pub(super) struct Journal {
    dir: OwnedFd,
    id: String,
    file: File,
}

/// What others left.
#[derive(Default)]
pub(super) struct Left {
    pub own: Vec<(Journal, Work)>,
    pub others: Vec<String>,
}

impl Applies {
    /// Errors: another one is at work.
    pub fn lock(store: &LayerStore) -> Result<Applies, ApplyError> {
        let failed = |attempt| ApplyError::io(attempt, store.path().join(DIRECTORY));
        if fsat::stat(store.as_fd(), DIRECTORY).map_err(failed("look at"))?.is_none() {
            fsat::make_dir(store.as_fd(), DIRECTORY, 0o700).map_err(failed("make"))?;
            rustix::fs::fsync(store.as_fd()).map_err(failed("sync"))?;
        }
        let dir = fsat::open_dir(store.as_fd(), DIRECTORY).map_err(failed("open"))?;
        match locked_dir::lock(&dir, LOCK, FlockOperation::NonBlockingLockExclusive) {
            Ok(lock) => Ok(Applies { dir, _lock: lock }),
            Err(Errno::WOULDBLOCK) => Err(ApplyError::Busy),
            Err(errno) => Err(failed("lock")(errno)),
        }
    }

    /// `None` if nothing was ever applied, or is to be settled. Errors: as of [`Applies::lock`]; others may write there.
    pub fn lock_if_needed(store: &LayerStore) -> Result<Option<Applies>, ApplyError> {
        let failed = |attempt| ApplyError::io(attempt, store.path().join(DIRECTORY));
        let dir = match fsat::open_dir(store.as_fd(), DIRECTORY) {
            Err(Errno::NOENT | Errno::ACCESS) => return Ok(None),
            dir => dir.map_err(failed("open"))?,
        };
        let names = fsat::names(&dir).map_err(failed("list"))?;
        if names.iter().all(|name| name == LOCK) {
            return Ok(None);
        }
        match is_own(&rustix::fs::fstat(&dir).map_err(failed("look at"))?) {
            true => Applies::lock(store).map(Some),
            false => Err(ApplyError::Foreign { path: store.path().join(DIRECTORY) }),
        }
    }

    /// Those that ended before their time, the oldest first, and the names of those that are somebody else's.
    pub fn left(&self) -> io::Result<Left> {
        let mut left = Left::default();
        let is_own_dir = is_own(&rustix::fs::fstat(&self.dir)?);
        for name in fsat::names(&self.dir)? {
            let Some(id) = name.to_str().filter(|name| *name != LOCK) else { continue };
            // Before it is opened: one of somebody else's may be a fifo, or not to be read.
            let is_own_file =
                || Ok(fsat::stat(&self.dir, id)?.is_some_and(|stat| is_own(&stat) && is_file(&stat)));
            if !is_own_dir || !is_own_file().map_err(|errno: Errno| io::Error::from(errno))? {
                left.others.push(id.to_owned());
                continue;
            }
            let bytes = fsat::read(&self.dir, id)?;
            let flags =
                rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
            let file = rustix::fs::openat(&self.dir, id, flags, rustix::fs::Mode::empty())?;
            let (dir, work) = (self.dir.try_clone()?, parse(id, &bytes)?);
            left.own.push((Journal { dir, id: id.to_owned(), file: file.into() }, work));
        }
        Ok(left)
    }

    pub fn begin(&self, name: Option<&str>, parents: &[Parent]) -> io::Result<Journal> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut number = now.as_nanos() as u64;
        let (id, file) = loop {
            let id = format!("{number:016x}");
            match fsat::create(&self.dir, &id, 0o600) {
                Err(Errno::EXIST) => number = number.wrapping_add(1),
                file => break (id, file?),
            }
        };
        let mut journal = Journal { dir: self.dir.try_clone()?, id, file: file.into() };
        let mut records = vec![Record::Begin { version: VERSION, name: name.map(str::to_owned) }];
        records.extend(parents.iter().cloned().map(Record::Parent));
        journal.write(&records)?;
        rustix::fs::fsync(&self.dir)?;
        Ok(journal)
    }
}

impl Journal {
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The records are on the disk then.
    pub fn write(&mut self, records: &[Record]) -> io::Result<()> {
        let mut text = String::new();
        for record in records {
            let line = serde_json::to_string(record).map_err(io::Error::from)?;
            text.push_str(&seal(&line));
            text.push(' ');
            text.push_str(&line);
            text.push('\n');
        }
        let before = self.file.metadata()?.len();
        let written = self.file.write_all(text.as_bytes());
        let synced = written.and_then(|()| Ok(rustix::fs::fdatasync(self.file.as_fd())?));
        // Who reads it must not find what was not to be believed.
        synced.inspect_err(|_| drop(self.file.set_len(before)))
    }

    /// There is nothing to be settled any more.
    pub fn remove(self) -> io::Result<()> {
        fsat::unlink(&self.dir, &self.id)?;
        Ok(rustix::fs::fsync(&self.dir)?)
    }
}

/// What a journal says is done with the rights of whoever reads it: nobody else may have written it.
fn is_own(stat: &Stat) -> bool {
    stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_mode & 0o022 == 0
}

fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

/// Whether it leads nowhere but into the directories that the journal names.
fn is_sound(step: &Step, parents: usize) -> bool {
    let is_normal = |path: &Path| path.components().all(|part| matches!(part, Component::Normal(_)));
    let mut nodes = step.old.nodes.iter().chain(&step.new.nodes);
    step.parent < parents
        && step.name.components().count() == 1
        && step.name.file_name() == Some(step.name())
        && nodes.all(|node| is_normal(&node.path))
}

fn seal(line: &str) -> String {
    Digest::of(line.as_bytes()).hex()[..DIGITS].to_owned()
}

fn parse(id: &str, bytes: &[u8]) -> io::Result<Work> {
    let mut work = Work { id: id.to_owned(), ..Work::default() };
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let whole = line.strip_suffix(b"\n").and_then(|line| str::from_utf8(line).ok());
        let Some((digits, line)) = whole.and_then(|line| line.split_once(' ')) else { break };
        if digits != seal(line) {
            break;
        }
        match serde_json::from_str(line)? {
            Record::Begin { version: VERSION, name } => work.name = name,
            Record::Begin { version, .. } => {
                let newer = format!("a journal of version {version}: use a newer vfsrun");
                return Err(io::Error::new(io::ErrorKind::Unsupported, newer));
            }
            Record::Parent(parent) => work.parents.push(parent),
            Record::Staging { parent, dev, ino } => {
                let parent = work.parents.get_mut(parent).ok_or(io::ErrorKind::InvalidData)?;
                parent.staging = Some((dev, ino));
            }
            Record::Way(way) => work.ways.push(way),
            Record::Step(step) if is_sound(&step, work.parents.len()) => work.steps.push(step),
            Record::Step(step) => {
                let wrong = format!("a journal with a step at {}", escape::shown_path(&step.path));
                return Err(io::Error::new(io::ErrorKind::InvalidData, wrong));
            }
            Record::Committing { undo } => {
                let undo = undo.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
                work.undo = Some(undo);
            }
            Record::Done { refused } => work.done = Some(refused),
        }
    }
    Ok(work)
}
