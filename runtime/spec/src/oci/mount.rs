//! A mount of a container, and the directory that is its root.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::optional::{is_default, or_default};

/// `root`: the directory that becomes `/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Absolute, or relative to the bundle.
    pub path: PathBuf,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "is_default")]
    pub readonly: bool,
}

/// One entry of `mounts`, applied in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Path in the root, not empty. Absolute in a spec with `vfs`.
    pub destination: PathBuf,
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// A device, a name for the kernel, or for binds a path: absolute or relative to the bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub uid_mappings: Vec<IdMapping>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub gid_mappings: Vec<IdMapping>,
}

impl Mount {
    /// True for `{"destination": …, "type": "none"}` and nothing else, which takes a default mount away.
    /// Type `none` with a source or options is an ordinary bind, as other tools write it.
    pub fn is_removal(&self) -> bool {
        self.kind.as_deref() == Some("none") && self.source.is_none() && self.options.is_empty()
    }
}

/// A range of ids: `size` ids from `container_id` on are `host_id` and following outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdMapping {
    #[serde(rename = "containerID")]
    pub container_id: u32,
    #[serde(rename = "hostID")]
    pub host_id: u32,
    pub size: u32,
}
