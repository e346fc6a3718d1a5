//! A store error: what was attempted in the store, on which path or layer, and why it failed.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::base::BaseError;
use crate::digest::Digest;
use crate::manifest::ManifestError;

#[derive(Debug, Error)]
pub enum StoreError {
    #[error("cannot {attempt} {}", path.display())]
    Io { attempt: &'static str, path: PathBuf, source: io::Error },
    #[error("{} has files but no version file: it is not a layer store", path.display())]
    NotAStore { path: PathBuf },
    #[error("the layer store {} has format {found}; this program knows up to {known}: use a newer vfsrun", path.display())]
    Newer { path: PathBuf, found: u64, known: u64 },
    #[error(
        "{} holds {found:?}, which is no format of a layer store: write 1 into it if the store was made by this program",
        path.display()
    )]
    NoVersion { path: PathBuf, found: String },
    #[error(
        "{name:?} is not a layer name: a-z, 0-9, '.', '_', '-' and '/', starting with a letter or digit, \
         without '..', '//' or a '/' at the end, at most {} bytes",
        super::names::MAX_NAME
    )]
    BadName { name: String },
    #[error("no layer is named {name}")]
    NoSuchName { name: String },
    #[error("{text:?} is not a digest: b3: and 8 to 64 lower-case hexadecimal digits are wanted")]
    BadDigest { text: String },
    #[error("no layer has the digest {text}")]
    NoSuchLayer { text: String },
    #[error("{text} begins the digests of {count} layers: give more digits")]
    Ambiguous { text: String, count: usize },
    #[error("the name {name} does not hold a digest: set it again")]
    DamagedName { name: String },
    #[error("layer {digest} is damaged: its manifest hashes to {found}")]
    DamagedManifest { digest: Digest, found: Digest },
    #[error("layer {digest} cannot be used")]
    BadManifest { digest: Digest, source: ManifestError },
    #[error("{} cannot be used", path.display())]
    BadBase { path: PathBuf, source: BaseError },
    #[error("{} is the base of another layer", path.display())]
    ForeignBase { path: PathBuf },
    #[error("these entries are no layer")]
    InvalidLayer { source: ManifestError },
    #[error("{} cannot be read: its blob {blob} is {fault}; `vfsrun layer import` of the same source mends it", path.display())]
    Blob { path: PathBuf, blob: Digest, fault: BlobFault },
    #[error("blob {blob} is {fault}; `vfsrun layer import` of the same source mends it")]
    DamagedBlob { blob: Digest, fault: BlobFault },
    #[error("input manifest {digest} is {fault}; `vfsrun inputs add` of the same file mends it")]
    Inputs { digest: Digest, fault: BlobFault },
    #[error("layer {digest} is in use by the name {}: remove the name instead", names.join(", "))]
    Named { digest: Digest, names: Vec<String> },
    #[error("layer {digest} is in use by an action or a view: `vfsrun layer gc` removes it afterwards")]
    InUse { digest: Digest },
    #[error("no upper is kept under the id {id}: `vfsrun layer recover` lists those that are")]
    NotKept { id: String },
    #[error("the upper of {id} is being captured or removed by another process")]
    KeptBusy { id: String },
    #[error("{} is no configuration of a store", path.display())]
    BadConfig { path: PathBuf, source: serde_json::Error },
    #[error(
        "nothing can be removed while layer {digest} is damaged, as its blobs are unknown: remove it first"
    )]
    UnknownBlobs { digest: Digest, source: Box<StoreError> },
    #[error(
        "nothing can be removed while it is unknown what {name} was made to: `vfsrun layer tag {name} {name}` \
         forgets that"
    )]
    UnknownContents { name: String, source: Box<StoreError> },
}

/// What is wrong with a blob.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BlobFault {
    #[error("missing")]
    Missing,
    #[error("damaged: {found} bytes long instead of {wanted}")]
    Size { wanted: u64, found: u64 },
    #[error("damaged: it hashes to {found}")]
    Content { found: Digest },
}

impl StoreError {
    /// For `map_err` after a system call.
    pub(crate) fn io<E: Into<io::Error>>(
        attempt: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(E) -> StoreError {
        let path = path.as_ref().to_owned();
        move |source| StoreError::Io { attempt, path, source: source.into() }
    }

    /// Whether the disk or a quota is full: the caller may say so and keep what was to be stored.
    pub fn is_full(&self) -> bool {
        match self {
            StoreError::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }
}
