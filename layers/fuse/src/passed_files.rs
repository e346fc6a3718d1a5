//! Files that are passed through: the kernel reads them from where they lie (FUSE passthrough), asks nobody for their content
//! and keeps no pages but those that the file has anyway.
//!
//! The kernel wants one way and one backing file for all opens of a node, and refuses another one with EIO. So what came of
//! the first open holds for the others, until all are closed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

use fuser::BackingId;

use crate::namespace;

/// How deep a backing file may lie in stacked file systems, one less: with 1 an overlay can lie above the view, and no backing
/// file can be in an overlay.
pub const STACK_DEPTH: u32 = 1;

/// Whether the kernel lets this process pass files through. (It offers that to everybody who mounts.)
pub fn is_allowed() -> bool {
    namespace::is_ours() && namespace::is_first()
}

/// Those of one mount. `B` is what the kernel knows a backing file by.
pub struct PassedFiles<B = BackingId> {
    is_granted: AtomicBool,
    /// So many stay known to the kernel when nobody has them open, for the next open.
    most_idle: usize,
    table: Mutex<Table<B>>,
}

struct Table<B> {
    nodes: HashMap<u64, Passed<B>>,
    idle: usize,
    /// Counts entries, so that an open of a node is told from one of another node that had the number before.
    entries: u64,
}

struct Passed<B> {
    entry: u64,
    opens: u64,
    /// `None`: the kernel does not take the file.
    backing: Option<Arc<B>>,
}

/// What came of an open. The kernel gives `entry` back when it is closed.
pub struct Opened<B> {
    pub entry: u64,
    pub backing: Option<Arc<B>>,
}

impl<B> PassedFiles<B> {
    pub fn new(most_idle: usize) -> PassedFiles<B> {
        let table = Table { nodes: HashMap::new(), idle: 0, entries: 0 };
        PassedFiles { is_granted: AtomicBool::new(false), most_idle, table: Mutex::new(table) }
    }

    /// The kernel has agreed, by Linux 6.9.
    pub fn grant(&self) {
        self.is_granted.store(true, Relaxed);
    }

    pub fn is_granted(&self) -> bool {
        self.is_granted.load(Relaxed)
    }

    /// `pass` makes the file known to the kernel, if it is not.
    pub fn open(&self, nodeid: u64, pass: impl FnOnce() -> Option<B>) -> Opened<B> {
        if let Some(opened) = self.table().open_known(nodeid) {
            return opened;
        }
        // Without the lock: it may take long. Of two that come at once one stays.
        let backing = pass().map(Arc::new);
        let mut table = self.table();
        if let Some(opened) = table.open_known(nodeid) {
            return opened;
        }
        table.entries += 1;
        let passed = Passed { entry: table.entries, opens: 1, backing };
        let opened = passed.opened();
        table.nodes.insert(nodeid, passed);
        opened
    }

    /// Once for each `open`.
    pub fn close(&self, nodeid: u64, entry: u64) {
        let mut table = self.table();
        let Some(passed) = table.nodes.get_mut(&nodeid).filter(|passed| passed.entry == entry) else {
            return;
        };
        passed.opens -= 1;
        if passed.opens > 0 {
            return;
        }
        if table.idle < self.most_idle {
            table.idle += 1;
        } else {
            table.nodes.remove(&nodeid);
        }
    }

    /// The kernel has forgotten the node. That it was closed may be told later.
    pub fn forget(&self, nodeid: u64) {
        let mut table = self.table();
        let was_idle = table.nodes.remove(&nodeid).is_some_and(|passed| passed.opens == 0);
        table.idle -= usize::from(was_idle);
    }

    /// They are made known again when somebody opens them.
    pub fn forget_idle(&self) {
        let mut table = self.table();
        table.nodes.retain(|_, passed| passed.opens > 0);
        table.idle = 0;
    }

    fn table(&self) -> MutexGuard<'_, Table<B>> {
        self.table.lock().expect("the server aborts when a thread panics")
    }
}

impl<B> Table<B> {
    fn open_known(&mut self, nodeid: u64) -> Option<Opened<B>> {
        let passed = self.nodes.get_mut(&nodeid)?;
        self.idle -= usize::from(passed.opens == 0);
        passed.opens += 1;
        Some(passed.opened())
    }
}

impl<B> Passed<B> {
    fn opened(&self) -> Opened<B> {
        Opened { entry: self.entry, backing: self.backing.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file whose backing is that text, if it is opened now.
    fn open(
        files: &PassedFiles<&'static str>,
        nodeid: u64,
        now: Option<&'static str>,
    ) -> (u64, Option<&'static str>) {
        let Opened { entry, backing } = files.open(nodeid, || now);
        (entry, backing.map(|backing| *backing))
    }

    #[test]
    fn all_opens_of_a_node_have_one_backing_file_until_the_last_is_closed() {
        let files = PassedFiles::new(0);
        let (entry, first) = open(&files, 3, Some("old"));
        assert_eq!(first, Some("old"));
        assert_eq!(open(&files, 3, Some("new")).1, Some("old"));
        files.close(3, entry);
        assert_eq!(open(&files, 3, Some("new")).1, Some("old"));
        files.close(3, entry);
        files.close(3, entry);
        assert_eq!(open(&files, 3, Some("new")).1, Some("new"));
    }

    #[test]
    fn a_file_that_was_refused_is_not_passed_while_it_is_open() {
        let files = PassedFiles::new(0);
        let (entry, refused) = open(&files, 3, None);
        assert_eq!(refused, None);
        assert_eq!(open(&files, 3, Some("later")).1, None);
        files.close(3, entry);
        files.close(3, entry);
        assert_eq!(open(&files, 3, Some("later")).1, Some("later"));
    }

    #[test]
    fn so_many_stay_when_nobody_has_them_open() {
        let files = PassedFiles::new(1);
        let opens = [3, 4].map(|nodeid| (nodeid, open(&files, nodeid, Some("first")).0));
        opens.iter().for_each(|(nodeid, entry)| files.close(*nodeid, *entry));
        assert_eq!(open(&files, 3, Some("second")).1, Some("first"));
        assert_eq!(open(&files, 4, Some("second")).1, Some("second"));
    }

    #[test]
    fn those_that_nobody_has_open_are_forgotten_together() {
        let files = PassedFiles::new(8);
        open(&files, 3, Some("first"));
        let (entry, _) = open(&files, 4, Some("first"));
        files.close(4, entry);
        files.forget_idle();
        assert_eq!(open(&files, 3, Some("second")).1, Some("first"));
        assert_eq!(open(&files, 4, Some("second")).1, Some("second"));
    }

    #[test]
    fn a_close_that_is_told_late_is_not_one_of_the_next_node_of_that_number() {
        let files = PassedFiles::new(0);
        let (entry, _) = open(&files, 3, Some("old"));
        files.forget(3);
        assert_eq!(open(&files, 3, Some("new")).1, Some("new"));
        files.close(3, entry);
        assert_eq!(open(&files, 3, Some("third")).1, Some("new"));
    }
}
