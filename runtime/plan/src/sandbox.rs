//! The sandbox: what the command may still ask of the kernel.

use serde::Deserialize;
use vfsrun_seccomp::{Action, Profile};
use vfsrun_spec::{Process, Spec};

use crate::plan::{Agent, Landlock, Sandbox, Seccomp};
use crate::{Facts, PlanError, capabilities};

/// `guarded`: a cgroup denies devices.
pub(crate) fn decide(
    config: &Spec,
    facts: &Facts,
    guarded: bool,
    landlock: Option<Landlock>,
) -> Result<Sandbox, PlanError> {
    let without = Process::default();
    let process = config.process.as_ref().unwrap_or(&without);
    let profile = config.linux.as_ref().and_then(|linux| linux.seccomp.as_ref());
    let said = profile.map(Profile::deserialize).transpose();
    let said = said.map_err(|error| PlanError::Seccomp { reason: error.to_string() })?;
    let default = config.vfs.as_ref().map(|_| Seccomp::Action);
    Ok(Sandbox {
        new_keyring: said.is_some() || default.is_none(),
        no_new_privileges: process.no_new_privileges.unwrap_or(false),
        capabilities: capabilities::decide(process, config, guarded, facts)?,
        agent: said.as_ref().map_or(Ok(None), agent)?,
        seccomp: said.map(Seccomp::Profile).or(default),
        landlock,
    })
}

/// Whom the filter's listener is handed to. A path that no rule needs is ignored, as the specification says.
fn agent(profile: &Profile) -> Result<Option<Agent>, PlanError> {
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
        Some(path) => Ok(Some(Agent { socket: path.into(), metadata })),
    }
}
