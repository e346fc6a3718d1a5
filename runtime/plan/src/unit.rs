//! The unit of a container for which systemd makes the cgroup: its names and properties.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use vfsrun_cgroup::Version;
use vfsrun_cgroup::systemd::{self, Manager, NameError, Names, Scope, Unit, Whose};

use crate::PlanError;
use crate::plan::Cgroup;

/// Those that the config says, or that of a cgroup called `name`.
pub(crate) fn names(said: Option<&str>, name: &str, manager: &Manager) -> Result<Names, NameError> {
    let slice = match manager.whose {
        Whose::Machines => "system.slice",
        Whose::Users => "user.slice",
    };
    match said {
        Some(said) => systemd::names(said, slice),
        None => Ok(Names { slice: slice.to_owned(), scope: systemd::scope_of(name) }),
    }
}

/// Where its cgroup will be in each hierarchy, from the top.
pub(crate) fn path(names: &Names, manager: &Manager) -> Result<PathBuf, NameError> {
    Ok(Path::new("/").join(&manager.cgroup).join(systemd::path(names)?))
}

/// What systemd is asked for. `name`: of a cgroup that no other container has.
pub(crate) fn scope(
    names: Names,
    manager: &Manager,
    cgroup: &Cgroup,
    annotations: &BTreeMap<String, String>,
    name: &str,
) -> Result<Scope, PlanError> {
    let asked = systemd::of_annotations(annotations)?;
    let mut properties = systemd::of_limits(&cgroup.limits, manager.version);
    properties.extend(systemd::at_first(&cgroup.limits, manager.version));
    if let Some(rules) = &cgroup.devices {
        let is_v1 = cgroup.places.iter().any(|place| place.version == Version::V1 && place.has("devices"));
        properties.extend(systemd::devices(rules, is_v1));
    }
    let unit = Unit {
        name: names.scope,
        whose: manager.whose,
        version: manager.version,
        description: format!("container {name}"),
    };
    Ok(Scope::new(unit, &names.slice, asked, properties))
}
