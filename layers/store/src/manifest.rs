//! A manifest: the sorted list of everything a layer holds. The BLAKE3 of its text is the layer's digest.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::check;
use crate::digest::Digest;
use crate::order;
use crate::text;

pub use crate::check::{EntryFault, ManifestError};

/// What a layer holds, in the order of [`crate::order`]: component by component, each compared bytewise, so that a
/// directory and everything below it stand side by side (`a`, `a/b`, `a-b`). Every path appears once and after its
/// parent directory. The root directory may be missing (it is then 0755 and owned by root).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    pub entries: Vec<Entry>,
}

/// One name of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the root of the layer, without `.` or `..`; empty for the root directory itself.
    pub path: PathBuf,
    pub kind: Kind,
    /// Of a hard link: the same as its `File`'s. Of a whiteout: the default.
    pub meta: Meta,
}

/// Ownership, permissions, time and extended attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits, set-id and sticky bits included; no file type.
    pub mode: u32,
    /// Ids as seen inside the action.
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds since the epoch.
    pub mtime: (i64, u32),
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Directory {
        /// Names of lower layers do not show through.
        opaque: bool,
    },
    File {
        digest: Digest,
        /// Bytes.
        size: u64,
    },
    Symlink {
        target: OsString,
    },
    /// The same file as the entry at `to`, which is a `File` and comes earlier.
    HardLink {
        to: PathBuf,
    },
    /// The record that a lower name was deleted.
    Whiteout,
    Fifo,
    Device {
        block: bool,
        major: u32,
        minor: u32,
    },
}

impl Manifest {
    /// Sorts `entries`, gives hard links the metadata of their file and whiteouts the default, and checks the result.
    ///
    /// Errors: what [`Manifest::parse`] refuses.
    pub fn from_entries(mut entries: Vec<Entry>) -> Result<Manifest, ManifestError> {
        entries.sort_by(|a, b| order::compare(&a.path, &b.path));
        adopt_metadata(&mut entries);
        let manifest = Manifest { entries };
        manifest.check()?;
        Ok(manifest)
    }

    /// Reads the text form. The digest is not looked at; [`crate::LayerStore::manifest`] compares it.
    ///
    /// Errors: a newer version, a line that is not exactly what [`Manifest::to_bytes`] writes, a path out of order,
    /// twice, absolute or with `..`, a parent that is no directory, a hard link whose target is no earlier file.
    pub fn parse(bytes: &[u8]) -> Result<Manifest, ManifestError> {
        let mut entries = text::parse(bytes)?;
        adopt_metadata(&mut entries);
        let manifest = Manifest { entries };
        manifest.check()?;
        Ok(manifest)
    }

    /// The text form; equal manifests have equal bytes. See `docs/layers.md`.
    pub fn to_bytes(&self) -> Vec<u8> {
        text::write(&self.entries).into_bytes()
    }

    /// The layer's digest: the BLAKE3 of [`Manifest::to_bytes`].
    pub fn digest(&self) -> Digest {
        Digest::of(&self.to_bytes())
    }

    /// Whether the entries are what a layer may hold; see [`Manifest::parse`].
    pub fn check(&self) -> Result<(), ManifestError> {
        check::entries(&self.entries)
    }

    /// The file that `entry`, which is one of these, is a link of, or itself.
    pub fn file<'a>(&'a self, entry: &'a Entry) -> &'a Entry {
        let Kind::HardLink { to } = &entry.kind else { return entry };
        let found = self.entries.binary_search_by(|other| order::compare(&other.path, to));
        found.map_or(entry, |index| &self.entries[index])
    }

    /// Number of files (hard links not counted) and the sum of their sizes in bytes.
    pub fn totals(&self) -> (u64, u64) {
        let sizes = self.entries.iter().filter_map(|entry| match entry.kind {
            Kind::File { size, .. } => Some(size),
            _ => None,
        });
        sizes.fold((0, 0), |(files, bytes), size| (files + 1, bytes + size))
    }
}

impl Kind {
    /// A few words for messages.
    pub fn describe(&self) -> &'static str {
        match self {
            Kind::Directory { .. } => "a directory",
            Kind::File { .. } => "a file",
            Kind::Symlink { .. } => "a symlink",
            Kind::HardLink { .. } => "a hard link",
            Kind::Whiteout => "a whiteout",
            Kind::Fifo => "a fifo",
            Kind::Device { .. } => "a device",
        }
    }
}

/// The text says a hard link's metadata once, at its file; a whiteout has none.
fn adopt_metadata(entries: &mut [Entry]) {
    for index in 0..entries.len() {
        let (earlier, rest) = entries.split_at_mut(index);
        let entry = &mut rest[0];
        match &entry.kind {
            Kind::Whiteout => entry.meta = Meta::default(),
            Kind::HardLink { to } => {
                if let Ok(file) = earlier.binary_search_by(|other| order::compare(&other.path, to)) {
                    entry.meta = earlier[file].meta.clone();
                }
            }
            _ => {}
        }
    }
}
