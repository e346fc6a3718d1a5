//! The user a process runs as, in ids of the container.

use serde::{Deserialize, Serialize};

use crate::optional::or_default;

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
