//! Validation of the Linux section: namespaces, id maps, devices, words without a type of their own.

use std::collections::BTreeSet;

use super::{Problem, absolute, number_list};
use crate::Linux;
use crate::oci::{IdMapping, MEMORY_FLAGS, MEMORY_MODES, Namespace, NamespaceType, Resources};

const PROPAGATIONS: [&str; 8] =
    ["shared", "slave", "private", "unbindable", "rshared", "rslave", "rprivate", "runbindable"];

pub(super) fn linux(linux: &Linux, has_vfs: bool) -> Result<(), Problem> {
    namespaces(linux.namespaces.as_deref().unwrap_or_default())?;
    id_mappings(linux, has_vfs)?;
    time_offsets(linux)?;
    net_devices(linux)?;
    for (index, device) in linux.devices.iter().enumerate() {
        absolute(&format!("linux.devices[{index}].path"), &device.path)?;
    }
    for (name, paths) in [("maskedPaths", &linux.masked_paths), ("readonlyPaths", &linux.readonly_paths)] {
        for (index, path) in paths.iter().flatten().enumerate() {
            absolute(&format!("linux.{name}[{index}]"), path)?;
        }
    }
    // Podman and Go programs may write the empty string for "not said".
    if let Some(propagation) = linux.rootfs_propagation.as_deref().filter(|word| !word.is_empty()) {
        known("linux.rootfsPropagation", propagation, &PROPAGATIONS)?;
    }
    memory_policy(linux)?;
    intel_rdt(linux)?;
    cgroups_path(linux.cgroups_path.as_deref().unwrap_or_default())?;
    linux.resources.as_ref().map_or(Ok(()), resources)
}

fn namespaces(namespaces: &[Namespace]) -> Result<(), Problem> {
    let mut seen: BTreeSet<NamespaceType> = BTreeSet::new();
    for (index, namespace) in namespaces.iter().enumerate() {
        let path = format!("linux.namespaces[{index}]");
        if !seen.insert(namespace.kind) {
            return Err(Problem::new(path, format!("a second namespace of type {}", namespace.kind.name())));
        }
        if let Some(file) = &namespace.path {
            absolute(&format!("{path}.path"), file)?;
        }
    }
    Ok(())
}

fn id_mappings(linux: &Linux, has_vfs: bool) -> Result<(), Problem> {
    let has_user_namespace = match &linux.namespaces {
        Some(said) => said.iter().any(|namespace| namespace.kind == NamespaceType::User),
        None => has_vfs,
    };
    for (name, mappings) in [("uidMappings", &linux.uid_mappings), ("gidMappings", &linux.gid_mappings)] {
        let path = format!("linux.{name}");
        if !mappings.is_empty() && !has_user_namespace {
            return Err(Problem::new(path, "needs a namespace of type user in linux.namespaces"));
        }
        for (index, mapping) in mappings.iter().enumerate() {
            id_mapping(&format!("{path}[{index}]"), mapping)?;
        }
    }
    Ok(())
}

/// The last id, 4294967295, is no id: (uid_t)-1 means "unchanged" to the kernel.
fn id_mapping(path: &str, mapping: &IdMapping) -> Result<(), Problem> {
    if mapping.size == 0 {
        return Err(Problem::new(format!("{path}.size"), "0, expected at least one id"));
    }
    let overflows = |first: u32| u64::from(first) + u64::from(mapping.size) > u64::from(u32::MAX);
    if overflows(mapping.container_id) || overflows(mapping.host_id) {
        return Err(Problem::new(path, "goes beyond the highest id, 4294967294"));
    }
    Ok(())
}

fn time_offsets(linux: &Linux) -> Result<(), Problem> {
    for (clock, offset) in &linux.time_offsets {
        known("linux.timeOffsets", clock, &["monotonic", "boottime"])?;
        if offset.nanosecs >= 1_000_000_000 {
            return Err(Problem::new(format!("linux.timeOffsets.{clock}.nanosecs"), "a second or more"));
        }
    }
    Ok(())
}

fn net_devices(linux: &Linux) -> Result<(), Problem> {
    for (name, device) in &linux.net_devices {
        let path = format!("linux.netDevices.{name}");
        interface_name("linux.netDevices", name)?;
        match device.name.as_deref() {
            Some(inside) if !inside.is_empty() => {
                interface_name(&format!("{path}.name"), &inside.replacen("%d", "", 1))?
            }
            _ => {}
        }
    }
    Ok(())
}

/// As the kernel has it, which takes `%` for the beginning of `%d`.
fn interface_name(path: &str, name: &str) -> Result<(), Problem> {
    let is_bad = |letter: char| letter.is_whitespace() || matches!(letter, '/' | ':' | '%' | '\0');
    if name.len() > 15 || matches!(name, "." | "..") || name.contains(is_bad) {
        return Err(Problem::new(path, format!("{name:?} is no name of a network interface")));
    }
    Ok(())
}

fn memory_policy(linux: &Linux) -> Result<(), Problem> {
    let Some(policy) = &linux.memory_policy else { return Ok(()) };
    known("linux.memoryPolicy.mode", &policy.mode, &MEMORY_MODES)?;
    for (index, flag) in policy.flags.iter().enumerate() {
        known(&format!("linux.memoryPolicy.flags[{index}]"), flag, &MEMORY_FLAGS.map(|(name, _)| name))?;
    }
    number_list("linux.memoryPolicy.nodes", &policy.nodes)
}

/// The id is the name of a directory, or `/` for the default group. Empty is not said.
fn intel_rdt(linux: &Linux) -> Result<(), Problem> {
    let Some(rdt) = &linux.intel_rdt else { return Ok(()) };
    let id = rdt.clos_id.as_deref().unwrap_or_default();
    if matches!(id, "." | "..") || (id != "/" && id.contains(['/', '\0', '\n'])) {
        return Err(Problem::new("linux.intelRdt.closID", format!("{id:?} is no name of a group")));
    }
    let bandwidth = rdt.mem_bw_schema.as_deref().unwrap_or_default();
    if !bandwidth.is_empty() && (!bandwidth.starts_with("MB:") || bandwidth.contains('\n')) {
        return Err(Problem::new("linux.intelRdt.memBwSchema", "is not one line that begins with \"MB:\""));
    }
    if let Some(index) = rdt.schemata.iter().position(|line| line.contains('\n') || line.is_empty()) {
        return Err(Problem::new(format!("linux.intelRdt.schemata[{index}]"), "is not one line"));
    }
    Ok(())
}

/// The root of the hierarchies is the machine's: it would be limited, and its processes killed with the container.
fn cgroups_path(path: &str) -> Result<(), Problem> {
    let mut names = path.split('/').filter(|name| !matches!(*name, "" | "."));
    if names.clone().any(|name| name == "..") {
        return Err(Problem::new(
            "linux.cgroupsPath",
            "has a \"..\", by which it would leave where it begins",
        ));
    }
    if !path.is_empty() && names.next().is_none() {
        return Err(Problem::new("linux.cgroupsPath", "names no cgroup, but where cgroups begin"));
    }
    Ok(())
}

pub(super) fn resources(resources: &Resources) -> Result<(), Problem> {
    for (index, rule) in resources.devices.iter().enumerate() {
        let path = format!("linux.resources.devices[{index}]");
        if let Some(kind) = rule.kind.as_deref().filter(|kind| !kind.is_empty()) {
            known(&format!("{path}.type"), kind, &["a", "c", "b", "u", "p"])?;
        }
        if rule.access.as_ref().is_some_and(|access| access.contains(|letter| !"rwm".contains(letter))) {
            return Err(Problem::new(format!("{path}.access"), "has letters other than r, w and m"));
        }
        for (name, number) in [("major", rule.major), ("minor", rule.minor)] {
            if number.is_some_and(|number| number < -1 || number > u32::MAX.into()) {
                return Err(Problem::new(
                    format!("{path}.{name}"),
                    "is no number of a device, and not -1 for each",
                ));
            }
        }
    }
    for (index, limit) in resources.hugepage_limits.iter().enumerate() {
        let digits = ["KB", "MB", "GB"].iter().find_map(|unit| limit.page_size.strip_suffix(unit));
        if digits.is_none_or(|digits| digits.parse::<u64>().is_err()) {
            let cause = format!("{:?} is no page size, expected such as \"2MB\"", limit.page_size);
            return Err(Problem::new(format!("linux.resources.hugepageLimits[{index}].pageSize"), cause));
        }
    }
    if let Some(file) = resources.unified.keys().find(|file| file.contains('/') || !file.contains('.')) {
        return Err(Problem::new(format!("linux.resources.unified.{file}"), "is no name of a cgroup's file"));
    }
    if resources.memory.as_ref().and_then(|memory| memory.swappiness).is_some_and(|percent| percent > 100) {
        return Err(Problem::new("linux.resources.memory.swappiness", "above 100"));
    }
    Ok(())
}

fn known(path: &str, word: &str, words: &[&str]) -> Result<(), Problem> {
    if words.contains(&word) {
        return Ok(());
    }
    Err(Problem::new(path, format!("unknown value {word:?}, expected one of {}", words.join(", "))))
}
