//! A manifest: the sorted list of everything a layer holds. Its BLAKE3 is the layer's digest.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::digest::Digest;

/// What a layer holds, in bytewise order of `path`; every path appears once and after its parent directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    pub entries: Vec<Entry>,
}

/// One name of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the root of the layer, without `.` or `..`; empty for the root directory itself.
    pub path: PathBuf,
    pub kind: Kind,
    pub meta: Meta,
}

/// Ownership, permissions, time and extended attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits, set-id and sticky bits included; no file type.
    pub mode: u32,
    /// Ids as seen inside the action.
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds since the epoch.
    pub mtime: (i64, u32),
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Directory {
        /// Names of lower layers do not show through.
        opaque: bool,
    },
    File {
        digest: Digest,
        /// Bytes.
        size: u64,
    },
    Symlink {
        target: OsString,
    },
    /// The same file as the entry at `to`, which is a `File` and comes earlier.
    HardLink {
        to: PathBuf,
    },
    /// The record that a lower name was deleted.
    Whiteout,
    Fifo,
    Device {
        block: bool,
        major: u32,
        minor: u32,
    },
}
