//! A node: one name of a segment that somebody holds, and the table that gives the same node to all who hold it.
//! A node lives as long as its holders (the kernel's dentries, through the adapter); so does its inode number.

use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::fmt;
use std::hash::BuildHasher;
use std::iter;
use std::mem;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use hashbrown::HashTable;
use rustix::io::Errno;

use crate::attr::FileKind;
use crate::hard_link::{LinkedFile, LinkedFiles};
use crate::inode::{self, InodeTable};
use crate::kept_name::KeptName;
use crate::merge::Identity;
use crate::origin::{BranchIndex, Origin, OriginList, Origins, Place};
use crate::watch::{Coverage, Watches};

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

const SHARDS: usize = 16;
/// A table with more places than that for each node gives them back.
const SPARSE: usize = 8;

/// Each node is in one of both.
#[derive(Default)]
struct Shard {
    settled: HashTable<Weak<Node>>,
    /// Those that a sweep has to look at.
    doubtful: HashTable<Weak<Node>>,
}

/// A shard while it is locked.
struct Locked<'a> {
    shard: MutexGuard<'a, Shard>,
    /// Those that were only looked at. They go after the lock: the last holder of a node takes it.
    others: Vec<Arc<Node>>,
    hasher: &'a RandomState,
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

    pub(crate) fn get(&self, key: Key<'_>) -> Option<Arc<Node>> {
        let (mut shard, hash) = self.shard(key);
        shard.find(hash, key)
    }

    pub(crate) fn intern(
        self: &Arc<NodeTable>,
        parent: Option<&Arc<Node>>,
        name: &OsStr,
        new: NewNode,
    ) -> Interned {
        let key = match (new.links, parent) {
            (Some(links), _) => Key::Links(links),
            (None, Some(dir)) => Key::name(dir, name),
            (None, None) => Key::Root,
        };
        let (mut shard, hash) = self.shard(key);
        let old = shard.find(hash, key);
        if let Some(node) = old.as_ref()
            && node.object() == new.object
        {
            drop(shard);
            return Interned::Known(old.expect("just looked at"));
        }
        let links = new.links;
        let seed = || match (links, parent) {
            (Some(links), _) => links.hash().seed(),
            (None, Some(dir)) => dir.path_hash_of(name).seed(),
            (None, None) => PathHash::of(Path::new("")).seed(),
        };
        let node = self.node(parent, name, seed, new);
        if let Some(old) = &old {
            shard.take(hash, old);
        }
        shard.insert(hash, Arc::downgrade(&node), if self.live { Shard::doubtful } else { Shard::settled });
        // Unlocked before `old` goes: the last holder of a node takes this lock.
        drop(shard);
        if old.is_some() { Interned::Replaced(node) } else { Interned::New(node) }
    }

    /// A node that is in no table: nobody finds it, and no sweep looks at it. `seed` has a say in its number.
    pub(crate) fn node(
        self: &Arc<NodeTable>,
        parent: Option<&Arc<Node>>,
        name: &OsStr,
        seed: impl Fn() -> u64,
        new: NewNode,
    ) -> Arc<Node> {
        let (ino, flags) = match new.linked {
            Some(file) => (self.linked.add(file, seed), Served::LINKED),
            None => (self.inodes.allocate(new.wanted, seed), 0),
        };
        Arc::new(Node {
            parent: parent.cloned(),
            name: name.into(),
            ino,
            kept_origins: Origins::new(new.origins, new.object, parent.map(Arc::as_ref), self),
            served: Served { print: new.print.into(), flags: flags.into(), ..Served::default() },
            coverage: Coverage::default(),
            told: AtomicU32::new(0),
            kind: new.kind,
            follows: new.follows,
            opaque: new.opaque,
            is_links: new.links.is_some(),
        })
    }

    /// Whoever looks the name up from now on gets a new node. Hard links of a layer stay: they have other names, and do
    /// not change.
    pub(crate) fn detach(&self, node: &Node) {
        if !node.is_links && node.parent().is_some() {
            let (mut shard, hash) = self.shard(node.key());
            shard.take(hash, node);
        }
    }

    /// Those in doubt.
    pub(crate) fn doubtful(&self) -> Vec<Arc<Node>> {
        let mut nodes = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().expect("no holder of a shard panics");
            nodes.extend(shard.doubtful.iter().filter_map(Weak::upgrade));
        }
        nodes
    }

    fn doubt(&self, node: &Node) {
        let (mut shard, hash) = self.shard(node.key());
        if self.live
            && let Some(node) = shard.take(hash, node)
        {
            shard.insert(hash, node, Shard::doubtful);
        }
    }

    fn settle(&self, node: &Node) {
        let (mut shard, hash) = self.shard(node.key());
        if let Some(node) = shard.take(hash, node) {
            shard.insert(hash, node, Shard::settled);
        }
    }

    pub(crate) fn live(&self) -> Vec<Arc<Node>> {
        let mut nodes = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().expect("no holder of a shard panics");
            nodes.extend([&shard.doubtful, &shard.settled].into_iter().flatten().filter_map(Weak::upgrade));
        }
        nodes
    }

    fn forget(&self, node: &Node) {
        let (mut shard, hash) = self.shard(node.key());
        shard.take_gone(hash);
        drop(shard);
        if node.served.has(Served::LINKED) {
            self.linked.leave(node.ino);
        } else {
            self.inodes.release(node.ino);
        }
    }

    /// Where the key's node is, and by which hash.
    fn shard(&self, key: Key<'_>) -> (Locked<'_>, u64) {
        let hash = self.hasher.hash_one(key);
        // The tables go by the other bits.
        let shard = &self.shards[(hash >> 32) as usize % SHARDS];
        let shard = shard.lock().expect("no holder of a shard panics");
        (Locked { shard, others: Vec::new(), hasher: &self.hasher }, hash)
    }
}

impl Shard {
    fn doubtful(&mut self) -> &mut HashTable<Weak<Node>> {
        &mut self.doubtful
    }

    fn settled(&mut self) -> &mut HashTable<Weak<Node>> {
        &mut self.settled
    }
}

impl Locked<'_> {
    fn find(&mut self, hash: u64, key: Key<'_>) -> Option<Arc<Node>> {
        let Locked { shard, others, .. } = self;
        let nodes = [&shard.doubtful, &shard.settled].into_iter().flat_map(|nodes| nodes.iter_hash(hash));
        for node in nodes.filter_map(Weak::upgrade) {
            if node.key() == key {
                return Some(node);
            }
            others.push(node);
        }
        None
    }

    fn insert(&mut self, hash: u64, node: Weak<Node>, of: fn(&mut Shard) -> &mut HashTable<Weak<Node>>) {
        let nodes = of(&mut self.shard);
        if nodes.len() == nodes.capacity() {
            fit(nodes, &mut self.others, self.hasher);
        }
        nodes.insert_unique(hash, node, |_| unreachable!("there is room"));
    }

    /// `None` if another node has taken its place.
    fn take(&mut self, hash: u64, node: &Node) -> Option<Weak<Node>> {
        self.take_first(hash, |held| ptr::eq(held.as_ptr(), node))
    }

    /// One that goes, and with it others that do: they are of no use to anybody. It may have been moved, so that it cannot
    /// be told from them.
    fn take_gone(&mut self, hash: u64) {
        while self.take_first(hash, |held| held.strong_count() == 0).is_some() {}
    }

    fn take_first(&mut self, hash: u64, is_it: impl Fn(&Weak<Node>) -> bool) -> Option<Weak<Node>> {
        [Shard::doubtful, Shard::settled].into_iter().find_map(|of| {
            let nodes = of(&mut self.shard);
            let (held, _) = nodes.find_entry(hash, &is_it).ok()?.remove();
            // Those in doubt are looked through, empty places too.
            if nodes.len() < nodes.capacity() / SPARSE {
                fit(nodes, &mut self.others, self.hasher);
            }
            Some(held)
        })
    }
}

/// Gives those that live a table in which there is room for some more. By hand: the hash of a node that goes cannot be had.
fn fit(nodes: &mut HashTable<Weak<Node>>, others: &mut Vec<Arc<Node>>, hasher: &RandomState) {
    let first = others.len();
    others.extend(mem::take(nodes).iter().filter_map(Weak::upgrade));
    let live = &others[first..];
    nodes.reserve(live.len() + live.len() / 8 + 1, |_| unreachable!("it is empty"));
    for node in live {
        nodes.insert_unique(hasher.hash_one(node.key()), Arc::downgrade(node), |_| {
            unreachable!("there is room")
        });
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

    fn table() -> Arc<NodeTable> {
        NodeTable::new(Arc::default(), Arc::new(Watches::new(None)), true)
    }

    fn intern(table: &Arc<NodeTable>, parent: Option<&Arc<Node>>, name: &str) -> Arc<Node> {
        let new = NewNode {
            kind: FileKind::Directory,
            follows: 0,
            opaque: false,
            origins: Vec::new(),
            object: 1,
            print: 1,
            wanted: None,
            links: None,
            linked: None,
        };
        match table.intern(parent, name.as_ref(), new) {
            Interned::New(node) | Interned::Known(node) => node,
            Interned::Replaced(_) => unreachable!("all are one object"),
        }
    }

    #[test]
    fn a_node_is_found_and_goes_whether_it_is_in_doubt_or_not() {
        let table = table();
        let root = intern(&table, None, "");
        let name = |number: usize| number.to_string();
        let nodes: Vec<_> = (1..1000)
            .map(|number| intern(&table, Some(&root), &name(number)))
            .chain([Arc::clone(&root)])
            .collect();
        assert_eq!(table.doubtful().len(), 1000);
        nodes.iter().for_each(|node| node.settle());
        nodes[..10].iter().for_each(|node| node.doubt());
        assert_eq!((table.doubtful().len(), table.live().len()), (10, 1000));
        let is_found =
            |node: &Arc<Node>| table.get(node.key()).is_some_and(|found| Arc::ptr_eq(&found, node));
        assert!(nodes.iter().all(is_found));
        drop((root, nodes));
        assert!(table.live().is_empty() && table.inodes.is_empty());
    }

    #[test]
    fn a_directory_whose_last_holder_is_a_child_leaves_nothing() {
        let table = table();
        let mut deepest = intern(&table, None, "");
        for _ in 0..1000 {
            deepest = intern(&table, Some(&deepest), "child");
        }
        assert_eq!(table.live().len(), 1001);
        drop(deepest);
        assert_holds_nothing(&table);
    }

    #[test]
    fn nodes_that_go_while_others_come_leave_nothing() {
        let table = table();
        let root = intern(&table, None, "");
        let come_and_go = || {
            for round in 0..100 {
                let names = (0..500).map(|number| (number + 37 * round) % 1000);
                let nodes: Vec<_> =
                    names.map(|name| intern(&table, Some(&root), &name.to_string())).collect();
                nodes.iter().step_by(3).for_each(|node| node.settle());
            }
        };
        std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(come_and_go))));
        drop(root);
        assert_holds_nothing(&table);
    }

    fn assert_holds_nothing(table: &NodeTable) {
        for shard in &table.shards {
            let shard = shard.lock().unwrap();
            assert!(shard.doubtful.is_empty() && shard.settled.is_empty());
        }
        assert!(table.inodes.is_empty());
    }
}
