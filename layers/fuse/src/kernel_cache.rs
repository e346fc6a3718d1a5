//! The kernel's cache of one mount of the view, and what the server keeps to fill it: how both are made to forget.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use fuser::{INodeNo, Notifier};
use vfsrun_sys::mount::NewMount;

use crate::listings::Listings;
use crate::open_files::OpenFiles;
use crate::passed_files::PassedFiles;

pub struct KernelCache {
    pub notifier: Notifier,
    /// Of which it is the cache.
    pub mount: OwnedFd,
    pub files: Arc<OpenFiles>,
    pub passed: Option<Arc<PassedFiles>>,
    pub listings: Arc<Listings>,
}

impl KernelCache {
    /// The name, found or not found, and all below it. Those inside keep what they have.
    pub fn forget_name(&self, dir: INodeNo, name: &OsStr) -> io::Result<()> {
        self.notifier.inval_entry(dir, name)
    }

    /// Attributes, listing, link target and content.
    pub fn forget_node(&self, node: INodeNo) -> io::Result<()> {
        // First what pages would be filled from.
        self.files.close(node.0);
        self.listings.drop_kept(node.0);
        self.notifier.inval_inode(node, 0, 0)
    }

    /// Every name that nobody uses. By their names absent ones cannot be forgotten, of which the server keeps no list: asked for
    /// in a directory whose own name is forgotten, they would keep that for ever.
    pub fn forget_unused(&self) -> io::Result<()> {
        // What the kernel does whenever a file system is configured anew.
        NewMount::of_mounted(&self.mount)?.reconfigure()
    }

    /// No file stays open that nobody reads.
    pub fn close_files(&self) {
        self.files.close_all();
        if let Some(passed) = &self.passed {
            passed.forget_idle();
        }
    }
}
