//! Export as an input root of the Remote Execution API: the messages, byte by byte.

mod common;

use std::fs;

use common::{World, directory, file};
use vfsrun_layers::{
    Digest, DigestFunction, Entry, ExportError, InputRoot, Kind, LayerStore, Manifest, Meta, export_reapi,
};

const X: &str = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";

fn symlink(path: &str, target: &str) -> Entry {
    Entry { kind: Kind::Symlink { target: target.into() }, ..directory(path) }
}

fn export(world: &World, entries: Vec<Entry>, function: DigestFunction) -> InputRoot {
    let manifest = Manifest::from_entries(entries).unwrap();
    export_reapi(&manifest, &world.store, function, &world.path("out")).unwrap()
}

fn stored(store: &LayerStore, path: &str, mode: u32) -> Entry {
    store.put_blob(&b"x"[..]).unwrap();
    Entry { meta: Meta { mode, ..Meta::default() }, ..file(path, b"x") }
}

fn message(world: &World, digest: &str) -> Vec<u8> {
    let (hash, size) = digest.split_once('/').unwrap();
    let bytes = fs::read(world.path("out/blobs").join(hash)).unwrap();
    assert_eq!(bytes.len().to_string(), size);
    bytes
}

#[test]
fn the_empty_root_is_the_digest_of_nothing() {
    for (function, root) in [
        (DigestFunction::Sha256, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855/0"),
        (DigestFunction::Blake3, "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262/0"),
    ] {
        let world = World::new();
        assert_eq!(export(&world, vec![], function), InputRoot { root: root.into(), ..InputRoot::default() });
        assert_eq!(message(&world, root), b"");
    }
}

#[test]
fn a_directory_is_its_files_directories_and_symlinks_each_by_name() {
    let world = World::new();
    let entries = vec![
        stored(&world.store, "b", 0o644),
        stored(&world.store, "a", 0o755),
        directory("dir"),
        symlink("link", "dir/../a"),
    ];
    let root = export(&world, entries, DigestFunction::Sha256).root;
    let sum = |message: &mut Vec<u8>, hash: &str, size: Option<u8>| {
        message.extend([0x12, if size.is_some() { 68 } else { 66 }, 0x0A, 64]);
        message.extend(hash.as_bytes());
        message.extend(size.into_iter().flat_map(|size| [0x10, size]));
    };
    let mut wanted = Vec::new();
    wanted.extend([0x0A, 75, 0x0A, 1, b'a']);
    sum(&mut wanted, X, Some(1));
    // Executable.
    wanted.extend([0x20, 1]);
    wanted.extend([0x0A, 73, 0x0A, 1, b'b']);
    sum(&mut wanted, X, Some(1));
    wanted.extend([0x12, 73, 0x0A, 3, b'd', b'i', b'r']);
    sum(&mut wanted, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", None);
    wanted.extend([0x1A, 16, 0x0A, 4]);
    wanted.extend(b"link");
    wanted.extend([0x12, 8]);
    wanted.extend(b"dir/../a");
    assert_eq!(message(&world, &root), wanted);
    assert_eq!(fs::read(world.path("out/blobs").join(X)).unwrap(), b"x");
    // The root, the empty directory, and one file.
    assert_eq!(fs::read_dir(world.path("out/blobs")).unwrap().count(), 3);
}

#[test]
fn names_stand_bytewise_and_sizes_in_groups_of_seven_bits() {
    let world = World::new();
    let content = vec![b'y'; 300];
    world.store.put_blob(&content[..]).unwrap();
    let entries = vec![
        file("é", &content),
        file("a-b", &content),
        directory("a"),
        file("a/z", &content),
        file("a.c", &content),
        file("Z", &content),
    ];
    let root = message(&world, &export(&world, entries, DigestFunction::Blake3).root);
    let places: Vec<usize> = ["Z", "a-b", "a.c", "é"]
        .map(|name| {
            root.windows(name.len() + 2)
                .position(|at| at == [&[10, name.len() as u8], name.as_bytes()].concat())
                .unwrap()
        })
        .to_vec();
    assert!(places.is_sorted(), "{places:?}");
    let digest = [&[0x0A, 64], Digest::of(&content).hex().as_bytes(), &[0x10, 0xAC, 2]].concat();
    assert_eq!(root.windows(digest.len()).filter(|at| *at == digest).count(), 4);
}

#[test]
fn what_messages_do_not_have_is_counted() {
    let world = World::new();
    let mut owned = stored(&world.store, "owned", 0o4755);
    owned.meta.uid = 7;
    let link = Entry { kind: Kind::HardLink { to: "owned".into() }, ..directory("z") };
    let fifo = Entry { kind: Kind::Fifo, ..directory("fifo") };
    let device = Entry { kind: Kind::Device { block: false, major: 1, minor: 3 }, ..directory("null") };
    let done = export(&world, vec![owned, link, fifo, device], DigestFunction::Sha256);
    let counts = (done.left_out, done.hard_links, done.owners, done.attributes);
    assert_eq!(counts, (2, 1, 2, 2));
    let root = message(&world, &done.root);
    assert_eq!(root.windows(64).filter(|at| *at == X.as_bytes()).count(), 2, "the file and its other name");
    assert!(!root.windows(4).any(|at| at == b"fifo" || at == b"null"));
}

#[test]
fn what_they_cannot_say_is_refused_before_anything_is_made() {
    let bad = std::os::unix::ffi::OsStringExt::from_vec(b"bad\xFF".to_vec());
    let bad: std::ffi::OsString = bad;
    let whiteout = Entry { kind: Kind::Whiteout, meta: Meta::default(), path: "gone".into() };
    let opaque = Entry { kind: Kind::Directory { opaque: true }, ..directory("dir") };
    let name = Entry { path: bad.clone().into(), ..directory("") };
    let target = Entry { kind: Kind::Symlink { target: bad }, ..directory("link") };
    for (entry, what) in [
        (whiteout, "whiteouts"),
        (opaque, "opaque directories"),
        (name, "a name that is no UTF-8"),
        (target, "a target that is no UTF-8"),
    ] {
        let world = World::new();
        let manifest = Manifest::from_entries(vec![entry]).unwrap();
        let error =
            export_reapi(&manifest, &world.store, DigestFunction::Sha256, &world.path("out")).unwrap_err();
        assert!(error.to_string().contains(&format!("cannot hold {what};")), "{error}");
        assert!(!world.path("out").exists());
    }
}

#[test]
fn a_damaged_blob_leaves_nothing() {
    let world = World::new();
    let manifest = world.damaged();
    for function in [DigestFunction::Sha256, DigestFunction::Blake3] {
        let error = export_reapi(&manifest, &world.store, function, &world.path("out")).unwrap_err();
        assert!(matches!(error, ExportError::Store { .. }), "{error}");
        assert_eq!(fs::read_dir(world.path("out")).unwrap().count(), 0);
    }
}
