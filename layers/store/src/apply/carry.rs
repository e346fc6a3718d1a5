//! Carrying out a plan.

use std::collections::BTreeSet;

use super::commit::{self, Refused};
use super::journal::{Applies, Journal, Record, Work};
use super::plan::{Item, Outcome, Plan, refuse_step};
use super::stage::{self, Syncing};
use super::undo::{self, Stored};
use super::{ApplyError, Notes, finish};
use crate::digest::Digest;
use crate::store::Writer;

/// What became of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// All paths that the layer changes, in the order of manifests. If nothing was done because all or nothing was wanted, they are
    /// those that could not be.
    pub items: Vec<Item>,
    /// What takes it back, by the name [`super::UNDO`]; `None` if nothing was done.
    pub undo: Option<Digest>,
    pub notes: Notes,
}

impl Applied {
    pub fn conflicts(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(|item| matches!(item.outcome, Outcome::Conflict(_)))
    }

    /// How many paths are as they are to be now, and were not before.
    pub fn applied(&self) -> usize {
        self.items.iter().filter(|item| matches!(item.outcome, Outcome::Done(_))).count()
    }

    pub fn already(&self) -> usize {
        self.items.iter().filter(|item| item.outcome == Outcome::Already).count()
    }
}

impl Plan<'_> {
    /// Does it. `progress` is told of steps, each of which is told twice, by several threads.
    ///
    /// Errors: another apply is at work; what keeps all of it from being done, a full disk, a damaged blob: nothing was done then.
    pub fn apply(mut self, progress: &(dyn Fn(usize) + Sync)) -> Result<Applied, ApplyError> {
        let mut notes = Notes::default();
        if self.steps.is_empty() || self.is_hindered() {
            return Ok(self.ended(None, notes));
        }
        let applies = Applies::lock(self.store)?;
        notes.0.extend(finish::settle(&applies, self.store)?.0);
        let writer = self.store.writer()?;
        let begun = applies.begin(self.options.name.as_deref(), &self.parents);
        let mut journal = begun.map_err(ApplyError::io("begin a journal in", self.store.path()))?;
        let (id, parents, ways) = (journal.id().to_owned(), self.parents.clone(), self.ways.clone());
        let name = self.options.name.clone();
        let mut work = Work { id, name, parents, ways, ..Work::default() };
        let done = self.carry_out(&mut work, &mut journal, &writer, progress, &mut notes);
        let undo = match done {
            Ok(true) => match finish::finish(&work, self.store, &mut notes) {
                Ok(undo) => undo,
                Err(error) => {
                    let why = vfsrun_sys::chain(&error);
                    notes.0.push(format!(
                        "it is applied, but not cleaned up after ({why}): the next apply tries it again"
                    ));
                    return Ok(self.ended(None, notes));
                }
            },
            not_done => {
                let back = finish::roll_back(&work, self.store, &mut notes);
                if let Err(source) = not_done {
                    let (source, notes) = (Box::new(source), with(notes, &back));
                    if back.is_ok() {
                        journal.remove().map_err(ApplyError::io("end a journal in", self.store.path()))?;
                    }
                    return Err(ApplyError::Failed { source, notes });
                }
                back.map(|()| None)?
            }
        };
        journal.remove().map_err(ApplyError::io("end a journal in", self.store.path()))?;
        Ok(self.ended(undo, notes))
    }

    /// Whether nothing is to be done, as not all can be.
    fn is_hindered(&self) -> bool {
        self.options.whole && self.conflicts().next().is_some()
    }

    /// Returns whether it is done. If it is not, what is done is to be taken back.
    fn carry_out(
        &mut self,
        work: &mut Work,
        journal: &mut Journal,
        writer: &Writer<'_>,
        progress: &(dyn Fn(usize) + Sync),
        notes: &mut Notes,
    ) -> Result<bool, ApplyError> {
        let undo = loop {
            match undo::store(self, writer)? {
                Stored::Layer(undo) => break undo,
                Stored::Refused(refused) => self.refuse(refused),
            }
            self.drop_refused_steps();
        };
        if self.is_hindered() || self.steps.is_empty() {
            return Ok(false);
        }
        let syncing = Syncing::of(self);
        stage::make_directories(self, work, journal)?;
        let refused = stage::make_new(self, work, syncing, progress)?;
        self.refuse(refused);
        self.drop_refused_steps();
        if self.is_hindered() || self.steps.is_empty() {
            return Ok(false);
        }
        work.steps = self.steps.clone();
        stage::sync(work, syncing)?;
        let mut records: Vec<Record> = work.ways.iter().cloned().map(Record::Way).collect();
        records.extend(work.steps.iter().cloned().map(Record::Step));
        records.push(Record::Committing { undo: undo.to_string() });
        // From here on a death may find names renamed.
        work.undo = Some(undo);
        journal.write(&records).map_err(ApplyError::io("write a journal in", self.store.path()))?;
        let mut refused = commit::commit(work, progress, notes)?;
        if self.options.whole && !refused.is_empty() {
            self.leave(work, refused);
            return Ok(false);
        }
        stage::sync(work, syncing)?;
        commit::look_again(work, &mut refused, notes)?;
        if self.options.whole && !refused.is_empty() {
            self.leave(work, refused);
            return Ok(false);
        }
        let positions: BTreeSet<usize> = refused.keys().copied().collect();
        self.leave(work, refused);
        let done = Record::Done { refused: positions.clone() };
        journal.write(&[done]).map_err(ApplyError::io("write a journal in", self.store.path()))?;
        work.done = Some(positions);
        Ok(true)
    }

    fn leave(&mut self, work: &Work, refused: Refused) {
        for (at, why) in refused {
            refuse_step(&mut self.items, &work.steps[at].path, at, &why);
        }
    }

    fn ended(self, undo: Option<Digest>, notes: Notes) -> Applied {
        Applied { items: self.items, undo, notes }
    }
}

/// With why not all could be taken back.
fn with(mut notes: Notes, back: &Result<(), ApplyError>) -> Notes {
    if let Err(error) = back {
        let why = vfsrun_sys::chain(error);
        notes.0.push(format!("not all could be taken back yet ({why}): the next apply tries it again"));
    }
    notes
}
