//! A container that is waited for: it ends with this program, and this program with it.

use std::cell::RefCell;

use vfsrun_sys::chain;
use vfsrun_sys::process::Process;

use super::create::{self, CreateError, CreateRequest, decide, hooked, prepared};
use super::pidfd::{PidfdSocket, Whose};
use super::view::Asked;
use super::{Containers, Place, cgroup};
use crate::decide::Decided;
use crate::hooks::Hooked;
use crate::launch;
use crate::notify::{self, Notify};
use crate::run::RunError;
use crate::stage::workload::Waits;
use crate::supervise::{self, Ended, Told};

/// How a container is run.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Start it and end.
    pub detach: bool,
    /// Leave what is kept of it when it has ended.
    pub keep: bool,
}

/// Creates and starts a container; returns its exit code, 0 with `detach`.
pub fn run(request: &CreateRequest, manner: Manner, note: impl Fn(&str)) -> Result<u8, CreateError> {
    if manner.detach {
        let containers = create::create(request, &note)?;
        if let Err(error) = containers.start(&request.id) {
            // The first error is what the caller can do something about.
            if let Err(left) = containers.delete(&request.id, true, &note) {
                note(&chain(&left));
            }
            return Err(error.into());
        }
        return Ok(0);
    }
    if request.console_socket.is_some() {
        return Err(CreateError::ConsoleInForeground);
    }
    let decided = decide(request, &note)?.runnable()?;
    let hooked = hooked(request, &decided);
    let pidfd = request.connect_pidfd()?;
    let containers = Containers::of(&decided.runtime);
    let place = containers.claim(request.id.clone())?;
    let notify = listen(&place);
    let mut kept = Kept::Unrecorded(place);
    let ended = notify.and_then(|notify| {
        see_through(&mut kept, request, &decided, &hooked, notify.as_ref(), pidfd.as_ref())
    });
    let is_gone = match kept {
        Kept::Unrecorded(place) => place.remove().map(|()| true),
        // Somebody else may have removed it, and made another of its name.
        Kept::Recorded(process) if ended.is_err() || !manner.keep => containers.forget(&request.id, process),
        Kept::Recorded(_) => Ok(false),
    };
    match (is_gone, &ended) {
        (Ok(true), _) => hooked.gone(note),
        (Ok(false), _) => {}
        (Err(left), Ok(_)) => return Err(left.into()),
        (Err(left), Err(_)) => note(&chain(&left)),
    }
    Ok(ended?.code)
}

fn listen(place: &Place) -> Result<Option<Notify>, CreateError> {
    notify::make_place(&place.path)?;
    Ok(Notify::listen(&place.path)?)
}

/// What is kept of the container.
enum Kept {
    Unrecorded(Place),
    /// Others may change it.
    Recorded(Process),
}

fn see_through(
    kept: &mut Kept,
    request: &CreateRequest,
    decided: &Decided,
    hooked: &Hooked,
    notify: Option<&Notify>,
    pidfd: Option<&PidfdSocket>,
) -> Result<Ended, CreateError> {
    let cgroup = match &*kept {
        Kept::Unrecorded(place) => cgroup::make(&decided.plan, &place.path)?,
        Kept::Recorded(_) => None,
    };
    let signals = supervise::take_signals()?;
    let privileged = decided.facts.caller.privileged;
    let prepared = prepared(request, decided, hooked, cgroup.as_ref(), Waits::ForMain);
    let asked = Asked::of(decided)?;
    let init = launch::init(prepared, privileged).map_err(RunError::from)?;
    let mut laid = asked.lay(decided, &init)?;
    let kept = RefCell::new(kept);
    let record = || {
        let mut kept = kept.borrow_mut();
        if let Some(socket) = pidfd {
            socket.send(&init.child, Whose::Container)?;
        }
        if let Kept::Unrecorded(place) = &**kept {
            let process = create::write(place, request, decided, &init)?;
            **kept = Kept::Recorded(process);
        }
        Ok(())
    };
    let told = Told { agent: decided.agent.as_ref(), created: Some(&record), hooked: Some(hooked), notify };
    match supervise::to_end(&init, laid.view(), told, &signals, None) {
        Ok(mut ended) => {
            if let Some(directory) = ended.upper.take() {
                laid.take_upper(directory);
            }
            laid.settle(decided)?;
            Ok(ended)
        }
        Err(error) => {
            supervise::end(&init);
            Err(laid.unfinished(error.into(), decided).into())
        }
    }
}
