//! The processes of a cgroup: who they are, to stop them, and to end them.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getpid, kill_process};

use crate::cgroup::{Cgroup, CgroupError, Part};
use crate::files;
use crate::hierarchy::Version;

/// How long processes may take to stop.
const TO_FREEZE: Duration = Duration::from_secs(2);

impl Cgroup {
    /// Of it and of those in it. Those that this process cannot see are left out.
    pub fn processes(&self) -> Result<Vec<Pid>, CgroupError> {
        let Some(part) = self.witness() else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        collect(&part.directory, &mut found).map_err(part.failed("list the processes of"))?;
        Ok(found)
    }

    /// Sends a signal to all of its processes. SIGKILL reaches those too that are being started meanwhile, and those that are frozen.
    pub fn signal(&self, signal: Signal) -> Result<(), CgroupError> {
        if signal != Signal::KILL {
            return self.send(signal);
        }
        let killed = self.parts().iter().filter(|part| part.place.version == Version::V2);
        let mut killed = killed.map(|part| files::write(&part.directory, "cgroup.kill", "1"));
        // Linux 5.14.
        let is_done = killed.any(|written| written.is_ok());
        if !is_done {
            // What is frozen starts no other process. If that is not to be had, what is started meanwhile is killed
            // when the caller tries again.
            let _ = self.freeze();
            self.send(signal)?;
        }
        self.thaw()
    }

    fn send(&self, signal: Signal) -> Result<(), CgroupError> {
        let own = getpid();
        for process in self.processes()?.into_iter().filter(|process| *process != own) {
            match kill_process(process, signal) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(errno) => {
                    let path = self.witness().map(|part| part.place.full_path()).unwrap_or_default();
                    return Err(CgroupError::step("send a signal to a process of", path)(errno.into()));
                }
            }
        }
        Ok(())
    }

    /// Stops all of its processes, and waits until they are.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        let Some(part) = self.freezer() else { return Ok(()) };
        let failed = || part.failed("freeze");
        let deadline = Instant::now() + TO_FREEZE;
        loop {
            // Version 1 has to be told again of those that were started meanwhile.
            part.write_state(true).map_err(failed())?;
            if part.is_frozen().map_err(failed())? {
                return Ok(());
            }
            if Instant::now() >= deadline {
                part.write_state(false).map_err(failed())?;
                return Err(failed()(io::ErrorKind::TimedOut.into()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets them go on; those of version 1 that were frozen in a cgroup of their own, too.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        let Some(part) = self.freezer() else { return Ok(()) };
        match part.write_state(false) {
            Err(error) if files::is_gone(&error) => Ok(()),
            written => written.map_err(part.failed("thaw")),
        }
    }

    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        let Some(part) = self.freezer() else { return Ok(false) };
        match part.is_frozen() {
            Err(error) if files::is_gone(&error) => Ok(false),
            frozen => frozen.map_err(part.failed("look into")),
        }
    }

    /// Version 1's, where it is: tools look there.
    fn freezer(&self) -> Option<&Part> {
        let v1 = self.parts().iter().find(|part| part.place.has("freezer"));
        v1.or_else(|| self.parts().iter().find(|part| part.place.version == Version::V2))
    }

    /// By whom its processes are found.
    fn witness(&self) -> Option<&Part> {
        let v2 = self.parts().iter().find(|part| part.place.version == Version::V2);
        v2.or_else(|| self.freezer()).or_else(|| self.parts().first())
    }
}

impl Part {
    fn failed(&self, step: &'static str) -> impl FnOnce(io::Error) -> CgroupError + use<> {
        CgroupError::step(step, self.place.full_path())
    }

    fn write_state(&self, frozen: bool) -> io::Result<()> {
        match (self.place.version, frozen) {
            (Version::V2, true) => files::write(&self.directory, "cgroup.freeze", "1"),
            (Version::V2, false) => files::write(&self.directory, "cgroup.freeze", "0"),
            (Version::V1, true) => files::write(&self.directory, "freezer.state", "FROZEN"),
            (Version::V1, false) => thaw_tree(&self.directory),
        }
    }

    fn is_frozen(&self) -> io::Result<bool> {
        match self.place.version {
            Version::V1 => Ok(files::read(&self.directory, "freezer.state")?.trim() == "FROZEN"),
            Version::V2 => has_event(&self.directory, "frozen 1"),
        }
    }
}

/// A process that is frozen in version 1 does not even die.
fn thaw_tree(directory: impl AsFd) -> io::Result<()> {
    files::write(&directory, "freezer.state", "THAWED")?;
    for name in files::children(&directory)? {
        match files::open_directory(&directory, &name) {
            Ok(child) => thaw_tree(child)?,
            Err(error) if files::is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether it has processes, in cgroups below it too.
pub(crate) fn is_populated(directory: impl AsFd, version: Version) -> io::Result<bool> {
    if version == Version::V2 {
        return has_event(&directory, "populated 1");
    }
    let mut found = Vec::new();
    collect(&directory, &mut found)
}

fn has_event(directory: impl AsFd, event: &str) -> io::Result<bool> {
    Ok(files::read(directory, "cgroup.events")?.lines().any(|line| line == event))
}

/// Whether there are any, those of other pid namespaces included, which have no number here.
fn collect(directory: impl AsFd, found: &mut Vec<Pid>) -> io::Result<bool> {
    let text = match files::read(&directory, "cgroup.procs") {
        Err(error) if files::is_gone(&error) => return Ok(false),
        // A threaded cgroup: its processes are those of a cgroup above, and are listed there.
        Err(error) if rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::OPNOTSUPP) => {
            String::new()
        }
        read => read?,
    };
    let mut any = !text.is_empty();
    found.extend(text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)));
    for name in files::children(&directory)? {
        match files::open_directory(&directory, &name) {
            Ok(child) => any |= collect(child, found)?,
            Err(error) if files::is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(any)
}
