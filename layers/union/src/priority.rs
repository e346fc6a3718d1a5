//! Extension priority: of regular files of one directory whose names differ in an extension alone, one is shown.
//!
//! It is judged on what all other rules show, by the same questions for a lookup and for a listing. Who competes with
//! whom is read from the names of the directory; only those that do are looked at.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustix::io::Errno;

use crate::attr::FileKind;
use crate::branch::Content;
use crate::describe::Symlinks;
use crate::fingerprint::{self, Mixer};
use crate::node::Node;
use crate::origin::{BranchIndex, Place};
use crate::resolve::open_dir;
use crate::segment::Segment;

/// Extensions, the one that is shown first.
#[derive(Debug)]
pub(crate) struct Priority(Vec<String>);

impl Priority {
    pub(crate) fn new(extensions: &[String]) -> Priority {
        Priority(extensions.to_vec())
    }

    fn rank(&self, name: &OsStr) -> Option<usize> {
        let (_, extension) = split(name)?;
        self.0.iter().position(|known| extension.eq_ignore_ascii_case(known.as_bytes()))
    }

    /// Of several spellings of the first extension, the first in the order of bytes is left.
    fn keep_first(&self, rivals: &mut Vec<&OsStr>) {
        let first = rivals.iter().filter_map(|name| Some((self.rank(name)?, *name))).min();
        rivals.retain(|name| self.rank(name).is_none_or(|rank| first == Some((rank, name))));
    }
}

/// What stands before the last dot and after it. A name that starts with its only dot has no extension.
fn split(name: &OsStr) -> Option<(&[u8], &[u8])> {
    let name = name.as_bytes();
    let dot = name.iter().rposition(|byte| *byte == b'.').filter(|dot| *dot > 0)?;
    Some((&name[..dot], &name[dot + 1..]))
}

/// Names of one directory that may keep each other from being shown, by what stands before their extensions.
#[derive(Debug, Default)]
pub(crate) struct Rivals(HashMap<Vec<u8>, BTreeSet<OsString>>);

impl Rivals {
    pub(crate) fn among<'a>(priorities: &[&Priority], names: impl Iterator<Item = &'a OsStr>) -> Rivals {
        let mut rivals = Rivals::default();
        if priorities.is_empty() {
            return rivals;
        }
        for name in names.filter(|name| priorities.iter().any(|priority| priority.rank(name).is_some())) {
            let (stem, _) = split(name).expect("a name with a rank has an extension");
            rivals.0.entry(stem.to_owned()).or_default().insert(name.to_owned());
        }
        rivals.0.retain(|_, names| names.len() > 1);
        rivals
    }

    /// The name itself included; `None` if it has none.
    pub(crate) fn of(&self, name: &OsStr) -> Option<&BTreeSet<OsString>> {
        self.0.get(split(name)?.0).filter(|names| names.contains(name))
    }
}

/// Rivals of directories that were asked about lately, by number, with the state of the directory that proves them.
#[derive(Default)]
pub(crate) struct KnownRivals(Mutex<HashMap<u64, (u64, Arc<Rivals>)>>);

/// All are dropped when there are more.
const MOST_KNOWN: usize = 64;

impl KnownRivals {
    fn get(&self, dir: &Node, state: Option<u64>) -> Option<Arc<Rivals>> {
        let known = self.0.lock().expect("no holder of the rivals panics");
        known.get(&dir.ino()).filter(|(known, _)| Some(*known) == state).map(|(_, rivals)| Arc::clone(rivals))
    }

    fn put(&self, dir: &Node, state: u64, rivals: &Arc<Rivals>) {
        let mut known = self.0.lock().expect("no holder of the rivals panics");
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        known.insert(dir.ino(), (state, Arc::clone(rivals)));
    }
}

impl Segment {
    /// All lists that have a say in a directory.
    pub(crate) fn priorities(&self, dir: &Node) -> Vec<&Priority> {
        let origins = dir.origins();
        let branches = origins.iter().map(|origin| &self.branch(origin.branch).rules);
        branches.chain([&self.rules]).flat_map(|rules| &rules.priorities).collect()
    }

    /// Whether one of `lists` prefers another name of the directory to `name`, which is shown as a regular file by all
    /// other rules; `is_shown` tells that of others.
    pub(crate) fn is_outranked(
        &self,
        lists: &[Priority],
        dir: &Arc<Node>,
        name: &OsStr,
        is_shown: impl Fn(&OsStr) -> Result<bool, Errno>,
    ) -> Result<bool, Errno> {
        if lists.iter().all(|list| list.rank(name).is_none()) {
            return Ok(false);
        }
        let rivals = self.rivals(dir)?;
        let Some(rivals) = rivals.of(name) else { return Ok(false) };
        if self.rivals_may_change(dir) {
            dir.judged();
        }
        loses(lists, name, rivals, is_shown)
    }

    /// The same for a regular file that a link of scope `branch` leads to.
    pub(crate) fn is_outranked_in_branch(
        &self,
        index: BranchIndex,
        path: &Path,
        is_shown: impl Fn(&OsStr) -> Result<bool, Errno>,
    ) -> Result<bool, Errno> {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Ok(false) };
        for rules in [&self.branch(index).rules, &self.rules] {
            let lists: Vec<_> = rules.priorities.iter().collect();
            if lists.iter().all(|list| list.rank(name).is_none()) {
                continue;
            }
            let names = self.names_in_branch(index, dir)?;
            let rivals = Rivals::among(&lists, names.iter().map(OsString::as_os_str));
            if let Some(rivals) = rivals.of(name)
                && loses(&rules.priorities, name, rivals, &is_shown)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn rivals(&self, dir: &Arc<Node>) -> Result<Arc<Rivals>, Errno> {
        let state = self.state_of_names(dir)?;
        if let Some(rivals) = self.known_rivals.get(dir, state) {
            return Ok(rivals);
        }
        let mut names = Vec::new();
        for origin in dir.origins().iter() {
            names.extend(self.names(dir, origin)?.into_iter().map(|name| name.name));
        }
        let rivals = Arc::new(Rivals::among(&self.priorities(dir), names.iter().map(OsString::as_os_str)));
        if let Some(state) = state
            && self.state_of_names(dir)? == Some(state)
        {
            self.known_rivals.put(dir, state, &rivals);
        }
        Ok(rivals)
    }

    /// A number that changes whenever a name of the directory comes or goes; `None`: nothing tells that.
    fn state_of_names(&self, dir: &Node) -> Result<Option<u64>, Errno> {
        let mut state = Mixer::default();
        // Which branches are merged here, too.
        state.add(dir.object());
        for origin in dir.origins().iter() {
            match (&origin.place, &self.branch(origin.branch).content) {
                (Place::Host(anchor), Content::Host(host)) => {
                    let stat = rustix::fs::fstat(open_dir(dir, origin, host, anchor)?)?;
                    if fingerprint::is_racy(&stat) {
                        return Ok(None);
                    }
                    state.add(fingerprint::print(&stat));
                }
                (Place::Alias(_), _) => return Ok(None),
                _ => {}
            }
        }
        Ok(Some(state.get()))
    }

    /// Whether another file may come to be shown, or not to be, while the directory stays as it is.
    fn rivals_may_change(&self, dir: &Node) -> bool {
        let follows = |branch: BranchIndex| self.branch(branch).symlinks != Symlinks::Never;
        self.has_live_branches()
            && (self.looks_closer || dir.origins().iter().any(|origin| follows(origin.branch)))
    }
}

fn loses(
    lists: &[Priority],
    name: &OsStr,
    rivals: &BTreeSet<OsString>,
    is_shown: impl Fn(&OsStr) -> Result<bool, Errno>,
) -> Result<bool, Errno> {
    let mut left = Vec::with_capacity(rivals.len());
    for rival in rivals {
        if rival == name || is_shown(rival)? {
            left.push(rival.as_os_str());
        }
    }
    for list in lists {
        list.keep_first(&mut left);
    }
    Ok(!left.contains(&name))
}

/// What counts of a name that competes.
pub(crate) fn is_rival(kind: FileKind) -> bool {
    kind == FileKind::Regular
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(lists: &[&[&str]], names: &[&str]) -> Vec<String> {
        let lists: Vec<_> = lists
            .iter()
            .map(|list| Priority::new(&list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()))
            .collect();
        let all: Vec<_> = lists.iter().collect();
        let rivals = Rivals::among(&all, names.iter().map(OsStr::new));
        let shown = |name: &&&str| match rivals.of(OsStr::new(name)) {
            Some(rivals) => !loses(&lists, OsStr::new(name), rivals, |_| Ok(true)).unwrap(),
            None => true,
        };
        names.iter().filter(shown).map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_first_extension_of_the_list_is_left() {
        let list: &[&str] = &["raw", "jpeg", "jpg"];
        assert_eq!(
            left(&[list], &["a.jpg", "a.raw", "a.jpeg", "a.txt", "b.jpg", "c"]),
            ["a.raw", "a.txt", "b.jpg", "c"]
        );
        assert_eq!(left(&[list], &["a.JPG", "a.Jpeg"]), ["a.Jpeg"]);
        assert_eq!(left(&[list], &["a.jpg", "A.raw"]), ["a.jpg", "A.raw"], "other files");
    }

    #[test]
    fn of_two_spellings_the_first_in_bytes_is_left() {
        assert_eq!(left(&[&["raw"]], &["a.raw", "a.RAW", "a.Raw"]), ["a.RAW"]);
    }

    #[test]
    fn a_name_that_is_all_extension_has_none() {
        assert_eq!(left(&[&["raw", "jpg"]], &[".raw", ".jpg", "raw", "jpg"]), [".raw", ".jpg", "raw", "jpg"]);
    }

    #[test]
    fn lists_are_judged_one_after_the_other() {
        let names = ["a.raw", "a.jpg", "a.png"];
        assert_eq!(left(&[&["raw", "jpg"], &["jpg", "png"]], &names), ["a.raw", "a.png"]);
        assert_eq!(left(&[&["jpg", "png"], &["raw", "jpg"]], &names), ["a.raw"]);
    }
}
