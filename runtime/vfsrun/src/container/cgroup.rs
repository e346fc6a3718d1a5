//! A container's cgroup, and the file by which it is found again: it is there before anything is made.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use vfsrun_cgroup::limits::{self, LimitError};
use vfsrun_cgroup::resctrl::{Group, ResctrlError, Schema, Wanted};
use vfsrun_cgroup::systemd::{self, Scope, SystemdError, Unit};
use vfsrun_cgroup::{Cgroup, CgroupError, Doors, Limit, Place, Processes, Version};
use vfsrun_plan::{Plan, plan};
use vfsrun_spec::oci::Resources;

const FILE: &str = "cgroup.json";

/// A cgroup in a container's, as `exec --cgroup` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubCgroup {
    /// Of version 1; empty: in all hierarchies.
    controllers: Vec<String>,
    path: PathBuf,
}

#[derive(Debug, Error)]
pub enum SubCgroupError {
    #[error("--cgroup: the container is in no hierarchy of {controllers}")]
    NoController { controllers: String },
    #[error("--cgroup: there is no cgroup {}", path.display())]
    Missing { path: PathBuf },
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

#[derive(Debug, Error)]
pub enum CgroupUpdateError {
    #[error(transparent)]
    Limit(#[from] LimitError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Resctrl(#[from] ResctrlError),
    #[error("{at}: {bytes} is refused by memory.checkBeforeUpdate: {used} bytes are used")]
    InUse { at: String, bytes: i64, used: u64 },
}

impl SubCgroup {
    /// Below the container's, in version 2.
    pub fn place(below: &[SubCgroup]) -> PathBuf {
        below.iter().filter(|below| below.controllers.is_empty()).map(|below| &below.path).collect()
    }
}

impl FromStr for SubCgroup {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<SubCgroup, &'static str> {
        let (controllers, path) = text.split_once(':').unwrap_or(("", text));
        let parts = Path::new(path).components().filter(|part| *part != Component::RootDir);
        let path: PathBuf = parts.collect();
        if path.components().any(|part| part == Component::ParentDir) {
            return Err("a `..` would lead out of the container's cgroup");
        }
        let controllers = controllers.split(',').filter(|name| !name.is_empty()).map(str::to_owned);
        Ok(SubCgroup { controllers: controllers.collect(), path })
    }
}

/// What is kept of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    places: Vec<Place>,
    /// Devices are denied to its processes.
    pub guarded: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resctrl: Option<Group>,
    /// Of systemd, where that has made it.
    #[serde(default)]
    pub unit: Option<Unit>,
}

/// How init gets into the cgroup.
pub enum Way<'a> {
    /// It is there.
    Made(Cgroup),
    /// systemd makes it around init.
    Asked { scope: &'a Scope, planned: &'a plan::Cgroup, group: Option<Group>, file: PathBuf },
}

/// Makes the cgroup of the plan, if there is one, for the container whose directory this is. One that systemd makes is only
/// remembered, until there is a process for it.
pub fn make<'a>(plan: &'a Plan, directory: &Path) -> Result<Option<Way<'a>>, CgroupError> {
    let Some(planned) = &plan.cgroup else { return Ok(None) };
    tracing::debug!(places = ?planned.places, "make the cgroup");
    let file = directory.join(FILE);
    let failed = |source| CgroupError::Step { step: "remember", path: file.clone(), source };
    let unit = planned.scope.as_ref().map(|scope| scope.unit.clone());
    let resctrl = planned.resctrl.as_ref().map(Wanted::group).transpose()?;
    let kept = Kept { places: planned.places.clone(), guarded: planned.devices.is_some(), resctrl, unit };
    let text = serde_json::to_vec(&kept).map_err(|error| failed(error.into()))?;
    // Whoever is killed while it writes has made no cgroup yet.
    std::fs::write(&file, text).map_err(&failed)?;
    if let Some(scope) = &planned.scope {
        return Ok(Some(Way::Asked { scope, planned, group: kept.resctrl, file }));
    }
    let made = Cgroup::make(&planned.places, &planned.limits);
    if let Err(CgroupError::InUse { .. }) = made {
        // It is somebody else's.
        std::fs::remove_file(&file).map_err(failed)?;
    }
    let cgroup = made?;
    cgroup.write(&planned.limits)?;
    if let Some(rules) = &planned.devices {
        cgroup.guard(rules)?;
    }
    if let (Some(group), Some(wanted)) = (&kept.resctrl, &planned.resctrl) {
        group.make(wanted.schemata())?;
    }
    Ok(Some(Way::Made(cgroup.with(kept.resctrl))))
}

impl Way<'_> {
    /// The directory in which init can be started.
    pub fn to_start_in(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Way::Made(cgroup) => cgroup.to_start_in(),
            Way::Asked { .. } => None,
        }
    }

    /// By which init goes in itself, before it does anything.
    pub fn doors(&self) -> Result<Option<Doors>, CgroupError> {
        match self {
            Way::Made(cgroup) => cgroup.doors().map(Some),
            Way::Asked { .. } => Ok(None),
        }
    }

    /// Takes init, which waits, into what it does not go into itself.
    pub fn admit(&self, init: Pid) -> Result<(), CgroupError> {
        let (scope, planned, group, file) = match self {
            Way::Made(cgroup) => return cgroup.enter_group(init),
            Way::Asked { scope, planned, group, file } => (scope, planned, group, file),
        };
        tracing::debug!(unit = scope.unit.name, properties = ?scope.properties, "ask systemd for the scope");
        let admitted = scope.admit(init, &planned.places, &planned.limits, planned.devices.as_deref());
        if let Err(CgroupError::Systemd(SystemdError::Exists { .. })) = admitted {
            // It is somebody else's.
            std::fs::remove_file(file).map_err(|source| CgroupError::Step {
                step: "forget",
                path: file.clone(),
                source,
            })?;
        }
        admitted?;
        if let (Some(group), Some(wanted)) = (group, &planned.resctrl) {
            group.make(wanted.schemata())?;
            group.enter(init)?;
        }
        Ok(())
    }
}

impl Kept {
    /// `None` if the container has none, or what was to be kept of it was never written.
    pub fn read(directory: &Path) -> io::Result<Option<Kept>> {
        match std::fs::read(directory.join(FILE)) {
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn open(&self) -> Result<Cgroup, CgroupError> {
        Ok(Cgroup::open(&self.places)?.with(self.resctrl.clone()))
    }

    /// What its processes get of caches.
    pub fn group(&self) -> Option<&Group> {
        self.resctrl.as_ref()
    }

    /// For a command of the container's: its cgroup, or those in it.
    pub fn joined(mut self, below: &[SubCgroup]) -> Result<Cgroup, SubCgroupError> {
        for SubCgroup { controllers, path } in below {
            let is_meant = |place: &&mut Place| {
                controllers.is_empty() || controllers.iter().any(|controller| place.has(controller))
            };
            let mut meant: Vec<_> = self.places.iter_mut().filter(is_meant).collect();
            if meant.is_empty() {
                return Err(SubCgroupError::NoController { controllers: controllers.join(",") });
            }
            for place in &mut meant {
                place.path.push(path);
                if !place.full_path().is_dir() {
                    return Err(SubCgroupError::Missing { path: place.full_path() });
                }
            }
        }
        Ok(self.open()?)
    }

    /// That by which its processes are stopped: version 1's, where it is.
    pub fn freezer(&self) -> Result<Option<Cgroup>, CgroupError> {
        let v1 = self.places.iter().find(|place| place.has("freezer"));
        let place = v1.or_else(|| self.places.iter().find(|place| place.version == Version::V2));
        place.map(|place| Cgroup::open(std::slice::from_ref(place))).transpose()
    }

    /// Gives its processes other limits: `resources`, in which what the kernel takes together is together. `name` is what the caller calls
    /// a field, for messages. Returns fields that cgroups of version 2 do not have. This is all that an update writes.
    pub fn update(
        &self,
        resources: &Resources,
        schemata: &[Schema],
        name: impl Fn(&str) -> String,
    ) -> Result<Vec<&'static str>, CgroupUpdateError> {
        let limits = limits::of(resources, &self.places).map_err(|error| error.renamed(&name))?;
        let set: Vec<_> =
            limits.set.into_iter().map(|limit| Limit { at: name(&limit.at), ..limit }).collect();
        let cgroup = self.open()?;
        let memory = resources.memory.clone().unwrap_or_default();
        if let Some(used) = cgroup.memory_in_use(&memory) {
            for (at, limit) in [("memory.swap", memory.swap), ("memory.limit", memory.limit)] {
                if let Some(bytes) = limit.filter(|bytes| *bytes > 0 && *bytes as u64 <= used) {
                    return Err(CgroupUpdateError::InUse { at: name(at), bytes, used });
                }
            }
        }
        let Some(group) = self.group().filter(|_| !schemata.is_empty()) else {
            self.change(&cgroup, &set)?;
            return Ok(limits.ignored);
        };
        let before = group.replace(schemata)?;
        if let Err(error) = self.change(&cgroup, &set) {
            // The first error is what the caller can do something about.
            let _ = group.write(&before);
            return Err(error.into());
        }
        Ok(limits.ignored)
    }

    /// systemd first, where it has made the cgroup: it writes what it knows whenever it is reloaded, and writes it more coarsely.
    fn change(&self, cgroup: &Cgroup, limits: &[Limit]) -> Result<(), CgroupError> {
        let tell = |limits: &[Limit]| {
            self.unit.as_ref().map_or(Ok(()), |unit| unit.set(&systemd::of_limits(limits, unit.version)))
        };
        let before = cgroup.now(limits);
        tell(limits)?;
        cgroup.update(limits).inspect_err(|_| {
            // The first error is what the caller can do something about.
            let _ = tell(&before);
            let _ = cgroup.write(&before);
        })
    }

    /// A process that is frozen by version 1 does not even die.
    pub fn let_die(&self) -> Result<(), CgroupError> {
        self.old_freezer()?.thaw()
    }

    /// Nor one that somebody has frozen in another cgroup, from which it comes back here to die.
    pub fn take_back(&self, process: Pid) -> Result<(), CgroupError> {
        self.old_freezer()?.enter_all(process)
    }

    /// That of version 1.
    fn old_freezer(&self) -> Result<Cgroup, CgroupError> {
        let places: Vec<_> = self.places.iter().filter(|place| place.has("freezer")).cloned().collect();
        Cgroup::open(&places)
    }

    pub fn signal(&self, signal: Signal) -> Result<(), CgroupError> {
        self.open()?.signal(signal)
    }

    pub fn remove(&self, processes: Processes) -> Result<(), CgroupError> {
        match &self.unit {
            Some(unit) => unit.remove(&self.places, processes)?,
            None => vfsrun_cgroup::remove(&self.places, processes)?,
        }
        self.group().map_or(Ok(()), |group| Ok(group.remove()?))
    }
}
