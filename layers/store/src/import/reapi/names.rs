//! How many names the messages stand for, found out before any name is made.

use std::collections::HashMap;
use std::path::PathBuf;

use super::messages::{NodeKind, Part, parts};
use super::{Messages, Pending, ReapiError, shown};
use crate::import::ImportOptions;

/// A directory on the way down.
struct Open {
    directory: Pending,
    /// Directories in it that are not counted yet, each with its name alone: a path can be long, and they can be many.
    below: Vec<Pending>,
    names: u64,
}

/// Each directory is read and counted once, however many it is in, so that a bomb is found out as fast as it is read.
///
/// Errors: there are more than the limit, or deeper ones; more bytes of messages than the limit of words; a message that is missing
/// or refused.
pub(super) fn check(root: &[u8], messages: &Messages<'_>, options: &ImportOptions) -> Result<(), ReapiError> {
    let mut counter = Counter { options, known: HashMap::new(), left: options.max_words };
    let root = counter.open(Pending { path: PathBuf::new(), hash: String::new(), size: 0 }, root)?;
    let mut way = vec![root];
    while let Some(last) = way.last_mut() {
        if last.names > options.max_entries {
            return Err(ReapiError::TooManyEntries { limit: options.max_entries });
        }
        let Some(mut next) = last.below.pop() else {
            let Some(Open { directory, names, .. }) = way.pop() else { break };
            if let Some(above) = way.last_mut() {
                above.names = above.names.saturating_add(names);
            }
            counter.known.insert((directory.hash, directory.size), names);
            continue;
        };
        match counter.known.get(&(next.hash.clone(), next.size)) {
            Some(names) => last.names = last.names.saturating_add(*names),
            None => {
                next.path = last.directory.path.join(next.path);
                if way.len() > options.max_depth {
                    return Err(ReapiError::Depth { path: shown(&next.path), limit: options.max_depth });
                }
                let message = messages.get(&next, counter.left)?;
                way.push(counter.open(next, &message)?);
            }
        }
    }
    Ok(())
}

struct Counter<'a> {
    options: &'a ImportOptions,
    /// By digest and size.
    known: HashMap<(String, u64), u64>,
    /// Bytes that messages may have.
    left: u64,
}

impl Counter<'_> {
    fn open(&mut self, directory: Pending, message: &[u8]) -> Result<Open, ReapiError> {
        self.left = self.left.checked_sub(message.len() as u64).ok_or(ReapiError::TooManyWords)?;
        let mut below = Vec::new();
        // Its own.
        let mut names = 1;
        for part in parts(message) {
            let part = part.map_err(|fault| ReapiError::Message { path: shown(&directory.path), fault })?;
            match part {
                Part::Node(node) => match node.kind {
                    NodeKind::Directory { message } => {
                        below.push(Pending::of(node.name.into(), message));
                    }
                    NodeKind::File { .. } | NodeKind::Symlink { .. } => names += 1,
                },
                Part::Properties(_) => {}
            }
            if names + below.len() as u64 > self.options.max_entries {
                return Err(ReapiError::TooManyEntries { limit: self.options.max_entries });
            }
        }
        Ok(Open { directory, below, names })
    }
}
