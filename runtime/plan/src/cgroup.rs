//! The cgroup of a command: whether it gets one, where, and with what limits.

use std::path::PathBuf;

use vfsrun_cgroup::devices::{self, List};
use vfsrun_cgroup::resctrl::Wanted;
use vfsrun_cgroup::{Place, Version, limits};
use vfsrun_spec::Spec;
use vfsrun_spec::oci::Resources;

use crate::facts::{CgroupManager, ResctrlFacts};
use crate::plan::Cgroup;
use crate::{Facts, PlanError, unit};

/// The field by which the config asks for a cgroup, a limit before its place. The list of devices that every generated config
/// has is not meant so: without a cgroup they are denied by other means.
pub fn asked_for(config: &Spec) -> Option<&'static str> {
    let linux = config.linux.as_ref()?;
    let only_devices =
        |resources: &Resources| Resources { devices: resources.devices.clone(), ..Resources::default() };
    if linux.resources.as_ref().is_some_and(|resources| *resources != only_devices(resources)) {
        return Some("linux.resources");
    }
    if linux.intel_rdt.is_some() {
        return Some("linux.intelRdt");
    }
    linux.cgroups_path.as_ref().filter(|path| !path.is_empty()).map(|_| "linux.cgroupsPath")
}

/// The cgroup, and what the user should know about it.
pub(crate) fn decide(config: &Spec, facts: &Facts) -> Result<(Option<Cgroup>, Option<String>), PlanError> {
    let resctrl = resctrl(config, facts)?;
    match (decide_limits(config, facts)?, resctrl) {
        (decided, None) => Ok(decided),
        ((Some(cgroup), note), resctrl) => Ok((Some(Cgroup { resctrl, ..cgroup }), note)),
        ((None, _), Some(_)) => Err(PlanError::NoCgroup {
            at: "linux.intelRdt",
            reason: "its group belongs to a container's cgroup",
        }),
    }
}

/// Unlike a cgroup this must be had where it is asked for, says the specification.
fn resctrl(config: &Spec, facts: &Facts) -> Result<Option<Wanted>, PlanError> {
    let Some(asked) = config.linux.as_ref().and_then(|linux| linux.intel_rdt.as_ref()) else {
        return Ok(None);
    };
    let (mount, name) = match &facts.cgroups.resctrl {
        ResctrlFacts::NotAskedFor => return Ok(None),
        ResctrlFacts::Missing => return Err(PlanError::NoResctrl),
        ResctrlFacts::Here { mount, name } => (mount, name),
    };
    let is_set = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let lacks =
        |field, what, file| Err(PlanError::ResctrlLacks { field, what, file, mount: mount.path.clone() });
    if is_set(&asked.l3_cache_schema) && !mount.l3 {
        return lacks("l3CacheSchema", "parts of the L3 cache", "info/L3");
    }
    if is_set(&asked.mem_bw_schema) && !mount.bandwidth {
        return lacks("memBwSchema", "parts of the memory bandwidth", "info/MB");
    }
    Ok(Some(Wanted::of(asked, mount, name)))
}

fn decide_limits(config: &Spec, facts: &Facts) -> Result<(Option<Cgroup>, Option<String>), PlanError> {
    let asked = asked_for(config);
    let note = |reason: &str| Ok((None, asked.map(|at| format!("{at}: no cgroup is made: {reason}"))));
    match facts.cgroups.manager {
        CgroupManager::Disabled => return Ok((None, None)),
        _ if asked.is_none() && !facts.cgroups.always => return Ok((None, None)),
        CgroupManager::Systemd | CgroupManager::Cgroupfs => {}
    }
    let linux = crate::linux(config);
    let resources = linux.resources.clone().unwrap_or_default();
    let denies = devices::deny(&resources.devices);
    let is_machines_root = facts.cgroups.is_machines_root;
    let manager = match &facts.cgroups.systemd {
        Some(Err(reason)) if is_machines_root => return Err(PlanError::NoSystemd { reason: reason.clone() }),
        Some(Err(reason)) => return note(reason),
        Some(Ok(manager)) => Some(manager),
        None => None,
    };
    if facts.cgroups.hierarchies.is_empty() {
        let reason = "there is no hierarchy that this user can write to";
        return match asked.or(denies.then_some("linux.resources.devices")) {
            Some(at) if is_machines_root => Err(PlanError::NoCgroup { at, reason }),
            _ => note(reason),
        };
    }
    let said = linux.cgroups_path.as_deref().filter(|path| !path.is_empty());
    let names = manager.map(|manager| unit::names(said, &facts.cgroups.name, manager)).transpose()?;
    let path = match (&names, manager) {
        (Some(names), Some(manager)) => unit::path(names, manager)?,
        _ => said.map_or_else(|| facts.cgroups.name.clone().into(), PathBuf::from),
    };
    let places = facts.cgroups.hierarchies.iter().map(|hierarchy| Place::of(hierarchy, &path));
    let places: Vec<_> = places.collect();
    let limits = match limits::of(&resources, &places) {
        Err(limits::LimitError::NoController { controller, .. }) if !is_machines_root => {
            return note(&format!("this user cannot limit {controller}"));
        }
        limits => limits?,
    };
    let ignored = (!limits.ignored.is_empty())
        .then(|| format!("linux.resources.{}: cgroup version 2 does not have it", limits.ignored.join(", ")));
    // Of a composed root no device can be used anyway, but those that are bound into it.
    let guards = is_machines_root && (config.vfs.is_none() || !resources.devices.is_empty());
    let devices = if guards { device_rules(&resources, &places)? } else { None };
    let mut cgroup = Cgroup { places, limits: limits.set, devices, resctrl: None, scope: None };
    if let (Some(names), Some(manager)) = (names, manager) {
        cgroup.scope = Some(unit::scope(names, manager, &cgroup, &config.annotations, &facts.cgroups.name)?);
    }
    Ok((Some(cgroup), ignored))
}

fn device_rules(resources: &Resources, places: &[Place]) -> Result<Option<Vec<devices::Rule>>, PlanError> {
    let rules = devices::rules(&resources.devices);
    let failed = |reason: String| Err(PlanError::DeviceRules { reason });
    if places.iter().any(|place| place.has("devices")) {
        return match List::new(&rules) {
            Ok(_) => Ok(Some(rules)),
            Err(error) => failed(error.to_string()),
        };
    }
    if places.iter().any(|place| place.version == Version::V2) {
        return Ok(Some(rules));
    }
    if devices::deny(&resources.devices) {
        return failed(
            "nothing here could deny devices: neither the devices controller nor version 2".into(),
        );
    }
    Ok(None)
}

/// Whether the cgroup denies devices.
pub(crate) fn is_guarded(cgroup: Option<&Cgroup>) -> bool {
    cgroup.is_some_and(|cgroup| cgroup.devices.is_some())
}
