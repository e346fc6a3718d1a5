//! A pick: a person is asked about each change, hunk by hunk where it has some, in the words of `git add -p`.
//!
//! [`Sheet`] is what is asked about one change, and takes the answers; [`pick`] leads from one to the next.

mod sheet;

use std::io;
use std::path::Path;

use super::{Chosen, Form, Hunks, Item, LineKind, Patch, Review, ReviewError, Selection, Side, notes};
use crate::base::SeenKind;
use crate::changes::Change;
use crate::manifest::Kind;
use crate::{escape, order};

use self::sheet::{Sheet, Step};

/// With whom one talks.
pub trait Desk {
    fn line(&mut self, kind: LineKind, line: &[u8]) -> io::Result<()>;

    /// The answer, with or without a newline; `None` at the end of all answers.
    fn ask(&mut self, question: &str) -> io::Result<Option<String>>;
}

/// Asks about each change of `review`; what was answered before the end, or before `q`, counts. New directories come with what lies
/// in them, and with a directory that goes all that lay there.
///
/// Errors: a blob that is missing or damaged, and those of `desk`.
pub fn pick(review: &Review<'_>, context: usize, desk: &mut dyn Desk) -> Result<Selection, ReviewError> {
    let mut selection = Selection::default();
    let mut done: Option<&Path> = None;
    for (index, item) in review.items.iter().enumerate() {
        let path = item.change.path();
        if done.is_some_and(|dir| order::is_below(path, dir)) {
            continue;
        }
        let below =
            review.items[index + 1..].iter().take_while(|other| order::is_below(other.change.path(), path));
        let below: Vec<&Item<'_>> = below.collect();
        if is_way(item) && !below.is_empty() {
            tell_way(item, desk)?;
            continue;
        }
        let is_tree = is_tree(item);
        if is_tree {
            done = Some(path);
        }
        let step =
            ask_about(review, item, if is_tree { &below } else { &[] }, context, &mut selection, desk)?;
        if step == Step::Quit {
            break;
        }
    }
    Ok(selection)
}

/// A directory that is there before and after, or is new: others are asked about.
fn is_way(item: &Item<'_>) -> bool {
    match item.change {
        Change::Added(is) | Change::Modified { is, .. } => matches!(is.kind, Kind::Directory { .. }),
        _ => false,
    }
}

/// What takes all below it along.
fn is_tree(item: &Item<'_>) -> bool {
    match item.change {
        Change::Removed(was) => was.kind == SeenKind::Directory,
        Change::Replaced { .. } => true,
        _ => false,
    }
}

/// A new mode of a directory cannot be chosen without what lies there.
fn tell_way(item: &Item<'_>, desk: &mut dyn Desk) -> io::Result<()> {
    if let Change::Modified { .. } = item.change {
        let path = escape::shown_path(item.change.path());
        let line = format!(
            "{path}: its own mode and owner come only with all that changed in it: choose it by its path"
        );
        desk.line(LineKind::Note, line.as_bytes())?;
    }
    Ok(())
}

fn ask_about(
    review: &Review<'_>,
    item: &Item<'_>,
    below: &[&Item<'_>],
    context: usize,
    selection: &mut Selection,
    desk: &mut dyn Desk,
) -> Result<Step, ReviewError> {
    let (before, after) = (review.before(item), review.after(item)?);
    let hunks = hunks(item, &before, &after, context);
    let mut lines = Vec::new();
    let patch = Patch { form: Form::People, context, relative: None };
    patch.write_item(review, item, (&before, &after), &mut |kind, line| {
        lines.push((kind, line.to_vec()));
        Ok(())
    })?;
    if hunks.is_some() {
        lines.truncate(lines.iter().position(|(kind, _)| *kind == LineKind::Hunk).unwrap_or(lines.len()));
    }
    for other in below {
        lines.push((LineKind::Note, other.change.to_string().into_bytes()));
    }
    for (kind, line) in &lines {
        desk.line(*kind, line)?;
    }
    let mut sheet = Sheet::new(what(item), hunks, has_other_access(item));
    let step = sheet.fill(desk)?;
    if let Some(chosen) = sheet.chosen() {
        selection.take(item, chosen);
    }
    Ok(step)
}

/// Of a text that was there before and is there afterwards.
fn hunks<'a>(item: &Item<'_>, before: &'a Side, after: &'a Side, context: usize) -> Option<Hunks<'a>> {
    let (Side::File(old), Side::File(new), None) = (before, after, item.from) else { return None };
    let hunks = Hunks::new(old.text()?, new.text()?, context);
    (!hunks.hunks().is_empty()).then_some(hunks)
}

fn has_other_access(item: &Item<'_>) -> bool {
    let Change::Modified { was, is } = item.change else { return false };
    let access = was.access;
    let has_other_owner = (access.mode, access.uid, access.gid) != (is.meta.mode, is.meta.uid, is.meta.gid);
    has_other_owner || !notes::attributes(item).is_empty()
}

/// In a question after "Take".
fn what(item: &Item<'_>) -> [String; 2] {
    let path = escape::shown_path(item.change.path());
    let whole = match item.change {
        _ if item.from.is_some() => format!("the renaming to {path}"),
        Change::Added(_) => format!("the new {path}"),
        Change::Removed(_) => format!("the removal of {path}"),
        _ => format!("this change of {path}"),
    };
    [whole, path]
}

impl Selection {
    fn take(&mut self, item: &Item<'_>, chosen: Chosen) {
        if let Some(from) = item.from {
            self.chosen.insert(from.was.path.clone(), Chosen::Whole);
        }
        self.chosen.insert(item.change.path().to_owned(), chosen);
    }
}
