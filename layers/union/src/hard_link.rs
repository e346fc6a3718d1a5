//! A hard link of a host branch: one of several names of a file. Each name is a node of its own, because it may change or
//! go while the others stay; all of them show one inode number, by which programs know that they are one file.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::inode::InodeTable;
use crate::origin::BranchIndex;

/// A file with several names, as one branch has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LinkedFile {
    pub(crate) branch: BranchIndex,
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

/// That a node is a name of the file, and what all of them show.
#[derive(Debug)]
pub(crate) struct HardLink {
    file: LinkedFile,
    pub(crate) shown: u64,
}

/// The linked files of a segment of which nodes live.
#[derive(Debug)]
pub(crate) struct LinkedFiles {
    inodes: Arc<InodeTable>,
    files: Mutex<HashMap<LinkedFile, Names>>,
}

/// Of one file.
#[derive(Debug)]
struct Names {
    shown: u64,
    nodes: usize,
}

impl LinkedFiles {
    pub(crate) fn new(inodes: Arc<InodeTable>) -> LinkedFiles {
        LinkedFiles { inodes, files: Mutex::default() }
    }

    /// For a node about to be made: its own number, which nobody is shown, and what it shows.
    pub(crate) fn add(&self, file: LinkedFile, seed: u64) -> (u64, HardLink) {
        let link = self.join(file, || self.inodes.allocate(Some(file.inode as u32), seed));
        (self.inodes.allocate(None, seed), link)
    }

    /// `new` is what is shown if no other name of the file is held: of a node whose file got a second name only now, its
    /// own number.
    pub(crate) fn join(&self, file: LinkedFile, new: impl FnOnce() -> u64) -> HardLink {
        let mut files = self.files();
        let names = files.entry(file).or_insert_with(|| Names { shown: new(), nodes: 0 });
        names.nodes += 1;
        HardLink { file, shown: names.shown }
    }

    /// For a node that is gone, and its number with it.
    pub(crate) fn leave(&self, link: &HardLink, own: u64) {
        let mut files = self.files();
        let names = files.get_mut(&link.file).expect("a file stays as long as a node of it lives");
        if own != link.shown {
            self.inodes.release(own);
        }
        names.nodes -= 1;
        if names.nodes == 0 {
            files.remove(&link.file);
            self.inodes.release(link.shown);
        }
    }

    fn files(&self) -> MutexGuard<'_, HashMap<LinkedFile, Names>> {
        self.files.lock().expect("no holder of the linked files panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: LinkedFile = LinkedFile { branch: 0, device: 1, inode: (7 << 32) + 42 };

    fn files() -> (LinkedFiles, Arc<InodeTable>) {
        let inodes = Arc::new(InodeTable::default());
        (LinkedFiles::new(Arc::clone(&inodes)), inodes)
    }

    #[test]
    fn names_of_a_file_show_one_number_and_have_others() {
        let (files, inodes) = files();
        let (first, one) = files.add(FILE, 1);
        let (second, other) = files.add(FILE, 2);
        assert_eq!((one.shown, other.shown), (42, 42));
        assert_ne!(first, second);
        assert_eq!(inodes.len(), 3);
    }

    #[test]
    fn the_number_stays_while_a_name_lives_and_goes_with_the_last() {
        let (files, inodes) = files();
        let (first, one) = files.add(FILE, 1);
        let (second, other) = files.add(FILE, 2);
        files.leave(&one, first);
        assert_ne!(inodes.allocate(Some(42), 3), 42, "somebody else's number");
        let (again, one) = files.add(FILE, 1);
        assert_eq!(one.shown, 42);
        files.leave(&other, second);
        files.leave(&one, again);
        assert_eq!(inodes.len(), 1, "that of somebody else");
    }

    #[test]
    fn a_file_that_gets_a_second_name_keeps_its_number() {
        let (files, inodes) = files();
        let own = inodes.allocate(Some(42), 1);
        let first = files.join(FILE, || own);
        let (second, other) = files.add(FILE, 2);
        assert_eq!((first.shown, other.shown), (own, own));
        files.leave(&first, own);
        files.leave(&other, second);
        assert!(inodes.is_empty());
    }
}
