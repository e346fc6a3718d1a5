//! The end of an apply: what is done is cleaned up after, what is not is taken back. Both can be done again, by whoever comes after
//! a death.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Gid, Mode, Uid};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use super::journal::{Applies, Work};
use super::put_back::Place;
use super::snapshot::{Difference, Snapshot, Stays, is_mounted};
use super::step::{Act, Parent, Step};
use super::{ApplyError, Notes, refresh, stage, undo};
use crate::digest::Digest;
use crate::remove_tree::remove_tree;
use crate::store::{LayerStore, StoreError};
use crate::{escape, fsat};

impl LayerStore {
    /// Completes, or takes back, what an apply that was killed had begun, and returns what its user has to know. Nothing, if there
    /// is none, or one is at work. What cannot be settled now is told, and tried again at the next call.
    ///
    /// Errors: journals that cannot be read.
    pub fn settle_applies(&self) -> Result<Notes, ApplyError> {
        match Applies::lock_if_needed(self) {
            Ok(Some(applies)) => settle(&applies, self),
            Ok(None) | Err(ApplyError::Busy) => Ok(Notes::default()),
            Err(foreign @ ApplyError::Foreign { .. }) => Ok(Notes(vec![foreign.to_string()])),
            // Whoever may only look at the store is not the one who began it.
            Err(ApplyError::Io { source, .. }) if is_denied(&source) => Ok(Notes::default()),
            Err(error) => Err(error),
        }
    }
}

fn is_denied(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

pub(super) fn settle(applies: &Applies, store: &LayerStore) -> Result<Notes, ApplyError> {
    let failed = |attempt| ApplyError::io(attempt, store.path().join(super::DIRECTORY));
    let mut notes = Notes::default();
    let left = applies.left().map_err(failed("read"))?;
    let foreign = |id| ApplyError::Foreign { path: store.path().join(super::DIRECTORY).join(id) };
    notes.0.extend(left.others.into_iter().map(|id| foreign(id).to_string()));
    for (journal, work) in left.own {
        let settled = match work.done {
            Some(_) => finish(&work, store, &mut notes).map(drop),
            None => roll_back(&work, store, &mut notes),
        };
        match settled {
            Ok(()) => journal.remove().map_err(failed("end a journal in"))?,
            Err(error) => notes.0.push(format!(
                "an apply that was killed cannot be settled yet: {}; it is tried again",
                vfsrun_sys::chain(&error)
            )),
        }
    }
    Ok(notes)
}

/// Of what is done: all that went goes for good, directories get their permissions, and the way back its name, which is returned.
pub(super) fn finish(
    work: &Work,
    store: &LayerStore,
    notes: &mut Notes,
) -> Result<Option<Digest>, ApplyError> {
    let none = BTreeSet::new();
    let refused = work.done.as_ref().unwrap_or(&none);
    in_each_staging(work, &mut Vec::new(), |place, steps| {
        for (at, step) in steps.iter().copied() {
            let slot = step.slot();
            if refused.contains(&at) || step.act == Act::Add {
                drop_known(place, &[&step.new], step);
                continue;
            }
            match step.old.remove(place.staging, slot.as_ref()) {
                Ok(()) => {}
                Err(Stays { path, difference: Difference::Failed(errno), .. }) => {
                    let path = shown(&Path::new(&slot).join(path));
                    let staging = work.staging();
                    let what =
                        format!("what was there cannot be removed, and stays ({staging}{path}: {errno})");
                    place.tell(step, &what, notes);
                }
                // What is left of it is no more what had the name.
                Err(Stays { path, is_part: true, .. }) => {
                    let path = shown(&path);
                    let what = format!(
                        "{path} in what was there was changed while it was done away with: the rest is kept"
                    );
                    place.tell(step, &what, notes);
                    place.keep(step, notes)?;
                }
                // Somebody had it open, or was about to. What he wrote is newer.
                Err(_) => {
                    place.tell(step, "was saved while it was done away with: the save is put back", notes);
                    place.put_back(step, notes)?;
                    drop_known(place, &[&step.new], step);
                }
            }
        }
        leave(work, place, notes)
    })?;
    // Whoever loses a right to a directory below cannot open it any more.
    stage::sync_end(work)?;
    // What lies in a directory first: its own may be the way there.
    for (at, step) in work.steps.iter().enumerate().rev() {
        if let (Act::Access { .. }, false) = (step.act, refused.contains(&at)) {
            set_access(work, step, notes)?;
        }
    }
    match undo::name(work, store) {
        // Nothing held it while nobody was at work.
        Err(ApplyError::Store(StoreError::NoSuchLayer { .. })) => {
            notes.0.push("the way back is gone: somebody removed the layer of what went".to_owned());
            Ok(None)
        }
        named => named,
    }
}

/// Everything is as it was afterwards, but for what somebody else has changed.
pub(super) fn roll_back(work: &Work, store: &LayerStore, notes: &mut Notes) -> Result<(), ApplyError> {
    let mut moved = Vec::new();
    let began = now();
    in_each_staging(work, &mut moved, |place, steps| {
        // Before a first step was to be done all that is there was made there.
        if work.undo.is_none() {
            return remove_made(work, place);
        }
        for (_, step) in steps.iter().rev() {
            place.put_back(step, notes)?;
        }
        for (_, step) in steps {
            drop_known(place, &[&step.new, &step.old], step);
        }
        leave(work, place, notes)
    })?;
    notes.0.extend(moved);
    stage::sync_end(work)?;
    Ok(refresh::base(work, store, began)?)
}

/// No later than any ctime from here on: those are as coarse as this clock, or finer.
fn now() -> (i64, u32) {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    (now.tv_sec, now.tv_nsec as u32)
}

/// Calls `act` with each parent of which the staging directory is still there, and the steps in it; `moved` tells of those that are
/// somewhere else, where nothing has gone. Errors: the first, after all
/// others were tried.
fn in_each_staging(
    work: &Work,
    moved: &mut Vec<String>,
    mut act: impl FnMut(&Place<'_>, &[(usize, &Step)]) -> Result<(), Errno>,
) -> Result<(), ApplyError> {
    let mut steps: Vec<Vec<(usize, &Step)>> = vec![Vec::new(); work.parents.len()];
    for (at, step) in work.steps.iter().enumerate().filter(|(_, step)| step.is_staged()) {
        steps[step.parent].push((at, step));
    }
    let in_one = |(parent, steps): (&Parent, Vec<(usize, &Step)>)| {
        let failed = |attempt| ApplyError::io(attempt, parent.path.clone());
        let dir = match parent.open() {
            // Nothing of its own has gone from it yet.
            Err(errno) if Parent::is_gone(errno) && work.undo.is_none() => {
                moved.push(format!(
                    "{} is another directory by now: a {} may be left where it went",
                    parent.path.display(),
                    work.staging()
                ));
                return Ok(());
            }
            dir => dir.map_err(failed("open the directory"))?,
        };
        let staging = match parent.open_staging(&dir, &work.staging()) {
            Err(Errno::NOENT) => return Ok(()),
            // Nothing was put into it before it was written down which it is.
            Err(Errno::STALE) if parent.staging.is_none() => {
                return drop_empty(&dir, &work.staging()).map_err(failed("put in order"));
            }
            // Nothing of the host's has gone into it yet.
            Err(errno) if Parent::is_gone(errno) && work.undo.is_none() => {
                moved.push(format!(
                    "{}: not the directory that was made there, and stays; that one may be left where it went",
                    shown(&parent.path.join(work.staging()))
                ));
                return Ok(());
            }
            staging => staging.map_err(stage::not_opened(parent, &work.staging()))?,
        };
        let place = Place { dir: &dir, staging: &staging, path: &parent.path };
        act(&place, &steps).map_err(failed("put in order"))
    };
    // What lies deeper first: a directory above may go.
    let tried = work.parents.iter().zip(steps).rev().map(in_one);
    tried.fold(Ok(()), Result::and)
}

/// Removes what is one of these.
fn drop_known(place: &Place<'_>, known: &[&Snapshot], step: &Step) {
    for snapshot in known {
        if let Err(stays) = snapshot.remove(place.staging, step.slot().as_ref()) {
            tracing::debug!(?stays, "it is not what was made");
        }
    }
}

/// Of what was never to have its place yet.
fn remove_made(work: &Work, place: &Place<'_>) -> Result<(), Errno> {
    // By what is open: its name may lead to somebody else's by now.
    for name in fsat::names(place.staging)? {
        if is_mounted(place.staging.as_fd(), &name)? {
            return Err(Errno::BUSY);
        }
        remove_tree(place.staging.as_fd(), &name)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    }
    drop_empty(place.dir, &work.staging())
}

/// Removes a staging directory in which nothing is. One that is another by now stays, if it is not as empty.
fn drop_empty(dir: &OwnedFd, name: &str) -> Result<(), Errno> {
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
        removed => removed,
    }
}

/// Removes the staging directory, unless something is in it that nobody knows.
fn leave(work: &Work, place: &Place<'_>, notes: &mut Notes) -> Result<(), Errno> {
    match rustix::fs::unlinkat(place.dir, work.staging(), AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY | Errno::EXIST) => {
            let path = place.path.join(work.staging());
            notes.0.push(format!(
                "{}: something is in it that was put there meanwhile, and stays",
                shown(&path)
            ));
            Ok(())
        }
        Err(Errno::NOENT) => Ok(()),
        removed => removed,
    }
}

fn shown(path: &Path) -> String {
    escape::shown_path(path.strip_prefix("/").unwrap_or(path))
}

/// Of a directory that is still as it was.
fn set_access(work: &Work, step: &Step, notes: &mut Notes) -> Result<(), ApplyError> {
    let (Act::Access { was, is }, Some(top)) = (step.act, step.old.top()) else { return Ok(()) };
    let parent = &work.parents[step.parent];
    let place = parent.path.join(&step.name);
    let failed = |attempt| ApplyError::io(attempt, place.clone());
    let dir = parent.open().map_err(failed("open the directory of"))?;
    let stay = |what: &str, notes: &mut Notes| {
        notes.0.push(format!("{}: {what}", shown(&place)));
        Ok(())
    };
    let open: OwnedFd = match fsat::open_dir(&dir, step.name()) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return stay("is gone meanwhile", notes),
        Err(Errno::ACCESS) => return stay("may not be opened, and keeps its mode", notes),
        open => open.map_err(failed("open"))?,
    };
    let stat = rustix::fs::fstat(&open).map_err(failed("look at"))?;
    let now = (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid);
    let is_half_done = now == (was.mode, is.uid, is.gid) || now == (is.mode, is.uid, is.gid);
    let is_it = (stat.st_dev, stat.st_ino) == (top.is.dev, top.is.ino);
    if !is_it || now != (was.mode, was.uid, was.gid) && !is_half_done {
        return stay("was changed meanwhile, and keeps its mode and owner", notes);
    }
    if (was.uid, was.gid) != (is.uid, is.gid) {
        match rustix::fs::fchown(&open, Some(Uid::from_raw(is.uid)), Some(Gid::from_raw(is.gid))) {
            Err(Errno::PERM | Errno::INVAL) => {
                return stay("keeps its owner, which only root may set", notes);
            }
            set => set.map_err(failed("set the owner of"))?,
        }
    }
    match rustix::fs::fchmod(&open, Mode::from_raw_mode(is.mode)) {
        Err(Errno::PERM) => stay("keeps its mode, which only its owner may set", notes)?,
        set => set.map_err(failed("set the mode of"))?,
    }
    rustix::fs::fsync(&open).map_err(failed("sync"))
}
