//! The root of a container as a view: laid before the container is there, looked after while it runs, and settled when it has
//! ended.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use vfsrun_fuse::View;
use vfsrun_sys::process::Process;

use super::create::CreateError;
use super::{Place, monitor};
use crate::base::Meanwhile;
use crate::decide::Decided;
use crate::launch::Init;
use crate::refused;
use crate::run::{self, RunError};
use crate::supervise;
use crate::upper::{self, Upper};
use crate::view::{AttachedView, PendingView};

/// A view that is asked for. An ordinary caller is in the server's user namespace from then on.
pub struct Asked(Option<PendingView>);

/// What a container's root is made of.
pub enum Laid {
    /// A directory.
    Nothing,
    View(Parts),
    /// A view that is a monitor's.
    Left,
}

pub struct Parts {
    view: AttachedView,
    upper: Upper,
}

impl Asked {
    pub fn of(decided: &Decided) -> Result<Asked, CreateError> {
        Ok(Asked(run::ask(decided)?))
    }

    /// Gives init what it builds the root on.
    pub fn lay(self, decided: &Decided, init: &Init) -> Result<Laid, CreateError> {
        let Some(asked) = self.0 else { return Ok(Laid::Nothing) };
        let mut upper = None;
        let laid = run::lay_base(decided, asked, &mut upper)
            .and_then(|(view, base, _)| Ok((view, init.hand_over(base).map_err(RunError::from)?)));
        match (laid, upper) {
            (Ok((view, ())), Some(upper)) => Ok(Laid::View(Parts { view, upper })),
            (laid, upper) => {
                supervise::end(init);
                upper.map(Upper::discard).transpose()?;
                laid.map(|_| Laid::Nothing).map_err(CreateError::from)
            }
        }
    }
}

impl Laid {
    pub fn view(&mut self) -> Option<&mut View> {
        match self {
            Laid::View(parts) => Some(parts.view()),
            Laid::Nothing | Laid::Left => None,
        }
    }

    /// What init has made in memory, where that was asked for.
    pub(super) fn take_upper(&mut self, made: OwnedFd) {
        if let Laid::View(Parts { upper: Upper::Memory { directory, .. }, .. }) = self {
            *directory = Some(made);
        }
    }

    /// Leaves a view to a monitor, which settles it when the container has ended.
    pub(super) fn leave(&mut self, place: &Place, init: &Init, decided: &Decided) -> Result<(), CreateError> {
        match std::mem::replace(self, Laid::Left) {
            Laid::View(parts) => {
                let process =
                    Process::of(init.child.pid).map_err(CreateError::step("look at the container"))?;
                parts.upper.keep_while(process)?;
                monitor::leave(&place.path, init, parts, decided)
                    .map_err(CreateError::step("leave a monitor"))
            }
            other => {
                *self = other;
                Ok(())
            }
        }
    }

    /// Its container is not to be, and has ended.
    pub(super) fn discard(self, place: &Place) -> Result<(), CreateError> {
        match self {
            Laid::Nothing => Ok(()),
            Laid::View(parts) => Ok(parts.discard()?),
            // It throws away what was never started.
            Laid::Left => Ok(monitor::wait(&place.path).map(drop)?),
        }
    }

    /// When a container that was waited for has ended.
    pub fn settle(self, decided: &Decided) -> Result<(), RunError> {
        match self {
            Laid::View(parts) => parts.settle(decided),
            Laid::Nothing | Laid::Left => Ok(()),
        }
    }

    /// The same when it was not seen to its end; see [`refused::unfinished`].
    pub fn unfinished(self, error: RunError, decided: &Decided) -> RunError {
        match self {
            Laid::View(parts) => parts.unfinished(error, decided),
            Laid::Nothing | Laid::Left => error,
        }
    }
}

impl Parts {
    pub fn view(&mut self) -> &mut View {
        &mut self.view.view
    }

    /// The directory in the store that has the upper, if one has.
    pub fn run(&self) -> Option<&Path> {
        self.upper.run()
    }

    /// All that they are reached by.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.view.view.descriptors().into_iter().chain(self.upper.descriptors())
    }

    pub fn discard(self) -> Result<(), RunError> {
        self.upper.keep_no_longer()?;
        self.upper.discard()
    }

    /// Of a container that was started.
    pub fn unfinished(self, error: RunError, decided: &Decided) -> RunError {
        if let Err(left) = self.upper.keep_no_longer() {
            tracing::debug!(error = vfsrun_sys::chain(&left), "what a process is named for goes with it");
        }
        refused::unfinished(error, &decided.plan, Some(self.upper))
    }

    /// What the container wrote becomes a layer where that is asked for, whatever its exit code, as most containers are ended
    /// from outside.
    pub fn settle(mut self, decided: &Decided) -> Result<(), RunError> {
        self.upper.keep_no_longer()?;
        let visit = match run::look_back(decided, Some(&mut self.view)) {
            Ok((visit, _)) => visit,
            Err(error) => return Err(self.unfinished(error, decided)),
        };
        let settled = refused::refuse(&visit, false, &decided.plan, Some(&self.upper)).and_then(|()| {
            let Some(store) = &decided.store else { return Ok(()) };
            let meanwhile = Meanwhile::new(&visit, Some(&mut self.view));
            let from = (decided.file.as_path(), &meanwhile);
            upper::capture(&decided.plan, !visit.refused, &self.upper, store, from).map(drop)
        });
        match (settled, &self.upper) {
            (Err(error), Upper::Disk(_) | Upper::Memory { .. }) => Err(error),
            (settled, Upper::Root(_)) | (settled @ Ok(()), _) => self.upper.discard().and(settled),
        }
    }
}
