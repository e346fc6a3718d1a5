//! Why there is no plan: the spec asks for what is not here, or is not this caller's to have.

use std::path::PathBuf;

use thiserror::Error;
use vfsrun_spec::Spec;
use vfsrun_spec::vfs::{LANDLOCK_ANNOTATION, VIEW_ANNOTATION};
use vfsrun_union::PatternError;

use crate::facts::Facts;
use crate::{capabilities, mounts};

#[derive(Debug, Error)]
pub enum PlanError {
    #[error("vfs is missing: a plain bundle's root is one directory, and no view of branches")]
    NoBranches,
    #[error("root: missing; a spec without vfs needs root.path")]
    NoRoot,
    #[error("root.path: {} is not a directory", path.display())]
    RootMissing { path: PathBuf },
    #[error("{at}: {} does not exist", path.display())]
    PathMissing { at: String, path: PathBuf },
    #[error("{at}: cannot look at {}: {reason}", path.display())]
    PathUnreachable { at: String, path: PathBuf, reason: String },
    #[error("{at}: {} is neither a directory nor a file", path.display())]
    NotABranch { at: String, path: PathBuf },
    #[error("{at}: {} is not a file", path.display())]
    NotAFile { at: String, path: PathBuf },
    #[error("{at}: {reason}; `vfsrun layer ls` lists what there is")]
    Layer { at: String, reason: String },
    #[error("{at}: nothing matches {pattern}")]
    GlobMatchesNothing { at: String, pattern: String },
    #[error("{at}: {reason}")]
    Glob { at: String, reason: String },
    #[error("{at}: \"branch\" would be each layer of the image by itself; use \"view\"")]
    ScopeOfLayers { at: String },
    #[error(
        "{at}: only root can have the kernel mount {}; unpack it (unsquashfs, fsck.erofs --extract=DIR) and use path",
        path.display()
    )]
    ImageNeedsRoot { at: String, path: PathBuf },
    #[error("{at}: {reason}")]
    Image { at: String, reason: String },
    #[error("{at}: this host has no tools that the preset knows: neither /usr/bin nor a NixOS profile")]
    NoHostTools { at: String },
    #[error("vfs.rules: {pattern:?} is no pattern")]
    LogRule { pattern: String, source: PatternError },
    #[error("{at}: it is not a regular expression")]
    Regex { at: String, source: PatternError },
    #[error("{at}: a bind mount has no option {option:?}; a file system would be asked whether it has it")]
    MountOption { at: String, option: String },
    #[error(
        "{at}.options: {option:?} does not map uids and gids, as idmap=uids=0-1000-10;gids=0-1000-10 does"
    )]
    MountIds { at: String, option: String },
    #[error("{at}: {number} is no number of a device")]
    DeviceNumber { at: String, number: i64 },
    #[error("{at}: names no file")]
    DevicePath { at: String },
    #[error("{at}: {problem}")]
    Mount { at: String, problem: &'static str },
    #[error(
        "{at}: links can be followed on the host only for the caller itself (uid {caller}): they would be followed \
         with its rights, and process.user is uid {user}"
    )]
    ForeignHostScope { at: String, caller: u32, user: u32 },
    #[error(
        "{at}: overrideStat, owner and perms work only for the caller itself (uid {caller}): they hide who may read the \
         files, and process.user is uid {user}"
    )]
    ForeignRewrite { at: String, caller: u32, user: u32 },
    #[error("linux.namespaces: a root that is composed (vfs) needs a mount namespace of its own")]
    NoMountNamespace,
    #[error("linux.namespaces: an action needs a pid namespace of its own")]
    NoPidNamespace,
    #[error("{at}: {needs} namespace of its own is needed, or it would change the host's")]
    HostWide { at: String, needs: &'static str },
    #[error("linux.sysctl.kernel.hostname: the name of the host is said by `hostname`")]
    SysctlOfHostname,
    #[error("linux.sysctl: {key} is not of any namespace, so it would change the host")]
    Sysctl { key: String },
    #[error("{at}: needs Landlock ABI {needed} (Linux {linux}); this kernel has {abi}")]
    LandlockAbi { at: String, needed: u32, linux: &'static str, abi: u32 },
    #[error(
        "{at}: {right} needs Landlock ABI {needed} (Linux {linux}); this kernel has {abi}, and \"enforce\": \"bestEffort\" goes without"
    )]
    LandlockRight { at: String, right: &'static str, needed: u32, linux: &'static str, abi: u32 },
    #[error("process.capabilities.{set}: {name} is not in the {limit} set, as it must be")]
    Capability { set: &'static str, name: String, limit: &'static str },
    #[error("{at}: {reason}")]
    Scheduling { at: &'static str, reason: String },
    #[error("{at}: {module} is not enabled on this machine")]
    NoSecurityModule { at: &'static str, module: &'static str },
    #[error("process.user: {id} is no id")]
    NoId { id: u32 },
    #[error(
        "process.user.additionalGids: this caller cannot set supplementary groups; `vfsrun doctor` says what is missing"
    )]
    Groups,
    #[error("vfs: an ordinary user's action needs a user namespace; add it to linux.namespaces")]
    NoUserNamespace,
    #[error(transparent)]
    Limit(#[from] vfsrun_cgroup::limits::LimitError),
    #[error("{at}: no cgroup can be made here: {reason}; --cgroup-manager disabled goes without")]
    NoCgroup { at: &'static str, reason: &'static str },
    #[error(
        "linux.intelRdt: no resctrl file system is in sight; where CPUs and kernel have it, mount -t resctrl resctrl /sys/fs/resctrl"
    )]
    NoResctrl,
    #[error("linux.intelRdt.{field}: this machine cannot give {what}: there is no {file} in {}", mount.display())]
    ResctrlLacks { field: &'static str, what: &'static str, file: &'static str, mount: PathBuf },
    #[error("--cgroup-manager systemd: {reason}; --cgroup-manager cgroupfs does without systemd")]
    NoSystemd { reason: String },
    #[error("linux.cgroupsPath: {0}")]
    Unit(#[from] vfsrun_cgroup::systemd::NameError),
    #[error(transparent)]
    UnitProperty(#[from] vfsrun_cgroup::systemd::AnnotationError),
    #[error("linux.resources.devices: {reason}")]
    DeviceRules { reason: String },
    #[error("linux.seccomp: {reason}")]
    Seccomp { reason: String },
    #[error(
        "linux.seccomp.listenerPath: missing, and {at} is SCMP_ACT_NOTIFY: the socket of the agent that answers such calls"
    )]
    NoAgent { at: String },
    #[error("linux.seccomp.listenerPath: {} is not absolute", path.display())]
    AgentPath { path: PathBuf },
    #[error("linux.seccomp.listenerMetadata: needs a listenerPath")]
    AgentMetadata,
    #[error("{at}: id {id} is not one of this caller's ids; `vfsrun doctor` lists them")]
    IdNotOurs { at: &'static str, id: u32 },
    #[error("a composed root needs FUSE: {reason}")]
    NoFuse { reason: String },
    #[error("{at}.upper.on: {reason}")]
    RootLayer { at: String, reason: String },
    #[error("vfs.upper.on: a memory upper needs user xattrs on tmpfs (Linux 6.6); use \"disk\"")]
    NoMemoryUpper,
    #[error(
        "vfs.upper.on: {reason}; put the store elsewhere with --store, or use a kernel with tmpfs user xattrs (6.6)"
    )]
    NoUpper { reason: String },
}

/// What the user should know once, although the run goes on.
pub(crate) fn notes(spec: &Spec, may_make_devices: bool, facts: &Facts) -> Vec<String> {
    let mut notes = spec.warnings();
    if let Some(reason) = &facts.parent_ids.single_because
        && spec.composed().is_some()
    {
        notes.push(format!("only one user id is mapped: {reason}"));
    }
    notes.extend(mounts::notes(spec));
    if let Some(said) = spec.process.as_ref().and_then(|process| process.capabilities.as_ref()) {
        notes.extend(capabilities::notes(said, may_make_devices, facts.kernel.capabilities));
    }
    // The specification wants unknown annotations ignored, but one of ours is a wall that somebody believes to have.
    let ours = spec.annotations.keys().filter(|key| key.starts_with("run.vfsrun."));
    let unknown = ours.filter(|key| ![LANDLOCK_ANNOTATION, VIEW_ANNOTATION].contains(&key.as_str()));
    notes.extend(unknown.map(|key| format!("annotations[{key:?}]: this version does not know it")));
    notes
}
