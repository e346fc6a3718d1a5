//! Validation of the process: command, environment, directory, limits.

use std::collections::BTreeSet;

use super::{Problem, absolute, no_nul, number_list};
use crate::Process;
use crate::oci::{Rlimit, RlimitType, Scheduler};

pub(super) fn process(process: &Process, has_vfs: bool) -> Result<(), Problem> {
    if process.args.is_empty() {
        return Err(Problem::new("process.args", "missing; say which command to run"));
    }
    for (index, arg) in process.args.iter().enumerate() {
        no_nul(&format!("process.args[{index}]"), arg)?;
    }
    env("process.env", &process.env)?;
    match &process.cwd {
        Some(cwd) => absolute("process.cwd", cwd)?,
        None if has_vfs => {}
        None => {
            let cause = "missing; a spec without \"vfs\" is an OCI config and needs it";
            return Err(Problem::new("process.cwd", cause));
        }
    }
    if process.user.as_ref().and_then(|user| user.umask).is_some_and(|umask| umask > 0o777) {
        return Err(Problem::new("process.user.umask", "more than 511, which is octal 777"));
    }
    if process.oom_score_adj.is_some_and(|score| !(-1000..=1000).contains(&score)) {
        return Err(Problem::new("process.oomScoreAdj", "not between -1000 and 1000"));
    }
    if process.io_priority.is_some_and(|io| !(0..=7).contains(&io.priority)) {
        return Err(Problem::new("process.ioPriority.priority", "not between 0 and 7"));
    }
    let affinity = process.exec_cpu_affinity.clone().unwrap_or_default();
    number_list("process.execCPUAffinity.initial", affinity.initial.as_deref().unwrap_or_default())?;
    number_list("process.execCPUAffinity.final", affinity.final_.as_deref().unwrap_or_default())?;
    if let Some(scheduler) = &process.scheduler {
        self::scheduler(scheduler)?;
    }
    rlimits(&process.rlimits)
}

fn scheduler(scheduler: &Scheduler) -> Result<(), Problem> {
    if scheduler.nice.is_some_and(|nice| !(-20..=19).contains(&nice)) {
        return Err(Problem::new("process.scheduler.nice", "not between -20 and 19"));
    }
    if scheduler.priority.is_some_and(|priority| !(0..=99).contains(&priority)) {
        return Err(Problem::new("process.scheduler.priority", "not between 0 and 99"));
    }
    Ok(())
}

/// Entries are `NAME=value` with a name.
pub(super) fn env(path: &str, env: &[String]) -> Result<(), Problem> {
    for (index, entry) in env.iter().enumerate() {
        let path = format!("{path}[{index}]");
        no_nul(&path, entry)?;
        if entry.split_once('=').is_none_or(|(name, _)| name.is_empty()) {
            return Err(Problem::new(path, format!("{entry:?} is not of the form NAME=value")));
        }
    }
    Ok(())
}

fn rlimits(rlimits: &[Rlimit]) -> Result<(), Problem> {
    let mut seen: BTreeSet<RlimitType> = BTreeSet::new();
    for (index, rlimit) in rlimits.iter().enumerate() {
        let path = format!("process.rlimits[{index}]");
        if !seen.insert(rlimit.kind) {
            return Err(Problem::new(path, "limits the same resource as an earlier entry"));
        }
        if rlimit.soft > rlimit.hard {
            let cause = format!("soft limit {} is above the hard limit {}", rlimit.soft, rlimit.hard);
            return Err(Problem::new(path, cause));
        }
    }
    Ok(())
}
