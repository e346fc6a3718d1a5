//! Directories of our own: where state that lives as long as the boot is kept, and where layers are.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

#[derive(Debug, Error)]
pub enum DirectoryError {
    #[error("cannot make {}; name another place with --root", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("{} belongs to uid {owner} or is open to others; name another place with --root", path.display())]
    NotOurs { path: PathBuf, owner: u32 },
    #[error("neither --store, VFSRUN_STORE, XDG_DATA_HOME nor HOME says where layers are kept")]
    NoStore,
}

/// Whether directories of the machine are this caller's. One who is root in a user namespace, and has a runtime directory as
/// users have one, is a user's container engine.
fn is_machines_root(privileged: bool) -> bool {
    let initial = || {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        map.split_whitespace().eq(["0", "0", "4294967295"])
    };
    privileged && (initial() || std::env::var_os("XDG_RUNTIME_DIR").is_none())
}

/// The runtime directory: `--root`, else /run/vfsrun for root, else the user's own. Made when missing, mode 0700. Absolute: who
/// stays behind has another working directory.
pub fn runtime(said: Option<&Path>, privileged: bool) -> Result<PathBuf, DirectoryError> {
    let uid = rustix::process::geteuid().as_raw();
    let path = match said {
        Some(path) => std::path::absolute(path)
            .map_err(|source| DirectoryError::Create { path: path.to_path_buf(), source })?,
        None if is_machines_root(privileged) => PathBuf::from("/run/vfsrun"),
        None => match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
            Some(run) if run.is_dir() => run.join("vfsrun"),
            _ if Path::new(&format!("/run/user/{uid}")).is_dir() => {
                PathBuf::from(format!("/run/user/{uid}/vfsrun"))
            }
            _ => std::env::temp_dir().join(format!("vfsrun-{uid}")),
        },
    };
    make_private(&path, uid)?;
    Ok(path)
}

/// A directory that each run covers in its own mount namespace, to build its root in.
pub fn scaffold(runtime: &Path) -> Result<PathBuf, DirectoryError> {
    let path = runtime.join("scaffold");
    make_private(&path, rustix::process::geteuid().as_raw())?;
    Ok(path)
}

fn make_private(path: &Path, uid: u32) -> Result<(), DirectoryError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| DirectoryError::Create { path: path.into(), source })?;
    let metadata =
        path.symlink_metadata().map_err(|source| DirectoryError::Create { path: path.into(), source })?;
    // In a world-writable parent somebody else may have been there first.
    if metadata.is_dir() && metadata.uid() == uid && metadata.mode() & 0o022 == 0 {
        Ok(())
    } else {
        Err(DirectoryError::NotOurs { path: path.into(), owner: metadata.uid() })
    }
}

/// The layer store: `--store`, VFSRUN_STORE, else /var/lib/vfsrun for root and the user's data directory.
pub fn store(said: Option<&Path>, privileged: bool) -> Result<PathBuf, DirectoryError> {
    let from_env =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| !path.as_os_str().is_empty());
    if let Some(path) = said.map(Path::to_path_buf).or_else(|| from_env("VFSRUN_STORE")) {
        return Ok(path);
    }
    if is_machines_root(privileged) && rustix::process::geteuid().is_root() {
        return Ok("/var/lib/vfsrun".into());
    }
    let data = from_env("XDG_DATA_HOME").or_else(|| from_env("HOME").map(|home| home.join(".local/share")));
    data.map(|data| data.join("vfsrun")).ok_or(DirectoryError::NoStore)
}
