//! What all segments of a server share: inode numbers, loaded layer manifests, and watches.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, Weak};

use vfsrun_layers::{Digest, LayerStore, StoreError};

use crate::describe::SegmentSpec;
use crate::inode::InodeTable;
use crate::layer::LayerTree;
use crate::moment::Clock;
use crate::mount_table::MountTable;
use crate::slow::Slowness;
use crate::watch::{self, Watches};

/// One per server.
#[derive(Debug)]
pub struct Context {
    pub layers: LayerCache,
    pub inodes: Arc<InodeTable>,
    pub(crate) watches: Arc<Watches>,
    pub(crate) clock: Arc<Clock>,
    /// The table of mounts, and how often it had changed when it was read.
    table: Mutex<(Option<u64>, Arc<MountTable>)>,
}

impl Context {
    /// `mounts` is the table of mounts ([`own_mounts`]) of those who open the branches; without it nothing is watched.
    pub fn new(mounts: Option<OwnedFd>) -> Context {
        let watches = Arc::new(Watches::new(mounts));
        let clock = Arc::new(Clock::new());
        Context {
            layers: LayerCache::default(),
            inodes: Arc::default(),
            watches,
            clock,
            table: Mutex::default(),
        }
    }

    /// Where a segment of this description is slow now. Asks no file system.
    pub fn slowness(&self, spec: &SegmentSpec, fds: &[OwnedFd]) -> Slowness {
        Slowness::of(spec, fds, &self.mount_table())
    }

    /// Takes in what has happened to watched files and to the table of mounts. Before a slow segment is looked at.
    pub fn hear(&self) -> u64 {
        self.watches.hear()
    }

    /// Read again only when it has changed.
    pub(crate) fn mount_table(&self) -> Arc<MountTable> {
        let now = self.hear();
        let mut table = self.table.lock().expect("no holder of the table of mounts panics");
        if table.0 != Some(now) {
            *table = (Some(now), Arc::new(self.watches.mount_table()));
        }
        Arc::clone(&table.1)
    }

    /// How many files and directories are watched.
    pub fn watched(&self) -> usize {
        self.watches.count()
    }
}

/// For branches that this process opens.
impl Default for Context {
    fn default() -> Context {
        Context::new(watch::own_mounts().ok())
    }
}

/// Manifests by digest, each loaded once however many segments use it, and gone with the last of them.
#[derive(Debug, Default)]
pub struct LayerCache {
    layers: Mutex<HashMap<Digest, Weak<LayerTree>>>,
}

impl LayerCache {
    /// How many manifests are loaded.
    pub fn len(&self) -> usize {
        let layers = self.layers.lock().expect("no holder of the cache panics");
        layers.values().filter(|layer| layer.strong_count() > 0).count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn load(&self, digest: Digest, store: &LayerStore) -> Result<Arc<LayerTree>, StoreError> {
        let held = |layers: &HashMap<_, Weak<LayerTree>>| layers.get(&digest).and_then(Weak::upgrade);
        if let Some(layer) = held(&self.layers.lock().expect("no holder of the cache panics")) {
            return Ok(layer);
        }
        // Loaded without the lock: a large manifest must not hold up the other segments.
        let layer = Arc::new(LayerTree::new(store.manifest(&digest)?));
        let mut layers = self.layers.lock().expect("no holder of the cache panics");
        if let Some(other) = held(&layers) {
            return Ok(other);
        }
        layers.retain(|_, layer| layer.strong_count() > 0);
        layers.insert(digest, Arc::downgrade(&layer));
        Ok(layer)
    }
}
