//! Committing: names are exchanged, one after the other, and what came out of each is looked at once more. Only what is still as the
//! command saw it is done away with.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::journal::Work;
use super::put_back::Place;
use super::snapshot::{Difference, Node, Since};
use super::stage::open_staging;
use super::step::{Act, Step};
use super::why::Why;
use super::{ApplyError, Notes};

/// By the positions of steps that were taken back.
pub(super) type Refused = BTreeMap<usize, Why>;

/// Does all steps but those of directories that stay, which are done when nothing else is in them.
pub(super) fn commit(
    work: &Work,
    progress: &(dyn Fn(usize) + Sync),
    notes: &mut Notes,
) -> Result<Refused, ApplyError> {
    let mut touched = HashSet::new();
    each(work, |place, _, step| {
        progress(1);
        let done = exchange(place, step, &mut touched)?;
        done.map_or_else(|why| Ok(Some(why)), |()| came_out(place, step, notes))
    })
}

/// Whoever had a file open when it was exchanged, or was about to open it, may have written to it since.
pub(super) fn look_again(work: &Work, refused: &mut Refused, notes: &mut Notes) -> Result<(), ApplyError> {
    let more = each(
        work,
        |place, at, step| {
            if refused.contains_key(&at) { Ok(None) } else { came_out(place, step, notes) }
        },
    )?;
    refused.extend(more);
    Ok(())
}

/// Calls `act` for every step that has a name in a staging directory.
fn each(
    work: &Work,
    mut act: impl FnMut(&Place<'_>, usize, &Step) -> Result<Option<Why>, ApplyError>,
) -> Result<Refused, ApplyError> {
    let mut refused = Refused::new();
    let mut open: Option<(usize, OwnedFd, OwnedFd)> = None;
    for (at, step) in work.steps.iter().enumerate().filter(|(_, step)| step.is_staged()) {
        let parent = &work.parents[step.parent];
        if open.as_ref().is_none_or(|(number, ..)| *number != step.parent) {
            let dir = parent.open().map_err(ApplyError::io("open the directory", parent.path.clone()))?;
            open = Some((step.parent, dir, open_staging(parent, &work.staging())?));
        }
        let (_, dir, staging) = open.as_ref().expect("each: opened just above");
        let place = Place { dir, staging, path: &parent.path };
        if let Some(why) = act(&place, at, step)? {
            refused.insert(at, why);
        }
    }
    Ok(refused)
}

/// Gives what was staged its place, if what is there is what is to be there.
fn exchange(
    place: &Place<'_>,
    step: &Step,
    touched: &mut HashSet<(u64, u64)>,
) -> Result<Result<(), Why>, ApplyError> {
    let (dir, staging, slot) = (place.dir, place.staging, step.slot());
    if let Err(why) = is_to_go(place, step, touched) {
        return Ok(Err(why));
    }
    let rename = |how| rustix::fs::renameat_with(staging, &slot, dir, step.name(), how);
    let renamed = match step.act {
        Act::Add => rename(RenameFlags::NOREPLACE),
        Act::Exchange => rename(RenameFlags::EXCHANGE),
        Act::Remove => rustix::fs::renameat_with(dir, step.name(), staging, &slot, RenameFlags::NOREPLACE),
        Act::Access { .. } => Ok(()),
    };
    touched.extend(step.old.top().map(Node::file));
    let failed = |errno| Ok(Err(Why::Failed { attempt: "rename", errno }));
    match renamed {
        Ok(()) => Ok(Ok(())),
        Err(Errno::EXIST) => Ok(Err(Why::Exists)),
        Err(Errno::NOENT) => Ok(Err(Why::Gone)),
        // A mount point, an immutable file, a lower directory of an overlay, a directory that its owner may not write.
        Err(errno @ (Errno::BUSY | Errno::PERM | Errno::XDEV | Errno::ACCESS)) => failed(errno),
        Err(errno) => Err(ApplyError::io("rename a name in", place.path)(errno)),
    }
}

/// Whether what is there is what is to go. A file that had another name has another ctime since that one went.
fn is_to_go(place: &Place<'_>, step: &Step, touched: &HashSet<(u64, u64)>) -> Result<(), Why> {
    let dir = place.dir;
    let was_touched = |path: &Path| {
        let mut nodes = step.old.nodes.iter();
        nodes.any(|node| node.path == path && touched.contains(&node.file()))
    };
    let differences = step.old.differences(dir.as_fd(), step.name(), Since::Nothing);
    let (renamed, others): (Vec<_>, Vec<_>) = differences
        .into_iter()
        .partition(|(path, difference)| *difference == Difference::Changed && was_touched(path));
    let others = match renamed.is_empty() {
        true => others,
        false => {
            step.old.differences(dir.as_fd(), step.name(), Since::Renames).into_iter().chain(others).collect()
        }
    };
    let first = others.into_iter().next();
    first.map_or(Ok(()), |(path, difference)| Err(Why::below(&step.path, &path, difference)))
}

/// What lay there before lies in the staging directory by now. If it is another thing than was to be there it goes back.
fn came_out(place: &Place<'_>, step: &Step, notes: &mut Notes) -> Result<Option<Why>, ApplyError> {
    if step.act == Act::Add {
        return Ok(None);
    }
    match step.old.check(place.staging, step.slot().as_ref(), Since::Renames) {
        Ok(()) => Ok(None),
        Err((path, difference)) => {
            place.put_back(step, notes).map_err(ApplyError::io("put back a name in", place.path))?;
            Ok(Some(Why::below(&step.path, &path, difference)))
        }
    }
}
