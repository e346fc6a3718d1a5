//! Export as an input root of the Remote Execution API: the messages, byte by byte.

mod common;

use std::fs;
use std::process::{Command, Stdio};

use common::{World, directory, file, skip};
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
    for (function, root, tree) in [
        (
            DigestFunction::Sha256,
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855/0",
            "102b51b9765a56a3e899f7cf0ee38e5251f9c503b357b330a49183eb7b155604/2".to_owned(),
        ),
        (
            DigestFunction::Blake3,
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262/0",
            format!("{}/2", Digest::of(&[0x0A, 0]).hex()),
        ),
    ] {
        let world = World::new();
        let (exported, root) = (export(&world, vec![], function), root.to_owned());
        assert_eq!(message(&world, &root), b"");
        assert_eq!(message(&world, &tree), [0x0A, 0]);
        assert_eq!(exported, InputRoot { root, tree, ..InputRoot::default() });
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
    // The root, the empty directory, the Tree, and one file.
    assert_eq!(fs::read_dir(world.path("out/blobs")).unwrap().count(), 4);
}

/// Directories of which each has a file of its name and an `f`; those named `same` are equal.
fn with_equal_directories(world: &World) -> Vec<Entry> {
    let mut entries = vec![stored(&world.store, "froot", 0o644), symlink("link", "/a/../b")];
    for dir in ["a", "a/same", "b", "b/x", "b/x/same", "c"] {
        let name = dir.rsplit('/').next().unwrap();
        entries.push(directory(dir));
        entries.push(stored(&world.store, &format!("{dir}/f{name}"), 0o755));
    }
    entries
}

#[test]
fn a_tree_has_each_directory_once_and_after_those_that_it_is_in() {
    let world = World::new();
    let entries = with_equal_directories(&world);
    let exported = export(&world, entries, DigestFunction::Sha256);
    let tree = message(&world, &exported.tree);
    let mut rest = tree.as_slice();
    let mut records = Vec::new();
    while !rest.is_empty() {
        // All but the tag and the length, which has two bytes from 128 bytes on.
        let (length, start) = match rest[1] {
            short if short < 0x80 => (usize::from(short), 2),
            low => (usize::from(low & 0x7F) | usize::from(rest[2]) << 7, 3),
        };
        records.push((rest[0], &rest[start..start + length]));
        rest = &rest[start + length..];
    }
    let has = |record: &[u8], file: &str| record.windows(file.len()).any(|at| at == file.as_bytes());
    let names = ["froot", "fc", "fb", "fx", "fa", "fsame"];
    assert_eq!(records.len(), names.len());
    for (index, ((tag, record), name)) in records.iter().zip(names).enumerate() {
        assert_eq!(*tag, if index == 0 { 0x0A } else { 0x12 });
        assert!(has(record, name), "{name} in record {index}");
    }
    assert_eq!(records[0].1, message(&world, &exported.root));
    // The others are the messages that the digests name, too.
    for (_, record) in &records {
        assert!(
            fs::read_dir(world.path("out/blobs"))
                .unwrap()
                .any(|blob| { fs::read(blob.unwrap().path()).unwrap() == *record })
        );
    }
}

/// As the API's definition has them, with what of it a directory needs.
const DEFINITION: &str = r#"syntax = "proto3";
package re;
message Digest { string hash = 1; int64 size_bytes = 2; }
message FileNode { string name = 1; Digest digest = 2; bool is_executable = 4; }
message DirectoryNode { string name = 1; Digest digest = 2; }
message SymlinkNode { string name = 1; string target = 2; }
message Directory { repeated FileNode files = 1; repeated DirectoryNode directories = 2; repeated SymlinkNode symlinks = 3; }
message Tree { Directory root = 1; repeated Directory children = 2; }
"#;

/// What protoc makes of `input`; `None`, said loudly, where there is no protoc.
fn protoc(world: &World, what: &str, input: &[u8]) -> Option<Vec<u8>> {
    fs::write(world.path("re.proto"), DEFINITION).unwrap();
    let mut command = Command::new("protoc");
    command.args([&format!("{what}=re.Tree"), "re.proto"]).current_dir(world.temp.path());
    let Ok(mut child) = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() else {
        skip::loudly("a decoder of protobuf", "protoc is not installed (protobuf-compiler)");
        return None;
    };
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    Some(output.stdout)
}

#[test]
fn another_decoder_reads_the_same_tree_and_encodes_it_to_the_same_bytes() {
    let world = World::new();
    let entries = with_equal_directories(&world);
    let tree = message(&world, &export(&world, entries, DigestFunction::Sha256).tree);
    let Some(text) = protoc(&world, "--decode", &tree) else { return };
    let again = protoc(&world, "--encode", &text).unwrap();
    assert_eq!(again, tree);
    let text = String::from_utf8(text).unwrap();
    assert_eq!(text.matches("root {").count(), 1);
    assert_eq!(text.matches("children {").count(), 5);
    assert_eq!(text.matches("is_executable: true").count(), 5);
    assert!(text.contains(&format!("hash: \"{X}\"\n      size_bytes: 1\n")), "{text}");
    assert!(text.contains("name: \"link\"\n    target: \"/a/../b\"\n"), "{text}");
    assert!(!text.contains("1: "), "a field that the definition does not have");
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
