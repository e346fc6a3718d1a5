//! Start: lets a created container's process become its command, and sees to what the config wants done about that.

use std::os::fd::AsFd;

use vfsrun_spec::oci::HookKind;

use super::{Container, ContainerError, Containers, Id, Status, gate, monitor};
use crate::notify::Notify;

/// Hooks for which a start waits.
pub(super) const AWAITED: [HookKind; 2] = [HookKind::StartContainer, HookKind::Poststart];

impl Containers {
    /// Lets a created container's process become its command.
    pub fn start(&self, id: &Id) -> Result<(), ContainerError> {
        let place = self.lock(id)?;
        let container = self.find(id)?;
        match container.status()? {
            Status::Created if container.record.runs_nothing => {
                return Err(ContainerError::NothingToStart(id.clone()));
            }
            Status::Created => {}
            Status::Running => return Err(ContainerError::Started(id.clone())),
            Status::Paused => return Err(ContainerError::StartedPaused(id.clone())),
            Status::Stopped => return Err(ContainerError::Stopped(id.clone())),
        }
        let failed = ContainerError::file("open the gate in", &place.path);
        let is_gone = monitor::is_gone(&place.path);
        if is_gone.map_err(ContainerError::file("look for the monitor in", &place.path))? {
            return Err(ContainerError::NoMonitor(id.clone()));
        }
        let notify = Notify::listen(&place.path)?;
        let process = notify.as_ref().map(|_| container.process()).transpose()?;
        if container.record.hooks.any_of(&AWAITED) {
            let opened = gate::Opened::at(&place.path).map_err(failed)?;
            // It is created as long as its hooks run.
            let opened = opened.ok_or_else(|| ContainerError::Started(id.clone()))?;
            // Whoever wants to end it meanwhile can.
            drop(place);
            container.follow(opened)?;
        } else {
            gate::open(&place.path).map_err(failed)?;
            drop(place);
        }
        if let (Some(notify), Some(process)) = (notify, process) {
            notify.wait(process.as_fd(), container.record.process.pid.cast_unsigned())?;
        }
        Ok(())
    }
}

impl Container {
    fn follow(&self, opened: gate::Opened) -> Result<(), ContainerError> {
        let begun = opened.wait().map_err(ContainerError::file("see the start in", &self.path))?;
        let begun = begun.map_err(|reason| ContainerError::NotStarted { id: self.id.clone(), reason });
        let told = begun.and_then(|()| Ok(self.record.hooked().started(self.record.process.pid)?));
        // As the specification has it since 1.3: what nobody could be told of does not run on.
        told.or_else(|error| self.end().and(Err(error)))
    }
}
