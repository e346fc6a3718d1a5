//! Landlock: the kernel's own rules about which paths this process and its children may write.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, Scope,
};
use rustix::fs::{Mode, OFlags};
use vfsrun_plan::plan::Landlock;
use vfsrun_sys::beneath;

use super::SandboxError;

/// Devices whose ioctls a terminal program needs.
const TERMINALS: [&str; 3] = ["/dev/tty", "/dev/pts", "/dev/console"];

/// Restricts this process for ever. Returns the ABI whose rights are enforced.
///
/// Reading and executing is left to file modes; writing is for the paths of the plan only; abstract sockets and
/// signals do not leave the action; device ioctls are the terminal's alone.
pub fn restrict(plan: &Landlock, abi: u32) -> Result<u32, SandboxError> {
    let known = known_abi(abi);
    let all = AccessFs::from_all(known);
    let failed = |source| SandboxError::Landlock { source };
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
    let mut ruleset = ruleset.handle_access(all).map_err(failed)?;
    // The crate takes an empty set of rights, which is all that older kernels know of some kinds, for a mistake.
    let scopes = Scope::from_all(known);
    if !scopes.is_empty() {
        ruleset = ruleset.scope(scopes).map_err(failed)?;
    }
    if plan.connect_tcp.is_some() {
        ruleset = ruleset.handle_access(AccessNet::ConnectTcp).map_err(failed)?;
    }
    if plan.bind_tcp.is_some() {
        ruleset = ruleset.handle_access(AccessNet::BindTcp).map_err(failed)?;
    }
    let mut created = ruleset.create().map_err(failed)?.no_new_privs(false);
    let read = AccessFs::from_read(known);
    let slash = Path::new("/");
    let root = open_root().map_err(|source| SandboxError::LandlockPath { path: slash.into(), source })?;
    created = allow(created, root, read)?;
    let write = AccessFs::from_write(known) & !AccessFs::IoctlDev;
    for path in &plan.write {
        created = allow_if_there(created, path, read | write)?;
    }
    for path in TERMINALS.map(Path::new).into_iter().filter(|_| all.contains(AccessFs::IoctlDev)) {
        created = allow_if_there(created, path, BitFlags::from(AccessFs::IoctlDev))?;
    }
    for port in plan.connect_tcp.iter().flatten() {
        created = created.add_rule(NetPort::new(*port, AccessNet::ConnectTcp)).map_err(failed)?;
    }
    for port in plan.bind_tcp.iter().flatten() {
        created = created.add_rule(NetPort::new(*port, AccessNet::BindTcp)).map_err(failed)?;
    }
    created.restrict_self().map_err(failed)?;
    Ok(abi.min(known as u32))
}

fn allow(
    created: RulesetCreated,
    fd: OwnedFd,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, SandboxError> {
    created.add_rule(PathBeneath::new(fd, access)).map_err(|source| SandboxError::Landlock { source })
}

/// A path that is not there cannot be written either: its parent is not allowed. One that leads through a symlink is
/// not the place the spec named: a layer could have made it lead to anywhere.
fn allow_if_there(
    created: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, SandboxError> {
    let failed = |source| SandboxError::LandlockPath { path: path.into(), source };
    let root = open_root().map_err(failed)?;
    match beneath::open(&root, path.strip_prefix("/").unwrap_or(path), OFlags::PATH) {
        Ok(fd) => allow(created, fd, access),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)) => {
            Ok(created)
        }
        Err(error) => Err(failed(error)),
    }
}

fn open_root() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn known_abi(abi: u32) -> ABI {
    match abi {
        0 => ABI::Unsupported,
        1 => ABI::V1,
        2 => ABI::V2,
        3 => ABI::V3,
        4 => ABI::V4,
        5 => ABI::V5,
        _ => ABI::V6,
    }
}
