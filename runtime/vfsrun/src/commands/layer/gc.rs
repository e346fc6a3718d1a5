//! `vfsrun layer gc`: what has expired, and what nothing needs, is removed.

use vfsrun_layers::{Collected, Expired, Expiry, LayerStore, Really, Why};
use vfsrun_sys::chain;

use super::bytes;
use super::ls::since;
use crate::commands::{Failure, Outcome, print_lines};
use crate::log::note;
use crate::{own_ids, probe};

pub fn gc(store: &LayerStore, dry_run: bool, days: Option<u64>, room: Option<u64>) -> Outcome {
    let said = store.expiry().map_err(|error| Failure::own(&error))?;
    let expiry = Expiry { age: days.map_or(said.age, Expiry::days), bytes: room.unwrap_or(said.bytes) };
    // Without them the store's layers can be collected all the same, and what cannot be swept is told.
    if let Err(error) = own_ids::enter(&probe::caller()) {
        tracing::debug!(error = chain(&error), "what actions left is swept with the caller's ids alone");
    }
    let really = if dry_run { Really::DryRun } else { Really::Do };
    let done = store.collect(&expiry, really).map_err(|error| Failure::own(&error))?;
    if !done.layers.is_empty() {
        print_lines(done.layers.iter().map(line))?;
    }
    tell(&done, dry_run);
    match store.kept_count() {
        Ok(0) => {}
        Ok(kept) => note(&format!(
            "{kept} uppers that could not be captured are kept: `vfsrun layer recover` lists them"
        )),
        // What was to be done is done.
        Err(error) => note(&format!("uppers that are kept cannot be counted: {}", chain(&error))),
    }
    Ok(0)
}

fn line(layer: &Expired) -> String {
    let why = match layer.why {
        Why::Age => "expired",
        Why::Room => "no room",
    };
    format!("{}  {why}, used {}", layer.digest, since(layer.last_used))
}

fn tell(done: &Collected, dry_run: bool) {
    let would = if dry_run { "would remove" } else { "removed" };
    let (layers, blobs, freed) = (done.layers.len(), done.blobs, bytes(done.bytes));
    note(&format!("{would} {layers} layers and {blobs} blobs, {freed} given back"));
    let swept = done.swept.runs + done.swept.scratch;
    if swept > 0 {
        note(&format!("{would} {swept} directories of dead processes"));
    }
    if let Some(error) = &done.not_swept {
        note(&format!("directories of dead processes are left: {}", chain(error)));
    }
    if done.young + done.in_use > 0 {
        note(&format!("{} layers without a name stay, and {} that are in use", done.young, done.in_use));
    }
}
