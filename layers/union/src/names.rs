//! Name indexes: which of many branches have a name. Of a directory that is merged from many branches each look-up would ask
//! each of them; an index, made of their listings when the second name is looked up, leaves those few that have the name.
//!
//! An index holds for one state of the directory, the one that was given out: as long as that is what its holders have, an
//! absence is as true as the others that they were told. Whoever wants to know what is there now asks the branches.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex};

use rustix::io::Errno;

use crate::branch::Content;
use crate::describe::Whiteouts;
use crate::fingerprint;
use crate::host;
use crate::merge::Identity;
use crate::node::{Node, NodeKey, NodeTable};
use crate::origin::Place;
use crate::resolve::Dirs;
use crate::segment::Segment;

/// Names in all indexes of a segment, at 16 bytes each. Directories beyond are asked.
const MOST_NAMES: usize = 1_000_000;

/// Position in [`Node::origins`].
type Position = u16;

#[derive(Default)]
pub(crate) struct NameIndexes {
    /// Directories of fewer origins have no index; 0: none has.
    pub(crate) origins_at_least: usize,
    hasher: RandomState,
    all: Mutex<All>,
}

#[derive(Default)]
struct All {
    known: HashMap<NodeKey, Known>,
    /// In all of them.
    names: usize,
    /// With so many directories it is worth a look at which are gone.
    tidy_at: usize,
}

/// What is known of a directory in one state.
struct Known {
    object: u64,
    print: u64,
    /// `None` as long as one name has been looked up, or if there can be none.
    index: Option<Arc<NameIndex>>,
}

pub(crate) struct NameIndex {
    /// Hashes of names with the origins that have them, sorted.
    names: Vec<(u64, Position)>,
    /// Those that have to be asked for every name.
    asked: Vec<Position>,
}

impl NameIndex {
    /// Whether the origin may have the name with that hash.
    pub(crate) fn may_have(&self, hash: u64, position: usize) -> bool {
        let Ok(position) = Position::try_from(position) else { return true };
        self.names.binary_search(&(hash, position)).is_ok() || self.asked.binary_search(&position).is_ok()
    }
}

impl NameIndexes {
    pub(crate) fn hash(&self, name: &OsStr) -> u64 {
        self.hasher.hash_one(name)
    }

    /// `None`: the directory is in another state than before.
    fn get(&self, dir: &Node) -> Option<Option<Arc<NameIndex>>> {
        let all = self.all.lock().expect("no holder of the indexes panics");
        let known = all.known.get(&dir.key())?;
        (known.object == dir.object && known.print == dir.served.print()).then(|| known.index.clone())
    }

    fn put(&self, dir: &Node, print: u64, index: Option<Arc<NameIndex>>, table: &NodeTable) {
        let mut all = self.all.lock().expect("no holder of the indexes panics");
        let all = &mut *all;
        if all.known.len() >= all.tidy_at {
            all.known.retain(|key, _| table.get(*key).is_some());
            all.names = all.known.values().map(Known::names).sum();
            all.tidy_at = 2 * all.known.len() + 16;
        }
        all.names -= all.known.remove(&dir.key()).map_or(0, |known| known.names());
        let index = index.filter(|index| all.names + index.names.len() <= MOST_NAMES);
        let known = Known { object: dir.object, print, index };
        all.names += known.names();
        all.known.insert(dir.key(), known);
    }
}

impl Known {
    fn names(&self) -> usize {
        self.index.as_ref().map_or(0, |index| index.names.len())
    }
}

impl Segment {
    /// Has the segment look at the listings of directories that are merged from so many branches or more. For holders who
    /// keep what they are told until [`Segment::bring_up_to_date`] has them forget it.
    pub fn with_name_indexes(mut self, branches_at_least: usize) -> Segment {
        self.name_indexes.origins_at_least = branches_at_least;
        self
    }

    /// `None`: each branch is asked. `dirs` are those of `dir`.
    pub(crate) fn name_index(&self, dirs: &Dirs, dir: &Arc<Node>) -> Option<Arc<NameIndex>> {
        let least = self.name_indexes.origins_at_least;
        if least == 0 || dir.origins.len() < least {
            return None;
        }
        let print = dir.served.print();
        let index = match self.name_indexes.get(dir) {
            // One name is not worth it.
            None => None,
            Some(Some(index)) => return Some(index),
            Some(None) => self.index_names(dirs, dir, print).ok().flatten().map(Arc::new),
        };
        self.name_indexes.put(dir, print, index.clone(), &self.table);
        index
    }

    /// `None` if no index can say what the directory holds in the state that has this print.
    fn index_names(&self, dirs: &Dirs, dir: &Arc<Node>, print: u64) -> Result<Option<NameIndex>, Errno> {
        if self.state_of(dirs, dir)? != Some(print) {
            return Ok(None);
        }
        let mut index = NameIndex { names: Vec::new(), asked: Vec::new() };
        for (position, origin) in dir.origins.iter().enumerate() {
            let Ok(position) = Position::try_from(position) else { break };
            let branch = self.branch(origin.branch);
            let mut add = |name: &OsStr| index.names.push((self.name_indexes.hash(name), position));
            match (&origin.place, &branch.content) {
                (Place::Host(_), Content::Host(_)) => {
                    let open = dirs.open(self, dir, origin)?;
                    if !host::lists_what_it_finds(&open) {
                        index.asked.push(position);
                        continue;
                    }
                    for (name, ..) in host::read_dir(&open, MOST_NAMES)? {
                        add(&name);
                        let deleted = host::oci_deletes(&name).filter(|_| branch.whiteouts == Whiteouts::Oci);
                        deleted.into_iter().for_each(&mut add);
                    }
                }
                (Place::Entry(at), Content::Layer(layer)) => {
                    for child in layer.layer.children(*at) {
                        add(layer.layer.entry(child).path.file_name().unwrap_or_default());
                    }
                }
                _ => index.asked.push(position),
            }
            if index.names.len() > MOST_NAMES {
                return Ok(None);
            }
        }
        index.names.sort_unstable();
        index.names.shrink_to_fit();
        Ok((self.state_of(dirs, dir)? == Some(print)).then_some(index))
    }

    /// The print of the directory as it is now; `None` if it may change without another one.
    fn state_of(&self, dirs: &Dirs, dir: &Arc<Node>) -> Result<Option<u64>, Errno> {
        let mut identity = Identity::default();
        for origin in &dir.origins {
            let print = match &origin.place {
                Place::Host(_) if self.branch(origin.branch).live => {
                    let stat = rustix::fs::fstat(&*dirs.open(self, dir, origin)?)?;
                    if fingerprint::is_racy(&stat) {
                        return Ok(None);
                    }
                    fingerprint::print(&stat)
                }
                Place::Alias(_) => return Ok(None),
                _ => 0,
            };
            identity.add(origin, origin.object, print);
        }
        Ok(Some(identity.finish(dir.opaque).1))
    }
}
