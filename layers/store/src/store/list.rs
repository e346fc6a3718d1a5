//! A listing: what `vfsrun layer ls` shows of each layer.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::FlockOperation;

use super::error::StoreError;
use super::names::NameHold;
use super::{LayerStore, remove};
use crate::digest::Digest;
use crate::manifest::Manifest;
use crate::{fsat, locked_dir};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerInfo {
    /// Sorted; empty for a layer that nothing names.
    pub names: Vec<String>,
    pub digest: Digest,
    /// Regular files, hard links not counted; `None` when the manifest is damaged or of a newer version.
    pub files: Option<u64>,
    /// Sum of their sizes; `None` as above.
    pub bytes: Option<u64>,
    /// What the disk has for this layer alone: its manifest, and blobs that no other layer has. `None` as above.
    pub own_bytes: Option<u64>,
    /// When the layer was first put into this store.
    pub created: SystemTime,
    /// To the hour; the epoch for a layer whose name was removed while it was in use.
    pub last_used: SystemTime,
    /// Somebody holds it now.
    pub in_use: bool,
    /// Of each name that has a base, the layers that its changes were made over, first on top. One that is damaged is left out.
    pub over: BTreeMap<String, Vec<Digest>>,
    /// Names, sorted, in whose bases it is what the files of the host held; they hold it.
    pub contents_of: Vec<String>,
}

impl LayerStore {
    /// All layers, sorted by digest. A damaged one is listed without its figures.
    pub fn list(&self) -> Result<Vec<LayerInfo>, StoreError> {
        // To ask whether a layer is in use is to take it for a moment: neither a removal nor another listing does so meanwhile.
        let _guard = self.lock_for_reading()?;
        let _listing = self.lock_listing()?;
        let holds = self.holds()?;
        let mut layers = Vec::new();
        let mut blobs = OwnBlobs::default();
        for digest in self.digests()? {
            let path = self.layers_path().join(digest.hex());
            let stat = fsat::stat(&self.layers, digest.hex()).map_err(StoreError::io("look at", path))?;
            // Removed since the directory was read.
            let Some(stat) = stat else { continue };
            let manifest = self.manifest(&digest).ok();
            let totals = manifest.as_ref().map(Manifest::totals);
            if let Some(manifest) = &manifest {
                blobs.add(layers.len(), manifest);
            }
            let of = |is: fn(&NameHold) -> Option<Digest>| {
                holds.iter().filter(move |hold| is(hold) == Some(digest))
            };
            let named = || of(|hold| Some(hold.layer));
            let over =
                |hold: &NameHold| Some((hold.name.clone(), hold.base.as_ref().ok()?.as_ref()?.over.clone()));
            layers.push(LayerInfo {
                names: named().map(|hold| hold.name.clone()).collect(),
                over: named().filter_map(over).collect(),
                contents_of: of(NameHold::contents).map(|hold| hold.name.clone()).collect(),
                digest,
                files: totals.map(|totals| totals.0),
                bytes: totals.map(|totals| totals.1),
                own_bytes: totals.map(|_| fsat::on_disk(&stat)),
                created: UNIX_EPOCH + Duration::from_secs(stat.st_mtime.try_into().unwrap_or(0)),
                last_used: self.last_use(&digest, &stat)?,
                in_use: self.claim(&digest)?.is_none(),
            });
        }
        for (blob, index) in blobs.of_one_layer() {
            let size = self.blob_stat(&blob)?.map_or(0, |stat| fsat::on_disk(&stat));
            layers[index].own_bytes = layers[index].own_bytes.map(|own| own + size);
        }
        Ok(layers)
    }

    /// One listing at a time, by a descriptor of its own: threads share the store's.
    fn lock_listing(&self) -> Result<OwnedFd, StoreError> {
        let layers = fsat::open_dir(&self.layers, ".").map_err(StoreError::io("open", self.layers_path()))?;
        locked_dir::flock(&layers, FlockOperation::LockExclusive)
            .map_err(StoreError::io("lock", self.layers_path()))?;
        Ok(layers)
    }
}

/// Which layer a blob belongs to; `None`: several.
#[derive(Default)]
struct OwnBlobs(HashMap<Digest, Option<usize>>);

impl OwnBlobs {
    fn add(&mut self, layer: usize, manifest: &Manifest) {
        for blob in remove::blobs(manifest).map(|(blob, _)| blob).collect::<HashSet<_>>() {
            self.0.entry(blob).and_modify(|owner| *owner = None).or_insert(Some(layer));
        }
    }

    fn of_one_layer(self) -> impl Iterator<Item = (Digest, usize)> {
        self.0.into_iter().filter_map(|(blob, layer)| Some((blob, layer?)))
    }
}
