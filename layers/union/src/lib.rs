//! A segment: branches merged into one read-only tree. A library without FUSE; `vfsrun-fuse` serves it.

#![forbid(unsafe_code)]

pub mod describe;
