//! An import: a directory, a tar or an input root from elsewhere, stored as a layer.

mod archive;
mod members;
mod reapi;
mod tar;

use std::io;
use std::os::fd::BorrowedFd;

use thiserror::Error;

use crate::digest::Digest;
use crate::ids::IdMap;
use crate::intake::{Devices, Intake, IntakeError, Rules, Take};
use crate::manifest::{Manifest, ManifestError};
use crate::store::{LayerStore, StoreError};

pub use crate::intake::Owner;
pub use archive::import_tar;
pub use reapi::{MessageFault, ReapiError, RootDigest, RootDigestError, import_reapi};

#[derive(Clone, Debug)]
pub struct ImportOptions {
    pub owner: Owner,
    /// Record devices; otherwise they are skipped and counted.
    pub devices: bool,
    /// A directory is an overlayfs upper: its whiteouts and opaque directories are recorded.
    pub overlay: bool,
    /// Seconds since the epoch; later times are recorded as this.
    pub clamp_mtime: Option<i64>,
    /// Most members of a tar, and names of an input root.
    pub max_entries: u64,
    /// Largest sum of the sizes of their files, in bytes.
    pub max_bytes: u64,
    /// Largest sum of a tar's names, targets and attributes, and of an input root's messages and paths, in bytes.
    pub max_words: u64,
    /// Most components of a name.
    pub max_depth: usize,
}

impl Default for ImportOptions {
    fn default() -> ImportOptions {
        ImportOptions {
            owner: Owner::Keep(IdMap::default()),
            devices: false,
            overlay: false,
            clamp_mtime: None,
            max_entries: 4_000_000,
            max_bytes: 256 << 30,
            max_words: 1 << 30,
            max_depth: 512,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    pub digest: Digest,
    /// Names in the layer.
    pub entries: u64,
    /// Regular files, hard links not counted, and the sum of their sizes.
    pub files: u64,
    pub bytes: u64,
    pub devices_skipped: u64,
    pub sockets_skipped: u64,
    /// Node properties of an input root that a layer has no place for.
    pub properties_skipped: u64,
}

#[derive(Debug, Error)]
pub enum ImportError {
    #[error("cannot import the directory")]
    Directory { source: IntakeError },
    #[error("cannot read the tar")]
    Read { source: io::Error },
    #[error("the input is empty, not a tar")]
    Empty,
    #[error("the input is compressed by {program}: unpack it first; gzip and zstd are read as they are")]
    Compression { program: &'static str },
    #[error("cannot read what comes after member {member:?} of the tar")]
    ReadAfter { member: String, source: io::Error },
    #[error("cannot read member {member:?} of the tar")]
    ReadMember { member: String, source: io::Error },
    #[error("cannot import member {member:?} of the tar")]
    Member {
        member: String,
        #[source]
        fault: MemberFault,
    },
    #[error("the tar has more than {limit} members")]
    TooManyEntries { limit: u64 },
    #[error("the files of the tar are larger than {limit} bytes together")]
    TooManyBytes { limit: u64 },
    #[error("the names and attributes of the tar are larger than {limit} bytes together")]
    TooManyWords { limit: u64 },
    #[error("the members of the tar are no layer")]
    Entries { source: ManifestError },
    #[error("cannot store a file of the tar")]
    Store { source: StoreError },
    #[error("cannot put the layer into the store")]
    Layer { source: StoreError },
}

/// Why a member of a tar is refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum MemberFault {
    #[error("its name is absolute")]
    Absolute,
    #[error("its name has a component '..'")]
    DotDot,
    #[error("its name is empty, too long or has a NUL byte")]
    Name,
    #[error("its parent {parent:?} is no directory in the tar")]
    Parent { parent: String },
    #[error("it would replace a directory that has members")]
    ReplacesDirectory,
    #[error("it is a hard link to {target:?}, which is no earlier file of the tar")]
    HardLink { target: String },
    #[error("it ends after {found} of {wanted} bytes")]
    Short { wanted: u64, found: u64 },
    #[error("its type {0:?} is unknown")]
    Type(char),
    #[error("its name has more than {limit} components")]
    Depth { limit: usize },
    #[error("its header has a number that is out of range")]
    Number,
}

/// Stores a copy of the directory tree `dir`, which is not changed. Unless it is an overlayfs upper, overlayfs's attributes
/// are left out, and character devices 0:0 are skipped like other devices.
///
/// Errors: those of a capture.
pub fn import_dir(
    dir: BorrowedFd<'_>,
    options: &ImportOptions,
    store: &LayerStore,
) -> Result<Imported, ImportError> {
    let rules = Rules {
        overlay: options.overlay,
        doubts: true,
        // Logs of a running system are open for ever, and nothing of it becomes a blob.
        without_writers: false,
        owner: &options.owner,
        clamp_mtime: options.clamp_mtime,
        devices: if options.devices { Devices::Record } else { Devices::Skip },
        only: &[],
        take: Take::Copy,
    };
    let intake =
        Intake::read(dir, &rules, store, |_| Ok(())).map_err(|source| ImportError::Directory { source })?;
    Ok(Imported {
        devices_skipped: intake.devices_skipped,
        sockets_skipped: intake.sockets,
        ..Imported::of(intake.digest, &intake.manifest)
    })
}

impl Imported {
    /// Nothing was skipped.
    fn of(digest: Digest, manifest: &Manifest) -> Imported {
        let (files, bytes) = manifest.totals();
        let entries = manifest.entries.len() as u64;
        let (devices_skipped, sockets_skipped, properties_skipped) = (0, 0, 0);
        Imported { digest, entries, files, bytes, devices_skipped, sockets_skipped, properties_skipped }
    }
}
