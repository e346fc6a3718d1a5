//! What a host directory says of the branches below it, in the two forms in which it may.

mod support;

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use support::*;
use vfsrun_layers::Kind;
use vfsrun_union::describe::{BranchSpec, Names, RuleAction, SegmentSpec, Whiteouts};
use vfsrun_union::{Errno, FaultReason, FileKind, Forget, Segment};

fn saying(whiteouts: Whiteouts, branch: BranchSpec) -> BranchSpec {
    BranchSpec { whiteouts, ..branch }
}

fn set_xattr(path: &Path, name: &str, value: &str) {
    rustix::fs::setxattr(path, name, value.as_bytes(), rustix::fs::XattrFlags::empty()).unwrap();
}

/// Whether this caller may make what only root can; says so if not.
fn make_device(path: &Path) -> bool {
    let kind = nix::sys::stat::SFlag::S_IFCHR;
    let made = nix::sys::stat::mknod(path, kind, nix::sys::stat::Mode::empty(), 0).is_ok();
    if !made {
        skip::this_test("making a device needs root");
    }
    made
}

/// A branch with whiteouts in this form, above one that has `d/gone`, `d/kept` and `o/below`.
fn above(whiteouts: Whiteouts, files: &[(&str, &str)]) -> (World, Segment) {
    let mut world = World::new();
    let upper = world.dir("upper", files);
    let lower = world.dir("lower", &[("d/gone", "lower"), ("d/kept", "lower"), ("o/below", "lower")]);
    if whiteouts == Whiteouts::Overlay {
        set_xattr(&upper.join("d/gone"), "user.overlay.whiteout", "");
        set_xattr(&upper.join("o"), "user.overlay.opaque", "y");
    }
    let branches = vec![saying(whiteouts, world.host(&upper)), world.host(&lower)];
    let segment = world.build(branches);
    (world, segment)
}

#[track_caller]
fn assert_deleted(segment: &Segment) {
    // The overlay above reads it as deleted in the segments below, too.
    assert_eq!(kind(segment, "d/gone"), Ok(FileKind::Whiteout));
    assert_eq!(read(segment, "d/kept").unwrap(), "lower");
    let listed = segment.list(&get(segment, "d").unwrap()).unwrap();
    let listed: Vec<_> = listed.iter().map(|entry| (entry.name.to_str().unwrap(), entry.kind)).collect();
    assert_eq!(listed, [("gone", FileKind::Whiteout), ("kept", FileKind::Regular)]);
    assert_eq!(names(segment, "o"), ["own"]);
    assert_eq!(kind(segment, "o/below"), Err(Errno::NOENT));
    let opaque = |path| segment.get_xattr(&get(segment, path).unwrap(), OsStr::new("user.overlay.opaque"));
    assert_eq!(opaque("o").unwrap(), b"y");
    assert_eq!(opaque("d"), Err(Errno::NODATA));
    assert!(segment.needs_xattrs());
}

#[test]
fn at_the_bottom_nothing_is_left_of_what_is_deleted() {
    let mut world = World::new();
    let upper = world.dir("upper", &[("d/gone", ""), ("o/own", "upper"), ("conflict/own", "upper")]);
    set_xattr(&upper.join("d/gone"), "user.overlay.whiteout", "");
    set_xattr(&upper.join("o"), "user.overlay.opaque", "y");
    let lower = world
        .dir("lower", &[("d/gone", "lower"), ("d/kept", "lower"), ("o/below", "lower"), ("conflict", "")]);
    let gone = world.layer(vec![dir("d"), entry("d/also", Kind::Whiteout)]);
    let branches = vec![saying(Whiteouts::Overlay, world.host(&upper)), gone, world.host(&lower)];
    let spec = SegmentSpec { branches, bottom: true, ..SegmentSpec::default() };
    let segment = world.build_spec(spec).unwrap();
    assert_eq!(kind(&segment, "d/gone"), Err(Errno::NOENT));
    assert_eq!(kind(&segment, "d/also"), Err(Errno::NOENT));
    assert_eq!(names(&segment, "d"), ["kept"]);
    assert_eq!(names(&segment, "o"), ["own"]);
    assert_eq!(names(&segment, "conflict"), ["own"]);
    assert!(!segment.needs_xattrs(), "nobody has to ask for marks");
    // It is there when it is no longer deleted.
    settle();
    let dir = get(&segment, "d").unwrap();
    fs::remove_file(upper.join("d/gone")).unwrap();
    let mut forgotten = Vec::new();
    assert!(segment.bring_up_to_date(|what| {
        if let Forget::Name { name, .. } = what {
            forgotten.push(name.to_owned());
        }
    }));
    assert!(forgotten.contains(&"gone".into()), "{forgotten:?}");
    drop(dir);
    assert_eq!(read(&segment, "d/gone").unwrap(), "lower");
}

#[test]
fn markers_of_an_unpacked_image_layer_delete_what_is_below() {
    let files = [("d/.wh.gone", ""), ("o/.wh..wh..opq", ""), ("o/own", "")];
    let (_world, segment) = above(Whiteouts::Oci, &files);
    assert_deleted(&segment);
    for marker in ["d/.wh.gone", "o/.wh..wh..opq", "d/.wh."] {
        assert_eq!(kind(&segment, marker), Err(Errno::NOENT), "{marker}");
    }
}

#[test]
fn a_marker_beside_the_file_that_it_names_speaks_of_the_branches_below() {
    let files = [("d/.wh.gone", ""), ("d/gone", "upper"), ("o/own", "")];
    let (_world, segment) = above(Whiteouts::Oci, &files);
    assert_eq!(read(&segment, "d/gone").unwrap(), "upper");
    assert_eq!(names(&segment, "d"), ["gone", "kept"]);
}

#[test]
fn attributes_of_an_overlays_upper_delete_what_is_below() {
    let (_world, segment) = above(Whiteouts::Overlay, &[("d/gone", ""), ("o/own", "")]);
    assert_deleted(&segment);
}

#[test]
fn devices_of_an_overlays_upper_delete_what_is_below() {
    let mut world = World::new();
    let upper = world.dir("upper", &[("d/own", "")]);
    let lower = world.dir("lower", &[("d/gone", "lower")]);
    if !make_device(&upper.join("d/gone")) {
        return;
    }
    let branches = vec![saying(Whiteouts::Overlay, world.host(&upper)), world.host(&lower)];
    let segment = world.build(branches);
    assert_eq!(kind(&segment, "d/gone"), Ok(FileKind::Whiteout));
    assert_eq!(names(&segment, "d"), ["gone", "own"]);
}

#[test]
fn forged_marks_in_other_branches_are_plain_files_or_absent() {
    let files = [("d/gone", ""), ("d/.wh.kept", "text"), ("o/own", ""), ("o/.wh..wh..opq", "")];
    let mut world = World::new();
    let upper = world.dir("upper", &files);
    let lower = world.dir("lower", &[("d/kept", "lower"), ("d/device", "lower"), ("o/below", "lower")]);
    set_xattr(&upper.join("d/gone"), "user.overlay.whiteout", "");
    set_xattr(&upper.join("o"), "user.overlay.opaque", "y");
    let has_device = make_device(&upper.join("d/device"));
    let branches = vec![world.host(&upper), world.host(&lower)];
    let segment = world.build(branches);
    assert_eq!(read(&segment, "d/gone").unwrap(), "");
    assert_eq!(read(&segment, "d/.wh.kept").unwrap(), "text");
    assert_eq!(read(&segment, "d/kept").unwrap(), "lower");
    assert_eq!(names(&segment, "o"), [".wh..wh..opq", "below", "own"]);
    if has_device {
        assert_eq!(read(&segment, "d/device").unwrap(), "lower");
    }
    let opaque = segment.get_xattr(&get(&segment, "o").unwrap(), OsStr::new("user.overlay.opaque"));
    assert_eq!(opaque, Err(Errno::NODATA));
}

#[test]
fn what_overlayfs_has_left_a_part_of_elsewhere_is_an_error() {
    let mut world = World::new();
    let upper = world.dir("upper", &[("meta", "part"), ("moved/x", ""), ("whole", "whole")]);
    set_xattr(&upper.join("meta"), "user.overlay.metacopy", "");
    set_xattr(&upper.join("moved"), "user.overlay.redirect", "/elsewhere");
    let branches = vec![saying(Whiteouts::Overlay, world.host(&upper))];
    let segment = world.build(branches);
    assert_eq!(kind(&segment, "meta"), Err(Errno::IO));
    assert_eq!(kind(&segment, "moved"), Err(Errno::IO));
    assert_eq!(read(&segment, "whole").unwrap(), "whole");
    let faults = segment.faults();
    assert_eq!(faults.len(), 2);
    assert!(faults.iter().all(|fault| fault.reason == FaultReason::OnlyAPart));
}

/// `change` is made after everything was looked at; afterwards nothing may be as it was, nor may a new segment differ.
#[track_caller]
fn assert_noticed(whiteouts: Whiteouts, files: &[(&str, &str)], path: &str, change: impl Fn(&Path)) {
    let (world, segment) = above(whiteouts, files);
    settle();
    let held: Vec<_> =
        ["d", "d/gone", "d/kept", "o", "o/own", "o/below"].iter().map(|path| get(&segment, path)).collect();
    assert!(segment.bring_up_to_date(|_| {}), "{path}: what was too young to tell");
    assert!(segment.is_current(), "{path}");
    change(&world.path().join("upper"));
    assert!(!segment.is_current(), "{path}");
    let mut forgotten = Vec::new();
    assert!(segment.bring_up_to_date(|what| forgotten.push(format!("{what:?}"))), "{path}");
    let name = Path::new(path).file_name().unwrap().to_str().unwrap();
    assert!(forgotten.iter().any(|what| what.contains(&format!("\"{name}\""))), "{path}: {forgotten:?}");
    drop(held);
}

#[test]
fn marks_that_come_and_go_are_noticed() {
    let oci = [("d/own", ""), ("o/own", "")];
    assert_noticed(Whiteouts::Oci, &oci, "o", |upper| fs::write(upper.join("o/.wh..wh..opq"), "").unwrap());
    assert_noticed(Whiteouts::Oci, &oci, "d/kept", |upper| fs::write(upper.join("d/.wh.kept"), "").unwrap());
    let marked = [("d/.wh.gone", ""), ("o/own", ""), ("o/.wh..wh..opq", "")];
    assert_noticed(Whiteouts::Oci, &marked, "d/gone", |upper| {
        fs::remove_file(upper.join("d/.wh.gone")).unwrap();
    });
    let overlay = [("d/gone", ""), ("o/own", "")];
    assert_noticed(Whiteouts::Overlay, &overlay, "o", |upper| {
        rustix::fs::removexattr(upper.join("o"), "user.overlay.opaque").unwrap();
    });
    assert_noticed(Whiteouts::Overlay, &overlay, "d/gone", |upper| {
        rustix::fs::removexattr(upper.join("d/gone"), "user.overlay.whiteout").unwrap();
    });
}

#[test]
fn a_hidden_file_that_becomes_a_whiteout_deletes() {
    let mut world = World::new();
    let upper = world.dir("upper", &[("d/f", "")]);
    let lower = world.dir("lower", &[("d/f", "lower")]);
    settle();
    let mut above = saying(Whiteouts::Overlay, world.host(&upper));
    above.rules = vec![named(Names::All, of_types(&[FileKind::Regular]), RuleAction::Hide)];
    let branches = vec![above, world.host(&lower)];
    let segment = world.build(branches);
    let held = get(&segment, "d/f").unwrap();
    assert_eq!(read(&segment, "d/f").unwrap(), "lower");
    set_xattr(&upper.join("d/f"), "user.overlay.whiteout", "");
    let mut forgotten = false;
    assert!(segment.bring_up_to_date(|what| {
        let dir = held.parent().unwrap().ino();
        forgotten |= what == Forget::Name { dir, name: OsStr::new("f") };
    }));
    assert!(forgotten);
    assert_eq!(kind(&segment, "d/f"), Ok(FileKind::Whiteout));
}
