//! A device node that is made in a container's /dev.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One entry of `linux.devices`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    #[serde(rename = "type")]
    pub kind: DeviceType,
    /// Full path in the root.
    pub path: PathBuf,
    /// Not needed for a fifo.
    #[serde(default)]
    pub major: i64,
    #[serde(default)]
    pub minor: i64,
    /// Permission bits, decimal in JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_mode: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceType {
    #[serde(rename = "c")]
    Character,
    #[serde(rename = "b")]
    Block,
    /// A character device; the kernel knows no unbuffered ones.
    #[serde(rename = "u")]
    Unbuffered,
    #[serde(rename = "p")]
    Fifo,
}
