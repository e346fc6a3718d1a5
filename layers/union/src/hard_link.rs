//! A hard link of a host branch: one of several names of a file. Each name is a node of its own, because it may change or
//! go while the others stay; all of them show one inode number, by which programs know that they are one file.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::inode::{self, InodeTable};
use crate::origin::BranchIndex;

/// A file with several names, as one branch has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LinkedFile {
    pub(crate) branch: BranchIndex,
    /// Names that a followed link leads through are links to one another only. 0 for those of the branch itself.
    pub(crate) high: u16,
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

impl LinkedFile {
    /// The number that all of its names should show.
    fn wanted(&self) -> u64 {
        inode::with_high_half(self.high, self.inode)
    }
}

/// The linked files of a segment of which nodes live.
#[derive(Debug)]
pub(crate) struct LinkedFiles {
    inodes: Arc<InodeTable>,
    links: Mutex<Links>,
}

#[derive(Debug, Default)]
struct Links {
    files: HashMap<LinkedFile, Names>,
    /// By the numbers of the nodes that are their names.
    by_node: HashMap<u64, LinkedFile>,
}

/// Of one file.
#[derive(Debug)]
struct Names {
    /// What all of them show.
    shown: u64,
    nodes: usize,
}

impl LinkedFiles {
    pub(crate) fn new(inodes: Arc<InodeTable>) -> LinkedFiles {
        LinkedFiles { inodes, links: Mutex::default() }
    }

    /// For a node about to be made: its own number, which nobody is shown.
    pub(crate) fn add(&self, file: LinkedFile, seed: impl Fn() -> u64) -> u64 {
        let own = self.inodes.allocate(None, &seed);
        self.links().join(own, file, || self.inodes.allocate(Some(file.wanted()), &seed));
        own
    }

    /// For a node whose file got a second name only now. If no other name of the file is held, what it shows is its own
    /// number. Call it as often as you like.
    pub(crate) fn join(&self, file: LinkedFile, own: u64) {
        self.links().join(own, file, || own);
    }

    /// What is shown of the node, which is a name of a linked file.
    pub(crate) fn shown(&self, own: u64) -> u64 {
        let links = self.links();
        let file = links.by_node.get(&own).expect(NAMED);
        links.files.get(file).expect(NAMED).shown
    }

    /// For a node that is gone, and its number with it.
    pub(crate) fn leave(&self, own: u64) {
        let mut links = self.links();
        let file = links.by_node.remove(&own).expect(NAMED);
        let names = links.files.get_mut(&file).expect(NAMED);
        names.nodes -= 1;
        let (shown, is_last) = (names.shown, names.nodes == 0);
        if is_last {
            links.files.remove(&file);
            self.inodes.release(shown);
        }
        if own != shown {
            self.inodes.release(own);
        }
    }

    fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().expect("no holder of the linked files panics")
    }
}

const NAMED: &str = "a file stays as long as a node of it lives";

impl Links {
    /// `new` is what is shown if no other name of the file is held.
    fn join(&mut self, own: u64, file: LinkedFile, new: impl FnOnce() -> u64) {
        self.by_node.entry(own).or_insert_with(|| {
            let names = self.files.entry(file).or_insert_with(|| Names { shown: new(), nodes: 0 });
            names.nodes += 1;
            file
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: LinkedFile = LinkedFile { branch: 0, high: 0, device: 1, inode: (7 << 32) + 42 };

    fn files() -> (LinkedFiles, Arc<InodeTable>) {
        let inodes = Arc::new(InodeTable::default());
        (LinkedFiles::new(Arc::clone(&inodes)), inodes)
    }

    #[test]
    fn names_of_a_file_show_one_number_and_have_others() {
        let (files, inodes) = files();
        let (first, second) = (files.add(FILE, || 1), files.add(FILE, || 2));
        assert_eq!((files.shown(first), files.shown(second)), (42, 42));
        assert_ne!(first, second);
        assert_eq!(inodes.len(), 3);
    }

    #[test]
    fn the_number_stays_while_a_name_lives_and_goes_with_the_last() {
        let (files, inodes) = files();
        let (first, second) = (files.add(FILE, || 1), files.add(FILE, || 2));
        files.leave(first);
        assert_ne!(inodes.allocate(Some(42), || 3), 42, "somebody else's number");
        let again = files.add(FILE, || 1);
        assert_eq!(files.shown(again), 42);
        files.leave(second);
        files.leave(again);
        assert_eq!(inodes.len(), 1, "that of somebody else");
    }

    #[test]
    fn a_file_that_gets_a_second_name_keeps_its_number() {
        let (files, inodes) = files();
        let own = inodes.allocate(Some(42), || 1);
        files.join(FILE, own);
        files.join(FILE, own);
        let second = files.add(FILE, || 2);
        assert_eq!((files.shown(own), files.shown(second)), (own, own));
        files.leave(own);
        assert_eq!(inodes.len(), 2, "its number is shown of the other");
        files.leave(second);
        assert!(inodes.is_empty());
    }
}
