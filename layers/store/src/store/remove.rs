//! A removal: a name or layer goes, and with it the blobs that no other layer holds.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;

use super::LayerStore;
use super::error::StoreError;
use super::names::NameHold;
use crate::digest::Digest;
use crate::fsat;
use crate::manifest::{Kind, Manifest};

/// What a removal did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    pub name: Option<String>,
    /// `None`: another name still points at the layer, or it is in use.
    pub layer: Option<Digest>,
    /// Somebody holds the layer; the first collection after that removes it.
    pub in_use: bool,
    pub blobs: u64,
    /// Disk space given back by the blobs, in bytes of content.
    pub bytes: u64,
}

/// Whether something is done, or only what would be done is found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Really {
    Do,
    DryRun,
}

impl LayerStore {
    /// Removes a name, and what it held, its layer and the contents of its base, unless another name holds that or it is in
    /// use; or, by digest, a layer that no name holds. Waits for captures and imports in progress: their blobs have no
    /// manifest yet.
    ///
    /// Errors: a digest that a name holds, or that is in use; another layer whose manifest is damaged, as its blobs are
    /// unknown; another name whose base is damaged, as its contents are.
    pub fn remove(&self, text: &str) -> Result<Removed, StoreError> {
        let _guard = self.lock_exclusive()?;
        if text.starts_with("b3:") { self.remove_layer(text) } else { self.remove_name_and_layers(text) }
    }

    fn remove_layer(&self, text: &str) -> Result<Removed, StoreError> {
        let digest = self.resolve(text)?;
        let mut names = Vec::new();
        for hold in self.holds()? {
            let name = hold.name.clone();
            if hold.layers()?.any(|layer| layer == digest) {
                names.push(name);
            }
        }
        if !names.is_empty() {
            return Err(StoreError::Named { digest, names });
        }
        let Some(_claim) = self.claim(&digest)? else { return Err(StoreError::InUse { digest }) };
        let used = self.blobs_of_all_but(&[digest])?;
        // A name that has left it may not be on the disk yet.
        self.sync_names()?;
        let (blobs, bytes) = self.remove_layers(&[digest], &used)?;
        Ok(Removed { layer: Some(digest), blobs, bytes, ..Removed::default() })
    }

    fn remove_name_and_layers(&self, name: &str) -> Result<Removed, StoreError> {
        let digest = match self.resolve(name) {
            // What it was the name of nobody knows: nothing else goes with it.
            Err(StoreError::DamagedName { .. }) => {
                self.remove_name(name)?;
                return Ok(Removed { name: Some(name.to_owned()), ..Removed::default() });
            }
            other => other?,
        };
        let (own, others): (Vec<_>, Vec<_>) = self.holds()?.into_iter().partition(|hold| hold.name == name);
        let mut held = HashSet::new();
        for hold in others {
            held.extend(hold.layers()?);
        }
        // Contents that a damaged base had expire.
        let contents = own.iter().find_map(NameHold::contents).filter(|contents| *contents != digest);
        let (mut going, mut claims, mut used_now) = (Vec::new(), Vec::new(), Vec::new());
        for layer in std::iter::once(digest).chain(contents) {
            if held.contains(&layer) || !self.has_layer(&layer)? {
                continue;
            }
            match self.claim(&layer)? {
                Some(claim) => {
                    claims.push(claim);
                    going.push(layer);
                }
                None => used_now.push(layer),
            }
        }
        let used = if going.is_empty() { HashSet::new() } else { self.blobs_of_all_but(&going)? };
        // Should this be killed between the name and the layers, the next collection goes on.
        for layer in going.iter().chain(&used_now) {
            self.forget_uses(layer)?;
        }
        self.remove_name(name)?;
        let (blobs, bytes) = if going.is_empty() { (0, 0) } else { self.remove_layers(&going, &used)? };
        Ok(Removed {
            name: Some(name.to_owned()),
            layer: going.contains(&digest).then_some(digest),
            in_use: used_now.contains(&digest),
            blobs,
            bytes,
        })
    }

    /// Which are claimed, and which no name leads to, after a power failure either.
    fn remove_layers(&self, layers: &[Digest], used: &HashSet<Digest>) -> Result<(u64, u64), StoreError> {
        for layer in layers {
            self.remove_manifest(layer)?;
        }
        self.sync_layers()?;
        self.remove_unused(used, Really::Do)
    }

    /// Blobs that are used when these layers are gone.
    fn blobs_of_all_but(&self, layers: &[Digest]) -> Result<HashSet<Digest>, StoreError> {
        self.blobs_of(self.digests()?.iter().filter(|other| !layers.contains(other)))
    }

    /// All blobs of these layers. Errors: one whose manifest cannot be read.
    pub(super) fn blobs_of<'a>(
        &self,
        layers: impl Iterator<Item = &'a Digest>,
    ) -> Result<HashSet<Digest>, StoreError> {
        let mut used = HashSet::new();
        for digest in layers {
            let manifest = self.manifest_for_removal(digest)?;
            used.extend(blobs(&manifest).map(|(blob, _)| blob));
        }
        Ok(used)
    }

    /// The manifest of a layer that is to stay.
    pub(super) fn manifest_for_removal(&self, digest: &Digest) -> Result<Manifest, StoreError> {
        let unknown = |source| StoreError::UnknownBlobs { digest: *digest, source: Box::new(source) };
        self.manifest(digest).map_err(unknown)
    }

    /// No name may lead to it any more, after a power failure either: see [`LayerStore::sync_names`]. Its blobs stay until
    /// the removal is on the disk: see [`LayerStore::sync_layers`].
    pub(super) fn remove_manifest(&self, digest: &Digest) -> Result<(), StoreError> {
        let path = self.layers_path().join(digest.hex());
        fsat::unlink(&self.layers, digest.hex()).map_err(StoreError::io("remove", path))
    }

    /// Removes the blobs that are not `used`; what has no blob's name is left to [`LayerStore::verify`]. Returns their
    /// number and the bytes that this gives back.
    pub(super) fn remove_unused(
        &self,
        used: &HashSet<Digest>,
        really: Really,
    ) -> Result<(u64, u64), StoreError> {
        let (mut blobs, mut bytes) = (0, 0);
        self.each_blob(|dir, name, digest, stat| {
            if used.contains(&digest) || FileType::from_raw_mode(stat.st_mode).is_dir() {
                return Ok(());
            }
            if really == Really::Do {
                fsat::unlink(dir, name).map_err(StoreError::io("remove", self.blob_path(&digest)))?;
            }
            blobs += 1;
            // A file with another name, in an upper that is kept, stays on the disk.
            bytes += if stat.st_nlink == 1 { stat.st_size as u64 } else { 0 };
            Ok(())
        })?;
        Ok((blobs, bytes))
    }

    /// Calls `visit` with every file that has a blob's name: its directory, the name there, the digest, lstat.
    pub(super) fn each_blob(
        &self,
        mut visit: impl FnMut(&OwnedFd, &OsStr, Digest, Stat) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let path = self.path.join("blobs");
        for prefix in fsat::names(&self.blobs).map_err(StoreError::io("list", &path))? {
            let path = path.join(&prefix);
            let dir = match fsat::open_dir(&self.blobs, &prefix) {
                Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => continue,
                other => other.map_err(StoreError::io("open", &path))?,
            };
            for name in fsat::names(&dir).map_err(StoreError::io("list", &path))? {
                let Some(digest) = blob_name(&prefix, &name) else { continue };
                let stat = rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW);
                match stat {
                    Err(Errno::NOENT) => {}
                    stat => visit(
                        &dir,
                        &name,
                        digest,
                        stat.map_err(StoreError::io("look at", path.join(&name)))?,
                    )?,
                }
            }
        }
        Ok(())
    }
}

/// The digest that a file in `blobs/PREFIX` is named by.
pub(super) fn blob_name(prefix: &OsStr, name: &OsStr) -> Option<Digest> {
    let (prefix, name) = (prefix.to_str()?, name.to_str()?);
    if prefix.len() == 2 { Digest::from_hex(&format!("{prefix}{name}")).ok() } else { None }
}

/// The blobs of a layer with their sizes in bytes, once for each of its files.
pub(super) fn blobs(manifest: &Manifest) -> impl Iterator<Item = (Digest, u64)> {
    manifest.entries.iter().filter_map(|entry| match entry.kind {
        Kind::File { digest, size } => Some((digest, size)),
        _ => None,
    })
}
