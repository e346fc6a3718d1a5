//! Intruders: whoever writes to the files of an upper from outside of the action, between any two steps of a capture.

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use common::{World, open, skip};
use vfsrun_layers::{Base, CaptureOptions, Captured, Digest, Hooks, LayerStore, capture};

const TRUE: &[u8] = b"true content";
const EVIL: &[u8] = b"EVIL content";

fn options() -> CaptureOptions {
    CaptureOptions { clamp_mtime: Some(1), name: Some("some".into()), ..CaptureOptions::default() }
}

/// An upper with one file, and the place of its blob.
fn world() -> (World, PathBuf, PathBuf) {
    let world = World::new();
    let victim = world.dir("upper").join("victim");
    fs::write(&victim, TRUE).unwrap();
    let blob = world.blob_path(&Digest::of(TRUE));
    (world, victim, blob)
}

/// A capture during which `intrude` is done after the file was linked and before it is settled.
fn capture_and(world: &World, intrude: impl Fn()) -> Captured {
    let look = |layer, _: &_| {
        intrude();
        Ok(Base::new(layer))
    };
    let hooks = Hooks { look: Some(&look), ..Hooks::default() };
    capture(open(&world.path("upper")).as_fd(), &options(), &world.store, hooks).unwrap()
}

fn write_over(mut file: &File) {
    file.rewind().unwrap();
    file.write_all(EVIL).unwrap();
}

fn open_to_write(path: &Path) -> File {
    OpenOptions::new().write(true).open(path).unwrap()
}

/// The layer holds what it says, or its blob is known to be damaged.
fn is_sound(world: &World, captured: &Captured) -> bool {
    world.store.check_blobs(&world.store.manifest(&captured.digest).unwrap()).is_ok()
}

#[test]
fn what_is_written_to_when_it_is_a_blob_is_not_believed_and_spoils_nobody_else_s_layer() {
    let (world, victim, blob) = world();
    let captured = capture_and(&world, || write_over(&open_to_write(&victim)));
    assert_eq!(fs::read(&blob).unwrap(), EVIL);
    assert!(!is_sound(&world, &captured));
    fs::write(world.dir("other").join("file"), TRUE).unwrap();
    let other = LayerStore::open(&world.path("store")).unwrap();
    let other =
        capture(open(&world.path("other")).as_fd(), &CaptureOptions::default(), &other, Hooks::default())
            .unwrap();
    assert!(is_sound(&world, &other) && is_sound(&world, &captured), "it is mended by that");
    assert_eq!(fs::read(&blob).unwrap(), TRUE);
}

#[test]
fn a_time_that_is_set_back_hides_no_write() {
    let (world, victim, blob) = world();
    let captured = capture_and(&world, || {
        let time = fs::metadata(&victim).unwrap().modified().unwrap();
        let file = open_to_write(&victim);
        write_over(&file);
        file.set_modified(time).unwrap();
    });
    assert_eq!(fs::read(&blob).unwrap(), EVIL);
    assert!(!is_sound(&world, &captured));
}

#[test]
fn a_writer_that_comes_late_is_left_with_a_file_of_its_own() {
    let (world, victim, blob) = world();
    let late = std::cell::OnceCell::new();
    let captured = capture_and(&world, || late.set(open_to_write(&victim)).unwrap());
    let late = late.into_inner().unwrap();
    write_over(&late);
    late.set_modified(UNIX_EPOCH + Duration::from_secs(1)).unwrap();
    assert!(is_sound(&world, &captured));
    let stat = fs::metadata(&blob).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.mtime(), stat.nlink()), (0o444, 1, 1));
    assert_eq!(fs::read(&blob).unwrap(), TRUE);
    assert!(!victim.exists());
}

#[test]
fn a_symlink_in_a_blob_s_place_leads_nowhere() {
    let (world, _, blob) = world();
    let outside = world.path("outside");
    fs::write(&outside, "private").unwrap();
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o600)).unwrap();
    let before = fs::metadata(&outside).unwrap();
    capture_and(&world, || {
        fs::remove_file(&blob).unwrap();
        symlink(&outside, &blob).unwrap();
    });
    let after = fs::metadata(&outside).unwrap();
    assert_eq!((after.mode(), after.modified().unwrap()), (before.mode(), before.modified().unwrap()));
}

#[test]
fn blobs_belong_to_the_owner_of_the_store() {
    if !rustix::process::geteuid().is_root() {
        skip::this_test("files are given away by root only");
        return;
    }
    for owner in [0, 1000] {
        let (world, victim, blob) = world();
        chown(world.path("store"), Some(owner), Some(owner)).unwrap();
        chown(&victim, Some(100_000), Some(100_000)).unwrap();
        fs::set_permissions(&victim, fs::Permissions::from_mode(0o4755)).unwrap();
        fs::write(world.path("upper/copied"), "copied").unwrap();
        fs::hard_link(world.path("upper/copied"), world.path("upper/linked")).unwrap();
        let inode = fs::metadata(&victim).unwrap().ino();
        capture_and(&world, || ());
        let stat = fs::metadata(&blob).unwrap();
        assert_eq!((stat.uid(), stat.mode() & 0o7777, stat.ino()), (owner, 0o444, inode));
        assert_eq!(fs::metadata(world.blob_path(&Digest::of(b"copied"))).unwrap().uid(), owner);
    }
}
