//! Listing: the names of a merged directory, each once and as `lookup` would show it.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FileType;
use rustix::io::Errno;
use vfsrun_layers::Kind;

use crate::attr::{DirEntry, FileKind};
use crate::branch::{Branch, Content};
use crate::describe::{Order, Policy, Symlinks, Whiteouts};
use crate::fault::FaultReason;
use crate::host;
use crate::inode;
use crate::node::{Key, LayerLinks, Node};
use crate::origin::{Origin, Place};
use crate::priority::Rivals;
use crate::resolve::{ViewLinks, object_of_entry, open_dir};
use crate::rules::{Subject, Verdict};
use crate::segment::Segment;

/// A name as one branch has it.
pub(crate) struct Name {
    pub(crate) name: OsString,
    kind: Told,
    /// As in [`crate::merge::Seen`].
    wanted: Option<u64>,
    /// Position in a layer, to find hard links.
    links: Option<LayerLinks>,
}

impl Name {
    /// `None`: only a look tells what is shown.
    pub(crate) fn known_kind(&self) -> Option<FileKind> {
        match self.kind {
            Told::Kind(kind) => Some(kind),
            Told::Implied => Some(FileKind::Directory),
            Told::Nothing => None,
        }
    }
}

/// What a listing tells about a type without a look at the file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Kind(FileKind),
    /// A directory that is not of the branch itself: something lies below it.
    Implied,
    /// Only `resolve` knows: a link that may be followed, or a file system that does not tell.
    Nothing,
}

/// Names of one directory; what has more cannot be listed, so that memory is bounded.
pub(crate) const MOST_NAMES: usize = 2_000_000;

impl Segment {
    pub(crate) fn list_merged(&self, dir: &Arc<Node>) -> Result<Vec<DirEntry>, Errno> {
        if dir.kind() != FileKind::Directory {
            return Err(Errno::NOTDIR);
        }
        dir.refuse_denied()?;
        let path = self.has_rules.then(|| dir.path());
        let origins = dir.origins();
        let names = origins.iter().map(|origin| Ok((origin, self.names(dir, origin)?)));
        let names = names.collect::<Result<Vec<_>, Errno>>()?;
        let all = names.iter().flat_map(|(_, names)| names).map(|name| name.name.as_os_str());
        let rivals = Rivals::among(&self.priorities(dir), all);
        // Each name with its place among the others, and whether it is a directory that is only implied so far: one that
        // another branch really has gives it its number.
        let mut shown: HashMap<OsString, (usize, Option<DirEntry>, bool)> = HashMap::new();
        for (origin, names) in names {
            for mut name in names {
                let is_implied = name.kind == Told::Implied;
                if let Some((_, entry, was_implied)) = shown.get_mut(&name.name) {
                    let is_newest = self.policy == Policy::Newest && entry.as_ref().is_some_and(has_rivals);
                    if is_newest || *was_implied && !is_implied {
                        *was_implied = false;
                        *entry = self.dir_entry_by_look(dir, &name)?;
                    }
                    continue;
                }
                let verdict = match name.known_kind() {
                    Some(kind) if rivals.of(&name.name).is_none() => {
                        self.verdict(dir, origin, path.as_deref(), &name.name, kind).map(|said| (said, kind))
                    }
                    _ => None,
                };
                let entry = match verdict {
                    Some((Verdict::Hide(_), _)) => continue,
                    Some((Verdict::Show, kind)) => Some(self.dir_entry(dir, &name, kind)),
                    Some((Verdict::Deny(_), kind)) => {
                        // It has an inode number of its own.
                        (name.wanted, name.links) = (None, None);
                        Some(self.dir_entry(dir, &name, kind))
                    }
                    None => self.dir_entry_by_look(dir, &name)?,
                };
                shown.insert(name.name, (shown.len(), entry, is_implied));
            }
        }
        let entries = shown.into_values().filter_map(|(place, entry, _)| Some((place, entry?)));
        Ok(self.in_order(dir, entries.collect()))
    }

    /// Each entry comes with its place in the order of the branches.
    pub(crate) fn in_order(&self, dir: &Node, mut entries: Vec<(usize, DirEntry)>) -> Vec<DirEntry> {
        match self.order {
            Order::Sorted => {
                entries.sort_unstable_by(|(_, a), (_, b)| a.name.as_bytes().cmp(b.name.as_bytes()));
            }
            Order::Native => entries.sort_unstable_by_key(|(place, _)| *place),
            Order::Shuffled(seed) => {
                let path = dir.path();
                entries.sort_by_cached_key(|(_, entry)| scatter(seed, &path.join(&entry.name)));
            }
        }
        entries.into_iter().map(|(_, entry)| entry).collect()
    }

    pub(crate) fn names(&self, dir: &Arc<Node>, origin: &Origin) -> Result<Vec<Name>, Errno> {
        let branch = self.branch(origin.branch);
        match (&origin.place, &branch.content) {
            (Place::Above, content) => {
                let last = branch.at.len() == dir.depth() + 1;
                let is_file = last && matches!(content, Content::Host(_));
                let name = |at: &OsString| Name {
                    name: at.clone(),
                    kind: if is_file { Told::Nothing } else { Told::Implied },
                    wanted: None,
                    links: None,
                };
                Ok(branch.at.get(dir.depth()).map(name).into_iter().collect())
            }
            (Place::Host(anchor), Content::Host(host)) => {
                let fd = open_dir(dir, origin, host, anchor)?;
                let names = host::read_dir(&fd, MOST_NAMES).inspect_err(|errno| {
                    if *errno == Errno::OVERFLOW {
                        self.fault(dir.path(), FaultReason::TooManyNames { most: MOST_NAMES });
                    }
                })?;
                Ok(host_names(branch, anchor.high_half(dir), names))
            }
            (Place::Entry(at), Content::Layer(layer)) => {
                let children = layer.layer.children(*at);
                Ok(children.into_iter().map(|child| self.layer_name(origin, branch, child)).collect())
            }
            (Place::InputDir(at), Content::Inputs(inputs)) => {
                let name = |(name, is_dir): (&str, bool)| Name {
                    name: name.into(),
                    kind: if is_dir { Told::Implied } else { Told::Kind(FileKind::Regular) },
                    wanted: None,
                    links: None,
                };
                Ok(inputs.index.children(*at).map(name).collect())
            }
            (Place::Alias(target), _) => {
                let names = self.list_merged(target)?.into_iter();
                let names = names.filter(|entry| entry.kind != FileKind::Whiteout);
                Ok(names.map(|entry| alias_name(dir, entry)).collect())
            }
            _ => Ok(Vec::new()),
        }
    }

    pub(crate) fn layer_name(&self, origin: &Origin, branch: &Branch, child: u32) -> Name {
        let Content::Layer(layer) = &branch.content else { unreachable!("a layer's entry is in a layer") };
        let entry = layer.layer.entry(child);
        let kind = match &entry.kind {
            Kind::Directory { .. } if layer.implied.contains(&child) => Told::Implied,
            Kind::Directory { .. } => Told::Kind(FileKind::Directory),
            Kind::File { .. } | Kind::HardLink { .. } => Told::Kind(FileKind::Regular),
            Kind::Symlink { .. } if branch.symlinks == Symlinks::Never => Told::Kind(FileKind::Symlink),
            Kind::Symlink { .. } => Told::Nothing,
            Kind::Fifo => Told::Kind(FileKind::Fifo),
            Kind::Whiteout | Kind::Device { .. } => Told::Kind(FileKind::Whiteout),
        };
        let content = layer.layer.content(child).unwrap_or(child);
        let links = LayerLinks { branch: origin.branch, object: object_of_entry(content) };
        let links = (layer.layer.nlink(content) > 1).then_some(links);
        let name = entry.path.file_name().unwrap_or_default().to_owned();
        Name { name, kind, wanted: None, links }
    }

    /// `None` if the type alone does not tell.
    fn verdict(
        &self,
        dir: &Node,
        origin: &Origin,
        path: Option<&Path>,
        name: &OsStr,
        kind: FileKind,
    ) -> Option<Verdict> {
        let Some(path) = path else { return Some(Verdict::Show) };
        let in_branch = self.dir_in_branch(dir, origin).map(|dir| dir.join(name));
        let subject = Subject::of_kind(kind);
        let verdict =
            self.judge_paths(origin, &path.join(name), in_branch, |judged| judged.verdict(&subject));
        if !subject.was_looked_at() {
            return Some(verdict);
        }
        if self.is_live(origin) {
            // Whether the name is listed may change while the directory does not.
            dir.judged();
        }
        None
    }

    pub(crate) fn dir_entry(&self, dir: &Node, name: &Name, kind: FileKind) -> DirEntry {
        let key = name.links.map_or_else(|| Key::name(dir, &name.name), Key::Links);
        let hash = || name.links.map_or_else(|| dir.path_hash_of(&name.name), LayerLinks::hash);
        let ino = match self.table.get(key) {
            Some(node) => node.shown(),
            None => inode::guess(name.wanted, || hash().seed()),
        };
        DirEntry { name: name.name.clone(), kind, ino }
    }

    /// `None` if the name is hidden from all branches.
    fn dir_entry_by_look(&self, dir: &Arc<Node>, name: &Name) -> Result<Option<DirEntry>, Errno> {
        let (kind, wanted, links) =
            match (self.resolve(dir, &name.name, ViewLinks::Follow), name.known_kind()) {
                (Ok(found), _) => (found.attr.kind, found.wanted, found.links),
                (Err(Errno::NOENT), _) => return Ok(None),
                // Listed all the same; whoever uses it gets the error.
                (Err(_), Some(kind)) => (kind, name.wanted, name.links),
                (Err(_), None) => (FileKind::Symlink, name.wanted, name.links),
            };
        let name = Name { name: name.name.clone(), wanted, kind: Told::Kind(kind), links };
        Ok(Some(self.dir_entry(dir, &name, kind)))
    }
}

/// Whether a file of the same name in a later branch may take its place.
fn has_rivals(entry: &DirEntry) -> bool {
    !matches!(entry.kind, FileKind::Directory | FileKind::Whiteout)
}

/// A number that nothing but the seed and the path decides.
fn scatter(seed: u64, path: &Path) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(path.as_os_str().as_bytes());
    *hasher.finalize().as_bytes()
}

/// A name of the directory that the link which is `dir` leads to, or of one below that.
fn alias_name(dir: &Node, DirEntry { name, kind, ino }: DirEntry) -> Name {
    let high = || dir.path_hash_of(&name).high_half();
    let wanted = inode::wanted(ino).map(|ino| inode::with_high_half(high(), ino));
    Name { name, kind: Told::Kind(kind), wanted, links: None }
}

type HostName = (OsString, Option<FileType>, u64);

/// `high`: that of [`Anchor::high_half`](crate::origin::Anchor::high_half).
pub(crate) fn host_names(branch: &Branch, high: u16, names: Vec<HostName>) -> Vec<Name> {
    let host_name = |name| host_name(branch, high, name);
    if branch.whiteouts != Whiteouts::Oci {
        return names.into_iter().filter_map(host_name).collect();
    }
    let (markers, names): (Vec<_>, Vec<_>) =
        names.into_iter().partition(|(name, ..)| host::oci_deletes(name).is_some());
    let there: HashSet<_> = names.iter().map(|(name, ..)| name.clone()).collect();
    let deleted = markers.iter().filter_map(|(marker, ..)| host::oci_deletes(marker)).filter(|name| {
        // What the layer has itself it speaks of as deleted in those below.
        !name.is_empty() && !there.contains(*name)
    });
    let whiteout = |name: &OsStr| Name {
        name: name.to_owned(),
        kind: Told::Kind(FileKind::Whiteout),
        wanted: None,
        links: None,
    };
    let deleted: Vec<_> = deleted.map(whiteout).collect();
    names.into_iter().filter_map(host_name).chain(deleted).collect()
}

fn host_name(branch: &Branch, high: u16, (name, kind, ino): HostName) -> Option<Name> {
    let told = match kind {
        None => Told::Nothing,
        Some(FileType::Symlink) if branch.symlinks != Symlinks::Never => Told::Nothing,
        // Either may be a whiteout.
        Some(FileType::CharacterDevice | FileType::RegularFile) if branch.whiteouts == Whiteouts::Overlay => {
            Told::Nothing
        }
        Some(kind) => Told::Kind(host::kind_of(kind)?),
    };
    Some(Name { name, kind: told, wanted: Some(inode::with_high_half(high, ino)), links: None })
}
