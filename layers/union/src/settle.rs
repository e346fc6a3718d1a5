//! Settling: what was served is put under watch, so that the next sweep need not look at it. Done when nobody waits.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{Mode, openat};

use crate::attr::FileKind;
use crate::describe::Live;
use crate::host::LOOK;
use crate::node::{Node, Served};
use crate::segment::Segment;
use crate::sweep::{OpenDirs, is_mount_root, parent_of};
use crate::watch::{Proof, Refusal, Subject};

/// Which nodes are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// All that are in doubt.
    All,
    /// Those for which it has not been in vain lately: what is opened between any two runs is swept more cheaply.
    Worthwhile,
}

impl Segment {
    /// Puts under watch what can be, as long as `go_on` says so. What cannot be watched is swept each time: files that
    /// somebody has open for writing or that the server may not read or lease, followed links, inputs, whatever lies on
    /// a file system that changes without events, and all that is beyond the user's budget of watches.
    pub fn settle(&self, effort: Effort, go_on: impl Fn() -> bool) {
        if !self.watches.are_usable() {
            return;
        }
        let mut nodes = self.table.doubtful();
        // Directories last: that a file in them is opened for its lease is an event.
        nodes.sort_unstable_by_key(|node| (node.kind() == FileKind::Directory, parent_of(node)));
        for children in nodes.chunk_by(|one, two| parent_of(one) == parent_of(two)) {
            let mut dirs = OpenDirs::default();
            for node in children {
                if !go_on() {
                    return;
                }
                // What is slow changes without events.
                if self.may_wait(node.parent().unwrap_or(node)) {
                    continue;
                }
                if !self.may_change(node) {
                    node.settle();
                } else if self.is_settled_state(node)
                    && (effort == Effort::All || !node.served.patience.must_wait())
                {
                    match self.cover(node, &mut dirs) {
                        Ok(()) => {}
                        Err(Refusal::Subject) => node.served.patience.put_off(),
                        Err(Refusal::Full) => return,
                    }
                }
            }
        }
    }

    /// What is in doubt for a reason that no watch removes has to be forgotten first.
    fn is_settled_state(&self, node: &Node) -> bool {
        ![Served::LOST, Served::RACY, Served::UNSTABLE, Served::JUDGED]
            .iter()
            .any(|flag| node.served.has(*flag))
    }

    fn cover(&self, node: &Arc<Node>, dirs: &mut OpenDirs) -> Result<(), Refusal> {
        let parent = node.parent().ok_or(Refusal::Subject)?;
        if self.depends_on_more(node) {
            return Err(Refusal::Subject);
        }
        let (mut subjects, mut proof) = (Vec::new(), Proof::Events);
        for origin in node.origins().iter() {
            let branch = self.branch(origin.branch);
            if !self.is_plain(node, parent, origin) || branch.watching == Live::Sweep {
                return Err(Refusal::Subject);
            }
            if !branch.live {
                continue;
            }
            if branch.watching == Live::Auto {
                proof = Proof::Lease;
            }
            let dir = dirs.open(self, parent, origin).map_err(|_| Refusal::Subject)?;
            let fd = openat(dir, node.name(), LOOK, Mode::empty()).map_err(|_| Refusal::Subject)?;
            let stat = rustix::fs::fstat(&fd).map_err(|_| Refusal::Subject)?;
            // What is mounted here has its name elsewhere: when that is removed, nobody is told here.
            if !self.watches.trust(fd.as_fd()) || is_mount_root(&fd, OsStr::new("")) {
                return Err(Refusal::Subject);
            }
            subjects.push(Subject { fd, stat });
        }
        self.watches.cover(node, &subjects, proof, || {
            self.stat_all(node, parent, dirs).is_ok_and(|(print, _)| print == node.served.print())
        })?;
        // Somebody may have opened it meanwhile, and found a writer.
        if !self.is_settled_state(node) {
            node.doubt();
        }
        Ok(())
    }
}
