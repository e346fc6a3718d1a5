//! Export: a layer as a directory, and back.

mod common;
#[path = "common/every.rs"]
mod every;

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};

use common::{Overlay, World, directory, file, in_overlay, open, skip};
use vfsrun_layers::{
    CaptureOptions, Digest, Entry, ExportError, ImportOptions, Kind, Manifest, Meta, Take, export_dir,
    import_dir,
};

#[test]
fn an_exported_directory_comes_back_as_the_same_layer() {
    let world = World::new();
    let tree = world.dir("tree");
    fs::create_dir_all(tree.join("a/b")).unwrap();
    fs::write(tree.join("a/b/large"), vec![1u8; 500_000]).unwrap();
    fs::write(tree.join("a/file"), "x").unwrap();
    fs::hard_link(tree.join("a/file"), tree.join("link")).unwrap();
    symlink("a/file", tree.join("symlink")).unwrap();
    rustix::fs::setxattr(tree.join("a/file"), "user.note", b"x", rustix::fs::XattrFlags::empty()).unwrap();
    let import = |dir| import_dir(open(dir).as_fd(), &ImportOptions::default(), &world.store).unwrap().digest;
    let digest = import(&tree);
    let target = world.path("out");
    let done = export_dir(&world.store.manifest(&digest).unwrap(), &world.store, &target).unwrap();
    assert_eq!((done.entries, done.owners_not_set, done.xattrs_not_set), (7, 0, 0));
    assert_eq!(import(&target), digest);
    assert_eq!(fs::metadata(target.join("link")).unwrap().nlink(), 2, "the two names, and no blob");
}

#[test]
fn whiteouts_and_opaque_directories_are_an_upper_again() {
    let world = World::new();
    let gone = Entry { path: "dir/gone".into(), kind: Kind::Whiteout, meta: Meta::default() };
    let mut dir = directory("dir");
    dir.kind = Kind::Directory { opaque: true };
    let manifest = Manifest::from_entries(vec![directory(""), dir, gone]).unwrap();
    let target = world.path("out");
    export_dir(&manifest, &world.store, &target).unwrap();
    let device = fs::symlink_metadata(target.join("dir/gone")).unwrap();
    assert!(device.file_type().is_char_device());
    assert_eq!(device.rdev(), 0);
    let options = CaptureOptions { clamp_mtime: Some(0), take: Take::Copy, ..CaptureOptions::default() };
    let captured = world.capture(&target, &options).unwrap();
    let mut again = world.store.manifest(&captured.digest).unwrap();
    for entry in &mut again.entries {
        (entry.meta.uid, entry.meta.gid) = (0, 0);
    }
    assert_eq!(again, manifest);
}

#[test]
fn a_directory_with_files_is_not_exported_into() {
    let world = World::new();
    let target = world.dir("out");
    fs::write(target.join("precious"), "").unwrap();
    let manifest = Manifest::from_entries(vec![directory("a")]).unwrap();
    let error = export_dir(&manifest, &world.store, &target).unwrap_err();
    assert!(matches!(error, ExportError::NotEmpty { .. }), "{error}");
    assert_eq!(fs::read_dir(&target).unwrap().count(), 1);
}

#[test]
fn a_missing_blob_is_named_by_its_path() {
    let world = World::new();
    let manifest = Manifest::from_entries(vec![file("some", b"never stored")]).unwrap();
    let error = export_dir(&manifest, &world.store, &world.path("out")).unwrap_err();
    assert_eq!(error.to_string(), "cannot read \"some\" of the layer");
}

#[test]
fn a_damaged_blob_is_named_with_its_path_and_not_exported() {
    let world = World::new();
    let digest = world.store.put_blob(&b"stored"[..]).unwrap().0;
    let manifest = Manifest::from_entries(vec![file("some", b"stored")]).unwrap();
    for (content, fault) in [
        ("forged", format!("damaged: it hashes to {}", Digest::of(b"forged"))),
        ("longer", format!("damaged: it hashes to {}", Digest::of(b"longer"))),
        ("too long", "damaged: 8 bytes long instead of 6".to_owned()),
    ] {
        let blob = world.blob_path(&digest);
        fs::set_permissions(&blob, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&blob, content).unwrap();
        // A forger may restore what a settled blob looks like.
        rustix::fs::utimensat(
            rustix::fs::CWD,
            &blob,
            &rustix::fs::Timestamps {
                last_access: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 },
                last_modification: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 },
            },
            rustix::fs::AtFlags::empty(),
        )
        .unwrap();
        fs::set_permissions(&blob, fs::Permissions::from_mode(0o444)).unwrap();
        let target = world.path(content);
        let error = export_dir(&manifest, &world.store, &target).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap();
        let said = format!("{error}: {cause}");
        let wanted = format!("cannot read \"some\" of the layer: blob {digest} is {fault}; ");
        assert!(said.starts_with(&wanted), "{said}");
        assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
    }
}

#[test]
fn read_only_directories_are_filled_before_they_are_closed() {
    let world = World::new();
    let mut dir = directory("dir");
    (dir.meta.mode, dir.meta.mtime) = (0o555, (77, 0));
    world.store.put_blob(&b"x"[..]).unwrap();
    let manifest = Manifest::from_entries(vec![dir, file("dir/file", b"x")]).unwrap();
    export_dir(&manifest, &world.store, &world.path("out")).unwrap();
    let stat = fs::metadata(world.path("out/dir")).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.mtime()), (0o555, 77));
    // Or an ordinary user could not remove what is in it.
    fs::set_permissions(world.path("out/dir"), PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn a_layer_of_everything_comes_back_from_an_upper() {
    if !rustix::process::geteuid().is_root() {
        skip::this_test("only root makes devices and sets owners");
        return;
    }
    let world = World::new();
    let manifest = every::with_whiteouts(&world.store);
    let target = world.path("out");
    let done = export_dir(&manifest, &world.store, &target).unwrap();
    assert_eq!((done.owners_not_set, done.xattrs_not_set), (0, 0));
    let options = ImportOptions { overlay: true, devices: true, ..ImportOptions::default() };
    let other = World::new();
    let imported = import_dir(open(&target).as_fd(), &options, &other.store).unwrap();
    let again = other.store.manifest(&imported.digest).unwrap();
    for (wanted, found) in manifest.entries.iter().zip(&again.entries) {
        assert_eq!(found, wanted);
    }
    assert_eq!(imported.digest, manifest.digest());
}

#[test]
fn the_kernel_takes_an_export_for_an_upper() {
    let world = World::new();
    for path in ["lower/opaque/hidden", "lower/gone", "lower/merged/kept"] {
        let path = world.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "lower").unwrap();
    }
    world.store.put_blob(&b"x"[..]).unwrap();
    let opaque = Entry { kind: Kind::Directory { opaque: true }, ..directory("opaque") };
    let gone = Entry { path: "gone".into(), kind: Kind::Whiteout, meta: Meta::default() };
    let entries = vec![opaque, file("opaque/new", b"x"), gone, directory("merged"), file("merged/new", b"x")];
    let manifest = Manifest::from_entries(entries).unwrap();
    export_dir(&manifest, &world.store, &world.path("upper")).unwrap();
    let script = "test \"$(find . -type f | sort | xargs)\" = './merged/kept ./merged/new ./opaque/new'; echo y > opaque/new";
    if !in_overlay(&world, Overlay::Trusted, script) {
        return;
    }
    assert_eq!(fs::read_to_string(world.path("upper/opaque/new")).unwrap(), "y\n");
    let blob = world.blob_path(&Digest::of(b"x"));
    assert_eq!(fs::read_to_string(blob).unwrap(), "x", "what is written to the upper is not in the store");
}

#[test]
fn an_upper_whose_content_lies_elsewhere_is_refused() {
    if !rustix::process::geteuid().is_root() {
        skip::this_test("trusted attributes are root's");
        return;
    }
    for (mark, value) in [("trusted.overlay.redirect", &b"/other"[..]), ("trusted.overlay.metacopy", b"")] {
        let world = World::new();
        let dir = world.dir("upper/dir");
        rustix::fs::setxattr(&dir, mark, value, rustix::fs::XattrFlags::empty()).unwrap();
        let options = ImportOptions { overlay: true, ..ImportOptions::default() };
        let upper = open(&world.path("upper"));
        let error = import_dir(upper.as_fd(), &options, &world.store).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.starts_with(&format!("\"dir\" has overlayfs's mark {mark:?}")), "{cause}");
        assert!(world.store.list().unwrap().is_empty());
    }
}
