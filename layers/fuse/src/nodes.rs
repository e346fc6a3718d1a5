//! The nodes the kernel remembers: nodeid → name in a segment, for as long as the kernel may ask about it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

use vfsrun_union::Node;

use crate::registry::Live;

const SHARDS: usize = 64;

/// A node with the segment it belongs to.
#[derive(Clone)]
pub struct Place {
    pub live: Arc<Live>,
    pub node: Arc<Node>,
}

struct Remembered {
    place: Place,
    /// Times the kernel was told; it gives them back by FORGET.
    lookups: u64,
}

/// Sharded by nodeid, so that requests about different names do not wait for each other.
pub struct NodeTable {
    shards: [Mutex<HashMap<u64, Remembered>>; SHARDS],
    count: AtomicUsize,
}

impl Default for NodeTable {
    fn default() -> NodeTable {
        NodeTable { shards: std::array::from_fn(|_| Mutex::default()), count: AtomicUsize::new(0) }
    }
}

impl NodeTable {
    pub fn get(&self, nodeid: u64) -> Option<Place> {
        self.shard(nodeid).get(&nodeid).map(|remembered| remembered.place.clone())
    }

    /// Call once for each time the kernel is told about the node, before it is told.
    pub fn remember(&self, place: Place) {
        let nodeid = place.node.ino();
        let mut shard = self.shard(nodeid);
        let remembered = shard.entry(nodeid).or_insert_with(|| {
            self.count.fetch_add(1, Relaxed);
            place.live.count_node(1);
            Remembered { place, lookups: 0 }
        });
        remembered.lookups += 1;
    }

    /// Takes back `lookups`; true when the kernel knows the node no more.
    pub fn forget(&self, nodeid: u64, lookups: u64) -> bool {
        let gone = {
            let mut shard = self.shard(nodeid);
            let Some(remembered) = shard.get_mut(&nodeid) else { return false };
            remembered.lookups = remembered.lookups.saturating_sub(lookups);
            if remembered.lookups > 0 {
                return false;
            }
            shard.remove(&nodeid)
        };
        // Dropped outside of the lock: it may be the last hold on a whole segment.
        if let Some(gone) = gone {
            self.count.fetch_sub(1, Relaxed);
            gone.place.live.count_node(-1);
        }
        true
    }

    pub fn count(&self) -> usize {
        self.count.load(Relaxed)
    }

    /// The segment, the directory's number and the name of each of these nodes, but for roots of segments. Returns how many
    /// there were.
    pub fn for_each_name(
        &self,
        of: impl Fn(&Place) -> bool,
        mut each: impl FnMut(&Live, u64, &OsStr),
    ) -> usize {
        let mut count = 0;
        for shard in &self.shards {
            let shard = shard.lock().expect("the server aborts when a thread panics");
            let places = shard.values().map(|remembered| &remembered.place).filter(|place| of(place));
            let places: Vec<_> = places.cloned().collect();
            drop(shard);
            for Place { live, node } in &places {
                if let Some(parent) = node.parent() {
                    count += 1;
                    each(live, parent.ino(), node.name());
                }
            }
        }
        count
    }

    fn shard(&self, nodeid: u64) -> MutexGuard<'_, HashMap<u64, Remembered>> {
        self.shards[nodeid as usize % SHARDS].lock().expect("the server aborts when a thread panics")
    }
}
