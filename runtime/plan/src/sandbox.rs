//! The sandbox: what the command may still ask of the kernel.

use std::path::PathBuf;
use std::str::FromStr;

use vfsrun_seccomp::Profile;
use vfsrun_spec::vfs::{self, BranchSource, CaptureLayer};
use vfsrun_spec::{Spec, Vfs};

use crate::plan::{Capabilities, Landlock, Mount, MountKind, Sandbox};
use crate::{Facts, PlanError};

pub(crate) fn decide(config: &Spec, facts: &Facts, mounts: &[Mount]) -> Result<Sandbox, PlanError> {
    let process = config.process.clone().unwrap_or_default();
    let profile = config.linux.as_ref().and_then(|linux| linux.seccomp.clone());
    let seccomp = profile.map(serde_json::from_value::<Profile>).transpose();
    Ok(Sandbox {
        no_new_privileges: process.no_new_privileges.unwrap_or(false),
        capabilities: process.capabilities.as_ref().map(|said| capabilities(said, facts)).unwrap_or_default(),
        seccomp: seccomp.map_err(|error| PlanError::Seccomp { reason: error.to_string() })?,
        landlock: config.vfs.as_ref().and_then(|vfs| landlock(vfs, mounts)),
    })
}

fn capabilities(said: &vfsrun_spec::oci::Capabilities, facts: &Facts) -> Capabilities {
    // Unknown names were noted; a capability that this kernel lacks cannot be granted.
    let bits = |names: &[String]| {
        let known = names.iter().filter_map(|name| caps::Capability::from_str(name).ok());
        known.fold(0u64, |bits, capability| bits | capability.bitmask()) & facts.kernel.capabilities
    };
    let (permitted, inheritable) = (bits(&said.permitted), bits(&said.inheritable));
    Capabilities {
        bounding: bits(&said.bounding),
        effective: bits(&said.effective) & permitted,
        permitted,
        inheritable,
        // The kernel raises only what is permitted and inheritable; generated configs name more.
        ambient: bits(&said.ambient) & permitted & inheritable,
    }
}

/// What is not captured is not writable, so that no write is lost silently.
fn landlock(vfs: &Vfs, mounts: &[Mount]) -> Option<Landlock> {
    let rules = match &vfs.landlock {
        vfs::Landlock::Off => return None,
        vfs::Landlock::Rules(rules) => rules,
    };
    let write = rules.write.clone().unwrap_or_else(|| writable_by_default(vfs, mounts));
    Some(Landlock { write, connect_tcp: rules.connect_tcp.clone(), bind_tcp: rules.bind_tcp.clone() })
}

fn writable_by_default(vfs: &Vfs, mounts: &[Mount]) -> Vec<PathBuf> {
    let only = match &vfs.capture {
        vfs::Capture::Layer(CaptureLayer { only, .. }) => only.clone().unwrap_or_default(),
        vfs::Capture::Discard => Vec::new(),
    };
    if only.is_empty() {
        return vec!["/".into()];
    }
    let mut write = only;
    write.extend(["/tmp", "/dev"].map(PathBuf::from));
    let write_through = vfs.branches.iter().filter(|branch| branch.access == vfs::Access::ReadWrite);
    write.extend(
        write_through.filter(|b| matches!(b.source, BranchSource::Path(_))).map(|branch| branch.at.clone()),
    );
    // A tmpfs that the spec asked for is there to be written.
    let tmpfs = mounts
        .iter()
        .filter(|mount| matches!(&mount.what, MountKind::FileSystem { name, .. } if name == "tmpfs"));
    write.extend(tmpfs.map(|mount| mount.destination.clone()));
    write.sort();
    write.dedup();
    write
}
