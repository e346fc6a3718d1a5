//! A segment's identity: equal ones serve the same tree.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, StatxFlags, statx};

use crate::branch::read_all;
use crate::describe::{SegmentSpec, Source};

pub(crate) fn of(spec: &SegmentSpec, fds: &[OwnedFd]) -> io::Result<blake3::Hash> {
    let mut spec = spec.clone();
    for branch in &mut spec.branches {
        branch.label.clear();
    }
    // Struct fields are written in the order of their declaration, so that equal descriptions have equal text.
    let text = serde_json::to_vec(&spec)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(text.len() as u64).to_le_bytes()).update(&text);
    for fd in fds {
        for number in place(fd)? {
            hasher.update(&number.to_le_bytes());
        }
    }
    for branch in &spec.branches {
        if let Source::Inputs { manifest, .. } = branch.source {
            let manifest = fds.get(manifest).ok_or(io::ErrorKind::InvalidInput)?;
            hasher.update(blake3::hash(&read_all(manifest)?).as_bytes());
        }
    }
    Ok(hasher.finalize())
}

/// Device, inode and mount: another mount of the same directory may have other mounts below it.
fn place(fd: &OwnedFd) -> io::Result<[u64; 4]> {
    let stat = statx(fd.as_fd(), "", AtFlags::EMPTY_PATH, StatxFlags::INO | StatxFlags::MNT_ID)?;
    Ok([stat.stx_dev_major.into(), stat.stx_dev_minor.into(), stat.stx_ino, stat.stx_mnt_id])
}
