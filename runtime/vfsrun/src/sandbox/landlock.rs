//! Landlock: the kernel's own rules about what this process and its children may do with files and ports, and whom they
//! may reach.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use landlock::{
    AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, Scope,
};
use rustix::fs::{FileType, Mode, OFlags};
use vfsrun_plan::plan::{Landlock, PathRule};
use vfsrun_spec::vfs::{FsRight, NetRight, Right, ScopeRight};
use vfsrun_sys::beneath;

use super::SandboxError;

/// Restricts this process for ever. Returns which of the plan's rules about paths were skipped, by their index.
pub fn restrict(plan: &Landlock) -> Result<Vec<usize>, SandboxError> {
    let failed = |source| SandboxError::Landlock { source };
    tracing::debug!(
        abi = plan.abi,
        fs = ?names(&plan.fs),
        net = ?names(&plan.net),
        scoped = ?names(&plan.scoped),
        dropped = ?plan.dropped,
        "restrict with Landlock"
    );
    // The plan has nothing that this kernel does not know: whatever it refuses is an error.
    let mut ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    // The crate takes an empty set of rights for a mistake.
    if !plan.fs.is_empty() {
        ruleset = ruleset.handle_access(fs_flags(&plan.fs)).map_err(failed)?;
    }
    if !plan.net.is_empty() {
        ruleset = ruleset.handle_access(net_flags(&plan.net)).map_err(failed)?;
    }
    if !plan.scoped.is_empty() {
        ruleset = ruleset.scope(scope_flags(&plan.scoped)).map_err(failed)?;
    }
    let mut created = ruleset.create().map_err(failed)?.no_new_privs(false);
    let root = open_root().map_err(|source| SandboxError::LandlockPath { path: "/".into(), source })?;
    let mut skipped = Vec::new();
    for (index, rule) in plan.paths.iter().enumerate() {
        let Some(fd) = place(&root, rule)? else {
            skipped.push(index);
            continue;
        };
        let mut allowed = rule.allowed.clone();
        let stat = rustix::fs::fstat(&fd).map_err(|errno| cannot_open(rule, errno.into()))?;
        if !FileType::from_raw_mode(stat.st_mode).is_dir() {
            // The kernel refuses those that only directories can have.
            allowed.retain(|right| FsRight::OF_FILES.contains(right));
        }
        if !allowed.is_empty() {
            created = created.add_rule(PathBeneath::new(fd, fs_flags(&allowed))).map_err(failed)?;
        }
    }
    for rule in &plan.ports {
        created = created.add_rule(NetPort::new(rule.port, net_flags(&rule.allowed))).map_err(failed)?;
    }
    created.restrict_self().map_err(failed)?;
    Ok(skipped)
}

/// `None`: it is not there and need not be; it is denied then, as its parent is. A path that leads through a symlink is not
/// the place the spec named: a layer could have made it lead to anywhere.
fn place(root: &OwnedFd, rule: &PathRule) -> Result<Option<OwnedFd>, SandboxError> {
    let PathRule { path, must_exist, .. } = rule;
    match beneath::open(root, path.strip_prefix("/").unwrap_or(path), OFlags::PATH) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if !must_exist && is_absence(&error) => {
            tracing::debug!(path = %path.display(), %error, "skip a Landlock rule");
            Ok(None)
        }
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            let cause = "the path leads through a symlink; name the place itself";
            Err(cannot_open(rule, io::Error::other(cause)))
        }
        Err(error) => Err(cannot_open(rule, error)),
    }
}

fn cannot_open(rule: &PathRule, source: io::Error) -> SandboxError {
    let path = rule.path.clone();
    match &rule.at {
        Some(at) => SandboxError::LandlockRule { at: at.clone(), path, source },
        None => SandboxError::LandlockPath { path, source },
    }
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP))
}

fn open_root() -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(Path::new("/"), flags, Mode::empty())?)
}

fn names<R: Right>(rights: &BTreeSet<R>) -> Vec<&'static str> {
    rights.iter().map(|right| right.name()).collect()
}

fn fs_flags(rights: &BTreeSet<FsRight>) -> BitFlags<AccessFs> {
    let flag = |right: &FsRight| match right {
        FsRight::Execute => AccessFs::Execute,
        FsRight::WriteFile => AccessFs::WriteFile,
        FsRight::ReadFile => AccessFs::ReadFile,
        FsRight::ReadDir => AccessFs::ReadDir,
        FsRight::RemoveDir => AccessFs::RemoveDir,
        FsRight::RemoveFile => AccessFs::RemoveFile,
        FsRight::MakeChar => AccessFs::MakeChar,
        FsRight::MakeDir => AccessFs::MakeDir,
        FsRight::MakeReg => AccessFs::MakeReg,
        FsRight::MakeSock => AccessFs::MakeSock,
        FsRight::MakeFifo => AccessFs::MakeFifo,
        FsRight::MakeBlock => AccessFs::MakeBlock,
        FsRight::MakeSym => AccessFs::MakeSym,
        FsRight::Refer => AccessFs::Refer,
        FsRight::Truncate => AccessFs::Truncate,
        FsRight::IoctlDev => AccessFs::IoctlDev,
    };
    rights.iter().map(flag).collect()
}

fn net_flags(rights: &BTreeSet<NetRight>) -> BitFlags<AccessNet> {
    let flag = |right: &NetRight| match right {
        NetRight::BindTcp => AccessNet::BindTcp,
        NetRight::ConnectTcp => AccessNet::ConnectTcp,
    };
    rights.iter().map(flag).collect()
}

fn scope_flags(rights: &BTreeSet<ScopeRight>) -> BitFlags<Scope> {
    let flag = |right: &ScopeRight| match right {
        ScopeRight::AbstractUnixSocket => Scope::AbstractUnixSocket,
        ScopeRight::Signal => Scope::Signal,
    };
    rights.iter().map(flag).collect()
}
