//! A text difference: which lines of a content are replaced by which of another.

use std::ops::Range;
use std::time::{Duration, Instant};

use similar::{Algorithm, DiffOp, DiffTag};

/// After this long the rest is a replacement as a whole. The algorithm gives up looking for the best long before, as git's does.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of the line that a hunk is headed by.
const HEADING: usize = 80;

#[derive(Debug)]
pub struct TextDiff<'a> {
    /// Lines with their newline.
    pub old: Vec<&'a [u8]>,
    pub new: Vec<&'a [u8]>,
    ops: Vec<DiffOp>,
}

/// Changes that stand together, with the lines around them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hunk {
    parts: Vec<Part>,
}

/// Lines that are the same, or lines that are replaced, none of them by some, or some by none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub is_same: bool,
    pub old: Range<usize>,
    pub new: Range<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    Same,
    Removed,
    Added,
}

impl<'a> TextDiff<'a> {
    pub fn new(old: &'a [u8], new: &'a [u8]) -> TextDiff<'a> {
        let (old, new) = (lines(old), lines(new));
        let deadline = Instant::now() + PATIENCE;
        let ops = similar::capture_diff_slices_deadline(Algorithm::Myers, &old, &new, Some(deadline));
        TextDiff { old, new, ops }
    }

    /// With `context` lines around each; those whose context meets are one.
    pub fn hunks(&self, context: usize) -> Vec<Hunk> {
        // More than there can be, and no more than can be doubled.
        let groups = similar::group_diff_ops(self.ops.clone(), context.min(self.old.len()));
        groups.into_iter().map(|ops| Hunk { parts: ops.iter().filter_map(part).collect() }).collect()
    }

    /// All of it.
    pub fn parts(&self) -> impl Iterator<Item = Part> {
        self.ops.iter().filter_map(part)
    }

    pub fn is_same(&self) -> bool {
        self.ops.iter().all(|op| op.tag() == DiffTag::Equal)
    }

    /// How many lines are added and removed.
    pub fn counts(&self) -> (usize, usize) {
        let changed = self.parts().filter(|part| !part.is_same);
        changed.fold((0, 0), |(added, removed), part| (added + part.new.len(), removed + part.old.len()))
    }

    /// The nearest line above `hunk` that begins with a letter: that of the function, in many languages. `from` is where looking
    /// ends, and what it was there.
    pub fn heading(&self, hunk: &Hunk, from: usize, known: Option<&'a [u8]>) -> Option<&'a [u8]> {
        let is_heading =
            |line: &&&[u8]| line.first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_');
        let above = self.old.get(from..hunk.old().start).unwrap_or_default();
        above.iter().rev().find(is_heading).map(|line| &line[..line.len().min(HEADING)]).or(known)
    }

    /// The lines of `hunk` as a unified diff has them.
    pub fn lines<'b>(&'b self, hunk: &'b Hunk) -> impl Iterator<Item = (Sign, &'a [u8])> + 'b {
        hunk.parts.iter().flat_map(|part| {
            let sign = if part.is_same { Sign::Same } else { Sign::Removed };
            let old = self.old[part.old.clone()].iter().map(move |line| (sign, *line));
            let added = if part.is_same { 0..0 } else { part.new.clone() };
            old.chain(self.new[added].iter().map(|line| (Sign::Added, *line)))
        })
    }
}

impl Hunk {
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    pub fn old(&self) -> Range<usize> {
        span(self.parts.iter().map(|part| &part.old))
    }

    pub fn new_lines(&self) -> Range<usize> {
        span(self.parts.iter().map(|part| &part.new))
    }

    /// `@@ -1,3 +1,4 @@`
    pub fn header(&self) -> String {
        format!("@@ -{} +{} @@", place(&self.old()), place(&self.new_lines()))
    }

    /// A hunk for each of its changes, if it has several; the lines between two stand in both.
    pub fn split(&self) -> Vec<Hunk> {
        let changes: Vec<usize> = (0..self.parts.len()).filter(|index| !self.parts[*index].is_same).collect();
        let around = |&index: &usize| {
            let parts = &self.parts[index.saturating_sub(1)..self.parts.len().min(index + 2)];
            Hunk { parts: parts.to_vec() }
        };
        changes.iter().map(around).collect()
    }
}

impl Sign {
    pub fn byte(self) -> u8 {
        match self {
            Sign::Same => b' ',
            Sign::Removed => b'-',
            Sign::Added => b'+',
        }
    }
}

pub fn lines(text: &[u8]) -> Vec<&[u8]> {
    text.split_inclusive(|byte| *byte == b'\n').collect()
}

fn part(op: &DiffOp) -> Option<Part> {
    let part = Part { is_same: op.tag() == DiffTag::Equal, old: op.old_range(), new: op.new_range() };
    (!part.old.is_empty() || !part.new.is_empty()).then_some(part)
}

fn span<'a>(mut ranges: impl DoubleEndedIterator<Item = &'a Range<usize>>) -> Range<usize> {
    let first = ranges.next().cloned().unwrap_or(0..0);
    let end = ranges.next_back().map_or(first.end, |last| last.end);
    first.start..end
}

/// Lines are counted from 1; of none the line before is told.
pub(super) fn place(lines: &Range<usize>) -> String {
    match lines.len() {
        0 => format!("{},0", lines.start),
        1 => format!("{}", lines.start + 1),
        count => format!("{},{count}", lines.start + 1),
    }
}
