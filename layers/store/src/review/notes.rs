//! A note: what a change does besides the content and what git holds of a mode: owners, attributes, directories, links.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use super::{Form, Item, Review};
use crate::base::{Identity, Place, Seen, SeenKind};
use crate::changes::open_host;
use crate::manifest::{Entry, Kind};
use crate::{escape, xattrs};

type Attributes = BTreeMap<OsString, Vec<u8>>;

impl<'a> Review<'a> {
    /// In words. For git also of modes, of which it holds little, and directories, which it does not hold.
    pub(super) fn notes(&self, item: &Item<'a>, form: Form) -> Vec<String> {
        let mut notes = Vec::new();
        if form == Form::Git {
            notes.extend(mode(item));
        }
        notes.extend(kind(item, form));
        notes.extend(self.owner(item));
        notes.extend(attributes(item));
        if let Some(Entry { kind: Kind::HardLink { to }, .. }) = item.change.is() {
            notes.push(format!("another name of {}", escape::shown_path(to)));
        }
        notes
    }

    /// Of what is new, if it is another than that of the directory.
    fn owner(&self, item: &Item<'a>) -> Option<String> {
        let is = item.change.is()?;
        let owner = (is.meta.uid, is.meta.gid);
        if let Some(was) = item.was() {
            let seen = (was.access.uid, was.access.gid);
            return (seen != owner && !matches!(was.place, Place::Lost {}))
                .then(|| format!("owner {}:{} → {}:{}", seen.0, seen.1, owner.0, owner.1));
        }
        (owner != self.owner_above(&is.path)).then(|| format!("owner {}:{}", owner.0, owner.1))
    }
}

/// What git does not know of it: it has 644 and 755.
fn mode(item: &Item<'_>) -> Option<String> {
    let is = item.change.is()?;
    let (mode, is_file) = match is.kind {
        Kind::File { .. } | Kind::HardLink { .. } => (is.meta.mode, true),
        Kind::Directory { .. } => (is.meta.mode, false),
        _ => return None,
    };
    match item.was().filter(|was| is_same_type(was, is)) {
        Some(was) if was.access.mode == mode => None,
        Some(was) if is_file && [was.access.mode, mode].iter().all(|mode| matches!(mode, 0o644 | 0o755)) => {
            None
        }
        Some(was) => Some(format!("mode {:o} → {mode:o}", was.access.mode)),
        None if matches!(mode, 0o755) || (is_file && mode == 0o644) => None,
        None => Some(format!("mode {mode:o}")),
    }
}

fn is_same_type(was: &Seen, is: &Entry) -> bool {
    let is_file = matches!(is.kind, Kind::File { .. } | Kind::HardLink { .. });
    (was.kind == SeenKind::File && is_file)
        || (was.kind == SeenKind::Directory && matches!(is.kind, Kind::Directory { .. }))
}

/// Of what is neither a file nor a link.
fn kind(item: &Item<'_>, form: Form) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(was) =
        item.change.was().filter(|was| !item.change.is().is_some_and(|is| is_same_type(was, is)))
    {
        match was.kind {
            SeenKind::Directory if !item.is_implied => notes.push("removed directory".to_owned()),
            SeenKind::Other if !matches!(was.place, Place::Lost {}) => {
                notes.push("removed fifo, socket or device".to_owned());
            }
            _ => {}
        }
    }
    let Some(is) = item.change.is() else { return notes };
    let is_new = !item.change.was().is_some_and(|was| is_same_type(was, is));
    match &is.kind {
        Kind::Directory { .. } if is_new && form == Form::Git => notes.push("new directory".to_owned()),
        Kind::Fifo => notes.push(format!("new fifo, mode {:o}", is.meta.mode)),
        Kind::Device { block, major, minor } => {
            let kind = if *block { "block" } else { "character" };
            notes.push(format!("new {kind} device {major}:{minor}, mode {:o}", is.meta.mode));
        }
        _ => {}
    }
    notes
}

/// What became of them, or that nobody knows.
pub(super) fn attributes(item: &Item<'_>) -> Vec<String> {
    let Some(is) = item.change.is() else { return Vec::new() };
    let Some(old) = seen_attributes(item.was()) else {
        let names: Vec<String> = is.meta.xattrs.keys().map(shown).collect();
        let note = format!("attributes {} (which there were before is not known)", names.join(", "));
        return if names.is_empty() { Vec::new() } else { vec![note] };
    };
    let new = &is.meta.xattrs;
    let removed = old
        .keys()
        .filter(|name| !new.contains_key(*name))
        .map(|name| format!("attribute {} removed", shown(name)));
    let added = new.iter().filter_map(|(name, value)| match old.get(name) {
        Some(old) if old == value => None,
        Some(_) => Some(format!("attribute {} changed", shown(name))),
        None => Some(format!("attribute {} added", shown(name))),
    });
    removed.chain(added).collect()
}

fn shown(name: &OsString) -> String {
    let mut shown = String::new();
    escape::push(&mut shown, name.as_bytes());
    shown
}

/// `None` if nobody knows.
pub(super) fn seen_attributes(was: Option<&Seen>) -> Option<Attributes> {
    let Some(was) = was else { return Some(Attributes::new()) };
    match (&was.place, was.kind) {
        (_, SeenKind::Symlink) => Some(Attributes::new()),
        (Place::Host { path, was: seen, changed: false }, SeenKind::File | SeenKind::Directory) => {
            let file = open_host(path).ok()?;
            let is_it = rustix::fs::fstat(&file).is_ok_and(|stat| Identity::of(&stat) == *seen);
            let mut attributes = xattrs::read(file.as_fd()).ok().filter(|_| is_it)?;
            attributes.retain(|name, _| xattrs::is_kept(name.as_bytes()));
            Some(attributes)
        }
        _ => None,
    }
}

/// The mode in a line of a header: for git it is one of three.
pub(super) fn header_mode(is_link: bool, mode: u32, form: Form) -> String {
    match form {
        _ if is_link => "120000".to_owned(),
        Form::Git => if mode & 0o100 == 0 { "100644" } else { "100755" }.to_owned(),
        Form::People => format!("10{mode:04o}"),
    }
}

pub(super) fn modes(item: &Item<'_>) -> (u32, u32) {
    (item.was().map_or(0, |was| was.access.mode), item.change.is().map_or(0, |is| is.meta.mode))
}
