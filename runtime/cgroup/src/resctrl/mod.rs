//! A resctrl group: which part of caches and memory bandwidth its tasks get (`linux.intelRdt`). It is a directory of the resctrl file
//! system, beside the cgroups of a container and, as those, found again by what is kept of it.

mod schemata;
mod stats;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, mkdirat, unlinkat};
use rustix::io::Errno;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use vfsrun_spec::oci::IntelRdt;
use vfsrun_sys::mountinfo;

pub use self::stats::Stats;
use crate::files;

const TASKS: &str = "tasks";
const SCHEMATA: &str = "schemata";
const MONITORED: &str = "mon_groups";

#[derive(Debug, Error)]
pub enum ResctrlError {
    #[error("linux.intelRdt: cannot {step} {}{status}", path.display())]
    Step { step: &'static str, path: PathBuf, status: String, source: io::Error },
    #[error("{at}: cannot write {value:?} to {}{status}", path.display())]
    Schemata { at: String, value: String, path: PathBuf, status: String, source: io::Error },
    #[error("linux.intelRdt.closID: there is no {}, and no schema to make it with", path.display())]
    Missing { path: PathBuf },
    #[error("{at}: {asked:?} is not what {} has: {found}", path.display())]
    Differs { at: &'static str, asked: String, path: PathBuf, found: String },
}

/// The resctrl file system that is mounted here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    pub path: PathBuf,
    /// Parts of the L3 cache can be given.
    pub l3: bool,
    /// Memory bandwidth can.
    pub bandwidth: bool,
}

/// What a config asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Wanted {
    mount: PathBuf,
    /// Empty: the default group, the root of the file system.
    name: String,
    /// It was named; without a name it is called after the container.
    is_named: bool,
    schemata: Vec<Schema>,
    monitored_as: Option<String>,
}

/// A line of a group's schemata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Schema {
    /// The field that says it.
    pub at: &'static str,
    pub line: String,
}

/// A group, as it is kept with the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    mount: PathBuf,
    /// Below it.
    path: PathBuf,
    /// It goes with the container.
    is_own: bool,
    /// The name of its monitoring group.
    monitored_as: Option<String>,
}

impl Mount {
    /// `None` where none is in sight.
    pub fn find() -> io::Result<Option<Mount>> {
        let table = std::fs::read("/proc/self/mountinfo")?;
        let is_in_sight = |line: &mountinfo::Line<'_>| {
            let stat = rustix::fs::stat(line.point());
            stat.is_ok_and(|stat| {
                (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev)) == line.device
            })
        };
        let found = mountinfo::lines(&table).find(|line| line.kind() == "resctrl" && is_in_sight(line));
        Ok(found.map(|line| {
            let path = line.point();
            let has = |name: &str| path.join("info").join(name).is_dir();
            // With CDP code and data are given apart.
            Mount { l3: has("L3") || has("L3CODE"), bandwidth: has("MB"), path }
        }))
    }
}

impl Wanted {
    /// Of a container, or run, called `name`.
    pub fn of(asked: &IntelRdt, mount: &Mount, name: &str) -> Wanted {
        let clos_id = asked.clos_id.as_deref().filter(|id| !id.is_empty());
        let is_set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let l3 = is_set(&asked.l3_cache_schema).unwrap_or_default();
        let bandwidth = is_set(&asked.mem_bw_schema);
        let l3 = l3.lines().filter(|line| !line.is_empty());
        // Older callers say both in the first.
        let l3 = l3.filter(|line| bandwidth.is_none() || !line.starts_with("MB:")).map(str::to_owned);
        let schema = |at: &'static str| move |line: String| Schema { at, line };
        let mut schemata: Vec<_> = l3.map(schema(L3)).collect();
        schemata.extend(bandwidth.clone().map(schema(BANDWIDTH)));
        schemata.extend(asked.schemata.iter().cloned().map(schema(ANY)));
        Wanted {
            mount: mount.path.clone(),
            name: clos_id.unwrap_or(name).trim_start_matches('/').to_owned(),
            is_named: clos_id.is_some(),
            schemata,
            monitored_as: asked.is_monitored().then(|| name.to_owned()),
        }
    }

    /// The group, which may not be there yet.
    ///
    /// # Errors
    /// The config names one that is not there and says nothing to make it with, or one that has something else.
    pub fn group(&self) -> Result<Group, ResctrlError> {
        let mut group = Group {
            mount: self.mount.clone(),
            path: if self.name.is_empty() { ".".into() } else { self.name.clone().into() },
            is_own: false,
            monitored_as: self.monitored_as.clone(),
        };
        let is_there = group.full_path().is_dir();
        if self.is_named && !is_there && self.schemata.is_empty() {
            return Err(ResctrlError::Missing { path: group.full_path() });
        }
        if self.is_named && is_there {
            self.compare(&group)?;
        }
        group.is_own = !self.is_named && !is_there;
        Ok(group)
    }

    fn compare(&self, group: &Group) -> Result<(), ResctrlError> {
        let compared = |schema: &&Schema| schema.at != ANY;
        if !self.schemata.iter().any(|schema| compared(&schema)) {
            return Ok(());
        }
        let text = group.read(SCHEMATA)?;
        for Schema { at, line } in self.schemata.iter().filter(compared) {
            if let Err(found) = schemata::compare(line, &text) {
                let path = group.full_path();
                return Err(ResctrlError::Differs { at, asked: line.clone(), path, found });
            }
        }
        Ok(())
    }

    pub fn schemata(&self) -> &[Schema] {
        &self.schemata
    }
}

const L3: &str = "linux.intelRdt.l3CacheSchema";
const BANDWIDTH: &str = "linux.intelRdt.memBwSchema";
const ANY: &str = "linux.intelRdt.schemata";

impl Group {
    /// Makes what is not there.
    pub fn make(&self, schemata: &[Schema]) -> Result<(), ResctrlError> {
        let mount = self.mount()?;
        let make = |path: &Path| match mkdirat(&mount, path, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(self.step("make the group", path)(errno.into())),
        };
        make(&self.path)?;
        self.monitored().map_or(Ok(()), |path| make(&path))?;
        self.write(schemata)
    }

    /// Gives its tasks other parts. All lines are one text, which the kernel takes or does not.
    pub fn write(&self, schemata: &[Schema]) -> Result<(), ResctrlError> {
        let Some(first) = schemata.first() else { return Ok(()) };
        let text: String = schemata.iter().map(|schema| format!("{}\n", schema.line)).collect();
        files::write(&self.directory()?, SCHEMATA, &text).map_err(|source| ResctrlError::Schemata {
            at: first.at.to_owned(),
            value: text.trim_end().to_owned(),
            path: self.full_path().join(SCHEMATA),
            status: self.status(),
            source,
        })
    }

    /// Writes them, and returns those that it had.
    pub fn replace(&self, schemata: &[Schema]) -> Result<Vec<Schema>, ResctrlError> {
        let before = self.read(SCHEMATA)?;
        self.write(schemata)?;
        Ok(before.lines().map(|line| Schema { at: ANY, line: line.to_owned() }).collect())
    }

    /// Moves a process of one thread into it.
    pub fn enter(&self, process: Pid) -> Result<(), ResctrlError> {
        let pid = process.as_raw_nonzero().to_string();
        let directory = self.directory()?;
        for path in [Some(PathBuf::from(TASKS)), self.monitored_below().map(|path| path.join(TASKS))]
            .into_iter()
            .flatten()
        {
            let file = path.to_string_lossy();
            files::write(&directory, &file, &pid)
                .map_err(self.step("move a process into", &self.path.join(&path)))?;
        }
        Ok(())
    }

    /// What was made for the container; what is gone is no error.
    pub fn remove(&self) -> Result<(), ResctrlError> {
        let mount = match files::open_place(&self.mount) {
            Err(error) if files::is_gone(&error) => return Ok(()),
            mount => mount.map_err(self.step("open", Path::new("")))?,
        };
        let own = self.is_own.then(|| self.path.clone());
        for path in self.monitored().into_iter().chain(own) {
            match unlinkat(&mount, &path, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(self.step("remove the group", &path)(errno.into())),
            }
        }
        Ok(())
    }

    fn mount(&self) -> Result<OwnedFd, ResctrlError> {
        files::open_place(&self.mount).map_err(self.step("open", Path::new("")))
    }

    fn directory(&self) -> Result<OwnedFd, ResctrlError> {
        files::open_directory(self.mount()?, &self.path).map_err(self.step("open the group", &self.path))
    }

    fn read(&self, file: &str) -> Result<String, ResctrlError> {
        files::read(self.directory()?, file).map_err(self.step("read", &self.path.join(file)))
    }

    /// Below the mount.
    fn monitored(&self) -> Option<PathBuf> {
        self.monitored_below().map(|path| self.path.join(path))
    }

    /// Below the group.
    fn monitored_below(&self) -> Option<PathBuf> {
        self.monitored_as.as_ref().map(|name| Path::new(MONITORED).join(name))
    }

    fn full_path(&self) -> PathBuf {
        self.mount.join(&self.path)
    }

    fn step(&self, step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ResctrlError + use<> {
        let (path, status) = (self.mount.join(path), self.status());
        move |source| ResctrlError::Step { step, path, status, source }
    }

    /// What the kernel says of the last failure.
    fn status(&self) -> String {
        let text = std::fs::read_to_string(self.mount.join("info/last_cmd_status")).unwrap_or_default();
        match text.trim() {
            "" | "ok" => String::new(),
            said => format!(" ({})", vfsrun_spec::one_line(said)),
        }
    }
}
