//! An upper: where an action's writes go, and how they become a layer.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use vfsrun_layers::{CaptureOptions, Captured, IdExtent, IdMap, LayerStore, Run, Take};
use vfsrun_plan::Plan;
use vfsrun_plan::plan::{Capture, Root, UpperOn};

use crate::root::view::UpperPlace;
use crate::run::RunError;
use crate::supervise::Ended;

/// Where an action's writes are while it runs.
pub enum Upper {
    Disk(Run),
    Memory { size: Option<u64> },
}

impl Upper {
    pub fn create(plan: &Plan, store: Option<&LayerStore>) -> Result<Option<Upper>, RunError> {
        let (Root::View { upper, .. }, Some(store)) = (&plan.root, store) else { return Ok(None) };
        Ok(Some(match upper.on {
            UpperOn::Disk => Upper::Disk(store.new_run()?),
            UpperOn::Memory => Upper::Memory { size: upper.size },
        }))
    }

    pub fn place(&self) -> UpperPlace {
        match self {
            Upper::Disk(run) => UpperPlace::Disk(run.path().to_path_buf()),
            Upper::Memory { size } => UpperPlace::Memory { size: *size },
        }
    }

    /// Throws away what was written.
    pub fn discard(self) -> Result<(), RunError> {
        match self {
            Upper::Disk(run) => Ok(run.remove()?),
            Upper::Memory { .. } => Ok(()),
        }
    }

    /// Leaves what was written where it is and says where that is; an upper in memory is gone with its action.
    pub fn keep(self) -> Result<Option<PathBuf>, RunError> {
        match self {
            Upper::Disk(run) => {
                run.keep()?;
                Ok(Some(run.path().join("upper")))
            }
            Upper::Memory { .. } => Ok(None),
        }
    }
}

/// What the action wrote becomes a layer. The name is repointed last, and only for a command that succeeded.
pub fn capture(
    plan: &Plan,
    ended: &mut Ended,
    upper: Option<Upper>,
    store: Option<&LayerStore>,
) -> Result<(Option<Captured>, Option<String>), RunError> {
    let (Some(upper), Some(store)) = (upper, store) else { return Ok((None, None)) };
    let Some(how) = &plan.capture else {
        ended.wait_for_unmount();
        upper.discard()?;
        return Ok((None, None));
    };
    let captured = take(plan, how, ended, upper, store)?;
    let succeeded = ended.code == 0 && ended.signal.is_none() && !ended.timed_out;
    let named = how.name.clone().filter(|_| succeeded);
    if let Some(name) = &named {
        store.set_name(name, &captured.digest)?;
    }
    Ok((Some(captured), named))
}

fn take(
    plan: &Plan,
    how: &Capture,
    ended: &mut Ended,
    upper: Upper,
    store: &LayerStore,
) -> Result<Captured, RunError> {
    let options = |take| CaptureOptions {
        ids: id_map(plan),
        clamp_mtime: Some(how.clamp_time),
        devices: false,
        only: how.only.clone(),
        take,
    };
    match upper {
        Upper::Disk(run) => match vfsrun_layers::capture(run.upper(), &options(Take::Move), store) {
            Ok(captured) => {
                ended.wait_for_unmount();
                // The layer is stored; what cannot be removed now is swept later.
                let _ = run.remove();
                Ok(captured)
            }
            Err(source) => {
                run.keep()?;
                Err(RunError::Capture { kept: run.path().join("upper"), source })
            }
        },
        Upper::Memory { .. } => {
            let upper: OwnedFd = match &ended.upper {
                Some(upper) => upper.try_clone().map_err(|source| RunError::Upper { source })?,
                None => return Err(RunError::Upper { source: io::ErrorKind::NotFound.into() }),
            };
            vfsrun_layers::capture(upper.as_fd(), &options(Take::Copy), store)
                .map_err(|source| RunError::CaptureMemory { source })
        }
    }
}

fn id_map(plan: &Plan) -> IdMap {
    let convert = |map: &[vfsrun_plan::ids::Extent]| {
        map.iter().map(|e| IdExtent { inside: e.inside, outside: e.outside, count: e.count }).collect()
    };
    plan.ids
        .as_ref()
        .map(|ids| IdMap { uids: convert(&ids.uids), gids: convert(&ids.gids) })
        .unwrap_or_default()
}
