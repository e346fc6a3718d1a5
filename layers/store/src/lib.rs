//! Layers: manifests, the content-addressed store, capture, import and export.

#![forbid(unsafe_code)]

pub mod digest;
pub mod manifest;

pub use digest::Digest;
pub use manifest::Manifest;
