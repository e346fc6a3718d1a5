//! Space: how large and how full the file systems are that the branches lie on.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{fstat, fstatvfs};

use crate::branch::{Branch, Content};
use crate::layer::Blobs;
use crate::segment::Segment;

/// As in statvfs(3), sizes in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    pub total: u64,
    pub free: u64,
    /// To those who are not root.
    pub available: u64,
    pub files: u64,
    pub free_files: u64,
}

impl Segment {
    /// The sum over the file systems, each counted once, however many branches lie on it. One that does not answer counts
    /// nothing.
    pub fn space(&self) -> Space {
        let mut counted = HashSet::new();
        let places = self.branches.iter().flat_map(places);
        let distinct = places.filter(|place| fstat(place).is_ok_and(|stat| counted.insert(stat.st_dev)));
        distinct.filter_map(|place| fstatvfs(place).ok()).fold(Space::default(), |sum, found| Space {
            total: sum.total.saturating_add(found.f_blocks.saturating_mul(found.f_frsize)),
            free: sum.free.saturating_add(found.f_bfree.saturating_mul(found.f_frsize)),
            available: sum.available.saturating_add(found.f_bavail.saturating_mul(found.f_frsize)),
            files: sum.files.saturating_add(found.f_files),
            free_files: sum.free_files.saturating_add(found.f_ffree),
        })
    }
}

/// Where a branch's content lies.
fn places(branch: &Branch) -> Vec<BorrowedFd<'_>> {
    match &branch.content {
        Content::Host(host) => vec![host.root.as_fd()],
        Content::Layer(layer) => match &layer.blobs {
            Blobs::Store(store) => vec![store.as_fd()],
            Blobs::Memory(_) => Vec::new(),
        },
        Content::Inputs(inputs) => [inputs.base.as_fd()]
            .into_iter()
            .chain(inputs.store.as_ref().map(|store| store.as_fd()))
            .collect(),
    }
}
