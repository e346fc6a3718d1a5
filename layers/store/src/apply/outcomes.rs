//! What is noted of each path: the step that is taken there, or why none is.

use std::path::{Path, PathBuf};

use super::decide::{Decider, joined};
use super::look::Found;
use super::plan::{Item, Outcome, Sort};
use super::snapshot::Snapshot;
use super::step::{Act, Step};
use super::why::Why;
use crate::base::Place;

impl Decider<'_> {
    /// One for the path and all below it.
    pub(super) fn step(&mut self, at: usize, place: &Path, found: &Found, act: Act, old: Snapshot) {
        let outcome = self.new_step(at, found, act, old);
        match outcome {
            Outcome::Conflict(why) => self.refuse_all(at, why),
            outcome => {
                self.note(at, Some(place.to_owned()), outcome.clone());
                self.note_below(at, |_| outcome.clone());
            }
        }
    }

    pub(super) fn new_step(&mut self, at: usize, found: &Found, act: Act, old: Snapshot) -> Outcome {
        let path = self.sights[at].path;
        let parent = &found.parent;
        let taken = (parent.dev, parent.ino, found.name.clone());
        if let Some(other) = self.taken.get(&taken) {
            return Outcome::Conflict(Why::SameFile { path: other.clone() });
        }
        self.taken.insert(taken, path.to_owned());
        let number = match self.parents.get(&parent.path) {
            Some(number) => *number,
            None => {
                self.done.parents.push(parent.clone());
                self.parents.insert(parent.path.clone(), self.done.parents.len() - 1);
                self.done.parents.len() - 1
            }
        };
        let name = found.name.clone().into();
        let (path, slot, new) = (path.to_owned(), self.done.steps.len(), Snapshot::default());
        self.done.steps.push(Step { path, parent: number, name, slot, act, old, new, wanted: None });
        Outcome::Done(self.done.steps.len() - 1)
    }

    pub(super) fn note(&mut self, at: usize, host: Option<PathBuf>, outcome: Outcome) {
        if let Some(change) = self.sights[at].sort() {
            self.item(at, change, host, outcome);
        }
    }

    pub(super) fn item(&mut self, at: usize, change: Sort, host: Option<PathBuf>, outcome: Outcome) {
        let sight = &self.sights[at];
        let (path, is_directory) = (sight.path.to_owned(), sight.is_directory());
        self.items.push(Item { path, change, is_directory, host, outcome });
    }

    /// Of a directory that stays one nothing is told but by itself.
    pub(super) fn note_below(&mut self, at: usize, outcome: impl Fn(usize) -> Outcome) {
        let (top, host) = (self.sights[at].path, self.items.last().and_then(|item| item.host.clone()));
        for below in at + 1..self.sights[at].end {
            let path = self.sights[below].path.strip_prefix(top).unwrap_or(Path::new(""));
            let host = host.as_ref().map(|host| joined(host, path));
            self.note(below, host, outcome(below));
        }
    }

    pub(super) fn note_all(&mut self, at: usize, outcome: impl Fn(usize) -> Outcome) {
        self.note(at, None, outcome(at));
        self.note_below(at, outcome);
    }

    pub(super) fn refuse_all(&mut self, at: usize, why: Why) {
        let host = match self.sights[at].was.map(|was| &was.place) {
            Some(Place::Host { path, .. }) if self.options.to.is_none() => Some(path.clone()),
            _ => None,
        };
        // A directory that stays as it was may hide what was in it.
        let change = self.sights[at].sort().unwrap_or(Sort::Modified);
        self.item(at, change, host, Outcome::Conflict(why));
        let around = self.sights[at].path.to_owned();
        self.note_below(at, |_| Outcome::Conflict(Why::Around { path: around.clone() }));
    }
}
