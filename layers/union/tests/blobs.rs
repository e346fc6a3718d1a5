//! Blobs of layers and inputs: what was damaged since it was stored is never served.

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use support::*;
use vfsrun_layers::{Digest, Kind};
use vfsrun_union::describe::SegmentSpec;
use vfsrun_union::{Errno, Segment};

const CONTENT: &str = "what was stored";

#[test]
fn a_blob_of_another_size_is_a_fault_and_an_error() {
    let (world, segment) = with_layer();
    overwrite(&blob(&world), "longer than what was stored");
    assert_eq!(read(&segment, "f"), Err(Errno::IO));
    let digest = Digest::of(CONTENT.as_bytes());
    let wanted = format!("/f: cannot use blob {digest}: it is damaged: 27 bytes long instead of 15");
    assert_eq!(said(&segment), [wanted]);
}

#[test]
fn a_blob_of_the_same_size_with_other_content_is_a_fault_and_an_error() {
    let (world, segment) = with_layer();
    overwrite(&blob(&world), "what was forged");
    assert_eq!(read(&segment, "f"), Err(Errno::IO));
    assert!(said(&segment)[0].contains("it is damaged: it hashes to b3:"), "{:?}", said(&segment));
}

#[test]
fn a_blob_that_only_looks_touched_is_hashed_and_served() {
    let (world, segment) = with_layer();
    fs::hard_link(blob(&world), world.path().join("second")).unwrap();
    assert_eq!(read(&segment, "f").unwrap(), CONTENT);
    overwrite(&blob(&world), CONTENT);
    assert_eq!(read(&segment, "f").unwrap(), CONTENT);
    fs::set_permissions(blob(&world), Permissions::from_mode(0o600)).unwrap();
    assert_eq!(read(&segment, "f").unwrap(), CONTENT);
    assert_eq!(segment.faults(), []);
}

#[test]
fn a_damaged_blob_of_an_input_manifest_is_a_fault_and_an_error() {
    let mut world = World::new();
    let (base, Kind::File { digest, .. }) = (world.dir("base", &[]), world.blob(CONTENT)) else {
        panic!("a blob is a file")
    };
    let inputs = world.inputs(&base, &format!(r#"{{"f":{{"digest":"{digest}"}}}}"#));
    let segment = world.build(vec![inputs]);
    assert_eq!(read(&segment, "f").unwrap(), CONTENT);
    overwrite(&blob(&world), "what was forged");
    assert_eq!(read(&segment, "f"), Err(Errno::IO));
    assert!(said(&segment)[0].contains("it is damaged: it hashes to b3:"), "{:?}", said(&segment));
}

#[test]
fn a_damaged_manifest_is_refused_and_its_digest_said_once() {
    let mut world = World::new();
    let layer = world.layer(vec![dir("d")]);
    let manifests = fs::read_dir(world.path().join("store/layers")).unwrap();
    let manifest = manifests.map(|entry| entry.unwrap().path()).next().unwrap();
    overwrite(&manifest, "forged");
    let spec = SegmentSpec { branches: vec![layer], ..SegmentSpec::default() };
    let error = world.build_spec(spec).err().unwrap();
    let source = std::error::Error::source(&error).unwrap();
    let digest = format!("b3:{}", manifest.file_name().unwrap().to_str().unwrap());
    let found = Digest::of(b"forged");
    assert_eq!(
        format!("{error}: {source}"),
        format!(
            "branch test: cannot load its layer: layer {digest} is damaged: its manifest hashes to {found}"
        )
    );
}

fn with_layer() -> (World, Segment) {
    let mut world = World::new();
    let file = entry("f", world.blob(CONTENT));
    let layer = world.layer(vec![file]);
    let segment = world.build(vec![layer]);
    assert_eq!(read(&segment, "f").unwrap(), CONTENT);
    (world, segment)
}

fn blob(world: &World) -> PathBuf {
    let hex = Digest::of(CONTENT.as_bytes()).hex().to_string();
    world.path().join("store/blobs").join(&hex[..2]).join(&hex[2..])
}

fn overwrite(path: &Path, content: &str) {
    fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
    fs::write(path, content).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o444)).unwrap();
}

fn said(segment: &Segment) -> Vec<String> {
    segment.faults().iter().map(ToString::to_string).collect()
}
