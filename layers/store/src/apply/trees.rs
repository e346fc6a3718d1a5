//! A tree that is to go: whether it is, as a whole, what the command saw.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::decide::{Decider, joined, name_of};
use super::snapshot::{Node, Snapshot, is_mounted, unknown_names};
use super::why::Why;
use crate::base::{Place, Seen, SeenKind};
use crate::fsat;

impl Decider<'_> {
    /// A directory that was seen whole, as it is to be found. Errors: the first path that is another one; what was not seen
    /// before all else.
    pub(super) fn tree(&mut self, at: usize, place: &Path) -> Result<Snapshot, (PathBuf, Why)> {
        let top = self.sights[at].path;
        let (mut nodes, mut first) = (Vec::new(), None);
        for (sight, index) in self.sights[at..self.sights[at].end].iter().zip(at..) {
            let Some(was) = sight.was else { continue };
            let below = sight.path.strip_prefix(top).unwrap_or(Path::new(""));
            match self.tree_node(index, was, &joined(place, below)) {
                Ok(node) => nodes.push(Node { path: below.to_owned(), ..node }),
                Err((path, why @ (Why::Exists | Why::Mounted))) => return Err((path, why)),
                Err(fault) => first = first.or(Some(fault)),
            }
        }
        first.map_or(Ok(Snapshot { nodes }), Err)
    }

    fn tree_node(&mut self, at: usize, was: &Seen, place: &Path) -> Result<Node, (PathBuf, Why)> {
        let path = self.sights[at].path;
        let fault = |why| (path.to_owned(), why);
        // Of directories that lie over one another a part would stay.
        let is_elsewhere = match &was.place {
            _ if self.options.to.is_some() => false,
            Place::Host { path, .. } => path != place,
            Place::Fixed { name, .. } => return Err(fault(Why::Fixed { branch: name.clone() })),
            Place::Lost {} => return Err(fault(Why::Lost)),
        };
        if is_elsewhere {
            return Err(fault(Why::Directory { path: place.parent().unwrap_or(place).to_owned() }));
        }
        let found = self.look.at(place).map_err(fault)?;
        let looks = |errno| fault(Why::Failed { attempt: "look at", errno });
        if found.stat.is_some() && is_mounted(found.dir.as_fd(), &found.name).map_err(looks)? {
            return Err(fault(Why::Mounted));
        }
        let is_directory = found.kind() == Some(FileType::Directory);
        if was.kind == SeenKind::Directory && is_directory {
            let failed = |errno| fault(Why::Failed { attempt: "list", errno });
            let dir = fsat::open_dir(&*found.dir, &found.name).map_err(failed)?;
            let seen: BTreeSet<&OsStr> = self
                .children(at)
                .filter(|child| self.sights[*child].was.is_some())
                .map(|child| name_of(&self.sights[child]))
                .collect();
            if let Some(name) = unknown_names(&dir, &seen).map_err(failed)?.into_iter().next() {
                return Err((path.join(name), Why::Exists));
            }
        }
        self.known(&found, was, None).map_err(fault)
    }
}
