//! The root of a container as a view: laid before the container is there, looked after while it runs, and settled when it has
//! ended.

use vfsrun_fuse::View;
use vfsrun_plan::plan::Root;

use super::create::CreateError;
use crate::decide::Decided;
use crate::launch::Init;
use crate::run::{self, RunError};
use crate::supervise;
use crate::upper::{self, Upper};
use crate::view::{AttachedView, PendingView};

/// A view that is asked for. An ordinary caller is in the server's user namespace from then on.
pub struct Asked(Option<PendingView>);

/// What a container's root is made of; nothing, where it is a directory.
pub struct Laid(Option<Parts>);

struct Parts {
    view: AttachedView,
    upper: Upper,
}

impl Asked {
    pub fn of(decided: &Decided) -> Result<Asked, CreateError> {
        Ok(Asked(run::ask(decided)?))
    }

    /// Gives init what it builds the root on.
    pub fn lay(self, decided: &Decided, init: &Init) -> Result<Laid, CreateError> {
        let Some(asked) = self.0 else { return Ok(Laid(None)) };
        let mut upper = None;
        let laid = run::lay_base(decided, asked, &mut upper)
            .and_then(|(view, base, _)| Ok((view, init.hand_over(base).map_err(RunError::from)?)));
        match (laid, upper) {
            (Ok((view, ())), Some(upper)) => Ok(Laid(Some(Parts { view, upper }))),
            (laid, upper) => {
                supervise::end(init);
                upper.map(Upper::discard).transpose()?;
                laid.map(|_| Laid(None)).map_err(CreateError::from)
            }
        }
    }
}

impl Laid {
    pub fn is_view(&self) -> bool {
        self.0.is_some()
    }

    pub fn view(&mut self) -> Option<&mut View> {
        self.0.as_mut().map(|parts| &mut parts.view.view)
    }

    pub fn upper(&self) -> Option<&Upper> {
        self.0.as_ref().map(|parts| &parts.upper)
    }

    /// Its container is not to be.
    pub fn discard(self) -> Result<(), CreateError> {
        Ok(self.0.map_or(Ok(()), |parts| parts.upper.discard())?)
    }

    /// When the container has ended: what it wrote becomes a layer where that is asked for, whatever its exit code, as most
    /// containers are ended from outside.
    pub fn settle(self, decided: &Decided) -> Result<(), RunError> {
        let Some(Parts { mut view, upper }) = self.0 else { return Ok(()) };
        upper.keep_no_longer()?;
        let settled = run::look_back(decided, Some(&mut view)).and_then(|(visit, _)| {
            run::refuse(&visit, false, Some(&upper).filter(|_| decided.plan.capture.is_some()))?;
            match &decided.store {
                Some(store) => upper::capture(&decided.plan, !visit.refused, &upper, store).map(drop),
                None => Ok(()),
            }
        });
        match settled {
            Ok(()) => upper.discard(),
            Err(error) => {
                if let Root::View { layer: Some(_), .. } = decided.plan.root {
                    upper.discard()?;
                }
                Err(error)
            }
        }
    }
}
