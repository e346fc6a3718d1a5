//! Import of what the Remote Execution API calls an input root: there and back, and whatever a hostile one could hold.

mod common;

use std::fs::{self, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use common::{World, find, open, paths};
use vfsrun_layers::{
    Digest, DigestFunction, ImportOptions, Imported, Kind, Malformed, Manifest, MessageFault, Owner,
    ReapiError, export_reapi, import_dir, import_reapi,
};

/// Blobs in `cas`.
struct Cas(World, DigestFunction);

fn field(number: u8, value: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2], varint(value.len()).as_slice(), value].concat()
}

/// Of a small number.
fn varint(number: usize) -> Vec<u8> {
    match number {
        ..0x80 => vec![number as u8],
        0x80..0x4000 => vec![number as u8 | 0x80, (number >> 7) as u8],
        _ => panic!("{number} is not small"),
    }
}

/// A digest, as it is in a message.
fn digest(hash: &str, size: usize) -> Vec<u8> {
    let size = if size > 0 { [vec![0x10], varint(size)].concat() } else { vec![] };
    [field(1, hash.as_bytes()), size].concat()
}

/// A node of whatever kind, `second` its digest or target.
fn node(kind: u8, name: &str, second: &[u8]) -> Vec<u8> {
    field(kind, &[field(1, name.as_bytes()), field(2, second)].concat())
}

const FILE: u8 = 1;
const DIRECTORY: u8 = 2;
const SYMLINK: u8 = 3;

impl Cas {
    fn new() -> Cas {
        Cas::of(DigestFunction::Blake3)
    }

    fn of(function: DigestFunction) -> Cas {
        let world = World::new();
        world.dir("cas/blobs");
        Cas(world, function)
    }

    fn put(&self, bytes: &[u8]) -> String {
        let growing = self.0.path("growing");
        fs::write(&growing, bytes).unwrap();
        let hash = match self.1 {
            DigestFunction::Blake3 => Digest::of(bytes).hex(),
            DigestFunction::Sha256 => {
                let sums = Command::new("sha256sum").arg(&growing).output().unwrap();
                String::from_utf8(sums.stdout).unwrap()[..64].to_owned()
            }
        };
        fs::rename(growing, self.0.path("cas/blobs").join(&hash)).unwrap();
        hash
    }

    /// A node with the digest of these bytes, which are put there.
    fn with(&self, kind: u8, name: &str, bytes: &[u8]) -> Vec<u8> {
        node(kind, name, &digest(&self.put(bytes), bytes.len()))
    }

    fn import_as(&self, root: &str, options: &ImportOptions) -> Result<Imported, ReapiError> {
        let dir = open(&self.0.path("cas"));
        import_reapi(dir.as_fd(), &root.parse().unwrap(), self.1, options, &self.0.store, |_| ())
    }

    fn import(&self, root: &str) -> Result<Imported, ReapiError> {
        self.import_as(root, &ImportOptions::default())
    }

    /// Of the message `root`.
    fn layer(&self, root: &[u8]) -> Manifest {
        let imported = self.import(&self.put(root)).unwrap();
        let manifest = self.0.store.manifest(&imported.digest).unwrap();
        self.0.store.check_blobs(&manifest).unwrap();
        manifest
    }

    /// Why the message `root` is refused; no layer is left behind.
    fn refused(&self, root: &[u8]) -> String {
        let error = self.import(&self.put(root)).unwrap_err();
        assert_eq!(self.0.store.list().unwrap().len(), 0);
        chain(&error)
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(Some(error), |error| error.source());
    sources.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[test]
fn a_tree_comes_back_as_the_layer_that_it_was() {
    let world = World::new();
    let tree = world.dir("tree");
    for dir in ["empty", "d/same", "e/same"] {
        world.dir(&format!("tree/{dir}"));
    }
    for (path, content, mode) in [
        ("d/same/file", &b"content"[..], 0o644),
        ("e/same/file", b"content", 0o644),
        ("d/run", b"#!/bin/sh\n", 0o755),
        ("a-b", b"", 0o644),
        ("ä\n\"", b"quoted", 0o644),
        ("large", &vec![7; 300_000], 0o755),
    ] {
        fs::write(tree.join(path), content).unwrap();
        fs::set_permissions(tree.join(path), Permissions::from_mode(mode)).unwrap();
    }
    symlink("/etc/../d", tree.join("link")).unwrap();
    let epoch = ImportOptions { clamp_mtime: Some(0), owner: Owner::As(0, 0), ..ImportOptions::default() };
    let wanted = import_dir(open(&tree).as_fd(), &epoch, &world.store).unwrap();
    let manifest = world.store.manifest(&wanted.digest).unwrap();
    for (function, out) in [(DigestFunction::Sha256, "sha256"), (DigestFunction::Blake3, "blake3")] {
        let target = world.path(out);
        let exported = export_reapi(&manifest, &world.store, function, &target).unwrap();
        for root in [&exported.root, &exported.tree] {
            let other = World::new();
            let told = std::sync::atomic::AtomicU64::new(0);
            let tell = |size| {
                told.fetch_add(size, std::sync::atomic::Ordering::Relaxed);
            };
            let (dir, options) = (open(&target), ImportOptions::default());
            let root = root.parse().unwrap();
            let imported = import_reapi(dir.as_fd(), &root, function, &options, &other.store, tell).unwrap();
            assert_eq!(imported, wanted);
            assert_eq!(told.into_inner(), 300_000 + 10 + 7 + 6, "equal files are read once");
            other.store.check_blobs(&other.store.manifest(&imported.digest).unwrap()).unwrap();
        }
    }
}

#[test]
fn of_a_tree_only_files_need_be_there() {
    let cas = Cas::new();
    let child = cas.with(FILE, "file", b"x");
    let hash = cas.put(&child);
    let root = node(DIRECTORY, "d", &digest(&hash, child.len()));
    fs::remove_file(cas.0.path("cas/blobs").join(&hash)).unwrap();
    // A child that is there twice, and one that nothing leads to, mean nothing.
    let tree =
        [field(1, &root), field(2, &child), field(2, &child), field(2, &node(SYMLINK, "l", b"t"))].concat();
    assert_eq!(paths(&cas.layer(&tree)), ["", "d", "d/file"]);
    let error = cas.import(&cas.put(&root)).unwrap_err();
    assert!(matches!(&error, ReapiError::Read { path, .. } if path == "\"/d\""), "{error}");
    let error = cas.import(&cas.put(&field(1, &root))).unwrap_err();
    assert!(matches!(&error, ReapiError::NotInTree { path, .. } if path == "\"/d\""), "{error}");
    let other_size = node(DIRECTORY, "d", &digest(&hash, child.len() + 1));
    let error = cas.import(&cas.put(&[field(1, &other_size), field(2, &child)].concat())).unwrap_err();
    assert!(matches!(&error, ReapiError::Size { found, wanted, .. } if found + 1 == *wanted), "{error}");
}

#[test]
fn empty_messages_are_an_empty_root() {
    for root in [&[][..], &[0x0A, 0]] {
        let cas = Cas::new();
        assert_eq!(paths(&cas.layer(root)), [""]);
    }
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for name in ["", ".", "..", "a/b", "/", "/etc", "a\0b", "../x", &"n".repeat(256)] {
        for kind in [FILE, DIRECTORY, SYMLINK] {
            let cas = Cas::new();
            let said = cas.refused(&cas.with(kind, name, b""));
            assert!(
                said.contains(&format!("the name {name:?} in it is empty, '.', '..', too long")),
                "{said}"
            );
        }
    }
    let cas = Cas::new();
    let node = field(SYMLINK, &[field(1, b"bad\xFF"), field(2, b"x")].concat());
    assert!(cas.refused(&node).contains("a text in it is no UTF-8"));
}

#[test]
fn names_of_a_kind_sort_and_no_name_is_there_twice() {
    let cas = Cas::new();
    let [a, b] = ["a", "b"].map(|name| cas.with(FILE, name, b""));
    for nodes in [[&b, &a], [&a, &a]] {
        let said = cas.refused(&[nodes[0].as_slice(), nodes[1]].concat());
        assert!(said.contains("\"a\" in it does not sort behind the name before it"), "{said}");
    }
    for [one, two] in [[FILE, DIRECTORY], [FILE, SYMLINK], [DIRECTORY, SYMLINK]] {
        let nodes = [cas.with(one, "a", b""), cas.with(two, "a", b"")].concat();
        assert_eq!(
            cas.refused(&nodes),
            "the messages are no layer: a layer cannot hold \"a\": the path appears twice"
        );
    }
    let deep = [cas.with(FILE, "a", b""), cas.with(DIRECTORY, "a", &cas.with(FILE, "b", b""))].concat();
    assert!(cas.refused(&deep).contains("the path appears twice"));
}

#[test]
fn targets_of_symlinks_are_text_that_nobody_follows() {
    let cas = Cas::new();
    let links = [node(SYMLINK, "a", b"/etc/passwd"), node(SYMLINK, "b", b"../../..")].concat();
    let layer = cas.layer(&links);
    assert_eq!(find(&layer, "a").kind, Kind::Symlink { target: "/etc/passwd".into() });
    assert_eq!(find(&layer, "b").kind, Kind::Symlink { target: "../../..".into() });
    for target in [&b""[..], b"a\0b", &[b'x'; 4096]] {
        let cas = Cas::new();
        let said = cas.refused(&node(SYMLINK, "link", target));
        assert!(said.ends_with("its symlink target is empty, has a NUL byte or is longer than 4095 bytes"));
    }
}

#[test]
fn digests_are_whole_and_in_one_form() {
    let hash = Digest::of(b"").hex();
    for sum in [
        vec![],
        field(1, b""),
        field(1, &hash.as_bytes()[1..]),
        field(1, hash.to_uppercase().as_bytes()),
        field(1, "../".repeat(21).as_bytes()),
        field(1, format!("{hash}0").as_bytes()),
        // A negative size.
        [field(1, hash.as_bytes()), vec![0x10, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1]].concat(),
    ] {
        for kind in [FILE, DIRECTORY] {
            let said = Cas::new().refused(&node(kind, "a", &sum));
            assert!(said.contains("\"a\" in it has no digest of 64 lower-case hexadecimal digits"), "{said}");
        }
    }
}

#[test]
fn what_the_api_does_not_call_canonical_is_refused() {
    let cas = Cas::new();
    let file = |more: &[u8]| {
        let hash = cas.put(b"");
        field(FILE, &[&field(1, b"a"), &field(2, &digest(&hash, 0)), more].concat())
    };
    let [directory, link] = [cas.with(DIRECTORY, "d", b""), node(SYMLINK, "l", b"t")];
    for (message, malformed) in [
        (file(&[0x20, 0]), Malformed::Default(4)),
        (file(&[0x20, 2]), Malformed::Field(4)),
        (file(&[0x20, 1, 0x20, 1]), Malformed::Order(4)),
        (file(&field(3, b"")), Malformed::Field(3)),
        (file(&field(7, b"")), Malformed::Field(7)),
        (file(&[0x20, 0x81, 0]), Malformed::Number),
        (file(&[0x20]), Malformed::Short),
        (file(&field(1, b"z")), Malformed::Order(1)),
        ([link.as_slice(), &directory].concat(), Malformed::Order(2)),
        ([link.as_slice(), &field(4, b"")].concat(), Malformed::Field(4)),
        ([link.as_slice(), &field(5, b""), &field(5, b"")].concat(), Malformed::Order(5)),
        ([link.as_slice(), &field(6, b"")].concat(), Malformed::Field(6)),
        (link[..link.len() - 1].to_vec(), Malformed::Short),
    ] {
        let root = cas.put(&message);
        match cas.import(&root).unwrap_err() {
            ReapiError::NoRoot { hash, directory: MessageFault::Malformed(found), .. } => {
                assert_eq!((hash, found), (root, malformed), "{message:x?}");
            }
            other => panic!("{message:x?}: {other}"),
        }
        // In a directory further down the path is told.
        let above = cas.with(DIRECTORY, "above", &message);
        let said = cas.refused(&above);
        assert_eq!(
            said,
            format!("the message of \"/above\" of the layer is no canonical Directory: {malformed}")
        );
    }
}

/// Every byte of a root changed in several ways: what is imported all the same is exported as the very bytes that it came from.
#[test]
fn what_is_accepted_has_one_encoding() {
    let cas = Cas::new();
    let nodes = [
        cas.with(FILE, "a", b"x"),
        cas.with(FILE, "b", b""),
        cas.with(DIRECTORY, "c", b""),
        node(SYMLINK, "d", b"../t"),
    ];
    let root = nodes.concat();
    let mut accepted = 0;
    for position in 0..root.len() {
        for mask in [1, 2, 8, 0x20, 0x80, 0xFF] {
            let mut changed = root.clone();
            changed[position] ^= mask;
            let hash = cas.put(&changed);
            let Ok(imported) = cas.import(&hash) else { continue };
            accepted += 1;
            let manifest = cas.0.store.manifest(&imported.digest).unwrap();
            let out = cas.0.path(&format!("out-{position}-{mask}"));
            let exported = export_reapi(&manifest, &cas.0.store, cas.1, &out).unwrap();
            assert_eq!(exported.root, format!("{hash}/{}", changed.len()));
        }
    }
    // Names and the target can change.
    assert!((5..60).contains(&accepted), "{accepted}");
}

#[test]
fn messages_that_stand_for_too_much_are_refused() {
    let cas = Cas::new();
    // Two to the power of 100 directories in 100 messages, of which none is read twice.
    let mut message = Vec::new();
    for _ in 0..100 {
        message = ["a", "b"].map(|name| cas.with(DIRECTORY, name, &message)).concat();
    }
    let root = cas.put(&message);
    let error = cas.import(&root).unwrap_err();
    assert!(matches!(error, ReapiError::TooManyEntries { limit: 4_000_000 }), "{error}");
    // As many as are allowed, and one less.
    let mut message = cas.with(FILE, "file", b"");
    for _ in 0..10 {
        message = ["a", "b"].map(|name| cas.with(DIRECTORY, name, &message)).concat();
    }
    let exact = cas.put(&message);
    let names = 2 * 1024 + 1023;
    let at_most = |max_entries| ImportOptions { max_entries, ..ImportOptions::default() };
    assert_eq!(cas.import_as(&exact, &at_most(names)).unwrap().entries, names);
    let error = cas.import_as(&exact, &at_most(names - 1)).unwrap_err();
    assert!(matches!(error, ReapiError::TooManyEntries { .. }), "{error}");
    // Paths count, too.
    let few_words = |max_words| ImportOptions { max_words, ..ImportOptions::default() };
    for (root, words) in [(&exact, 200_000), (&root, 9_000)] {
        let error = cas.import_as(root, &few_words(words)).unwrap_err();
        assert!(matches!(error, ReapiError::TooManyWords), "{error}");
    }
    // One below the other.
    let mut message = Vec::new();
    for _ in 0..600 {
        message = cas.with(DIRECTORY, "d", &message);
    }
    let error = cas.import(&cas.put(&message)).unwrap_err();
    assert!(matches!(error, ReapiError::Depth { limit: 512, .. }), "{error}");
    // One file many times.
    let file = |name: &str| cas.with(FILE, name, &[7; 100]);
    let root = cas.put(&["a", "b", "c"].map(file).concat());
    let few_bytes = |max_bytes| ImportOptions { max_bytes, ..ImportOptions::default() };
    assert!(cas.import_as(&root, &few_bytes(300)).is_ok());
    let error = cas.import_as(&root, &few_bytes(299)).unwrap_err();
    assert!(matches!(error, ReapiError::TooManyBytes { limit: 299 }), "{error}");
    // A Tree of nothing but directories that nobody needs.
    let tree = [field(1, b""), field(2, b"").repeat(9_000)].concat();
    let error = cas.import_as(&cas.put(&tree), &at_most(8_999)).unwrap_err();
    assert!(
        matches!(error, ReapiError::NoRoot { tree: MessageFault::TooManyDirectories(8_999), .. }),
        "{error}"
    );
}

#[test]
fn nothing_is_believed_of_a_blob() {
    nothing_is_believed(DigestFunction::Sha256, DigestFunction::Blake3);
    nothing_is_believed(DigestFunction::Blake3, DigestFunction::Sha256);
}

fn nothing_is_believed(function: DigestFunction, other: DigestFunction) {
    let cas = Cas::of(function);
    let [inner, file] = [cas.with(FILE, "file", b"content"), cas.with(FILE, "only", b"whole")];
    let root = [file, cas.with(DIRECTORY, "d", &inner)].concat();
    let hash = cas.put(&root);
    let root = format!("{hash}/{}", root.len());
    let blob = |hash: &str| cas.0.path("cas/blobs").join(hash);
    for (bytes, path) in [(&b"content"[..], "\"/d/file\""), (b"whole", "\"/only\""), (&inner, "\"/d\"")] {
        let name = cas.put(bytes);
        let said = |what: &str| {
            let said = chain(&cas.import(&root).unwrap_err());
            assert!(said.contains(&format!("which is {path} of the layer")), "{said}");
            assert!(said.contains(what), "{said}");
            assert_eq!(cas.0.store.list().unwrap().len(), 0);
        };
        fs::write(blob(&name), vec![b'X'; bytes.len()]).unwrap();
        said("is damaged, or named by another function (--digest): it hashes to ");
        fs::write(blob(&name), b"longer than it was, whatever it was, and by far longer than all of the messages, which have a hundred bytes").unwrap();
        said(&format!("and is to have {}", bytes.len()));
        fs::remove_file(blob(&name)).unwrap();
        said("No such file or directory");
        fs::write(cas.0.path("elsewhere"), bytes).unwrap();
        symlink("../../elsewhere", blob(&name)).unwrap();
        said("Too many levels of symbolic links");
        fs::remove_file(blob(&name)).unwrap();
        assert!(Command::new("mkfifo").arg(blob(&name)).status().unwrap().success());
        said("is no regular file");
        fs::remove_file(blob(&name)).unwrap();
        cas.put(bytes);
    }
    let error = cas.import(&format!("{hash}/1")).unwrap_err();
    assert!(matches!(error, ReapiError::Size { wanted: 1, .. }), "{error}");
    assert!(cas.import(&root).is_ok());
    let cas = Cas(cas.0, other);
    let error = cas.import(&root).unwrap_err();
    assert!(matches!(error, ReapiError::Content { .. }), "{error}");
}

#[test]
fn node_properties_say_modes_and_times() {
    let cas = Cas::new();
    let hash = cas.put(b"x");
    // Ours, then 2001-09-09T01:46:40.000000005Z, then 04711.
    let property = field(1, &[field(1, b"owner"), field(2, b"me")].concat());
    let time = field(2, &[&[0x08, 0x80, 0x94, 0xEB, 0xDC, 0x03][..], &[0x10, 5]].concat());
    let mode = field(3, &[0x08, 0xC9, 0x13]);
    let all = [property, time, mode].concat();
    let file = [field(1, b"file"), field(2, &digest(&hash, 1)), field(6, &all)].concat();
    let link = [field(1, b"link"), field(2, b"file"), field(4, &all)].concat();
    let root = cas.put(&[field(1, &file), field(3, &link), field(5, &all)].concat());
    let imported = cas.import(&root).unwrap();
    assert_eq!(imported.properties_skipped, 3);
    let layer = cas.0.store.manifest(&imported.digest).unwrap();
    for (path, mode) in [("", 0o4711), ("file", 0o4711), ("link", 0o777)] {
        let meta = &find(&layer, path).meta;
        assert_eq!((meta.mode, meta.mtime), (mode, (1_000_000_000, 5)), "{path:?}");
    }
    let clamped = ImportOptions { clamp_mtime: Some(7), owner: Owner::As(1, 2), ..ImportOptions::default() };
    let layer = cas.0.store.manifest(&cas.import_as(&root, &clamped).unwrap().digest).unwrap();
    let meta = &find(&layer, "file").meta;
    assert_eq!((meta.mtime, meta.uid, meta.gid), ((7, 0), 1, 2));
    // A message that is empty says mode 0 and the epoch.
    let zeros = [field(2, b""), field(3, b"")].concat();
    assert_eq!(find(&cas.layer(&field(5, &zeros)), "").meta.mode, 0);
}

#[test]
fn properties_out_of_range_are_refused() {
    let minus_one = [255, 255, 255, 255, 255, 255, 255, 255, 255, 1];
    let number = |number: u8, bytes: &[u8]| [&[number << 3], bytes].concat();
    for (properties, said) in [
        (field(2, &number(2, &minus_one)), "a time in it is out of range"),
        (field(2, &number(2, &[0x80, 0x94, 0xEB, 0xDC, 0x03])), "a time in it is out of range"),
        (
            field(2, &number(1, &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x7F])),
            "a time in it is out of range",
        ),
        (field(2, &number(3, &[1])), "its field 3 is unknown"),
        // A regular file's type.
        (field(3, &number(1, &[0xA4, 0x83, 0x02])), "the mode 100644 in it has more than permission bits"),
        (field(3, &number(1, &minus_one)), "has more than permission bits"),
        (field(3, &number(2, &[1])), "its field 2 is unknown"),
        (number(3, &[1]), "its field 3 is unknown, or of another type"),
        (field(4, b""), "its field 4 is unknown"),
    ] {
        let message = field(5, &properties);
        assert!(Cas::new().refused(&message).contains(said), "{said}");
    }
    // Before the epoch is a time, too.
    let cas = Cas::new();
    let layer = cas.layer(&field(5, &field(2, &number(1, &minus_one))));
    assert_eq!(find(&layer, "").meta.mtime, (-1, 0));
}
