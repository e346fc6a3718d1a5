//! A choice: some of a layer's changes, as a layer of their own with the same base.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::base::{Base, Seen, SeenKind};
use crate::manifest::{Entry, Kind, Manifest, ManifestError, Meta};
use crate::order;

/// What of `layer` lies at `paths` (in the root, with or without a `/` before) and below them, with its parents as the command
/// saw them. A file of which the first name is not chosen is a file under its next one. What `base` has besides is no change of
/// this layer, which neither whiteouts it nor has something else in its place.
///
/// Errors: none, so long as `layer` is one.
pub fn choose(layer: &Manifest, base: &Base, paths: &[PathBuf]) -> Result<Manifest, ManifestError> {
    let wanted = paths.iter().map(|path| path.strip_prefix("/").unwrap_or(path)).collect();
    let mut choice = Choice { layer, base, wanted, entries: BTreeMap::new(), first_names: BTreeMap::new() };
    for entry in &layer.entries {
        if choice.has(&entry.path) {
            choice.take(entry);
        }
    }
    for seen in &base.seen {
        if choice.has(&seen.path) && choice.is_gone_with_another(&seen.path) {
            choice.remove(&seen.path);
        }
    }
    Manifest::from_entries(choice.entries.into_values().collect())
}

struct Choice<'a> {
    layer: &'a Manifest,
    base: &'a Base,
    wanted: BTreeSet<&'a Path>,
    entries: BTreeMap<PathBuf, Entry>,
    /// Of files whose own name is not chosen.
    first_names: BTreeMap<&'a Path, PathBuf>,
}

impl<'a> Choice<'a> {
    fn has(&self, path: &Path) -> bool {
        path.ancestors().any(|path| self.wanted.contains(path))
    }

    fn take(&mut self, entry: &'a Entry) {
        self.add_way_to(&entry.path);
        let mut taken = entry.clone();
        if let Kind::HardLink { to } = &entry.kind
            && !self.has(to)
        {
            taken.kind = match self.first_names.get(to.as_path()) {
                Some(first) => Kind::HardLink { to: first.clone() },
                None => {
                    self.first_names.insert(to, entry.path.clone());
                    self.layer.file(entry).kind.clone()
                }
            };
        }
        self.entries.insert(entry.path.clone(), taken);
    }

    /// Whether the layer has nothing at the path that is not chosen itself, and hides what was there.
    fn is_gone_with_another(&self, path: &Path) -> bool {
        let mut above = path.ancestors().skip(1).filter_map(|above| self.entry(above));
        let is_hidden = above.any(|above| !matches!(above.kind, Kind::Directory { opaque: false }));
        let parent_goes = path.parent().is_some_and(|parent| self.has(parent));
        self.entry(path).is_none() && is_hidden && !parent_goes
    }

    fn remove(&mut self, path: &Path) {
        self.add_way_to(path);
        let entry = Entry { path: path.to_owned(), kind: Kind::Whiteout, meta: Meta::default() };
        self.entries.insert(path.to_owned(), entry);
    }

    fn add_way_to(&mut self, path: &Path) {
        for way in path.ancestors().skip(1) {
            if self.entries.contains_key(way) {
                return;
            }
            let found = (self.entry(way).cloned(), self.seen(way));
            let (meta, access) = match found {
                (entry, Some(seen)) => (entry.map(|entry| entry.meta).unwrap_or_default(), Some(seen.access)),
                (Some(entry), None) => (entry.meta, None),
                (None, None) => (Meta { mode: 0o755, ..Meta::default() }, None),
            };
            let access = access.map(|access| (access.mode, access.uid, access.gid));
            let (mode, uid, gid) = access.unwrap_or((meta.mode, meta.uid, meta.gid));
            let meta = Meta { mode, uid, gid, ..meta };
            let kind = Kind::Directory { opaque: false };
            self.entries.insert(way.to_owned(), Entry { path: way.to_owned(), kind, meta });
        }
    }

    fn entry(&self, path: &Path) -> Option<&'a Entry> {
        let found = self.layer.entries.binary_search_by(|entry| order::compare(&entry.path, path));
        found.ok().map(|at| &self.layer.entries[at])
    }

    fn seen(&self, path: &Path) -> Option<&'a Seen> {
        let found = self.base.seen.binary_search_by(|seen| order::compare(&seen.path, path)).ok()?;
        Some(&self.base.seen[found]).filter(|seen| seen.kind == SeenKind::Directory)
    }
}
