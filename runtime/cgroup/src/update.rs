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
        let before: Vec<_> = limits.iter().filter_map(|limit| self.current(limit)).collect();
        let written = self.write(limits);
        if written.is_err() {
            // The first error is what the caller can do something about.
            let _ = self.write(&before);
        }
        written
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
        files::open_mount(&part.place.mount)
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
