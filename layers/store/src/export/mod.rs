//! An export: a layer written out in a form that other programs read.

mod blobs;
mod dir;
mod directories;
mod file;
mod gzip;
mod header;
mod mtree;
mod oci;
mod reapi;
mod stream;
mod sums;
mod tar;

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::store::StoreError;

pub use dir::{Exported, export_dir};
pub use file::write_file;
pub(crate) use header::MAX_RECORDS;
#[cfg(test)]
pub(crate) use header::Member;
pub use mtree::export_mtree;
pub use oci::{ImageOptions, export_image};
pub use reapi::{InputRoot, export_reapi};
pub use stream::{Compression, Written};
pub use tar::{Whiteouts, export_tar};

#[derive(Debug, Error)]
pub enum ExportError {
    #[error("cannot make the directory {}", path.display())]
    Target { path: PathBuf, source: io::Error },
    #[error("cannot export to {}: it is not empty", path.display())]
    NotEmpty { path: PathBuf },
    #[error("cannot {attempt} {path:?} in the export")]
    Io { attempt: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot read {path:?} of the layer")]
    Store { path: PathBuf, source: StoreError },
    #[error("cannot write the export")]
    Write { source: io::Error },
    #[error("cannot export {path:?}: a {format} cannot hold {what}; {hint}")]
    Unholdable { path: PathBuf, format: &'static str, what: &'static str, hint: &'static str },
}

fn failed<E: Into<io::Error>>(attempt: &'static str, path: &Path) -> impl FnOnce(E) -> ExportError {
    move |source| ExportError::Io { attempt, path: path.to_owned(), source: source.into() }
}
