//! An update: other limits for a cgroup whose processes run. All of them are written, or none.

use vfsrun_spec::oci::Memory;

use crate::cgroup::{Cgroup, CgroupError};
use crate::limits::Limit;
use crate::{controllers, files};

impl Cgroup {
    /// Writes limits, which [`crate::limits::of`] makes of resources.
    ///
    /// # Errors
    /// The first one that the kernel refuses; those before it have their old values again, as far as the kernel takes them.
    pub fn update(&self, limits: &[Limit]) -> Result<(), CgroupError> {
        self.pass_on(limits)?;
        let before = self.now(limits);
        let written = self.write(limits);
        if written.is_err() {
            // The first error is what the caller can do something about.
            let _ = self.write(&before);
        }
        written
    }

    /// What the files of these limits say now, where they say one thing.
    pub fn now(&self, limits: &[Limit]) -> Vec<Limit> {
        limits.iter().filter_map(|limit| self.current(limit)).collect()
    }

    /// Bytes that are used, where `memory` asks that a limit not above them is refused; version 1 refuses it anyway.
    pub fn memory_in_use(&self, memory: &Memory) -> Option<u64> {
        let asked = memory.check_before_update == Some(true);
        let is_v1 = self.parts().iter().any(|part| part.place.has("memory"));
        let part = self.v2().filter(|_| asked && !is_v1)?;
        files::read(&part.directory, "memory.current").ok()?.trim().parse().ok()
    }

    /// A new container's cgroup is given the controllers that it needs; now others may be.
    fn pass_on(&self, limits: &[Limit]) -> Result<(), CgroupError> {
        let Some(part) = self.v2() else { return Ok(()) };
        let places: Vec<_> = self.parts().iter().map(|part| part.place.clone()).collect();
        files::open_place(&part.place.mount)
            .and_then(|mount| controllers::pass_on(&mount, &part.directory, &part.place, &places, limits))
            .map_err(CgroupError::step("find the controllers of", part.place.full_path()))
    }

    /// What the limit's file says now. `None` where there is none, or it has a line for each device.
    fn current(&self, limit: &Limit) -> Option<Limit> {
        let part = self.part_of(limit)?;
        let read = |file: &str| files::read(&part.directory, file).ok().map(|text| (file.to_owned(), text));
        let or_else = limit.or_else.as_ref().map(|(file, _)| file.as_str());
        let (file, text) = read(&limit.file).or_else(|| read(or_else?))?;
        let value = text.trim_end();
        let is_per_device = limit.value.split(' ').next().is_some_and(|word| word.contains(':'));
        let is_one = !value.is_empty() && !value.contains('\n') && !is_per_device;
        is_one.then(|| Limit { file, value: value.to_owned(), or_else: None, ..limit.clone() })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use serde_json::{Value, json};
    use vfsrun_spec::oci::Resources;

    use super::*;
    use crate::hierarchy::Version;
    use crate::limits;
    use crate::place::Place;

    fn resources(json: Value) -> Resources {
        Resources::parse(&json.to_string(), Path::new("test.json")).unwrap()
    }

    fn v2(directory: &Path) -> Place {
        Place { version: Version::V2, controllers: Vec::new(), mount: directory.into(), path: ".".into() }
    }

    /// What an update of version 2 writes.
    #[track_caller]
    fn assert_written(before: Value, change: Value, expected: &[&str]) {
        let (before, change) = (resources(before), resources(change));
        let written = before.changed_by(&change).written_for(&change);
        let limits = limits::of(&written, &[v2(Path::new("/m"))]).unwrap();
        let texts: Vec<_> =
            limits.set.iter().map(|limit| format!("{}={}", limit.file, limit.value)).collect();
        assert_eq!(texts, expected);
    }

    #[test]
    fn what_version_2_has_in_one_text_is_of_before_and_now() {
        let before = json!({ "cpu": { "quota": 5000, "period": 20000, "shares": 512 }, "memory": { "limit": 64, "swap": 96 } });
        assert_written(before.clone(), json!({ "cpu": { "quota": -1 } }), &["cpu.max=max 20000"]);
        assert_written(before.clone(), json!({ "cpu": { "period": 9000 } }), &["cpu.max=5000 9000"]);
        assert_written(json!({}), json!({ "cpu": { "quota": 7000 } }), &["cpu.max=7000 100000"]);
        assert_written(before.clone(), json!({ "cpu": { "idle": 1 } }), &["cpu.idle=1"]);
        assert_written(before.clone(), json!({ "cpu": { "idle": 0 } }), &["cpu.idle=0", "cpu.weight=59"]);
        let memory = |change: Value, expected: &[&str]| {
            assert_written(before.clone(), json!({ "memory": change }), expected)
        };
        memory(json!({ "swap": 100 }), &["memory.swap.max=36", "memory.max=64"]);
        memory(json!({ "swap": -1 }), &["memory.swap.max=max", "memory.max=64"]);
        memory(json!({ "limit": 80 }), &["memory.swap.max=16", "memory.max=80"]);
        memory(json!({ "limit": -1 }), &["memory.swap.max=max", "memory.max=max"]);
        memory(json!({ "reservation": 7 }), &["memory.low=7"]);
    }

    #[test]
    fn what_was_written_before_a_refusal_is_taken_back() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        for (name, text) in [("cgroup.controllers", ""), ("pids.max", "50"), ("cpu.max", "max 10000")] {
            fs::write(file(name), text).unwrap();
        }
        let cgroup = Cgroup::open(&[v2(directory.path())]).unwrap();
        let of = |json: Value| limits::of(&resources(json), &[v2(directory.path())]).unwrap().set;
        let change = json!({ "pids": { "limit": 60 }, "cpu": { "quota": 900, "period": 10000 } });
        cgroup.update(&of(change)).unwrap();
        let texts = || ["pids.max", "cpu.max"].map(|name| fs::read_to_string(file(name)).unwrap());
        assert_eq!(texts(), ["60", "900 10000"]);
        let change = json!({ "pids": { "limit": 70 }, "cpu": { "quota": 800, "period": 10000 }, "unified": { "no.file": "1" } });
        let error = cgroup.update(&of(change)).unwrap_err();
        assert!(error.to_string().starts_with("linux.resources.unified.no.file: there is no "), "{error}");
        assert_eq!(texts(), ["60", "900 10000"]);
    }

    #[test]
    fn memory_in_use_is_looked_at_if_asked() {
        let directory = tempfile::tempdir().unwrap();
        let cgroup = Cgroup::open(&[v2(directory.path())]).unwrap();
        let memory = |check| Memory { check_before_update: Some(check), ..Memory::default() };
        assert_eq!(cgroup.memory_in_use(&memory(true)), None);
        fs::write(directory.path().join("memory.current"), "4096\n").unwrap();
        assert_eq!(cgroup.memory_in_use(&memory(true)), Some(4096));
        assert_eq!(cgroup.memory_in_use(&memory(false)), None);
    }
}
