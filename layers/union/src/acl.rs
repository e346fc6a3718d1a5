//! A POSIX access control list, as its attribute holds it (linux/posix_acl_xattr.h): a 32-bit version, then entries of a 16-bit
//! tag, 16-bit permissions and a 32-bit id.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use rustix::fs::Stat;
use rustix::io::Errno;
use rustix::path::Arg;

use crate::branch::Branch;
use crate::describe::Xattrs;
use crate::host;
use crate::owners::Owners;

pub(crate) const ACCESS: &CStr = c"system.posix_acl_access";
pub(crate) const DEFAULT: &CStr = c"system.posix_acl_default";

const USER: u16 = 0x02;
const GROUP: u16 = 0x08;

/// Whose an entry is.
pub(crate) enum Whose {
    User(u32),
    Group(u32),
    /// The owner's, the owning group's, everybody's, or the mask.
    Unnamed,
}

/// `None` for what is no list.
pub(crate) fn entries(list: &[u8]) -> Option<impl Iterator<Item = (Whose, &[u8; 8])>> {
    let (entries, []) = list.get(4..)?.as_chunks::<8>() else { return None };
    Some(entries.iter().map(|entry| {
        let [tag0, tag1, _, _, id @ ..] = *entry;
        let id = u32::from_le_bytes(id);
        let whose = match u16::from_le_bytes([tag0, tag1]) {
            USER => Whose::User(id),
            GROUP => Whose::Group(id),
            _ => Whose::Unnamed,
        };
        (whose, entry)
    }))
}

/// What a host file has.
#[derive(Debug)]
pub(crate) enum List {
    None,
    /// It cannot be shown: then nobody has rights by it.
    Hidden,
    Shown(Vec<u8>),
}

/// `name` is [`ACCESS`] or [`DEFAULT`]. A list is shown whole or not at all: who is left out of one has the rights of
/// everybody else, which may be more. And it speaks of the file's own owner and group, whose rights nobody else gets.
pub(crate) fn of_host(
    fd: BorrowedFd<'_>,
    name: impl Arg + Copy,
    stat: &Stat,
    owners: &Owners,
    branch: &Branch,
) -> List {
    match host::get_xattr(fd, name) {
        Ok(list) if list.is_empty() => List::None,
        Ok(list)
            if is_passed(branch) && owners.of_host(stat.st_uid, stat.st_gid).is_none() && is_known(&list) =>
        {
            List::Shown(list)
        }
        Err(Errno::NODATA | Errno::NOTSUP) => List::None,
        _ => List::Hidden,
    }
}

fn is_passed(branch: &Branch) -> bool {
    branch.xattrs != Xattrs::Off && branch.rewrite.is_none()
}

/// Whether all that it names has an id in the server's user namespace: the kernel tells others as -1, and refuses a list
/// that has one.
fn is_known(list: &[u8]) -> bool {
    entries(list).is_some_and(|mut entries| {
        entries.all(|(whose, _)| !matches!(whose, Whose::User(u32::MAX) | Whose::Group(u32::MAX)))
    })
}
