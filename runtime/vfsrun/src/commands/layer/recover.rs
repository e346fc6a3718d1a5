//! `vfsrun layer recover`: what actions wrote that could not be captured.

use vfsrun_layers::{Captured, Kept, LayerStore, Recovery, check_name};

use super::bytes;
use super::ls::since;
use crate::commands::{Failure, Outcome, print_lines};
use crate::log::note;
use crate::{own_ids, probe};

pub fn recover(store: &LayerStore, id: Option<&str>, how: Recovery<'_>, drop: Option<&str>) -> Outcome {
    // The files belong to ids that actions have.
    own_ids::enter(&probe::caller()).map_err(|error| Failure::own(&error))?;
    match (id, drop) {
        (Some(id), _) => capture(store, id, how),
        (None, Some(id)) => remove(store, id),
        (None, None) => list(store),
    }
}

fn list(store: &LayerStore) -> Outcome {
    let kept = store.kept().map_err(|error| Failure::own(&error))?;
    if kept.is_empty() {
        note("nothing is kept");
        return Ok(0);
    }
    let title = format!("{:<16} {:<11} {:>11}  {}", "ID", "AGE", "SIZE", "COMMAND: WHY");
    print_lines(std::iter::once(title).chain(kept.iter().map(line)))
}

fn line(kept: &Kept) -> String {
    let size = kept.bytes.map_or("unknown".to_owned(), bytes);
    let about = match &kept.record {
        Some(record) => format!("{}: {}", record.command.join(" "), record.why),
        None => "no record of it".to_owned(),
    };
    let state = match (kept.is_busy, kept.is_whole()) {
        (true, _) => " (being captured)",
        (false, true) => "",
        (false, false) => " (perhaps not whole)",
    };
    format!("{:<16} {:<11} {size:>11}  {about}{state}", kept.id, since(kept.since))
}

fn capture(store: &LayerStore, id: &str, how: Recovery<'_>) -> Outcome {
    how.name.map_or(Ok(()), check_name).map_err(|error| Failure::own(&error))?;
    let run = store.claim_kept(id).map_err(|error| Failure::own(&error))?;
    match run.record() {
        None => note(
            "there is no record of how it was to be captured: owners and times are taken as they are; if the machine has been \
             restarted since, files may lack content: look whether they are whole",
        ),
        Some(record) if !record.is_whole() => note(
            "the machine has been restarted since, and not all of it may have been on disk: look whether its files are \
             whole; only --name gives it a name",
        ),
        Some(_) => {}
    }
    let (captured, name) = run.capture(how, store).map_err(|error| Failure::own(&error))?;
    let Captured { digest, added, changed, removed, bytes: size, .. } = captured;
    note(&format!(
        "layer {}{digest}: +{added} ~{changed} -{removed}, {}",
        name.map(|name| format!("{name} ")).unwrap_or_default(),
        bytes(size)
    ));
    print_lines([digest.to_string()])
}

fn remove(store: &LayerStore, id: &str) -> Outcome {
    let run = store.claim_kept(id).map_err(|error| Failure::own(&error))?;
    run.remove().map_err(|error| Failure::own(&error))?;
    note(&format!("dropped {id}"));
    Ok(0)
}
