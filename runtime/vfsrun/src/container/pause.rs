//! Pause: all processes of a container stop, and go on when it is resumed.

use vfsrun_cgroup::Cgroup;

use super::{Container, ContainerError, Containers, Id, Status};

impl Containers {
    pub fn pause(&self, id: &Id) -> Result<(), ContainerError> {
        let _place = self.lock(id)?;
        let container = self.find(id)?;
        match container.status()? {
            Status::Created | Status::Running => {}
            Status::Paused | Status::Stopped => return Err(ContainerError::NotRunning { id: id.clone() }),
        }
        let freezer = container.freezer()?.ok_or_else(|| ContainerError::NoFreezer(id.clone()))?;
        Ok(freezer.freeze()?)
    }

    pub fn resume(&self, id: &Id) -> Result<(), ContainerError> {
        let _place = self.lock(id)?;
        let container = self.find(id)?;
        match (container.status()?, container.freezer()?) {
            (Status::Paused, Some(freezer)) => Ok(freezer.thaw()?),
            _ => Err(ContainerError::NotPaused(id.clone())),
        }
    }
}

impl Container {
    pub(super) fn is_paused(&self) -> Result<bool, ContainerError> {
        Ok(self.freezer()?.map_or(Ok(false), |freezer| freezer.is_frozen())?)
    }

    fn freezer(&self) -> Result<Option<Cgroup>, ContainerError> {
        Ok(self.cgroup()?.map_or(Ok(None), |kept| kept.freezer())?)
    }
}
