//! The user a process runs as, in ids of the container.

use serde::{Deserialize, Serialize};

use crate::optional::or_default;

/// crun's annotation that keeps the caller's supplementary groups, in the place of `additionalGids`, unless it is `0`.
pub const GROUPS_ANNOTATION: &str = "run.oci.keep_original_groups";

/// `process.user`. Ids are as seen inside the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct User {
    #[serde(deserialize_with = "or_default")]
    pub uid: u32,
    #[serde(deserialize_with = "or_default")]
    pub gid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub umask: Option<u32>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub additional_gids: Vec<u32>,
}
