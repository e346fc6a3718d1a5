//! Input manifests as branches.

mod support;

use std::os::unix::fs::PermissionsExt;

use support::*;
use vfsrun_union::describe::SegmentSpec;
use vfsrun_union::{Described, Errno, FaultReason, FileKind, Segment, SegmentError};

#[test]
fn host_files_and_blobs_appear_at_their_paths() {
    let mut world = World::new();
    let base = world.dir("base", &[("real", "relative"), ("link", "->real")]);
    std::fs::set_permissions(base.join("real"), std::fs::Permissions::from_mode(0o4750)).unwrap();
    let other = world.dir("other", &[("f", "absolute")]);
    let (digest, _) = world.store.put_blob("blob".as_bytes()).unwrap();
    let files = format!(
        r#"{{"usr/include/a.h":"link","b":"{}/f","c/run":{{"digest":"{digest}","executable":true}},"c/no":{{"digest":"{digest}"}}}}"#,
        other.display()
    );
    let branches = vec![at("in", world.inputs(&base, &files))];
    let segment = world.build(branches);
    assert_eq!(names(&segment, "in"), ["b", "c", "usr"]);
    assert_eq!(names(&segment, "in/c"), ["no", "run"]);
    assert_eq!(read(&segment, "in/usr/include/a.h").unwrap(), "relative");
    assert_eq!(read(&segment, "in/b").unwrap(), "absolute");
    assert_eq!(read(&segment, "in/c/run").unwrap(), "blob");
    let attr = |path: &str| segment.attr(&get(&segment, path).unwrap()).unwrap();
    let link = attr("in/usr/include/a.h");
    assert_eq!((link.kind, link.perm, link.nlink), (FileKind::Regular, 0o750, 1));
    assert_eq!((attr("in/c/run").perm, attr("in/c/no").perm, attr("in/c/no").size), (0o755, 0o644, 4));
    assert_eq!((attr("in/usr").perm, attr("in/usr").mtime.sec), (0o755, 1));
    assert_eq!(kind(&segment, "in/usr/include/b.h"), Err(Errno::NOENT));
    assert_eq!(segment.faults(), []);
}

#[test]
fn inputs_cover_the_branches_below_them() {
    let mut world = World::new();
    let base = world.dir("base", &[("new", "new")]);
    let tool = world.dir("tool", &[("usr/bin/cc", "cc"), ("usr/bin/ld", "ld")]);
    let branches = vec![world.inputs(&base, r#"{"usr/bin/cc":"new","usr/x":"new"}"#), world.host(&tool)];
    let segment = world.build(branches);
    assert_eq!(names(&segment, "usr/bin"), ["cc", "ld"]);
    assert_eq!(read(&segment, "usr/bin/cc").unwrap(), "new");
    assert_eq!(read(&segment, "usr/bin/ld").unwrap(), "ld");
}

#[test]
fn an_input_that_cannot_be_had_is_a_fault_and_an_error_not_an_absence() {
    let mut world = World::new();
    let base = world.dir("base", &[("d/f", "x")]);
    let lower = world.dir("lower", &[("a", "must not show")]);
    let files = format!(r#"{{"a":"missing","b":"d","c":{{"digest":"{}"}}}}"#, no_digest());
    let branches = vec![world.inputs(&base, &files), world.host(&lower)];
    let segment = world.build(branches);
    for name in ["a", "b", "c"] {
        assert_eq!(kind(&segment, name), Err(Errno::IO), "{name}");
    }
    assert_eq!(names(&segment, ""), ["a", "b", "c"]);
    let said: Vec<String> = segment.faults().iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 3);
    assert!(said[0].starts_with("/a: cannot use the input file missing: "), "{}", said[0]);
    assert!(said[1].ends_with("it is not a regular file"), "{}", said[1]);
    assert!(matches!(segment.faults()[2].reason, FaultReason::BlobUnusable { .. }));
    std::fs::write(base.join("missing"), "now").unwrap();
    assert_eq!(read(&segment, "a").unwrap(), "now");
}

#[test]
fn a_bad_manifest_names_the_branch_the_key_and_the_cause() {
    let mut world = World::new();
    let base = world.dir("base", &[]);
    let branches = vec![world.inputs(&base, r#"{"a":"x","b/../c":"y"}"#)];
    let error = world.build_spec(SegmentSpec { branches, ..SegmentSpec::default() }).err().unwrap();
    assert!(matches!(error, SegmentError::Inputs { .. }));
    assert_eq!(error.to_string(), "branch test: cannot load its input manifest");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.starts_with(r#"files["b/../c"]"#), "{cause}");
}

#[test]
fn a_changed_or_retargeted_input_is_not_current() {
    let mut world = World::new();
    let base = world.dir("base", &[("one", "1"), ("two", "2"), ("link", "->one")]);
    settle();
    let branches = vec![world.inputs(&base, r#"{"d/in":"link"}"#)];
    let segment = world.build(branches);
    let _held = get(&segment, "d/in").unwrap();
    assert!(segment.is_current());
    std::fs::remove_file(base.join("link")).unwrap();
    std::os::unix::fs::symlink("two", base.join("link")).unwrap();
    assert!(!segment.is_current());
}

#[test]
fn the_identity_is_of_the_bytes_and_the_places_not_of_the_labels() {
    let mut world = World::new();
    let base = world.dir("base", &[]);
    let mut inputs = world.inputs(&base, r#"{"a":"x"}"#);
    let path = world.path().join("inputs-0.json");
    let spec = |inputs: &_| SegmentSpec { branches: vec![Clone::clone(inputs)], ..SegmentSpec::default() };
    let of = |spec: &SegmentSpec, world: &World| {
        Described::read(spec.clone(), world.clone_fds()).unwrap().identity().unwrap()
    };
    let first = of(&spec(&inputs), &world);
    inputs.label = "another".into();
    assert_eq!(of(&spec(&inputs), &world), first);
    inputs.frozen = true;
    assert_ne!(of(&spec(&inputs), &world), first);
    inputs.frozen = false;
    std::fs::write(&path, r#"{"version":1,"files":{"a":"y"}}"#).unwrap();
    assert_ne!(of(&spec(&inputs), &world), first);
}

#[test]
fn a_manifest_is_loaded_once_for_all_segments() {
    let mut world = World::new();
    let layer = world.layer(vec![entry("f", world.blob("x"))]);
    let one = world.build(vec![layer.clone()]);
    let two = world.build(vec![at("sub", layer)]);
    assert_eq!(world.context.layers.len(), 1);
    assert_eq!(read(&two, "sub/f").unwrap(), "x");
    drop((one, two));
    assert!(world.context.layers.is_empty());
}

#[test]
fn a_manifest_that_changes_is_served_as_it_was_when_it_was_identified() {
    let mut world = World::new();
    let base = world.dir("base", &[("x", "1")]);
    let branches = vec![world.inputs(&base, r#"{"a":"x"}"#)];
    let spec = SegmentSpec { branches, ..SegmentSpec::default() };
    let described = Described::read(spec, world.clone_fds()).unwrap();
    let manifest = std::fs::read_dir(world.path()).unwrap().flatten().map(|entry| entry.path());
    let manifest = manifest.into_iter().find(|path| path.extension().is_some_and(|of| of == "json")).unwrap();
    std::fs::write(&manifest, r#"{"version":1,"files":{"b":"x"}}"#).unwrap();
    let segment = Segment::build(described, &world.context).unwrap();
    assert_eq!(names(&segment, ""), ["a"]);
}
