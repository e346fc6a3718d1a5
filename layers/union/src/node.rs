//! A node: one name of a segment that somebody holds, and the table that gives the same node to all who hold it.
//! A node lives as long as its holders (the kernel's dentries, through the adapter); so does its inode number.

use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::fmt;
use std::hash::BuildHasher;
use std::path::PathBuf;
use std::ptr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};

use hashbrown::HashTable;
use rustix::io::Errno;

use crate::attr::FileKind;
use crate::hard_link::{HardLink, LinkedFile, LinkedFiles};
use crate::inode::InodeTable;
use crate::kept_name::KeptName;
use crate::origin::{Origin, Origins, Place};
use crate::watch::{Coverage, Watches};

/// Identifies a node within its segment: a hash of its path, the same whenever the name is looked up. Hard links of
/// a layer share one. In halves, so that it is aligned like all else in a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeKey([u64; 2]);

impl NodeKey {
    pub(crate) fn root() -> NodeKey {
        NodeKey([0, 0])
    }

    /// Of a name in the directory that has this key.
    pub fn child(self, name: &OsStr) -> NodeKey {
        NodeKey::hash(self, name.as_encoded_bytes())
    }

    /// The node of all names of a layer's hard-link group.
    pub(crate) fn hard_links(branch: u16, entry: u32) -> NodeKey {
        // A name has no slash, so that no path gets the same hash.
        NodeKey::hash(NodeKey::root(), format!("/{branch}/{entry}").as_bytes())
    }

    /// Of what one branch alone has at a name. Not the key of any path.
    pub(crate) fn alone(self, branch: u16, name: &OsStr) -> NodeKey {
        NodeKey::hash(self, &[format!("/{branch}/").as_bytes(), name.as_encoded_bytes()].concat())
    }

    fn hash(start: NodeKey, bytes: &[u8]) -> NodeKey {
        // One call, because the incremental hasher is two kilobytes that would have to be made and moved.
        let hash = blake3::hash(&[&start.number().to_le_bytes(), bytes].concat());
        let half =
            |at| u64::from_le_bytes(hash.as_bytes()[at..at + 8].try_into().expect("a hash has 32 bytes"));
        NodeKey([half(0), half(8)])
    }

    pub fn number(self) -> u128 {
        u128::from(self.0[1]) << 64 | u128::from(self.0[0])
    }

    pub(crate) fn seed(self) -> u64 {
        self.0[0]
    }
}

/// Compare nodes by [`Node::key`] within a segment, by [`Node::ino`] within a server. A server keeps one for each name that
/// the kernel remembers, so that its size counts.
pub struct Node {
    parent: Option<Arc<Node>>,
    name: KeptName,
    key: NodeKey,
    ino: u64,
    /// Rare, so that others need not carry its size.
    hard_link: OnceLock<Box<HardLink>>,
    kind: FileKind,
    depth: u32,
    /// Links followed on the way here.
    pub(crate) follows: u8,
    /// Lower segments do not show through this directory.
    pub(crate) opaque: bool,
    pub(crate) origins: Origins,
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

    /// How many names lead to it.
    pub(crate) fn depth(&self) -> usize {
        self.depth as usize
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
        let mut names = Vec::with_capacity(self.depth().saturating_sub(depth));
        let mut node = self;
        while node.depth() > depth {
            names.push(node.name());
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
/// A table with more places than that for each node gives them back.
const SPARSE: usize = 8;

/// Each node is in one of both.
#[derive(Default)]
struct Shard {
    settled: HashTable<Held>,
    /// Those that a sweep has to look at.
    doubtful: HashTable<Held>,
}

/// A node of the table. One that is going cannot be asked for its key.
struct Held {
    hash: u64,
    node: Weak<Node>,
}

/// The live nodes of a segment. It keeps none of them alive.
pub(crate) struct NodeTable {
    shards: [Mutex<Shard>; SHARDS],
    /// So that nobody can choose names that are slow to find.
    hasher: RandomState,
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
        Arc::new(NodeTable { shards, hasher: RandomState::new(), inodes, linked, watches, live })
    }

    pub(crate) fn get(&self, key: NodeKey) -> Option<Arc<Node>> {
        let mut others = Vec::new();
        let (shard, hash) = self.shard(key);
        let node = shard.find(hash, key, &mut others);
        drop(shard);
        node
    }

    pub(crate) fn intern(
        self: &Arc<NodeTable>,
        parent: Option<&Arc<Node>>,
        name: &OsStr,
        key: NodeKey,
        new: NewNode,
    ) -> Interned {
        let mut others = Vec::new();
        let (mut shard, hash) = self.shard(key);
        let old = shard.find(hash, key, &mut others);
        if let Some(node) = old.as_ref()
            && node.object == new.object
        {
            drop(shard);
            return Interned::Known(old.expect("just looked at"));
        }
        let node = self.node(parent, name, key, new);
        if let Some(old) = &old {
            shard.take(hash, old);
        }
        let held = Held { hash, node: Arc::downgrade(&node) };
        let nodes = if self.live { &mut shard.doubtful } else { &mut shard.settled };
        nodes.insert_unique(hash, held, Held::hash);
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
            name: name.into(),
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
            let (mut shard, hash) = self.shard(node.key);
            shard.take(hash, node);
        }
    }

    /// Those in doubt.
    pub(crate) fn doubtful(&self) -> Vec<Arc<Node>> {
        let mut nodes = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().expect("no holder of a shard panics");
            nodes.extend(shard.doubtful.iter().filter_map(|held| held.node.upgrade()));
        }
        nodes
    }

    fn doubt(&self, node: &Node) {
        let (mut shard, hash) = self.shard(node.key);
        if self.live
            && let Some(held) = shard.take(hash, node)
        {
            shard.doubtful.insert_unique(hash, held, Held::hash);
        }
    }

    fn settle(&self, node: &Node) {
        let (mut shard, hash) = self.shard(node.key);
        if let Some(held) = shard.take(hash, node) {
            shard.settled.insert_unique(hash, held, Held::hash);
        }
    }

    pub(crate) fn live(&self) -> Vec<Arc<Node>> {
        let mut nodes = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().expect("no holder of a shard panics");
            nodes.extend(shard.both().into_iter().flatten().filter_map(|held| held.node.upgrade()));
        }
        nodes
    }

    fn forget(&self, node: &Node) {
        let (mut shard, hash) = self.shard(node.key);
        shard.take_gone(hash);
        drop(shard);
        match node.hard_link.get() {
            Some(link) => self.linked.leave(link, node.ino),
            None => self.inodes.release(node.ino),
        }
    }

    /// Where the key's node is, and by which hash.
    fn shard(&self, key: NodeKey) -> (MutexGuard<'_, Shard>, u64) {
        let hash = self.hasher.hash_one(key);
        // The tables go by the other bits.
        let shard = &self.shards[(hash >> 32) as usize % SHARDS];
        (shard.lock().expect("no holder of a shard panics"), hash)
    }
}

impl Shard {
    fn both(&self) -> [&HashTable<Held>; 2] {
        [&self.doubtful, &self.settled]
    }

    /// `others` takes those that only have the same hash, which may not go while the shard is locked.
    fn find(&self, hash: u64, key: NodeKey, others: &mut Vec<Arc<Node>>) -> Option<Arc<Node>> {
        let same_hash = self.both().into_iter().flat_map(|nodes| nodes.iter_hash(hash));
        for node in same_hash.filter(|held| held.hash == hash).filter_map(|held| held.node.upgrade()) {
            if node.key == key {
                return Some(node);
            }
            others.push(node);
        }
        None
    }

    /// `None` if another node has taken its place.
    fn take(&mut self, hash: u64, node: &Node) -> Option<Held> {
        self.take_first(hash, |held| ptr::eq(held.node.as_ptr(), node))
    }

    /// One that is nobody's. It may have been moved out of its place, and any other with the hash serves as well.
    fn take_gone(&mut self, hash: u64) {
        self.take_first(hash, |held| held.hash == hash && held.node.strong_count() == 0);
    }

    fn take_first(&mut self, hash: u64, is_it: impl Fn(&Held) -> bool) -> Option<Held> {
        [&mut self.doubtful, &mut self.settled].into_iter().find_map(|nodes| {
            let (held, _) = nodes.find_entry(hash, &is_it).ok()?.remove();
            // Those in doubt are looked through, empty places too.
            if nodes.len() < nodes.capacity() / SPARSE {
                nodes.shrink_to(2 * nodes.len(), Held::hash);
            }
            Some(held)
        })
    }
}

impl Held {
    fn hash(&self) -> u64 {
        self.hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_fits_a_chunk_of_192_bytes() {
        let counts = 2 * size_of::<usize>();
        let size_of_chunk = size_of::<usize>();
        assert!(counts + size_of::<Node>() + size_of_chunk <= 192);
    }

    fn table() -> Arc<NodeTable> {
        NodeTable::new(Arc::default(), Arc::new(Watches::new(None)), true)
    }

    fn intern(table: &Arc<NodeTable>, parent: Option<&Arc<Node>>, key: u64) -> Arc<Node> {
        let new = NewNode {
            kind: FileKind::Directory,
            follows: 0,
            opaque: false,
            origins: Vec::new(),
            object: 1,
            print: 1,
            low32: None,
            linked: None,
        };
        match table.intern(parent, "x".as_ref(), NodeKey([key, 0]), new) {
            Interned::New(node) => node,
            _ => unreachable!("nobody has the key"),
        }
    }

    #[test]
    fn a_node_is_found_and_goes_whether_it_is_in_doubt_or_not() {
        let table = table();
        let nodes: Vec<_> = (1..=1000).map(|key| intern(&table, None, key)).collect();
        assert_eq!(table.doubtful().len(), 1000);
        nodes.iter().for_each(|node| node.settle());
        nodes[..10].iter().for_each(|node| node.doubt());
        assert_eq!((table.doubtful().len(), table.live().len()), (10, 1000));
        let is_found =
            |node: &Arc<Node>| table.get(node.key()).is_some_and(|found| Arc::ptr_eq(&found, node));
        assert!(nodes.iter().all(is_found));
        drop(nodes);
        assert!(table.live().is_empty() && table.inodes.is_empty());
    }

    #[test]
    fn a_directory_whose_last_holder_is_a_child_leaves_nothing() {
        let table = table();
        let dir = intern(&table, None, 1);
        let child = intern(&table, Some(&dir), 2);
        drop(dir);
        drop(child);
        for shard in &table.shards {
            let shard = shard.lock().unwrap();
            assert!(shard.both().iter().all(|nodes| nodes.is_empty()));
        }
    }
}
