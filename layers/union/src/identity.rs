//! A description with what it names: everything that makes two segments one, read once.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, StatxFlags, statx};

use crate::branch::read_all;
use crate::describe::{FdIndex, SegmentSpec, Source};
use crate::{fingerprint, trust};

/// A description, its descriptors, and the bytes of its input manifests, so that a segment's identity and its content
/// are of the same bytes.
#[derive(Debug)]
pub struct Described {
    pub(crate) spec: SegmentSpec,
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) manifests: HashMap<FdIndex, Vec<u8>>,
}

impl Described {
    /// Errors: an input manifest cannot be read.
    pub fn read(spec: SegmentSpec, fds: Vec<OwnedFd>) -> io::Result<Described> {
        let mut manifests = HashMap::new();
        for branch in &spec.branches {
            // One that is missing is an error of the segment, which says whose it is.
            if let Source::Inputs { manifest, .. } = branch.source
                && let Some(file) = fds.get(manifest)
            {
                manifests.insert(manifest, read_all(file)?);
            }
        }
        Ok(Described { spec, fds, manifests })
    }

    /// What makes two segments one: the description without labels that nobody is told, which file each descriptor is and
    /// where it is mounted, the bytes of input manifests, and the state of images.
    pub fn identity(&self) -> io::Result<blake3::Hash> {
        let mut spec = self.spec.clone();
        // With provenance they are part of what is served.
        if !spec.provenance {
            spec.branches.iter_mut().for_each(|branch| branch.label.clear());
        }
        // Struct fields are written in the order of their declaration, so that equal descriptions have equal text.
        let text = serde_json::to_vec(&spec)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(text.len() as u64).to_le_bytes()).update(&text);
        // Of a manifest the content counts, wherever it lies.
        for (_, fd) in self.fds.iter().enumerate().filter(|(index, _)| !self.manifests.contains_key(index)) {
            for number in place(fd)? {
                hasher.update(&number.to_le_bytes());
            }
        }
        for branch in &spec.branches {
            match branch.source {
                Source::Inputs { manifest, .. } => {
                    let manifest = self.manifests.get(&manifest).ok_or(io::ErrorKind::InvalidInput)?;
                    hasher.update(blake3::hash(manifest).as_bytes());
                }
                Source::Image { file } => {
                    let file = self.fds.get(file).ok_or(io::ErrorKind::InvalidInput)?;
                    hasher.update(&fingerprint::print(&rustix::fs::fstat(file)?).to_le_bytes());
                }
                // Remounted otherwise, it shows other permissions.
                Source::Host { root, .. } if branch.trusted => {
                    let root = self.fds.get(root).ok_or(io::ErrorKind::InvalidInput)?;
                    hasher.update(&[u8::from(trust::is_nosuid(root))]);
                }
                Source::Host { .. } | Source::Layer { .. } | Source::Skeleton { .. } => {}
            }
        }
        Ok(hasher.finalize())
    }
}

/// Device, inode and mount: another mount of the same directory may have other mounts below it.
fn place(fd: &OwnedFd) -> io::Result<[u64; 4]> {
    let stat = statx(fd.as_fd(), "", AtFlags::EMPTY_PATH, StatxFlags::INO | StatxFlags::MNT_ID)?;
    Ok([stat.stx_dev_major.into(), stat.stx_dev_minor.into(), stat.stx_ino, stat.stx_mnt_id])
}
