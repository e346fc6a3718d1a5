//! Writers: several captures and imports that put the same contents at once, and what a dead one left.

mod common;

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant, UNIX_EPOCH};

use common::{World, file, find, open};
use rustix::fs::{XattrFlags, setxattr};
use vfsrun_layers::{CaptureOptions, Captured, Digest, Hooks, Kind, LayerStore, Manifest, Take, capture};

fn options() -> CaptureOptions {
    CaptureOptions { clamp_mtime: Some(1_000_000_000), ..CaptureOptions::default() }
}

/// As another process would: with descriptors of its own.
fn capture_alone(world: &World, upper: &Path) -> Captured {
    let store = LayerStore::open(&world.path("store")).unwrap();
    capture(open(upper).as_fd(), &options(), &store, Hooks::default()).unwrap()
}

/// 64 contents, six times each.
fn make_equal_files(upper: &Path, round: usize) {
    for dir in 0..6 {
        let dir = upper.join(format!("d{dir}"));
        fs::create_dir_all(&dir).unwrap();
        for file in 0..64 {
            fs::write(dir.join(format!("f{file}")), format!("{file} of round {round}")).unwrap();
        }
    }
}

#[test]
fn equal_files_are_captured_by_all_threads_and_by_two_captures_at_once() {
    let world = World::new();
    for round in 0..6 {
        let uppers = ["one", "two"].map(|name| world.dir(&format!("{name}{round}")));
        uppers.iter().for_each(|upper| make_equal_files(upper, round));
        let captured = std::thread::scope(|scope| {
            let captures = uppers.each_ref().map(|upper| scope.spawn(|| capture_alone(&world, upper)));
            captures.map(|capture| capture.join().unwrap())
        });
        assert_eq!(captured[0], captured[1]);
        assert_eq!(captured[0].files, 6 * 64);
    }
    let verified = world.store.verify(&|_| ()).unwrap();
    assert_eq!((verified.problems.as_slice(), verified.blobs, verified.unsettled), (&[][..], 6 * 64, 0));
}

/// The inode of a blob, and whether it is believed without being read.
fn look(world: &World, content: &[u8]) -> (u64, bool) {
    let stat = fs::metadata(world.blob_path(&Digest::of(content))).unwrap();
    let marks = (stat.mode() & 0o7777, stat.mtime(), stat.mtime_nsec());
    (stat.ino(), marks == (0o444, 1, 0) && stat.nlink() == 1)
}

fn layer_of(content: &[u8]) -> Manifest {
    Manifest::from_entries(vec![file("file", content)]).unwrap()
}

#[test]
fn a_blob_is_settled_when_it_is_on_the_disk_and_not_before() {
    let world = World::new();
    for content in [b"small".to_vec(), vec![7; 3 << 20], vec![0; 1 << 20]] {
        let writer = world.store.writer().unwrap();
        writer.put_blob(&content[..]).unwrap();
        let (inode, is_settled) = look(&world, &content);
        assert!(!is_settled, "{} bytes", content.len());
        writer.put_layer(&layer_of(&content)).unwrap();
        assert_eq!(look(&world, &content), (inode, true), "{} bytes", content.len());
    }
}

#[test]
fn what_a_dead_writer_has_not_synced_is_put_again() {
    let world = World::new();
    let content = vec![7u8; 1 << 20];
    world.store.writer().unwrap().put_blob(&content[..]).unwrap();
    let (lost, _) = look(&world, &content);
    // As a power failure leaves it: the right size, and nothing in it.
    let blob = world.blob_path(&Digest::of(&content));
    let time = fs::metadata(&blob).unwrap().modified().unwrap();
    fs::set_permissions(&blob, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&blob, vec![0u8; content.len()]).unwrap();
    fs::File::open(&blob).unwrap().set_modified(time).unwrap();
    fs::set_permissions(&blob, fs::Permissions::from_mode(0o444)).unwrap();
    let upper = world.dir("upper");
    fs::write(upper.join("file"), &content).unwrap();
    let captured = capture_alone(&world, &upper);
    let (found, is_settled) = look(&world, &content);
    assert!(found != lost && is_settled);
    world.store.check_blobs(&world.store.manifest(&captured.digest).unwrap()).unwrap();
    assert_eq!(fs::read(blob).unwrap(), content);
}

#[test]
fn a_layer_of_blobs_that_nobody_has_synced_gets_copies() {
    let world = World::new();
    world.store.writer().unwrap().put_blob(&b"unsynced"[..]).unwrap();
    let (unsynced, _) = look(&world, b"unsynced");
    world.store.put_layer(&layer_of(b"unsynced")).unwrap();
    let (found, is_settled) = look(&world, b"unsynced");
    assert!(found != unsynced && is_settled);
}

#[test]
fn a_file_that_looks_like_a_settled_blob_is_copied() {
    let world = World::new();
    let upper = world.dir("upper");
    for (name, content, mode) in [("a", "as in /nix/store", 0o444), ("b", "a program there", 0o555)] {
        fs::write(upper.join(name), content).unwrap();
        fs::set_permissions(upper.join(name), fs::Permissions::from_mode(mode)).unwrap();
        let time = UNIX_EPOCH + Duration::from_secs(1);
        fs::File::open(upper.join(name)).unwrap().set_modified(time).unwrap();
    }
    // Refused only after they were put.
    fs::write(world.dir("upper/z").join("bad"), "x").unwrap();
    setxattr(upper.join("z/bad"), "user.overlay.metacopy", b"", XattrFlags::empty()).unwrap();
    capture(open(&upper).as_fd(), &options(), &world.store, Hooks::default()).unwrap_err();
    fs::remove_dir_all(&upper).unwrap();
    assert!(!look(&world, b"as in /nix/store").1, "nobody has synced it");
    // Nobody has spoilt them.
    let verified = world.store.verify(&|_| ()).unwrap();
    assert_eq!((verified.problems.as_slice(), verified.unsettled), (&[][..], 2));
}

/// What lies in all scratch directories.
fn scratch_files(world: &World) -> usize {
    let scratch = fs::read_dir(world.path("store/tmp")).unwrap().flatten();
    scratch.filter_map(|dir| Some(fs::read_dir(dir.path()).ok()?.flatten())).flatten().count()
}

/// Each round of waiting for a writer reads everything again, and copies what it has not copied.
#[test]
fn what_was_copied_is_not_copied_again_for_a_writer_that_is_waited_for() {
    let world = World::new();
    let upper = world.dir("upper");
    for file in 0..10 {
        fs::write(upper.join(format!("f{file}")), format!("content {file}")).unwrap();
    }
    let written = fs::File::create(upper.join("written")).unwrap();
    let options = CaptureOptions { take: Take::Copy, ..options() };
    let most = std::thread::scope(|scope| {
        let most = scope.spawn(|| {
            // Six rounds or so are begun.
            std::thread::sleep(Duration::from_millis(400));
            let files = scratch_files(&world);
            drop(written);
            files
        });
        capture(open(&upper).as_fd(), &options, &world.store, Hooks::default()).unwrap();
        most.join().unwrap()
    });
    // A scratch directory has a lock, and there may be a copy that is being made.
    assert!(most <= 2, "{most} files");
    assert_eq!(world.store.verify(&|_| ()).unwrap().problems, []);
}

/// A file that was linked, and written to while another one was waited for, is taken as it is in the end.
#[test]
fn a_file_that_changes_while_another_is_waited_for_is_captured_as_it_is() {
    let world = World::new();
    let upper = world.dir("upper");
    fs::write(upper.join("a"), "before").unwrap();
    fs::write(upper.join("b"), "before").unwrap();
    let written = fs::File::create(upper.join("z")).unwrap();
    let [before, behind] = [b"before", b"behind"].map(|content| world.blob_path(&Digest::of(content)));
    let until = |blob: &Path| {
        let begun = Instant::now();
        while !blob.exists() {
            assert!(begun.elapsed() < Duration::from_secs(20), "the capture has given up");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let captured = std::thread::scope(|scope| {
        scope.spawn(|| {
            until(&before);
            fs::write(upper.join("a"), "behind").unwrap();
            until(&behind);
            drop(written);
        });
        capture_alone(&world, &upper)
    });
    let manifest = world.store.manifest(&captured.digest).unwrap();
    let content = |path| match find(&manifest, path).kind {
        Kind::File { digest, .. } => fs::read_to_string(world.blob_path(&digest)).unwrap(),
        ref other => panic!("{other:?}"),
    };
    assert_eq!((content("a"), content("b")), ("behind".to_owned(), "before".to_owned()));
    assert_eq!(world.store.verify(&|_| ()).unwrap().problems, []);
}
