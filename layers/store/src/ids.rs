//! An id map: which numbers of this machine stand for which ids inside a layer.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use serde::{Deserialize, Serialize};

/// As in uid_map(5). Without extents every id stands for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    pub uids: Vec<IdExtent>,
    pub gids: Vec<IdExtent>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdExtent {
    /// First id as recorded in layers.
    pub inside: u32,
    /// First id as stat shows it to the process that captures.
    pub outside: u32,
    pub count: u32,
}

/// An id that no extent covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unmapped {
    /// `uid` or `gid`.
    pub what: &'static str,
    pub id: u32,
}

impl IdMap {
    pub fn uid_inside(&self, outside: u32) -> Result<u32, Unmapped> {
        inside(&self.uids, outside).ok_or(Unmapped { what: "uid", id: outside })
    }

    pub fn gid_inside(&self, outside: u32) -> Result<u32, Unmapped> {
        inside(&self.gids, outside).ok_or(Unmapped { what: "gid", id: outside })
    }

    /// Translates the ids that attributes contain: the named entries of POSIX ACLs and the root of a file capability.
    pub fn xattrs_inside(&self, xattrs: &mut BTreeMap<OsString, Vec<u8>>) -> Result<(), Unmapped> {
        for name in ["system.posix_acl_access", "system.posix_acl_default"] {
            if let Some(value) = xattrs.get_mut(OsStr::new(name)) {
                self.acl_inside(value)?;
            }
        }
        if let Some(value) = xattrs.get_mut(OsStr::new("security.capability")) {
            self.capability_inside(value)?;
        }
        Ok(())
    }

    /// posix_acl_xattr.h: a 32-bit version, then entries of a 16-bit tag, 16-bit permissions and a 32-bit id.
    fn acl_inside(&self, value: &mut [u8]) -> Result<(), Unmapped> {
        const ACL_USER: u16 = 0x02;
        const ACL_GROUP: u16 = 0x08;
        let Some(entries) = value.get_mut(4..) else { return Ok(()) };
        for entry in entries.chunks_exact_mut(8) {
            let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
            let mapped = match u16::from_le_bytes([entry[0], entry[1]]) {
                ACL_USER => self.uid_inside(id)?,
                ACL_GROUP => self.gid_inside(id)?,
                _ => continue,
            };
            entry[4..].copy_from_slice(&mapped.to_le_bytes());
        }
        Ok(())
    }

    /// linux/capability.h: revision 3 is revision 2 with the uid of the namespace's root at its end. Root inside is
    /// written as revision 2, which is what the action itself sees.
    fn capability_inside(&self, value: &mut Vec<u8>) -> Result<(), Unmapped> {
        const REVISION_2: u8 = 2;
        const REVISION_3: u8 = 3;
        if value.len() != 24 || value[3] != REVISION_3 {
            return Ok(());
        }
        let root = self.uid_inside(u32::from_le_bytes([value[20], value[21], value[22], value[23]]))?;
        if root == 0 {
            value.truncate(20);
            value[3] = REVISION_2;
        } else {
            value[20..].copy_from_slice(&root.to_le_bytes());
        }
        Ok(())
    }
}

fn inside(extents: &[IdExtent], outside: u32) -> Option<u32> {
    if extents.is_empty() {
        return Some(outside);
    }
    extents.iter().find_map(|extent| {
        let offset = outside.checked_sub(extent.outside).filter(|offset| *offset < extent.count)?;
        extent.inside.checked_add(offset)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> IdMap {
        let extents = vec![
            IdExtent { inside: 0, outside: 1000, count: 1 },
            IdExtent { inside: 1, outside: 100_000, count: 65535 },
        ];
        IdMap { uids: extents.clone(), gids: extents }
    }

    #[test]
    fn ids_are_found_in_their_extent() {
        assert_eq!(map().uid_inside(1000), Ok(0));
        assert_eq!(map().gid_inside(100_032), Ok(33));
        assert_eq!(map().uid_inside(0), Err(Unmapped { what: "uid", id: 0 }));
        assert_eq!(map().uid_inside(165_535), Err(Unmapped { what: "uid", id: 165_535 }));
    }

    #[test]
    fn a_named_acl_entry_is_translated_and_the_others_are_not() {
        let mut acl = vec![2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0];
        acl.extend(100_000u32.to_le_bytes());
        let mut xattrs = BTreeMap::from([(OsString::from("system.posix_acl_access"), acl)]);
        map().xattrs_inside(&mut xattrs).unwrap();
        let acl = &xattrs[OsStr::new("system.posix_acl_access")];
        assert_eq!(acl[8..12], [255; 4]);
        assert_eq!(acl[16..], 1u32.to_le_bytes());
    }

    #[test]
    fn a_capability_of_the_inner_root_becomes_a_plain_one() {
        let mut value = vec![1, 0, 0, 3];
        value.extend([7; 16]);
        value.extend(1000u32.to_le_bytes());
        let mut xattrs = BTreeMap::from([(OsString::from("security.capability"), value)]);
        map().xattrs_inside(&mut xattrs).unwrap();
        let value = &xattrs[OsStr::new("security.capability")];
        assert_eq!((value.len(), value[3]), (20, 2));
    }
}
