//! Name indexes: which of many branches have a name. Of a directory that is merged from many branches each look-up would ask
//! each of them; an index, made of their listings when the second name is looked up, leaves those few that have the name.
//!
//! An index holds for one state of the directory, the one that was given out: as long as that is what its holders have, an
//! absence is as true as the others that they were told. Whoever wants to know what is there now asks the branches.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, Weak};

use rustix::io::Errno;

use crate::branch::Content;
use crate::describe::Whiteouts;
use crate::fingerprint;
use crate::host;
use crate::merge::Identity;
use crate::node::Node;
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
    /// By the directory's number.
    known: HashMap<u64, Known>,
    /// In all of them.
    names: usize,
    /// With so many directories it is worth a look at which are gone.
    tidy_at: usize,
}

/// What is known of a directory in one state.
struct Known {
    dir: Weak<Node>,
    object: u64,
    print: u64,
    attempt: Attempt,
}

/// What came of the wish for an index.
#[derive(Clone)]
enum Attempt {
    /// One name is not worth it, or a change might not show yet.
    Later,
    /// There is none of this state: another attempt would list the directory for nothing.
    Failed,
    Made(Arc<NameIndex>),
}

pub(crate) struct NameIndex {
    /// Hashes of names with the origins that have them, sorted.
    names: Vec<(u64, Position)>,
    /// Those that have to be asked for every name.
    asked: Vec<Position>,
}

impl NameIndex {
    /// Those that may have the name with that hash.
    pub(crate) fn of_hash(&self, hash: u64) -> MayHave<'_> {
        let from = &self.names[self.names.partition_point(|(other, _)| *other < hash)..];
        let names = &from[..from.partition_point(|(other, _)| *other == hash)];
        MayHave { names, asked: &self.asked }
    }
}

/// Which origins may have a name.
pub(crate) struct MayHave<'a> {
    names: &'a [(u64, Position)],
    asked: &'a [Position],
}

impl MayHave<'_> {
    pub(crate) fn includes(&self, position: usize) -> bool {
        let Ok(position) = Position::try_from(position) else { return true };
        self.names.binary_search_by_key(&position, |(_, position)| *position).is_ok()
            || self.asked.binary_search(&position).is_ok()
    }
}

impl NameIndexes {
    pub(crate) fn hash(&self, name: &OsStr) -> u64 {
        self.hasher.hash_one(name)
    }

    /// `None`: the directory is in another state than before.
    fn get(&self, dir: &Node) -> Option<Attempt> {
        let all = self.all.lock().expect("no holder of the indexes panics");
        let known = all.known.get(&dir.ino())?;
        (known.object == dir.object() && known.print == dir.served.print()).then(|| known.attempt.clone())
    }

    fn put(&self, dir: &Arc<Node>, print: u64, attempt: Attempt) {
        let mut all = self.all.lock().expect("no holder of the indexes panics");
        let all = &mut *all;
        if all.known.len() >= all.tidy_at {
            all.known.retain(|_, known| known.dir.strong_count() > 0);
            all.names = all.known.values().map(Known::names).sum();
            all.tidy_at = 2 * all.known.len() + 16;
        }
        all.names -= all.known.remove(&dir.ino()).map_or(0, |known| known.names());
        let mut known = Known { dir: Arc::downgrade(dir), object: dir.object(), print, attempt };
        if all.names + known.names() > MOST_NAMES {
            known.attempt = Attempt::Failed;
        }
        all.names += known.names();
        all.known.insert(dir.ino(), known);
    }
}

impl Known {
    fn names(&self) -> usize {
        match &self.attempt {
            Attempt::Made(index) => index.names.len(),
            Attempt::Later | Attempt::Failed => 0,
        }
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
        if least == 0 || dir.origins().len() < least {
            return None;
        }
        let print = dir.served.print();
        let attempt = match self.name_indexes.get(dir) {
            None => Attempt::Later,
            Some(Attempt::Failed) => return None,
            Some(Attempt::Made(index)) => return Some(index),
            Some(Attempt::Later) => self.index_names(dirs, dir, print).unwrap_or(Attempt::Failed),
        };
        self.name_indexes.put(dir, print, attempt.clone());
        match attempt {
            Attempt::Made(index) => Some(index),
            Attempt::Later | Attempt::Failed => None,
        }
    }

    /// Of what the directory holds in the state that has this print.
    fn index_names(&self, dirs: &Dirs, dir: &Arc<Node>, print: u64) -> Result<Attempt, Errno> {
        // All of them first: a listing is the dearer part, and one that is too young makes it vain.
        let Some(prints) = self.prints_of(dirs, dir, print)? else { return Ok(Attempt::Later) };
        let mut index = NameIndex { names: Vec::new(), asked: Vec::new() };
        for (position, (origin, print)) in dir.origins().iter().zip(prints).enumerate() {
            let Ok(position) = Position::try_from(position) else { break };
            let branch = self.branch(origin.branch);
            let mut add = |name: &OsStr| index.names.push((self.name_indexes.hash(name), position));
            match (&origin.place, &branch.content) {
                (Place::Host(_), Content::Host(_)) => {
                    let mut listing = host::open_to_list(&*dirs.open(self, dir, origin)?)?;
                    if !host::lists_what_it_finds(&listing) {
                        index.asked.push(position);
                        continue;
                    }
                    for (name, ..) in host::read_names(&mut listing, MOST_NAMES)? {
                        add(&name);
                        let deleted = host::oci_deletes(&name).filter(|_| branch.whiteouts == Whiteouts::Oci);
                        deleted.into_iter().for_each(&mut add);
                    }
                    // What is the same from before the listing until after it was so all the time.
                    if branch.live && fingerprint::print(&listing.stat()?) != print {
                        return Ok(Attempt::Later);
                    }
                }
                (Place::Above, _) => branch.at.get(dir.depth()).into_iter().for_each(|name| add(name)),
                (Place::Entry(at), Content::Layer(layer)) => {
                    for child in layer.layer.children(*at) {
                        add(layer.layer.entry(child).path.file_name().unwrap_or_default());
                    }
                }
                _ => index.asked.push(position),
            }
            if index.names.len() > MOST_NAMES {
                return Ok(Attempt::Failed);
            }
        }
        index.names.sort_unstable();
        index.names.shrink_to_fit();
        Ok(Attempt::Made(Arc::new(index)))
    }

    /// The prints of the directory's origins as they are now; `None` if they do not make up `whole`, or one may change without
    /// another print.
    fn prints_of(&self, dirs: &Dirs, dir: &Arc<Node>, whole: u64) -> Result<Option<Vec<u64>>, Errno> {
        let (mut identity, mut prints) = (Identity::default(), Vec::with_capacity(dir.origins().len()));
        for origin in dir.origins().iter() {
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
            prints.push(print);
        }
        Ok((identity.finish(dir.opaque).1 == whole).then_some(prints))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use super::*;
    use crate::describe::{BranchSpec, SegmentSpec, Source};
    use crate::{Context, Described};

    #[test]
    fn a_directory_whose_names_have_no_room_is_not_listed_for_each_of_them() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("name"), "").unwrap();
        let branches = vec![BranchSpec::new(Source::Host { root: 0, host: None }, "test")];
        let spec = SegmentSpec { branches, ..SegmentSpec::default() };
        let described = Described::read(spec, vec![File::open(temp.path()).unwrap().into()]).unwrap();
        let segment = Segment::build(described, &Context::default()).unwrap().with_name_indexes(1);
        // Until a change made now would show in the directory's ctime.
        std::thread::sleep(Duration::from_millis(40));
        let root = segment.root();
        let index = || segment.name_index(&Dirs::default(), &root);
        let others_have = |names| segment.name_indexes.all.lock().unwrap().names = names;
        assert!(index().is_none());
        others_have(MOST_NAMES);
        // Whoever made it may use it.
        assert!(index().is_some());
        others_have(0);
        assert!(index().is_none());
    }
}
