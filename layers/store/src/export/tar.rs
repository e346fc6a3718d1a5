//! A layer as a tar: a member per entry, in the manifest's order. The same layer gives the same bytes.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ::tar::EntryType;

use super::ExportError;
use super::blobs::Blobs;
use super::header::{self, BLOCK, Member};
use super::stream::{self, Compression, Pieces, Stop, Written};
use crate::manifest::{Entry, Kind, Manifest, Meta};
use crate::store::LayerStore;

/// What becomes of whiteouts and opaque directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whiteouts {
    /// A layer that has some is refused: a tar of files cannot say what is not there.
    Refuse,
    /// `.wh.NAME` and `.wh..wh..opq`, as in the layers of OCI images.
    Names,
}

/// Writes `manifest` to `out`, in constant memory.
///
/// Errors: a missing or damaged blob, an entry that a tar cannot hold, `out`'s. What was written so far is no tar then.
pub fn export_tar(
    manifest: &Manifest,
    store: &LayerStore,
    whiteouts: Whiteouts,
    compression: Compression,
    out: impl Write,
) -> Result<Written, ExportError> {
    for entry in &manifest.entries {
        refuse(entry, whiteouts)?;
    }
    stream::write(compression, out, |pieces| {
        let mut blobs = Blobs::new(manifest, store);
        for entry in &manifest.entries {
            member(pieces, entry, &mut blobs)?;
        }
        // Two blocks of zeros are the end.
        pieces.zeros(2 * BLOCK)
    })
}

/// Before anything is written.
fn refuse(entry: &Entry, whiteouts: Whiteouts) -> Result<(), ExportError> {
    let unholdable =
        |what, hint| Err(ExportError::Unholdable { path: entry.path.clone(), format: "tar", what, hint });
    if is_whiteout_name(&entry.path) {
        return unholdable("a name that begins with .wh. and is no whiteout", "a directory can");
    }
    if let Some(what) = header::unsayable(entry) {
        return unholdable(what, "a directory can");
    }
    if described(entry).is_too_large() {
        return unholdable("names and attributes of more than 1 MiB of one entry", "a directory can");
    }
    match entry.kind {
        Kind::Whiteout if whiteouts == Whiteouts::Refuse => unholdable("whiteouts", "--format oci-layer can"),
        Kind::Directory { opaque: true } if whiteouts == Whiteouts::Refuse => {
            unholdable("opaque directories", "--format oci-layer can")
        }
        _ => Ok(()),
    }
}

fn member(pieces: &mut Pieces, entry: &Entry, blobs: &mut Blobs<'_>) -> Result<(), Stop> {
    pieces.write(&described(entry).header())?;
    match &entry.kind {
        Kind::Directory { opaque: true } => {
            pieces.write(&whiteout(entry.path.join(".wh..wh..opq").as_path()).header())
        }
        Kind::File { size, .. } => {
            let blob = blobs.next().expect("Blobs: one for each file, in this order")?;
            pieces.blob(blob)?;
            pieces.zeros((size.wrapping_neg() % BLOCK as u64) as usize)
        }
        _ => Ok(()),
    }
}

fn described(entry: &Entry) -> Member<'_> {
    let bare = Member {
        name: name(&entry.path),
        kind: EntryType::Regular,
        link: b"",
        size: 0,
        device: (0, 0),
        meta: &entry.meta,
    };
    match &entry.kind {
        Kind::Directory { .. } => {
            Member { kind: EntryType::Directory, name: directory_name(&entry.path), ..bare }
        }
        Kind::File { size, .. } => Member { size: *size, ..bare },
        Kind::Symlink { target } => Member { kind: EntryType::Symlink, link: target.as_bytes(), ..bare },
        Kind::HardLink { to } => Member { kind: EntryType::Link, link: to.as_os_str().as_bytes(), ..bare },
        Kind::Whiteout => {
            let mut name = b".wh.".to_vec();
            name.extend(entry.path.file_name().unwrap_or_default().as_bytes());
            whiteout(&entry.path.with_file_name(std::ffi::OsStr::from_bytes(&name)))
        }
        Kind::Fifo => Member { kind: EntryType::Fifo, ..bare },
        Kind::Device { block, major, minor } => {
            let kind = if *block { EntryType::Block } else { EntryType::Char };
            Member { kind, device: (*major, *minor), ..bare }
        }
    }
}

fn whiteout(path: &Path) -> Member<'static> {
    const META: &Meta =
        &Meta { mode: 0o600, uid: 0, gid: 0, mtime: (0, 0), xattrs: std::collections::BTreeMap::new() };
    Member { name: name(path), kind: EntryType::Regular, link: b"", size: 0, device: (0, 0), meta: META }
}

fn is_whiteout_name(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_bytes().starts_with(b".wh."))
}

fn name(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

/// The root's is `./`.
fn directory_name(path: &Path) -> Vec<u8> {
    let mut name = if path.as_os_str().is_empty() { b".".to_vec() } else { name(path) };
    name.push(b'/');
    name
}
