//! Undoing: what goes is put into the store before it goes, as a layer that brings it back, and its base is what is there then.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;

use super::journal::Work;
use super::plan::Plan;
use super::snapshot::{Node, Since, open_below};
use super::step::{Act, Parent, Step};
use super::why::Why;
use super::{ApplyError, UNDO, choose};
use crate::base::{Access, Base, Identity, Place, Seen};
use crate::digest::Digest;
use crate::manifest::{Entry, Kind, Manifest, Meta};
use crate::store::{LayerStore, Writer};
use crate::{content, fsat, order, xattrs};

/// Puts all that the steps replace and remove into the store. Returns the layer, and the steps that cannot be undone, which are
/// left.
pub(super) fn store(plan: &Plan<'_>, writer: &Writer<'_>) -> Result<Stored, ApplyError> {
    let numbered: Vec<(usize, &Step)> = plan.steps.iter().enumerate().collect();
    let store = |batch: &[(usize, &Step)]| {
        let parent = &plan.parents[batch[0].1.parent];
        let dir = match parent.open() {
            Err(errno) if Parent::is_gone(errno) => {
                let refused = || Err(Why::Directory { path: parent.path.clone() });
                return Ok(batch.iter().map(|(number, _)| (*number, refused())).collect());
            }
            dir => dir.map_err(ApplyError::io("open the directory", parent.path.clone()))?,
        };
        let stored = batch.iter().map(|(number, step)| Ok((*number, store_one(&dir, step, writer)?)));
        stored.collect::<Result<Vec<_>, ApplyError>>()
    };
    let batches: Vec<_> =
        numbered.chunk_by(|a, b| a.1.parent == b.1.parent).flat_map(|group| group.chunks(64)).collect();
    let stored: Vec<Vec<_>> = batches.into_par_iter().map(store).collect::<Result<_, _>>()?;
    let (mut olds, mut refused) = (Vec::new(), Vec::new());
    for (number, stored) in stored.into_iter().flatten() {
        match stored {
            Ok(old) => olds.extend(old),
            Err(why) => refused.push((number, why)),
        }
    }
    if !refused.is_empty() {
        // What depends on them goes, too: it is asked for again without them.
        return Ok(Stored::Refused(refused));
    }
    let manifest =
        Manifest::from_entries(with_ways(linked(olds), |_| Meta { mode: 0o755, ..Meta::default() }))
            .map_err(|source| ApplyError::Undo { source })?;
    Ok(Stored::Layer(writer.put_layer(&manifest)?))
}

pub(super) enum Stored {
    Layer(Digest),
    /// These cannot be undone.
    Refused(Vec<(usize, Why)>),
}

/// Something that goes, and which file it is.
type Old = (Entry, Option<(u64, u64)>);

/// What brings back what a step does away with.
fn store_one(dir: &OwnedFd, step: &Step, writer: &Writer<'_>) -> Result<Result<Vec<Old>, Why>, ApplyError> {
    let whiteout = || Entry { path: step.path.clone(), kind: Kind::Whiteout, meta: Meta::default() };
    if step.act == Act::Add {
        return Ok(Ok(vec![(whiteout(), None)]));
    }
    let mut olds = Vec::new();
    let tree = match step.old.nodes.len() {
        0 | 1 => None,
        _ => match fsat::open_dir(dir, step.name()) {
            Ok(tree) => Some(tree),
            Err(errno) => return Ok(Err(Why::Failed { attempt: "open", errno })),
        },
    };
    for node in &step.old.nodes {
        let opened;
        let (dir, name) = match (&tree, node.path.parent(), node.path.file_name()) {
            (Some(tree), Some(above), Some(name)) => match open_below(tree, above) {
                Ok(open) => {
                    opened = open;
                    (&opened, name)
                }
                Err(errno) => return Ok(Err(Why::Failed { attempt: "open", errno })),
            },
            _ => (dir, step.name()),
        };
        match stored(dir, name, node, node.place(&step.path), writer)? {
            Ok(old) => olds.extend(old),
            Err(why) => return Ok(Err(why)),
        }
    }
    // A socket, which no layer has: what took its place goes, at least.
    if step.act == Act::Exchange && olds.first().is_none_or(|(entry, _)| entry.path != step.path) {
        olds = vec![(whiteout(), None)];
    }
    Ok(Ok(olds))
}

/// Sockets are no part of a layer.
fn stored(
    dir: &OwnedFd,
    name: &OsStr,
    node: &Node,
    path: PathBuf,
    writer: &Writer<'_>,
) -> Result<Result<Option<Old>, Why>, ApplyError> {
    let look = || match fsat::stat(dir, name) {
        Ok(Some(stat)) if node.is(&stat, Since::Nothing) => Ok(stat),
        Ok(Some(_)) => Err(Why::Changed),
        Ok(None) => Err(Why::Gone),
        Err(errno) => Err(Why::Failed { attempt: "look at", errno }),
    };
    let stat = match look() {
        Ok(stat) => stat,
        Err(why) => return Ok(Err(why)),
    };
    let mut attributes = BTreeMap::new();
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Socket => return Ok(Ok(None)),
        FileType::Fifo => Kind::Fifo,
        FileType::Symlink => match rustix::fs::readlinkat(dir, name, Vec::new()) {
            Ok(target) => Kind::Symlink { target: OsString::from_vec(target.into_bytes()) },
            Err(errno) => return Ok(Err(Why::Failed { attempt: "read", errno })),
        },
        kind @ (FileType::BlockDevice | FileType::CharacterDevice) => Kind::Device {
            block: kind == FileType::BlockDevice,
            major: rustix::fs::major(stat.st_rdev),
            minor: rustix::fs::minor(stat.st_rdev),
        },
        kind => {
            let opened = if kind == FileType::Directory {
                fsat::open_dir(dir, name)
            } else {
                fsat::open_quietly(dir, name)
            };
            let file = match opened {
                Ok(file) => file,
                Err(errno) => return Ok(Err(Why::Failed { attempt: "read", errno })),
            };
            attributes = match xattrs::read(file.as_fd()) {
                Ok(attributes) => attributes,
                Err(error) => return Ok(Err(not_read(&error))),
            };
            attributes.retain(|name, _| xattrs::is_kept(name.as_bytes()));
            match kind {
                FileType::Directory => Kind::Directory { opaque: false },
                _ => match content(&file, &stat, writer)? {
                    Ok(kind) => kind,
                    Err(why) => return Ok(Err(why)),
                },
            }
        }
    };
    if let Err(why) = look() {
        return Ok(Err(why));
    }
    let meta = Meta { xattrs: attributes, ..meta(&stat) };
    let is_file = matches!(kind, Kind::File { .. });
    Ok(Ok(Some((Entry { path, kind, meta }, is_file.then_some((stat.st_dev, stat.st_ino))))))
}

fn content(file: &OwnedFd, stat: &Stat, writer: &Writer<'_>) -> Result<Result<Kind, Why>, ApplyError> {
    let size = stat.st_size as u64;
    if size <= content::SMALL {
        let bytes = match content::read_small(file, size) {
            Ok(bytes) => bytes,
            Err(error) => return Ok(Err(not_read(&error))),
        };
        let digest = Digest::of(&bytes);
        writer.put_bytes(&digest, &bytes)?;
        return Ok(Ok(Kind::File { digest, size: bytes.len() as u64 }));
    }
    let file = file.try_clone().map_err(ApplyError::io("read", "a file that goes"))?;
    let (digest, size) = writer.put_blob(File::from(file))?;
    Ok(Ok(Kind::File { digest, size }))
}

fn not_read(error: &std::io::Error) -> Why {
    Why::Failed { attempt: "read", errno: Errno::from_io_error(error).unwrap_or(Errno::IO) }
}

fn meta(stat: &Stat) -> Meta {
    Meta {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
        xattrs: BTreeMap::new(),
    }
}

/// Several names of a file are that again.
fn linked(mut olds: Vec<Old>) -> BTreeMap<PathBuf, Entry> {
    olds.sort_by(|a, b| order::compare(&a.0.path, &b.0.path));
    let mut firsts: HashMap<(u64, u64), PathBuf> = HashMap::new();
    let mut entries = BTreeMap::new();
    for (mut entry, file) in olds {
        if let Some(file) = file {
            match firsts.get(&file) {
                Some(first) => entry.kind = Kind::HardLink { to: first.clone() },
                None => drop(firsts.insert(file, entry.path.clone())),
            }
        }
        entries.insert(entry.path.clone(), entry);
    }
    entries
}

/// With the directories around them.
fn with_ways(mut entries: BTreeMap<PathBuf, Entry>, meta: impl Fn(&Path) -> Meta) -> Vec<Entry> {
    let paths: Vec<PathBuf> = entries.keys().cloned().collect();
    for way in paths.iter().flat_map(|path| path.ancestors().skip(1)) {
        if !entries.contains_key(way) {
            let kind = Kind::Directory { opaque: false };
            entries.insert(way.to_owned(), Entry { path: way.to_owned(), kind, meta: meta(way) });
        }
    }
    entries.into_values().collect()
}

/// Gives what was stored its name, with what is there now as its base. Nothing of steps that were taken back is in it.
pub(super) fn name(work: &Work, store: &LayerStore) -> Result<Option<Digest>, ApplyError> {
    let (Some(stored), Some(refused)) = (&work.undo, &work.done) else { return Ok(None) };
    let steps: Vec<&Step> =
        work.steps.iter().enumerate().filter(|(at, _)| !refused.contains(at)).map(|(_, step)| step).collect();
    if steps.is_empty() {
        return Ok(None);
    }
    let _adding = store.adding()?;
    let stored = store.manifest(stored)?;
    let ways: BTreeMap<&Path, (Seen, Meta)> =
        work.ways.iter().map(|way| (way.path.as_path(), way_now(way))).collect();
    let mut seen: BTreeMap<PathBuf, Seen> = BTreeMap::new();
    for step in &steps {
        seen.extend(
            seen_now(step, &work.parents[step.parent]).into_iter().map(|seen| (seen.path.clone(), seen)),
        );
    }
    let manifest = done_of(&stored, &steps, |path| {
        ways.get(path).map_or_else(|| Meta { mode: 0o755, ..Meta::default() }, |(_, meta)| meta.clone())
    })?;
    for entry in &manifest.entries {
        if let Some((way, _)) = ways.get(entry.path.as_path()) {
            seen.entry(entry.path.clone()).or_insert_with(|| way.clone());
        }
    }
    let mut seen: Vec<Seen> = seen.into_values().collect();
    seen.sort_by(|a, b| order::compare(&a.path, &b.path));
    let layer = store.put_layer(&manifest)?;
    store.set_name_with_base(UNDO, &Base { raw: true, seen, ..Base::new(layer) })?;
    Ok(Some(layer))
}

/// What was stored for these steps.
fn done_of(stored: &Manifest, steps: &[&Step], meta: impl Fn(&Path) -> Meta) -> Result<Manifest, ApplyError> {
    let invalid = |source| ApplyError::Undo { source };
    let (access, whole): (Vec<&&Step>, Vec<&&Step>) = steps.iter().partition(|step| !step.is_staged());
    let whole: Vec<PathBuf> = whole.iter().map(|step| step.path.clone()).collect();
    let none = Base::new(stored.digest());
    let chosen = choose(stored, &none, &whole).map_err(invalid)?;
    let tops: BTreeSet<&Path> = whole.iter().map(PathBuf::as_path).collect();
    let is_whole = |path: &Path| path.ancestors().any(|above| tops.contains(above));
    let mut entries: BTreeMap<PathBuf, Entry> = BTreeMap::new();
    for mut entry in chosen.entries {
        if !is_whole(&entry.path) {
            entry.meta = meta(&entry.path);
        }
        entries.insert(entry.path.clone(), entry);
    }
    for step in access {
        let found = stored.entries.binary_search_by(|entry| order::compare(&entry.path, &step.path));
        if let Ok(at) = found {
            entries.insert(step.path.clone(), stored.entries[at].clone());
        }
    }
    Manifest::from_entries(with_ways(entries, meta)).map_err(invalid)
}

/// A directory around what was done, as it is now, and as an entry that leaves it so.
fn way_now(way: &Seen) -> (Seen, Meta) {
    let mut now = way.clone();
    let stat = match &way.place {
        Place::Host { path, .. } => rustix::fs::lstat(path).ok(),
        _ => None,
    };
    if let (Some(stat), Place::Host { was, changed, .. }) = (stat, &mut now.place) {
        (*was, *changed) = (Identity::of(&stat), false);
        now.access = access(&stat);
    }
    let Access { mode, uid, gid } = now.access;
    (now, Meta { mode, uid, gid, ..Meta::default() })
}

/// What a step left, as it is now.
fn seen_now(step: &Step, parent: &Parent) -> Vec<Seen> {
    let top = parent.path.join(&step.name);
    let (nodes, place) = (&step.new.nodes, &top);
    let seen = |node: &Node, since| {
        let (path, place) = (node.place(&step.path), node.place(place));
        let now = rustix::fs::statat(rustix::fs::CWD, &place, AtFlags::SYMLINK_NOFOLLOW).ok();
        let changed = now.is_none_or(|now| !node.is(&now, since));
        let was = now.map(|now| Identity::of(&now)).unwrap_or_default();
        let access = now.map(|now| access(&now)).unwrap_or_default();
        Seen { path, kind: node.kind, access, place: Place::Host { path: place, was, changed } }
    };
    if let Act::Access { is, .. } = step.act {
        let Some(top) = step.old.top() else { return Vec::new() };
        let node = Node { is: Identity { mode: is.mode, ..top.is }, ..top.clone() };
        return vec![seen(&node, Since::Renames)];
    }
    nodes.iter().map(|node| seen(node, Since::Renames)).collect()
}

fn access(stat: &Stat) -> Access {
    Access { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid }
}
