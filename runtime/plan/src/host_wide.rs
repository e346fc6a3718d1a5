//! What would change the host: a setting without the namespace that keeps it inside.

use vfsrun_spec::Spec;
use vfsrun_spec::oci::NamespaceType;

use crate::PlanError;
use crate::plan::Namespace;

/// System V limits, which belong to the ipc namespace.
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

const HOSTNAME: &str = "kernel.hostname";

pub(crate) fn refuse(config: &Spec, namespaces: &[Namespace]) -> Result<(), PlanError> {
    let has = |kind| namespaces.iter().any(|namespace| namespace.kind == kind);
    // What it is composed of is mounted where the root is.
    if config.composed().is_some() && !namespaces.iter().any(Namespace::is_new_mount) {
        return Err(PlanError::NoMountNamespace);
    }
    // Without one a command's children outlive it, and write to an upper that is being captured.
    if config.composed().is_some()
        && !namespaces.iter().any(|n| n.kind == NamespaceType::Pid && n.path.is_none())
    {
        return Err(PlanError::NoPidNamespace);
    }
    let names = [("hostname", &config.hostname), ("domainname", &config.domainname)];
    if let Some((at, _)) = names.iter().find(|(_, name)| name.is_some())
        && !has(NamespaceType::Uts)
    {
        return Err(PlanError::HostWide { at: (*at).to_owned(), needs: "a uts" });
    }
    if config.linux.as_ref().is_some_and(|linux| !linux.net_devices.is_empty())
        && !has(NamespaceType::Network)
    {
        return Err(PlanError::HostWide { at: "linux.netDevices".to_owned(), needs: "a network" });
    }
    let has_offsets = config.linux.as_ref().is_some_and(|linux| !linux.time_offsets.is_empty());
    if has_offsets && !namespaces.iter().any(|n| n.is_of_time() && n.path.is_none()) {
        return Err(PlanError::HostWide { at: "linux.timeOffsets".to_owned(), needs: "a time" });
    }
    // As runc and crun have it.
    if config.linux.as_ref().is_some_and(|linux| linux.sysctl.contains_key(HOSTNAME)) {
        return Err(PlanError::SysctlOfHostname);
    }
    for key in config.linux.iter().flat_map(|linux| linux.sysctl.keys()) {
        let (kind, needs) = owner(key).ok_or_else(|| PlanError::Sysctl { key: key.clone() })?;
        // One that is joined may be the host's own.
        if !namespaces.iter().any(|namespace| namespace.kind == kind && namespace.path.is_none()) {
            return Err(PlanError::HostWide { at: format!("linux.sysctl.{key}"), needs });
        }
    }
    Ok(())
}

/// The namespace that a sysctl belongs to. Keys with a slash or `..` are nobody's.
fn owner(key: &str) -> Option<(NamespaceType, &'static str)> {
    if key.contains('/') || key.split('.').any(str::is_empty) {
        return None;
    }
    if IPC.contains(&key) || key.starts_with("fs.mqueue.") {
        return Some((NamespaceType::Ipc, "an ipc"));
    }
    match key {
        "kernel.domainname" => Some((NamespaceType::Uts, "a uts")),
        _ if key.starts_with("net.") => Some((NamespaceType::Network, "a network")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_leave_their_directory_belong_to_nobody() {
        for key in ["net/../kernel.core_pattern", "net..x", "kernel.core_pattern", "fs.file-max", ".net.x"] {
            assert!(owner(key).is_none(), "{key}");
        }
    }

    #[test]
    fn keys_of_namespaces_are_known() {
        assert_eq!(owner("net.ipv4.ip_forward").unwrap().0, NamespaceType::Network);
        assert_eq!(owner("kernel.shmmax").unwrap().0, NamespaceType::Ipc);
    }
}
