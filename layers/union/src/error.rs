//! Why a segment cannot be built. Each message names the branch by its label.

use std::io;
use std::path::PathBuf;

use thiserror::Error;
use vfsrun_layers::digest::DigestError;
use vfsrun_layers::{ManifestError, StoreError};

use crate::inputs::InputsError;
use crate::rules::PatternError;

#[derive(Debug, Error)]
pub enum SegmentError {
    #[error("branch {label}: the description names descriptor {index}, only {count} were sent")]
    MissingDescriptor { label: String, index: usize, count: usize },
    #[error("branch {label}: its place in the view {at:?} is not a relative path of plain names")]
    BadPlace { label: String, at: PathBuf },
    #[error("branch {label}: cannot look at its root")]
    Root { label: String, source: io::Error },
    #[error("branch {label}: its root is neither a directory nor a regular file")]
    RootKind { label: String },
    #[error("branch {label}: a file cannot be the root of the view; it needs a place in it")]
    FileAtRoot { label: String },
    #[error("branch {label}: symlinks of scope host need the descriptor of the host's root")]
    NoHostRoot { label: String },
    #[error("branch {label}: symlinks of scope host exist in host branches alone")]
    HostScope { label: String },
    #[error("branch {label}: {digest:?} does not name a layer")]
    Digest { label: String, digest: String, source: DigestError },
    #[error("branch {label}: cannot open its layer store")]
    Store { label: String, source: Box<StoreError> },
    #[error("branch {label}: the kernel cannot mount it")]
    Image { label: String, source: io::Error },
    // The cause names the layer.
    #[error("branch {label}: cannot load its layer")]
    Layer { label: String, source: Box<StoreError> },
    #[error("branch {label}: cannot load its input manifest")]
    Inputs { label: String, source: InputsError },
    #[error("branch {label}: its entries are not a tree")]
    Skeleton { label: String, source: ManifestError },
    #[error("{owner}: rule {pattern:?} is not a pattern")]
    Rule { owner: String, pattern: String, source: PatternError },
    #[error("cannot look at the server's own process in /proc")]
    Proc { source: io::Error },
    #[error("a segment has at most {max} branches, not {count}", max = u16::MAX)]
    TooManyBranches { count: usize },
}
