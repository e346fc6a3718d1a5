//! Judging: under which paths the rules see a name. Below a followed link it has two, and both must be shown.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::branch::{Branch, Content};
use crate::node::Node;
use crate::origin::{Origin, Place};
use crate::resolve::{Asked, Candidate};
use crate::rules::{Judged, Verdict};
use crate::segment::Segment;

impl Segment {
    /// The rules' answer for the name itself and, if a link was followed within the branch, for where it led.
    pub(crate) fn judge(
        &self,
        asked: &Asked,
        found: &Candidate,
        ask: impl Fn(&Judged) -> Verdict,
    ) -> Verdict {
        match &asked.path {
            Some(path) => self.judge_paths(&found.origin, path, self.path_in_branch(asked, found), ask),
            None => Verdict::Show,
        }
    }

    /// `path` is relative to the view, `in_branch` to the branch's place; the second counts if it leads elsewhere.
    pub(crate) fn judge_paths(
        &self,
        origin: &Origin,
        path: &Path,
        in_branch: Option<PathBuf>,
        ask: impl Fn(&Judged) -> Verdict,
    ) -> Verdict {
        let branch = self.branch(origin.branch);
        let verdict = self.judge_in_view(branch, path, &ask);
        let other = in_branch.map(|in_branch| in_view(branch, &in_branch));
        match other.filter(|other| other != path) {
            Some(other) => verdict.or(self.judge_in_view(branch, &other, ask)),
            None => verdict,
        }
    }

    /// The rules' answer for a path of the branch, wherever links lead there from.
    pub(crate) fn judge_in_branch(
        &self,
        branch: &Branch,
        path: &Path,
        ask: impl Fn(&Judged) -> Verdict,
    ) -> Verdict {
        self.judge_in_view(branch, &in_view(branch, path), ask)
    }

    fn judge_in_view(&self, branch: &Branch, path: &Path, ask: impl Fn(&Judged) -> Verdict) -> Verdict {
        let own = below_rules(branch, path).map(|below| (&branch.rules, below));
        ask(&Judged { branch: own, view: (&self.rules, path) })
    }

    /// Where in its branch the candidate lies, unless that is outside of it or nowhere.
    fn path_in_branch(&self, asked: &Asked, found: &Candidate) -> Option<PathBuf> {
        match &found.origin.place {
            Place::Host(anchor) if anchor.depth > asked.dir.depth() => anchor.path_beneath(None),
            Place::Host(anchor) => {
                anchor.path_beneath(Some(&asked.dir.path_from(anchor.depth).join(asked.name)))
            }
            _ => self.entry_path(&found.origin),
        }
    }

    /// The same for a directory and one of its origins.
    pub(crate) fn dir_in_branch(&self, dir: &Node, origin: &Origin) -> Option<PathBuf> {
        match &origin.place {
            Place::Host(anchor) => anchor.path_beneath(Some(&dir.path_from(anchor.depth))),
            _ => self.entry_path(origin),
        }
    }

    pub(crate) fn entry_path(&self, origin: &Origin) -> Option<PathBuf> {
        match (&origin.place, &self.branch(origin.branch).content) {
            (Place::Entry(Some(position)), Content::Layer(layer)) => {
                Some(layer.layer.entry(*position).path.clone())
            }
            (Place::Entry(None), _) => Some(PathBuf::new()),
            _ => None,
        }
    }
}

fn in_view(branch: &Branch, path: &Path) -> PathBuf {
    branch.at.iter().map(OsStr::new).chain(path).collect()
}

/// The path as the branch's own rules see it; `None` outside of where they start.
fn below_rules<'a>(branch: &Branch, path: &'a Path) -> Option<&'a Path> {
    let mut components = path.components();
    for at in &branch.rules_at {
        if components.next()?.as_os_str() != at {
            return None;
        }
    }
    Some(components.as_path())
}
