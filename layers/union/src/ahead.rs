//! Looking ahead: what a listing and a look-up would find, worked out before anybody asks. Nothing of it is noted or kept
//! here, so that a name that nobody asks for then leaves no trace.

use std::ffi::OsStr;
use std::sync::Arc;

use rustix::io::Errno;

use crate::attr::{Attr, DirEntry, FileKind};
use crate::branch::Content;
use crate::describe::{Symlinks, Whiteouts};
use crate::host;
use crate::list::{Name, host_names};
use crate::merge::{Found, Merge};
use crate::node::{Key, Node};
use crate::origin::{Origin, Place};
use crate::resolve::ViewLinks;
use crate::segment::{Lookups, Segment};

/// What a name was when somebody looked ahead.
#[derive(Debug)]
pub struct Glimpse(Found);

impl Segment {
    /// The names of a directory, as [`Segment::list`] would say them. `None` if there are more than
    /// `most`, or if there is more to it than one branch's names.
    pub fn list_ahead(&self, dir: &Arc<Node>, most: usize) -> Option<Vec<DirEntry>> {
        let origin = self.only_origin(dir)?;
        let branch = self.branch(origin.branch);
        let names = match (&origin.place, &branch.content) {
            (Place::Host(anchor), Content::Host(_)) => {
                let open = self.lookups(dir).dirs.open(self, dir, &origin).ok()?;
                host_names(branch, anchor.high_half(dir), host::read_dir(&open, most).ok()?)
            }
            (Place::Entry(at), Content::Layer(layer)) => {
                let children = layer.layer.children(*at);
                let children = (children.len() <= most).then_some(children)?;
                children.into_iter().map(|child| self.layer_name(&origin, branch, child)).collect()
            }
            _ => return None,
        };
        let entry = |(place, name): (usize, Name)| {
            let kind = name.known_kind()?;
            Some((place, self.dir_entry(dir, &name, kind)))
        };
        let entries = names.into_iter().enumerate().map(entry).collect::<Option<Vec<_>>>()?;
        Some(self.in_order(dir, entries))
    }

    /// The node of a name that somebody holds.
    pub fn held(&self, dir: &Node, name: &OsStr) -> Option<Arc<Node>> {
        self.table.get(Key::name(dir, name))
    }

    /// Where nothing but one branch decides about the names of a directory, and does so without waiting.
    fn only_origin(&self, dir: &Node) -> Option<Origin> {
        let origins = dir.origins();
        let [origin] = &*origins else { return None };
        let is_plain = !self.has_rules
            && !self.has_priorities
            && self.branch(origin.branch).whiteouts == Whiteouts::None
            && !self.may_wait(dir);
        (is_plain && dir.kind() == FileKind::Directory).then(|| origin.clone())
    }
}

impl Lookups<'_> {
    /// What [`Lookups::lookup`] would find. `None`: it has to be asked.
    pub fn glimpse(&self, name: &OsStr) -> Option<Glimpse> {
        let Lookups { segment, dir, dirs } = self;
        let origin = segment.only_origin(dir)?;
        let asked = segment.ask(dirs, dir, name, ViewLinks::Keep).ok()?;
        let candidate = segment.step(&asked, &origin).ok()??;
        let may_be_followed = candidate.seen.attr.kind == FileKind::Symlink
            && segment.branch(origin.branch).symlinks != Symlinks::Never;
        if may_be_followed {
            return None;
        }
        let mut merge = Merge::new(segment.types, segment.policy);
        merge.add(candidate, &mut |_| {});
        merge.finish(dir.follows).ok().map(Glimpse)
    }

    /// As [`Lookups::lookup`] of the name, which was this a moment ago.
    pub fn give_out(&self, name: &OsStr, glimpse: Glimpse) -> Result<(Arc<Node>, Attr), Errno> {
        self.give(name, glimpse.0)
    }
}
