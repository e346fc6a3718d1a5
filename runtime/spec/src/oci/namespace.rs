//! A namespace a container has of its own or joins.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One entry of `linux.namespaces`. A kind that is not listed is the runtime's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    #[serde(rename = "type")]
    pub kind: NamespaceType,
    /// Absolute path of a namespace file to join; absent means a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamespaceType {
    User,
    Mount,
    Pid,
    Ipc,
    Uts,
    Cgroup,
    Network,
    Time,
}

impl NamespaceType {
    /// The word that stands for it in a spec.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Mount => "mount",
            Self::Pid => "pid",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Cgroup => "cgroup",
            Self::Network => "network",
            Self::Time => "time",
        }
    }
}
