//! Facts: what is true on this machine, for this caller, now. The plan decides from these and from the spec alone.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vfsrun_cgroup::systemd::Manager;
use vfsrun_cgroup::{Hierarchy, resctrl};

use crate::ids::Extent;
use crate::plan::RootLayer;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// Directory that relative paths of the spec start from; absolute.
    pub spec_directory: PathBuf,
    pub caller: Caller,
    /// The namespace from which actions are cloned: ids that exist there.
    pub parent_ids: ParentIds,
    pub kernel: Kernel,
    pub security: SecurityModules,
    /// `Err` says why and what to do about it.
    pub fuse: Result<(), String>,
    pub upper: UpperFacts,
    /// Layer names and digests used by the spec, resolved; a missing one keeps its reason.
    pub layers: BTreeMap<String, Result<String, String>>,
    /// Images used by the spec, as it names them. A missing one keeps its reason.
    pub images: BTreeMap<String, Result<Image, String>>,
    /// What the spec's patterns match, absolute and sorted bytewise. A pattern that cannot be tried keeps its reason.
    pub globs: BTreeMap<String, Result<Vec<PathBuf>, String>>,
    /// What the spec's host paths are.
    pub paths: BTreeMap<PathBuf, PathKind>,
    pub host_tools: HostTools,
    /// What `root.path` is mounted from, where a spec writes to its layer; `Err` says why it cannot.
    pub root_layer: Option<Result<RootLayer, String>>,
    pub cgroups: CgroupFacts,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Image {
    /// A directory in the OCI image layout: its layers in the store, first on top.
    Layers(Vec<ImageLayer>),
    /// A file that the kernel mounts.
    File(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageLayer {
    /// Its name in the store, after the image's blob.
    pub name: String,
    pub digest: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    pub home: Option<PathBuf>,
    /// Holds the capabilities to make namespaces, mounts and id maps without help.
    pub privileged: bool,
    /// Its permitted set, as bits: what a command can be given without a user namespace of its own.
    pub capabilities: u64,
}

/// The user namespace that actions are cloned from: the caller's own when privileged, else the caller's long-lived
/// one, in which id 0 is the caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentIds {
    pub uids: Vec<Extent>,
    pub gids: Vec<Extent>,
    /// Why there is only one id, where that is so.
    pub single_because: Option<String>,
}

impl ParentIds {
    /// Every id is itself.
    pub fn identity() -> ParentIds {
        let all = Extent { inside: 0, outside: 0, count: u32::MAX };
        ParentIds { uids: vec![all], gids: vec![all], single_because: None }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kernel {
    /// (6, 18)
    pub version: (u32, u32),
    /// 0 where Landlock is absent or off.
    pub landlock_abi: u32,
    /// Capabilities this kernel knows, as bits.
    pub capabilities: u64,
}

/// Security modules that the kernel has and that are enabled. Looked at only for a spec that has labels for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecurityModules {
    pub apparmor: bool,
    pub selinux: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpperFacts {
    /// Whether the store's file system can hold an overlay's upper; `Err` says why not.
    pub disk: Result<(), String>,
    /// Whether tmpfs takes user xattrs (Linux 6.6), which an upper in memory needs.
    pub memory: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PathKind {
    Missing,
    /// Why it cannot be looked at: a loop of symlinks, no permission.
    Unreachable(String),
    Directory,
    File,
    Other,
}

/// The host's compiler and libraries: where they are on this host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostTools {
    pub branches: Vec<HostBranch>,
    /// Top-level symlinks such as /bin → usr/bin: (path, target).
    pub links: Vec<(PathBuf, PathBuf)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostBranch {
    pub path: PathBuf,
    pub at: PathBuf,
    pub frozen: bool,
    /// Shown as what its symlinks lead to (a NixOS profile).
    pub follow: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CgroupFacts {
    pub manager: CgroupManager,
    /// What a cgroup is called that the config does not name.
    pub name: String,
    /// One is made whatever the config says, as for every container.
    pub always: bool,
    /// Those in which this caller can make it; looked for only where one is made.
    pub hierarchies: Vec<Hierarchy>,
    /// That which is asked for cgroups, or why there is none; `None` if it is not to be asked.
    pub systemd: Option<Result<Manager, String>>,
    /// This caller is the machine's root, who can deny devices, and must get what it asks for.
    pub is_machines_root: bool,
    /// A command joins a container whose cgroup denies devices.
    pub joins_guarded: bool,
    pub resctrl: ResctrlFacts,
}

/// Parts of caches and memory bandwidth.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ResctrlFacts {
    /// The config does not, or a container is joined, which has its part.
    #[default]
    NotAskedFor,
    Missing,
    /// With the name of the container, or run.
    Here {
        mount: resctrl::Mount,
        name: String,
    },
}

/// Who makes cgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CgroupManager {
    /// This program, in the file systems of the hierarchies.
    #[default]
    Cgroupfs,
    /// systemd, the machine's or that of the user.
    Systemd,
    /// Nobody.
    Disabled,
}
