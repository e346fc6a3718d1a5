//! spec.json: an OCI runtime `config.json` with one more top-level key, `vfs`.
//!
//! [`Spec::parse`] turns text into types and refuses what cannot be meant; nothing here reads a file or asks
//! the kernel. Without `vfs` a spec has exact OCI semantics; with it, everything not said has a hermetic
//! default, which the plan fills in with the rules of [`merge`]. docs/spec.md describes every field.
#![forbid(unsafe_code)]

mod annotation;
pub mod error;
pub mod merge;
mod numbers;
mod objects;
pub mod oci;
mod optional;
mod spec;
mod suggest;
mod validate;
pub mod vfs;
mod wording;

pub use error::SpecError;
pub use numbers::numbers;
pub use oci::{Hooks, Linux, Mount, Process, Root};
pub use spec::Spec;
pub use vfs::Vfs;
pub use wording::one_line;

/// The JSON Schema (draft 2020-12) of a spec, for editors and for `vfsrun new`.
pub const SCHEMA: &str = include_str!("../../../docs/spec.schema.json");
