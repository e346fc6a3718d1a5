//! The attributes that tell where a name comes from: right, only when asked for, and nobody's to forge.

mod support;

use std::ffi::OsStr;
use std::path::Path;

use rustix::fs::XattrFlags;
use support::*;
use vfsrun_layers::{Digest, Kind};
use vfsrun_union::describe::{BranchSpec, RuleAction, SegmentSpec, Xattrs};
use vfsrun_union::spot::Spot;
use vfsrun_union::{Described, Errno, Segment};

fn named(label: &str, branch: BranchSpec) -> BranchSpec {
    BranchSpec { label: label.into(), ..branch }
}

fn telling(world: &World, branches: Vec<BranchSpec>) -> Segment {
    world.build_spec(SegmentSpec { branches, provenance: true, ..SegmentSpec::default() }).unwrap()
}

fn ask(segment: &Segment, path: &str, name: &str) -> Result<String, Errno> {
    let name = format!("user.vfsrun.{name}");
    let value = segment.get_xattr(&*get(segment, path)?, OsStr::new(&name))?;
    Ok(String::from_utf8(value).unwrap())
}

fn set(path: &Path, name: &str) {
    rustix::fs::setxattr(path, name, b"forged", XattrFlags::empty()).unwrap();
}

#[test]
fn every_kind_of_branch_tells_what_it_has() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("dir/host", "x")]).canonicalize().unwrap();
    let host = named("host", world.host(&tree));
    let file = world.blob("content");
    let entries =
        vec![dir("dir"), entry("dir/layer", file), entry("link", Kind::Symlink { target: "x".into() })];
    let layer = named("layer", world.layer(entries));
    let Kind::File { digest, .. } = world.blob("blob") else { unreachable!("a blob is a file") };
    let files = format!(r#"{{"in/blob":{{"digest":"{digest}"}},"in/host":"dir/host"}}"#);
    let inputs = named("inputs", world.inputs(&tree, &files));
    let segment = telling(&world, vec![host, layer, inputs]);
    let here = tree.display();
    let of_layer = ask(&segment, "dir/layer", "path").unwrap();
    let layer = of_layer.strip_suffix("/dir/layer").unwrap();
    assert!(layer.parse::<Digest>().is_ok(), "{of_layer}");
    for (path, branch, file, digest) in [
        ("dir/host", "host", Ok(format!("{here}/dir/host")), Err(Errno::NODATA)),
        ("dir/layer", "layer", Ok(of_layer.clone()), Ok(Digest::of(b"content").to_string())),
        ("dir", "host\nlayer", Ok(format!("{here}/dir\n{layer}/dir")), Err(Errno::NODATA)),
        ("link", "layer", Ok(format!("{layer}/link")), Err(Errno::NODATA)),
        ("in", "inputs", Err(Errno::NODATA), Err(Errno::NODATA)),
        ("in/blob", "inputs", Err(Errno::NODATA), Ok(Digest::of(b"blob").to_string())),
        ("in/host", "inputs", Ok(format!("{here}/dir/host")), Err(Errno::NODATA)),
    ] {
        assert_eq!(ask(&segment, path, "branch").unwrap(), branch, "{path}");
        assert_eq!(ask(&segment, path, "path"), file, "{path}");
        assert_eq!(ask(&segment, path, "digest"), digest, "{path}");
        assert_eq!(segment.list_xattrs(&get(&segment, path).unwrap()).unwrap(), [""; 0], "{path}");
    }
    assert_eq!(ask(&segment, "dir/host", "other"), Err(Errno::NODATA));
}

#[test]
fn nothing_is_told_unless_asked_for_and_nothing_forged_is_passed_on() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("host", "x")]);
    set(&tree.join("host"), "user.vfsrun.branch");
    set(&tree.join("host"), "user.vfsrun.digest");
    set(&tree.join("host"), "user.own");
    let host = BranchSpec { xattrs: Xattrs::Pass(Vec::new()), ..named("host", world.host(&tree)) };
    let file =
        with_xattrs(entry("layer", world.blob("x")), &[("user.vfsrun.path", "forged"), ("user.own", "x")]);
    let layer = named("layer", world.layer(vec![file]));
    let silent = world.build(vec![host.clone(), layer.clone()]);
    let segment = telling(&world, vec![host, layer]);
    for path in ["host", "layer"] {
        for name in ["branch", "path", "digest"] {
            assert_eq!(ask(&silent, path, name), Err(Errno::NODATA), "{path} {name}");
            let told = ask(&segment, path, name);
            assert!(told.as_ref().is_err() || !told.as_ref().unwrap().contains("forged"), "{path} {told:?}");
        }
        for segment in [&silent, &segment] {
            assert_eq!(segment.list_xattrs(&get(segment, path).unwrap()).unwrap(), ["user.own"], "{path}");
        }
    }
    assert_eq!(ask(&segment, "host", "digest"), Err(Errno::NODATA));
}

#[test]
fn a_denied_name_tells_nothing() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("secret", "x")]);
    let branch = BranchSpec { rules: rules(&[("secret", RuleAction::Deny)]), ..world.host(&tree) };
    let segment = telling(&world, vec![branch]);
    for name in ["branch", "path", "digest"] {
        assert_eq!(ask(&segment, "secret", name), Err(Errno::ACCESS), "{name}");
    }
}

#[test]
fn a_label_is_part_of_the_identity_where_it_is_told() {
    let mut world = World::new();
    let tree = world.dir("tree", &[]);
    let branch = world.host(&tree);
    let identity = |label: &str, provenance| {
        let branches = vec![named(label, branch.clone())];
        let spec = SegmentSpec { branches, provenance, ..SegmentSpec::default() };
        Described::read(spec, world.clone_fds()).unwrap().identity().unwrap()
    };
    assert_eq!(identity("one", false), identity("other", false));
    assert_ne!(identity("one", true), identity("other", true));
    assert_ne!(identity("one", true), identity("one", false));
}

/// Nothing would say of it that it may change.
#[test]
fn what_has_gone_since_it_was_looked_up_comes_from_nowhere() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("dir/file", "x"), ("other", "x")]);
    let host = world.host(&tree);
    let segments = [world.build(vec![host])];
    let dir = Spot::at(&segments, Path::new("dir")).unwrap();
    let below = dir.below();
    let file = below.lookup("file".as_ref()).unwrap();
    std::fs::remove_dir_all(tree.join("dir")).unwrap();
    assert_eq!(dir.source(), Err(Errno::NOENT));
    assert_eq!(file.source(), Err(Errno::NOENT));
    assert_eq!(below.source("file".as_ref(), &file), Err(Errno::NOENT));
}
