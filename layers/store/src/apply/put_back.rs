//! Putting back: what came out of a name goes to it again. Whatever somebody put there meanwhile is newer than that, and stays.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::Notes;
use super::snapshot::{Since, Snapshot};
use super::step::{Act, Step};
use crate::base::SeenKind;
use crate::{escape, fsat};

/// Somebody who saves without end must not keep us here without end.
const TRIES: usize = 1000;

/// A directory of the host, and the one in it in which things wait.
pub(super) struct Place<'a> {
    pub dir: &'a OwnedFd,
    pub staging: &'a OwnedFd,
    pub path: &'a Path,
}

impl Place<'_> {
    /// Whatever a step has done, and whatever became of it since. Can be done again.
    pub fn put_back(&self, step: &Step, notes: &mut Notes) -> Result<(), Errno> {
        match step.act {
            Act::Add => self.take_away(step, notes),
            Act::Exchange => self.exchange_back(step, notes),
            Act::Remove => self.bring_back(step, notes),
            // Done when all else is, and never taken back.
            Act::Access { .. } => Ok(()),
        }
    }

    fn take_away(&self, step: &Step, notes: &mut Notes) -> Result<(), Errno> {
        if !step.new.is_at(self.dir, step.name())? {
            return Ok(());
        }
        let is_ours = |dir: &OwnedFd, name: &OsStr| step.new.check(dir, name, Since::Renames).is_ok();
        if is_ours(self.dir, step.name()) {
            self.rename(self.dir, step.name(), self.staging, step.slot().as_ref())?;
            if is_ours(self.staging, step.slot().as_ref()) {
                return Ok(());
            }
            match self.rename(self.staging, step.slot().as_ref(), self.dir, step.name()) {
                Err(Errno::EXIST) => return self.keep(step, notes),
                renamed => renamed?,
            }
        }
        self.tell(step, "was changed since it was made here, and stays", notes);
        Ok(())
    }

    fn bring_back(&self, step: &Step, notes: &mut Notes) -> Result<(), Errno> {
        if fsat::stat(self.staging, step.slot())?.is_none() {
            return Ok(());
        }
        match self.rename(self.staging, step.slot().as_ref(), self.dir, step.name()) {
            Err(Errno::EXIST) => self.keep(step, notes),
            renamed => renamed,
        }
    }

    fn exchange_back(&self, step: &Step, notes: &mut Notes) -> Result<(), Errno> {
        let slot = step.slot();
        if fsat::stat(self.staging, &slot)?.is_none() || step.new.is_at(self.staging, &slot)? {
            // It never happened, or is taken back.
            return Ok(());
        }
        let is_untouched = step.new.check(self.dir, step.name(), Since::Renames).is_ok();
        if (is_untouched || fsat::stat(self.dir, step.name())?.is_none()) && self.swap(step)? {
            return Ok(());
        }
        // Somebody has changed what was put there, or put something else there.
        if step.new.is_at(self.dir, step.name())? {
            self.tell(step, "was changed since it was put here, and stays", notes);
            return self.keep(step, notes);
        }
        // What he replaced is what was put there, and before that he had this: unless it was saved by another since.
        let is_file = step.old.top().is_some_and(|top| top.kind != SeenKind::Directory);
        let is_old = || step.old.check(self.staging, slot.as_ref(), Since::Renames).is_ok();
        if is_file && is_old() { fsat::unlink(self.staging, &slot) } else { self.keep(step, notes) }
    }

    /// Until what comes out is what was believed to be there. Returns whether that is what the step had put there.
    fn swap(&self, step: &Step) -> Result<bool, Errno> {
        let slot = step.slot();
        let mut believed = step.new.clone();
        for turn in 0..TRIES {
            let Some(stat) = fsat::stat(self.staging, &slot)? else { return Ok(true) };
            let goes = Snapshot::of_one(&stat);
            let exchange = RenameFlags::EXCHANGE;
            match rustix::fs::renameat_with(self.staging, &slot, self.dir, step.name(), exchange) {
                Ok(()) => {}
                Err(Errno::NOENT) => match self.rename(self.staging, slot.as_ref(), self.dir, step.name()) {
                    Err(Errno::EXIST) => continue,
                    renamed => return renamed.map(|()| true),
                },
                Err(errno) => return Err(errno),
            }
            let is_believed = match turn {
                0 => believed.check(self.staging, slot.as_ref(), Since::Renames).is_ok(),
                _ => believed.is_at(self.staging, &slot)?,
            };
            if is_believed {
                return Ok(turn % 2 == 0);
            }
            believed = goes;
        }
        Err(Errno::BUSY)
    }

    /// What has no place any more gets a name beside it.
    pub fn keep(&self, step: &Step, notes: &mut Notes) -> Result<(), Errno> {
        for number in 1.. {
            let mut name = OsString::from(step.name());
            name.push(format!(".vfsrun-kept-{number}"));
            match self.rename(self.staging, step.slot().as_ref(), self.dir, &name) {
                Err(Errno::EXIST) => {}
                // A name that would be too long.
                Err(Errno::NAMETOOLONG) => {
                    let short = format!("vfsrun-kept-{}-{number}", step.slot);
                    let kept = self.rename(self.staging, step.slot().as_ref(), self.dir, short.as_ref());
                    self.tell(step, &format!("what was there is kept as {short}"), notes);
                    return kept;
                }
                renamed => {
                    renamed?;
                    let shown = escape::shown_path(name.as_ref());
                    self.tell(
                        step,
                        &format!("what was there is kept beside it as {}", shown.trim_start_matches('/')),
                        notes,
                    );
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn rename(&self, from: &OwnedFd, name: &OsStr, to: &OwnedFd, new: &OsStr) -> Result<(), Errno> {
        rustix::fs::renameat_with(from, name, to.as_fd(), new, RenameFlags::NOREPLACE)
    }

    pub fn tell(&self, step: &Step, what: &str, notes: &mut Notes) {
        let place = self.path.join(&step.name);
        let shown = escape::shown_path(place.strip_prefix("/").unwrap_or(&place));
        notes.0.push(format!("{shown}: {what}"));
    }
}
