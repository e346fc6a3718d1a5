//! Changes: what became of each path that an action saw, told by its layer and the base of it. Where a layer says what lies at a
//! path, and hides what lay there, a change says both.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::{fmt, io};

use rayon::prelude::*;
use rustix::fs::OFlags;

use crate::base::{Access, Base, Identity, Place, Seen, SeenKind};
use crate::digest::Digest;
use crate::manifest::{Entry, Kind, Manifest, Meta};
use crate::{content, escape, fsat, order, xattrs};

/// At one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// Nothing was there.
    Added(&'a Entry),
    /// Also of all that lay below a directory that is no more.
    Removed(&'a Seen),
    /// A file, symlink or whatever it is has another one of another type in its place.
    Replaced { was: &'a Seen, is: &'a Entry },
    /// Of a directory permissions and owner alone.
    Modified { was: &'a Seen, is: &'a Entry },
}

/// What `layer` does to what is seen in `base`, in the order of manifests. A directory in which something changed is no
/// change itself, and neither is a file that has what it had, though it was written anew; of one that is not any more what was
/// seen nobody can tell.
pub fn changes<'a>(layer: &'a Manifest, base: &'a Base) -> Vec<Change<'a>> {
    let mut changes = told(layer, base);
    let is_change: Vec<bool> = changes.par_iter().map(|change| !is_idle(change, layer)).collect();
    let mut is_change = is_change.into_iter();
    changes.retain(|_| is_change.next().unwrap_or(true));
    changes
}

fn told<'a>(layer: &'a Manifest, base: &'a Base) -> Vec<Change<'a>> {
    let pairs = order::join(&layer.entries, |entry| &entry.path, &base.seen, |seen| &seen.path);
    let changes = pairs.filter_map(|(is, was)| change(was, is));
    // The root is the program's own, whatever it was made of.
    changes.filter(|change| !change.path().as_os_str().is_empty()).collect()
}

fn change<'a>(was: Option<&'a Seen>, is: Option<&'a Entry>) -> Option<Change<'a>> {
    let is = is.filter(|is| is.kind != Kind::Whiteout);
    match (was, is) {
        // A file that the action made and removed again, where one was hidden.
        (None, None) => None,
        (None, Some(is)) => Some(Change::Added(is)),
        (Some(was), None) => Some(Change::Removed(was)),
        (Some(was), Some(is)) if !is_same_type(was, is) => Some(Change::Replaced { was, is }),
        (Some(was), Some(is)) => {
            let is_directory = was.kind == SeenKind::Directory;
            (!is_directory || was.access != access(is)).then_some(Change::Modified { was, is })
        }
    }
}

/// A fifo or device is never the one that was there: neither can be written to in a way that copies it up.
pub(crate) fn is_same_type(was: &Seen, is: &Entry) -> bool {
    matches!(
        (was.kind, &is.kind),
        (SeenKind::Directory, Kind::Directory { .. })
            | (SeenKind::File, Kind::File { .. } | Kind::HardLink { .. })
            | (SeenKind::Symlink, Kind::Symlink { .. })
    )
}

/// Whether a file is as it was but for its times. What cannot be read is not.
pub(crate) fn is_idle(change: &Change<'_>, layer: &Manifest) -> bool {
    let Change::Modified { was, is } = change else { return false };
    if was.kind == SeenKind::Directory || was.access != access(is) {
        return false;
    }
    match (&was.place, &layer.file(is).kind) {
        (Place::Fixed { content: Some(content), .. }, Kind::File { digest, .. }) => {
            // Which attributes it had is not known.
            content == digest && is.meta.xattrs.is_empty()
        }
        (Place::Fixed { content: Some(content), .. }, Kind::Symlink { target }) => {
            *content == Digest::of(target.as_encoded_bytes())
        }
        (Place::Host { path, was, changed: false }, Kind::File { digest, size }) => {
            was.size == *size && has(path, was, digest, &is.meta).unwrap_or(false)
        }
        (Place::Host { path, was, changed: false }, Kind::Symlink { target }) => {
            let is_it = rustix::fs::lstat(path).is_ok_and(|stat| Identity::of(&stat) == *was);
            is_it && std::fs::read_link(path).is_ok_and(|old| old.as_os_str() == target)
        }
        _ => false,
    }
}

/// Whether the host's file, if it is still the one that was seen, has this content and these attributes.
fn has(path: &Path, was: &Identity, content: &Digest, meta: &Meta) -> io::Result<bool> {
    let file = open_host(path)?;
    let is_it = || -> io::Result<bool> { Ok(Identity::of(&rustix::fs::fstat(&file)?) == *was) };
    let mut attributes = xattrs::read(file.as_fd())?;
    attributes.retain(|name, _| xattrs::is_kept(name.as_bytes()));
    Ok(is_it()? && attributes == meta.xattrs && content::hash(&file)? == *content && is_it()?)
}

/// Opens a file of the host for reading, by a path without links. Never blocks on a fifo.
pub(crate) fn open_host(path: &Path) -> io::Result<OwnedFd> {
    open_host_as(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)
}

/// The same for what is not read: a link.
pub(crate) fn open_host_as(path: &Path, how: OFlags) -> io::Result<OwnedFd> {
    let root = fsat::open_dir(rustix::fs::CWD, "/")?;
    vfsrun_sys::beneath::open(root, path.strip_prefix("/").unwrap_or(path), how | OFlags::NOFOLLOW)
}

pub(crate) fn access(entry: &Entry) -> Access {
    Access { mode: entry.meta.mode, uid: entry.meta.uid, gid: entry.meta.gid }
}

impl<'a> Change<'a> {
    /// Relative to the root of the action.
    pub fn path(&self) -> &'a Path {
        match self {
            Change::Removed(was) => &was.path,
            Change::Added(is) | Change::Replaced { is, .. } | Change::Modified { is, .. } => &is.path,
        }
    }

    /// What the action saw.
    pub fn was(&self) -> Option<&'a Seen> {
        match self {
            Change::Added(_) => None,
            Change::Removed(was) | Change::Replaced { was, .. } | Change::Modified { was, .. } => Some(was),
        }
    }

    /// What it left.
    pub fn is(&self) -> Option<&'a Entry> {
        match self {
            Change::Removed(_) => None,
            Change::Added(is) | Change::Replaced { is, .. } | Change::Modified { is, .. } => Some(is),
        }
    }

    /// What it left, or what there was if it left nothing.
    pub fn is_directory(&self) -> bool {
        match (self.is(), self.was()) {
            (Some(is), _) => matches!(is.kind, Kind::Directory { .. }),
            (None, was) => was.is_some_and(|was| was.kind == SeenKind::Directory),
        }
    }

    pub fn sign(&self) -> char {
        match self {
            Change::Added(_) => '+',
            Change::Removed(_) => '-',
            Change::Replaced { .. } => '!',
            Change::Modified { .. } => '~',
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Change::Added(_) => "added",
            Change::Removed(_) => "removed",
            Change::Replaced { .. } => "replaced",
            Change::Modified { .. } => "modified",
        }
    }
}

/// `+ PATH`, `- PATH`, `! PATH`, or `~ PATH`, with a slash at the end of a directory.
impl fmt::Display for Change<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = if self.is_directory() { "/" } else { "" };
        write!(f, "{} {}{slash}", self.sign(), escape::shown_path(self.path()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, kind: Kind) -> Entry {
        let meta =
            if kind == Kind::Whiteout { Meta::default() } else { Meta { mode: 0o755, ..Meta::default() } };
        Entry { path: path.into(), kind, meta }
    }

    fn file(path: &str) -> Entry {
        entry(path, Kind::File { digest: Digest::of(b""), size: 0 })
    }

    fn seen(path: &str, kind: SeenKind) -> Seen {
        let access = Access { mode: 0o755, uid: 0, gid: 0 };
        Seen { path: path.into(), kind, access, place: Place::Lost {} }
    }

    fn told(entries: Vec<Entry>, seen: Vec<Seen>) -> Vec<String> {
        let layer = Manifest::from_entries(entries).unwrap();
        let base = Base { seen, ..Base::new(layer.digest()) };
        changes(&layer, &base).iter().map(Change::to_string).collect()
    }

    #[test]
    fn each_path_is_told_once() {
        let dir = || Kind::Directory { opaque: false };
        let link = Kind::Symlink { target: "x".into() };
        let entries = vec![
            entry("", dir()),
            entry("d", dir()),
            file("d/edited"),
            entry("d/gone", Kind::Whiteout),
            entry("d/never", Kind::Whiteout),
            file("d/new"),
            entry("d/made", dir()),
            file("d/made/file"),
            link_of("d/made/other", "d/made/file"),
            entry("d/tree", Kind::Whiteout),
            entry("d/was-dir", link),
            entry("d/was-file", dir()),
            entry("renewed", Kind::Directory { opaque: true }),
            file("renewed/kept"),
        ];
        let seen = vec![
            seen("", SeenKind::Directory),
            seen("d", SeenKind::Directory),
            seen("d/edited", SeenKind::File),
            seen("d/gone", SeenKind::Symlink),
            seen("d/tree", SeenKind::Directory),
            seen("d/tree/leaf", SeenKind::File),
            seen("d/was-dir", SeenKind::Directory),
            seen("d/was-dir/leaf", SeenKind::File),
            seen("d/was-file", SeenKind::File),
            seen("renewed", SeenKind::Directory),
            seen("renewed/kept", SeenKind::File),
            seen("renewed/lost", SeenKind::Other),
        ];
        let wanted = [
            "~ /d/edited",
            "- /d/gone",
            "+ /d/made/",
            "+ /d/made/file",
            "+ /d/made/other",
            "+ /d/new",
            "- /d/tree/",
            "- /d/tree/leaf",
            "! /d/was-dir",
            "- /d/was-dir/leaf",
            "! /d/was-file/",
            "~ /renewed/kept",
            "- /renewed/lost",
        ];
        assert_eq!(told(entries, seen), wanted);
    }

    fn link_of(path: &str, to: &str) -> Entry {
        entry(path, Kind::HardLink { to: to.into() })
    }

    #[test]
    fn a_directory_is_a_change_if_its_owner_or_mode_is() {
        let dir = |mode, uid| {
            let meta = Meta { mode, uid, ..Meta::default() };
            Entry { path: "d".into(), kind: Kind::Directory { opaque: false }, meta }
        };
        let was = || vec![seen("d", SeenKind::Directory)];
        assert_eq!(told(vec![dir(0o755, 0)], was()), [""; 0]);
        assert_eq!(told(vec![dir(0o700, 0)], was()), ["~ /d/"]);
        assert_eq!(told(vec![dir(0o755, 1)], was()), ["~ /d/"]);
    }

    #[test]
    fn a_fifo_is_never_the_one_that_was_there() {
        assert_eq!(told(vec![entry("p", Kind::Fifo)], vec![seen("p", SeenKind::Other)]), ["! /p"]);
    }
}
