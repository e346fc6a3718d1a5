//! A choice: of which changes a smaller layer is made, and of which hunks of a text.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::notes;
use super::text::{Hunk, TextDiff};
use crate::base::Base;
use crate::manifest::{Entry, Kind, Manifest};
use crate::order;
use crate::store::{LayerStore, StoreError};

/// What is chosen. A path that is not here is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    pub chosen: BTreeMap<PathBuf, Chosen>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chosen {
    Whole,
    /// Of a file that was there some of the hunks, with or without its new mode, owner and attributes.
    Half {
        content: Vec<u8>,
        access: bool,
    },
}

impl Selection {
    /// Whether something of the path is chosen, or all of a directory that it is in.
    pub fn has(&self, path: &Path) -> bool {
        path.ancestors().any(|path| self.chosen.contains_key(path))
    }

    /// Relative to the root. All that changed at or below one of them is meant.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.chosen.keys().map(PathBuf::as_path)
    }
}

/// The hunks of a text, to be chosen from.
#[derive(Debug)]
pub struct Hunks<'a> {
    diff: TextDiff<'a>,
    hunks: Vec<Hunk>,
}

impl<'a> Hunks<'a> {
    /// With `context` lines around each.
    pub fn new(before: &'a [u8], after: &'a [u8], context: usize) -> Hunks<'a> {
        let diff = TextDiff::new(before, after);
        let hunks = diff.hunks(context);
        Hunks { diff, hunks }
    }

    pub fn diff(&self) -> &TextDiff<'a> {
        &self.diff
    }

    pub fn hunks(&self) -> &[Hunk] {
        &self.hunks
    }

    /// Puts a hunk for each of its changes in the place of hunk `index`; returns how many they are.
    pub fn split(&mut self, index: usize) -> usize {
        let parts = self.hunks[index].split();
        let count = parts.len();
        self.hunks.splice(index..=index, parts);
        count
    }

    /// The text before, with the chosen hunks in it. `is_chosen` has a word on each hunk, in their order.
    pub fn chosen(&self, is_chosen: &[bool]) -> Vec<u8> {
        let chosen = self.hunks.iter().zip(is_chosen).filter(|(_, is_chosen)| **is_chosen);
        let starts: Vec<(usize, usize)> = chosen
            .flat_map(|(hunk, _)| hunk.parts())
            .filter(|part| !part.is_same)
            .map(|part| (part.old.start, part.new.start))
            .collect();
        let mut text = Vec::new();
        for part in self.diff.parts() {
            let is_new = !part.is_same && starts.binary_search(&(part.old.start, part.new.start)).is_ok();
            let lines = if is_new { &self.diff.new[part.new] } else { &self.diff.old[part.old] };
            lines.iter().for_each(|line| text.extend_from_slice(line));
        }
        text
    }

    /// Writes hunk `index` as a unified diff has it.
    pub fn write(&self, index: usize, out: &mut super::Out<'_>) -> std::io::Result<()> {
        let hunk = &self.hunks[index];
        super::patch::write_hunk(&self.diff, hunk, self.diff.heading(hunk, 0, None), out)
    }
}

/// `layer` with the halves of `selection` in the place of their files, whose contents are put into `store`. A name that was one more
/// of such a file keeps what it has. Which paths stay is not decided here.
///
/// The blobs are kept until a layer names them only while a [`LayerStore::adding`] is held.
pub fn half_chosen(
    store: &LayerStore,
    layer: &Manifest,
    base: &Base,
    selection: &Selection,
) -> Result<Manifest, StoreError> {
    let mut entries = layer.entries.clone();
    for (path, chosen) in &selection.chosen {
        let Chosen::Half { content, access } = chosen else { continue };
        let Some(index) = position(&entries, path) else { continue };
        let (digest, size) = store.put_blob(&content[..])?;
        part_from_links(&mut entries, index);
        let entry = &mut entries[index];
        entry.kind = Kind::File { digest, size };
        let seen = base.seen.binary_search_by(|seen| order::compare(&seen.path, path));
        if let (false, Ok(seen)) = (*access, seen) {
            let was = &base.seen[seen];
            (entry.meta.mode, entry.meta.uid, entry.meta.gid) =
                (was.access.mode, was.access.uid, was.access.gid);
            entry.meta.xattrs = notes::seen_attributes(Some(was)).unwrap_or_default();
        }
    }
    Manifest::from_entries(entries).map_err(|source| StoreError::InvalidLayer { source })
}

/// Makes the name at `index` a file of its own: if others are names of it, the first of them is the file from now on.
fn part_from_links(entries: &mut [Entry], index: usize) {
    let Entry { path, kind, .. } = entries[index].clone();
    let mut first: Option<PathBuf> = None;
    for entry in entries {
        if !matches!(&entry.kind, Kind::HardLink { to } if *to == path) {
            continue;
        }
        match &first {
            // It has the metadata of its file.
            None => {
                first = Some(entry.path.clone());
                entry.kind = kind.clone();
            }
            Some(first) => entry.kind = Kind::HardLink { to: first.clone() },
        }
    }
}

fn position(entries: &[Entry], path: &Path) -> Option<usize> {
    entries.binary_search_by(|entry| order::compare(&entry.path, path)).ok()
}
