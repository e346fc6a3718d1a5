//! The layer that a bundle's root writes to, claimed for one container: an overlay of ours over it needs a work directory on its
//! file system, and two overlays that write to one layer would not know of each other's files.
//!
//! ```text
//! STORE/ID/diff            the layer, an overlay's upper
//! STORE/ID/work            of whoever made the bundle
//! STORE/ID/vfsrun-work/    lock, held by whoever looks after the container; user, its process; work
//! ```

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use thiserror::Error;
use vfsrun_plan::plan::RootLayer;
use vfsrun_sys::process::Process;

const DIRECTORY: &str = "vfsrun-work";
const LOCK: &str = "lock";
const USER: &str = "user";
const WORK: &str = "work";

#[derive(Debug, Error)]
pub enum RootLayerError {
    #[error("root.path: another container writes to its layer {}", path.display())]
    InUse { path: PathBuf },
    #[error("root.path: cannot {step} {}", path.display())]
    Step { step: &'static str, path: PathBuf, source: io::Error },
}

impl RootLayerError {
    fn step(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RootLayerError {
        let path = path.to_path_buf();
        move |source| RootLayerError::Step { step, path, source }
    }
}

/// Nobody else's of ours as long as it is there, or a process lives that it is kept for.
#[derive(Debug)]
pub struct Claimed {
    layer: RootLayer,
    directory: PathBuf,
    /// Held until the last copy of this descriptor is closed, children's included.
    lock: File,
}

impl Claimed {
    pub fn new(layer: &RootLayer) -> Result<Claimed, RootLayerError> {
        let directory = layer.upper.with_file_name(DIRECTORY);
        match DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(RootLayerError::step("make", &directory)(error));
            }
            _ => {}
        }
        let in_use = || RootLayerError::InUse { path: layer.upper.clone() };
        let path = directory.join(LOCK);
        let lock = File::options().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let lock = lock.map_err(RootLayerError::step("open", &path))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(in_use()),
            locked => locked.map_err(|errno| RootLayerError::step("lock", &path)(errno.into()))?,
        }
        // Its monitor may have been killed.
        if is_used(&directory).map_err(RootLayerError::step("look at", &directory))? {
            return Err(in_use());
        }
        let claimed = Claimed { layer: layer.clone(), directory, lock };
        let work = claimed.work();
        remove(&work)?;
        DirBuilder::new().mode(0o700).create(&work).map_err(RootLayerError::step("make", &work))?;
        Ok(claimed)
    }

    pub fn layer(&self) -> &RootLayer {
        &self.layer
    }

    pub fn work(&self) -> PathBuf {
        self.directory.join(WORK)
    }

    /// Of its lock.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    pub fn keep_while(&self, process: Process) -> Result<(), RootLayerError> {
        let path = self.directory.join(USER);
        let text = serde_json::to_vec(&process).expect("two numbers");
        std::fs::write(&path, text).map_err(RootLayerError::step("write", &path))
    }

    /// Nothing may be mounted on it any more.
    pub fn let_go(self) -> Result<(), RootLayerError> {
        remove(&self.directory)
    }
}

fn is_used(directory: &Path) -> io::Result<bool> {
    let text = match std::fs::read(directory.join(USER)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        read => read?,
    };
    // Of somebody who was killed while it was written: the process did not run yet.
    let Ok(process) = serde_json::from_slice::<Process>(&text) else { return Ok(false) };
    Ok(process.open()?.is_some())
}

fn remove(path: &Path) -> Result<(), RootLayerError> {
    match std::fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(RootLayerError::step("remove", path)(source))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(directory: &Path) -> RootLayer {
        RootLayer {
            lowers: Vec::new(),
            upper: directory.join("diff"),
            redirects: false,
            metacopy: false,
            user_xattrs: false,
        }
    }

    #[test]
    fn layer_is_ones_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let layer = layer(directory.path());
        let claimed = Claimed::new(&layer).unwrap();
        assert!(matches!(Claimed::new(&layer), Err(RootLayerError::InUse { .. })));
        claimed.let_go().unwrap();
        assert!(!directory.path().join(DIRECTORY).exists());
        Claimed::new(&layer).unwrap();
    }

    #[test]
    fn layer_is_kept_for_a_process_whose_monitor_was_killed() {
        let directory = tempfile::tempdir().unwrap();
        let layer = layer(directory.path());
        let mut user = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = rustix::process::Pid::from_raw(user.id() as i32).unwrap();
        let claimed = Claimed::new(&layer).unwrap();
        claimed.keep_while(Process::of(pid).unwrap()).unwrap();
        drop(claimed);
        assert!(matches!(Claimed::new(&layer), Err(RootLayerError::InUse { .. })));
        user.kill().unwrap();
        user.wait().unwrap();
        Claimed::new(&layer).unwrap();
    }
}
