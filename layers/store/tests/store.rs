//! The store: names, digests, damage, removal, runs.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, Ordering};

use common::{World, directory, file, open};
use vfsrun_layers::{Base, BlobFault, Digest, KeptRecord, LayerStore, Manifest, StoreError};

/// Puts one layer that holds a file `name` with `content`.
fn put(world: &World, name: &str, content: &[u8]) -> Digest {
    let writer = world.store.writer().unwrap();
    writer.put_blob(content).unwrap();
    writer.put_layer(&Manifest::from_entries(vec![file(name, content)]).unwrap()).unwrap()
}

/// Writes to a file that is read-only.
fn overwrite(path: &std::path::Path, content: &[u8]) {
    fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
    fs::write(path, content).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o444)).unwrap();
}

#[test]
fn a_new_store_is_private_and_has_a_version() {
    let world = World::new();
    assert_eq!(fs::metadata(world.path("store")).unwrap().mode() & 0o777, 0o700);
    assert_eq!(fs::read_to_string(world.path("store/version")).unwrap(), "1\n");
    LayerStore::open(&world.path("store")).unwrap();
    LayerStore::from_fd(open(&world.path("store"))).unwrap();
}

#[test]
fn a_newer_store_one_without_a_version_and_a_directory_that_is_none_are_refused() {
    let world = World::new();
    fs::write(world.path("store/version"), "2\n").unwrap();
    let error = LayerStore::open(&world.path("store")).unwrap_err();
    assert!(error.to_string().contains("has format 2; this program knows up to 1"), "{error}");
    for found in ["", "x\n", "0\n"] {
        fs::write(world.path("store/version"), found).unwrap();
        let error = LayerStore::open(&world.path("store")).unwrap_err();
        let wanted =
            format!("version holds {:?}, which is no format of a layer store: write 1 into it", found.trim());
        assert!(error.to_string().contains(&wanted), "{error}");
    }
    fs::write(world.dir("other").join("precious"), "").unwrap();
    let error = LayerStore::open(&world.path("other")).unwrap_err();
    assert!(error.to_string().contains("it is not a layer store"), "{error}");
    assert_eq!(fs::read_dir(world.path("other")).unwrap().count(), 1);
}

#[test]
fn a_layer_comes_back_by_name_digest_and_prefix() {
    let world = World::new();
    let digest = put(&world, "a", b"one");
    world.store.set_name("debian/12", &digest).unwrap();
    assert_eq!(world.store.resolve("debian/12").unwrap(), digest);
    assert_eq!(world.store.resolve(&digest.to_string()).unwrap(), digest);
    assert_eq!(world.store.resolve(&digest.to_string()[..11]).unwrap(), digest);
    assert!(matches!(world.store.resolve("b3:12345"), Err(StoreError::BadDigest { .. })));
    assert!(matches!(world.store.resolve("b3:0123456789"), Err(StoreError::NoSuchLayer { .. })));
    assert!(matches!(world.store.resolve("debian"), Err(StoreError::NoSuchName { .. })));
    assert_eq!(world.store.manifest(&digest).unwrap().entries[0].path.to_str(), Some("a"));
}

#[test]
fn names_that_break_the_rule_are_refused_with_the_rule() {
    let world = World::new();
    let digest = put(&world, "a", b"one");
    for name in ["", "A", "../x", "a/../b", "a b", "/a", ".a", "a//b", "a/", "é", "a%b", &"x".repeat(300)] {
        let error = world.store.set_name(name, &digest).unwrap_err();
        assert!(error.to_string().contains("starting with a letter or digit"), "{name}: {error}");
    }
    world.store.set_name("a", &digest).unwrap();
    world.store.set_name("a/b", &digest).unwrap();
    assert_eq!(world.store.names().unwrap().len(), 2);
}

#[test]
fn a_name_is_repointed_and_forgotten() {
    let world = World::new();
    let (one, two) = (put(&world, "a", b"one"), put(&world, "a", b"two"));
    assert_eq!(world.store.set_name("x", &one).unwrap(), None);
    assert_eq!(world.store.set_name("x", &two).unwrap(), Some(one));
    assert_eq!(world.store.set_name("x", &two).unwrap(), None);
    assert_eq!(world.store.resolve("x").unwrap(), two);
    world.store.remove_name("x").unwrap();
    assert!(matches!(world.store.remove_name("x"), Err(StoreError::NoSuchName { .. })));
    assert!(matches!(world.store.set_name("x", &Digest::of(b"?")), Err(StoreError::NoSuchLayer { .. })));
    assert!(matches!(world.store.tag("x", &Digest::of(b"?")), Err(StoreError::NoSuchLayer { .. })));
}

#[test]
fn a_name_always_has_the_base_of_its_layer() {
    let world = World::new();
    let layers: Vec<_> = (0..4).map(|number| put(&world, "a", format!("{number}").as_bytes())).collect();
    std::thread::scope(|scope| {
        for layer in &layers {
            let base = Base::new(*layer);
            let store = &world.store;
            scope.spawn(move || {
                for _ in 0..20 {
                    store.set_name_with_base("same", &base).unwrap();
                    assert!(store.base("same").unwrap().is_some());
                }
            });
        }
    });
    let digest = world.store.resolve("same").unwrap();
    assert_eq!(world.store.base("same").unwrap().unwrap().layer, digest);
    // Whoever cannot point it leaves it as it was; without a base it has none.
    assert!(matches!(world.store.set_name("same", &Digest::of(b"?")), Err(StoreError::NoSuchLayer { .. })));
    assert!(world.store.base("same").unwrap().is_some());
    world.store.set_name("same", &digest).unwrap();
    assert_eq!(world.store.base("same").unwrap(), None);
}

#[test]
fn the_longest_name_has_a_base() {
    let world = World::new();
    let base = Base::new(put(&world, "a", b"one"));
    let name = "x".repeat(200);
    world.store.set_name_with_base(&name, &base).unwrap();
    assert_eq!(world.store.base(&name).unwrap(), Some(base));
}

#[test]
fn a_sound_blob_is_settled_or_hashes_to_its_name() {
    let world = World::new();
    let (digest, size) = world.store.put_blob(&b"stored"[..]).unwrap();
    let open = |size| world.store.open_sound_blob(&digest, size);
    open(Some(size)).unwrap();
    open(None).unwrap();
    assert!(matches!(
        open(Some(7)),
        Err(StoreError::DamagedBlob { fault: BlobFault::Size { wanted: 7, found: 6 }, .. })
    ));
    overwrite(&world.blob_path(&digest), b"stored");
    open(Some(size)).unwrap();
    overwrite(&world.blob_path(&digest), b"forged");
    for size in [Some(size), None] {
        let error = open(size).unwrap_err();
        let wanted = format!("blob {digest} is damaged: it hashes to {}; ", Digest::of(b"forged"));
        assert!(error.to_string().starts_with(&wanted), "{error}");
    }
}

#[test]
fn blobs_are_read_only_with_mtime_one_and_stored_once() {
    let world = World::new();
    let large = vec![7u8; 3 << 20];
    for content in [&b"small"[..], &large] {
        let (digest, size) = world.store.put_blob(content).unwrap();
        assert_eq!(world.store.put_blob(content).unwrap(), (digest, size));
        let stat = fs::metadata(world.blob_path(&digest)).unwrap();
        assert_eq!((stat.mode() & 0o7777, stat.mtime(), stat.size()), (0o444, 1, content.len() as u64));
        assert_eq!(digest, Digest::of(content));
    }
    assert_eq!(world.blobs(), 2);
    assert_eq!(fs::read_dir(world.path("store/tmp")).unwrap().count(), 1, "only the lock");
}

#[test]
fn a_damaged_manifest_is_named_with_both_digests() {
    let world = World::new();
    let digest = put(&world, "a", b"one");
    let path = world.path("store/layers").join(digest.hex());
    let text = fs::read_to_string(&path).unwrap().replace("\"p\":\"a\"", "\"p\":\"b\"");
    overwrite(&path, text.as_bytes());
    let error = world.store.manifest(&digest).unwrap_err();
    let found = Digest::of(text.as_bytes());
    assert_eq!(error.to_string(), format!("layer {digest} is damaged: its manifest hashes to {found}"));
    let listed = world.store.list().unwrap();
    assert_eq!((listed[0].digest, listed[0].files), (digest, None));
    assert_eq!(put(&world, "a", b"one"), digest, "putting it again mends it");
    world.store.manifest(&digest).unwrap();
}

#[test]
fn damaged_and_missing_blobs_are_found_and_mended_by_putting_them_again() {
    let world = World::new();
    let digest = put(&world, "file", b"one");
    let manifest = world.store.manifest(&digest).unwrap();
    world.store.check_blobs(&manifest).unwrap();
    let blob = world.blob_path(&Digest::of(b"one"));

    overwrite(&blob, b"0ne");
    let error = world.store.check_blobs(&manifest).unwrap_err().to_string();
    assert!(error.starts_with("file cannot be read: its blob b3:"), "{error}");
    assert!(error.contains("hashes to") && error.contains("vfsrun layer import"), "{error}");

    overwrite(&blob, b"more");
    let error = world.store.check_blobs(&manifest).unwrap_err().to_string();
    assert!(error.contains("4 bytes long instead of 3"), "{error}");

    fs::remove_file(&blob).unwrap();
    let error = world.store.check_blobs(&manifest).unwrap_err().to_string();
    assert!(error.contains("is missing"), "{error}");
    let error = world.store.put_layer(&manifest).unwrap_err().to_string();
    assert!(error.contains("is missing"), "{error}");

    put(&world, "file", b"one");
    world.store.check_blobs(&manifest).unwrap();
}

#[test]
fn a_blob_that_was_only_touched_is_still_good() {
    let world = World::new();
    let digest = put(&world, "a", b"one");
    overwrite(&world.blob_path(&Digest::of(b"one")), b"one");
    world.store.check_blobs(&world.store.manifest(&digest).unwrap()).unwrap();
}

#[test]
fn removal_takes_the_blobs_that_nobody_else_holds() {
    let world = World::new();
    let writer = world.store.writer().unwrap();
    let contents: [&[u8]; 3] = [b"shared", b"mine", b"other's"];
    for content in contents {
        writer.put_blob(content).unwrap();
    }
    let mine = Manifest::from_entries(vec![file("a", contents[0]), file("b", contents[1])]).unwrap();
    let other = Manifest::from_entries(vec![file("a", contents[0]), file("b", contents[2])]).unwrap();
    let (mine, other) = (writer.put_layer(&mine).unwrap(), writer.put_layer(&other).unwrap());
    drop(writer);
    world.store.set_name("mine", &mine).unwrap();
    let error = world.store.remove(&mine.to_string()).unwrap_err();
    assert!(error.to_string().ends_with("is in use by the name mine: remove the name instead"), "{error}");
    let removed = world.store.remove("mine").unwrap();
    assert_eq!((removed.layer, removed.blobs, removed.bytes), (Some(mine), 1, 4));
    assert!(matches!(world.store.manifest(&mine), Err(StoreError::NoSuchLayer { .. })));
    world.store.check_blobs(&world.store.manifest(&other).unwrap()).unwrap();
}

#[test]
fn a_layer_with_another_name_stays() {
    let world = World::new();
    let digest = put(&world, "a", b"one");
    world.store.set_name("x", &digest).unwrap();
    world.store.set_name("y", &digest).unwrap();
    assert_eq!(world.store.remove("x").unwrap().layer, None);
    assert_eq!(world.store.list().unwrap()[0].names, ["y"]);
}

#[test]
fn nothing_is_removed_while_another_layer_is_damaged() {
    let world = World::new();
    let (bad, good) = (put(&world, "a", b"one"), put(&world, "a", b"two"));
    overwrite(&world.path("store/layers").join(bad.hex()), b"rubbish");
    let error = world.store.remove(&good.to_string()).unwrap_err();
    assert!(matches!(error, StoreError::UnknownBlobs { digest, .. } if digest == bad), "{error}");
    world.store.manifest(&good).unwrap();
    world.store.remove(&bad.to_string()).unwrap();
    world.store.remove(&good.to_string()).unwrap();
    assert_eq!(world.blobs(), 0);
}

#[test]
fn layers_put_during_removals_are_whole() {
    let world = World::new();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let putter = |mark: &'static str| {
            let (world, done) = (&world, &done);
            move || {
                for round in 0..60 {
                    // All rounds share one blob, which removals take away whenever they can.
                    let store = LayerStore::open(&world.path("store")).unwrap();
                    let own = format!("{mark} {round}");
                    let writer = store.writer().unwrap();
                    writer.put_blob(&b"shared by all"[..]).unwrap();
                    writer.put_blob(own.as_bytes()).unwrap();
                    let entries =
                        vec![directory(""), file("own", own.as_bytes()), file("shared", b"shared by all")];
                    let digest = writer.put_layer(&Manifest::from_entries(entries).unwrap()).unwrap();
                    store.set_name(mark, &digest).expect("a layer is not removed while its writer lives");
                    drop(writer);
                    store.check_blobs(&store.manifest(&digest).unwrap()).unwrap();
                    store.remove_name(mark).unwrap();
                }
                done.store(true, Ordering::SeqCst);
            }
        };
        scope.spawn(putter("one"));
        scope.spawn(putter("two"));
        let mut removed = 0;
        while !done.load(Ordering::SeqCst) {
            for layer in world.store.list().unwrap() {
                match world.store.remove(&layer.digest.to_string()) {
                    Ok(_) => removed += 1,
                    Err(StoreError::Named { .. } | StoreError::NoSuchLayer { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
        assert!(removed > 0, "the test removed something");
    });
}

#[test]
fn a_run_has_an_upper_and_is_swept_when_its_owner_is_gone() {
    let world = World::new();
    let run = world.store.new_run().unwrap();
    let upper = run.path().join("upper");
    assert_eq!(fs::metadata(&upper).unwrap().mode() & 0o777, 0o755);
    fs::write(upper.join("file"), "x").unwrap();
    assert_eq!(world.store.sweep().unwrap().runs, 0, "it lives");
    drop(run);
    assert_eq!(world.store.sweep().unwrap().runs, 1);
    assert!(!upper.exists());
}

#[test]
fn a_kept_run_survives_the_sweep() {
    let world = World::new();
    let run = world.store.new_run().unwrap();
    let path = run.path().to_owned();
    run.keep(&KeptRecord::default()).unwrap();
    drop(run);
    assert_eq!(world.store.sweep().unwrap().runs, 0);
    assert!(path.join("upper").exists());
}

#[test]
fn a_removed_run_leaves_nothing() {
    let world = World::new();
    let run = world.store.new_run().unwrap();
    let path = run.path().to_owned();
    fs::create_dir(path.join("work/work")).unwrap();
    fs::set_permissions(path.join("work/work"), Permissions::from_mode(0o000)).unwrap();
    run.remove().unwrap();
    assert!(!path.exists());
}
