//! A check: whether a list of entries is something that a layer may hold.

use std::cmp::Ordering;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::manifest::{Entry, Kind, Meta};
use crate::{order, xattrs};

/// Longest path and symlink target, in bytes: what one system call takes (PATH_MAX less its NUL).
pub const MAX_PATH: usize = 4095;
/// Longest name of one component or extended attribute, in bytes.
pub const MAX_NAME: usize = 255;
/// Largest extended attribute, in bytes (xattr(7)).
pub const MAX_XATTR: usize = 65536;

#[derive(Debug, Error)]
pub enum ManifestError {
    #[error("a manifest starts with the line {{\"vfsrun-layer\":1}}, and this does not")]
    NoHeader,
    #[error("the manifest has version {found}; this program reads up to {known}: use a newer vfsrun")]
    Newer { found: u64, known: u64 },
    #[error("the manifest is not UTF-8")]
    NotText { source: std::str::Utf8Error },
    #[error("the manifest ends in the middle of a line")]
    Truncated,
    #[error("line {line} of the manifest is not an entry")]
    Line { line: usize, source: serde_json::Error },
    #[error("line {line} of the manifest has the unknown type {found:?}")]
    UnknownType { line: usize, found: String },
    #[error("line {line} of the manifest is not in canonical form")]
    NotCanonical { line: usize },
    #[error("a layer cannot hold {path:?}")]
    Entry {
        path: PathBuf,
        #[source]
        fault: EntryFault,
    },
}

/// What is wrong with one entry.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum EntryFault {
    #[error("the path is absolute")]
    Absolute,
    #[error("the path has a component {0:?}")]
    Component(String),
    #[error("the path has a NUL byte")]
    Nul,
    #[error("the path is longer than {MAX_PATH} bytes or one of its names longer than {MAX_NAME}")]
    TooLong,
    #[error("it comes after {0:?}, which sorts behind it")]
    Order(PathBuf),
    #[error("the path appears twice")]
    Duplicate,
    #[error("its parent is not a directory of the layer")]
    Parent,
    #[error("the root of a layer is a directory")]
    Root,
    #[error("it is a hard link to {0:?}, which is not an earlier file of the layer")]
    HardLink(PathBuf),
    #[error("its symlink target is empty, has a NUL byte or is longer than {MAX_PATH} bytes")]
    Target,
    #[error("mode {0:o} has more than permission bits")]
    Mode(u32),
    #[error("{0} is not a number of nanoseconds below a second")]
    Nanoseconds(u32),
    #[error("a character device 0:0 is overlayfs's whiteout, not a device")]
    WhiteoutDevice,
    #[error("it carries an extended attribute that layers do not hold: {0:?}")]
    Xattr(std::ffi::OsString),
}

/// Checks all of `entries`: one pass, with the directories on the way to the current entry on a stack.
pub fn entries(entries: &[Entry]) -> Result<(), ManifestError> {
    let mut parents: Vec<&Path> = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let checked = path(&entry.path)
            .and_then(|()| place(&entries[..index], entry, &mut parents))
            .and_then(|()| kind(&entries[..index], &entry.kind))
            .and_then(|()| meta(&entry.meta));
        checked.map_err(|fault| ManifestError::Entry { path: entry.path.clone(), fault })?;
        if let Kind::Directory { .. } = entry.kind {
            parents.push(&entry.path);
        }
    }
    Ok(())
}

/// Whether `path` is relative, has only plain components and can be used with one system call.
pub fn path(path: &Path) -> Result<(), EntryFault> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() {
        return Ok(());
    }
    if bytes[0] == b'/' {
        return Err(EntryFault::Absolute);
    }
    if bytes.len() > MAX_PATH {
        return Err(EntryFault::TooLong);
    }
    for component in bytes.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." | b".." => {
                return Err(EntryFault::Component(String::from_utf8_lossy(component).into_owned()));
            }
            name if name.len() > MAX_NAME => return Err(EntryFault::TooLong),
            name if name.contains(&0) => return Err(EntryFault::Nul),
            _ => {}
        }
    }
    Ok(())
}

fn place<'a>(earlier: &'a [Entry], entry: &Entry, parents: &mut Vec<&'a Path>) -> Result<(), EntryFault> {
    if let Some(last) = earlier.last() {
        match order::compare(&last.path, &entry.path) {
            Ordering::Less => {}
            Ordering::Equal => return Err(EntryFault::Duplicate),
            Ordering::Greater => return Err(EntryFault::Order(last.path.clone())),
        }
    }
    if entry.path.as_os_str().is_empty() {
        return matches!(entry.kind, Kind::Directory { .. }).then_some(()).ok_or(EntryFault::Root);
    }
    while parents.pop_if(|dir| !order::is_below(&entry.path, dir)).is_some() {}
    let parent = entry.path.parent().unwrap_or(Path::new(""));
    // The root directory may be left out.
    let found = parents.last().copied().unwrap_or(Path::new(""));
    (found.as_os_str() == parent.as_os_str()).then_some(()).ok_or(EntryFault::Parent)
}

fn kind(earlier: &[Entry], kind: &Kind) -> Result<(), EntryFault> {
    match kind {
        Kind::HardLink { to } => {
            let found = earlier.binary_search_by(|other| order::compare(&other.path, to));
            match found.map(|index| &earlier[index].kind) {
                Ok(Kind::File { .. }) => Ok(()),
                _ => Err(EntryFault::HardLink(to.clone())),
            }
        }
        Kind::Symlink { target } => {
            let target = target.as_bytes();
            let fine = !target.is_empty() && target.len() <= MAX_PATH && !target.contains(&0);
            fine.then_some(()).ok_or(EntryFault::Target)
        }
        Kind::Device { block: false, major: 0, minor: 0 } => Err(EntryFault::WhiteoutDevice),
        _ => Ok(()),
    }
}

fn meta(meta: &Meta) -> Result<(), EntryFault> {
    if meta.mode > 0o7777 {
        return Err(EntryFault::Mode(meta.mode));
    }
    if meta.mtime.1 >= 1_000_000_000 {
        return Err(EntryFault::Nanoseconds(meta.mtime.1));
    }
    for (name, value) in &meta.xattrs {
        let bytes = name.as_bytes();
        let fine = xattrs::is_kept(bytes)
            && bytes.len() <= MAX_NAME
            && !bytes.contains(&0)
            && value.len() <= MAX_XATTR;
        if !fine {
            return Err(EntryFault::Xattr(name.clone()));
        }
    }
    Ok(())
}
