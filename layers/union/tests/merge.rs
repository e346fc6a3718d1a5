//! Branches merged: order, places, types, opaque directories and whiteouts.

mod support;

use std::ffi::OsStr;

use support::*;
use vfsrun_layers::Kind;
use vfsrun_union::describe::{SegmentSpec, SkeletonContent, SkeletonEntry, TypeConflict};
use vfsrun_union::{Errno, FaultReason, FileKind, SegmentError};

fn skeleton_entry(path: &str, content: SkeletonContent) -> SkeletonEntry {
    SkeletonEntry { path: path.into(), mode: 0o711, owner: (3, 4), content }
}

#[test]
fn the_first_branch_that_has_a_file_wins_and_directories_merge() {
    let mut world = World::new();
    let one = world.dir("one", &[("d/a", "one"), ("d/b", "one")]);
    let two = world.dir("two", &[("d/b", "two"), ("d/c", "two"), ("e/x", "two")]);
    let branches = vec![world.host(&one), world.host(&two)];
    let segment = world.build(branches);
    assert_eq!(names(&segment, "d"), ["a", "b", "c"]);
    assert_eq!(names(&segment, ""), ["d", "e"]);
    assert_eq!(read(&segment, "d/b").unwrap(), "one");
    assert_eq!(read(&segment, "d/c").unwrap(), "two");
    assert_eq!(kind(&segment, "d/x"), Err(Errno::NOENT));
}

#[test]
fn a_file_ends_the_merge_of_a_directory() {
    let mut world = World::new();
    let one = world.dir("one", &[("x/a", "1")]);
    let two = world.dir("two", &[("x", "2")]);
    let three = world.dir("three", &[("x/b", "3")]);
    let branches = vec![world.host(&one), world.host(&two), world.host(&three)];
    let segment = world.build(branches);
    assert_eq!(names(&segment, "x"), ["a"]);
    // The segments below must not show through either.
    let opaque = segment.get_xattr(&get(&segment, "x").unwrap(), OsStr::new("user.overlay.opaque"));
    assert_eq!(opaque.unwrap(), b"y");
}

#[test]
fn a_conflict_of_types_is_an_error_where_that_is_asked_for() {
    let mut world = World::new();
    let one = world.dir("one", &[("x", "1"), ("same", "1")]);
    let two = world.dir("two", &[("x/b", "2"), ("same", "2")]);
    let branches = vec![world.host(&one), world.host(&two)];
    let types = TypeConflict::Error;
    let segment = world.build_spec(SegmentSpec { branches, types, ..SegmentSpec::default() }).unwrap();
    assert_eq!(kind(&segment, "x"), Err(Errno::IO));
    assert_eq!(read(&segment, "same").unwrap(), "1");
    let faults = segment.faults();
    assert_eq!(faults.len(), 1);
    assert_eq!(faults[0].path.to_str(), Some("x"));
    assert!(matches!(faults[0].reason, FaultReason::TypeConflict { .. }));
}

#[test]
fn a_branch_has_its_place_and_what_leads_there_is_made_up() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("f", "x")]);
    let branches = vec![at("usr/local", world.host(&tree))];
    let segment = world.build(branches);
    assert_eq!(names(&segment, ""), ["usr"]);
    assert_eq!(names(&segment, "usr"), ["local"]);
    assert_eq!(read(&segment, "usr/local/f").unwrap(), "x");
    let usr = segment.attr(&get(&segment, "usr").unwrap()).unwrap();
    assert_eq!((usr.perm, usr.uid, usr.gid, usr.mtime.sec), (0o755, 0, 0, 1));
}

#[test]
fn a_real_directory_lends_its_attributes_to_a_made_up_one_above_it() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("f", "x")]);
    let mut tmp = dir("tmp");
    tmp.meta.mode = 0o1777;
    let branches = vec![at("tmp/x", world.host(&tree)), world.layer(vec![tmp])];
    let segment = world.build(branches);
    let attr = segment.attr(&get(&segment, "tmp").unwrap()).unwrap();
    assert_eq!((attr.perm, attr.mtime.sec), (0o1777, 7));
}

#[test]
fn a_branch_that_is_a_file_is_that_file() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("f", "content")]);
    let branches = vec![at("etc/hosts", world.host(&tree.join("f")))];
    let segment = world.build(branches);
    assert_eq!(read(&segment, "etc/hosts").unwrap(), "content");
    let listed = segment.list(&get(&segment, "etc").unwrap()).unwrap();
    assert_eq!(listed[0].kind, FileKind::Regular);
    let root = world.host(&tree.join("f"));
    let error = world.build_spec(SegmentSpec { branches: vec![root], ..SegmentSpec::default() });
    assert!(matches!(error, Err(SegmentError::FileAtRoot { .. })));
}

#[test]
fn a_whiteout_hides_lower_branches_and_is_shown() {
    let mut world = World::new();
    let lower = world.dir("lower", &[("d/gone", "x"), ("d/stays", "x")]);
    let upper = vec![dir("d"), entry("d/gone", Kind::Whiteout)];
    let branches = vec![world.layer(upper), world.host(&lower)];
    let segment = world.build(branches);
    let gone = get(&segment, "d/gone").unwrap();
    assert_eq!(gone.kind(), FileKind::Whiteout);
    assert_eq!(segment.open(&gone).unwrap_err(), Errno::NXIO);
    assert_eq!(names(&segment, "d"), ["gone", "stays"]);
    // So that an overlay with this directory in one layer only does not list the whiteout.
    let mark =
        |path: &str| segment.get_xattr(&get(&segment, path).unwrap(), OsStr::new("user.overlay.origin"));
    assert_eq!(mark("d").unwrap(), b"");
    assert_eq!(mark("").unwrap_err(), Errno::NODATA);
}

#[test]
fn an_opaque_directory_ends_the_merge_and_says_so() {
    let mut world = World::new();
    let lower = world.dir("lower", &[("d/below", "x"), ("e/below", "x")]);
    let upper = vec![entry("d", Kind::Directory { opaque: true }), entry("d/f", world.blob("f")), dir("e")];
    let branches = vec![world.layer(upper), world.host(&lower)];
    let segment = world.build(branches);
    assert_eq!(names(&segment, "d"), ["f"]);
    assert_eq!(kind(&segment, "d/below"), Err(Errno::NOENT));
    let mark = |path: &str, name: &str| segment.get_xattr(&get(&segment, path).unwrap(), OsStr::new(name));
    assert_eq!(mark("d", "user.overlay.opaque").unwrap(), b"y");
    assert_eq!(mark("d", "trusted.overlay.opaque").unwrap(), b"y");
    assert_eq!(mark("e", "user.overlay.opaque").unwrap_err(), Errno::NODATA);
    assert_eq!(segment.list_xattrs(&get(&segment, "d").unwrap()).unwrap(), [""; 0]);
}

#[test]
fn a_whiteout_or_opaque_directory_between_two_directories_cuts_off_the_lower_one() {
    let mut world = World::new();
    let upper = world.dir("upper", &[("d/up", "x"), ("e/up", "x")]);
    let middle = vec![entry("d", Kind::Whiteout), entry("e", Kind::Directory { opaque: true })];
    let lower = world.dir("lower", &[("d/low", "x"), ("e/low", "x")]);
    let branches = vec![world.host(&upper), world.layer(middle), world.host(&lower)];
    let segment = world.build(branches);
    for name in ["d", "e"] {
        assert_eq!(names(&segment, name), ["up"], "{name}");
        let mark = segment.get_xattr(&get(&segment, name).unwrap(), OsStr::new("user.overlay.opaque"));
        assert_eq!(mark.unwrap(), b"y", "{name}");
    }
}

#[test]
fn a_skeleton_has_directories_files_and_links() {
    let mut world = World::new();
    let entries = vec![
        skeleton_entry("etc/passwd", SkeletonContent::File("root:x:0:0\n".into())),
        skeleton_entry("proc", SkeletonContent::Directory),
        skeleton_entry("lib", SkeletonContent::Symlink("usr/lib".into())),
    ];
    let branches = vec![world.skeleton(entries)];
    let segment = world.build(branches);
    assert_eq!(read(&segment, "etc/passwd").unwrap(), "root:x:0:0\n");
    assert_eq!(segment.read_link(&get(&segment, "lib").unwrap()).unwrap(), b"usr/lib");
    let attr = |path: &str| segment.attr(&get(&segment, path).unwrap()).unwrap();
    assert_eq!((attr("proc").perm, attr("etc").perm, attr("etc/passwd").perm), (0o711, 0o755, 0o711));
    assert_eq!(attr("etc/passwd").size, 11);
    assert_eq!((attr("proc").uid, attr("proc").gid, attr("etc").uid), (3, 4, 0));
    assert!(segment.is_current());
}

#[test]
fn a_skeleton_with_a_file_that_is_a_directory_is_refused() {
    let mut world = World::new();
    let file = || SkeletonContent::File(String::new());
    let entries = vec![skeleton_entry("a", file()), skeleton_entry("a/b", file())];
    let branches = vec![world.skeleton(entries)];
    let error = world.build_spec(SegmentSpec { branches, ..SegmentSpec::default() });
    assert!(matches!(error, Err(SegmentError::Skeleton { .. })));
}

#[test]
fn no_branch_at_all_is_an_empty_directory() {
    let world = World::new();
    let segment = world.build(Vec::new());
    assert_eq!(names(&segment, ""), [""; 0]);
    assert_eq!(kind(&segment, "x"), Err(Errno::NOENT));
    assert_eq!(segment.attr(&segment.root()).unwrap().perm, 0o755);
}

#[test]
fn what_is_no_name_is_refused() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("d/f", "x")]);
    let branches = vec![world.host(&tree)];
    let segment = world.build(branches);
    for name in ["", ".", "..", "d/f", "d\0"] {
        assert_eq!(segment.lookup(&segment.root(), OsStr::new(name)).unwrap_err(), Errno::INVAL, "{name:?}");
    }
    assert_eq!(kind(&segment, "d/f/x"), Err(Errno::NOTDIR));
}

#[test]
fn a_bad_place_and_a_missing_descriptor_are_refused() {
    let mut world = World::new();
    let tree = world.dir("tree", &[]);
    for place in ["/abs", "a/../b"] {
        let branches = vec![at(place, world.host(&tree))];
        let error = world.build_spec(SegmentSpec { branches, ..SegmentSpec::default() });
        assert!(matches!(error, Err(SegmentError::BadPlace { .. })), "{place}");
    }
    let branches = vec![branch(vfsrun_union::describe::Source::Host { root: 99, host: None })];
    let error = world.build_spec(SegmentSpec { branches, ..SegmentSpec::default() });
    assert!(matches!(error, Err(SegmentError::MissingDescriptor { index: 99, .. })));
}
