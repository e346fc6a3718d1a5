//! The members of a tar as a tree in memory: what unpacking them one after the other would give.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use super::MemberFault;
use crate::digest::Digest;
use crate::manifest::{Entry, Kind, Meta};
use crate::{check, order};

/// Index of a file's content, in order of appearance; names that are hard links share it.
pub(super) type Inode = usize;

#[derive(Debug, Default)]
pub(super) struct Members {
    nodes: BTreeMap<Key, Node>,
    /// Of directories that others imply.
    implied_bytes: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub kind: NodeKind,
    pub meta: Meta,
}

#[derive(Clone, Debug)]
pub(super) enum NodeKind {
    File(Inode),
    /// Everything that a manifest can say without a digest.
    Other(Kind),
}

/// A path in the order of a manifest.
#[derive(Debug, PartialEq, Eq)]
struct Key(PathBuf);

impl Ord for Key {
    fn cmp(&self, other: &Key) -> Ordering {
        order::compare(&self.0, &other.0)
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Members {
    /// Adds a member; the last one of a name wins. Directories on the way that the tar has not named are made.
    pub(super) fn insert(&mut self, path: PathBuf, mut node: Node) -> Result<(), MemberFault> {
        self.make_parents(&path)?;
        let is_dir = matches!(node.kind, NodeKind::Other(Kind::Directory { .. }));
        if !is_dir && self.has_children(&path) {
            return Err(MemberFault::ReplacesDirectory);
        }
        if let (NodeKind::Other(Kind::Directory { opaque }), Some(old)) = (&mut node.kind, self.get(&path)) {
            // Deleted and made again in one layer: the lower one's names do not show through.
            *opaque |= matches!(old.kind, NodeKind::Other(Kind::Whiteout | Kind::Directory { opaque: true }));
        }
        self.nodes.insert(Key(path), node);
        Ok(())
    }

    /// Records that the lower `path` was deleted. What this layer has of that name stays.
    pub(super) fn white_out(&mut self, path: PathBuf) -> Result<(), MemberFault> {
        self.make_parents(&path)?;
        let whiteout = Node { kind: NodeKind::Other(Kind::Whiteout), meta: Meta::default() };
        let node = self.nodes.entry(Key(path)).or_insert(whiteout);
        if let NodeKind::Other(Kind::Directory { opaque }) = &mut node.kind {
            *opaque = true;
        }
        Ok(())
    }

    /// Records that nothing of the lower directory `path` shows through.
    pub(super) fn make_opaque(&mut self, path: &Path) -> Result<(), MemberFault> {
        if self.get(path).is_none() {
            self.insert(path.to_owned(), implied_directory())?;
        }
        self.white_out(path.to_owned())
    }

    /// How many there are, with the directories that others imply, and how many bytes the names of those take.
    pub(super) fn count(&self) -> (u64, u64) {
        (self.nodes.len() as u64, self.implied_bytes)
    }

    pub(super) fn get(&self, path: &Path) -> Option<&Node> {
        self.nodes.get(&Key(path.to_owned()))
    }

    /// The entries of a layer, given the contents by inode. Of each hard-link group the first in order is the file.
    pub(super) fn into_entries(self, contents: &[(Digest, u64)]) -> Vec<Entry> {
        let mut first: HashMap<Inode, PathBuf> = HashMap::new();
        let mut entries = Vec::with_capacity(self.nodes.len());
        for (Key(path), node) in self.nodes {
            let kind = match node.kind {
                NodeKind::Other(kind) => kind,
                NodeKind::File(inode) => match first.get(&inode) {
                    Some(to) => Kind::HardLink { to: to.clone() },
                    None => {
                        first.insert(inode, path.clone());
                        let (digest, size) = contents[inode];
                        Kind::File { digest, size }
                    }
                },
            };
            entries.push(Entry { path, kind, meta: node.meta });
        }
        entries
    }

    fn make_parents(&mut self, path: &Path) -> Result<(), MemberFault> {
        let parents = path.ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty());
        for parent in parents {
            let node = self.nodes.get_mut(&Key(parent.to_owned())).map(|node| &mut node.kind);
            match node {
                // Its own parents are there, too.
                Some(NodeKind::Other(Kind::Directory { .. })) => break,
                Some(NodeKind::Other(kind @ Kind::Whiteout)) => {
                    *kind = Kind::Directory { opaque: true };
                    break;
                }
                Some(_) => return Err(MemberFault::Parent { parent: parent.display().to_string() }),
                None => {
                    self.implied_bytes += parent.as_os_str().len() as u64;
                    self.nodes.insert(Key(parent.to_owned()), implied_directory());
                }
            }
        }
        Ok(())
    }

    fn has_children(&self, path: &Path) -> bool {
        let after = (Bound::Excluded(Key(path.to_owned())), Bound::Unbounded);
        self.nodes.range(after).next().is_some_and(|(next, _)| order::is_below(&next.0, path))
    }
}

/// The name of a member as a relative path: `./` and doubled or trailing slashes mean nothing.
pub(super) fn simplified(name: &[u8]) -> Result<PathBuf, MemberFault> {
    if name.first() == Some(&b'/') {
        return Err(MemberFault::Absolute);
    }
    let mut bytes = Vec::with_capacity(name.len());
    for component in name.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => continue,
            b".." => return Err(MemberFault::DotDot),
            _ => {}
        }
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(component);
    }
    let path = PathBuf::from(<OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes));
    if name.is_empty() { Err(MemberFault::Name) } else { Ok(path) }
}

/// A path that a layer can hold.
pub(super) fn checked(path: PathBuf) -> Result<PathBuf, MemberFault> {
    if check::path(&path).is_err() { Err(MemberFault::Name) } else { Ok(path) }
}

fn implied_directory() -> Node {
    let meta = Meta { mode: 0o755, ..Meta::default() };
    Node { kind: NodeKind::Other(Kind::Directory { opaque: false }), meta }
}
