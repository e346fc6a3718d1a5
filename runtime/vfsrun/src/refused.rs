//! A result that is not to be relied on: what was written is no layer, but it may be somebody's work, so it is kept without a
//! name if it was to be captured.

use vfsrun_fuse::Visit;
use vfsrun_plan::Plan;
use vfsrun_sys::chain;

use crate::run::{RunError, changed};
use crate::upper::Upper;

/// Whoever was told of an error because of a fault may have gone on as if that were true.
pub fn refuse(visit: &Visit, strict: bool, plan: &Plan, upper: Option<&Upper>) -> Result<(), RunError> {
    let refused = if !visit.faults.is_empty() {
        RunError::Faults { faults: visit.faults.clone(), kept: None }
    } else if strict && !visit.changed.is_empty() {
        RunError::InputsChanged { changed: changed(visit), kept: None }
    } else {
        return Ok(());
    };
    let upper = upper.filter(|_| plan.capture.is_some());
    let kept = upper.and_then(|upper| upper.keep(plan, refused.to_string(), None));
    Err(match refused {
        RunError::Faults { faults, .. } => RunError::Faults { faults, kept },
        RunError::InputsChanged { changed, .. } => RunError::InputsChanged { changed, kept },
        other => other,
    })
}

/// The same of an action that was not seen to its end. Nothing may be mounted on its upper any more. Returns why the run fails.
pub fn unfinished(error: RunError, plan: &Plan, upper: Option<Upper>) -> RunError {
    let Some(upper) = upper else { return error };
    let was_started = match &error {
        RunError::NotStarted { .. } => false,
        RunError::Supervise(error) => !error.is_before_command(),
        _ => true,
    };
    if was_started
        && plan.capture.is_some()
        && !upper.is_empty()
        && let Some(kept) = upper.keep(plan, chain(&error), None)
    {
        return RunError::Unfinished { kept, source: Box::new(error) };
    }
    if let Err(left) = upper.discard() {
        tracing::debug!(error = chain(&left), "what was written is left to the next sweep");
    }
    error
}
