//! Capabilities: the five sets of a config as the kernel takes them.

use std::str::FromStr;

use caps::Capability;
use vfsrun_spec::oci::{self, NamespaceType};
use vfsrun_spec::{Process, Spec};

use crate::plan::Capabilities;
use crate::{Facts, PlanError};

/// The sets of `process`, in the namespaces of `config`. `guarded`: a cgroup denies devices.
pub(crate) fn decide(
    process: &Process,
    config: &Spec,
    guarded: bool,
    facts: &Facts,
) -> Result<Capabilities, PlanError> {
    let namespaces = || config.linux.iter().flat_map(|linux| linux.namespaces.iter().flatten());
    let in_user_namespace = namespaces().any(|namespace| namespace.kind == NamespaceType::User);
    // The kernel makes no devices for one, but it may be joined and the host's own.
    let in_own_user_namespace =
        namespaces().any(|namespace| namespace.kind == NamespaceType::User && namespace.path.is_none());
    let in_kernel = facts.kernel.capabilities;
    // A process in a user namespace has every capability there to begin with.
    let callers = if in_user_namespace { in_kernel } else { facts.caller.capabilities };
    let said = process.capabilities.as_ref();
    let available = Available { in_kernel, callers, mknod: guarded || in_own_user_namespace };
    said.map_or(Ok(Capabilities::default()), |said| sets(said, available))
}

/// What there is to grant, as bits.
#[derive(Clone, Copy)]
struct Available {
    in_kernel: u64,
    /// What the process has that gives up the rest.
    callers: u64,
    /// Whether CAP_MKNOD can be given: it would be the host's disks where no cgroup denies them.
    mknod: bool,
}

/// Names that nobody knows, or not this kernel, are left out, as the specification wants. What the kernel would refuse
/// when the sets are taken is refused here, where the field can be named.
fn sets(said: &oci::Capabilities, available: Available) -> Result<Capabilities, PlanError> {
    let withheld = if available.mknod { 0 } else { Capability::CAP_MKNOD.bitmask() };
    let set = |names: &[String]| bits(names) & available.in_kernel & !withheld;
    let (bounding, permitted) = (set(&said.bounding), set(&said.permitted));
    let (effective, inheritable) = (set(&said.effective), set(&said.inheritable));
    refuse_beyond("permitted", permitted, "caller's own", available.callers)?;
    refuse_beyond("effective", effective, "permitted", permitted)?;
    refuse_beyond("inheritable", inheritable, "bounding", bounding)?;
    Ok(Capabilities {
        bounding,
        effective,
        permitted,
        inheritable,
        // The kernel raises only what is permitted and inheritable. `runc spec` names more, and runc and crun go on.
        ambient: set(&said.ambient) & permitted & inheritable,
    })
}

/// What is named and known and yet not granted, a line each.
pub(crate) fn notes(said: &oci::Capabilities, mknod: bool, in_kernel: u64) -> Vec<String> {
    let sets = [&said.bounding, &said.effective, &said.inheritable, &said.permitted, &said.ambient];
    let named = sets.into_iter().fold(0, |all, names| all | bits(names));
    let mut notes = Vec::new();
    if !mknod && named & Capability::CAP_MKNOD.bitmask() != 0 {
        notes.push(
            "process.capabilities: CAP_MKNOD is not granted, because no cgroup denies devices".to_owned(),
        );
    }
    let missing = list(named & !in_kernel);
    notes.extend(missing.map(|name| format!("process.capabilities: this kernel has no {name}")));
    notes
}

fn bits(names: &[String]) -> u64 {
    let known = names.iter().filter_map(|name| Capability::from_str(name).ok());
    known.fold(0, |bits, capability| bits | capability.bitmask())
}

fn list(bits: u64) -> impl Iterator<Item = Capability> {
    let mut all: Vec<_> = caps::all().into_iter().filter(|one| one.bitmask() & bits != 0).collect();
    all.sort_by_key(Capability::index);
    all.into_iter()
}

fn refuse_beyond(set: &'static str, bits: u64, limit: &'static str, allowed: u64) -> Result<(), PlanError> {
    match list(bits & !allowed).next() {
        Some(name) => Err(PlanError::Capability { set, name: name.to_string(), limit }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILL: u64 = 1 << 5;
    const NET_RAW: u64 = 1 << 13;
    const ALL: u64 = u64::MAX >> (63 - 40);
    const ROOTS: Available = Available { in_kernel: ALL, callers: ALL, mknod: false };

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn each_set_is_its_own() {
        let said = oci::Capabilities {
            bounding: names(&["CAP_KILL", "CAP_NET_RAW"]),
            permitted: names(&["CAP_KILL", "CAP_CHOWN"]),
            effective: names(&["CAP_KILL"]),
            inheritable: names(&["CAP_NET_RAW", "CAP_KILL"]),
            ambient: names(&["CAP_NET_RAW", "CAP_KILL", "CAP_CHOWN"]),
        };
        let taken = sets(&said, ROOTS).unwrap();
        assert_eq!((taken.bounding, taken.permitted), (KILL | NET_RAW, KILL | 1));
        // What is ambient is permitted and inheritable.
        assert_eq!((taken.effective, taken.inheritable, taken.ambient), (KILL, KILL | NET_RAW, KILL));
    }

    #[test]
    fn what_the_kernel_would_refuse_is_an_error() {
        let effective = oci::Capabilities {
            permitted: names(&["CAP_KILL"]),
            effective: names(&["CAP_NET_RAW", "CAP_KILL", "CAP_CHOWN"]),
            ..Default::default()
        };
        assert_eq!(
            sets(&effective, ROOTS).unwrap_err().to_string(),
            "process.capabilities.effective: CAP_CHOWN is not in the permitted set, as it must be"
        );
        let inheritable = oci::Capabilities {
            inheritable: names(&["CAP_KILL"]),
            permitted: names(&["CAP_KILL"]),
            ..Default::default()
        };
        assert_eq!(
            sets(&inheritable, ROOTS).unwrap_err().to_string(),
            "process.capabilities.inheritable: CAP_KILL is not in the bounding set, as it must be"
        );
    }

    #[test]
    fn what_the_caller_lacks_is_not_permitted() {
        let chown = names(&["CAP_CHOWN"]);
        let said = oci::Capabilities { bounding: chown.clone(), permitted: chown, ..Default::default() };
        let error = sets(&said, Available { callers: KILL, ..ROOTS }).unwrap_err();
        assert_eq!(
            error.to_string(),
            "process.capabilities.permitted: CAP_CHOWN is not in the caller's own set, as it must be"
        );
    }

    #[test]
    fn what_this_kernel_lacks_is_left_out_and_told() {
        let last = names(&["CAP_CHECKPOINT_RESTORE", "CAP_KILL"]);
        let said = oci::Capabilities { bounding: last.clone(), inheritable: last, ..Default::default() };
        let without = ALL >> 1;
        assert_eq!(
            sets(&said, Available { in_kernel: without, callers: without, mknod: false }).unwrap().bounding,
            KILL
        );
        assert_eq!(
            notes(&said, false, without),
            ["process.capabilities: this kernel has no CAP_CHECKPOINT_RESTORE"]
        );
        assert_eq!(notes(&said, false, ALL), Vec::<String>::new());
    }

    #[test]
    fn making_devices_is_granted_in_no_set_where_nothing_denies_them() {
        let mknod = names(&["CAP_MKNOD"]);
        let said = oci::Capabilities {
            bounding: mknod.clone(),
            permitted: mknod.clone(),
            effective: mknod.clone(),
            inheritable: mknod.clone(),
            ambient: mknod,
        };
        assert_eq!(sets(&said, ROOTS).unwrap(), Capabilities::default());
        let guarded = sets(&said, Available { mknod: true, ..ROOTS }).unwrap();
        assert_eq!(guarded.effective, Capability::CAP_MKNOD.bitmask());
        assert_eq!(notes(&said, true, ALL), Vec::<String>::new());
        // In whichever set it is named.
        let said = oci::Capabilities { bounding: Vec::new(), permitted: Vec::new(), ..said };
        assert_eq!(notes(&said, false, ALL).len(), 1);
    }

    #[test]
    fn every_name_is_a_bit_of_its_own() {
        for (number, name) in oci::CAPABILITIES.iter().enumerate() {
            assert_eq!(bits(&names(&[name])), 1 << number, "{name}");
        }
        // libcap's spellings are none: crun takes them, runc and the specification do not.
        assert_eq!(bits(&names(&["KILL", "cap_kill", "CAP_FLY", ""])), 0);
    }
}
