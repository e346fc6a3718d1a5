//! The table that gives the same node to all who hold it.

use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::hash::BuildHasher;
use std::mem;
use std::path::Path;
use std::ptr;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use hashbrown::HashTable;

use super::{Key, NewNode, Node, PathHash, Served};
use crate::hard_link::LinkedFiles;
use crate::inode::InodeTable;
use crate::origin::Origins;
use crate::watch::{Coverage, Watches};

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
    pub(super) linked: LinkedFiles,
    pub(super) watches: Arc<Watches>,
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

    pub(super) fn doubt(&self, node: &Node) {
        let (mut shard, hash) = self.shard(node.key());
        if self.live
            && let Some(node) = shard.take(hash, node)
        {
            shard.insert(hash, node, Shard::doubtful);
        }
    }

    pub(super) fn settle(&self, node: &Node) {
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

    pub(super) fn forget(&self, node: &Node) {
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
    use crate::attr::FileKind;

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
