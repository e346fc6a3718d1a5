//! A removal: a name or layer goes, and with it the blobs that no other layer holds.

use std::collections::HashSet;

use rustix::fs::AtFlags;

use super::LayerStore;
use super::error::StoreError;
use crate::digest::Digest;
use crate::fsat;
use crate::manifest::Kind;

/// What a removal did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    pub name: Option<String>,
    /// `None`: another name still points at the layer.
    pub layer: Option<Digest>,
    pub blobs: u64,
    /// Disk space given back by the blobs, in bytes of content.
    pub bytes: u64,
}

impl LayerStore {
    /// Removes a name, and its layer unless another name points at it; or, by digest, a layer without a name.
    /// Waits for captures and imports in progress: their blobs have no manifest yet.
    ///
    /// Errors: a digest that a name points at; another layer whose manifest is damaged, as its blobs are unknown.
    pub fn remove(&self, text: &str) -> Result<Removed, StoreError> {
        let _guard = self.lock_exclusive()?;
        let digest = self.resolve(text)?;
        let is_name = !text.starts_with("b3:");
        let all = self.names()?.into_iter().filter(|(name, to)| *to == digest && !(is_name && name == text));
        let others: Vec<String> = all.map(|(name, _)| name).collect();
        if !is_name && !others.is_empty() {
            return Err(StoreError::Named { digest, names: others });
        }
        let used = if others.is_empty() { Some(self.blobs_without(&digest)?) } else { None };
        let mut removed = Removed::default();
        if is_name {
            self.remove_name(text)?;
            removed.name = Some(text.to_owned());
        }
        if let Some(used) = used {
            let path = self.layers_path().join(digest.hex());
            fsat::unlink(&self.layers, digest.hex()).map_err(StoreError::io("remove", path))?;
            removed.layer = Some(digest);
            (removed.blobs, removed.bytes) = self.remove_unused(&used)?;
        }
        Ok(removed)
    }

    /// The blobs of all layers but `gone`.
    fn blobs_without(&self, gone: &Digest) -> Result<HashSet<Digest>, StoreError> {
        let mut used = HashSet::new();
        for digest in self.digests()?.into_iter().filter(|digest| digest != gone) {
            let manifest = self
                .manifest(&digest)
                .map_err(|source| StoreError::UnknownBlobs { digest, source: Box::new(source) })?;
            used.extend(manifest.entries.iter().filter_map(|entry| match entry.kind {
                Kind::File { digest, .. } => Some(digest),
                _ => None,
            }));
        }
        Ok(used)
    }

    fn remove_unused(&self, used: &HashSet<Digest>) -> Result<(u64, u64), StoreError> {
        let path = self.path.join("blobs");
        let (mut blobs, mut bytes) = (0, 0);
        for prefix in fsat::names(&self.blobs).map_err(StoreError::io("list", &path))? {
            let path = path.join(&prefix);
            let dir = fsat::open_dir(&self.blobs, &prefix).map_err(StoreError::io("open", &path))?;
            for name in fsat::names(&dir).map_err(StoreError::io("list", &path))? {
                let hex = [prefix.as_os_str(), name.as_os_str()].map(|part| part.to_string_lossy()).concat();
                if Digest::from_hex(&hex).is_ok_and(|digest| used.contains(&digest)) {
                    continue;
                }
                let path = path.join(&name);
                let stat = fsat::stat(&dir, &name).map_err(StoreError::io("look at", &path))?;
                rustix::fs::unlinkat(&dir, &name, AtFlags::empty())
                    .map_err(StoreError::io("remove", &path))?;
                blobs += 1;
                bytes += stat.map_or(0, |stat| stat.st_size as u64);
            }
        }
        Ok((blobs, bytes))
    }
}
