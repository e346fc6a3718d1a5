//! The cgroup of a container, in every hierarchy in which it has one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, mkdir};
use rustix::io::Errno;
use rustix::process::Pid;
use thiserror::Error;
use vfsrun_sys::bpf;

use crate::devices::{self, List, Rule};
use crate::hierarchy::Version;
use crate::limits::Limit;
use crate::place::Place;
use crate::resctrl::{Group, ResctrlError};
use crate::systemd::SystemdError;
use crate::{controllers, cpuset, files, processes};

#[derive(Debug, Error)]
pub enum CgroupError {
    #[error("cannot {step} the cgroup {}", path.display())]
    Step { step: &'static str, path: PathBuf, source: io::Error },
    // The words of runc.
    #[error("container's cgroup is not empty: {} has processes", path.display())]
    InUse { path: PathBuf },
    #[error("{at}: cannot write {value:?} to {}{}", path.display(), hint(path, source))]
    Limit { at: String, value: String, path: PathBuf, source: io::Error },
    #[error("{at}: there is no {}; the kernel does not have it, or its controller {controller} is not passed on to this cgroup", path.display())]
    NoFile { at: String, path: PathBuf, controller: String },
    #[error("linux.resources.devices")]
    Devices(#[source] io::Error),
    #[error("linux.resources.devices: {0}")]
    Inexpressible(#[from] devices::Inexpressible),
    #[error(
        "linux.resources.devices: there is nothing here that could deny devices: neither a devices controller nor cgroup version 2"
    )]
    NoDevices,
    #[error(transparent)]
    Resctrl(#[from] ResctrlError),
    #[error(transparent)]
    Systemd(#[from] SystemdError),
}

impl CgroupError {
    pub(crate) fn step(
        step: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> CgroupError {
        let path = path.into();
        move |source| CgroupError::Step { step, path, source }
    }
}

/// Why the kernel may say so.
fn hint(path: &Path, source: &io::Error) -> &'static str {
    let is_of_memory = path.file_name().is_some_and(|file| file.to_string_lossy().starts_with("memory."));
    match source.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::BUSY) if is_of_memory => ", below what is used now",
        _ => "",
    }
}

#[derive(Debug)]
pub struct Cgroup {
    parts: Vec<Part>,
    /// What its processes get of caches, beside it.
    group: Option<Group>,
}

/// The files of a cgroup that take in who writes to them.
#[derive(Debug)]
pub struct Doors(Vec<(OwnedFd, PathBuf)>);

/// That of one hierarchy.
#[derive(Debug)]
pub(crate) struct Part {
    pub place: Place,
    pub directory: OwnedFd,
}

/// Processes in a cgroup that is there already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Others {
    Refused,
    Expected,
}

impl Cgroup {
    /// Makes it, with its ancestors where they are missing. One that is there and empty is taken.
    ///
    /// # Errors
    /// One that is there has processes: they are not the container's, and would be limited and killed with it.
    pub fn make(places: &[Place], limits: &[Limit]) -> Result<Cgroup, CgroupError> {
        let parts = places.iter().map(|place| Part::make(place, places, limits, Others::Refused));
        Ok(Cgroup { parts: parts.collect::<Result<_, _>>()?, group: None })
    }

    /// That of a unit of systemd's, which has made it in the hierarchies that it knows, and put a process there.
    pub(crate) fn of_unit(places: &[Place], limits: &[Limit]) -> Result<Cgroup, CgroupError> {
        let parts = places.iter().map(|place| Part::make(place, places, limits, Others::Expected));
        Ok(Cgroup { parts: parts.collect::<Result<_, _>>()?, group: None })
    }

    /// One that was made before, as far as it is still there.
    pub fn open(places: &[Place]) -> Result<Cgroup, CgroupError> {
        let parts = places.iter().filter_map(|place| Part::open(place).transpose());
        Ok(Cgroup { parts: parts.collect::<Result<_, _>>()?, group: None })
    }

    /// Its processes enter this group, too.
    pub fn with(self, group: Option<Group>) -> Cgroup {
        Cgroup { group, ..self }
    }

    /// Writes limits, which [`crate::limits::of`] makes of resources, for a new container; [`Cgroup::update`] is for others.
    pub fn write(&self, limits: &[Limit]) -> Result<(), CgroupError> {
        // Some are compared with others, which may have to be changed first (memory with swap, a quota with its period): those
        // that the kernel refuses are written again when all others are.
        let refused: Vec<_> = limits
            .iter()
            .map(|limit| (limit, self.write_one(limit)))
            .filter(|(_, written)| written.is_err())
            .collect();
        for (limit, written) in refused {
            match written {
                Err(CgroupError::Limit { source, .. }) if source.kind() == io::ErrorKind::InvalidInput => {
                    self.write_one(limit)?;
                }
                written => written?,
            }
        }
        Ok(())
    }

    fn write_one(&self, limit: &Limit) -> Result<(), CgroupError> {
        let Some(part) = self.part_of(limit) else { return Ok(()) };
        let mut choices =
            std::iter::once((&limit.file, &limit.value)).chain(limit.or_else.iter().map(|(f, v)| (f, v)));
        let missing = loop {
            let Some((file, value)) = choices.next() else { break limit };
            let path = part.place.full_path().join(file);
            match files::write(&part.directory, file, value) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => {
                    let (at, value) = (limit.at.clone(), value.clone());
                    return Err(CgroupError::Limit { at, value, path, source });
                }
                Ok(()) => return Ok(()),
            }
        };
        if missing.may_be_missing {
            return Ok(());
        }
        let path = part.place.full_path().join(&missing.file);
        Err(CgroupError::NoFile { at: missing.at.clone(), path, controller: missing.controller.clone() })
    }

    pub(crate) fn part_of(&self, limit: &Limit) -> Option<&Part> {
        self.parts.iter().find(|part| match limit.version {
            Version::V1 => part.place.has(&limit.controller),
            Version::V2 => part.place.version == Version::V2,
        })
    }

    /// Denies its processes what the rules do not allow.
    pub fn guard(&self, rules: &[Rule]) -> Result<(), CgroupError> {
        if let Some(part) = self.parts.iter().find(|part| part.place.has("devices")) {
            return part.guard(&List::new(rules)?);
        }
        let part = self.v2().ok_or(CgroupError::NoDevices)?;
        bpf::load_device_program(&devices::compile(rules))
            .and_then(|program| bpf::attach_device_program(part.directory.as_fd(), program.as_fd()))
            .map_err(CgroupError::Devices)
    }

    /// The directory in which a process can be started ([`vfsrun_sys::clone::clone_into`]).
    pub fn to_start_in(&self) -> Option<BorrowedFd<'_>> {
        self.v2().map(|part| part.directory.as_fd())
    }

    /// The ways into the hierarchies of version 1, for a process that was started in [`Cgroup::to_start_in`]. Who opens them needs
    /// the rights, and not who passes them.
    pub fn doors(&self) -> Result<Doors, CgroupError> {
        let open = |part: &Part| {
            let path = part.place.full_path();
            files::open_to_write(&part.directory, "tasks")
                .map(|file| (file, path.clone()))
                .map_err(CgroupError::step("open the way into", path))
        };
        let parts = self.parts.iter().filter(|part| part.place.version == Version::V1);
        Ok(Doors(parts.map(open).collect::<Result<_, _>>()?))
    }

    /// Moves a process of one thread into the resctrl group, if there is one.
    pub fn enter_group(&self, process: Pid) -> Result<(), CgroupError> {
        self.group.as_ref().map_or(Ok(()), |group| Ok(group.enter(process)?))
    }

    /// Moves a process into all of it; where it is already it stays.
    pub fn enter_all(&self, process: Pid) -> Result<(), CgroupError> {
        for part in &self.parts {
            if !part.lists(process)? {
                files::write(&part.directory, "cgroup.procs", &process.as_raw_nonzero().to_string())
                    .map_err(CgroupError::step("move a process into", part.place.full_path()))?;
            }
        }
        Ok(())
    }

    /// Whether a process is in any part of it.
    pub(crate) fn has(&self, process: Pid) -> Result<bool, CgroupError> {
        self.parts.iter().try_fold(false, |found, part| Ok(found || part.lists(process)?))
    }

    pub(crate) fn v2(&self) -> Option<&Part> {
        self.parts.iter().find(|part| part.place.version == Version::V2)
    }

    pub(crate) fn parts(&self) -> &[Part] {
        &self.parts
    }
}

impl Doors {
    /// Moves the caller, which has one thread. As a thread that moves itself it waits for nobody; a process that is moved waits until no
    /// other can be in the middle of a fork: an RCU grace period, 5 to 15 ms.
    pub fn pass(self) -> Result<(), CgroupError> {
        self.0.iter().try_for_each(|(file, path)| {
            files::write_open(file, "0").map_err(CgroupError::step("move this process into", path))
        })
    }
}

impl Part {
    fn make(place: &Place, places: &[Place], limits: &[Limit], others: Others) -> Result<Part, CgroupError> {
        let path = place.full_path();
        let failed = |step| CgroupError::step(step, &path);
        let is_new = make_directories(place, &path).map_err(failed("make"))?;
        let directory = files::open_place(&path).map_err(failed("open"))?;
        let is_checked = !is_new && others == Others::Refused;
        if is_checked && processes::is_populated(&directory, place.version).map_err(failed("look into"))? {
            return Err(CgroupError::InUse { path });
        }
        if place.version == Version::V2 {
            files::open_place(&place.mount)
                .and_then(|mount| controllers::pass_on(&mount, &directory, place, places, limits))
                .map_err(failed("find the controllers of"))?;
        } else if place.has("cpuset") {
            files::open_place(&place.mount)
                .and_then(|mount| cpuset::fill(&mount, &place.path))
                .map_err(failed("take cpus and memory nodes over for"))?;
        }
        Ok(Part { place: place.clone(), directory })
    }

    fn lists(&self, process: Pid) -> Result<bool, CgroupError> {
        let listed = files::read(&self.directory, "cgroup.procs")
            .map_err(CgroupError::step("list the processes of", self.place.full_path()))?;
        Ok(listed.lines().any(|line| line.parse() == Ok(process.as_raw_nonzero().get())))
    }

    fn open(place: &Place) -> Result<Option<Part>, CgroupError> {
        let path = place.full_path();
        match files::open_place(&path) {
            Ok(directory) => Ok(Some(Part { place: place.clone(), directory })),
            Err(error) if files::is_gone(&error) => Ok(None),
            Err(error) => Err(CgroupError::step("open", path)(error)),
        }
    }

    fn guard(&self, list: &List) -> Result<(), CgroupError> {
        let lines = list.lines();
        for of_one_file in lines.chunk_by(|(one, _), (next, _)| one == next) {
            let (name, _) = of_one_file[0];
            let file = files::open_to_write(&self.directory, name).map_err(CgroupError::Devices)?;
            for (_, line) in of_one_file {
                match files::write_open(&file, line) {
                    // The cgroup above, in whose container this one is, does not have it either: less than was allowed.
                    Err(error)
                        if error.kind() == io::ErrorKind::PermissionDenied && name == "devices.allow" => {}
                    written => written.map_err(CgroupError::Devices)?,
                }
            }
        }
        Ok(())
    }
}

/// Whether the last one is new.
fn make_directories(place: &Place, path: &Path) -> io::Result<bool> {
    // What groups and others may do is for modes of files; only who owns a cgroup changes it.
    let make = |path: &Path| match mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::EXIST) => Ok(false),
        Err(errno) => Err(io::Error::from(errno)),
    };
    let ancestors: Vec<_> = path.ancestors().skip(1).take_while(|path| *path != place.mount).collect();
    // Slices of which nothing is left are removed by others meanwhile.
    const TRIES: usize = 20;
    let mut made = make(path);
    for _ in 0..TRIES {
        match made {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                made = ancestors
                    .iter()
                    .rev()
                    .try_for_each(|path| make(path).map(drop))
                    .and_then(|()| make(path));
            }
            made => return made,
        }
    }
    made
}
