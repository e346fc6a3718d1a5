//! A segment's description: which branches, in which order, under which rules. Plain data; it travels from the
//! client to the view server beside the descriptors its branches name by index.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::attr::FileKind;

/// Index into the descriptors sent along with a description.
pub type FdIndex = usize;

/// One merged tree. Equal descriptions over equal branch roots are one segment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentSpec {
    /// First found wins; directories merge.
    pub branches: Vec<BranchSpec>,
    /// Rules of the whole view; patterns are relative to the root of the view. Evaluated after the branch's own.
    pub rules: Vec<Rule>,
    /// What a name means that is a directory in one branch and something else in another.
    pub types: TypeConflict,
    /// Which one is shown of several files of the same name.
    #[serde(default)]
    pub policy: Policy,
    #[serde(default)]
    pub order: Order,
    /// No time is shown that is later, in seconds since the epoch.
    #[serde(default)]
    pub latest: Option<i64>,
    /// From the ids recorded in layers to the ids of the server's user namespace. Empty: the same numbers.
    pub ids: IdMap,
    /// Owners of host files that the server's user namespace cannot express are shown as this (uid, gid), in ids of
    /// the server's namespace. `None`: everything is expressible (root).
    pub unmapped: Option<(u32, u32)>,
    /// Names tell by extended attributes where they come from, paths of the host among it.
    #[serde(default)]
    pub provenance: bool,
    /// No other branch has anything that this one would have to hide: neither deleted names nor opaque directories are shown.
    #[serde(default)]
    pub bottom: bool,
    /// Milliseconds after which a question to a slow file system is given up; `None`: [`DEADLINE`].
    #[serde(default)]
    pub deadline: Option<u64>,
    /// Where the kernel reads files that cannot change from where they lie.
    #[serde(default)]
    pub passthrough: Passthrough,
}

/// How long a slow file system (of another machine, or of a program) may take to answer if nothing is said.
pub const DEADLINE: Duration = Duration::from_secs(30);

impl SegmentSpec {
    /// Whether two branches may have the same name: branches that share no place cannot disagree.
    pub fn branches_meet(&self) -> bool {
        let hosts = self.branches.iter().filter(|branch| !matches!(branch.source, Source::Skeleton { .. }));
        let mut places: Vec<_> = hosts.map(|branch| branch.at.as_path()).collect();
        // What lies below a place comes right after it.
        places.sort_unstable();
        places.windows(2).any(|two| two[1].starts_with(two[0]))
    }

    pub fn deadline(&self) -> Duration {
        self.deadline.map_or(DEADLINE, Duration::from_millis)
    }
}

/// One source of names within a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BranchSpec {
    /// Where the branch appears, relative to the root of the view; empty for the root itself.
    pub at: PathBuf,
    pub source: Source,
    /// Patterns are relative to `rules_at`.
    pub rules: Vec<Rule>,
    /// Relative to the root of the view; `None`: the same as `at`. Names outside of it are not subject to `rules`.
    #[serde(default)]
    pub rules_at: Option<PathBuf>,
    pub symlinks: Symlinks,
    pub scope: Scope,
    /// Never checked for changes (the Nix store).
    pub frozen: bool,
    /// How changes are noticed if it is not frozen.
    #[serde(default)]
    pub live: Live,
    /// Of a host directory: what in it speaks of the branches below. A layer has its own way.
    #[serde(default)]
    pub whiteouts: Whiteouts,
    /// Of a host directory. A layer's are shown.
    #[serde(default)]
    pub xattrs: Xattrs,
    /// Of a host directory: what is shown instead of its files' own. The description's author answers for who may read
    /// them then.
    #[serde(default)]
    pub rewrite: Rewrite,
    /// Set-id bits and file capabilities are shown, if the kernel would honour them in the file's own place: not on a mount
    /// that is nosuid, and not of an owner or group that the server's user namespace has not.
    #[serde(default)]
    pub trusted: bool,
    /// How the user named it, for messages and provenance; part of the segment's identity only with provenance.
    pub label: String,
}

impl BranchSpec {
    /// All of `source`, at the root of the view, with every default.
    pub fn new(source: Source, label: impl Into<String>) -> BranchSpec {
        BranchSpec {
            at: PathBuf::new(),
            source,
            rules: Vec::new(),
            rules_at: None,
            symlinks: Symlinks::default(),
            scope: Scope::default(),
            frozen: false,
            live: Live::default(),
            whiteouts: Whiteouts::default(),
            xattrs: Xattrs::default(),
            rewrite: Rewrite::default(),
            trusted: false,
            label: label.into(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Source {
    /// A directory or a single file of the host. `root` is its descriptor; `host` is the client's `/`, needed for
    /// `Scope::Host` only.
    Host { root: FdIndex, host: Option<FdIndex> },
    /// A file system in a file, which the kernel serves: EROFS or squashfs. Needs CAP_SYS_ADMIN in the initial user
    /// namespace. It must not change while it is used.
    Image { file: FdIndex },
    /// A layer of the store whose root directory is `store`.
    Layer { digest: String, store: FdIndex },
    /// An input manifest: `manifest` is open for reading, relative host paths start at `base`, absolute ones at
    /// `host`, digests are looked up in `store`. Without a `base` there are no relative ones.
    Inputs { manifest: FdIndex, base: Option<FdIndex>, host: FdIndex, store: Option<FdIndex> },
    /// Directories and small files that the view needs whatever its layers hold (mount points, /etc/passwd).
    Skeleton { entries: Vec<SkeletonEntry> },
}

/// One name of a skeleton.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SkeletonEntry {
    /// Relative to `at`; missing parents are directories with mode 0755.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// User and group, in ids as layers record them.
    #[serde(default)]
    pub owner: (u32, u32),
    pub content: SkeletonContent,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum SkeletonContent {
    Directory,
    File(String),
    Symlink(PathBuf),
}

/// What is not shown as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Rule {
    Names(NameRule),
    /// Of regular files of one directory whose names differ in these extensions alone, only the one with the first of
    /// them is shown. Judged after all other rules.
    ExtensionPriority(Vec<String>),
}

/// Names and what happens to them. The last rule that fits decides; what starts with `!` takes its match back, so that the
/// name is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NameRule {
    pub names: Names,
    pub conditions: Conditions,
    pub action: RuleAction,
}

/// Names whose use is recorded. No part of a segment: it changes nothing of what is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogRule {
    /// Relative to the root of the view.
    pub names: Names,
    /// One of these.
    pub types: Option<Vec<FileKind>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Names {
    /// A gitignore line.
    Pattern(String),
    /// Over the bytes of the path from where the rules start, without a slash before it.
    Regex(String),
    All,
}

/// All that is there has to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conditions {
    /// One of these, as it is shown.
    pub types: Option<Vec<FileKind>>,
    /// One of these, in ids of the server's user namespace.
    pub owners: Option<Vec<u32>>,
    pub groups: Option<Vec<u32>>,
    /// Of regular files alone.
    pub size: Option<SizeRange>,
}

/// Bytes, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SizeRange {
    pub min: u64,
    pub max: u64,
}

impl Rule {
    /// A gitignore line without conditions.
    pub fn pattern(pattern: impl Into<String>, action: RuleAction) -> Rule {
        let (names, conditions) = (Names::Pattern(pattern.into()), Conditions::default());
        Rule::Names(NameRule { names, conditions, action })
    }

    pub(crate) fn is_deny(&self) -> bool {
        matches!(self, Rule::Names(NameRule { action: RuleAction::Deny, .. }))
    }
}

impl NameRule {
    /// If that is all that decides whether the rule fits.
    pub(crate) fn plain_pattern(&self) -> Option<&str> {
        match &self.names {
            Names::Pattern(pattern) if self.conditions == Conditions::default() => Some(pattern),
            _ => None,
        }
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Names::Pattern(text) | Names::Regex(text) => text,
            Names::All => "every name",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RuleAction {
    /// The name does not exist: ENOENT, not listed.
    Hide,
    /// The name is listed and using it is EACCES. stat shows its type and nothing else: no permission, no time,
    /// and one byte for every file.
    Deny,
    /// Only names that some `Only` rule matches are shown (and the directories that lead there).
    Only,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TypeConflict {
    /// The first branch that has the name decides.
    #[default]
    First,
    /// EIO, and reported as a fault.
    Error,
}

/// What decides between files of the same name; directories merge whatever it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Policy {
    /// The order of the branches.
    #[default]
    First,
    /// The latest mtime, then the order of the branches.
    Newest,
    /// EIO, and reported as a fault.
    Error,
}

/// The order in which a directory is listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Order {
    /// Bytewise.
    #[default]
    Sorted,
    /// As each branch tells its names, branch by branch.
    Native,
    /// By a hash of this number and the path: always the same, and like no other.
    Shuffled(u64),
}

/// The form in which a host directory says that a name of the branches below is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Whiteouts {
    /// It says nothing: devices are not shown, and all other names are what they are.
    #[default]
    None,
    /// The upper of an overlayfs: character devices 0:0, empty files with the attribute `overlay.whiteout`, directories
    /// with `overlay.opaque`, each in the namespace `user` or `trusted`.
    Overlay,
    /// An unpacked layer of an image: `.wh.NAME` and `.wh..wh..opq`.
    Oci,
}

/// What becomes of a host file's extended attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Xattrs {
    /// None is shown, and a file with an access control list has its owner's rights alone.
    #[default]
    Off,
    /// Those in `user` are shown but for marks of overlayfs and what only the view says, under the names that the first rule
    /// that fits gives them, if one does; and access control lists, unless an id in them, the file's owner or its group is
    /// none of the server's user namespace or is shown as another.
    Pass(Vec<XattrRule>),
}

/// Both are in `user`. A name, or with a dot at its end all that begin with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct XattrRule {
    pub from: String,
    /// What is shown in the place of `from`; `None` hides it.
    pub to: Option<String>,
}

/// Owners and permissions that are shown instead of a file's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rewrite {
    /// First what the attribute `user.containers.override_stat` of a file says, in which rootless container stores keep the
    /// owner and the mode that they cannot give it.
    #[serde(default)]
    pub override_stat: bool,
    /// In ids as layers record them.
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// One after the other, of all but symlinks.
    pub perms: Vec<PermChange>,
}

/// As one change of chmod's symbolic modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PermChange {
    /// What goes.
    pub clear: u16,
    /// What comes.
    pub set: u16,
    /// What comes too if it is a directory or somebody may execute it.
    pub set_search: u16,
    /// What goes too if it is a directory or somebody may execute it.
    pub clear_search: u16,
}

/// Where the kernel reads files that cannot change from where they lie, instead of asking for their content and keeping that a
/// second time. Each open costs a request then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Passthrough {
    /// Where opens are requests anyway.
    #[default]
    Auto,
    Always,
    Never,
}

/// How the server learns that a host directory has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Live {
    /// By watch where that proves as much as a sweep does, else by sweep.
    #[default]
    Auto,
    /// By watch also where no lease says that nobody was writing already.
    Watch,
    /// By a stat of every name that was looked at.
    Sweep,
}

/// Which symlinks are shown as what they lead to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Symlinks {
    #[default]
    Never,
    Directory,
    Regular,
    All,
}

/// Where a followed symlink's target is looked up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Scope {
    /// In the merged tree of this segment.
    #[default]
    View,
    /// In the branch itself, whose root is `/`.
    Branch,
    /// On the host.
    Host,
}

/// Maps ids of one namespace to another; as in uid_map(5).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdMap {
    pub uids: Vec<IdExtent>,
    pub gids: Vec<IdExtent>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdExtent {
    /// First id as recorded in layers and seen inside the action.
    pub inside: u32,
    /// First id in the server's user namespace.
    pub outside: u32,
    pub count: u32,
}
