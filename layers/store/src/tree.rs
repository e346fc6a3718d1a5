//! A tree: a manifest with an index, for looking names up and listing directories.

use std::ops::Range;
use std::path::Path;

use crate::manifest::{Entry, Manifest};
use crate::order;

/// Built once per layer; never changes. An entry's position in the manifest may serve as its number.
#[derive(Clone, Debug)]
pub struct Tree {
    entries: Vec<Entry>,
    /// For each entry, the position after the last entry below it.
    ends: Vec<usize>,
}

impl Tree {
    /// `manifest` comes from [`Manifest::parse`] or [`Manifest::from_entries`]; in one that is not sorted, names are
    /// not found.
    pub fn new(manifest: Manifest) -> Tree {
        let entries = manifest.entries;
        let mut ends = vec![entries.len(); entries.len()];
        let mut open: Vec<usize> = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            while let Some(dir) = open.pop_if(|dir| !order::is_below(&entry.path, &entries[*dir].path)) {
                ends[dir] = index;
            }
            open.push(index);
        }
        Tree { entries, ends }
    }

    /// The entry at `path` (relative, no trailing slash; empty for the root directory). O(log n).
    pub fn get(&self, path: &Path) -> Option<&Entry> {
        self.position(path).map(|index| &self.entries[index])
    }

    /// Where `path` stands in [`Tree::entries`].
    pub fn position(&self, path: &Path) -> Option<usize> {
        self.entries.binary_search_by(|entry| order::compare(&entry.path, path)).ok()
    }

    /// The names directly in `dir`, in order; none when `dir` is missing or no directory. O(log n) for the first, O(1)
    /// for each further one.
    pub fn children(&self, dir: &Path) -> impl Iterator<Item = &Entry> {
        self.walk(self.below(dir)).map(|index| &self.entries[index])
    }

    /// As [`Tree::children`], for the directory at position `dir`, as positions.
    pub fn children_of(&self, dir: usize) -> impl Iterator<Item = usize> {
        self.walk(dir + 1..self.ends[dir])
    }

    /// The positions of everything below `dir`, `dir` itself excluded.
    pub fn below(&self, dir: &Path) -> Range<usize> {
        match self.position(dir) {
            Some(index) => index + 1..self.ends[index],
            // A manifest may leave the root directory out.
            None if dir.as_os_str().is_empty() => 0..self.entries.len(),
            None => 0..0,
        }
    }

    /// All entries in the order of the manifest.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn walk(&self, range: Range<usize>) -> impl Iterator<Item = usize> {
        let mut next = range.start;
        std::iter::from_fn(move || {
            let index = (next < range.end).then_some(next)?;
            next = self.ends[index];
            Some(index)
        })
    }
}

impl From<Manifest> for Tree {
    fn from(manifest: Manifest) -> Tree {
        Tree::new(manifest)
    }
}
