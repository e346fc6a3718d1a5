//! The state of a container as the runtime specification tells it to other programs (runtime.md, State).

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::container::OCI_VERSION;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OciState<'a> {
    oci_version: &'static str,
    id: &'a str,
    status: &'static str,
    /// Absent when there is no process any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    bundle: &'a Path,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

impl<'a> OciState<'a> {
    pub fn new(
        id: &'a str,
        status: &'static str,
        pid: Option<i32>,
        bundle: &'a Path,
        annotations: &'a BTreeMap<String, String>,
    ) -> OciState<'a> {
        OciState { oci_version: OCI_VERSION, id, status, pid, bundle, annotations }
    }
}
