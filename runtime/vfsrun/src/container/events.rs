//! Events: what a container uses, and that its memory ran out, in the JSON of `runc events`.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use thiserror::Error;
use vfsrun_cgroup::resctrl::{self, Group};
use vfsrun_cgroup::stats::Stats;
use vfsrun_cgroup::{Cgroup, CgroupError, Notices};

use super::{Container, ContainerError, Containers, Id};
use crate::net_devices::{self, Traffic};

#[derive(Debug, Error)]
pub enum EventsError {
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("cannot wait for events of container {id}")]
    Wait { id: Id, source: io::Error },
    #[error("cannot write an event")]
    Tell(#[source] io::Error),
}

/// One line.
#[derive(Debug, Serialize)]
pub struct Event<'a> {
    #[serde(rename = "type")]
    kind: Kind,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data>,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Stats,
    /// Processes were killed because there was no memory for them.
    Oom,
}

#[derive(Debug, Serialize)]
struct Data {
    #[serde(flatten)]
    used: Stats,
    /// Of caches and memory bandwidth, where the config asks for groups of them.
    intel_rdt: resctrl::Stats,
    /// `None` where the config names none.
    network_interfaces: Option<Vec<Traffic>>,
}

/// Where events go; whoever breaks wants no more of them.
type Tell<'a> = &'a mut dyn FnMut(&Event<'_>) -> Result<ControlFlow<()>, EventsError>;

impl Containers {
    /// Tells once what the container has used so far.
    pub fn tell_stats(&self, id: &Id, tell: Tell<'_>) -> Result<(), EventsError> {
        Watched::new(self.find(id)?)?.tell_stats(tell).map(drop)
    }

    /// Tells it in intervals, and when memory runs out, until the container has ended.
    pub fn tell_events(&self, id: &Id, interval: Duration, tell: Tell<'_>) -> Result<(), EventsError> {
        let watched = Watched::new(self.find(id)?)?;
        let failed = |source| EventsError::Wait { id: id.clone(), source };
        let mut notices = watched.cgroup.oom_notices()?;
        let mut next = Instant::now() + interval;
        loop {
            let woken = wait(&watched.process, notices.as_ref(), next).map_err(failed)?;
            // What was killed last has ended before it is told.
            let is_noticed = notices.as_mut().map_or(Ok(false), Notices::take).map_err(failed)?;
            if is_noticed && tell(&watched.event(Kind::Oom, None))?.is_break() {
                return Ok(());
            }
            match woken {
                Woken::Ended => return Ok(()),
                Woken::Noticed => {}
                Woken::InTime if watched.tell_stats(tell)?.is_break() => return Ok(()),
                Woken::InTime => next = (next + interval).max(Instant::now()),
            }
        }
    }
}

/// A container that runs.
struct Watched {
    container: Container,
    process: OwnedFd,
    cgroup: Cgroup,
    group: Option<Group>,
    /// Of the config, by their names in the container.
    interfaces: Vec<String>,
}

impl Watched {
    fn new(container: Container) -> Result<Watched, EventsError> {
        let process = container.process()?;
        let kept = container.cgroup()?.ok_or_else(|| ContainerError::NoCgroup(container.id.clone()))?;
        let interfaces = net_devices::names(&container.config()?);
        let group = kept.group().cloned();
        Ok(Watched { cgroup: kept.open()?, group, process, interfaces, container })
    }

    fn event(&self, kind: Kind, data: Option<Data>) -> Event<'_> {
        Event { kind, id: self.container.id.as_str(), data }
    }

    fn tell_stats(&self, tell: Tell<'_>) -> Result<ControlFlow<()>, EventsError> {
        let traffic = || net_devices::traffic(self.container.record.process.pid, &self.interfaces);
        let network_interfaces = (!self.interfaces.is_empty()).then(traffic);
        let intel_rdt = self.group.as_ref().map_or(Ok(resctrl::Stats::default()), Group::stats);
        let intel_rdt = intel_rdt.map_err(CgroupError::from)?;
        let data = Data { used: self.cgroup.stats()?, intel_rdt, network_interfaces };
        tell(&self.event(Kind::Stats, Some(data)))
    }
}

enum Woken {
    Ended,
    Noticed,
    InTime,
}

fn wait(process: &OwnedFd, notices: Option<&Notices<'_>>, until: Instant) -> io::Result<Woken> {
    let mut fds = vec![PollFd::new(process, PollFlags::IN)];
    fds.extend(notices.map(|notices| PollFd::from_borrowed_fd(notices.as_fd(), PollFlags::IN)));
    rustix::io::retry_on_intr(|| {
        let left = until.saturating_duration_since(Instant::now());
        // An interval of ages is one without an end.
        poll(&mut fds, Timespec::try_from(left).ok().as_ref())
    })?;
    Ok(match (fds[0].revents().is_empty(), fds.iter().all(|fd| fd.revents().is_empty())) {
        (false, _) => Woken::Ended,
        (_, false) => Woken::Noticed,
        (_, true) => Woken::InTime,
    })
}
