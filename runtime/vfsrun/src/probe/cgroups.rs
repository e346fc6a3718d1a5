//! Cgroups: in which hierarchies this caller can make one.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{Access, AtFlags, CWD, accessat};
use vfsrun_cgroup::systemd::{Manager, Whose};
use vfsrun_cgroup::{Hierarchy, Version, hierarchy, resctrl};
use vfsrun_plan::cgroup::asked_for;
use vfsrun_plan::facts::{Caller, CgroupFacts, CgroupManager, ParentIds, ResctrlFacts};
use vfsrun_spec::Spec;
use vfsrun_sys::chain;

use crate::container::Id;

/// What the command line says about cgroups.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// One is made, for a container of this name; without a name only if the spec asks for it.
    New { manager: CgroupManager, container: Option<&'a Id>, runtime: Option<&'a Path> },
    /// That of a container is joined, which denies devices or does not.
    Joined { guarded: bool },
}

pub fn facts(wanted: Wanted<'_>, spec: &Spec, caller: &Caller, parent_ids: &ParentIds) -> CgroupFacts {
    let (manager, container, runtime) = match wanted {
        Wanted::New { manager, container, runtime } => (manager, container, runtime),
        Wanted::Joined { guarded: joins_guarded } => {
            let manager = CgroupManager::Disabled;
            return CgroupFacts { manager, joins_guarded, ..CgroupFacts::default() };
        }
    };
    let always = container.is_some();
    let resctrl = resctrl(container, runtime, spec, caller);
    let mut facts = CgroupFacts { manager, always, resctrl, ..CgroupFacts::default() };
    if manager == CgroupManager::Disabled || !(always || asked_for(spec).is_some()) {
        return facts;
    }
    facts.is_machines_root = caller.privileged && *parent_ids == ParentIds::identity();
    facts.name = name(container, runtime, caller);
    // Where nothing can be read nothing can be made.
    facts.hierarchies = hierarchy::all().unwrap_or_default();
    facts.hierarchies.retain(|hierarchy| !hierarchy.readonly);
    if manager == CgroupManager::Systemd {
        facts.systemd = Some(systemd(facts.is_machines_root));
        // What systemd makes for a user in version 2 is the user's, and nothing that it makes in version 1.
        facts.hierarchies.retain(|hierarchy| facts.is_machines_root || hierarchy.version == Version::V2);
        return facts;
    }
    let path = spec.linux.as_ref().and_then(|linux| linux.cgroups_path.clone());
    let path = path.filter(|path| !path.is_empty()).unwrap_or_else(|| facts.name.clone());
    facts.hierarchies.retain(|hierarchy| facts.is_machines_root || is_ours(hierarchy, Path::new(&path)));
    facts
}

fn resctrl(container: Option<&Id>, runtime: Option<&Path>, spec: &Spec, caller: &Caller) -> ResctrlFacts {
    if spec.linux.as_ref().is_none_or(|linux| linux.intel_rdt.is_none()) {
        return ResctrlFacts::NotAskedFor;
    }
    // The specification wants the id itself.
    let name = || container.map_or_else(|| name(None, runtime, caller), ToString::to_string);
    // What cannot be read cannot be used.
    let mount = resctrl::Mount::find().unwrap_or_default();
    mount.map_or(ResctrlFacts::Missing, |mount| ResctrlFacts::Here { mount, name: name() })
}

/// That of the machine for its root, the user's own for others; or why it cannot be asked.
pub fn systemd(is_machines_root: bool) -> Result<Manager, String> {
    let whose = if is_machines_root { Whose::Machines } else { Whose::Users };
    Manager::find(whose).map_err(|error| match whose {
        // The words of runc.
        Whose::Machines => {
            format!("systemd not running on this host, cannot use systemd cgroups manager: {}", chain(&error))
        }
        Whose::Users => format!("there is no systemd of this user: {}", chain(&error)),
    })
}

/// Told from those of other runtime directories, which may have a container of the same name.
fn name(container: Option<&Id>, runtime: Option<&Path>, caller: &Caller) -> String {
    let directory = runtime.and_then(|runtime| std::path::absolute(runtime).ok());
    let (id, told_by) = match container {
        Some(id) => (id.to_string(), format!("{id} {} {directory:?}", caller.uid)),
        None => (format!("run-{}", std::process::id()), format!("{:?}", SystemTime::now())),
    };
    // Blake3 would ask the processor first what it can do, which takes longer than all of this where a hypervisor answers.
    let mut hasher = DefaultHasher::new();
    told_by.hash(&mut hasher);
    // The name of a cgroup may be as long as that of a file, and so may an id.
    let shown: String = id.chars().take(200).collect();
    format!("vfsrun-{shown}-{:012x}", hasher.finish() >> 16)
}

/// Whether a cgroup can be made at `path`, and processes be moved there: for that its files and those of the cgroup that both lie
/// in have to be the caller's.
fn is_ours(hierarchy: &Hierarchy, path: &Path) -> bool {
    let path = hierarchy.below(path);
    let can_write =
        |path: &Path| accessat(CWD, hierarchy.mount.join(path), Access::WRITE_OK, AtFlags::EACCESS);
    let existing = path.ancestors().find_map(|path| match can_write(path) {
        Err(rustix::io::Errno::NOENT) => None,
        answer => Some(answer.is_ok()),
    });
    let common: PathBuf = path
        .iter()
        .zip(hierarchy.own.iter())
        .take_while(|(one, other)| one == other)
        .map(|(one, _)| one)
        .collect();
    let may_move = hierarchy.version == Version::V1 || can_write(&common.join("cgroup.procs")).is_ok();
    existing == Some(true) && may_move
}
