//! A difference: what two layers have at one path, where that is not the same.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::manifest::{Entry, Kind, Manifest};
use crate::{escape, order};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// As in the manifests; empty for the root directory.
    pub path: PathBuf,
    pub change: Change,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Only the second layer has the path.
    Added,
    /// Only the first has it.
    Removed,
    /// In at least one aspect, in the order of [`Aspect`].
    Changed(Vec<Aspect>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Aspect {
    /// File, directory, symlink, whiteout and so on; nothing else of the path is compared then.
    Type,
    /// Of a file or of the file that a hard link is.
    Content,
    /// Target of a symlink, or what a file is a hard link of.
    Link,
    /// Permission bits.
    Mode,
    /// uid or gid.
    Owner,
    /// Of modification.
    Time,
    Xattrs,
    /// Whether lower names show through a directory.
    Opaque,
    /// Block or character device, major or minor number.
    Device,
}

/// What differs between two layers, in the order of manifests.
pub fn diff(first: &Manifest, second: &Manifest) -> Vec<Difference> {
    let mut differences = Vec::new();
    let pairs = order::join(&first.entries, |entry| &entry.path, &second.entries, |entry| &entry.path);
    for (left, right) in pairs {
        let change = match (left, right) {
            (Some(a), Some(b)) => {
                let aspects = compare((first, a), (second, b));
                if aspects.is_empty() {
                    continue;
                }
                Change::Changed(aspects)
            }
            (None, Some(_)) => Change::Added,
            _ => Change::Removed,
        };
        let path = left.or(right).map(|entry| entry.path.clone()).unwrap_or_default();
        differences.push(Difference { path, change });
    }
    differences
}

/// Entries of the same path, each with its layer.
fn compare((first, a): (&Manifest, &Entry), (second, b): (&Manifest, &Entry)) -> Vec<Aspect> {
    let mut differ = Vec::new();
    let mut check = |aspect, differs| {
        if differs {
            differ.push(aspect);
        }
    };
    match (&a.kind, &b.kind) {
        (Kind::Whiteout, Kind::Whiteout) => return Vec::new(),
        (Kind::File { .. } | Kind::HardLink { .. }, Kind::File { .. } | Kind::HardLink { .. }) => {
            check(Aspect::Content, first.file(a).kind != second.file(b).kind);
            check(Aspect::Link, linked(a) != linked(b));
        }
        (Kind::Directory { opaque: one }, Kind::Directory { opaque: other }) => {
            check(Aspect::Opaque, one != other);
        }
        (Kind::Symlink { target: one }, Kind::Symlink { target: other }) => check(Aspect::Link, one != other),
        (Kind::Device { .. }, Kind::Device { .. }) => check(Aspect::Device, a.kind != b.kind),
        (Kind::Fifo, Kind::Fifo) => {}
        _ => return vec![Aspect::Type],
    }
    let (one, other) = (&a.meta, &b.meta);
    check(Aspect::Mode, one.mode != other.mode);
    check(Aspect::Owner, (one.uid, one.gid) != (other.uid, other.gid));
    check(Aspect::Time, one.mtime != other.mtime);
    check(Aspect::Xattrs, one.xattrs != other.xattrs);
    differ.sort_unstable();
    differ
}

fn linked(entry: &Entry) -> Option<&Path> {
    match &entry.kind {
        Kind::HardLink { to } => Some(to),
        _ => None,
    }
}

impl Difference {
    /// The path from the root of the layer, escaped as manifests have it.
    pub fn shown_path(&self) -> String {
        escape::shown_path(&self.path)
    }
}

/// `+ PATH`, `- PATH`, or `~ PATH ASPECT,ASPECT`.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.shown_path();
        match &self.change {
            Change::Added => write!(f, "+ {path}"),
            Change::Removed => write!(f, "- {path}"),
            Change::Changed(aspects) => {
                let aspects: Vec<_> = aspects.iter().map(|aspect| aspect.name()).collect();
                write!(f, "~ {path} {}", aspects.join(","))
            }
        }
    }
}

impl Aspect {
    pub fn name(self) -> &'static str {
        match self {
            Aspect::Type => "type",
            Aspect::Content => "content",
            Aspect::Link => "link",
            Aspect::Mode => "mode",
            Aspect::Owner => "owner",
            Aspect::Time => "time",
            Aspect::Xattrs => "xattrs",
            Aspect::Opaque => "opaque",
            Aspect::Device => "device",
        }
    }
}
