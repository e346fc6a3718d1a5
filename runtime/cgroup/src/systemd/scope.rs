//! A scope that is still to be made: systemd makes it around a process that is there.

use rustix::process::Pid;
use serde::Serialize;

use super::bus::Bus;
use super::value::{Property, Value, write_properties};
use super::{SystemdError, Unit};
use crate::cgroup::{Cgroup, CgroupError};
use crate::devices::Rule;
use crate::limits::Limit;
use crate::place::Place;

/// What is decided about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Scope {
    pub unit: Unit,
    /// In the order in which they are set; the description is not among them.
    pub properties: Vec<Property>,
}

impl Scope {
    /// That in `slice`. `asked` is what the config says in annotations: what has to be so follows it, and wins.
    pub fn new(unit: Unit, slice: &str, asked: Vec<Property>, limits: Vec<Property>) -> Scope {
        let accounting = ["CPUAccounting", "MemoryAccounting", "IOAccounting", "TasksAccounting"];
        let before = [
            // One whose process is killed at once would stay as one that has failed.
            Property::text("CollectMode", "inactive-or-failed"),
            // It ends with those who started it, and not before all else when the machine goes down.
            Property::flag("DefaultDependencies", false),
        ];
        let after = [Property::text("Slice", slice), Property::flag("Delegate", true)];
        let after = after.into_iter().chain(accounting.map(|name| Property::flag(name, true))).chain(limits);
        let is_asked = |property: &Property| asked.iter().any(|other| other.name == property.name);
        let before: Vec<_> = before.into_iter().filter(|property| !is_asked(property)).collect();
        Scope { unit, properties: before.into_iter().chain(asked.clone()).chain(after).collect() }
    }

    /// Has systemd make it with this process in it, and the cgroup of hierarchies that it does not know, too. Limits and devices are
    /// those of the cgroup's files.
    ///
    /// # Errors
    /// A unit of the name is there already ([`SystemdError::Exists`]); it is left alone.
    pub fn admit(
        &self,
        process: Pid,
        places: &[Place],
        limits: &[Limit],
        devices: Option<&[Rule]>,
    ) -> Result<(), CgroupError> {
        self.start(process)?;
        let cgroup = Cgroup::of_unit(places, limits)?;
        if !cgroup.has(process)? {
            let path = places.first().map(Place::full_path).unwrap_or_default();
            return Err(SystemdError::Elsewhere { unit: self.unit.name.clone(), path }.into());
        }
        cgroup.enter_all(process)?;
        cgroup.write(limits)?;
        devices.map_or(Ok(()), |rules| cgroup.guard(rules))
    }

    fn start(&self, process: Pid) -> Result<(), SystemdError> {
        let unit = &self.unit;
        let mut bus = unit.bus()?;
        let failed = || unit.failed("make");
        let job = match self.ask(&mut bus, process) {
            Err(error) if error.is("UnitExists") => {
                // What has failed is there until somebody says that it may go.
                unit.forget(&mut bus);
                match self.ask(&mut bus, process) {
                    Err(error) if error.is("UnitExists") => {
                        return Err(SystemdError::Exists { unit: unit.name.clone() });
                    }
                    asked => asked,
                }
            }
            asked => asked,
        };
        let job = job.map_err(failed())?;
        match bus.result(&job).map_err(failed())? {
            result if result == "done" => Ok(()),
            result => Err(SystemdError::Job { step: "make", unit: unit.name.clone(), result }),
        }
    }

    /// Returns the job.
    fn ask(&self, bus: &mut Bus, process: Pid) -> Result<String, super::BusError> {
        let pids = Value::Pids(vec![process.as_raw_nonzero().get().cast_unsigned()]);
        let last = [Property::text("Description", &self.unit.description), Property::new("PIDs", pids)];
        let mut body = self.unit.body(&["fail"]);
        write_properties(&mut body, self.properties.iter().chain(&last));
        // Other units that belong to it.
        body.array(8, |_| {});
        let answer = bus.manager("StartTransientUnit", "ssa(sv)a(sa(sv))", &body)?;
        Ok(answer.texts("o")?.remove(0))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Whose;
    use super::*;

    #[test]
    fn what_a_config_asks_for_replaces_defaults_and_nothing_else() {
        let unit =
            Unit { name: "a.scope".into(), whose: Whose::Machines, version: 252, description: "ours".into() };
        let asked = vec![Property::flag("DefaultDependencies", true), Property::number("TimeoutStopUSec", 5)];
        let scope = Scope::new(unit, "a.slice", asked, vec![Property::number("TasksMax", 7)]);
        assert_eq!(scope.unit.description, "ours");
        let names: Vec<_> = scope.properties.iter().map(|property| property.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "CollectMode",
                "DefaultDependencies",
                "TimeoutStopUSec",
                "Slice",
                "Delegate",
                "CPUAccounting",
                "MemoryAccounting",
                "IOAccounting",
                "TasksAccounting",
                "TasksMax"
            ]
        );
        assert_eq!(scope.properties[1], Property::flag("DefaultDependencies", true));
    }
}
