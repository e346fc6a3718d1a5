//! The upper: the writable layer of a run, where everything that is written goes.

use serde::{Deserialize, Serialize};

use super::Size;
use crate::optional::is_default;

/// `upper`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Upper {
    #[serde(skip_serializing_if = "is_default")]
    pub on: UpperOn,
    /// The most it may hold; `None` is no limit of ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UpperOn {
    /// A directory beside the layer store.
    #[default]
    Disk,
    /// A tmpfs.
    Memory,
    /// The writable layer of `root.path`, which is an overlay mount of whoever made the bundle.
    Root,
}
