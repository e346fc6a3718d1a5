//! `vfsrun apply`: what a run's layer changes, brought to the files that it was made from.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vfsrun_layers::apply::{Applied, Item, Options, Outcome as Fate, Plan, Sort, UNDO, choose};
use vfsrun_layers::review::{Review, ReviewError, half_chosen};
use vfsrun_layers::{Base, LayerStore, Manifest, StoreError, escape};

use super::changes::base;
use super::diff::conflicts;
use super::paint::Paint;
use super::pick::pick;
use super::places::Places;
use super::{Failure, Outcome, print, print_lines};
use crate::cli::{Apply, Global, When};
use crate::log::note;
use crate::progress::Progress;
use crate::{directories, probe};

/// Lines around a hunk.
const CONTEXT: usize = 3;
/// Conflicts that are shown with their contents.
const SHOWN: usize = 10;

pub fn apply(command: &Apply, global: &Global) -> Outcome {
    let own = |error: &dyn std::error::Error| Failure::own(error);
    let store = directories::store(global.store.as_deref(), probe::caller().privileged)
        .map_err(|error| own(&error))?;
    let store = LayerStore::open(&store).map_err(|error| own(&error))?;
    settle(&store)?;
    let name = command.name.as_deref().unwrap_or(UNDO);
    if command.undo && !has(&store, UNDO)? {
        let message = "nothing was applied yet that could be taken back".into();
        return Err(Failure { message, code: 125 });
    }
    let base = base(&store, name)?;
    let hold = store.hold(&base.layer).map_err(|error| own(&error))?;
    let mut layer = store.manifest(&base.layer).map_err(|error| own(&error))?;
    if !command.paths.is_empty() {
        layer = chosen(&layer, &base, name, &command.paths)?;
    }
    // The halves of files that are chosen are needed to the end.
    let adding = command.patch.then(|| store.adding()).transpose().map_err(|error| own(&error))?;
    if command.patch {
        layer = picked(&store, &layer, &base).map_err(|error| own(&error))?;
    }
    let to = command.to.as_deref().map(resolved).transpose()?;
    let named = command.to.is_none().then(|| name.to_owned());
    let options = Options { to, whole: command.whole, name: named };
    let shown = layer.clone();
    let plan = Plan::new(&store, layer, &base, options);
    if command.dry_run {
        return print_dry(command, plan.items());
    }
    let progress = Progress::of_names("applying");
    let applied = plan.apply(&|steps| progress.add(steps));
    progress.end();
    drop((hold, adding));
    let applied = applied.map_err(|error| own(&error))?;
    tell(&applied.notes.0);
    let is_refused = tell_conflicts(&applied.items);
    if is_refused && !command.json && command.to.is_none() {
        show_conflicts(&store, &shown, &base, &applied).map_err(|error| own(&error))?;
    }
    report(command, &applied, is_refused)
}

/// What lies at `paths`, in the root or on the host.
fn chosen(layer: &Manifest, base: &Base, name: &str, paths: &[PathBuf]) -> Result<Manifest, Failure> {
    let places = Places::new(paths, layer, base).map_err(|error| Failure::own(&error))?;
    let unknown: Vec<_> = places.unknown().map(|path| path.display().to_string()).collect();
    if !unknown.is_empty() {
        let message = format!("{name} changes nothing at {}", unknown.join(", "));
        return Err(Failure { message, code: 125 });
    }
    let all = layer.entries.iter().map(|entry| &entry.path).chain(base.seen.iter().map(|seen| &seen.path));
    let paths: Vec<PathBuf> = all.filter(|path| places.has(base, path)).cloned().collect();
    choose(layer, base, &paths).map_err(|error| Failure::own(&error))
}

/// Those of the changes, and of each the hunks, that the user says yes to.
fn picked(store: &LayerStore, layer: &Manifest, base: &Base) -> Result<Manifest, ReviewError> {
    let review = Review::new(store, layer, base, |_| true, false)?;
    let selection = pick(&review, CONTEXT, When::Auto)?;
    let half = half_chosen(store, layer, base, &selection)?;
    let paths: Vec<_> = selection.chosen.into_keys().collect();
    choose(&half, base, &paths).map_err(|source| StoreError::InvalidLayer { source }.into())
}

/// On stderr, both sides of what was left alone as somebody has changed it.
fn show_conflicts(
    store: &LayerStore,
    layer: &Manifest,
    base: &Base,
    applied: &Applied,
) -> Result<(), ReviewError> {
    let paths: BTreeSet<&Path> = applied.conflicts().map(|item| item.path.as_path()).take(SHOWN).collect();
    if paths.is_empty() {
        return Ok(());
    }
    let review = Review::new(store, layer, base, |path| paths.contains(path), false)?;
    let mut paint = Paint::new(Box::new(io::stderr()), When::Auto, io::stderr().is_terminal());
    conflicts::write(&review, CONTEXT, &mut paint)?;
    Ok(paint.flush()?)
}

/// Completes, or takes back, what one that was killed had begun, before anybody looks at the files of the host.
pub fn settle(store: &LayerStore) -> Result<(), Failure> {
    tell(&store.settle_applies().map_err(|error| Failure::own(&error))?.0);
    Ok(())
}

fn has(store: &LayerStore, name: &str) -> Result<bool, Failure> {
    let names = store.names().map_err(|error| Failure::own(&error))?;
    Ok(names.iter().any(|(known, _)| known == name))
}

fn resolved(to: &Path) -> Result<PathBuf, Failure> {
    std::fs::canonicalize(to)
        .map_err(|error| Failure { message: format!("cannot open {}: {error}", to.display()), code: 125 })
}

fn print_dry(command: &Apply, items: &[Item]) -> Outcome {
    let is_refused = tell_conflicts(items);
    if command.json {
        print_json(items, "would be applied")?;
    } else if items.iter().any(|item| matches!(item.outcome, Fate::Done(_))) {
        print_lines(items.iter().filter(|item| matches!(item.outcome, Fate::Done(_))).map(line))?;
    }
    Ok(u8::from(is_refused))
}

fn report(command: &Apply, applied: &Applied, is_refused: bool) -> Outcome {
    let is_hindered = command.whole && is_refused;
    if command.json {
        print_json(&applied.items, if is_hindered { "not applied" } else { "applied" })?;
    }
    let (done, already) = (applied.applied(), applied.already());
    let refused = applied.conflicts().count();
    if is_hindered {
        note(&format!("nothing applied, as {refused} refused"));
    } else {
        note(&format!("{done} applied, {already} already so, {refused} refused"));
    }
    Ok(u8::from(is_refused))
}

fn tell(notes: &[String]) {
    notes.iter().for_each(|text| note(text));
}

/// Whether there are some.
fn tell_conflicts(items: &[Item]) -> bool {
    let mut is_refused = false;
    for item in items {
        if let Fate::Conflict(why) = &item.outcome {
            is_refused = true;
            note(&format!("{}: {why}", escape::shown_path(&item.path)));
        }
    }
    is_refused
}

/// As `vfsrun changes` prints it.
fn line(item: &Item) -> String {
    let sign = match item.change {
        Sort::Added => '+',
        Sort::Removed => '-',
        Sort::Replaced => '!',
        Sort::Modified => '~',
    };
    let slash = if item.is_directory { "/" } else { "" };
    format!("{sign} {}{slash}", escape::shown_path(&item.path))
}

fn print_json(items: &[Item], done: &str) -> Outcome {
    let objects: Vec<Value> = items.iter().map(|item| object(item, done)).collect();
    print(&serde_json::to_string_pretty(&objects).map_err(|error| Failure::own(&error))?)
}

fn object(item: &Item, done: &str) -> Value {
    let change = match item.change {
        Sort::Added => "added",
        Sort::Removed => "removed",
        Sort::Replaced => "replaced",
        Sort::Modified => "modified",
    };
    let (outcome, reason) = match &item.outcome {
        Fate::Done(_) => (done, None),
        Fate::Already => ("already", None),
        Fate::Conflict(why) => ("conflict", Some(why.to_string())),
    };
    let host = item.host.as_ref().map(|host| escape::shown_path(host.strip_prefix("/").unwrap_or(host)));
    json!({
        "path": escape::shown_path(&item.path),
        "change": change,
        "outcome": outcome,
        "reason": reason,
        "host": host,
    })
}
