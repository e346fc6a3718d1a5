//! Owners: ids of layers shifted, and host files whose owner the server's user namespace cannot express.

mod support;

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use support::*;
use vfsrun_union::describe::{IdExtent, IdMap, SegmentSpec};
use vfsrun_union::{Attr, Errno, Segment};

fn attr(segment: &Segment, path: &str) -> Attr {
    segment.attr(&get(segment, path).unwrap()).unwrap()
}

#[test]
fn ids_of_layers_are_shifted_into_the_action_s_map() {
    let mut world = World::new();
    let mut file = entry("f", world.blob("x"));
    (file.meta.uid, file.meta.gid) = (5, 70_000);
    let branches = vec![world.layer(vec![file])];
    let extents = || vec![IdExtent { inside: 0, outside: 100_000, count: 65_536 }];
    let ids = IdMap { uids: extents(), gids: extents() };
    let spec = SegmentSpec { branches, ids, unmapped: Some((100_000, 100_001)), ..SegmentSpec::default() };
    let segment = world.build_spec(spec).unwrap();
    let attr = |path: &str| attr(&segment, path);
    assert_eq!((attr("f").uid, attr("f").gid), (100_005, 100_001));
    // What is made up belongs to root inside.
    assert_eq!(attr("").uid, 100_000);
}

#[test]
fn a_file_of_an_unmapped_owner_gives_no_right_that_the_server_does_not_have() {
    if let Some(tree) = user_namespace::tree_to_look_at() {
        return look_from_inside(&tree);
    }
    if !rustix::process::geteuid().is_root() {
        skip::this_test("only root can make files of other owners");
        return;
    }
    let world = World::new();
    let tree = world.dir("tree", &[("private", "x"), ("public", "x"), ("dir/f", "x"), ("mine", "x")]);
    for (name, mode) in [("private", 0o600), ("public", 0o644), ("dir", 0o700)] {
        chown(tree.join(name), Some(12_345), Some(12_345)).unwrap();
        std::fs::set_permissions(tree.join(name), Permissions::from_mode(mode)).unwrap();
    }
    std::fs::set_permissions(world.path(), Permissions::from_mode(0o755)).unwrap();
    user_namespace::look_again(
        "a_file_of_an_unmapped_owner_gives_no_right_that_the_server_does_not_have",
        &tree,
    );
}

fn look_from_inside(tree: &Path) {
    let mut world = World::new();
    let branches = vec![world.host(tree)];
    let spec = SegmentSpec { branches, unmapped: Some((0, 0)), ..SegmentSpec::default() };
    let segment = world.build_spec(spec).unwrap();
    let shown = |path: &str| {
        let attr = attr(&segment, path);
        (attr.uid, attr.gid, attr.perm)
    };
    assert_eq!(shown("private"), (0, 0, 0));
    assert_eq!(shown("public"), (0, 0, 0o644));
    assert_eq!(shown("dir"), (0, 0, 0));
    assert_eq!(shown("mine"), (0, 0, 0o644));
    assert_eq!(read(&segment, "private").unwrap_err(), Errno::ACCESS);
    assert_eq!(kind(&segment, "dir/f").unwrap_err(), Errno::ACCESS);
    assert_eq!(read(&segment, "public").unwrap(), "x");
}
