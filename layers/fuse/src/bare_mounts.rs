//! Bare mounts in the table of mounts: found by their source, which is their name.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::{MntFlags, umount2};
use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::net::SocketAddrUnix;
use vfsrun_sys::mountinfo;

const PREFIX: &str = "vfsrun-view-";
const HELPER: &str = "fusermount3";
/// Where distributions have it, whatever PATH is.
const PLACES: [&str; 2] = ["/usr/bin", "/bin"];

/// What no other mount is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountName(String);

impl MountName {
    pub fn random() -> io::Result<MountName> {
        let mut bytes = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(MountName(format!("{PREFIX}{:032x}", u128::from_le_bytes(bytes))))
    }

    /// Where its server listens.
    pub fn address(&self) -> rustix::io::Result<SocketAddrUnix> {
        SocketAddrUnix::new_abstract_name(self.0.as_bytes())
    }
}

impl fmt::Display for MountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The bare mount that `at` (absolute, without links) leads to.
pub fn at(at: &Path) -> io::Result<Option<MountName>> {
    let mounts = read()?;
    let last = mounts.into_iter().rfind(|(place, _)| place == at);
    Ok(last.and_then(|(_, source)| source.starts_with(PREFIX).then_some(MountName(source))))
}

/// Unmounts it wherever it is; what is in use goes when it no longer is.
pub fn unmount_all(name: &MountName) {
    let mounts = read().unwrap_or_default();
    for (place, _) in mounts.iter().rev().filter(|(_, source)| *source == name.0) {
        // It may be gone by now: whoever unmounted it was as quick.
        let _ = unmount(place, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
    }
}

/// Errors: what umount2(2) or fusermount3 says.
pub fn unmount(at: &Path, flags: MntFlags) -> io::Result<()> {
    match umount2(at, flags) {
        Err(nix::errno::Errno::EPERM) if has_helper() => unmount_by_helper(at, flags),
        other => Ok(other?),
    }
}

fn unmount_by_helper(at: &Path, flags: MntFlags) -> io::Result<()> {
    let mut command = Command::new(helper().ok_or(io::ErrorKind::NotFound)?);
    command.arg("-u");
    if flags.contains(MntFlags::MNT_DETACH) {
        command.arg("-z");
    }
    let output = command.arg("--").arg(at).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(io::Error::other(said))
}

pub fn has_helper() -> bool {
    helper().is_some()
}

fn helper() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(PLACES.map(PathBuf::from));
    let mut programs = directories.map(|directory| directory.join(HELPER));
    programs.find(|program| accessat(CWD, program, Access::EXEC_OK, AtFlags::EACCESS).is_ok())
}

/// Place and source of each mount, in the order of the table.
fn read() -> io::Result<Vec<(PathBuf, String)>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(mountinfo::lines(&table).map(|line| (line.point(), line.source().into_owned())).collect())
}
