//! Sums: the digests of a layer's files, read from verified blobs.

use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use super::ExportError;
use super::blobs::Blob;
use crate::manifest::{Kind, Manifest};
use crate::sha256;
use crate::store::LayerStore;

/// Bytes read at once.
pub(super) const PIECE: usize = 256 << 10;

/// The SHA-256 of all files in hexadecimal digits, by position in the manifest; `None` for what is no file.
///
/// Errors: a missing or damaged blob.
pub(super) fn sha256(manifest: &Manifest, store: &LayerStore) -> Result<Vec<Option<String>>, ExportError> {
    let entries = manifest.entries.par_iter();
    entries
        .map_init(
            || vec![0; PIECE],
            |buffer, entry| match entry.kind {
                Kind::File { digest, size } => {
                    sha256_of(Blob::open(store, &entry.path, digest, size)?, buffer).map(Some)
                }
                _ => Ok(None),
            },
        )
        .collect()
}

/// Errors: the content is not what the layer holds.
pub(super) fn sha256_of(blob: Blob<'_>, buffer: &mut [u8]) -> Result<String, ExportError> {
    let mut hasher = Sha256::new();
    read(blob, buffer, |bytes| hasher.update(bytes))?;
    Ok(sha256::hex(&hasher.finalize()))
}

/// The digest by which the store knows it. Errors: as above.
pub(super) fn blake3_of(blob: Blob<'_>, buffer: &mut [u8]) -> Result<String, ExportError> {
    let digest = blob.digest;
    read(blob, buffer, |_| ())?;
    Ok(digest.hex())
}

fn read(mut blob: Blob<'_>, buffer: &mut [u8], mut each: impl FnMut(&[u8])) -> Result<(), ExportError> {
    loop {
        match blob.read(buffer)? {
            0 => return blob.verify(),
            length => each(&buffer[..length]),
        }
    }
}
