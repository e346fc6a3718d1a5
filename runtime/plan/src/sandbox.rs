//! The sandbox: what the command may still ask of the kernel.

use std::path::PathBuf;

use vfsrun_seccomp::{Action, Profile};
use vfsrun_spec::vfs::{self, CaptureLayer};
use vfsrun_spec::{Process, Spec, Vfs};

use crate::plan::{Agent, Landlock, Mount, MountKind, Sandbox, Seccomp};
use crate::{Facts, PlanError, capabilities};

pub(crate) fn decide(config: &Spec, facts: &Facts, mounts: &[Mount]) -> Result<Sandbox, PlanError> {
    let process = config.process.clone().unwrap_or_default();
    let profile = config.linux.as_ref().and_then(|linux| linux.seccomp.clone());
    let said = profile.map(serde_json::from_value::<Profile>).transpose();
    let said = said.map_err(|error| PlanError::Seccomp { reason: error.to_string() })?;
    let default = config.vfs.as_ref().map(|_| Seccomp::Action);
    Ok(Sandbox {
        no_new_privileges: process.no_new_privileges.unwrap_or(false),
        capabilities: capabilities::decide(&process, config, facts)?,
        agent: said.as_ref().map_or(Ok(None), |profile| agent(profile, config))?,
        seccomp: said.map(Seccomp::Profile).or(default),
        landlock: config
            .vfs
            .as_ref()
            .map(|vfs| landlock(vfs, &process, mounts, facts))
            .transpose()?
            .flatten(),
    })
}

/// Whom the filter's listener is handed to. A path that no rule needs is ignored, as the specification says.
fn agent(profile: &Profile, config: &Spec) -> Result<Option<Agent>, PlanError> {
    let rule = profile.syscalls.iter().position(|rule| rule.action == Action::Notify);
    let at = match (profile.default_action, rule) {
        (Action::Notify, _) => "defaultAction".to_owned(),
        (_, Some(rule)) => format!("syscalls[{rule}].action"),
        (_, None) => return Ok(None),
    };
    let metadata = profile.listener_metadata.clone().filter(|text| !text.is_empty());
    match profile.listener_path.as_deref() {
        None | Some("") if metadata.is_some() => Err(PlanError::AgentMetadata),
        None | Some("") => Err(PlanError::NoAgent { at }),
        Some(path) if !path.starts_with('/') => Err(PlanError::AgentPath { path: path.into() }),
        Some(path) => {
            Ok(Some(Agent { socket: path.into(), metadata, annotations: config.annotations.clone() }))
        }
    }
}

/// What is not captured is not writable, so that no file's content is lost silently. What the spec says of its own
/// accord must be enforced or refused.
fn landlock(
    vfs: &Vfs,
    process: &Process,
    mounts: &[Mount],
    facts: &Facts,
) -> Result<Option<Landlock>, PlanError> {
    let abi = facts.kernel.landlock_abi;
    let rules = match &vfs.landlock {
        vfs::Landlock::Off => return Ok(None),
        vfs::Landlock::Rules(rules) => rules,
    };
    let ports = rules.connect_tcp.is_some() || rules.bind_tcp.is_some();
    if ports && abi < 4 {
        return Err(PlanError::LandlockAbi { at: "vfs.landlock.connectTcp and bindTcp", needed: 4, abi });
    }
    if rules.write.is_some() && abi == 0 {
        return Err(PlanError::LandlockAbi { at: "vfs.landlock.write", needed: 1, abi });
    }
    let write = rules.write.clone().unwrap_or_else(|| writable_by_default(vfs, process, mounts));
    // ABI 1 denies every rename and link between directories, which would break builds for nothing.
    if abi == 0 || (abi == 1 && write == [PathBuf::from("/")]) {
        return Ok(None);
    }
    Ok(Some(Landlock { write, connect_tcp: rules.connect_tcp.clone(), bind_tcp: rules.bind_tcp.clone() }))
}

fn writable_by_default(vfs: &Vfs, process: &Process, mounts: &[Mount]) -> Vec<PathBuf> {
    let only = match &vfs.capture {
        vfs::Capture::Layer(CaptureLayer { only, .. }) => only.clone().unwrap_or_default(),
        vfs::Capture::Discard => Vec::new(),
    };
    if only.is_empty() {
        return vec!["/".into()];
    }
    let mut write = only;
    write.extend(["/tmp", "/dev"].map(PathBuf::from));
    write.extend(process.env.iter().filter_map(|entry| entry.strip_prefix("HOME=")).map(PathBuf::from));
    // A tmpfs or a writable bind that the spec asked for is there to be written.
    let writable = mounts.iter().filter(|mount| match &mount.what {
        MountKind::FileSystem { name, .. } => name == "tmpfs",
        MountKind::Bind { .. } => !mount.attributes.is_readonly(),
        MountKind::Proc | MountKind::Cgroup => false,
    });
    write.extend(writable.map(|mount| mount.destination.clone()));
    write.sort();
    write.dedup();
    write
}
