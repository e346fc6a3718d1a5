//! A layer as an input root of the Remote Execution API v2: a Directory message for each directory, the Tree message that has them
//! all, and the files, each under its digest.
//!
//! The messages are encoded here as protobuf has it, fields in the order of their numbers and defaults left out, so that
//! equal directories are equal bytes: `Directory { files = 1, directories = 2, symlinks = 3 }`, `FileNode { name = 1,
//! digest = 2, is_executable = 4 }`, `DirectoryNode { name = 1, digest = 2 }`, `SymlinkNode { name = 1, target = 2 }`,
//! `Digest { hash = 1, size_bytes = 2 }`. A Tree is what [`super::directories`] says.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::blobs::{self, Blob};
use super::dir::open_target;
use super::directories::{Directories, Index};
use super::{ExportError, failed, sums};
use crate::digest::Digest;
use crate::digest_function::DigestFunction;
use crate::manifest::{Entry, Kind, Manifest};
use crate::protobuf::{put_bytes, put_number};
use crate::store::LayerStore;
use crate::{content, fsat, order};

/// What was written, and how many entries the messages could not hold, or not whole. Times are never in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InputRoot {
    /// `HEX/SIZE` of the root's message.
    pub root: String,
    /// `HEX/SIZE` of the Tree.
    pub tree: String,
    /// Fifos and devices, which are left out.
    pub left_out: u64,
    /// Hard links, which are files of their own.
    pub hard_links: u64,
    /// Entries of another owner than root.
    pub owners: u64,
    /// Entries with set-id or sticky bits or with extended attributes.
    pub attributes: u64,
}

/// Writes the messages and files of `manifest` as `blobs/HEX` into `target`, which must be missing or an empty directory.
///
/// Errors: whiteouts, opaque directories, names that are no UTF-8; a missing or damaged blob, with nothing left in `target`.
pub fn export_reapi(
    manifest: &Manifest,
    store: &LayerStore,
    function: DigestFunction,
    target: &Path,
) -> Result<InputRoot, ExportError> {
    for entry in &manifest.entries {
        refuse(entry)?;
    }
    open_target(target)?;
    let blobs = target.join("blobs");
    DirBuilder::new().mode(0o755).create(&blobs).map_err(failed("make the directory", &blobs))?;
    let written = write(manifest, store, function, &blobs);
    if written.is_err() {
        // It was empty.
        let _ = fs::remove_dir_all(&blobs);
    }
    written
}

fn refuse(entry: &Entry) -> Result<(), ExportError> {
    let what = match &entry.kind {
        Kind::Whiteout => "whiteouts",
        Kind::Directory { opaque: true } => "opaque directories",
        Kind::Symlink { target } if target.to_str().is_none() => "a target that is no UTF-8",
        _ if entry.path.to_str().is_none() => "a name that is no UTF-8",
        _ => return Ok(()),
    };
    let (path, hint) = (entry.path.clone(), "a directory or an OCI layer can");
    Err(ExportError::Unholdable { path, format: "message of the Remote Execution API", what, hint })
}

fn write(
    manifest: &Manifest,
    store: &LayerStore,
    function: DigestFunction,
    blobs: &Path,
) -> Result<InputRoot, ExportError> {
    let dir = fsat::open_dir(rustix::fs::CWD, blobs).map_err(failed("open", blobs))?;
    let files = files(manifest, store, function, &dir)?;
    let mut done = InputRoot::default();
    let mut directories = Directories::default();
    let mut open: HashMap<PathBuf, Directory> = HashMap::new();
    // From the last to the first: a directory's message is complete when its entry comes.
    for entry in manifest.entries.iter().rev() {
        done.count(entry);
        let Some(name) = entry.path.file_name() else { continue };
        let mut node = Vec::new();
        put_bytes(&mut node, 1, name.as_bytes());
        let parent = entry.path.parent().unwrap_or(Path::new(""));
        match content_of(entry, manifest) {
            Kind::Directory { .. } => {
                let (message, below) = open.remove(&entry.path).unwrap_or_default().finish();
                let (hash, size) = put_message(&dir, blobs, function, &message)?;
                put_bytes(&mut node, 2, &digest(&hash, size));
                let parent = open.entry(parent.to_owned()).or_default();
                parent.nodes[DIRECTORIES].push(node);
                parent.below.push(directories.add(&hash, message, below));
            }
            Kind::File { digest: blob, size } => {
                put_bytes(&mut node, 2, &digest(&files[blob], *size));
                put_number(&mut node, 4, u64::from(entry.meta.mode & 0o100 != 0));
                open.entry(parent.to_owned()).or_default().nodes[FILES].push(node);
            }
            Kind::Symlink { target } => {
                put_bytes(&mut node, 2, target.as_bytes());
                open.entry(parent.to_owned()).or_default().nodes[SYMLINKS].push(node);
            }
            Kind::HardLink { .. } | Kind::Whiteout | Kind::Fifo | Kind::Device { .. } => {}
        }
    }
    let (message, below) = open.remove(Path::new("")).unwrap_or_default().finish();
    let (hash, size) = put_message(&dir, blobs, function, &message)?;
    done.root = format!("{hash}/{size}");
    let root = directories.add(&hash, message, below);
    let (hash, size) = put_message(&dir, blobs, function, &directories.into_tree(root))?;
    done.tree = format!("{hash}/{size}");
    Ok(done)
}

impl InputRoot {
    fn count(&mut self, entry: &Entry) {
        let meta = &entry.meta;
        self.left_out += u64::from(matches!(entry.kind, Kind::Fifo | Kind::Device { .. }));
        self.hard_links += u64::from(matches!(entry.kind, Kind::HardLink { .. }));
        self.owners += u64::from((meta.uid, meta.gid) != (0, 0));
        self.attributes += u64::from(meta.mode & 0o7000 != 0 || !meta.xattrs.is_empty());
    }
}

/// Of a hard link its file's.
fn content_of<'a>(entry: &'a Entry, manifest: &'a Manifest) -> &'a Kind {
    let Kind::HardLink { to } = &entry.kind else { return &entry.kind };
    let found = manifest.entries.binary_search_by(|other| order::compare(&other.path, to));
    &manifest.entries[found.expect("Manifest::check: a hard link comes after its file")].kind
}

/// Puts every file there; returns their digests in hexadecimal digits.
fn files(
    manifest: &Manifest,
    store: &LayerStore,
    function: DigestFunction,
    dir: &OwnedFd,
) -> Result<HashMap<Digest, String>, ExportError> {
    let mut all = HashMap::new();
    for entry in &manifest.entries {
        if let Kind::File { digest, size } = entry.kind {
            all.entry(digest).or_insert((entry.path.as_path(), size));
        }
    }
    all.into_par_iter()
        .map(|(digest, (path, size))| Ok((digest, put_file(dir, store, function, path, digest, size)?)))
        .collect()
}

fn put_file(
    dir: &OwnedFd,
    store: &LayerStore,
    function: DigestFunction,
    path: &Path,
    digest: Digest,
    size: u64,
) -> Result<String, ExportError> {
    let source = blobs::open(store, path, &digest, size)?;
    let growing = format!("{}.part", digest.hex());
    let copy = fsat::create(dir, &growing, 0o644).map_err(failed("make the blob of", path))?;
    content::copy(&source, &copy, size).map_err(failed("write the blob of", path))?;
    // The copy rather than the blob, which may change in between.
    let copy = Blob::of(copy, path, digest, size);
    let hash = match function {
        DigestFunction::Sha256 => sums::sha256_of(copy, &mut vec![0; sums::PIECE])?,
        DigestFunction::Blake3 => sums::blake3_of(copy, &mut vec![0; sums::PIECE])?,
    };
    rustix::fs::renameat(dir, &growing, dir, &hash).map_err(failed("put in place the blob of", path))?;
    Ok(hash)
}

fn put_message(
    dir: &OwnedFd,
    blobs: &Path,
    function: DigestFunction,
    message: &[u8],
) -> Result<(String, u64), ExportError> {
    let hash = function.of(message);
    // Two directories may be equal.
    if fsat::stat(dir, &hash).map_err(failed("look at", blobs))?.is_none() {
        let file = fsat::create(dir, &hash, 0o644).map_err(failed("make a file in", blobs))?;
        File::from(file).write_all(message).map_err(failed("write a file in", blobs))?;
    }
    Ok((hash, message.len() as u64))
}

/// Nodes of a Directory message in the order of its fields, the last name first.
#[derive(Default)]
struct Directory {
    nodes: [Vec<Vec<u8>>; 3],
    /// Of its directories.
    below: Vec<Index>,
}

const FILES: usize = 0;
const DIRECTORIES: usize = 1;
const SYMLINKS: usize = 2;

impl Directory {
    /// The message, each kind of nodes by name, for the order of a manifest is theirs too; and its directories by name.
    fn finish(mut self) -> (Vec<u8>, Vec<Index>) {
        let mut message = Vec::new();
        for (field, nodes) in (1..).zip(self.nodes) {
            for node in nodes.iter().rev() {
                put_bytes(&mut message, field, node);
            }
        }
        self.below.reverse();
        (message, self.below)
    }
}

fn digest(hash: &str, size: u64) -> Vec<u8> {
    let mut message = Vec::new();
    put_bytes(&mut message, 1, hash.as_bytes());
    put_number(&mut message, 2, size);
    message
}
