//! A container's record: what later commands have to know of it, so that none of them reads its config again.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vfsrun_spec::Hooks;
use vfsrun_sys::process::Process;

use super::Status;
use crate::hooks::Hooked;

pub const FILE: &str = "container.json";
/// The runtime specification whose state is printed.
pub const OCI_VERSION: &str = "1.3.0";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub id: String,
    pub process: Process,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    /// RFC 3339.
    pub created: String,
    pub uid: u32,
    /// Its processes have the keyring of whoever started them.
    pub no_new_keyring: bool,
    pub annotations: BTreeMap<String, String>,
    /// Those of the config.
    #[serde(default, skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
    /// Its config has no process.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub runs_nothing: bool,
}

/// What `state` prints.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State<'a> {
    oci_version: &'static str,
    pub id: &'a str,
    /// 0 when it has ended.
    pub pid: i32,
    pub status: Status,
    pub bundle: &'a Path,
    rootfs: &'a Path,
    pub created: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
    pub owner: String,
}

impl Record {
    /// All of it or nothing, in the container's directory.
    pub fn write(&self, directory: &Path) -> io::Result<()> {
        crate::result_file::write(&directory.join(FILE), &serde_json::to_string(self)?)
    }

    pub fn hooked(&self) -> Hooked {
        Hooked::new(&self.hooks, self.id.clone(), &self.bundle, &self.annotations)
    }

    pub fn state(&self, status: Status) -> State<'_> {
        State {
            oci_version: OCI_VERSION,
            id: &self.id,
            pid: if status == Status::Stopped { 0 } else { self.process.pid },
            status,
            bundle: &self.bundle,
            rootfs: &self.rootfs,
            created: &self.created,
            annotations: &self.annotations,
            owner: owner(self.uid),
        }
    }
}

/// The user's name, or its number where it has none.
fn owner(uid: u32) -> String {
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    };
    text.lines().find_map(named).unwrap_or_else(|| uid.to_string())
}

/// `None` if there is none.
pub fn read(directory: &Path) -> io::Result<Option<Result<Record, serde_json::Error>>> {
    match std::fs::read(directory.join(FILE)) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
