//! Temporary stores, uppers and overlays for the tests.

#![allow(dead_code, reason = "each test file uses some of it")]

pub mod kept;
pub mod reviewed;
pub mod scene;
#[path = "../../../../tests/src/skip.rs"]
pub mod skip;

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use vfsrun_layers::{
    CaptureError, CaptureOptions, Captured, Digest, Entry, Hooks, Kind, LayerStore, Manifest, Meta, capture,
};

/// A store and a place for trees on the same file system.
pub struct World {
    pub temp: TempDir,
    pub store: LayerStore,
}

impl World {
    pub fn new() -> World {
        World::beneath(&std::env::temp_dir())
    }

    pub fn beneath(dir: &Path) -> World {
        let temp = tempfile::tempdir_in(dir).unwrap();
        let store = LayerStore::open(&temp.path().join("store")).unwrap();
        World { temp, store }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    /// Makes a directory.
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    pub fn capture(&self, upper: &Path, options: &CaptureOptions) -> Result<Captured, CaptureError> {
        capture(std::os::fd::AsFd::as_fd(&open(upper)), options, &self.store, Hooks::default())
    }

    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.path("store").join("blobs").join(&hex[..2]).join(&hex[2..])
    }

    /// A layer of one file, whose blob has other bytes than it should.
    pub fn damaged(&self) -> Manifest {
        let digest = self.store.put_blob(&b"stored"[..]).unwrap().0;
        let blob = self.blob_path(&digest);
        fs::set_permissions(&blob, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&blob, "forged").unwrap();
        Manifest::from_entries(vec![file("some", b"stored")]).unwrap()
    }

    pub fn blobs(&self) -> usize {
        let prefixes = fs::read_dir(self.path("store/blobs")).unwrap();
        prefixes.map(|prefix| fs::read_dir(prefix.unwrap().path()).unwrap().count()).sum()
    }
}

pub fn open(path: &Path) -> OwnedFd {
    fs::File::open(path).unwrap().into()
}

pub fn directory(path: &str) -> Entry {
    let meta = Meta { mode: 0o755, ..Meta::default() };
    Entry { path: path.into(), kind: Kind::Directory { opaque: false }, meta }
}

pub fn file(path: &str, content: &[u8]) -> Entry {
    let meta = Meta { mode: 0o644, ..Meta::default() };
    let kind = Kind::File { digest: Digest::of(content), size: content.len() as u64 };
    Entry { path: path.into(), kind, meta }
}

pub fn find<'a>(manifest: &'a Manifest, path: &str) -> &'a Entry {
    manifest.entries.iter().find(|entry| entry.path == Path::new(path)).unwrap_or_else(|| panic!("no {path}"))
}

pub fn paths(manifest: &Manifest) -> Vec<&str> {
    manifest.entries.iter().map(|entry| entry.path.to_str().unwrap()).collect()
}

/// What is to be mounted, and how.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Overlay {
    /// As root: marks are trusted.overlay.*.
    Trusted,
    /// In a user namespace: marks are user.overlay.*.
    Userxattr,
}

/// Mounts a kernel overlay of `lower` and `upper` in a mount namespace of its own and runs `script` in it.
/// Returns false, and says so, where this process may not do that.
pub fn in_overlay(world: &World, how: Overlay, script: &str) -> bool {
    if !rustix::process::geteuid().is_root() {
        skip::this_test("a kernel overlay is mounted by root only");
        return false;
    }
    for name in ["lower", "upper", "work", "merged"] {
        world.dir(name);
    }
    let mut command = Command::new("unshare");
    let extra = match how {
        Overlay::Trusted => "",
        Overlay::Userxattr => {
            command.arg("--map-root-user");
            ",userxattr"
        }
    };
    let options =
        "lowerdir=lower,upperdir=upper,workdir=work,xino=on,redirect_dir=nofollow,metacopy=off,index=off";
    let mount = format!("mount -t overlay overlay -o {options}{extra} merged && cd merged && {script}");
    let status = command
        .args(["--mount", "--propagation", "private", "sh", "-euc", &mount])
        .current_dir(world.temp.path())
        .status()
        .unwrap();
    assert!(status.success(), "the script in the overlay failed: {script}");
    true
}
