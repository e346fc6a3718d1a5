//! A plan: every decision about one run. Nothing is decided after it; `vfsrun plan` prints it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vfsrun_cgroup::devices::Rule as DeviceRule;
use vfsrun_cgroup::{Limit, Place};
use vfsrun_seccomp::Profile;
use vfsrun_spec::Hooks;
use vfsrun_spec::oci::{NamespaceType, RlimitType};
use vfsrun_spec::vfs::{FsRight, NetRight, ScopeRight};
use vfsrun_union::describe::{LogRule, SegmentSpec};

use crate::ids::Extent;

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    pub command: Command,
    pub namespaces: Vec<Namespace>,
    /// Written for the new user namespace; absent without one.
    pub ids: Option<Ids>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    /// Bring `lo` up in the new network namespace.
    pub loopback: bool,
    pub root: Root,
    pub mounts: Vec<Mount>,
    /// Make the six device nodes and the usual links in /dev.
    pub devices: bool,
    /// Made after the mounts, in them.
    pub directories: Vec<Directory>,
    /// Names below these are replaced by nothing: an empty directory or /dev/null.
    pub masked: Vec<PathBuf>,
    pub readonly: Vec<PathBuf>,
    pub sysctl: Vec<(String, String)>,
    pub sandbox: Sandbox,
    /// `None`: the caller's own.
    pub cgroup: Option<Cgroup>,
    pub capture: Option<Capture>,
    /// The use of what these fit is recorded, for which the run is traced.
    pub log: Vec<LogRule>,
    /// Told to whoever asks for the state.
    pub annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
    /// Seconds after which the action is ended.
    pub time_limit: Option<f64>,
    /// Said once on stderr before the run.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Command {
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub cwd: PathBuf,
    pub uid: u32,
    pub gid: u32,
    /// `None`: the caller's are kept (they cannot be changed without a range of ids).
    pub groups: Option<Vec<u32>>,
    pub umask: u32,
    pub terminal: bool,
    pub stdin: Stdin,
    pub rlimits: Vec<Rlimit>,
    pub oom_score_adj: Option<i32>,
    /// The first process of a pid namespace reaps; a bundle's command is that process itself, as in runc.
    pub reaper: bool,
    /// Rows and columns of a terminal.
    pub console_size: Option<(u16, u16)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Stdin {
    Null,
    Inherit,
}

/// A directory with its owner, in ids inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Directory {
    pub path: PathBuf,
    pub uid: u32,
    pub gid: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rlimit {
    pub kind: RlimitType,
    pub soft: u64,
    pub hard: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Namespace {
    pub kind: NamespaceType,
    /// An existing one to join.
    pub path: Option<PathBuf>,
}

impl Namespace {
    pub fn is_new_user(&self) -> bool {
        self.kind == NamespaceType::User && self.path.is_none()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ids {
    pub uids: Vec<Extent>,
    pub gids: Vec<Extent>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Root {
    /// A directory, bound as it is: neither FUSE nor overlay. Device nodes in it and in what is bound into it can be used only with
    /// `devices`: where a cgroup says which.
    Directory { path: PathBuf, readonly: bool, slave: bool, devices: bool },
    /// Segments of the view server under an overlay.
    View {
        segments: Vec<Segment>,
        upper: Upper,
        /// Who owns `/`, in ids inside.
        owner: (u32, u32),
        readonly: bool,
        /// Set-id bits and file capabilities count.
        suid: bool,
        /// Where the upper is on [`UpperOn::Root`].
        layer: Option<RootLayer>,
    },
}

/// The overlay mount that a bundle's `root.path` is: in what the root is composed of it is its lowers, and what is written
/// goes to its upper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RootLayer {
    /// Directories, first on top.
    pub lowers: Vec<PathBuf>,
    pub upper: PathBuf,
    /// As it is mounted, so that what one mount has written the other one understands.
    pub redirects: bool,
    pub metacopy: bool,
    pub user_xattrs: bool,
}

/// One lower of the overlay, first on top.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Segment {
    pub spec: SegmentSpec,
    /// What the descriptors that `spec` names by index are.
    pub opens: Vec<Open>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Open {
    /// A directory or file of the host. `at` is the JSON path that named it, for messages.
    Path {
        path: PathBuf,
        at: String,
    },
    /// A file to be read.
    File {
        path: PathBuf,
        at: String,
    },
    /// An input manifest of the store.
    StoredInputs {
        digest: String,
        at: String,
    },
    /// Directories, first on top, as an overlay of them alone shows them.
    Lowers {
        paths: Vec<PathBuf>,
        at: String,
    },
    /// The caller's `/`.
    HostRoot,
    Store,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Upper {
    pub on: UpperOn,
    /// Bytes; only a memory upper can be limited.
    pub size: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum UpperOn {
    Disk,
    Memory,
    Root,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Absolute, in the root.
    pub destination: PathBuf,
    pub what: MountKind,
    pub attributes: Attributes,
    /// The JSON path that asked for it, for messages; "default" for ours.
    pub at: String,
}

impl Mount {
    pub fn is_bind(&self) -> bool {
        matches!(self.what, MountKind::Bind { .. })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum MountKind {
    Proc,
    /// Any file system by name, with its options.
    FileSystem {
        name: String,
        source: Option<String>,
        options: Vec<String>,
        /// It begins with what it covers.
        copies_up: bool,
    },
    Bind {
        source: PathBuf,
        recursive: bool,
    },
    Cgroup(CgroupMount),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum CgroupMount {
    /// The command's own cgroup: that of version 2, or a directory with that of each hierarchy.
    Own { places: Vec<Place> },
    /// What the caller sees.
    Callers,
}

/// A cgroup of the command's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cgroup {
    pub places: Vec<Place>,
    pub limits: Vec<Limit>,
    /// `None`: devices are denied by other means alone.
    pub devices: Option<Vec<DeviceRule>>,
}

/// Mount attributes by the names of mount(8).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Attributes {
    /// MOUNT_ATTR_ bits as in mount_setattr(2).
    pub set: u32,
    pub clear: u32,
    pub recursive_set: u32,
    pub recursive_clear: u32,
    pub propagation: Option<String>,
}

impl Attributes {
    pub fn is_readonly(&self) -> bool {
        const MOUNT_ATTR_RDONLY: u32 = 1;
        (self.set | self.recursive_set) & MOUNT_ATTR_RDONLY != 0
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sandbox {
    pub no_new_privileges: bool,
    pub capabilities: Capabilities,
    pub seccomp: Option<Seccomp>,
    /// Who answers the calls that the filter asks about.
    pub agent: Option<Agent>,
    pub landlock: Option<Landlock>,
}

/// A seccomp agent: a program on the host that listens on a Unix socket.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    pub socket: PathBuf,
    /// Told to it as it is.
    pub metadata: Option<String>,
}

/// Which filter is loaded.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Seccomp {
    /// The default of actions, compiled with the program.
    Action,
    /// The spec's own.
    Profile(Profile),
}

/// Sets as bits, bit 0 is CAP_CHOWN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    pub bounding: u64,
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub ambient: u64,
}

/// Rules for the kernel, which knows all rights that they name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Landlock {
    /// The kernel's, as far as it is used.
    pub abi: u32,
    /// Denied unless a rule allows them.
    pub fs: BTreeSet<FsRight>,
    pub net: BTreeSet<NetRight>,
    pub scoped: BTreeSet<ScopeRight>,
    pub paths: Vec<PathRule>,
    pub ports: Vec<PortRule>,
    /// Rights that were asked for and are not denied, because the kernel does not know them.
    pub dropped: Vec<&'static str>,
}

/// Rights on a path and all beneath it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PathRule {
    /// Absolute, in the root.
    pub path: PathBuf,
    pub allowed: BTreeSet<FsRight>,
    /// The JSON path that asked for it; `None` for a rule of ours.
    pub at: Option<String>,
    /// Else the rule is skipped where the path is not there.
    pub must_exist: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortRule {
    pub port: u16,
    pub allowed: BTreeSet<NetRight>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Capture {
    /// Empty: everything.
    pub only: Vec<PathBuf>,
    pub name: Option<String>,
    /// Times later than this are recorded as this, so that equal runs give equal digests; seconds.
    pub clamp_time: i64,
}
