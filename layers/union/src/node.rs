//! A node: one name of a segment that somebody holds, and the table that gives the same node to all who hold it.
//! A node lives as long as its holders (the kernel's dentries, through the adapter); so does its inode number.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::ptr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};

use rustix::io::Errno;

use crate::attr::FileKind;
use crate::hard_link::{HardLink, LinkedFile, LinkedFiles};
use crate::inode::InodeTable;
use crate::origin::{Origin, Place};
use crate::watch::{Coverage, Watches};

/// Identifies a node within its segment: a hash of its path, the same whenever the name is looked up. Hard links of
/// a layer share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeKey(pub u128);

impl NodeKey {
    pub(crate) fn root() -> NodeKey {
        NodeKey(0)
    }

    /// Of a name in the directory that has this key.
    pub fn child(self, name: &OsStr) -> NodeKey {
        NodeKey::hash(self.0, name.as_encoded_bytes())
    }

    /// The node of all names of a layer's hard-link group.
    pub(crate) fn hard_links(branch: u16, entry: u32) -> NodeKey {
        // A name has no slash, so that no path gets the same hash.
        NodeKey::hash(0, format!("/{branch}/{entry}").as_bytes())
    }

    /// Of what one branch alone has at a name. Not the key of any path.
    pub(crate) fn alone(self, branch: u16, name: &OsStr) -> NodeKey {
        NodeKey::hash(self.0, &[format!("/{branch}/").as_bytes(), name.as_encoded_bytes()].concat())
    }

    fn hash(start: u128, bytes: &[u8]) -> NodeKey {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&start.to_le_bytes()).update(bytes);
        let hash = hasher.finalize();
        NodeKey(u128::from_le_bytes(hash.as_bytes()[..16].try_into().expect("a hash has 32 bytes")))
    }

    pub(crate) fn seed(self) -> u64 {
        self.0 as u64
    }
}

/// Compare nodes by [`Node::key`] within a segment, by [`Node::ino`] within a server.
pub struct Node {
    parent: Option<Arc<Node>>,
    name: OsString,
    key: NodeKey,
    ino: u64,
    /// Rare, so that others need not carry its size.
    hard_link: OnceLock<Box<HardLink>>,
    kind: FileKind,
    pub(crate) depth: usize,
    /// Links followed on the way here.
    pub(crate) follows: u8,
    /// Lower segments do not show through this directory.
    pub(crate) opaque: bool,
    pub(crate) origins: Box<[Origin]>,
    /// Hash of what the node is: origins, devices and inode numbers. Another object at the path is another node.
    pub(crate) object: u64,
    pub(crate) served: Served,
    pub(crate) coverage: Coverage,
    table: Arc<NodeTable>,
}

/// What was given out about a node, so that a later change can be told.
#[derive(Default)]
pub(crate) struct Served {
    /// Hash of the stat of every host origin.
    print: AtomicU64,
    /// Hash of permissions, owner and group as shown.
    rights: AtomicU32,
    flags: AtomicU8,
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
        self.flags.fetch_and(Served::JUDGED, Ordering::AcqRel);
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

/// A node about to be made.
pub(crate) struct NewNode {
    pub(crate) kind: FileKind,
    pub(crate) follows: u8,
    pub(crate) opaque: bool,
    pub(crate) origins: Vec<Origin>,
    pub(crate) object: u64,
    pub(crate) print: u64,
    pub(crate) low32: Option<u32>,
    pub(crate) linked: Option<LinkedFile>,
}

impl Node {
    /// Its own number: no other live node of the server has it.
    pub fn ino(&self) -> u64 {
        self.ino
    }

    /// The inode number that is shown of it: its own, or the one that is shown of all hard links of the file.
    pub fn shown(&self) -> u64 {
        self.hard_link.get().map_or(self.ino, |link| link.shown)
    }

    pub fn key(&self) -> NodeKey {
        self.key
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
    /// directory. (What lay below a forgotten directory has another one, for all that its path is the same.)
    pub fn is_forgotten(&self) -> bool {
        let Some(now) = self.table.get(self.key) else { return true };
        let parent = |node: &Node| node.parent().map(Arc::as_ptr);
        !ptr::eq(&*now, self) && parent(&now) != parent(self)
    }

    /// Relative to the root of the segment.
    pub fn path(&self) -> PathBuf {
        self.path_from(0)
    }

    /// Errors: ACCESS if a rule denies it.
    pub(crate) fn refuse_denied(&self) -> Result<(), Errno> {
        match self.origins.first().map(|origin| &origin.place) {
            Some(Place::Denied) => Err(Errno::ACCESS),
            _ => Ok(()),
        }
    }

    /// It is a name of a file that has others.
    pub(crate) fn join(&self, file: LinkedFile) {
        self.hard_link.get_or_init(|| Box::new(self.table.linked.join(file, || self.ino)));
    }

    /// Somebody has to look at it before it counts as what was served.
    pub(crate) fn doubt(&self) {
        self.table.doubt(self);
    }

    /// A rule has decided about a name in this directory by what may change while the directory does not.
    pub(crate) fn judged(&self) {
        if !self.served.set_if_new(Served::JUDGED) {
            self.doubt();
        }
    }

    /// Until somebody doubts it, nobody has to look at it.
    pub(crate) fn settle(&self) {
        self.table.settle(self);
    }

    /// The names from the ancestor at `depth` (exclusive) to this node.
    pub(crate) fn path_from(&self, depth: usize) -> PathBuf {
        let mut names = Vec::with_capacity(self.depth.saturating_sub(depth));
        let mut node = self;
        while node.depth > depth {
            names.push(node.name.as_os_str());
            node = node.parent.as_deref().expect("only the root has depth 0, and it has no parent");
        }
        names.iter().rev().collect()
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({:?} ino {} /{})", self.kind, self.ino, self.path().display())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.table.forget(self);
        self.table.watches.release(self);
        // By hand, because a chain of parents dropped recursively could exhaust the stack.
        let mut next = self.parent.take();
        while let Some(parent) = next {
            next = Arc::into_inner(parent).and_then(|mut node| node.parent.take());
        }
    }
}

const SHARDS: usize = 16;

#[derive(Default)]
struct Shard {
    nodes: HashMap<NodeKey, Weak<Node>>,
    /// Those among them that a sweep has to look at.
    doubtful: HashSet<NodeKey>,
}

/// The live nodes of a segment. It keeps none of them alive.
pub(crate) struct NodeTable {
    shards: [Mutex<Shard>; SHARDS],
    inodes: Arc<InodeTable>,
    linked: LinkedFiles,
    watches: Arc<Watches>,
    /// Whether anything in it may change.
    live: bool,
}

/// How a name that was looked up relates to the node that was live under its key.
pub(crate) enum Interned {
    New(Arc<Node>),
    /// The same object as before.
    Known(Arc<Node>),
    /// Another object took the name: a new node.
    Replaced(Arc<Node>),
}

impl NodeTable {
    pub(crate) fn new(inodes: Arc<InodeTable>, watches: Arc<Watches>, live: bool) -> Arc<NodeTable> {
        let shards = std::array::from_fn(|_| Mutex::default());
        let linked = LinkedFiles::new(Arc::clone(&inodes));
        Arc::new(NodeTable { shards, inodes, linked, watches, live })
    }

    pub(crate) fn get(&self, key: NodeKey) -> Option<Arc<Node>> {
        self.shard(key).nodes.get(&key).and_then(Weak::upgrade)
    }

    pub(crate) fn intern(
        self: &Arc<NodeTable>,
        parent: Option<&Arc<Node>>,
        name: &OsStr,
        key: NodeKey,
        new: NewNode,
    ) -> Interned {
        let mut shard = self.shard(key);
        let old = shard.nodes.get(&key).and_then(Weak::upgrade);
        if let Some(node) = old.as_ref()
            && node.object == new.object
        {
            drop(shard);
            return Interned::Known(old.expect("just looked at"));
        }
        let node = self.node(parent, name, key, new);
        shard.nodes.insert(key, Arc::downgrade(&node));
        if self.live {
            shard.doubtful.insert(key);
        }
        // Unlocked before `old` goes: the last holder of a node takes this lock.
        drop(shard);
        if old.is_some() { Interned::Replaced(node) } else { Interned::New(node) }
    }

    /// A node that is in no table: nobody finds it, and no sweep looks at it.
    pub(crate) fn node(
        self: &Arc<NodeTable>,
        parent: Option<&Arc<Node>>,
        name: &OsStr,
        key: NodeKey,
        new: NewNode,
    ) -> Arc<Node> {
        let (ino, hard_link) = match new.linked {
            Some(file) => {
                let (ino, link) = self.linked.add(file, key.seed());
                (ino, OnceLock::from(Box::new(link)))
            }
            None => (self.inodes.allocate(new.low32, key.seed()), OnceLock::new()),
        };
        Arc::new(Node {
            parent: parent.cloned(),
            name: name.to_owned(),
            key,
            ino,
            hard_link,
            kind: new.kind,
            depth: parent.map_or(0, |parent| parent.depth + 1),
            follows: new.follows,
            opaque: new.opaque,
            origins: new.origins.into(),
            object: new.object,
            served: Served { print: AtomicU64::new(new.print), ..Served::default() },
            coverage: Coverage::default(),
            table: Arc::clone(self),
        })
    }

    /// Whoever looks the name up from now on gets a new node. Hard links of a layer stay: they have other names, and do
    /// not change.
    pub(crate) fn detach(&self, node: &Node) {
        let by_path = node.parent().is_some_and(|parent| parent.key.child(&node.name) == node.key);
        if by_path {
            let mut shard = self.shard(node.key);
            shard.nodes.remove(&node.key);
            shard.doubtful.remove(&node.key);
        }
    }

    /// Those in doubt.
    pub(crate) fn doubtful(&self) -> Vec<Arc<Node>> {
        let mut nodes = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().expect("no holder of a shard panics");
            let held = |key| shard.nodes.get(key).and_then(Weak::upgrade);
            nodes.extend(shard.doubtful.iter().filter_map(held));
        }
        nodes
    }

    fn doubt(&self, node: &Node) {
        let mut shard = self.shard(node.key);
        if self.live && shard.has(node) {
            shard.doubtful.insert(node.key);
        }
    }

    fn settle(&self, node: &Node) {
        let mut shard = self.shard(node.key);
        if shard.has(node) {
            shard.doubtful.remove(&node.key);
        }
    }

    pub(crate) fn live(&self) -> Vec<Arc<Node>> {
        let mut nodes = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().expect("no holder of a shard panics");
            nodes.extend(shard.nodes.values().filter_map(Weak::upgrade));
        }
        nodes
    }

    fn forget(&self, node: &Node) {
        let mut shard = self.shard(node.key);
        // A new node may have taken the key since. This one may have been moved out of its place, but is nobody's.
        if shard.nodes.get(&node.key).is_some_and(|held| held.strong_count() == 0) {
            shard.nodes.remove(&node.key);
            shard.doubtful.remove(&node.key);
        }
        drop(shard);
        match node.hard_link.get() {
            Some(link) => self.linked.leave(link, node.ino),
            None => self.inodes.release(node.ino),
        }
    }

    fn shard(&self, key: NodeKey) -> MutexGuard<'_, Shard> {
        self.shards[key.0 as usize % SHARDS].lock().expect("no holder of a shard panics")
    }
}

impl Shard {
    fn has(&self, node: &Node) -> bool {
        self.nodes.get(&node.key).is_some_and(|held| std::ptr::eq(held.as_ptr(), node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_whose_last_holder_is_a_child_leaves_nothing() {
        let table = NodeTable::new(Arc::default(), Arc::new(Watches::new(None)), true);
        let new = || NewNode {
            kind: FileKind::Directory,
            follows: 0,
            opaque: false,
            origins: Vec::new(),
            object: 1,
            print: 1,
            low32: None,
            linked: None,
        };
        let intern = |parent: Option<&Arc<Node>>, key| match table.intern(parent, "x".as_ref(), key, new()) {
            Interned::New(node) => node,
            _ => unreachable!("the table is empty"),
        };
        let dir = intern(None, NodeKey(1));
        let child = intern(Some(&dir), NodeKey(2));
        drop(dir);
        drop(child);
        for shard in &table.shards {
            let shard = shard.lock().unwrap();
            assert!(shard.nodes.is_empty() && shard.doubtful.is_empty());
        }
    }
}
