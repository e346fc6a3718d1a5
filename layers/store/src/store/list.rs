//! A listing: what `vfsrun layer ls` shows of each layer.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::LayerStore;
use super::error::StoreError;
use crate::digest::Digest;
use crate::fsat;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerInfo {
    /// Sorted; empty for a layer that nothing names.
    pub names: Vec<String>,
    pub digest: Digest,
    /// Regular files, hard links not counted; `None` when the manifest is damaged or of a newer version.
    pub files: Option<u64>,
    /// Sum of their sizes; `None` as above.
    pub bytes: Option<u64>,
    /// When the layer was first put into this store.
    pub created: SystemTime,
}

impl LayerStore {
    /// All layers, sorted by digest. A damaged one is listed without its figures.
    pub fn list(&self) -> Result<Vec<LayerInfo>, StoreError> {
        let names = self.names()?;
        let mut layers = Vec::new();
        for digest in self.digests()? {
            let path = self.layers_path().join(digest.hex());
            let stat = fsat::stat(&self.layers, digest.hex()).map_err(StoreError::io("look at", path))?;
            // Removed since the directory was read.
            let Some(stat) = stat else { continue };
            let totals = self.manifest(&digest).ok().map(|manifest| manifest.totals());
            layers.push(LayerInfo {
                names: names.iter().filter(|name| name.1 == digest).map(|name| name.0.clone()).collect(),
                digest,
                files: totals.map(|totals| totals.0),
                bytes: totals.map(|totals| totals.1),
                created: UNIX_EPOCH + Duration::from_secs(stat.st_mtime.try_into().unwrap_or(0)),
            });
        }
        Ok(layers)
    }
}
