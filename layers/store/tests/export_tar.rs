//! Tar export: a layer comes back from its tar, and other programs read it.

mod common;
#[path = "common/every.rs"]
mod every;

use std::error::Error;
use std::fs;
use std::io::{self, Cursor, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use common::{World, directory, file};
use vfsrun_layers::{
    Compression, Entry, ExportError, ImportOptions, Kind, Manifest, Meta, Whiteouts, Written, export_tar,
    import_tar,
};

fn export(world: &World, manifest: &Manifest, compression: Compression) -> (Vec<u8>, Written) {
    let mut tar = Vec::new();
    let written = export_tar(manifest, &world.store, Whiteouts::Names, compression, &mut tar).unwrap();
    assert_eq!(written.size, tar.len() as u64);
    (tar, written)
}

/// By a program that is not ours.
fn sha256(bytes: &[u8]) -> String {
    let mut child = Command::new("sha256sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

#[test]
fn a_layer_comes_back_from_its_tar_in_another_store() {
    let world = World::new();
    let manifest = every::with_whiteouts(&world.store);
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let (tar, _) = export(&world, &manifest, compression);
        let other = World::new();
        let options = ImportOptions { devices: true, ..ImportOptions::default() };
        let imported = import_tar(Cursor::new(tar), &options, &other.store).unwrap();
        let again = other.store.manifest(&imported.digest).unwrap();
        for (wanted, found) in manifest.entries.iter().zip(&again.entries) {
            assert_eq!(found, wanted);
        }
        assert_eq!(imported.digest, manifest.digest());
        other.store.check_blobs(&again).unwrap();
    }
}

#[test]
fn the_empty_layer_and_one_of_a_root_alone_come_back() {
    for entries in
        [vec![], vec![directory("")], vec![Entry { kind: Kind::Directory { opaque: true }, ..directory("") }]]
    {
        let world = World::new();
        let manifest = Manifest::from_entries(entries).unwrap();
        let (tar, _) = export(&world, &manifest, Compression::None);
        let imported = import_tar(Cursor::new(tar), &ImportOptions::default(), &world.store).unwrap();
        assert_eq!(imported.digest, manifest.digest());
    }
}

#[test]
fn digests_are_of_what_was_written_and_of_the_tar() {
    let world = World::new();
    let manifest = every::layer(&world.store);
    let (plain, written) = export(&world, &manifest, Compression::None);
    let diff_id = sha256(&plain);
    assert_eq!((&written.digest, &written.diff_id), (&diff_id, &diff_id));
    for compression in [Compression::Gzip, Compression::Zstd] {
        let (compressed, written) = export(&world, &manifest, compression);
        assert_eq!((written.digest, written.diff_id), (sha256(&compressed), diff_id.clone()));
        assert!(compressed.len() < plain.len());
    }
}

#[test]
fn the_same_layer_is_the_same_tar_however_many_threads_make_it() {
    let world = World::new();
    let manifest = every::layer(&world.store);
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let made = [1, 2, 5].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| export(&world, &manifest, compression).0)
        });
        assert!(made[0] == made[1] && made[1] == made[2], "{compression:?}");
    }
}

#[test]
fn gnu_tar_unpacks_it() {
    let world = World::new();
    // Of an owner that exists, as an ordinary user may run the tests.
    let mut entries = every::layer(&world.store).entries;
    entries.retain(|entry| !matches!(entry.kind, Kind::Device { .. }));
    let manifest = Manifest::from_entries(entries).unwrap();
    let (tar, _) = export(&world, &manifest, Compression::None);
    fs::write(world.path("x.tar"), tar).unwrap();
    let out = world.dir("out");
    // Without --xattrs, which has to be asked for; hdrcharset is not known to it.
    let done = Command::new("tar")
        .args(["--warning=no-unknown-keyword", "--no-same-owner", "-xpf", "../x.tar"])
        .current_dir(&out)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    for entry in manifest.entries.iter().filter(|entry| !entry.path.as_os_str().is_empty()) {
        let found = fs::symlink_metadata(out.join(&entry.path)).unwrap();
        match &entry.kind {
            Kind::File { size, .. } => assert_eq!(found.size(), *size, "{:?}", entry.path),
            Kind::Symlink { target } => assert_eq!(fs::read_link(out.join(&entry.path)).unwrap(), *target),
            Kind::HardLink { to } => assert_eq!(found.ino(), fs::metadata(out.join(to)).unwrap().ino()),
            _ => {}
        }
        if matches!(entry.kind, Kind::File { .. }) {
            assert_eq!((found.mtime(), found.mtime_nsec() as u32), entry.meta.mtime, "{:?}", entry.path);
        }
    }
    // So that an ordinary user can remove it.
    fs::set_permissions(out, PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn a_plain_tar_of_a_layer_with_whiteouts_is_refused_before_anything_is_written() {
    let world = World::new();
    let gone = Entry { path: "dir/gone".into(), kind: Kind::Whiteout, meta: Meta::default() };
    let opaque = Entry { kind: Kind::Directory { opaque: true }, ..directory("dir") };
    for (entries, said) in [
        (
            vec![directory("dir"), gone],
            "cannot export \"dir/gone\": a tar cannot hold whiteouts; --format oci-layer can",
        ),
        (vec![opaque], "cannot export \"dir\": a tar cannot hold opaque directories; --format oci-layer can"),
    ] {
        let manifest = Manifest::from_entries(entries).unwrap();
        let mut out = Vec::new();
        let error =
            export_tar(&manifest, &world.store, Whiteouts::Refuse, Compression::None, &mut out).unwrap_err();
        assert_eq!((error.to_string().as_str(), out.len()), (said, 0));
    }
}

#[test]
fn a_name_that_would_be_a_whiteout_is_refused() {
    let world = World::new();
    let manifest = Manifest::from_entries(vec![directory(".wh.a")]).unwrap();
    let mut out = Vec::new();
    let error =
        export_tar(&manifest, &world.store, Whiteouts::Names, Compression::None, &mut out).unwrap_err();
    assert!(matches!(error, ExportError::Unholdable { .. }), "{error}");
    assert_eq!(out, b"");
}

#[test]
fn a_damaged_blob_is_named_by_its_path_and_the_stream_has_no_end() {
    let world = World::new();
    let content = vec![b'x'; 3 << 20];
    let digest = world.store.put_blob(&content[..]).unwrap().0;
    let manifest = Manifest::from_entries(vec![file("some", &content)]).unwrap();
    let blob = world.blob_path(&digest);
    fs::set_permissions(&blob, fs::Permissions::from_mode(0o644)).unwrap();
    let mut forged = content.clone();
    forged[2 << 20] = b'y';
    for (damage, fault) in
        [(forged, "damaged: it hashes to"), (content[1..].to_vec(), "damaged: 3145727 bytes long")]
    {
        fs::write(&blob, damage).unwrap();
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let mut out = Vec::new();
            let error =
                export_tar(&manifest, &world.store, Whiteouts::Names, compression, &mut out).unwrap_err();
            assert_eq!(error.to_string(), "cannot read \"some\" of the layer");
            let cause = error.source().unwrap().to_string();
            assert!(cause.starts_with(&format!("blob {digest} is {fault}")), "{cause}");
            let error = import_tar(Cursor::new(out), &ImportOptions::default(), &World::new().store);
            assert!(error.is_err(), "{compression:?}");
        }
    }
    fs::remove_file(&blob).unwrap();
    let error = export_tar(&manifest, &world.store, Whiteouts::Names, Compression::None, &mut Vec::new());
    assert_eq!(error.unwrap_err().to_string(), "cannot read \"some\" of the layer");
}

#[test]
fn what_is_written_is_read_up_to_the_largest_header() {
    let world = World::new();
    let with = |last: usize| {
        let mut entry = file("some", b"");
        // As large as the kernel's largest attributes, and one that fills the header or is one byte longer.
        let mut add = |name: &str, length| entry.meta.xattrs.insert(name.into(), vec![b'v'; length]);
        for index in 10..25 {
            add(&format!("user.a{index}"), 65536);
        }
        add("user.last", last);
        Manifest::from_entries(vec![entry]).unwrap()
    };
    world.store.put_blob(&b""[..]).unwrap();
    // `LENGTH SCHILY.xattr.user.aNN=` and a newline, fifteen times; the last has a name that is longer by one.
    let fits = (1 << 20) - 15 * (65536 + 5 + 1 + 13 + 8 + 2) - (5 + 1 + 13 + 9 + 2);
    let (tar, _) = export(&world, &with(fits), Compression::None);
    let imported = import_tar(Cursor::new(tar), &ImportOptions::default(), &World::new().store).unwrap();
    assert_eq!(imported.digest, with(fits).digest());
    let (mut out, too_large) = (Vec::new(), with(fits + 1));
    for whiteouts in [Whiteouts::Names, Whiteouts::Refuse] {
        let error = export_tar(&too_large, &world.store, whiteouts, Compression::None, &mut out).unwrap_err();
        let said = "cannot export \"some\": a tar cannot hold names and attributes of more than 1 MiB of one entry; a directory can";
        assert_eq!(error.to_string(), said);
    }
    assert!(out.is_empty());
}

#[test]
fn a_reader_that_goes_away_ends_the_export() {
    struct Narrow(usize);
    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let world = World::new();
    let entries: Vec<Entry> = (0..40u8)
        .map(|index| {
            let content = vec![index; 1 << 20];
            world.store.put_blob(&content[..]).unwrap();
            file(&format!("f{index:02}"), &content)
        })
        .collect();
    let manifest = Manifest::from_entries(entries).unwrap();
    for room in [0, 3 << 20] {
        let error = export_tar(&manifest, &world.store, Whiteouts::Names, Compression::None, Narrow(room))
            .unwrap_err();
        let ExportError::Write { source } = error else { panic!("{error}") };
        assert_eq!(source.kind(), io::ErrorKind::BrokenPipe);
    }
}
