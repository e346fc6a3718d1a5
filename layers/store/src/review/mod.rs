//! A review: what a captured layer changes, shown with the contents before and after, and chosen from.
//!
//! [`Review::new`] pairs each change with what it was a change of; [`Patch`] writes the text, for people or for `git apply`;
//! [`Hunks`] and [`half_chosen`] make of a choice of hunks a layer that holds them alone; [`ThreeWay`] sets a proposed change
//! beside what somebody else has made of the file meanwhile.

mod before;
mod binary_patch;
mod hunks;
mod notes;
mod patch;
mod pick;
mod quote;
mod renames;
mod side;
mod stat;
mod text;
mod three_way;

use std::io;
use std::path::Path;

use thiserror::Error;

use crate::base::{Base, Seen, SeenKind};
use crate::changes::{Change, changes};
use crate::manifest::{Entry, Kind, Manifest};
use crate::order;
use crate::store::{LayerStore, StoreError};

pub use before::{Before, host_path, is_as_seen, on_host};
pub use binary_patch::git_hash;
pub use hunks::{Chosen, Hunks, Selection, half_chosen};
pub use patch::{Form, Patch};
pub use pick::{Desk, pick};
pub use quote::{is_unseen, quoted};
pub use side::{Content, MOST_BYTES, MOST_LINES, Side, Unknown, after};
pub use stat::{Stat, stat};
pub use text::{Hunk, Part, Sign, TextDiff};
pub use three_way::{ThreeWay, Verdict};

/// Where lines go, without their newline. It may fail as whatever it writes to.
pub type Out<'a> = dyn FnMut(LineKind, &[u8]) -> io::Result<()> + 'a;

/// By which a line is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineKind {
    Header,
    /// What is said in words.
    Note,
    Hunk,
    Same,
    Added,
    Removed,
}

#[derive(Debug, Error)]
pub enum ReviewError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Of a pipe that nobody reads any more, too.
    #[error("cannot write the differences")]
    Write(#[from] io::Error),
}

#[derive(Debug)]
pub struct Review<'a> {
    store: &'a LayerStore,
    layer: &'a Manifest,
    base: &'a Base,
    before: Before<'a>,
    /// In the order of manifests.
    pub items: Vec<Item<'a>>,
}

/// A change as it is shown.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    pub change: Change<'a>,
    /// The removed file that an added one was. It is no item of its own.
    pub from: Option<Renamed<'a>>,
    /// A directory of which all there is to say is said by what lies below it.
    pub is_implied: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Renamed<'a> {
    pub was: &'a Seen,
    /// Of its content, in percent.
    pub similarity: u8,
}

impl<'a> Review<'a> {
    /// Of those changes of `layer` that `is_wanted`, told their path. `renames`: removed files are looked for among the added ones.
    ///
    /// Errors: a blob that has to be read for that is missing or damaged.
    pub fn new(
        store: &'a LayerStore,
        layer: &'a Manifest,
        base: &'a Base,
        is_wanted: impl Fn(&Path) -> bool,
        renames: bool,
    ) -> Result<Review<'a>, StoreError> {
        let mut changes = changes(layer, base);
        changes.retain(|change| is_wanted(change.path()));
        let mut review = Review {
            store,
            layer,
            base,
            before: Before::new(store, base),
            items: Vec::with_capacity(changes.len()),
        };
        for (index, change) in changes.iter().enumerate() {
            let next = changes.get(index + 1).map(Change::path);
            let is_implied = next.is_some_and(|next| order::is_below(next, change.path()))
                && (review.is_plain_new_directory(change) || is_removed_directory(change));
            review.items.push(Item { change: *change, from: None, is_implied });
        }
        if renames {
            review.find_renames()?;
        }
        Ok(review)
    }

    /// What is told one by one.
    pub fn told(&self) -> impl Iterator<Item = &Item<'a>> {
        self.items.iter().filter(|item| !item.is_implied)
    }

    /// What the command saw, with its content.
    pub fn before(&self, item: &Item<'a>) -> Side {
        item.was().map_or(Side::Absent, |was| self.before.side(was))
    }

    /// What it left. Errors: a blob that is missing or damaged.
    pub fn after(&self, item: &Item<'a>) -> Result<Side, StoreError> {
        item.change.is().map_or(Ok(Side::Absent), |is| after(self.store, self.layer, is))
    }

    pub fn base(&self) -> &'a Base {
        self.base
    }

    /// Of the directory that the path is in; uid and gid.
    fn owner_above(&self, path: &Path) -> (u32, u32) {
        let parent = path.parent().unwrap_or(path);
        let found = self.layer.entries.binary_search_by(|entry| order::compare(&entry.path, parent));
        found.map_or((0, 0), |index| (self.layer.entries[index].meta.uid, self.layer.entries[index].meta.gid))
    }

    fn is_plain_new_directory(&self, change: &Change<'_>) -> bool {
        let Change::Added(Entry { kind: Kind::Directory { .. }, meta, path }) = change else { return false };
        meta.mode == 0o755 && meta.xattrs.is_empty() && (meta.uid, meta.gid) == self.owner_above(path)
    }
}

impl<'a> Item<'a> {
    /// What the command saw of it, under whatever name.
    pub fn was(&self) -> Option<&'a Seen> {
        self.from.map(|from| from.was).or(self.change.was())
    }
}

fn is_removed_directory(change: &Change<'_>) -> bool {
    matches!(change, Change::Removed(was) if was.kind == SeenKind::Directory)
}
