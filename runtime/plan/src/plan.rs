//! A plan: every decision about one run. Nothing is decided after it; `vfsrun plan` prints it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vfsrun_cgroup::devices::Rule as DeviceRule;
use vfsrun_cgroup::systemd::Scope;
use vfsrun_cgroup::{Limit, Place, resctrl};
use vfsrun_seccomp::Profile;
use vfsrun_spec::Hooks;
use vfsrun_spec::oci::{NamespaceType, RlimitType, TimeOffset};
use vfsrun_spec::vfs::{CaptureWhen, FsRight, NetRight, ScopeRight};
use vfsrun_union::describe::{LogRule, SegmentSpec};

use crate::ids::Extent;

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    pub command: Command,
    pub namespaces: Vec<Namespace>,
    /// Of the new time namespace, by clock.
    pub time_offsets: BTreeMap<String, TimeOffset>,
    /// Written for the new user namespace; absent without one.
    pub ids: Option<Ids>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    /// Interfaces of the host that move into the network namespace.
    pub net_devices: Vec<NetDevice>,
    /// Bring `lo` up in the new network namespace.
    pub loopback: bool,
    pub root: Root,
    /// How mounts travel to it and from it, by the words of mount(8); private when not said.
    pub propagation: Option<String>,
    pub mounts: Vec<Mount>,
    /// Nodes of devices, those that every program expects among them.
    pub devices: Vec<Device>,
    /// The usual links in /dev.
    pub device_links: bool,
    /// What the mounts show of the host is opened with the caller's rights and not with init's, which is in another user
    /// namespace.
    pub opened_outside: bool,
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

impl Plan {
    /// Whether the command's clocks are others than the caller's.
    pub fn has_foreign_clock(&self) -> bool {
        self.namespaces.iter().any(Namespace::is_of_time)
    }

    /// Whether it has a mount namespace of its own. Without one it lives in the caller's, or in one that is joined.
    pub fn has_own_mounts(&self) -> bool {
        self.namespaces.iter().any(Namespace::is_new_mount)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Command {
    /// Empty where the spec has no `process`: that can be created, and not be started.
    pub args: Vec<String>,
    pub env: Vec<String>,
    /// HOME is where the root's /etc/passwd has the user at home.
    pub home_of_user: bool,
    /// LISTEN_PID is the command's own: it has sockets that systemd has opened for it.
    pub listens: bool,
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
    pub scheduling: Scheduling,
    pub labels: Labels,
    /// The first process of a pid namespace reaps; a bundle's command is that process itself, as in runc.
    pub reaper: bool,
    /// Rows and columns of a terminal.
    pub console_size: Option<(u16, u16)>,
}

/// What the command is for the kernel's security modules, which are enabled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Labels {
    /// A profile's name.
    pub apparmor: Option<String>,
    /// A context.
    pub selinux: Option<String>,
}

/// When the command runs and where its memory comes from. What is not said stays as the caller has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Scheduling {
    pub scheduler: Option<Scheduler>,
    pub io_priority: Option<IoPriority>,
    /// Of a command that joins a container, as it starts, and when it is in its cgroup; empty means unchanged.
    pub first_cpus: Vec<u32>,
    pub cpus: Vec<u32>,
    pub memory: Option<MemoryPolicy>,
    /// As in personality(2).
    pub personality: Option<u32>,
}

/// In the numbers of sched_setattr(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Scheduler {
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

/// In the numbers of ioprio_set(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IoPriority {
    pub class: u16,
    pub priority: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MemoryPolicy {
    /// Mode and flags of set_mempolicy(2).
    pub mode: u32,
    pub nodes: Vec<u32>,
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
    pub fn is_of_time(&self) -> bool {
        self.kind == NamespaceType::Time
    }

    pub fn is_new_mount(&self) -> bool {
        self.kind == NamespaceType::Mount && self.path.is_none()
    }

    pub fn joins_mounts(&self) -> bool {
        self.kind == NamespaceType::Mount && self.path.is_some()
    }

    pub fn joins_user(&self) -> bool {
        self.kind == NamespaceType::User && self.path.is_some()
    }

    pub fn is_new_user(&self) -> bool {
        self.kind == NamespaceType::User && self.path.is_none()
    }
}

/// By its name on the host and inside, where the kernel puts a number for `%d`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NetDevice {
    pub host: String,
    pub inside: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
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
    Directory { path: PathBuf, readonly: bool, devices: bool },
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

/// A node of a device in the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// Absolute, in the root.
    pub path: PathBuf,
    pub kind: DeviceKind,
    pub major: u32,
    pub minor: u32,
    pub mode: u32,
    /// Owner and group, in ids inside.
    pub owner: (u32, u32),
    pub origin: NodeOrigin,
    /// The JSON path that asked for it; `None` for one of ours.
    pub at: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum DeviceKind {
    Character,
    Block,
    Fifo,
}

/// Where a node comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum NodeOrigin {
    /// It is made where it is wanted.
    MadeThere,
    /// It is made elsewhere and bound: where it is wanted, devices cannot be used.
    MadeApart,
    /// The host's node of the same path is bound.
    Host,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Absolute, in the root.
    pub destination: PathBuf,
    pub what: MountKind,
    pub attributes: Attributes,
    /// A symlink at the destination is covered itself, and not followed.
    pub on_link: bool,
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
    /// Any file system by name, with its options.
    FileSystem {
        name: String,
        source: Option<String>,
        options: Vec<String>,
        /// It begins with what it covers.
        copies_up: bool,
        /// Its mode is that of what it covers.
        covers_mode: bool,
    },
    Bind {
        source: PathBuf,
        recursive: bool,
        link: SourceLink,
        /// Other owners are shown.
        ids: Option<MountIds>,
    },
    /// What is mounted at the destination gets other attributes, and its file system other options.
    Remount {
        file_system: Option<Vec<String>>,
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
    pub resctrl: Option<resctrl::Wanted>,
    /// What systemd is asked for; `None`: the cgroup is made here.
    pub scope: Option<Scope>,
}

/// What becomes of a symlink that is the source of a bind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum SourceLink {
    #[default]
    Followed,
    /// It is bound itself.
    Shown,
    /// A link with the same target is made instead.
    Copied,
}

/// The ids of an id-mapped mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MountIds {
    /// What is mounted below has them too.
    pub recursive: bool,
    /// Inside is the file system's id, outside the host's. `None`: as the container's user namespace has them.
    pub ids: Option<Ids>,
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
    /// Words, of which each changes what the ones before have made.
    pub propagation: Vec<String>,
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
    /// Else the keys of the caller's session would be within reach. The filter of actions denies their use.
    pub new_keyring: bool,
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
    /// After which command it gets the name.
    pub when: CaptureWhen,
    /// Times later than this are recorded as this, so that equal runs give equal digests; seconds. `None`: as they are.
    pub clamp_time: Option<i64>,
    /// What the host's files held is kept where the command changed them.
    pub keep_contents: bool,
}
