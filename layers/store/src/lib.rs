//! Layers: manifests, the content-addressed store, capture, import and export.

#![forbid(unsafe_code)]

pub mod apply;
pub mod base;
pub mod capture;
pub mod changes;
mod check;
mod content;
pub mod diff;
pub mod digest;
mod digest_function;
pub mod escape;
pub mod export;
mod fsat;
pub mod ids;
pub mod image;
pub mod import;
mod intake;
mod line;
mod locked_dir;
pub mod manifest;
mod odd_names;
pub mod order;
mod protobuf;
mod remove_tree;
pub mod review;
mod sha256;
#[cfg(test)]
#[path = "../../../tests/src/skip.rs"]
mod skip;
pub mod stack;
pub mod store;
mod text;
pub mod tree;
mod xattrs;

pub use base::Base;
pub use capture::{CaptureError, CaptureOptions, Captured, Hooks, Look, Take, capture};
pub use digest::Digest;
pub use digest_function::DigestFunction;
pub use export::{
    Compression, ExportError, Exported, ImageOptions, InputRoot, Whiteouts, Written, export_dir,
    export_image, export_mtree, export_reapi, export_tar, write_file,
};
pub use ids::{IdExtent, IdMap};
pub use image::{Image, ImageError};
pub use import::{
    ImportError, ImportOptions, Imported, MessageFault, Owner, ReapiError, RootDigest, import_dir,
    import_reapi, import_tar,
};
pub use manifest::{Entry, Kind, Manifest, ManifestError, Meta};
pub use odd_names::{OddNames, without_case};
pub use protobuf::Malformed;
pub use store::{
    Adding, BlobFault, ClaimedRun, Collected, Expired, Expiry, Hold, Kept, KeptRecord, LayerInfo, LayerStore,
    MAX_SEEN_FILE, Really, Recovery, Removed, Run, StoreError, Swept, Why, Writer, check_name, flags, verify,
};
pub use tree::Tree;
