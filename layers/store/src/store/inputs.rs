//! A stored input manifest: a blob, kept by a layer that holds it together with the blobs that it names.

use std::os::fd::OwnedFd;

use super::LayerStore;
use super::error::{BlobFault, StoreError};
use super::uses::hold_file;
use crate::content;
use crate::digest::Digest;
use crate::manifest::{Entry, Kind, Manifest, Meta};

/// Where the layer of a stored input manifest has it.
pub(super) const MANIFEST: &str = "manifest.json";

impl LayerStore {
    /// Puts `text`, a manifest that names `blobs`, and points `name` at a layer of it and them: as long as that is there,
    /// no removal takes one away. The text itself is the caller's to judge. Returns the digest of the text, and what `name`
    /// was the name of before, if that is another layer.
    ///
    /// Errors: one of the blobs is missing or damaged; a name that breaks the rule.
    pub fn put_inputs(
        &self,
        name: &str,
        text: &[u8],
        blobs: &[Digest],
    ) -> Result<(Digest, Option<Digest>), StoreError> {
        let writer = self.doubting_writer()?;
        let (digest, size) = writer.put_blob(text)?;
        let mut entries = vec![file(MANIFEST.to_owned(), digest, size)];
        if !blobs.is_empty() {
            let meta = Meta { mode: 0o755, ..Meta::default() };
            entries.push(Entry { path: "blobs".into(), kind: Kind::Directory { opaque: false }, meta });
        }
        for blob in blobs {
            let stat = self.blob_stat(blob)?;
            let stat = stat.ok_or(StoreError::DamagedBlob { blob: *blob, fault: BlobFault::Missing })?;
            entries.push(file(format!("blobs/{}", blob.hex()), *blob, stat.st_size as u64));
        }
        let manifest =
            Manifest::from_entries(entries).map_err(|source| StoreError::InvalidLayer { source })?;
        let replaced = self.set_name(name, &writer.put_layer(&manifest)?)?;
        Ok((digest, replaced))
    }

    /// Opens a stored manifest, hashed again as those of layers are. While the descriptor is open, in any process, no
    /// removal takes the manifest and the blobs that its layer keeps.
    pub fn open_inputs(&self, digest: &Digest) -> Result<OwnedFd, StoreError> {
        let missing = || StoreError::Inputs { digest: *digest, fault: BlobFault::Missing };
        if self.blob_stat(digest)?.is_none() {
            return Err(missing());
        }
        let file = self.open_blob(digest)?;
        let held = hold_file(&file).map_err(StoreError::io("lock the blob", self.blob_path(digest)))?;
        held.then_some(()).ok_or_else(missing)?;
        let found = content::hash(&file).map_err(StoreError::io("read the blob", self.blob_path(digest)))?;
        if found == *digest {
            if let Err(error) = self.note_use_of_inputs(&file) {
                tracing::debug!(%error, %digest, "a use is not recorded");
            }
            Ok(file)
        } else {
            Err(StoreError::Inputs { digest: *digest, fault: BlobFault::Content { found } })
        }
    }
}

fn file(path: String, digest: Digest, size: u64) -> Entry {
    let meta = Meta { mode: 0o444, ..Meta::default() };
    Entry { path: path.into(), kind: Kind::File { digest, size }, meta }
}
