//! Tar import: what a tar becomes, and what a hostile one cannot do.

mod common;

use std::error::Error;
use std::io::{Cursor, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use common::{World, find, paths};
use tar::{Builder, EntryType, Header};
use vfsrun_layers::{Digest, ImportError, ImportOptions, Imported, Kind, Manifest, import_tar};

/// A tar made member by member, names taken as they are.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn member(mut self, name: &str, kind: EntryType, link: &str, content: &[u8]) -> Tar {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(1);
        header.set_gid(2);
        header.set_mtime(1000);
        header.set_size(content.len() as u64);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[..name.len()].copy_from_slice(name.as_bytes());
        gnu.linkname[..link.len()].copy_from_slice(link.as_bytes());
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, content: &str) -> Tar {
        self.member(name, EntryType::Regular, "", content.as_bytes())
    }

    fn dir(self, name: &str) -> Tar {
        self.member(name, EntryType::Directory, "", b"")
    }

    fn symlink(self, name: &str, to: &str) -> Tar {
        self.member(name, EntryType::Symlink, to, b"")
    }

    fn hard_link(self, name: &str, to: &str) -> Tar {
        self.member(name, EntryType::Link, to, b"")
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

fn import_with(world: &World, tar: &[u8], options: &ImportOptions) -> Result<Imported, ImportError> {
    import_tar(Cursor::new(tar), options, &world.store)
}

fn import(tar: Tar) -> Manifest {
    let world = World::new();
    let imported = import_with(&world, &tar.end(), &ImportOptions::default()).unwrap();
    let manifest = world.store.manifest(&imported.digest).unwrap();
    world.store.check_blobs(&manifest).unwrap();
    manifest
}

/// The refusal of a tar; the store has no layer afterwards.
fn refusal(tar: Tar) -> String {
    let world = World::new();
    let error = import_with(&world, &tar.end(), &ImportOptions::default()).unwrap_err();
    assert_eq!(world.store.list().unwrap(), []);
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[test]
fn a_plain_tar_is_what_it_says() {
    let manifest =
        import(Tar::default().dir("./").dir("./bin/").file("./bin/sh", "x").symlink("sh", "bin/sh"));
    assert_eq!(paths(&manifest), ["", "bin", "bin/sh", "sh"]);
    let entry = find(&manifest, "bin/sh");
    assert_eq!(entry.kind, Kind::File { digest: Digest::of(b"x"), size: 1 });
    assert_eq!((entry.meta.mode, entry.meta.uid, entry.meta.gid, entry.meta.mtime), (0o644, 1, 2, (1000, 0)));
}

#[test]
fn compressed_tars_are_one_layer_with_the_plain_one() {
    let world = World::new();
    let large = "y".repeat(400_000);
    let plain = Tar::default().file("a", "x").file("large", &large).end();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let zstd = zstd::encode_all(Cursor::new(&plain), 1).unwrap();
    let digests = [plain.clone(), gzip.finish().unwrap(), zstd]
        .map(|tar| import_with(&world, &tar, &ImportOptions::default()).unwrap().digest);
    assert!(digests.iter().all(|digest| *digest == digests[0]));
}

#[test]
fn names_that_lead_out_are_refused_by_name() {
    assert_eq!(
        refusal(Tar::default().file("/etc/passwd", "x")),
        "cannot import member \"/etc/passwd\" of the tar: its name is absolute"
    );
    assert!(refusal(Tar::default().file("a/../../b", "x")).ends_with("its name has a component '..'"));
    assert!(refusal(Tar::default().file("a", "x").hard_link("b", "../a")).ends_with("component '..'"));
}

#[test]
fn a_symlink_is_no_parent() {
    let text = refusal(Tar::default().symlink("etc", "/etc").file("etc/passwd", "x"));
    assert_eq!(
        text,
        "cannot import member \"etc/passwd\" of the tar: its parent \"etc\" is no directory in the tar"
    );
}

#[test]
fn a_directory_with_members_is_not_replaced() {
    let text = refusal(Tar::default().dir("a").file("a/b", "x").symlink("a", "/etc"));
    assert!(text.ends_with("it would replace a directory that has members"), "{text}");
}

#[test]
fn the_last_member_of_a_name_wins() {
    let manifest = import(Tar::default().file("a", "first").dir("b").file("a", "second").symlink("b", "a"));
    assert_eq!(find(&manifest, "a").kind, Kind::File { digest: Digest::of(b"second"), size: 6 });
    assert_eq!(find(&manifest, "b").kind, Kind::Symlink { target: "a".into() });
}

#[test]
fn hard_links_are_resolved_whatever_their_order() {
    let manifest =
        import(Tar::default().file("z", "x").hard_link("b", "./z").hard_link("c", "b").file("z", "new"));
    assert_eq!(find(&manifest, "b").kind, Kind::File { digest: Digest::of(b"x"), size: 1 });
    assert_eq!(find(&manifest, "c").kind, Kind::HardLink { to: "b".into() });
    assert_eq!(find(&manifest, "z").kind, Kind::File { digest: Digest::of(b"new"), size: 3 });
    let text = refusal(Tar::default().hard_link("a", "missing"));
    assert!(text.ends_with("a hard link to \"missing\", which is no earlier file of the tar"), "{text}");
}

#[test]
fn missing_parents_are_made() {
    let manifest = import(Tar::default().file("a/b/c", "x"));
    assert_eq!(paths(&manifest), ["a", "a/b", "a/b/c"]);
    assert_eq!(find(&manifest, "a/b").meta.mode, 0o755);
}

#[test]
fn whiteout_names_become_whiteouts_and_opaque_directories() {
    let tar = Tar::default()
        .file("dir/.wh.gone", "")
        .dir("opaque")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/new", "x")
        .file(".wh.again", "")
        .file("again/new", "x")
        .dir("before")
        .file(".wh.before", "")
        .file(".wh..wh.plnk", "");
    let manifest = import(tar);
    assert_eq!(find(&manifest, "dir/gone").kind, Kind::Whiteout);
    for opaque in ["opaque", "again", "before"] {
        assert_eq!(find(&manifest, opaque).kind, Kind::Directory { opaque: true }, "{opaque}");
    }
    assert_eq!(manifest.entries.len(), 7);
    assert!(refusal(Tar::default().file("a/.wh...", "")).ends_with("has a NUL byte"));
}

#[test]
fn devices_are_skipped_and_counted_unless_wanted() {
    let world = World::new();
    let tar = Tar::default().member("null", EntryType::Char, "", b"").file("a", "x").end();
    let skipped = import_with(&world, &tar, &ImportOptions::default()).unwrap();
    assert_eq!((skipped.entries, skipped.devices_skipped), (1, 1));
    let options = ImportOptions { devices: true, ..ImportOptions::default() };
    let wanted = import_with(&world, &tar, &options).unwrap();
    let manifest = world.store.manifest(&wanted.digest).unwrap();
    assert_eq!(find(&manifest, "null").kind, Kind::Device { block: false, major: 1, minor: 3 });
}

#[test]
fn limits_stop_a_bomb() {
    let world = World::new();
    let tar = Tar::default().file("a", "xxxx").file("b", "xxxx").end();
    let options = ImportOptions { max_bytes: 7, ..ImportOptions::default() };
    assert!(matches!(import_with(&world, &tar, &options), Err(ImportError::TooManyBytes { limit: 7 })));
    let options = ImportOptions { max_entries: 1, ..ImportOptions::default() };
    assert!(matches!(import_with(&world, &tar, &options), Err(ImportError::TooManyEntries { limit: 1 })));
}

#[test]
fn a_truncated_tar_is_refused() {
    let world = World::new();
    let tar = Tar::default().file("a", &"x".repeat(300)).file("b", &"y".repeat(400_000)).end();
    for length in [512 + 100, 2000, 300_000] {
        let error = import_with(&world, &tar[..length], &ImportOptions::default()).unwrap_err();
        assert!(
            matches!(
                error,
                ImportError::Member { .. } | ImportError::Read { .. } | ImportError::ReadMember { .. }
            ),
            "{error}"
        );
    }
}

#[test]
fn what_is_no_tar_is_refused() {
    let world = World::new();
    for (input, wanted) in [
        (&b""[..], "the input is empty, not a tar"),
        (&[0xFD, b'7', b'z', b'X', b'Z', 0, 0], "the input is compressed by xz"),
        (&[b'x'; 2000], "cannot read the tar"),
    ] {
        let error = import_with(&world, input, &ImportOptions::default()).unwrap_err();
        assert!(error.to_string().starts_with(wanted), "{error}");
    }
}

#[test]
fn pax_attributes_long_names_and_fine_times_are_read() {
    let long = format!("dir/{}", "n".repeat(200));
    let mut builder = Builder::new(Vec::new());
    let pax =
        [("SCHILY.xattr.user.note", &b"a\xFFb"[..]), ("SCHILY.xattr.trusted.x", b"no"), ("mtime", b"5.5")];
    builder.append_pax_extensions(pax).unwrap();
    let mut header = Header::new_ustar();
    header.set_size(1);
    header.set_mode(0o600);
    builder.append_data(&mut header, "a", &b"x"[..]).unwrap();
    let mut header = Header::new_gnu();
    header.set_size(1);
    builder.append_data(&mut header, &long, &b"x"[..]).unwrap();
    let world = World::new();
    let tar = builder.into_inner().unwrap();
    let imported = import_with(&world, &tar, &ImportOptions::default()).unwrap();
    let manifest = world.store.manifest(&imported.digest).unwrap();
    let meta = &find(&manifest, "a").meta;
    assert_eq!(meta.xattrs.iter().collect::<Vec<_>>(), [(&"user.note".into(), &b"a\xFFb".to_vec())]);
    assert_eq!(meta.mtime, (5, 500_000_000));
    assert!(manifest.entries.iter().any(|entry| entry.path == Path::new(&long)));
}

/// With more pieces than the first header of the old form holds.
#[test]
fn a_sparse_file_is_read_in_each_form() {
    let world = World::new();
    let dir = world.dir("tree");
    let file = std::fs::File::create(dir.join("sparse")).unwrap();
    file.set_len(8 << 20).unwrap();
    for piece in 0..40 {
        file.write_all_at(format!("piece {piece}").as_bytes(), piece * 150_000 + 4096).unwrap();
    }
    std::fs::write(dir.join("after"), "after").unwrap();
    let content = std::fs::read(dir.join("sparse")).unwrap();
    for format in ["--format=gnu", "--sparse-version=0.1", "--sparse-version=1.0"] {
        let output = Command::new("tar")
            .args(["--sparse", format, "-cf", "-", "sparse", "after"])
            .args(if format.contains("version") { &["--format=posix"][..] } else { &[] })
            .current_dir(&dir)
            .output()
            .unwrap();
        assert!(output.status.success() && output.stdout.len() < 1 << 20, "{format}");
        let imported = import_with(&world, &output.stdout, &ImportOptions::default()).unwrap();
        let manifest = world.store.manifest(&imported.digest).unwrap();
        let whole = Kind::File { digest: Digest::of(&content), size: 8 << 20 };
        assert_eq!(find(&manifest, "sparse").kind, whole, "{format}");
        assert_eq!(
            find(&manifest, "after").kind,
            Kind::File { digest: Digest::of(b"after"), size: 5 },
            "{format}"
        );
    }
}

/// A member with records of PAX before it.
fn with_records(records: &[(&str, &str)], kind: EntryType, content: &[u8]) -> Vec<u8> {
    let record = |(key, value): &(&str, &str)| {
        let rest = key.len() + value.len() + 3;
        let length = (1..).find(|digits| (rest + digits).to_string().len() == *digits).unwrap() + rest;
        format!("{length} {key}={value}\n")
    };
    let text: String = records.iter().map(record).collect();
    Tar::default().member("pax", EntryType::XHeader, "", text.as_bytes()).member("a", kind, "", content).end()
}

#[test]
fn wrong_maps_of_sparse_files_are_refused() {
    let sparse = |map: &str, size: &str, content: &[u8]| {
        let records = [("GNU.sparse.major", "0"), ("GNU.sparse.map", map), ("GNU.sparse.size", size)];
        let tar = with_records(&records, EntryType::Regular, content);
        let world = World::new();
        let imported = import_with(&world, &tar, &ImportOptions::default());
        imported.map(|imported| imported.bytes).map_err(|error| error.source().unwrap().to_string())
    };
    assert_eq!(sparse("0,2,10,2", "20", b"abcd"), Ok(20));
    for (map, size, content) in [
        ("0,2,1,2", "20", &b"abcd"[..]),
        ("10,2,0,2", "20", b"abcd"),
        ("0,2,10,2", "11", b"abcd"),
        ("0,2,10,2", "20", b"abc"),
        ("0,2,10,2", "20", b"abcdefg"),
        ("0,2,10", "20", b"ab"),
        ("0,18446744073709551615,1,1", "20", b"abcd"),
        ("x", "20", b"abcd"),
    ] {
        let refused = sparse(map, size, content).unwrap_err();
        assert!(refused.contains("sparse") || refused.contains("number"), "{map}: {refused}");
    }
}

#[test]
fn records_of_pax_stand_above_the_header() {
    let long = "d/".repeat(80) + "name";
    let (path, wide) = (("path", &*long), "3000000000");
    let tar =
        with_records(&[path, ("size", "3"), ("uid", wide), ("mtime", "-1.5")], EntryType::Regular, b"abc");
    let world = World::new();
    let imported = import_with(&world, &tar, &ImportOptions::default()).unwrap();
    let manifest = world.store.manifest(&imported.digest).unwrap();
    let entry = find(&manifest, &long);
    assert_eq!((entry.meta.uid, entry.meta.mtime), (3_000_000_000, (-2, 500_000_000)));
    for bad in
        [("path", "../out"), ("path", "/abs"), ("uid", "x"), ("uid", "99999999999999999999"), ("mtime", "x")]
    {
        let tar = with_records(&[bad], EntryType::Regular, b"abc");
        assert!(import_with(&world, &tar, &ImportOptions::default()).is_err(), "{bad:?}");
    }
}

/// What comes next would be read in another way by others.
#[test]
fn content_where_none_can_be_is_refused() {
    for kind in [EntryType::Directory, EntryType::Symlink, EntryType::Fifo] {
        let refused = refusal(Tar::default().member("a", kind, "", b"x"));
        assert!(refused.contains("a member that is no file has content"), "{refused}");
    }
}

#[test]
fn headers_that_never_end_are_refused() {
    let endless = |kind, name: &str| {
        let world = World::new();
        let tar = Tar::default().member(name, kind, "", &vec![b'x'; 2 << 20]).end();
        let error = import_with(&world, &tar, &ImportOptions::default()).unwrap_err();
        assert_eq!(error.source().unwrap().to_string(), "a header is larger than a megabyte");
    };
    endless(EntryType::GNULongName, "././@LongLink");
    endless(EntryType::GNULongLink, "././@LongLink");
    endless(EntryType::XHeader, "pax");
    endless(EntryType::XGlobalHeader, "pax");
}

#[test]
fn directories_without_end_are_refused() {
    let refused = refusal(Tar(with_records(&[("path", &"d/".repeat(513))], EntryType::Directory, b"")));
    assert!(refused.ends_with("its name has more than 512 components"), "{refused}");
    let world = World::new();
    let mut tar = Tar::default();
    for index in 0..100 {
        tar = tar.file(&format!("{index}/{}name", "d/".repeat(40)), "");
    }
    let tar = tar.end();
    let options = ImportOptions { max_entries: 1000, ..ImportOptions::default() };
    assert!(matches!(import_with(&world, &tar, &options), Err(ImportError::TooManyEntries { limit: 1000 })));
    let options = ImportOptions { max_words: 20_000, ..ImportOptions::default() };
    assert!(matches!(import_with(&world, &tar, &options), Err(ImportError::TooManyWords { limit: 20_000 })));
    assert!(import_with(&world, &tar, &ImportOptions::default()).is_ok());
}

#[test]
fn attributes_and_names_may_hold_any_byte() {
    let name = format!("{}\n{}", "n".repeat(60), "n".repeat(60));
    let mut builder = Builder::new(Vec::new());
    let capability = b"\x01\0\0\x02\n\0\0\0=\n\n\0\0\0\0\0\0\0\0\0";
    let pax = [("SCHILY.xattr.security.capability", &capability[..]), ("path", name.as_bytes())];
    builder.append_pax_extensions(pax).unwrap();
    let mut header = Header::new_ustar();
    header.set_size(0);
    builder.append_data(&mut header, "a", &b""[..]).unwrap();
    let world = World::new();
    let tar = builder.into_inner().unwrap();
    let imported = import_with(&world, &tar, &ImportOptions::default()).unwrap();
    let manifest = world.store.manifest(&imported.digest).unwrap();
    let xattrs = &find(&manifest, &name).meta.xattrs;
    assert_eq!(xattrs.iter().collect::<Vec<_>>(), [(&"security.capability".into(), &capability.to_vec())]);
}

#[test]
fn large_numbers_are_read_from_pax_records() {
    let mut builder = Builder::new(Vec::new());
    let pax = [("uid", &b"4000000000"[..]), ("gid", b"3000000"), ("mtime", b"-0.5"), ("size", b"3")];
    builder.append_pax_extensions(pax).unwrap();
    let mut header = Header::new_ustar();
    header.set_size(0);
    header.set_path("a").unwrap();
    header.set_cksum();
    let mut tar = builder.into_inner().unwrap();
    tar.truncate(1024);
    tar.extend(header.as_bytes());
    tar.extend(b"abc");
    tar.resize(2048, 0);
    let tar = [tar, Tar::default().file("b", "x").end()].concat();
    let world = World::new();
    let imported = import_with(&world, &tar, &ImportOptions::default()).unwrap();
    let manifest = world.store.manifest(&imported.digest).unwrap();
    let entry = find(&manifest, "a");
    assert_eq!(entry.kind, Kind::File { digest: Digest::of(b"abc"), size: 3 });
    assert_eq!((entry.meta.uid, entry.meta.gid), (4_000_000_000, 3_000_000));
    assert_eq!(entry.meta.mtime, (-1, 500_000_000));
    assert_eq!(paths(&manifest), ["a", "b"]);
}

#[test]
fn a_whiteout_may_be_of_the_longest_name() {
    let lower = "n".repeat(255);
    let record = format!("path=.wh.{lower}\n");
    let pax = format!("{} {record}", record.len() + 4);
    let manifest = import(Tar::default().member("x", EntryType::XHeader, "", pax.as_bytes()).file("f", ""));
    assert_eq!(find(&manifest, &lower).kind, Kind::Whiteout);
    let pax = format!("{} path=.wh.n{lower}\n", record.len() + 5);
    let text = refusal(Tar::default().member("x", EntryType::XHeader, "", pax.as_bytes()).file("f", ""));
    assert!(text.ends_with("its name is empty, too long or has a NUL byte"), "{text}");
}

#[test]
fn headers_that_lie_or_contradict_are_refused() {
    let pax = |records: &[u8]| Tar::default().member("x", EntryType::XHeader, "", records);
    let long = |kind| Tar::default().member("././@LongLink", kind, "", b"name\0");
    let wrong = "a PAX header is wrong";
    for (tar, fault) in [
        (pax(b"999 path=a\n"), wrong),
        (pax(b"6 path"), wrong),
        (pax(b"13 size=large\n"), wrong),
        (pax(b"14 size=large\n"), "a header has a number that is none"),
        (pax(b"9 uid=-1\n"), "a header has a number that is none"),
        (pax(b"10 path=a\n").member("x", EntryType::XHeader, "", b"10 path=b\n"), "two headers say the same"),
        (
            long(EntryType::GNULongName).member("l", EntryType::GNULongName, "", b"b\0"),
            "two headers say the same",
        ),
        (
            long(EntryType::GNULongLink).member("l", EntryType::GNULongLink, "", b"b\0"),
            "two headers say the same",
        ),
    ] {
        let text = refusal(tar.file("f", "x"));
        assert_eq!(text, format!("cannot read the tar: {fault}"));
    }
    assert_eq!(refusal(pax(b"10 path=a\n")), "cannot read the tar: it ends before the member of a header");
    assert!(refusal(pax(b"14 path=../../a\n").file("f", "x")).contains(wrong));
    assert!(refusal(pax(b"16 path=../../a\n").file("f", "x")).ends_with("component '..'"));
}

#[test]
fn zeros_of_a_large_file_take_no_room() {
    let world = World::new();
    for (start, end) in [(&b"start"[..], &b"end"[..]), (b"start", b""), (b"", b"")] {
        let content = [start, &vec![0; 32 << 20], end].concat();
        let mut builder = Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, "sparse", &content[..]).unwrap();
        let tar = builder.into_inner().unwrap();
        import_with(&world, &tar, &ImportOptions::default()).unwrap();
        let blob = world.blob_path(&Digest::of(&content));
        assert!(std::fs::read(&blob).unwrap() == content);
        let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&blob).unwrap());
        assert!(blocks * 512 <= 8 << 20, "{blocks}");
    }
}

/// A tar with every kind of header that is read.
fn of_all_kinds() -> Vec<u8> {
    let record = format!("215 path={}\n", "n".repeat(205));
    let mut tar = Tar::default()
        .dir("dir")
        .file("dir/file", "content")
        .hard_link("link", "dir/file")
        .symlink("soft", "dir")
        .member("x", EntryType::XHeader, "", record.as_bytes())
        .file("long", "x")
        .member("././@LongLink", EntryType::GNULongName, "", &[&b"l".repeat(150)[..], b"\0"].concat())
        .file("gnu", &"y".repeat(2000))
        .file("dir/.wh.gone", "");
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_size(512);
    header.set_path("sparse").unwrap();
    let gnu = header.as_gnu_mut().unwrap();
    gnu.realsize = *b"00000010000\0";
    gnu.sparse[0].offset = *b"00000007000\0";
    gnu.sparse[0].numbytes = *b"00000001000\0";
    header.set_cksum();
    tar.0.extend(header.as_bytes());
    tar.0.extend([b'z'; 512]);
    tar.end()
}

/// The header that a byte lies in gets the checksum that it should have, so that what is behind it is reached.
fn with_sums(mut tar: Vec<u8>) -> Vec<u8> {
    for block in tar.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        let mut header = Header::from_byte_slice(block).clone();
        header.set_cksum();
        block.copy_from_slice(header.as_bytes());
    }
    tar
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]

    #[test]
    fn a_changed_tar_is_a_layer_or_an_error(
        changes in proptest::collection::vec((proptest::prelude::any::<proptest::sample::Index>(), proptest::prelude::any::<u8>()), 0..6),
        cut in proptest::option::of(proptest::prelude::any::<proptest::sample::Index>()),
    ) {
        let world = World::new();
        let mut tar = of_all_kinds();
        for (at, byte) in &changes {
            let at = at.index(tar.len());
            tar[at] = *byte;
        }
        if let Some(cut) = cut {
            tar.truncate(cut.index(tar.len()));
        }
        let options = ImportOptions { max_bytes: 1 << 20, ..ImportOptions::default() };
        if let Ok(imported) = import_with(&world, &with_sums(tar), &options) {
            let manifest = world.store.manifest(&imported.digest).unwrap();
            world.store.check_blobs(&manifest).unwrap();
        }
    }
}

#[test]
fn the_unchanged_tar_of_all_kinds_is_a_layer() {
    let world = World::new();
    let imported = import_with(&world, &of_all_kinds(), &ImportOptions::default()).unwrap();
    let manifest = world.store.manifest(&imported.digest).unwrap();
    assert_eq!(
        find(&manifest, "sparse").kind,
        Kind::File { digest: Digest::of(&[&[0; 3584][..], &[b'z'; 512]].concat()), size: 4096 }
    );
    assert_eq!(find(&manifest, &"n".repeat(205)).kind, Kind::File { digest: Digest::of(b"x"), size: 1 });
    assert_eq!(find(&manifest, "dir/gone").kind, Kind::Whiteout);
}
