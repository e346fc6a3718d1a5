//! Access control lists of host files: shown whole or not at all, and with the mode that goes with them.

mod support;

use std::ffi::OsStr;
use std::path::Path;

use rustix::fs::XattrFlags;
use support::*;
use vfsrun_union::describe::{BranchSpec, PermChange, Rewrite, SegmentSpec, Xattrs};
use vfsrun_union::{Errno, Segment};

const ACCESS: &str = "system.posix_acl_access";
const NOBODY: u32 = u32::MAX;

/// The attribute's bytes: who the owner, one user by name, the group, all named ones at most, and others are.
fn list(owner: u16, (user, by_name): (u32, u16), group: u16, mask: u16, others: u16) -> Vec<u8> {
    let entry = |tag: u16, perm: u16, id: u32| {
        [tag.to_le_bytes().as_slice(), perm.to_le_bytes().as_slice(), id.to_le_bytes().as_slice()].concat()
    };
    let entries = [
        entry(1, owner, NOBODY),
        entry(2, by_name, user),
        entry(4, group, NOBODY),
        entry(16, mask, NOBODY),
        entry(32, others, NOBODY),
    ];
    [vec![2, 0, 0, 0], entries.concat()].concat()
}

/// `false`, said aloud, where the file system has no lists.
fn set(path: &Path, list: &[u8]) -> bool {
    let set = rustix::fs::setxattr(path, ACCESS, list, XattrFlags::empty());
    if set == Err(Errno::NOTSUP) {
        skip::this_test(&format!("no access control lists on {}", path.display()));
        return false;
    }
    set.unwrap();
    true
}

fn passing(branch: BranchSpec) -> BranchSpec {
    BranchSpec { xattrs: Xattrs::Pass(Vec::new()), ..branch }
}

/// Permissions, the list, and whether it is named.
fn shown(segment: &Segment, path: &str) -> (u16, Result<Vec<u8>, Errno>, bool) {
    let node = get(segment, path).unwrap();
    let perm = segment.attr(&node).unwrap().perm;
    let named = segment.list_xattrs(&node).unwrap().iter().any(|name| name == ACCESS);
    (perm, segment.get_xattr(&node, OsStr::new(ACCESS)), named)
}

#[test]
fn a_list_is_shown_where_the_branch_passes_it_and_else_nobody_has_rights_by_it() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("f", "x"), ("d/g", "x")]);
    let (of_file, of_dir) = (list(6, (12, 4), 0, 4, 0), list(7, (12, 5), 0, 5, 0));
    if !set(&tree.join("f"), &of_file) || !set(&tree.join("d"), &of_dir) {
        return;
    }
    let branches = vec![world.host(&tree)];
    let off = world.build(branches);
    let branches = vec![passing(world.host(&tree))];
    let pass = world.build(branches);
    assert!(!off.needs_xattrs() && pass.needs_xattrs());
    for (path, own, all, given) in [("f", 0o600, 0o640, of_file), ("d", 0o700, 0o750, of_dir)] {
        assert_eq!(shown(&off, path), (own, Err(Errno::NODATA), false), "{path}");
        assert_eq!(shown(&pass, path), (all, Ok(given), true), "{path}");
    }
    // A file without one has the rights that its mode says.
    assert_eq!(shown(&pass, "d/g"), (0o644, Err(Errno::NODATA), false));
}

#[test]
fn a_list_does_not_speak_of_owners_and_permissions_that_are_shown_instead() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("f", "x")]);
    if !set(&tree.join("f"), &list(6, (12, 4), 0, 4, 0)) {
        return;
    }
    let readable = PermChange { clear: 0, set: 0o004, set_search: 0, clear_search: 0 };
    for rewrite in [
        Rewrite { perms: vec![readable], ..Rewrite::default() },
        Rewrite { override_stat: true, ..Rewrite::default() },
        Rewrite { gid: Some(12), ..Rewrite::default() },
    ] {
        let perm = if rewrite.perms.is_empty() { 0o600 } else { 0o604 };
        let branches = vec![BranchSpec { rewrite, ..passing(world.host(&tree)) }];
        assert_eq!(shown(&world.build(branches), "f"), (perm, Err(Errno::NODATA), false));
    }
}

/// The mode that was shown is the mask of the list: without it, it would be the group's.
#[test]
fn a_list_that_was_changed_or_taken_away_is_an_error_and_never_another_one() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("f", "x"), ("d/", "")]);
    // Nor may the owner search the directory: what lies in it could not be removed.
    let given = list(6, (12, 6), 0, 6, 0);
    let take_away = |path: &Path| rustix::fs::removexattr(path, ACCESS).unwrap();
    let change = |path: &Path| assert!(set(path, &list(6, (13, 6), 0, 6, 0)));
    for path in ["f", "d"] {
        for change in [&take_away as &dyn Fn(&Path), &change] {
            if !set(&tree.join(path), &given) {
                return;
            }
            // A ctime that the change will not have.
            std::thread::sleep(std::time::Duration::from_millis(20));
            let branches = vec![passing(world.host(&tree))];
            let segment = world.build(branches);
            let node = get(&segment, path).unwrap();
            assert_eq!(segment.get_xattr(&node, OsStr::new(ACCESS)), Ok(given.clone()));
            change(&tree.join(path));
            assert!(!segment.is_current());
            assert_eq!(segment.get_xattr(&node, OsStr::new(ACCESS)), Err(Errno::IO), "{path}");
            assert_eq!(segment.list_xattrs(&node), Err(Errno::IO), "{path}");
        }
    }
}

/// Or nothing could be written in a busy directory: an overlay reads the attributes of what it copies up.
#[test]
fn attributes_of_a_directory_outlast_a_change_of_its_names() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("d/", "")]);
    let given = list(6, (12, 6), 0, 6, 0);
    if !set(&tree.join("d"), &given) {
        return;
    }
    std::thread::sleep(std::time::Duration::from_millis(20));
    let branches = vec![passing(world.host(&tree))];
    let segment = world.build(branches);
    let node = get(&segment, "d").unwrap();
    std::fs::write(tree.join("d/new"), "").unwrap();
    assert_eq!(segment.get_xattr(&node, OsStr::new(ACCESS)), Ok(given));
    assert!(segment.list_xattrs(&node).unwrap().iter().any(|name| name == ACCESS));
    std::fs::set_permissions(tree.join("d"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::write(tree.join("d/newer"), "").unwrap();
    assert_eq!(segment.get_xattr(&node, OsStr::new(ACCESS)), Err(Errno::IO));
}

#[test]
fn a_list_that_names_somebody_who_does_not_exist_here_is_not_shown() {
    if let Some(tree) = user_namespace::tree_to_look_at() {
        return look_from_inside(&tree);
    }
    let world = World::new();
    let tree = world.dir("tree", &[("foreign", "x"), ("own", "x")]);
    let own = rustix::process::geteuid().as_raw();
    for (path, user) in [("foreign", 12_345), ("own", own)] {
        if !set(&tree.join(path), &list(6, (user, 4), 0, 4, 0)) {
            return;
        }
    }
    user_namespace::look_again("a_list_that_names_somebody_who_does_not_exist_here_is_not_shown", &tree);
}

fn look_from_inside(tree: &Path) {
    let mut world = World::new();
    let branches = vec![passing(world.host(tree))];
    let spec = SegmentSpec { branches, unmapped: Some((0, 0)), ..SegmentSpec::default() };
    let segment = world.build_spec(spec).unwrap();
    assert_eq!(shown(&segment, "foreign"), (0o600, Err(Errno::NODATA), false));
    // In the ids of the namespace.
    assert_eq!(shown(&segment, "own"), (0o640, Ok(list(6, (0, 4), 0, 4, 0)), true));
}
