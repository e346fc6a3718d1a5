//! Merging: what a spec with `vfs` says takes the place of the default of the same name.
//!
//! Environment by variable, mounts by destination; namespaces and seccomp are replaced whole, which needs no
//! function. The defaults themselves are the plan's.

use crate::Mount;

/// The environment of `default` with the variables of `said` in place of those of the same name, then the others
/// of `said` in their order. Entries are `NAME=value`; of several for one name in `said` the last one counts.
pub fn env(default: &[String], said: &[String]) -> Vec<String> {
    let mut merged: Vec<String> = default.to_vec();
    for entry in said {
        match merged.iter_mut().find(|known| variable(known) == variable(entry)) {
            Some(known) => known.clone_from(entry),
            None => merged.push(entry.clone()),
        }
    }
    merged
}

fn variable(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(name, _)| name)
}

/// The mounts of `default`, each replaced by those of `said` at the same destination, then the others of `said` in
/// their order. `/tmp` and `/tmp/` are one destination. `{"destination": "/tmp", "type": "none"}` takes the
/// default at /tmp away and is itself no mount. Several of `said` at one destination are stacked, as in OCI.
pub fn mounts(default: &[Mount], said: &[Mount]) -> Vec<Mount> {
    let mut merged = Vec::with_capacity(default.len() + said.len());
    for known in default {
        // Path compares by components, so a trailing slash makes no difference.
        let mut replaced = said.iter().filter(|mount| mount.destination == known.destination).peekable();
        if replaced.peek().is_none() {
            merged.push(known.clone());
        }
        merged.extend(replaced.filter(|mount| !mount.is_removal()).cloned());
    }
    let is_new = |mount: &&Mount| !default.iter().any(|known| known.destination == mount.destination);
    merged.extend(said.iter().filter(is_new).filter(|mount| !mount.is_removal()).cloned());
    merged
}
