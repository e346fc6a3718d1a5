//! Trust: set-id bits and file capabilities give rights to whoever executes a file. They are shown of trusted branches alone,
//! and there only where the kernel would honour them.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Stat, StatVfsMountFlags};
use vfsrun_layers::Meta;

use crate::branch::Branch;
use crate::owners::Owners;

/// File capabilities.
pub(crate) const CAPABILITY: &str = "security.capability";

const ALL: u16 = 0o7777;
const SET_ID: u16 = 0o6000;

/// Set-id bits of a directory say whose new files are, and give nobody anything.
pub(crate) fn perm_mask(is_dir: bool, is_trusted: bool) -> u16 {
    if is_dir || is_trusted { ALL } else { ALL & !SET_ID }
}

pub(crate) fn has_set_id(stat: &Stat) -> bool {
    stat.st_mode as u16 & SET_ID != 0
}

/// Whoever mounts a file system nosuid answers for no owner that it tells (mnt_may_suid). And the file of somebody whom the
/// server's namespace cannot name is shown as another's, whose rights it must not give (bprm_fill_uid).
pub(crate) fn in_host_file(fd: BorrowedFd<'_>, stat: &Stat, owners: &Owners, branch: &Branch) -> bool {
    branch.trusted && owners.of_host(stat.st_uid, stat.st_gid).is_none() && !is_nosuid(fd)
}

pub(crate) fn is_nosuid(fd: impl AsFd) -> bool {
    rustix::fs::fstatvfs(fd).map_or(true, |fs| fs.f_flag.contains(StatVfsMountFlags::NOSUID))
}

pub(crate) fn in_layer_file(meta: &Meta, owners: &Owners, branch: &Branch) -> bool {
    branch.trusted && owners.has(meta.uid, meta.gid)
}

/// The capabilities of a layer's file are those of root inside. Said without a root (revision 2 of linux/capability.h), they
/// would be those of root in the server's namespace, and a copy of the file would be captured as that one's. `None` if the
/// root that they speak of does not exist.
pub(crate) fn capability_of_layer(value: &[u8], owners: &Owners) -> Option<Vec<u8>> {
    const REVISION_3: u8 = 3;
    let (inside, rest) = value.split_at_checked(20)?;
    let root = match rest.first_chunk() {
        Some(root) => u32::from_le_bytes(*root),
        None => 0,
    };
    let outside = owners.uid(root)?;
    let mut shown = inside.to_vec();
    if outside != 0 {
        shown[3] = REVISION_3;
        shown.extend(outside.to_le_bytes());
    }
    Some(shown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::describe::{IdExtent, IdMap};

    fn owners(uids: Vec<IdExtent>) -> Owners {
        Owners::new(IdMap { uids, gids: Vec::new() }, None).unwrap()
    }

    #[test]
    fn capabilities_of_a_layer_are_those_of_root_inside() {
        let extents = vec![
            IdExtent { inside: 1000, outside: 0, count: 1 },
            IdExtent { inside: 0, outside: 1, count: 1000 },
        ];
        let plain = [&[1, 0, 0, 2], [7; 16].as_slice()].concat();
        let of_one = [&[1, 0, 0, 3], [7; 16].as_slice(), &1u32.to_le_bytes()].concat();
        let of_two = [&[1, 0, 0, 3], [7; 16].as_slice(), &2u32.to_le_bytes()].concat();
        let owners_here = owners(extents);
        assert_eq!(capability_of_layer(&plain, &owners_here), Some(of_one.clone()));
        assert_eq!(capability_of_layer(&of_one, &owners_here), Some(of_two));
        assert_eq!(capability_of_layer(&plain, &owners(Vec::new())), Some(plain.clone()));
        let without_root = owners(vec![IdExtent { inside: 1000, outside: 0, count: 1 }]);
        assert_eq!(capability_of_layer(&plain, &without_root), None);
        assert_eq!(capability_of_layer(&plain[..19], &owners_here), None);
    }
}
