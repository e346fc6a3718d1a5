//! A node: one name of a segment that somebody holds. It lives as long as its holders (the kernel's dentries, through the
//! adapter); so does its inode number.

mod table;

use std::ffi::OsStr;
use std::fmt;
use std::iter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use rustix::io::Errno;

pub(crate) use self::table::{Interned, NodeTable};
use crate::attr::FileKind;
use crate::hard_link::LinkedFile;
use crate::inode;
use crate::kept_name::KeptName;
use crate::merge::Identity;
use crate::origin::{BranchIndex, Origin, OriginList, Origins, Place};
use crate::watch::Coverage;

/// By what a node is found in its segment.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Key<'a> {
    Root,
    /// A name in a directory, which stays where it is in memory for as long as it has nodes below it.
    Name(*const Node, &'a OsStr),
    Links(LayerLinks),
}

impl<'a> Key<'a> {
    pub(crate) fn name(dir: &Node, name: &'a OsStr) -> Key<'a> {
        Key::Name(dir, name)
    }
}

/// The names of a file of a layer that has several. They are one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LayerLinks {
    pub(crate) branch: BranchIndex,
    /// That of [`Origin`], the same for all of them.
    pub(crate) object: u64,
}

impl LayerLinks {
    pub(crate) fn hash(self) -> PathHash {
        // No path of a segment begins with slashes.
        PathHash::of(format!("//{}/{}", self.branch, self.object).as_ref())
    }
}

/// Stands for a path relative to the root of a segment: the same in all segments and whenever it is asked for, and no
/// other path's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathHash(u128);

impl PathHash {
    pub(crate) fn of(path: &Path) -> PathHash {
        let hash = blake3::hash(path.as_os_str().as_encoded_bytes());
        let (half, _) = hash.as_bytes().split_first_chunk().expect("a hash has 32 bytes");
        PathHash(u128::from_le_bytes(*half))
    }

    pub fn number(self) -> u128 {
        self.0
    }

    /// A part of it.
    pub(crate) fn seed(self) -> u64 {
        self.0 as u64
    }

    /// Of the inode numbers that are shown by the followed link at the path.
    pub(crate) fn high_half(self) -> u16 {
        inode::high_half(self.seed())
    }
}

/// Which of a process's segments it is, as long as one of its nodes is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SegmentId(usize);

/// Compare nodes of a server by [`Node::ino`]. It keeps one for each name that the kernel remembers, so that its size counts.
pub struct Node {
    parent: Option<Arc<Node>>,
    name: KeptName,
    ino: u64,
    pub(crate) kept_origins: Origins,
    pub(crate) served: Served,
    pub(crate) coverage: Coverage,
    /// For those who serve it: how often they have told of it.
    pub told: AtomicU32,
    kind: FileKind,
    /// Links followed on the way here.
    pub(crate) follows: u8,
    /// Lower segments do not show through this directory.
    pub(crate) opaque: bool,
    /// It stands for all names of a file of a layer.
    is_links: bool,
}

/// What was given out about a node, so that a later change can be told.
#[derive(Default)]
pub(crate) struct Served {
    /// Hash of the stat of every host origin.
    print: AtomicU64,
    /// Hash of permissions, owner and group as shown.
    rights: AtomicU32,
    flags: AtomicU8,
    pub(crate) patience: Patience,
}

impl Served {
    /// Its content was opened: pages may be cached.
    pub(crate) const CONTENT: u8 = 1;
    /// A writer existed when it was opened: no stat proves what its pages hold.
    pub(crate) const UNSTABLE: u8 = 2;
    /// Its ctime was so young that a further change might not show in it.
    pub(crate) const RACY: u8 = 4;
    /// It was looked up again in vain: some may hold the node and others its absence.
    pub(crate) const LOST: u8 = 8;
    /// No lease may be asked for, and that will stay so: its stat alone decides.
    pub(crate) const NO_LEASE: u8 = 32;
    /// It was served in a state that came about while somebody was inside.
    pub(crate) const YOUNG: u8 = 16;
    /// Of a directory: which names it has depends on what its own times do not prove, so they are looked at again.
    pub(crate) const JUDGED: u8 = 64;
    /// It is a name of a file that has others.
    const LINKED: u8 = 128;

    pub(crate) fn print(&self) -> u64 {
        self.print.load(Ordering::Acquire)
    }

    /// Returns what was given out before.
    pub(crate) fn replace_print(&self, print: u64) -> u64 {
        self.print.swap(print, Ordering::AcqRel)
    }

    pub(crate) fn rights(&self) -> u32 {
        self.rights.load(Ordering::Acquire)
    }

    pub(crate) fn set_rights(&self, rights: u32) {
        self.rights.store(rights, Ordering::Release);
    }

    /// Nothing that was given out before is held any more.
    pub(crate) fn renew(&self, print: u64, racy: bool) {
        self.print.store(print, Ordering::Release);
        self.flags.fetch_and(Served::JUDGED | Served::LINKED, Ordering::AcqRel);
        if racy {
            self.set(Served::RACY);
        }
    }

    pub(crate) fn set(&self, flag: u8) {
        self.flags.fetch_or(flag, Ordering::AcqRel);
    }

    /// Whether it was set already.
    pub(crate) fn set_if_new(&self, flag: u8) -> bool {
        self.flags.fetch_or(flag, Ordering::AcqRel) & flag != 0
    }

    pub(crate) fn clear(&self, flag: u8) {
        self.flags.fetch_and(!flag, Ordering::AcqRel);
    }

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags.load(Ordering::Acquire) & flag != 0
    }
}

/// How often in a row it was in vain to put a node under watch; each time doubles the wait for another try.
#[derive(Default)]
pub(crate) struct Patience {
    in_vain: AtomicU8,
    wait: AtomicU8,
}

impl Patience {
    /// Whether it is too early for another try. Each question brings it nearer.
    pub(crate) fn must_wait(&self) -> bool {
        let less = |wait: u8| wait.checked_sub(1);
        self.wait.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).is_ok()
    }

    /// A try was in vain, or its price was not worth it.
    pub(crate) fn put_off(&self) {
        let in_vain = self.in_vain.load(Ordering::Acquire).min(6);
        self.in_vain.store(in_vain + 1, Ordering::Release);
        self.wait.store((1 << in_vain) - 1, Ordering::Release);
    }

    pub(crate) fn renew(&self) {
        self.in_vain.store(0, Ordering::Release);
    }
}

/// A node about to be made.
pub(crate) struct NewNode {
    pub(crate) kind: FileKind,
    pub(crate) follows: u8,
    pub(crate) opaque: bool,
    pub(crate) origins: Vec<Origin>,
    pub(crate) object: u64,
    pub(crate) print: u64,
    pub(crate) wanted: Option<u64>,
    pub(crate) links: Option<LayerLinks>,
    pub(crate) linked: Option<LinkedFile>,
}

impl Node {
    /// Its own number: no other live node of the server has it.
    pub fn ino(&self) -> u64 {
        self.ino
    }

    /// The inode number that is shown of it: its own, or the one that is shown of all hard links of the file.
    pub fn shown(&self) -> u64 {
        if self.served.has(Served::LINKED) { self.table().linked.shown(self.ino) } else { self.ino }
    }

    pub fn path_hash(&self) -> PathHash {
        PathHash::of(&self.path())
    }

    /// Of a name in this directory.
    pub fn path_hash_of(&self, name: &OsStr) -> PathHash {
        PathHash::of(&self.path().join(name))
    }

    pub fn kind(&self) -> FileKind {
        self.kind
    }

    /// `None` for the root of the segment. Of a hard link in a layer: the directory of the name that was found first.
    pub fn parent(&self) -> Option<&Arc<Node>> {
        self.parent.as_ref()
    }

    /// Empty for the root of the segment.
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// Whether it was forgotten, and its name may be forgotten once more: nobody has looked that up since in the same
    /// directory.
    pub fn is_forgotten(&self) -> bool {
        self.table().get(self.key()).is_none()
    }

    /// Where it comes from, one for each branch that has a part in it.
    pub(crate) fn origins(&self) -> OriginList<'_> {
        self.kept_origins.list(self.parent())
    }

    /// Hash of what the node is: origins, devices and inode numbers. Another object at the path is another node.
    pub(crate) fn object(&self) -> u64 {
        self.kept_origins.object().unwrap_or_else(|| {
            let mut identity = Identity::default();
            for origin in self.origins().iter() {
                identity.add(origin, origin.object, 0);
            }
            identity.finish(self.opaque).0
        })
    }

    /// Which segment it is of.
    pub fn segment(&self) -> SegmentId {
        SegmentId(Arc::as_ptr(self.table()).addr())
    }

    fn table(&self) -> &Arc<NodeTable> {
        let root = iter::successors(Some(self), |node| node.parent.as_deref()).last();
        root.and_then(|root| root.kept_origins.table()).expect("the root has it")
    }

    fn key(&self) -> Key<'_> {
        if self.is_links {
            let origins = self.origins();
            let origin = origins.first().expect("it is a file of a layer");
            return Key::Links(LayerLinks { branch: origin.branch, object: origin.object });
        }
        self.parent().map_or(Key::Root, |dir| Key::name(dir, self.name()))
    }

    /// How many names lead to it.
    pub(crate) fn depth(&self) -> usize {
        iter::successors(self.parent(), |node| node.parent()).count()
    }

    /// Relative to the root of the segment.
    pub fn path(&self) -> PathBuf {
        self.path_from(0)
    }

    /// Errors: ACCESS if a rule denies it.
    pub(crate) fn refuse_denied(&self) -> Result<(), Errno> {
        match self.origins().first() {
            Some(Origin { place: Place::Denied, .. }) => Err(Errno::ACCESS),
            _ => Ok(()),
        }
    }

    /// It is a name of a file that has others.
    pub(crate) fn join(&self, file: LinkedFile) {
        if !self.served.has(Served::LINKED) {
            self.table().linked.join(file, self.ino);
            self.served.set(Served::LINKED);
        }
    }

    /// Somebody has to look at it before it counts as what was served.
    pub(crate) fn doubt(&self) {
        self.table().doubt(self);
    }

    /// A rule has decided about a name in this directory by what may change while the directory does not.
    pub(crate) fn judged(&self) {
        if !self.served.set_if_new(Served::JUDGED) {
            self.doubt();
        }
    }

    /// Until somebody doubts it, nobody has to look at it.
    pub(crate) fn settle(&self) {
        self.table().settle(self);
    }

    /// The names from the ancestor at `depth` (exclusive) to this node.
    pub(crate) fn path_from(&self, depth: usize) -> PathBuf {
        let mut names: Vec<_> = iter::successors(Some(self), |node| node.parent.as_deref()).collect();
        // The root has no name.
        names.pop();
        names.iter().rev().skip(depth).map(|node| node.name()).collect()
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({:?} ino {} /{})", self.kind, self.ino, self.path().display())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.table().watches.release(self);
        self.table().forget(self);
        // By hand, because a chain of parents dropped recursively could exhaust the stack.
        let mut next = self.parent.take();
        while let Some(parent) = next {
            // Copied, not taken: a node that goes is found by its parent.
            next = Arc::into_inner(parent).and_then(|node| node.parent.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_fits_a_chunk_of_112_bytes() {
        let counts = 2 * size_of::<usize>();
        let size_of_chunk = size_of::<usize>();
        assert!(counts + size_of::<Node>() + size_of_chunk <= 112);
    }
}
