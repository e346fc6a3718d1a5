//! A layer as a branch: a manifest's tree, shared by all segments that use it, and where its blobs are. A skeleton is
//! a layer that is made up on the spot.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use vfsrun_layers::{
    Digest, Entry, Hold, Kind, LayerStore, Manifest, ManifestError, Meta, StoreError, Tree, order,
};

use crate::describe::{SkeletonContent, SkeletonEntry};
use crate::{host, trust};

/// A loaded manifest and what is asked of it all the time.
#[derive(Debug)]
pub(crate) struct LayerTree {
    pub(crate) tree: Tree,
    /// Further names of the file at a position.
    links: HashMap<u32, u32>,
    /// Directories with a whiteout right in them. `None` stands for a root directory that the manifest leaves out.
    whiteouts: HashSet<Option<u32>>,
}

impl LayerTree {
    pub(crate) fn new(manifest: Manifest) -> LayerTree {
        let tree = Tree::new(manifest);
        let (mut links, mut whiteouts) = (HashMap::new(), HashSet::new());
        for entry in tree.entries() {
            match &entry.kind {
                Kind::HardLink { to } => {
                    if let Some(file) = tree.position(to) {
                        *links.entry(file as u32).or_default() += 1;
                    }
                }
                Kind::Whiteout => {
                    let parent = entry.path.parent().unwrap_or(Path::new(""));
                    whiteouts.insert(tree.position(parent).map(|position| position as u32));
                }
                _ => {}
            }
        }
        LayerTree { tree, links, whiteouts }
    }

    /// Those that are shown.
    pub(crate) fn has_xattrs(&self, is_trusted: bool) -> bool {
        let is_shown = |name: &OsString| is_trusted || name != trust::CAPABILITY;
        self.tree.entries().iter().any(|entry| entry.meta.xattrs.keys().any(is_shown))
    }

    /// Whether it has deleted names or opaque directories.
    pub(crate) fn hides(&self) -> bool {
        let hides = |entry: &Entry| matches!(entry.kind, Kind::Directory { opaque: true } | Kind::Whiteout);
        self.tree.entries().iter().any(hides)
    }

    pub(crate) fn root(&self) -> Option<u32> {
        self.position(Path::new(""))
    }

    pub(crate) fn position(&self, path: &Path) -> Option<u32> {
        self.tree.position(path).map(|position| position as u32)
    }

    pub(crate) fn entry(&self, position: u32) -> &Entry {
        &self.tree.entries()[position as usize]
    }

    /// The child of a directory; devices are not there.
    pub(crate) fn child(&self, dir: Option<u32>, name: &OsStr) -> Option<u32> {
        let dir = dir.map_or(Path::new(""), |dir| &self.entry(dir).path);
        self.position(&dir.join(name)).filter(|position| self.is_shown(*position))
    }

    pub(crate) fn children(&self, dir: Option<u32>) -> Vec<u32> {
        let shown = |position: &u32| self.is_shown(*position);
        match dir {
            Some(dir) => {
                self.tree.children_of(dir as usize).map(|position| position as u32).filter(shown).collect()
            }
            None => self
                .tree
                .children(Path::new(""))
                .filter_map(|entry| self.position(&entry.path))
                .filter(shown)
                .collect(),
        }
    }

    /// The entry that holds the content: a hard link's file, else the entry itself.
    pub(crate) fn content(&self, position: u32) -> Option<u32> {
        match &self.entry(position).kind {
            Kind::HardLink { to } => self.position(to),
            _ => Some(position),
        }
    }

    /// Names of the file at `position`, which is not a hard link itself.
    pub(crate) fn nlink(&self, position: u32) -> u32 {
        1 + self.links.get(&position).copied().unwrap_or(0)
    }

    pub(crate) fn has_whiteouts(&self, dir: Option<u32>) -> bool {
        self.whiteouts.contains(&dir)
    }

    fn is_shown(&self, position: u32) -> bool {
        !matches!(self.entry(position).kind, Kind::Device { .. })
    }
}

#[derive(Debug)]
pub(crate) enum Blobs {
    Store(LayerStore),
    /// Of a skeleton.
    Memory(HashMap<Digest, String>),
}

#[derive(Debug)]
pub(crate) struct LayerBranch {
    /// `None` for a skeleton.
    pub(crate) digest: Option<Digest>,
    pub(crate) layer: Arc<LayerTree>,
    pub(crate) blobs: Blobs,
    /// The store keeps the layer as long as it is shown. `None` for a skeleton.
    pub(crate) hold: Option<Hold>,
    /// Positions of directories that only exist because something lies below.
    pub(crate) implied: HashSet<u32>,
}

impl LayerBranch {
    pub(crate) fn skeleton(entries: &[SkeletonEntry]) -> Result<LayerBranch, ManifestError> {
        let mut blobs = HashMap::new();
        let mut all: Vec<Entry> = entries.iter().map(|entry| skeleton_entry(entry, &mut blobs)).collect();
        let implied_paths = implied_parents(entries);
        all.extend(implied_paths.iter().map(|path| Entry {
            path: path.clone(),
            kind: Kind::Directory { opaque: false },
            meta: Meta { mode: 0o755, mtime: (1, 0), ..Meta::default() },
        }));
        all.sort_by(|a, b| order::compare(&a.path, &b.path));
        let layer = LayerTree::new(Manifest::from_entries(all)?);
        let implied = implied_paths.iter().filter_map(|path| layer.position(path)).collect();
        let blobs = Blobs::Memory(blobs);
        Ok(LayerBranch { digest: None, layer: Arc::new(layer), blobs, hold: None, implied })
    }

    /// Opens a blob for reading that holds what the manifest says. Errors: the reason as text, for a fault.
    pub(crate) fn open(&self, digest: &Digest, size: u64) -> Result<OwnedFd, String> {
        match &self.blobs {
            Blobs::Store(store) => open_blob(store, digest, Some(size)),
            Blobs::Memory(blobs) => match blobs.get(digest) {
                Some(text) => in_memory(text).map_err(|errno| errno.to_string()),
                None => Err(Errno::NOENT.to_string()),
            },
        }
    }
}

/// `size` is the manifest's, if it tells one. Errors: the reason as text, for a fault, which names the blob itself.
pub(crate) fn open_blob(store: &LayerStore, digest: &Digest, size: Option<u64>) -> Result<OwnedFd, String> {
    store.open_sound_blob(digest, size).map_err(|error| match error {
        StoreError::DamagedBlob { fault, .. } => format!("it is {fault}"),
        error => chain(&error),
    })
}

/// A message and its causes, as `main` would print them.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn skeleton_entry(entry: &SkeletonEntry, blobs: &mut HashMap<Digest, String>) -> Entry {
    let kind = match &entry.content {
        SkeletonContent::Directory => Kind::Directory { opaque: false },
        SkeletonContent::Symlink(target) => Kind::Symlink { target: target.clone().into() },
        SkeletonContent::File(text) => {
            let digest = Digest::of(text.as_bytes());
            blobs.insert(digest, text.clone());
            Kind::File { digest, size: text.len() as u64 }
        }
    };
    let mode = if matches!(entry.content, SkeletonContent::Symlink(_)) { 0o777 } else { entry.mode & 0o7777 };
    let (uid, gid) = entry.owner;
    Entry { path: entry.path.clone(), kind, meta: Meta { mode, uid, gid, mtime: (1, 0), ..Meta::default() } }
}

fn implied_parents(entries: &[SkeletonEntry]) -> HashSet<PathBuf> {
    let said: HashSet<&Path> = entries.iter().map(|entry| entry.path.as_path()).collect();
    let parents = entries.iter().flat_map(|entry| entry.path.ancestors().skip(1));
    parents.filter(|path| !said.contains(path) && !path.as_os_str().is_empty()).map(Path::to_owned).collect()
}

fn in_memory(text: &str) -> Result<OwnedFd, Errno> {
    let file = rustix::fs::memfd_create("skeleton", MemfdFlags::CLOEXEC)?;
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        rest = &rest[rustix::io::write(&file, rest)?..];
    }
    // A second description: read-only and at offset 0.
    host::reopen(file.as_fd())
}

/// What only overlayfs writes and reads: never passed on from a branch, whose author could forge it.
pub(crate) fn is_overlay_mark(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(b"user.overlay.") || name.starts_with(b"trusted.overlay.")
}
