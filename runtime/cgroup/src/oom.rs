//! Notices that the kernel has no memory left for a cgroup: an event descriptor of version 1, a watch of `memory.events` of version 2.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::OFlags;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use vfsrun_sys::beneath;

use crate::cgroup::{Cgroup, CgroupError, Part};
use crate::files;
use crate::hierarchy::Version;

/// Becomes readable when there may be a notice.
#[derive(Debug)]
pub struct Notices<'a> {
    part: &'a Part,
    descriptor: OwnedFd,
    /// Processes of version 2 that were killed so far.
    killed: u64,
}

impl Cgroup {
    /// `None` where no controller limits memory here.
    pub fn oom_notices(&self) -> Result<Option<Notices<'_>>, CgroupError> {
        let v1 = self.parts().iter().find(|part| part.place.has("memory"));
        let Some(part) = v1.or_else(|| self.v2()) else { return Ok(None) };
        let descriptor = match part.place.version {
            Version::V1 => event_descriptor(part).map(Some),
            Version::V2 => watch(part),
        };
        let descriptor = descriptor.map_err(CgroupError::step("watch", part.place.full_path()))?;
        let Some(descriptor) = descriptor else { return Ok(None) };
        let notices = Notices { part, descriptor, killed: 0 };
        let killed = notices.killed().unwrap_or(0);
        Ok(Some(Notices { killed, ..notices }))
    }
}

impl Notices<'_> {
    /// Whether there was one since it was asked last.
    pub fn take(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        let any = match rustix::io::retry_on_intr(|| rustix::io::read(&self.descriptor, &mut buffer)) {
            Err(Errno::AGAIN) => false,
            read => read? > 0,
        };
        match self.part.place.version {
            // The end of the cgroup is told in the same way.
            Version::V1 => Ok(any && files::read(&self.part.directory, "memory.oom_control").is_ok()),
            // The kernel tells changes later than it counts, and those of other counters, too.
            Version::V2 => {
                let killed = self.killed().unwrap_or(self.killed);
                Ok(std::mem::replace(&mut self.killed, killed) < killed)
            }
        }
    }

    fn killed(&self) -> Option<u64> {
        let text = files::read(&self.part.directory, "memory.events").ok()?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
    }
}

impl AsFd for Notices<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

fn event_descriptor(part: &Part) -> io::Result<OwnedFd> {
    let descriptor = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let control = beneath::open(&part.directory, "memory.oom_control".as_ref(), OFlags::RDONLY)?;
    let text = format!("{} {}", descriptor.as_raw_fd(), control.as_raw_fd());
    files::write(&part.directory, "cgroup.event_control", &text)?;
    Ok(descriptor)
}

/// `None` if memory is not passed on to this cgroup.
fn watch(part: &Part) -> io::Result<Option<OwnedFd>> {
    let descriptor = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let file = format!("/proc/self/fd/{}/memory.events", part.directory.as_raw_fd());
    match inotify::add_watch(&descriptor, file, WatchFlags::MODIFY) {
        Err(Errno::NOENT) => Ok(None),
        added => added.map(|_| Some(descriptor)).map_err(io::Error::from),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::place::Place;

    #[test]
    fn notice_of_version_2_is_a_count_that_grew() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place {
            version: Version::V2,
            controllers: Vec::new(),
            mount: directory.path().into(),
            path: ".".into(),
        };
        let cgroup = Cgroup::open(&[place]).unwrap();
        assert!(cgroup.oom_notices().unwrap().is_none());
        let tell = |high, killed| {
            let text = format!("low 0\nhigh {high}\nmax 0\noom 9\noom_kill {killed}\noom_group_kill 0\n");
            fs::write(directory.path().join("memory.events"), text).unwrap();
        };
        tell(0, 1);
        let mut notices = cgroup.oom_notices().unwrap().unwrap();
        assert!(!notices.take().unwrap());
        tell(1, 1);
        assert!(!notices.take().unwrap());
        tell(1, 2);
        assert!(notices.take().unwrap());
        assert!(!notices.take().unwrap());
    }
}
