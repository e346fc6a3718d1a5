//! A place: where a container's cgroup lies in one hierarchy. The places of a container are kept in a file, by which it is found again.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::hierarchy::{Hierarchy, Version};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    pub version: Version,
    /// As in [`Hierarchy`].
    pub controllers: Vec<String>,
    pub mount: PathBuf,
    /// Below the mount.
    pub path: PathBuf,
}

impl Place {
    /// The cgroup of `path` (see [`Hierarchy::below`]).
    pub fn of(hierarchy: &Hierarchy, path: &Path) -> Place {
        Place {
            version: hierarchy.version,
            controllers: hierarchy.controllers.clone(),
            mount: hierarchy.mount.clone(),
            path: hierarchy.below(path),
        }
    }

    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }

    pub fn full_path(&self) -> PathBuf {
        self.mount.join(&self.path)
    }
}
