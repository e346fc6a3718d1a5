//! Staging: everything that is new is made beside its places, and what goes is put into the store. Nothing that was there is
//! touched.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use rustix::fs::{Mode, RenameFlags};
use rustix::io::Errno;

use super::ApplyError;
use super::journal::{Journal, Record, Work};
use super::look::Look;
use super::make::{Fault, Link, Making};
use super::plan::{Outcome, Plan};
use super::snapshot::{Snapshot, open_below};
use super::step::{Act, Parent, Step};
use super::why::Why;
use crate::remove_tree::remove_tree;
use crate::{fsat, order};

/// Steps of one directory that one thread takes at a time.
const BATCH: usize = 64;
/// Most names that are synced one by one; see `store::unsynced`.
const SYNC_EACH: usize = 64;

/// Makes the staging directories, and writes down which they are. Their parents are in the journal.
pub(super) fn make_directories(
    plan: &Plan<'_>,
    work: &mut Work,
    journal: &mut Journal,
) -> Result<(), ApplyError> {
    let name = work.staging();
    let staged = plan.steps.iter().filter(|step| step.is_staged());
    let used: BTreeSet<usize> = staged.map(|step| step.parent).collect();
    let (mut made, mut records): (Vec<(u64, OwnedFd, usize)>, _) = (Vec::new(), Vec::new());
    for number in used {
        let parent = &mut work.parents[number];
        let staging = make_directory(parent, &name)?;
        let stat = rustix::fs::fstat(&staging).map_err(ApplyError::io("look into", parent.path.clone()))?;
        parent.staging = Some((stat.st_dev, stat.st_ino));
        records.push(Record::Staging { parent: number, dev: stat.st_dev, ino: stat.st_ino });
        if !made.iter().any(|(dev, ..)| *dev == parent.dev) {
            made.push((parent.dev, staging, number));
        }
    }
    journal.write(&records).map_err(ApplyError::io("write a journal in", plan.store.path()))?;
    made.iter().try_for_each(|(_, staging, number)| probe(staging, &work.parents[*number].path))
}

fn make_directory(parent: &Parent, name: &str) -> Result<OwnedFd, ApplyError> {
    let failed = |attempt| ApplyError::io(attempt, parent.path.clone());
    let dir = parent.open().map_err(failed("open the directory"))?;
    let made = rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o700));
    made.map_err(failed("make a directory in"))?;
    let staging = fsat::open_dir(&dir, name).map_err(failed("open what was made in"))?;
    // Whoever owns the parent may have renamed another one to its name.
    let stat = rustix::fs::fstat(&staging).map_err(failed("look into"))?;
    let is_ours = stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_dev == parent.dev;
    if !is_ours || !fsat::names(&staging).map_err(failed("list what was made in"))?.is_empty() {
        return Err(ApplyError::Swapped { path: parent.path.join(name) });
    }
    // What is made in it must not get rights from the parent.
    for attribute in ["system.posix_acl_default", "system.posix_acl_access"] {
        match rustix::fs::fremovexattr(&staging, attribute) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(failed("set the rights of what was made in")(errno)),
        }
    }
    rustix::fs::fchmod(&staging, Mode::from_raw_mode(0o700)).map_err(failed("set a mode in"))?;
    Ok(staging)
}

/// Whether names can be exchanged, and given only where there is none, before that is counted on.
fn probe(staging: &OwnedFd, place: &Path) -> Result<(), ApplyError> {
    let failed = |attempt| ApplyError::io(attempt, place);
    for name in ["a", "b"] {
        drop(fsat::create(staging, name, 0o600).map_err(failed("make a file in"))?);
    }
    let rename = |how| rustix::fs::renameat_with(staging, "a", staging, "b", how);
    let (exchange, replace) = (rename(RenameFlags::EXCHANGE), rename(RenameFlags::NOREPLACE));
    for name in ["a", "b"] {
        fsat::unlink(staging, name).map_err(failed("remove a file from"))?;
    }
    match (exchange, replace) {
        (Ok(()), Err(Errno::EXIST)) => Ok(()),
        (Err(errno), _) if !matches!(errno, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            Err(failed("exchange two names in")(errno))
        }
        _ => Err(ApplyError::NoExchange { path: place.to_owned() }),
    }
}

/// Makes all that is new, beside its places. Returns the steps that are not possible.
pub(super) fn make_new(
    plan: &mut Plan<'_>,
    work: &Work,
    syncing: Syncing,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Vec<(usize, Why)>, ApplyError> {
    let staging = work.staging();
    let numbered: Vec<(usize, &Step)> =
        plan.steps.iter().enumerate().filter(|(_, step)| step.is_staged()).collect();
    let batches: Vec<_> =
        numbered.chunk_by(|a, b| a.1.parent == b.1.parent).flat_map(|group| group.chunks(BATCH)).collect();
    let plan_now = &*plan;
    let make = |batch: &&[(usize, &Step)]| {
        let dir = open_staging(&work.parents[batch[0].1.parent], &staging)?;
        let made = batch.iter().map(|(number, step)| {
            progress(1);
            make_one(plan_now, step, &dir, syncing).map(|made| (*number, made))
        });
        made.collect::<Result<Vec<_>, ApplyError>>()
    };
    let made: Result<Vec<Vec<_>>, ApplyError> = match batches.len() {
        0 | 1 => batches.iter().map(make).collect(),
        _ => batches.par_iter().map(make).collect(),
    };
    let (mut refused, mut linked) = (Vec::new(), Vec::new());
    for (number, made) in made?.into_iter().flatten() {
        match made {
            Made::Whole(new) => plan.steps[number].new = new,
            Made::Linked => linked.push(number),
            Made::Refused(why) => refused.push((number, why)),
        }
    }
    for number in linked {
        match make_linked(plan, number, work, syncing, &refused) {
            Ok(new) => plan.steps[number].new = new,
            Err(Fault::Refused(why)) => refused.push((number, why)),
            Err(Fault::Failed(error)) => return Err(error),
        }
    }
    for (number, _) in &refused {
        let step = &plan.steps[*number];
        let dir = open_staging(&work.parents[step.parent], &staging)?;
        remove_tree(dir.as_fd(), step.slot().as_ref())
            .map_err(ApplyError::io("remove what was made in", plan.parents[step.parent].path.clone()))?;
    }
    Ok(refused)
}

enum Made {
    Whole(Snapshot),
    /// It has names of files that other steps make: it is made when those are.
    Linked,
    Refused(Why),
}

fn make_one(plan: &Plan<'_>, step: &Step, dir: &OwnedFd, syncing: Syncing) -> Result<Made, ApplyError> {
    if !matches!(step.act, Act::Add | Act::Exchange) {
        return Ok(Made::Whole(Snapshot::default()));
    }
    let mut making = Making::new(plan, step, dir, syncing);
    if making.has_links_to_others() {
        return Ok(Made::Linked);
    }
    match making.begin().and_then(|()| making.end()) {
        Ok(new) => Ok(Made::Whole(new)),
        Err(Fault::Refused(why)) => Ok(Made::Refused(why)),
        Err(Fault::Failed(error)) => Err(error),
    }
}

/// What a name leads to stands before it in the manifest, so that it is made by now.
fn make_linked(
    plan: &Plan<'_>,
    number: usize,
    work: &Work,
    syncing: Syncing,
    refused: &[(usize, Why)],
) -> Result<Snapshot, Fault> {
    let (step, staging) = (&plan.steps[number], &work.staging());
    let dir = open_staging(&work.parents[step.parent], staging)?;
    let mut making = Making::new(plan, step, &dir, syncing);
    making.begin()?;
    for Link { entry, to } in std::mem::take(&mut making.links) {
        let refuse = || Fault::Refused(Why::LinkOf { path: to.to_owned() });
        let found = plan.items.binary_search_by(|item| order::compare(&item.path, to));
        let first = &plan.items[found.map_err(|_| refuse())?];
        let (old, name) = match (&first.outcome, &first.host) {
            (Outcome::Done(other), _) if !refused.iter().any(|(number, _)| number == other) => {
                let other = &plan.steps[*other];
                let dir = open_staging(&work.parents[other.parent], staging)?;
                let path = Path::new(&other.slot()).join(to.strip_prefix(&other.path).unwrap_or(to));
                split(dir, &path).map_err(ApplyError::io("open what was made for", to))?
            }
            (Outcome::Already, Some(host)) => {
                let found = Look::default().at(host).map_err(Fault::Refused)?;
                let dir = found.dir.try_clone().map_err(ApplyError::io("open the directory of", host))?;
                (dir, found.name.into())
            }
            _ => return Err(refuse()),
        };
        making.link(&old, name.as_os_str(), entry)?;
    }
    making.end()
}

/// The directory that `path` is in, and its name there.
fn split(dir: OwnedFd, path: &Path) -> Result<(OwnedFd, PathBuf), Errno> {
    let path: PathBuf = path.components().collect();
    let name = path.file_name().ok_or(Errno::INVAL)?.into();
    match path.parent() {
        Some(above) if !above.as_os_str().is_empty() => Ok((open_below(&dir, above)?, name)),
        _ => Ok((dir, name)),
    }
}

pub(super) fn open_staging(parent: &Parent, name: &str) -> Result<OwnedFd, ApplyError> {
    let dir = parent.open().map_err(ApplyError::io("open the directory", parent.path.clone()))?;
    parent.open_staging(&dir, name).map_err(not_opened(parent, name))
}

pub(super) fn not_opened(parent: &Parent, name: &str) -> impl FnOnce(Errno) -> ApplyError {
    move |errno| match errno {
        Errno::STALE => ApplyError::Swapped { path: parent.path.join(name) },
        errno => ApplyError::io("open what was made in", parent.path.clone())(errno),
    }
}

/// Puts on the disk what was made and not synced one by one, and after renames the directories in which they were.
pub(super) fn sync(work: &Work, syncing: Syncing) -> Result<(), ApplyError> {
    let used: BTreeSet<usize> = work.steps.iter().map(|step| step.parent).collect();
    let mut synced = BTreeSet::new();
    for parent in used.into_iter().map(|parent| &work.parents[parent]) {
        let failed = || ApplyError::io("sync", parent.path.clone());
        let dir = parent.open().map_err(failed())?;
        if syncing == Syncing::Whole {
            if synced.insert(parent.dev) {
                rustix::fs::syncfs(&dir).map_err(failed())?;
            }
            continue;
        }
        match parent.open_staging(&dir, &work.staging()) {
            Err(Errno::NOENT) => {}
            staging => rustix::fs::fsync(staging.map_err(failed())?).map_err(failed())?,
        }
        rustix::fs::fsync(&dir).map_err(failed())?;
    }
    Ok(())
}

/// Puts on the disk that what was staged is gone, and what had a name has it again, before the journal of it goes. A directory that
/// is not where it was has nothing to be settled.
pub(super) fn sync_end(work: &Work) -> Result<(), ApplyError> {
    let mut synced = BTreeSet::new();
    for parent in &work.parents {
        let failed = || ApplyError::io("sync", parent.path.clone());
        let dir = match parent.open() {
            Err(errno) if Parent::is_gone(errno) => continue,
            dir => dir.map_err(failed())?,
        };
        if work.parents.len() <= SYNC_EACH {
            rustix::fs::fsync(&dir).map_err(failed())?;
        } else if synced.insert(parent.dev) {
            rustix::fs::syncfs(&dir).map_err(failed())?;
        }
    }
    Ok(())
}

/// How what is made comes to be on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Syncing {
    /// File by file, so that nobody waits for what others wrote.
    Each,
    /// The whole file system at once.
    Whole,
}

impl Syncing {
    pub fn of(plan: &Plan<'_>) -> Syncing {
        let names = plan.items.iter().filter(|item| matches!(item.outcome, Outcome::Done(_))).count();
        if names > SYNC_EACH { Syncing::Whole } else { Syncing::Each }
    }
}
