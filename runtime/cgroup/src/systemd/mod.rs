//! Cgroups that systemd makes: a container is a transient *scope*, a unit of processes that somebody else has started.
//!
//! ```text
//! Manager::find ──▶ names, properties ──▶ Scope ── admit(init) ──▶ Cgroup
//!  (which systemd)    (in the plan)         │ its unit is kept before anything is made
//!                                           └──▶ Unit ── set, attach, remove
//! ```
//!
//! systemd keeps a cgroup as its unit says. So the limits are told to it as properties, and then written to the cgroup's files, which
//! have more of them. See systemd's `org.freedesktop.systemd1(5)` and "The New Control Group Interfaces".

mod annotation;
mod bus;
mod name;
mod properties;
mod scope;
mod value;
mod wire;

use std::path::{Path, PathBuf};

use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::cgroup::CgroupError;
use crate::place::Place;
use crate::remove::{Processes, remove, remove_slices};

use bus::{Bus, SYSTEMD};
use value::write_properties;
use wire::Writer;

pub use annotation::{AnnotationError, PREFIX, properties as of_annotations};
pub use bus::{BusError, Whose};
pub use name::{NameError, Names, names, path, scope_of};
pub use properties::{at_first, devices, of as of_limits};
pub use scope::Scope;
pub use value::{Property, Value};

#[derive(Debug, Error)]
pub enum SystemdError {
    #[error("cannot reach systemd")]
    Connect(#[source] BusError),
    #[error("systemd cannot {step} the unit {unit}")]
    Step { step: &'static str, unit: String, source: BusError },
    #[error(
        "systemd has a unit {unit} already, which is not this container's; `systemctl status {unit}` shows it"
    )]
    Exists { unit: String },
    #[error("systemd cannot {step} the unit {unit}: its job ended as {result:?}; the journal says why")]
    Job { step: &'static str, unit: String, result: String },
    #[error("systemd has put the container's process of the unit {unit} elsewhere than expected: it is not in {}", path.display())]
    Elsewhere { unit: String, path: PathBuf },
}

/// A systemd that answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manager {
    pub whose: Whose,
    pub version: u32,
    /// Its own cgroup, below which those of all its units lie; beneath the mount of a hierarchy.
    pub cgroup: PathBuf,
}

/// A scope, by which it is found again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unit {
    pub name: String,
    pub whose: Whose,
    /// Of its systemd.
    pub version: u32,
    /// By it the unit is told from another one of its name.
    pub description: String,
}

impl Manager {
    pub fn find(whose: Whose) -> Result<Manager, BusError> {
        let mut bus = Bus::connect(whose)?;
        let mut property = |name: &str| bus.property(OBJECT, &format!("{SYSTEMD}.Manager"), name);
        let version = version(&property("Version")?);
        let cgroup = property("ControlGroup")?.trim_matches('/').into();
        Ok(Manager { whose, version, cgroup })
    }
}

const OBJECT: &str = "/org/freedesktop/systemd1";

/// `v245.4-1.fc32`, `252.38-1~deb12u1`; 0 for what is no number.
fn version(text: &str) -> u32 {
    let digits = text.trim_start_matches(|letter: char| !letter.is_ascii_digit());
    let end = digits.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().unwrap_or(0)
}

impl Unit {
    /// Changes properties of a unit that runs, until the machine is started again: what `update` does before it writes the files.
    pub fn set(&self, properties: &[Property]) -> Result<(), SystemdError> {
        if properties.is_empty() {
            return Ok(());
        }
        let mut body = Writer::default();
        body.string(&self.name);
        body.u32(true.into());
        write_properties(&mut body, properties);
        let mut bus = self.bus()?;
        bus.manager("SetUnitProperties", "sba(sv)", &body).map(drop).map_err(self.failed("change"))
    }

    /// Has systemd move a process into the unit's cgroup, or one below it: a user may not move its processes there from without.
    pub fn attach(&self, below: &Path, process: Pid) -> Result<(), SystemdError> {
        let below = Path::new("/").join(below);
        let mut body = self.body(&[&below.to_string_lossy()]);
        body.array(4, |to| to.u32(process.as_raw_nonzero().get().cast_unsigned()));
        let attached = self.bus()?.manager("AttachProcessesToUnit", "ssau", &body);
        attached.map(drop).map_err(self.failed("move a process into"))
    }

    /// Whether systemd has such a unit, and it is not somebody else's. `None`: it has none.
    fn is_ours(&self) -> Result<Option<bool>, SystemdError> {
        let mut bus = self.bus()?;
        let failed = self.failed("look for");
        let path = match bus.manager("GetUnit", "s", &self.body(&[])) {
            Err(error) if error.is("NoSuchUnit") => return Ok(None),
            found => found.and_then(|answer| Ok(answer.texts("o")?.remove(0))).map_err(failed)?,
        };
        let interface = format!("{SYSTEMD}.Unit");
        let mut property = |name: &str| match bus.property(&path, &interface, name) {
            Err(error) if error.is("UnknownObject") => Ok(None),
            told => told.map(Some).map_err(self.failed("look for")),
        };
        match property("Description")? {
            Some(description) if description == self.description => Ok(Some(true)),
            // One that went meanwhile is told of, too, with its name as a description.
            Some(_) => Ok(property("LoadState")?.filter(|state| state != "not-found").map(|_| false)),
            None => Ok(None),
        }
    }

    /// Ends it, and has systemd forget it. One that is gone is no error.
    fn stop(&self) -> Result<(), SystemdError> {
        let mut bus = self.bus()?;
        let stopped = match bus.manager("StopUnit", "ss", &self.body(&["replace"])) {
            Err(error) if error.is("NoSuchUnit") => return Ok(()),
            stopped => stopped,
        };
        let failed = || self.failed("stop");
        let job = stopped.and_then(|answer| Ok(answer.texts("o")?.remove(0))).map_err(failed())?;
        bus.result(&job).map_err(failed())?;
        self.forget(&mut bus);
        Ok(())
    }

    /// Removes its cgroup, and then the unit.
    pub fn remove(&self, places: &[Place], processes: Processes) -> Result<(), CgroupError> {
        match self.is_ours() {
            // Whoever was killed before it was made has seen that its name is another one's, or would have.
            Ok(Some(false)) => return Ok(()),
            // Without systemd there are the cgroups alone, if those.
            Err(SystemdError::Connect(_)) => return remove(places, processes),
            found => drop(found?),
        }
        // First, as systemd would give the processes time.
        remove(places, processes)?;
        remove_slices(places);
        Ok(self.stop()?)
    }

    /// One that has failed stays until it is told to go; one that has not is gone already.
    fn forget(&self, bus: &mut Bus) {
        let _ = bus.manager("ResetFailedUnit", "s", &self.body(&[]));
    }

    fn bus(&self) -> Result<Bus, SystemdError> {
        Bus::connect(self.whose).map_err(SystemdError::Connect)
    }

    /// Its name, and other texts.
    fn body(&self, others: &[&str]) -> Writer {
        let mut body = Writer::default();
        body.string(&self.name);
        others.iter().for_each(|text| body.string(text));
        body
    }

    fn failed(&self, step: &'static str) -> impl FnOnce(BusError) -> SystemdError {
        let unit = self.name.clone();
        move |source| SystemdError::Step { step, unit, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers_however_they_are_written() {
        let versions = ["252.38-1~deb12u1", "v245.4-1.fc32", "257", "255~rc1", "", "x"];
        assert_eq!(versions.map(version), [252, 245, 257, 255, 0, 0]);
    }
}
