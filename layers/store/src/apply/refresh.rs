//! A base after everything was taken back: files that went and came back are those that the command saw, with another ctime.

use std::collections::HashMap;
use std::path::PathBuf;

use super::journal::Work;
use super::snapshot::{Node, Since};
use crate::base::{Identity, Place};
use crate::store::{LayerStore, StoreError};

/// So that what was to be applied can be applied again: what came back since `began` (seconds, nanoseconds), as it was taken back. What
/// changed before that, and never went, somebody else has changed. One whose name is gone needs nothing.
pub(super) fn base(work: &Work, store: &LayerStore, began: (i64, u32)) -> Result<(), StoreError> {
    let Some(name) = &work.name else { return Ok(()) };
    let mut base = match store.base(name) {
        Err(StoreError::NoSuchName { .. }) | Ok(None) => return Ok(()),
        base => base?.expect("one that is none was seen to above"),
    };
    let moved: HashMap<PathBuf, &Node> = work
        .steps
        .iter()
        .flat_map(|step| {
            let top = work.parents[step.parent].path.join(&step.name);
            step.old.nodes.iter().map(move |node| (node.place(&top), node))
        })
        .collect();
    let mut has_changed = false;
    for seen in &mut base.seen {
        let Place::Host { path, was, changed: false } = &mut seen.place else { continue };
        let Some(node) = moved.get(path).filter(|node| node.is == *was) else { continue };
        if let Ok(stat) = rustix::fs::lstat(&*path)
            && node.is(&stat, Since::Renames)
        {
            let now = Identity::of(&stat);
            if now != *was && now.ctime >= began {
                (*was, has_changed) = (now, true);
            }
        }
    }
    if has_changed {
        store.set_name_with_base(name, &base)?;
    }
    Ok(())
}
