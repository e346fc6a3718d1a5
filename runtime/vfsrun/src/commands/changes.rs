//! `vfsrun changes`: what a captured layer does to what its command saw.

mod tree;

use serde_json::{Value, json};
use vfsrun_layers::base::{Base, Place, SeenKind};
use vfsrun_layers::changes::{self, Change};
use vfsrun_layers::{Kind, LayerStore, escape};

use super::{Failure, Outcome, apply, print, print_lines};
use crate::cli::Global;
use crate::{directories, probe};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    List,
    Tree,
    Json,
}

pub fn changes(name: &str, form: Form, global: &Global) -> Outcome {
    let store = directories::store(global.store.as_deref(), probe::caller().privileged)
        .map_err(|error| Failure::own(&error))?;
    let store = LayerStore::open(&store).map_err(|error| Failure::own(&error))?;
    apply::settle(&store)?;
    let base = base(&store, name)?;
    let layer = store.manifest(&base.layer).map_err(|error| Failure::own(&error))?;
    let changes = changes::changes(&layer, &base);
    if form == Form::Json {
        let objects: Vec<Value> = changes.iter().map(object).collect();
        return print(&serde_json::to_string_pretty(&objects).map_err(|error| Failure::own(&error))?);
    }
    match form {
        _ if changes.is_empty() => Ok(0),
        Form::Tree => print_lines(tree::lines(&changes)),
        _ => print_lines(changes.iter().map(line)),
    }
}

/// What the changes that `name` holds were made to. Errors: nobody knows, as no run gave the name.
pub fn base(store: &LayerStore, name: &str) -> Result<Base, Failure> {
    let base = store.base(name).map_err(|error| Failure::own(&error))?;
    base.ok_or_else(|| Failure {
        message: format!(
            "{name}: nothing is known of what it was made from: only a run that captures its layer records that, no import, tag or \
             recovery"
        ),
        code: 125,
    })
}

pub fn line(change: &Change<'_>) -> String {
    format!("{change}{}", note(change))
}

fn note(change: &Change<'_>) -> &'static str {
    if is_known(change) { "" } else { " (changed meanwhile by somebody else)" }
}

fn object(change: &Change<'_>) -> Value {
    let host = change.was().and_then(|was| match &was.place {
        Place::Host { path, .. } => Some(escape::shown_path(path.strip_prefix("/").unwrap_or(path))),
        _ => None,
    });
    json!({
        "path": escape::shown_path(change.path()),
        "change": change.name(),
        "was": change.was().map(|was| match was.kind {
            SeenKind::Directory => "directory",
            SeenKind::File => "file",
            SeenKind::Symlink => "symlink",
            SeenKind::Other => "other",
        }),
        "is": change.is().map(|is| match is.kind {
            Kind::Directory { .. } => "directory",
            Kind::File { .. } | Kind::HardLink { .. } => "file",
            Kind::Symlink { .. } => "symlink",
            Kind::Fifo | Kind::Device { .. } | Kind::Whiteout => "other",
        }),
        "host": host,
        "changedMeanwhile": !is_known(change),
    })
}

/// Whether what was there is known to be what the command saw.
pub fn is_known(change: &Change<'_>) -> bool {
    !matches!(change.was().map(|was| &was.place), Some(Place::Lost {} | Place::Host { changed: true, .. }))
}
