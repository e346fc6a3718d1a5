//! The `vfs` key: the root as a list of branches, what is written to it, and the action's sandbox.
//!
//! An unknown field is refused. Every field has a default, given here and in docs/spec.md.

mod branch;
mod capture;
mod landlock;
mod one_or_more;
mod order;
mod perms;
mod right;
mod rule;
mod seconds;
mod size;
mod upper;
mod xattrs;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use branch::{Access, Branch, BranchSource, Live, Owner, Scope, Symlinks, Whiteouts, image_parts};
pub use capture::{Capture, CaptureBase, CaptureForm, CaptureLayer, CaptureWhen};
pub use landlock::{
    Enforce, LANDLOCK_ANNOTATION, Landlock, LandlockRules, NetPort, NoVariables, PathBeneath, Ruleset,
};
pub use one_or_more::OneOrMore;
pub use order::Order;
pub use perms::{PermChange, PermOperation, Perms};
pub use right::{
    Access as LandlockAccess, FsRight, Group, HIGHEST_ABI, NetRight, Right, ScopeRight, linux_of,
};
pub use rule::{FileType, NameRule, Names, Predicates, Rule, RuleAction, SizeRange};
pub use size::{InvalidSize, Size};
pub use upper::{Upper, UpperOn};
pub use xattrs::{XattrRule, Xattrs};

use crate::optional::is_default;

/// The annotation that makes a bundle's root a view: the absolute path of a file that has an object as `vfs`. No text, as images
/// bring annotations of their own.
pub const VIEW_ANNOTATION: &str = "run.vfsrun.vfs";

/// `vfs` of a spec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Vfs {
    /// What the root is made of; the first branch that has a name wins, directories merge.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub branches: Vec<Branch>,
    /// Rules for the whole root; a later rule that matches wins.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// What a name is that is a directory in one branch and not in another.
    #[serde(skip_serializing_if = "is_default")]
    pub types: TypeConflict,
    /// Which one is shown of several files of the same name.
    #[serde(skip_serializing_if = "is_default")]
    pub policy: Policy,
    /// The order in which directories are listed.
    #[serde(skip_serializing_if = "is_default")]
    pub order: Order,
    /// No time is shown that is later, in seconds since the epoch; `None` shows all as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latest_time: Option<i64>,
    /// Where writes go.
    #[serde(skip_serializing_if = "is_default")]
    pub upper: Upper,
    /// What becomes of the writes.
    #[serde(skip_serializing_if = "is_default")]
    pub capture: Capture,
    #[serde(skip_serializing_if = "is_default")]
    pub landlock: Landlock,
    /// `None` when not said: [`Network::Loopback`], unless `linux.namespaces` decides. See [`Vfs::network`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// After this the command is killed; `None` is no limit. Seconds in JSON, to the millisecond.
    #[serde(with = "seconds", skip_serializing_if = "Option::is_none")]
    pub time_limit: Option<Duration>,
    /// How long a branch on a file system of another machine or of a program may take to answer; `None` is the server's
    /// default. Seconds in JSON, to the millisecond.
    #[serde(with = "seconds", skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Duration>,
    /// Whether the command reads the caller's standard input; false is /dev/null.
    #[serde(skip_serializing_if = "is_default")]
    pub stdin: bool,
    /// What the environment is besides what the spec says.
    #[serde(skip_serializing_if = "is_default")]
    pub env: Environment,
    /// Whether each name tells by extended attributes which branch and file it comes from.
    #[serde(skip_serializing_if = "is_default")]
    pub provenance: bool,
    /// Where the kernel reads files that cannot change from where they lie.
    #[serde(skip_serializing_if = "is_default")]
    pub passthrough: Passthrough,
}

impl Vfs {
    /// The network with its default filled in.
    pub fn network(&self) -> Network {
        self.network.unwrap_or_default()
    }
}

/// `types`: how a name is decided that is a directory in one branch and something else in another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TypeConflict {
    /// The first branch that has the name decides.
    #[default]
    First,
    /// The conflict is reported and the name gives EIO.
    Error,
}

/// `policy`: what decides between files of the same name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// The order of the branches.
    #[default]
    First,
    /// The latest mtime.
    Newest,
    /// They are reported and the name gives EIO.
    Error,
}

/// `env`: what the command's environment has besides `process.env`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Environment {
    /// The variables of hermetic actions.
    #[default]
    Hermetic,
    /// Nothing.
    Exact,
}

/// `passthrough`: where the kernel reads files of layers, images and frozen branches from where they lie, so that it keeps their
/// pages once. Each open is a request to the view server then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Passthrough {
    /// Where each open is a request anyway: in traced runs and mounted views.
    #[default]
    Auto,
    /// In all runs.
    Always,
    Never,
}

/// `network`: what the command can reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// A network namespace in which nothing is up.
    None,
    /// A network namespace with `lo` up.
    #[default]
    Loopback,
    /// The host's network.
    Host,
}
