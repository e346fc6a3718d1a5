//! Owners: which uid and gid a file is shown with, in ids of the server's user namespace.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::fcntl::AtFlags;
use nix::unistd::AccessFlags;

use crate::acl::{self, Whose};
use crate::describe::{IdExtent, IdMap, PermChange, Rewrite};

/// What stat shows for an id that the namespace does not map (/proc/sys/kernel/overflowuid, never changed in practice).
const OVERFLOW: u32 = 65534;

#[derive(Debug)]
pub(crate) struct Owners {
    ids: IdMap,
    unmapped: Option<(u32, u32)>,
    /// Whether stat may have replaced an id by the overflow id.
    namespaced: bool,
}

impl Owners {
    pub(crate) fn new(ids: IdMap, unmapped: Option<(u32, u32)>) -> io::Result<Owners> {
        let map = std::fs::read_to_string("/proc/self/uid_map")?;
        let namespaced = !map.split_whitespace().eq(["0", "0", "4294967295"]);
        Ok(Owners { ids, unmapped, namespaced })
    }

    /// From the ids recorded in a layer.
    pub(crate) fn of_layer(&self, uid: u32, gid: u32) -> (u32, u32) {
        let (no_uid, no_gid) = self.unmapped.unwrap_or((OVERFLOW, OVERFLOW));
        (outside(&self.ids.uids, uid).unwrap_or(no_uid), outside(&self.ids.gids, gid).unwrap_or(no_gid))
    }

    /// Whether a layer's ids exist here.
    pub(crate) fn has(&self, uid: u32, gid: u32) -> bool {
        self.uid(uid).is_some() && outside(&self.ids.gids, gid).is_some()
    }

    /// From a uid recorded in a layer; `None` if it does not exist here.
    pub(crate) fn uid(&self, uid: u32) -> Option<u32> {
        outside(&self.ids.uids, uid)
    }

    /// From an access control list recorded in a layer. An entry for an id that nobody here can have is left out, for the
    /// kernel refuses the whole of a list that has one.
    pub(crate) fn acl_of_layer(&self, list: &[u8]) -> Vec<u8> {
        let Some(entries) = acl::entries(list) else { return list.to_vec() };
        let mut shown = list[..4].to_vec();
        for (whose, entry) in entries {
            let moved = match whose {
                Whose::User(uid) => outside(&self.ids.uids, uid).map(u32::to_le_bytes),
                Whose::Group(gid) => outside(&self.ids.gids, gid).map(u32::to_le_bytes),
                Whose::Unnamed => Some([entry[4], entry[5], entry[6], entry[7]]),
            };
            if let Some(id) = moved {
                shown.extend([&entry[..4], &id].concat());
            }
        }
        shown
    }

    /// What is shown instead of the ids of a host file.
    pub(crate) fn instead(&self, rewrite: &Rewrite, uid: u32, gid: u32) -> (u32, u32) {
        let (wanted_uid, wanted_gid) =
            self.of_layer(rewrite.uid.unwrap_or_default(), rewrite.gid.unwrap_or_default());
        (rewrite.uid.map_or(uid, |_| wanted_uid), rewrite.gid.map_or(gid, |_| wanted_gid))
    }

    /// Root inside the action.
    pub(crate) fn root(&self) -> (u32, u32) {
        self.of_layer(0, 0)
    }

    /// From what stat said of a host file; `None` if nothing is to be rewritten.
    pub(crate) fn of_host(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        let (no_uid, no_gid) = self.unmapped.filter(|_| self.namespaced)?;
        if uid != OVERFLOW && gid != OVERFLOW {
            return None;
        }
        Some((if uid == OVERFLOW { no_uid } else { uid }, if gid == OVERFLOW { no_gid } else { gid }))
    }
}

impl PermChange {
    /// Of a permission, as chmod does it.
    pub(crate) fn apply(&self, perm: u16, is_dir: bool) -> u16 {
        let (mut clear, mut set) = (self.clear, self.set);
        if is_dir || perm & 0o111 != 0 {
            (clear, set) = (clear | self.clear_search, set | self.set_search);
        }
        perm & !clear | set
    }
}

/// Whether the server's own identity may read the file (and search it, if it is a directory). Asked before an owner is
/// rewritten: the kernel would judge by the rewritten one.
pub(crate) fn is_readable(fd: BorrowedFd<'_>, is_dir: bool) -> bool {
    let wanted = if is_dir { AccessFlags::R_OK | AccessFlags::X_OK } else { AccessFlags::R_OK };
    nix::unistd::faccessat(fd.as_fd(), "", wanted, AtFlags::AT_EACCESS | AtFlags::AT_EMPTY_PATH).is_ok()
}

fn outside(extents: &[IdExtent], inside: u32) -> Option<u32> {
    if extents.is_empty() {
        return Some(inside);
    }
    extents.iter().find_map(|extent| {
        let offset = inside.checked_sub(extent.inside)?;
        (offset < extent.count).then(|| extent.outside.checked_add(offset)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_a_layer_move_by_their_extent_and_others_are_unmapped() {
        let uids = vec![
            IdExtent { inside: 0, outside: 1000, count: 1 },
            IdExtent { inside: 1, outside: 100_000, count: 10 },
        ];
        let owners =
            Owners { ids: IdMap { uids, gids: Vec::new() }, unmapped: Some((7, 8)), namespaced: false };
        assert_eq!(owners.of_layer(0, 5), (1000, 5));
        assert_eq!(owners.of_layer(10, 0), (100_009, 0));
        assert_eq!(owners.of_layer(11, 0), (7, 0));
    }

    #[test]
    fn named_entries_of_a_list_move_like_owners_and_those_of_nobody_are_left_out() {
        let uids = vec![IdExtent { inside: 5, outside: 1000, count: 1 }];
        let gids = vec![IdExtent { inside: 5, outside: 2000, count: 1 }];
        let owners = Owners { ids: IdMap { uids, gids }, unmapped: None, namespaced: true };
        let entry = |tag: u8, id: u32| [&[tag, 0, 4, 0], id.to_le_bytes().as_slice()].concat();
        let list = |entries: &[Vec<u8>]| [vec![2, 0, 0, 0], entries.concat()].concat();
        let none = u32::MAX;
        let layer = list(&[entry(1, none), entry(2, 5), entry(2, 6), entry(8, 5), entry(16, none)]);
        let shown = list(&[entry(1, none), entry(2, 1000), entry(8, 2000), entry(16, none)]);
        assert_eq!(owners.acl_of_layer(&layer), shown);
        // What is no list stays what it is, for the kernel to refuse.
        assert_eq!(owners.acl_of_layer(&layer[..9]), layer[..9]);
        assert_eq!(owners.acl_of_layer(&layer[..3]), layer[..3]);
    }

    #[test]
    fn only_a_namespaced_server_rewrites_overflow_ids() {
        let owners = |namespaced| Owners { ids: IdMap::default(), unmapped: Some((1, 2)), namespaced };
        assert_eq!(owners(true).of_host(65534, 0), Some((1, 0)));
        assert_eq!(owners(true).of_host(0, 65534), Some((0, 2)));
        assert_eq!(owners(true).of_host(0, 0), None);
        assert_eq!(owners(false).of_host(65534, 65534), None);
    }
}
