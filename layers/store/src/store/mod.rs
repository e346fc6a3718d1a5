//! The layer store: a directory that holds layers, their blobs, their names, and the scratch space of running actions.
//!
//! ```text
//! version            format of the store
//! lock               shared: somebody adds; exclusive: somebody removes
//! blobs/ab/cdef…     contents, named by BLAKE3; 0444, mtime 1
//! layers/<hex>       manifests, named by the BLAKE3 of their text
//! names/<name>       a digest, and what the changes in the layer were made to
//! config.json        how long layers without a name are kept
//! runs/<id>/         upper, work and lock of one action
//! applies/<id>       what an apply is about to do
//! tmp/<id>/          half-written files of one process
//! ```
//!
//! A blob counts as *settled* while it is a regular file with mode 0444, mtime 1 and one link. Any write changes the
//! mtime; a blob that is not settled is hashed again before anybody believes in it.

mod blobs;
mod config;
mod contents;
mod error;
mod gc;
mod inputs;
mod kept;
mod list;
mod names;
mod remove;
mod run;
mod unsynced;
mod uses;
pub mod verify;
mod writer;

use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use vfsrun_sys::fd_passing;

use crate::digest::Digest;
use crate::manifest::Manifest;
use crate::{apply, fsat, locked_dir};

pub use config::Expiry;
pub use contents::MAX_SEEN_FILE;
pub use error::{BlobFault, StoreError};
pub use gc::{Collected, Expired, Why};
pub use kept::{ClaimedRun, Kept, KeptRecord, Recovery};
pub use list::LayerInfo;
pub use names::check_name;
pub use remove::{Really, Removed};
pub use run::{Run, Swept, flags};
pub use uses::Hold;
pub(crate) use writer::Link;
pub use writer::{Adding, Writer};

/// The format this program writes, and the newest it reads.
const VERSION: u64 = 1;
/// Fewest digits of an abbreviated digest.
const MIN_PREFIX: usize = 8;
const DIRECTORIES: [&str; 5] = ["blobs", "layers", "names", "runs", "tmp"];

/// An open store. All access goes through descriptors that were opened with it.
#[derive(Debug)]
pub struct LayerStore {
    /// For messages only.
    path: PathBuf,
    root: OwnedFd,
    blobs: OwnedFd,
    layers: OwnedFd,
    names: OwnedFd,
    runs: OwnedFd,
    tmp: OwnedFd,
}

impl LayerStore {
    /// Opens the store at `dir`; makes it, and missing parents, with mode 0700 when it does not exist.
    ///
    /// Errors: a directory with other files in it, a store of a newer version, no rights.
    pub fn open(dir: &Path) -> Result<LayerStore, StoreError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(StoreError::io("make the layer store", dir))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(dir, flags, Mode::empty())
            .map_err(StoreError::io("open the layer store", dir))?;
        if !check_version(&root, dir)? {
            initialise(&root, dir)?;
        }
        LayerStore::with_root(root, dir.to_owned())
    }

    /// A store that exists, by a descriptor of its directory: for a process that only reads it.
    pub fn from_fd(root: OwnedFd) -> Result<LayerStore, StoreError> {
        let path = std::fs::read_link(fd_passing::magic_link(root.as_fd()))
            .unwrap_or_else(|_| PathBuf::from("layer store"));
        if !check_version(&root, &path)? {
            return Err(StoreError::NotAStore { path });
        }
        LayerStore::with_root(root, path)
    }

    fn with_root(root: OwnedFd, path: PathBuf) -> Result<LayerStore, StoreError> {
        let open = |name: &str| fsat::open_dir(&root, name).map_err(StoreError::io("open", path.join(name)));
        let (blobs, layers, names) = (open("blobs")?, open("layers")?, open("names")?);
        let (runs, tmp) = (open("runs")?, open("tmp")?);
        Ok(LayerStore { path, root, blobs, layers, names, runs, tmp })
    }

    /// The store's directory, to pass on to another process.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// All that it is reached by.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 6] {
        [&self.root, &self.blobs, &self.layers, &self.names, &self.runs, &self.tmp].map(AsFd::as_fd)
    }

    /// Where the store was opened; for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The manifest of a layer, its text hashed again.
    ///
    /// Errors: no such layer, a text that does not hash to `digest`, a newer version.
    pub fn manifest(&self, digest: &Digest) -> Result<Manifest, StoreError> {
        let bytes = match fsat::read(&self.layers, digest.hex()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::NoSuchLayer { text: digest.to_string() });
            }
            other => other.map_err(StoreError::io("read", self.layers_path().join(digest.hex())))?,
        };
        let found = Digest::of(&bytes);
        if found != *digest {
            return Err(StoreError::DamagedManifest { digest: *digest, found });
        }
        Manifest::parse(&bytes).map_err(|source| StoreError::BadManifest { digest: *digest, source })
    }

    fn has_layer(&self, digest: &Digest) -> Result<bool, StoreError> {
        let stat = fsat::stat(&self.layers, digest.hex());
        Ok(stat.map_err(StoreError::io("look at", self.layers_path().join(digest.hex())))?.is_some())
    }

    /// What was added to the layers, and what was removed from them, is so after a power failure, too.
    fn sync_layers(&self) -> Result<(), StoreError> {
        rustix::fs::fsync(&self.layers).map_err(StoreError::io("sync", self.layers_path()))
    }

    /// The same for the names.
    fn sync_names(&self) -> Result<(), StoreError> {
        rustix::fs::fsync(&self.names).map_err(StoreError::io("sync", self.path.join("names")))
    }

    /// Held while layers, blobs or names are added.
    fn lock_shared(&self) -> Result<OwnedFd, StoreError> {
        locked_dir::lock(&self.root, "lock", FlockOperation::LockShared)
            .map_err(StoreError::io("lock", self.path.join("lock")))
    }

    /// As [`LayerStore::lock_shared`]; not at all for one who may not even read the lock.
    fn lock_for_reading(&self) -> Result<Option<OwnedFd>, StoreError> {
        match self.lock_shared() {
            Err(StoreError::Io { source, .. })
                if matches!(
                    source.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
                ) =>
            {
                match locked_dir::lock_if_there(&self.root, "lock", FlockOperation::LockShared) {
                    Err(Errno::ACCESS) => Ok(None),
                    locked => locked.map_err(StoreError::io("lock", self.path.join("lock"))),
                }
            }
            locked => locked.map(Some),
        }
    }

    /// Held while layers and blobs are removed.
    fn lock_exclusive(&self) -> Result<OwnedFd, StoreError> {
        locked_dir::lock(&self.root, "lock", FlockOperation::LockExclusive)
            .map_err(StoreError::io("lock", self.path.join("lock")))
    }
}

/// Whether the directory has a version file that this program can work with.
fn check_version(root: &OwnedFd, path: &Path) -> Result<bool, StoreError> {
    let bytes = match fsat::read(root, "version") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other.map_err(StoreError::io("read", path.join("version")))?,
    };
    let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
    match text.parse::<u64>() {
        Ok(0) | Err(_) => Err(StoreError::NoVersion { path: path.join("version"), found: text }),
        Ok(found) if found <= VERSION => Ok(true),
        Ok(found) => Err(StoreError::Newer { path: path.to_owned(), found, known: VERSION }),
    }
}

/// Two processes may do this at once: every step leaves what the other one made.
fn initialise(root: &OwnedFd, path: &Path) -> Result<(), StoreError> {
    let names = fsat::names(root).map_err(StoreError::io("list", path))?;
    // One with a lock and without a version has lost that, and is not for us to begin anew.
    let ours = |name: &str| is_ours(name) && name != "lock";
    if !names.iter().all(|name| name.to_str().is_some_and(ours)) {
        return Err(StoreError::NotAStore { path: path.to_owned() });
    }
    for name in DIRECTORIES {
        fsat::make_dir(root, name, 0o700).map_err(StoreError::io("make", path.join(name)))?;
    }
    spread_runs(root);
    // Last, so that a store with a version is complete.
    write_version(root).map_err(StoreError::io("write", path.join("version")))
}

/// Whether a store has something of this name in its directory.
fn is_ours(name: &str) -> bool {
    let files = ["version", "lock", config::FILE];
    DIRECTORIES.contains(&name)
        || name == apply::DIRECTORY
        || files.contains(&name)
        || name.starts_with(".version-")
}

fn write_version(root: &OwnedFd) -> io::Result<()> {
    let temp = format!(".version-{}", std::process::id());
    match rustix::fs::unlinkat(root, &temp, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let file = fsat::create(root, &temp, 0o644)?;
    let mut file = std::fs::File::from(file);
    io::Write::write_all(&mut file, format!("{VERSION}\n").as_bytes())?;
    // On the disk before it has its name: a version that a power failure emptied would lock everybody out.
    file.sync_all()?;
    rustix::fs::renameat(root, &temp, root, "version")?;
    Ok(rustix::fs::fsync(root)?)
}

/// Asks ext4 to give each run a block group of its own. In the store's group it would step, for each of the dozen files
/// that an overlay's mount makes, over every inode that was deleted there in the last minutes (without a journal), and
/// a small action would take twice its time. Other file systems do not know the flag.
fn spread_runs(root: &OwnedFd) {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    if let Ok(runs) = fsat::open_dir(root, "runs") {
        let spread = ioctl_getflags(&runs).and_then(|flags| ioctl_setflags(&runs, flags | IFlags::TOPDIR));
        tracing::debug!(?spread, "spread runs over the disk");
    }
}
