//! A rename: a file that was removed and one that was added with the same content, or most of it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::path::Path;

use rayon::prelude::*;

use super::side::{self, Content, Side};
use super::text::TextDiff;
use super::{Item, Renamed, Review};
use crate::base::{Identity, Place, Seen, SeenKind};
use crate::changes::{Change, open_host};
use crate::content;
use crate::digest::Digest;
use crate::manifest::{Entry, Kind};
use crate::store::StoreError;

/// With more removed or added files than this, files that are not quite equal are not looked for, as by git.
const MOST_COMPARED: usize = 1000;
/// Nor are they among files of more bytes than this: each removed one is compared with each added one.
const MOST_COMPARED_BYTES: u64 = 1 << 20;
/// Nor if comparing them all would take reading more bytes than this.
const MOST_WORK: u64 = 512 << 20;
/// In percent.
const LEAST_SIMILARITY: u8 = 50;

impl<'a> Review<'a> {
    /// Gives added files the removed ones that they were, which are no items any more.
    pub(super) fn find_renames(&mut self) -> Result<(), StoreError> {
        let mut gone = HashSet::new();
        self.find_equal(&mut gone);
        self.find_similar(&mut gone)?;
        self.items.retain(|item| !gone.contains(item.change.path()));
        Ok(())
    }

    fn find_equal(&mut self, gone: &mut HashSet<&'a Path>) {
        let mut added: HashMap<Digest, VecDeque<usize>> = HashMap::new();
        let mut named: HashMap<(Digest, Option<&OsStr>), VecDeque<usize>> = HashMap::new();
        let mut sizes = HashSet::new();
        for (index, item) in self.items.iter().enumerate() {
            // That an empty file is one of several others says nothing.
            if let Some((digest, size)) = self.added_file(item).filter(|(_, size)| *size > 0) {
                added.entry(digest).or_default().push_back(index);
                named.entry((digest, item.change.path().file_name())).or_default().push_back(index);
                sizes.insert(size);
            }
        }
        let removed: Vec<&'a Seen> = removed_files(&self.items).collect();
        let digests: Vec<_> = removed.par_iter().map(|was| seen_digest(was, &sizes)).collect();
        let removed: Vec<(&'a Seen, Digest)> =
            removed.into_iter().zip(digests).filter_map(|(was, digest)| Some((was, digest?))).collect();
        // A file that kept its name comes first.
        for &(was, digest) in &removed {
            let index = named.get_mut(&(digest, was.path.file_name())).and_then(VecDeque::pop_front);
            self.pair(was, index, 100, gone);
        }
        for (was, digest) in removed {
            if gone.contains(was.path.as_path()) {
                continue;
            }
            let Some(candidates) = added.get_mut(&digest) else { continue };
            let mut left = std::iter::from_fn(|| candidates.pop_front());
            let index = left.find(|index| self.items[*index].from.is_none());
            self.pair(was, index, 100, gone);
        }
    }

    fn pair(&mut self, was: &'a Seen, index: Option<usize>, similarity: u8, gone: &mut HashSet<&'a Path>) {
        if let Some(index) = index
            && self.items[index].from.is_none()
            && gone.insert(&was.path)
        {
            self.items[index].from = Some(Renamed { was, similarity });
        }
    }

    /// The best pairs first. Text alone.
    fn find_similar(&mut self, gone: &mut HashSet<&'a Path>) -> Result<(), StoreError> {
        let removed = removed_files(&self.items).filter(|was| !gone.contains(was.path.as_path()));
        let removed: Vec<&'a Seen> = removed.collect();
        let is_small =
            |item: &Item<'a>| self.added_file(item).is_some_and(|(_, size)| size <= MOST_COMPARED_BYTES);
        let is_left = |item: &Item<'a>| item.from.is_none() && is_small(item);
        let added: Vec<usize> = (0..self.items.len()).filter(|index| is_left(&self.items[*index])).collect();
        if removed.is_empty() || removed.len() > MOST_COMPARED || added.len() > MOST_COMPARED {
            return Ok(());
        }
        let added_bytes: u64 =
            added.iter().filter_map(|index| self.added_file(&self.items[*index])).map(|(_, size)| size).sum();
        let mut work = added_bytes * removed.len() as u64;
        let mut old_texts = Vec::new();
        for was in removed {
            if work > MOST_WORK {
                return Ok(());
            }
            if seen_size(was).is_none_or(|size| size <= MOST_COMPARED_BYTES)
                && let Some(text) = small_text(self.before.side(was))
            {
                work += (text.len() * added.len()) as u64;
                old_texts.push((was, text));
            }
        }
        let mut new_texts = Vec::new();
        for index in added {
            let Change::Added(is) = self.items[index].change else { continue };
            if let Some(text) = small_text(side::after(self.store, self.layer, is)?) {
                new_texts.push((index, text));
            }
        }
        let mut pairs: Vec<(u8, &'a Seen, usize)> = old_texts
            .par_iter()
            .flat_map_iter(|(was, old)| {
                new_texts.iter().map(move |(index, new)| (similarity(old, new), *was, *index))
            })
            .filter(|(similarity, ..)| *similarity >= LEAST_SIMILARITY)
            .collect();
        let name = |index: usize| self.items[index].change.path().file_name();
        pairs
            .sort_by_key(|(similarity, was, index)| (100 - similarity, name(*index) != was.path.file_name()));
        for (similarity, was, index) in pairs {
            self.pair(was, Some(index), similarity, gone);
        }
        Ok(())
    }

    fn added_file(&self, item: &Item<'a>) -> Option<(Digest, u64)> {
        let Change::Added(is) = item.change else { return None };
        match self.layer.file(is) {
            Entry { kind: Kind::File { digest, size }, .. } => Some((*digest, *size)),
            _ => None,
        }
    }
}

fn removed_files<'a>(items: &[Item<'a>]) -> impl Iterator<Item = &'a Seen> {
    items.iter().filter_map(|item| match item.change {
        Change::Removed(was) if was.kind == SeenKind::File => Some(was),
        _ => None,
    })
}

fn seen_size(was: &Seen) -> Option<u64> {
    match &was.place {
        Place::Host { was, .. } => Some(was.size),
        _ => None,
    }
}

/// Of a file that was seen, if it has one of `sizes` and is still what was seen.
fn seen_digest(was: &Seen, sizes: &HashSet<u64>) -> Option<Digest> {
    match &was.place {
        Place::Fixed { content, .. } => *content,
        Place::Host { path, was, changed: false } if sizes.contains(&was.size) => {
            let file = open_host(path).ok()?;
            let is_it = || rustix::fs::fstat(&file).is_ok_and(|stat| Identity::of(&stat) == *was);
            let digest = is_it().then(|| content::hash(&file).ok()).flatten()?;
            is_it().then_some(digest)
        }
        _ => None,
    }
}

fn small_text(side: Side) -> Option<Vec<u8>> {
    match side {
        Side::File(Content::Whole(bytes))
            if !bytes.is_empty() && bytes.len() as u64 <= MOST_COMPARED_BYTES && !bytes.contains(&0) =>
        {
            Some(bytes)
        }
        _ => None,
    }
}

/// How much of both, by bytes in whole lines, is the same, in percent; never 100. What is of very different size is not looked at.
fn similarity(old: &[u8], new: &[u8]) -> u8 {
    let (small, large) = (old.len().min(new.len()), old.len().max(new.len()));
    if small * 100 < large * usize::from(LEAST_SIMILARITY)
        || shared(old, new) * 100 < large * usize::from(LEAST_SIMILARITY)
    {
        return 0;
    }
    let diff = TextDiff::new(old, new);
    let same: usize = diff
        .parts()
        .filter(|part| part.is_same)
        .flat_map(|part| part.old)
        .map(|line| diff.old[line].len())
        .sum();
    (same * 100 / large).min(99) as u8
}

/// Bytes in lines that both have, in whatever order: at least as many as a difference finds, for less.
fn shared(old: &[u8], new: &[u8]) -> usize {
    let mut lines: HashMap<&[u8], usize> = HashMap::new();
    for line in super::text::lines(old) {
        *lines.entry(line).or_default() += 1;
    }
    let mut shared = 0;
    for line in super::text::lines(new) {
        if let Some(count) = lines.get_mut(line).filter(|count| **count > 0) {
            *count -= 1;
            shared += line.len();
        }
    }
    shared
}
