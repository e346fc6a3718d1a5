//! A side: what a path held when the command saw it, or what it holds afterwards, with its content.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use vfsrun_sys::chain;

use crate::content;
use crate::digest::Digest;
use crate::manifest::{Entry, Kind, Manifest};
use crate::store::{BlobFault, LayerStore, StoreError};

/// Contents of more bytes than this are not compared line by line, and never in memory as a whole.
pub const MOST_BYTES: u64 = 32 << 20;
/// Nor are those of more lines.
pub const MOST_LINES: usize = 1 << 20;

#[derive(Debug)]
pub enum Side {
    Absent,
    Directory,
    File(Content),
    Symlink(Vec<u8>),
    /// A fifo or device, in words.
    Other(&'static str),
    Unknown(Unknown),
}

#[derive(Debug)]
pub enum Content {
    Whole(Vec<u8>),
    /// More than [`MOST_BYTES`]: it is read when it is needed.
    Large {
        file: OwnedFd,
        size: u64,
    },
}

/// Why nobody knows what a path held.
#[derive(Debug)]
pub enum Unknown {
    /// The host's file is another one by now.
    ChangedSince,
    ChangedMeanwhile,
    Lost,
    /// By the branch, of a symlink or of a file without a digest.
    NotRecorded {
        branch: String,
    },
    Unreadable {
        cause: String,
    },
}

/// As a clause, after "is not known:".
impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unknown::ChangedSince => f.write_str("it has changed since"),
            Unknown::ChangedMeanwhile => f.write_str("somebody else changed it while the command ran"),
            Unknown::Lost => f.write_str("it was gone when the command ended"),
            Unknown::NotRecorded { branch } => write!(f, "nothing of its content is recorded by {branch}"),
            Unknown::Unreadable { cause } => write!(f, "it cannot be read: {cause}"),
        }
    }
}

impl Unknown {
    pub(super) fn unreadable(error: &dyn std::error::Error) -> Unknown {
        Unknown::Unreadable { cause: chain(error) }
    }
}

/// What `entry` of `layer` is. A small content is hashed again, a large one is believed as the store does.
///
/// Errors: a blob that is missing or damaged.
pub fn after(store: &LayerStore, layer: &Manifest, entry: &Entry) -> Result<Side, StoreError> {
    Ok(match &layer.file(entry).kind {
        Kind::Directory { .. } => Side::Directory,
        Kind::File { digest, size } => Side::File(blob(store, digest, *size)?),
        Kind::Symlink { target } => Side::Symlink(target.as_bytes().to_vec()),
        Kind::Whiteout => Side::Absent,
        kind => Side::Other(kind.describe()),
    })
}

pub(super) fn blob(store: &LayerStore, digest: &Digest, size: u64) -> Result<Content, StoreError> {
    let file = store.open_sound_blob(digest, Some(size))?;
    let content = Content::read(file, size)
        .map_err(|source| StoreError::io("read the blob", store.blob_path(digest))(source))?;
    if let Content::Whole(bytes) = &content {
        let found = Digest::of(bytes);
        if found != *digest {
            return Err(StoreError::DamagedBlob { blob: *digest, fault: BlobFault::Content { found } });
        }
    }
    Ok(content)
}

impl Content {
    pub(super) fn read(file: OwnedFd, size: u64) -> io::Result<Content> {
        if size > MOST_BYTES {
            return Ok(Content::Large { file, size });
        }
        Ok(Content::Whole(content::read_small(&file, size)?))
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        match self {
            Content::Whole(bytes) => bytes.len() as u64,
            Content::Large { size, .. } => *size,
        }
    }

    /// What can be compared line by line: without a NUL, and not too much.
    pub fn text(&self) -> Option<&[u8]> {
        match self {
            Content::Whole(bytes) if !bytes.contains(&0) && lines(bytes) <= MOST_LINES => Some(bytes),
            _ => None,
        }
    }

    /// From its beginning.
    pub(super) fn reader(&self) -> io::Result<Box<dyn Read + '_>> {
        Ok(match self {
            Content::Whole(bytes) => Box::new(&bytes[..]),
            Content::Large { file, size } => {
                rustix::fs::seek(file, rustix::fs::SeekFrom::Start(0))?;
                Box::new(File::from(file.try_clone()?).take(*size))
            }
        })
    }
}

fn lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

impl Side {
    /// The bytes of a file or a link.
    pub fn text(&self) -> Option<&[u8]> {
        match self {
            Side::Absent => Some(b""),
            Side::File(content) => content.text(),
            Side::Symlink(target) => Some(target),
            _ => None,
        }
    }

    /// Bytes of a file or a link.
    pub fn size(&self) -> u64 {
        match self {
            Side::File(content) => content.size(),
            Side::Symlink(target) => target.len() as u64,
            _ => 0,
        }
    }

    /// Whether it has a content: a file or a link.
    pub fn has_content(&self) -> bool {
        matches!(self, Side::File(_) | Side::Symlink(_))
    }
}
