//! `vfsrun diff`: what a captured layer changes of what its command saw, with contents.

pub mod conflicts;
mod json;
mod pager;
mod stat;

use std::io::{self, IsTerminal};

use vfsrun_layers::review::{Form, Patch, Review, ReviewError, half_chosen};
use vfsrun_layers::{Base, LayerStore, Manifest, escape};

use self::pager::Pager;
use super::paint::Paint;
use super::pick::pick;
use super::places::{self, Places};
use super::{Failure, Outcome, apply, changes, print, print_lines};
use crate::cli::{Diff, Global};
use crate::log::note;
use crate::{directories, probe};

pub fn diff(arguments: &Diff, global: &Global) -> Outcome {
    let store = directories::store(global.store.as_deref(), probe::caller().privileged)
        .map_err(|error| Failure::own(&error))?;
    let store = LayerStore::open(&store).map_err(|error| Failure::own(&error))?;
    apply::settle(&store)?;
    let base = changes::base(&store, &arguments.name)?;
    let layer = store.manifest(&base.layer).map_err(|error| Failure::own(&error))?;
    match show(arguments, &store, &layer, &base) {
        Err(Stop::Read(error)) if is_unread(&error) => Ok(0),
        Err(Stop::Read(error)) => Err(Failure::own(&error)),
        Err(Stop::Failed(failure)) => Err(failure),
        Ok(code) => Ok(code),
    }
}

/// What ends it early.
enum Stop {
    Read(ReviewError),
    Failed(Failure),
}

impl<E: Into<ReviewError>> From<E> for Stop {
    fn from(error: E) -> Stop {
        Stop::Read(error.into())
    }
}

fn show(arguments: &Diff, store: &LayerStore, layer: &Manifest, base: &Base) -> Result<u8, Stop> {
    let places =
        Places::new(&arguments.paths, layer, base).map_err(|error| Stop::Failed(Failure::own(&error)))?;
    for path in places.unknown() {
        note(&format!("{}: nothing changed there", path.display()));
    }
    // Before there are threads.
    let pager = is_paged(arguments).then(Pager::prepare);
    // Who is asked is asked about each side of a renaming.
    let renames = !arguments.no_renames && !arguments.conflicts && !arguments.pick;
    let review = Review::new(store, layer, base, |path| places.has(base, path), renames)?;
    if !arguments.pick {
        return present(arguments, &review, pager);
    }
    let selection = pick(&review, arguments.context, arguments.color)?;
    // The halves that are put are needed to the end.
    let _adding = store.adding()?;
    let chosen = half_chosen(store, layer, base, &selection)?;
    let review = Review::new(store, &chosen, base, |path| selection.has(path), renames)?;
    present(arguments, &review, pager)
}

fn present(arguments: &Diff, review: &Review<'_>, pager: Option<Pager>) -> Result<u8, Stop> {
    let told = || review.told().map(|item| escape::shown_path(item.change.path()));
    let code = u8::from(arguments.exit_code && !review.items.is_empty());
    if arguments.json {
        let array = json::array(review, arguments.context)?;
        print(&serde_json::to_string_pretty(&array).map_err(io::Error::from)?).map_err(Stop::Failed)?;
        return Ok(code);
    }
    if review.items.is_empty() {
        return Ok(code);
    }
    if arguments.name_only {
        print_lines(told()).map_err(Stop::Failed)?;
        return Ok(code);
    }
    let mut pager = pager.map(Pager::start).transpose()?;
    let mut paint = paint(arguments, pager.as_mut());
    let written = write(arguments, review, &mut paint);
    // The pager waits for the end.
    drop(paint);
    if let Some(pager) = pager {
        pager.wait();
    }
    Ok(code.max(written?))
}

/// Returns the exit status.
fn write(arguments: &Diff, review: &Review<'_>, paint: &mut Paint) -> Result<u8, Stop> {
    if arguments.stat {
        stat::write(review, paint)?;
    } else if arguments.conflicts {
        conflicts::write(review, arguments.context, paint)?;
    } else {
        let relative = match (arguments.git, &arguments.relative) {
            (true, Some(dir)) => {
                Some(places::host_dir(dir).map_err(|error| Stop::Failed(Failure::own(&error)))?)
            }
            (true, None) => places::common_dir(review),
            _ => None,
        };
        let form = if arguments.git { Form::Git } else { Form::People };
        let patch = Patch { form, context: arguments.context, relative };
        let missing = patch.write(review, &mut |kind, line| paint.line(kind, line))?;
        paint.flush()?;
        missing.iter().for_each(|missing| note(missing));
        return Ok(u8::from(!missing.is_empty()));
    }
    paint.flush()?;
    Ok(0)
}

fn is_paged(arguments: &Diff) -> bool {
    let is_for_programs = arguments.json || arguments.name_only || arguments.no_pager || arguments.pick;
    !is_for_programs && io::stdout().is_terminal()
}

fn paint(arguments: &Diff, pager: Option<&mut Pager>) -> Paint {
    let out: Box<dyn io::Write> = match pager.and_then(Pager::input) {
        Some(input) => Box::new(input),
        None => Box::new(io::stdout()),
    };
    Paint::new(out, arguments.color, io::stdout().is_terminal())
}

/// Whether nobody reads any more (`| head`, a pager that was left).
fn is_unread(error: &ReviewError) -> bool {
    matches!(error, ReviewError::Write(error) if error.kind() == io::ErrorKind::BrokenPipe)
}
