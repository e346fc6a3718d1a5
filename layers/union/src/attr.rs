//! Attributes: what stat shows of a name in a segment.

use std::ffi::OsString;

use serde::{Deserialize, Serialize};

/// The types of file a segment shows. Devices never appear: the only character device is a whiteout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FileKind {
    Directory,
    Regular,
    Symlink,
    Fifo,
    Socket,
    /// Character device 0:0, which an overlay above reads as "deleted below".
    Whiteout,
}

/// A time: seconds and nanoseconds since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Time {
    pub sec: i64,
    pub nsec: u32,
}

/// As in stat(2). `rdev` is not there because it is always 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Below 2^48; low 32 bits as on the host. Among the live nodes of one [`crate::InodeTable`] only the hard links that
    /// a branch has of one file show the same.
    pub ino: u64,
    pub kind: FileKind,
    /// Permission bits, with set-id and sticky bits.
    pub perm: u16,
    pub nlink: u32,
    /// Ids of the server's user namespace.
    pub uid: u32,
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Units of 512 bytes.
    pub blocks: u64,
    pub blksize: u32,
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
}

/// One name of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    pub name: OsString,
    /// As `lookup` would say, followed links included.
    pub kind: FileKind,
    /// What a node that is live shows; else the one `lookup` would most likely give.
    pub ino: u64,
}
