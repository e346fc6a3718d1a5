//! Contents: what files and symlinks held when the command saw them, where they are compared with others than themselves.

use super::look::{Content, Look};
use crate::base::{Base, Place, Seen};
use crate::manifest::{Kind, Manifest};
use crate::order;
use crate::store::LayerStore;

pub(super) struct Contents {
    look: Look,
    /// What was kept of the host's files when they were seen.
    kept: Option<Manifest>,
}

impl Contents {
    /// What cannot be read is not known.
    pub fn new(store: &LayerStore, base: &Base) -> Contents {
        let kept = base.contents.and_then(|kept| store.manifest(&kept).ok());
        Contents { look: Look::default(), kept }
    }

    /// `None` if nobody knows.
    pub fn of(&mut self, was: &Seen) -> Option<Content> {
        match &was.place {
            Place::Fixed { content, .. } => content.map(Content::File),
            Place::Lost {} => None,
            // So long as it has not changed it is read where it was seen.
            Place::Host { path, .. } => {
                let found = self.look.at(path).ok().filter(|found| found.known(was).is_ok());
                found.and_then(|found| found.content()).or_else(|| self.kept(was))
            }
        }
    }

    fn kept(&self, was: &Seen) -> Option<Content> {
        let kept = self.kept.as_ref()?;
        let found = kept.entries.binary_search_by(|entry| order::compare(&entry.path, &was.path)).ok()?;
        match &kept.file(&kept.entries[found]).kind {
            Kind::File { digest, .. } => Some(Content::File(*digest)),
            Kind::Symlink { target } => Some(Content::Link(target.clone())),
            _ => None,
        }
    }
}
