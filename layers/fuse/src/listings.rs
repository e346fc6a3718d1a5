//! Listings being read: with `no_opendir` nothing says that a directory was opened, yet a large one is read in
//! several requests that must continue one listing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use vfsrun_union::{DirEntry, Errno};

/// Directories that are read at the same time, and names in them; more make the oldest be listed again.
const KEPT: usize = 64;
const KEPT_NAMES: usize = 4_000_000;

pub type Listing = Arc<[DirEntry]>;

#[derive(Default)]
pub struct Listings {
    kept: Mutex<VecDeque<(u64, Listing)>>,
}

impl Listings {
    /// The listing of a directory, to be read from `offset` on: a fresh one for offset 0, else the one that was begun.
    pub fn get(
        &self,
        nodeid: u64,
        offset: u64,
        list: impl FnOnce() -> Result<Listing, Errno>,
    ) -> Result<Listing, Errno> {
        if offset > 0 {
            let kept = self.kept.lock().expect("the server aborts when a thread panics");
            if let Some((_, listing)) = kept.iter().find(|(kept, _)| *kept == nodeid) {
                return Ok(listing.clone());
            }
        }
        list()
    }

    /// The reader will come back for more of `listing`.
    pub fn keep(&self, nodeid: u64, listing: &Listing) {
        let mut kept = self.kept.lock().expect("the server aborts when a thread panics");
        if kept.iter().any(|(known, same)| *known == nodeid && Arc::ptr_eq(same, listing)) {
            return;
        }
        kept.retain(|(known, _)| *known != nodeid);
        kept.push_back((nodeid, listing.clone()));
        let names =
            |kept: &VecDeque<(u64, Listing)>| kept.iter().map(|(_, listing)| listing.len()).sum::<usize>();
        while kept.len() > KEPT || kept.len() > 1 && names(&kept) > KEPT_NAMES {
            kept.pop_front();
        }
    }

    /// The reader saw the end.
    pub fn drop_kept(&self, nodeid: u64) {
        self.kept
            .lock()
            .expect("the server aborts when a thread panics")
            .retain(|(known, _)| *known != nodeid);
    }
}

#[cfg(test)]
mod tests {
    use vfsrun_union::FileKind;

    use super::*;

    fn names(names: &[&str]) -> Result<Listing, Errno> {
        let entry = |name: &&str| DirEntry { name: (*name).into(), kind: FileKind::Regular, ino: 9 };
        Ok(names.iter().map(entry).collect())
    }

    #[test]
    fn a_listing_that_was_begun_does_not_change() {
        let listings = Listings::default();
        let begun = listings.get(5, 0, || names(&["a", "b"])).unwrap();
        listings.keep(5, &begun);
        let continued = listings.get(5, 1, || names(&["other"])).unwrap();
        assert_eq!(continued, begun);
    }

    #[test]
    fn reading_from_the_start_lists_anew() {
        let listings = Listings::default();
        let begun = listings.get(5, 0, || names(&["a"])).unwrap();
        listings.keep(5, &begun);
        assert_eq!(listings.get(5, 0, || names(&["b"])).unwrap()[0].name, "b");
    }
}
