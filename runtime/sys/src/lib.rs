//! Safe names for the kernel calls vfsrun makes.
//!
//! nix and rustix cover most of what a container runtime asks of Linux; this crate holds what they lack, and the
//! few combinations that must always be used together. It is the only crate of the workspace with unsafe code.

pub mod allocator;
pub mod beneath;
pub mod bpf;
mod chain;
pub mod clone;
pub mod date;
pub mod descriptors;
mod entry;
pub mod fd_passing;
pub mod image;
pub mod keyring;
pub mod landlock;
pub mod lease;
pub mod loopback;
pub mod mount;
pub mod mount_id;
pub mod mountinfo;
pub mod privileges;
pub mod process;
pub mod procfs;
pub mod scheduling;
pub mod seccomp;
pub mod signals;
pub mod xattr;

pub use chain::chain;
