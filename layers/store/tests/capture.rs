//! Capture: what the layer has of an upper, and what happens to the upper.

mod common;

use std::error::Error;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use common::{Overlay, World, find, in_overlay, open, paths, skip};
use rustix::fs::{FileType, Mode, XattrFlags, setxattr};
use vfsrun_layers::{
    CaptureError, CaptureOptions, Digest, IdExtent, IdMap, ImportOptions, Kind, Take, import_dir,
};

const CLAMP: Option<i64> = Some(1_000_000_000);

fn canonical() -> CaptureOptions {
    CaptureOptions { clamp_mtime: CLAMP, ..CaptureOptions::default() }
}

fn copying() -> CaptureOptions {
    CaptureOptions { take: Take::Copy, ..canonical() }
}

/// The error and its causes on one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// An upper with one of most kinds.
fn make_upper(upper: &Path) {
    fs::create_dir_all(upper.join("dir/empty")).unwrap();
    fs::write(upper.join("dir/file"), "content").unwrap();
    fs::write(upper.join("dir/same"), "content").unwrap();
    fs::write(upper.join("large"), vec![3u8; 300_000]).unwrap();
    fs::write(upper.join("z-linked"), "linked").unwrap();
    fs::hard_link(upper.join("z-linked"), upper.join("dir/linked")).unwrap();
    symlink("../anywhere", upper.join("link")).unwrap();
    fs::set_permissions(upper.join("dir/file"), Permissions::from_mode(0o4711)).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, upper.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0)
        .unwrap();
}

fn whiteout(path: &Path) {
    rustix::fs::mknodat(rustix::fs::CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
}

fn snapshot(dir: &Path) -> String {
    let script =
        "find . -printf '%P %y %m %s %T@ %U %l\n' | sort && find . -type f | sort | xargs -d '\n' -r md5sum";
    let output = Command::new("sh").args(["-c", script]).current_dir(dir).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_kind_is_recorded() {
    let world = World::new();
    let upper = world.dir("upper");
    make_upper(&upper);
    let captured = world.capture(&upper, &canonical()).unwrap();
    let manifest = world.store.manifest(&captured.digest).unwrap();
    let names =
        ["", "dir", "dir/empty", "dir/file", "dir/linked", "dir/same", "fifo", "large", "link", "z-linked"];
    assert_eq!(paths(&manifest), names);
    assert_eq!(find(&manifest, "dir/file").kind, Kind::File { digest: Digest::of(b"content"), size: 7 });
    assert_eq!(find(&manifest, "dir/file").meta.mode, 0o4711);
    assert_eq!(find(&manifest, "z-linked").kind, Kind::HardLink { to: "dir/linked".into() });
    assert_eq!(find(&manifest, "link").kind, Kind::Symlink { target: "../anywhere".into() });
    assert_eq!(find(&manifest, "fifo").kind, Kind::Fifo);
    assert!(manifest.entries.iter().all(|entry| entry.meta.mtime == (1_000_000_000, 0)));
    assert_eq!((captured.added, captured.changed, captured.removed), (9, 0, 0));
    assert_eq!((captured.files, captured.bytes), (4, 7 + 7 + 6 + 300_000));
    world.store.check_blobs(&manifest).unwrap();
}

#[test]
fn moved_files_are_gone_from_the_upper_and_settled_in_the_store() {
    let world = World::new();
    let upper = world.dir("upper");
    fs::write(upper.join("file"), "content").unwrap();
    let inode = fs::metadata(upper.join("file")).unwrap().ino();
    world.capture(&upper, &canonical()).unwrap();
    assert!(!upper.join("file").exists());
    let blob = fs::metadata(world.blob_path(&Digest::of(b"content"))).unwrap();
    assert_eq!((blob.ino(), blob.mode() & 0o7777, blob.mtime(), blob.nlink()), (inode, 0o444, 1, 1));
}

#[test]
fn two_captures_of_one_upper_are_one_layer_and_leave_it_alone() {
    let world = World::new();
    let upper = world.dir("upper");
    make_upper(&upper);
    let before = snapshot(&upper);
    let first = world.capture(&upper, &copying()).unwrap();
    assert_eq!(snapshot(&upper), before);
    let second = world.capture(&upper, &copying()).unwrap();
    let moved = world.capture(&upper, &canonical()).unwrap();
    assert_eq!((first.digest, first.digest), (second.digest, moved.digest));
}

#[test]
fn equal_trees_made_in_another_order_are_one_layer() {
    let world = World::new();
    let (one, two) = (world.dir("one"), world.dir("two"));
    make_upper(&one);
    fs::hard_link(
        {
            fs::create_dir_all(two.join("dir")).unwrap();
            fs::write(two.join("dir/linked"), "linked").unwrap();
            two.join("dir/linked")
        },
        two.join("z-linked"),
    )
    .unwrap();
    fs::write(two.join("large"), vec![3u8; 300_000]).unwrap();
    let rest =
        "cp -p ../one/dir/file ../one/dir/same dir && mkdir dir/empty && cp -dR ../one/fifo ../one/link .";
    assert!(Command::new("sh").args(["-ec", rest]).current_dir(&two).status().unwrap().success());
    assert_eq!(
        world.capture(&one, &canonical()).unwrap().digest,
        world.capture(&two, &canonical()).unwrap().digest
    );
}

#[test]
fn earlier_times_are_kept_and_later_ones_clamped() {
    let world = World::new();
    let upper = world.dir("upper");
    fs::write(upper.join("old"), "").unwrap();
    fs::write(upper.join("new"), "").unwrap();
    assert!(Command::new("touch").args(["-d", "@5.25"]).arg(upper.join("old")).status().unwrap().success());
    let captured = world.capture(&upper, &canonical()).unwrap();
    let manifest = world.store.manifest(&captured.digest).unwrap();
    assert_eq!(find(&manifest, "old").meta.mtime, (5, 250_000_000));
    assert_eq!(find(&manifest, "new").meta.mtime, (1_000_000_000, 0));
}

#[test]
fn a_kernel_overlay_is_captured_with_whiteouts_and_opaque_directories() {
    for how in [Overlay::Trusted, Overlay::Userxattr] {
        let world = World::new();
        let lower = world.dir("lower");
        for dir in ["kept", "replaced", "deleted", "deep/er"] {
            fs::create_dir_all(lower.join(dir)).unwrap();
            fs::write(lower.join(dir).join("old"), "old").unwrap();
        }
        let script = "echo more >> kept/old; rm deep/er/old; rm -r deleted replaced; mkdir replaced; \
                      echo new > replaced/new; mkdir fresh; ln -s x fresh/link";
        if !in_overlay(&world, how, script) {
            return;
        }
        let captured = world.capture(&world.path("upper"), &canonical()).unwrap();
        let manifest = world.store.manifest(&captured.digest).unwrap();
        let names = [
            "",
            "deep",
            "deep/er",
            "deep/er/old",
            "deleted",
            "fresh",
            "fresh/link",
            "kept",
            "kept/old",
            "replaced",
            "replaced/new",
        ];
        assert_eq!(paths(&manifest), names);
        assert_eq!(find(&manifest, "deep/er/old").kind, Kind::Whiteout);
        assert_eq!(find(&manifest, "deleted").kind, Kind::Whiteout);
        assert_eq!(find(&manifest, "replaced").kind, Kind::Directory { opaque: true });
        assert_eq!(find(&manifest, "kept").kind, Kind::Directory { opaque: false });
        assert_eq!((captured.added, captured.changed, captured.removed), (4, 1, 2));
        assert_eq!(captured.copied_up_bytes, 8);
        assert!(manifest.entries.iter().all(|entry| entry.meta.xattrs.is_empty()));
    }
}

#[test]
fn a_redirected_directory_is_refused_by_name() {
    let world = World::new();
    let dir = world.dir("upper/moved");
    setxattr(&dir, "user.overlay.redirect", b"/old", XattrFlags::empty()).unwrap();
    let error = world.capture(&world.path("upper"), &canonical()).unwrap_err();
    assert!(
        error.to_string().starts_with("\"moved\" has overlayfs's mark \"user.overlay.redirect\""),
        "{error}"
    );
    fs::remove_dir(&dir).unwrap();
    fs::write(&dir, "").unwrap();
    setxattr(&dir, "user.overlay.metacopy", b"", XattrFlags::empty()).unwrap();
    let error = world.capture(&world.path("upper"), &canonical()).unwrap_err();
    assert!(matches!(error, CaptureError::Redirected { .. }), "{error}");
}

#[test]
fn a_file_marked_as_whiteout_is_one() {
    let world = World::new();
    let upper = world.dir("upper");
    fs::write(upper.join("gone"), "").unwrap();
    setxattr(upper.join("gone"), "user.overlay.whiteout", b"", XattrFlags::empty()).unwrap();
    setxattr(&upper, "user.overlay.opaque", b"x", XattrFlags::empty()).unwrap();
    let captured = world.capture(&upper, &canonical()).unwrap();
    let manifest = world.store.manifest(&captured.digest).unwrap();
    assert_eq!(find(&manifest, "gone").kind, Kind::Whiteout);
    assert_eq!(find(&manifest, "").kind, Kind::Directory { opaque: false });
    assert_eq!((captured.added, captured.removed), (0, 1));
}

#[test]
fn only_what_is_wanted_is_recorded() {
    let world = World::new();
    let upper = world.dir("upper");
    for dir in ["work/deep", "tmp", "home/me", "var/lib"] {
        fs::create_dir_all(upper.join(dir)).unwrap();
        fs::write(upper.join(dir).join("file"), dir).unwrap();
    }
    let only = vec!["/work".into(), "home/me/file".into(), "/var/cache/x".into()];
    let captured = world.capture(&upper, &CaptureOptions { only, ..canonical() }).unwrap();
    let manifest = world.store.manifest(&captured.digest).unwrap();
    let names = ["", "home", "home/me", "home/me/file", "work", "work/deep", "work/deep/file"];
    assert_eq!(paths(&manifest), names);
    assert_eq!(captured.added, 4);
    assert!(upper.join("tmp/file").exists(), "what is not recorded stays");
}

/// What goes with a directory above is gone, too.
#[test]
fn what_is_wanted_is_gone_with_what_it_lay_in() {
    for how in [Overlay::Trusted, Overlay::Userxattr] {
        let world = World::new();
        for dir in ["deleted", "remade", "replaced", "dir", "file", "deep/a", "deep/b", "deeper/a/b", "same"]
        {
            let dir = world.dir("lower").join(dir);
            fs::create_dir_all(dir.join("out")).unwrap();
            fs::write(dir.join("out/file"), "x").unwrap();
        }
        fs::set_permissions(world.path("lower/deeper"), Permissions::from_mode(0o1770)).unwrap();
        let script = "rm -rf deleted; rm -rf remade; mkdir remade; rm -rf replaced; echo x > replaced
            rm -rf dir; mkdir -p dir/out; echo y > dir/out/new; rm -rf file; mkdir file; echo x > file/out
            rm -rf deep; mkdir -p deep/a; rm -rf deeper/a; touch same/other";
        if !in_overlay(&world, how, script) {
            return;
        }
        let only = [
            "/deleted/out",
            "deleted/out/",
            "/deleted/out/below",
            "/remade/out",
            "/replaced/out",
            "/dir/out",
            "/file/out",
            "/deep/a/out",
            "/deep/b/out",
            "/deeper/a/b/out",
            "/same/out",
            "/absent/out",
        ];
        let only = only.map(Into::into).to_vec();
        let captured = world.capture(&world.path("upper"), &CaptureOptions { only, ..canonical() }).unwrap();
        let manifest = world.store.manifest(&captured.digest).unwrap();
        let of = |wanted: fn(&Kind) -> bool| {
            let found = manifest.entries.iter().filter(|entry| wanted(&entry.kind));
            found.map(|entry| entry.path.to_str().unwrap()).collect::<Vec<_>>()
        };
        let gone =
            ["deep/a/out", "deep/b/out", "deeper/a/b/out", "deleted/out", "remade/out", "replaced/out"];
        assert_eq!(of(|kind| *kind == Kind::Whiteout), gone);
        assert_eq!(of(|kind| *kind == Kind::Directory { opaque: true }), ["dir/out"]);
        assert_eq!(of(|kind| matches!(kind, Kind::File { .. })), ["dir/out/new", "file/out"]);
        assert!(!paths(&manifest).contains(&"same"));
        assert_eq!(find(&manifest, "deeper/a/b").meta.mode, 0o770, "as the one that it lay in");
        assert_eq!(captured.removed, 6);
    }
}

#[test]
fn user_attributes_stay_and_others_go() {
    let world = World::new();
    let upper = world.dir("upper");
    let file = upper.join("file");
    fs::write(&file, "x").unwrap();
    setxattr(&file, "user.note", b"kept", XattrFlags::empty()).unwrap();
    setxattr(&file, "user.overlay.origin", b"", XattrFlags::empty()).unwrap();
    if rustix::process::geteuid().is_root() {
        setxattr(&file, "trusted.other", b"dropped", XattrFlags::empty()).unwrap();
    }
    let captured = world.capture(&upper, &canonical()).unwrap();
    let manifest = world.store.manifest(&captured.digest).unwrap();
    let xattrs: Vec<_> = find(&manifest, "file").meta.xattrs.iter().collect();
    assert_eq!(xattrs, [(&"user.note".into(), &b"kept".to_vec())]);
    assert_eq!((captured.added, captured.changed, captured.copied_up_bytes), (0, 1, 1));
}

#[test]
fn sockets_are_counted_and_devices_refused_unless_wanted() {
    let world = World::new();
    let upper = world.dir("upper");
    let _listener = UnixListener::bind(upper.join("socket")).unwrap();
    assert_eq!(world.capture(&upper, &canonical()).unwrap().sockets_skipped, 1);
    if !rustix::process::geteuid().is_root() {
        skip::this_test("device nodes are made by root only");
        return;
    }
    let device = rustix::fs::makedev(1, 3);
    let mode = Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(rustix::fs::CWD, upper.join("null"), FileType::CharacterDevice, mode, device)
        .unwrap();
    let error = world.capture(&upper, &canonical()).unwrap_err();
    assert!(matches!(&error, CaptureError::Device { path } if path == Path::new("null")), "{error}");
    let captured = world.capture(&upper, &CaptureOptions { devices: true, ..canonical() }).unwrap();
    let manifest = world.store.manifest(&captured.digest).unwrap();
    assert_eq!(find(&manifest, "null").kind, Kind::Device { block: false, major: 1, minor: 3 });
}

#[test]
fn ids_are_recorded_as_the_action_saw_them() {
    if !rustix::process::geteuid().is_root() {
        skip::this_test("files are given away by root only");
        return;
    }
    let world = World::new();
    let upper = world.dir("upper");
    fs::write(upper.join("file"), "x").unwrap();
    chown(&upper, Some(1000), Some(1000)).unwrap();
    chown(upper.join("file"), Some(100_032), Some(1000)).unwrap();
    let extents = vec![
        IdExtent { inside: 0, outside: 1000, count: 1 },
        IdExtent { inside: 1, outside: 100_000, count: 100 },
    ];
    let ids = IdMap { uids: extents.clone(), gids: extents };
    let options = CaptureOptions { ids, ..copying() };
    let captured = world.capture(&upper, &options).unwrap();
    let manifest = world.store.manifest(&captured.digest).unwrap();
    assert_eq!((find(&manifest, "file").meta.uid, find(&manifest, "file").meta.gid), (33, 0));
    chown(upper.join("file"), Some(5), Some(1000)).unwrap();
    let error = world.capture(&upper, &options).unwrap_err();
    assert_eq!(error.to_string(), "\"file\" has the uid 5, which the action's id map does not cover");
}

#[test]
fn a_whiteout_whose_owner_is_not_mapped_needs_no_owner() {
    if !rustix::process::geteuid().is_root() {
        skip::this_test("files are given away by root only");
        return;
    }
    let world = World::new();
    let upper = world.dir("upper");
    chown(&upper, Some(1000), Some(1000)).unwrap();
    whiteout(&upper.join("gone"));
    let extents = vec![IdExtent { inside: 0, outside: 1000, count: 1 }];
    let ids = IdMap { uids: extents.clone(), gids: extents };
    let captured = world.capture(&upper, &CaptureOptions { ids, ..canonical() }).unwrap();
    assert_eq!(captured.removed, 1);
}

#[test]
fn a_symlink_for_a_directory_leads_nowhere() {
    let world = World::new();
    let upper = world.dir("upper");
    let outside = world.dir("outside");
    fs::write(outside.join("secret"), "x").unwrap();
    symlink(&outside, upper.join("dir")).unwrap();
    let captured = world.capture(&upper, &canonical()).unwrap();
    assert_eq!(paths(&world.store.manifest(&captured.digest).unwrap()), ["", "dir"]);
    assert!(outside.join("secret").exists());
}

#[test]
fn sparse_files_stay_sparse_when_copied() {
    let world = World::new();
    let upper = world.dir("upper");
    let file = fs::File::create(upper.join("sparse")).unwrap();
    file.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"end", (64 << 20) - 3).unwrap();
    drop(file);
    let captured = world.capture(&upper, &copying()).unwrap();
    let manifest = world.store.manifest(&captured.digest).unwrap();
    let Kind::File { digest, size } = find(&manifest, "sparse").kind else { panic!("a file") };
    let blob = fs::metadata(world.blob_path(&digest)).unwrap();
    assert_eq!(size, 64 << 20);
    assert!(blob.blocks() * 512 < 1 << 20, "{} blocks", blob.blocks());
    fs::set_permissions(world.blob_path(&digest), Permissions::from_mode(0o600)).unwrap();
    world.store.check_blobs(&manifest).expect("the copy hashes to its name");
}

#[test]
fn a_file_that_somebody_writes_is_refused() {
    let world = World::new();
    let upper = world.dir("upper");
    fs::write(upper.join("busy"), vec![0u8; 64 << 20]).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    // Who comes later waits until the file is captured.
    let file = fs::OpenOptions::new().write(true).open(upper.join("busy")).unwrap();
    let error = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut byte = 0u8;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                byte = byte.wrapping_add(1);
                std::os::unix::fs::FileExt::write_all_at(&file, &[byte], 9).unwrap();
                // Timestamps tick every few milliseconds.
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        let result = world.capture(&upper, &copying());
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        result.unwrap_err()
    });
    assert_eq!(
        error.to_string(),
        "\"busy\" is still being written, or open for writing: end the process that has it from the action"
    );
}

#[test]
fn a_file_that_somebody_could_write_is_refused_and_captured_when_he_is_gone() {
    for take in [Take::Move, Take::Copy] {
        let world = World::new();
        let upper = world.dir("upper");
        make_upper(&upper);
        for (name, size) in [("small", 9), ("large", 1 << 20)] {
            let path = upper.join(name);
            fs::write(&path, vec![7; size]).unwrap();
            let before = snapshot(&upper);
            let held = fs::OpenOptions::new().append(true).open(&path).unwrap();
            let options = CaptureOptions { take, devices: true, ..CaptureOptions::default() };
            let error = world.capture(&upper, &options).unwrap_err();
            assert!(
                matches!(&error, CaptureError::StillWritten { path } if path == Path::new(name)),
                "{error}"
            );
            assert_eq!(snapshot(&upper), before);
            assert_eq!(world.store.list().unwrap().len(), 0);
            drop(held);
        }
        let options = CaptureOptions { take, devices: true, ..CaptureOptions::default() };
        let captured = world.capture(&upper, &options).unwrap();
        world.store.check_blobs(&world.store.manifest(&captured.digest).unwrap()).unwrap();
    }
}

/// What he writes at last is in the layer, and what was stored before he wrote is not believed.
#[test]
fn a_late_close_is_waited_for() {
    for take in [Take::Move, Take::Copy] {
        let world = World::new();
        let upper = world.dir("upper");
        // The first is stored when the second is found open; then it becomes another one, and the last is what it was.
        for name in ["a", "b", "c"] {
            fs::write(upper.join(name), "same").unwrap();
        }
        let held = fs::OpenOptions::new().append(true).open(upper.join("b")).unwrap();
        let captured = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(std::time::Duration::from_millis(100));
                fs::write(upper.join("a"), "late").unwrap();
                std::io::Write::write_all(&mut &held, b"r").unwrap();
                drop(held);
            });
            let options = CaptureOptions { take, ..CaptureOptions::default() };
            world.capture(&upper, &options).unwrap()
        });
        let manifest = world.store.manifest(&captured.digest).unwrap();
        world.store.check_blobs(&manifest).unwrap();
        for (name, content) in [("a", &b"late"[..]), ("b", b"samer"), ("c", b"same")] {
            let Kind::File { digest, .. } = find(&manifest, name).kind else { panic!("a file") };
            assert_eq!(digest, Digest::of(content), "{name}");
            assert_eq!(fs::read(world.blob_path(&digest)).unwrap(), content, "{name}");
        }
    }
}

#[test]
fn a_full_disk_leaves_the_upper_complete_and_says_so() {
    if !rustix::process::geteuid().is_root() {
        skip::this_test("a small file system is mounted by root only");
        return;
    }
    let world = World::new();
    let upper = world.dir("upper");
    make_upper(&upper);
    fs::write(upper.join("too-large"), vec![9u8; 2 << 20]).unwrap();
    let before = snapshot(&upper);
    let small = world.dir("small");
    let mount =
        |arguments: &[&str]| Command::new(arguments[0]).args(&arguments[1..]).arg(&small).status().unwrap();
    assert!(mount(&["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs"]).success());
    let outcome = std::panic::catch_unwind(|| {
        let full = World::beneath(&small);
        let error = full.capture(&upper, &canonical()).unwrap_err();
        let left = fs::read_dir(full.path("store/tmp")).unwrap().count();
        let layers = full.store.list().unwrap().len();
        (
            chain(&error),
            matches!(&error, CaptureError::Store { source, .. } if source.is_full()),
            left,
            layers,
        )
    });
    assert!(mount(&["umount"]).success());
    let (text, is_full, left, layers) = outcome.unwrap();
    assert!(text.starts_with("cannot store \"too-large\": ") && text.contains("No space left"), "{text}");
    assert!(is_full);
    assert_eq!((left, layers), (1, 0), "only the lock, no layer");
    assert_eq!(snapshot(&upper), before);
    world.capture(&upper, &canonical()).expect("the same upper is captured elsewhere");
}

#[test]
fn a_failed_capture_can_be_repeated_by_moving() {
    let world = World::new();
    let upper = world.dir("upper");
    fs::write(upper.join("a"), "content").unwrap();
    let bad = world.dir("upper/z");
    // Refused only after `a` was linked into the store: a file in a directory read later.
    fs::write(bad.join("bad"), "x").unwrap();
    setxattr(bad.join("bad"), "user.overlay.metacopy", b"", XattrFlags::empty()).unwrap();
    let before = snapshot(&upper);
    world.capture(&upper, &canonical()).unwrap_err();
    assert_eq!(snapshot(&upper), before);
    fs::remove_file(bad.join("bad")).unwrap();
    let captured = world.capture(&upper, &canonical()).unwrap();
    assert!(!upper.join("a").exists());
    world.store.check_blobs(&world.store.manifest(&captured.digest).unwrap()).unwrap();
}

#[test]
fn a_kept_upper_that_is_written_to_does_not_spoil_the_store() {
    let world = World::new();
    let upper = world.dir("upper");
    fs::write(upper.join("a"), "content").unwrap();
    fs::write(world.dir("upper/z").join("bad"), "x").unwrap();
    setxattr(upper.join("z/bad"), "user.overlay.metacopy", b"", XattrFlags::empty()).unwrap();
    world.capture(&upper, &canonical()).unwrap_err();
    fs::write(upper.join("a"), "CONTENT").unwrap();
    let good = world.dir("good");
    fs::write(good.join("a"), "content").unwrap();
    let captured = world.capture(&good, &canonical()).unwrap();
    world.store.check_blobs(&world.store.manifest(&captured.digest).unwrap()).unwrap();
    assert_eq!(fs::read(world.blob_path(&Digest::of(b"content"))).unwrap(), b"content");
    assert_eq!(fs::read(upper.join("a")).unwrap(), b"CONTENT");
}

#[test]
fn importing_a_directory_copies_it_and_can_change_the_owner() {
    let world = World::new();
    let tree = world.dir("tree");
    make_upper(&tree);
    let before = snapshot(&tree);
    let options = ImportOptions {
        owner: vfsrun_layers::Owner::As(0, 7),
        clamp_mtime: CLAMP,
        ..ImportOptions::default()
    };
    let imported = import_dir(std::os::fd::AsFd::as_fd(&open(&tree)), &options, &world.store).unwrap();
    assert_eq!(snapshot(&tree), before);
    let manifest = world.store.manifest(&imported.digest).unwrap();
    assert!(manifest.entries.iter().all(|entry| (entry.meta.uid, entry.meta.gid) == (0, 7)));
    assert_eq!((imported.entries, imported.files), (10, 4));
    world.store.check_blobs(&manifest).unwrap();
}
