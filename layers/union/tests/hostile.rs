//! Branches whose author wishes us ill: forged marks, devices, set-id bits, links and swaps that would lead outside.

mod support;

use std::ffi::{OsStr, OsString};
use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat, renameat_with};
use rustix::mount::{MountFlags, UnmountFlags};
use support::*;
use vfsrun_layers::Kind;
use vfsrun_union::describe::{BranchSpec, IdExtent, IdMap, RuleAction, Scope, SegmentSpec, Symlinks, Xattrs};
use vfsrun_union::{Errno, FileKind};

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// `false`, said aloud, where the file system of the temporary directory has no such attributes.
fn set_xattr(path: &Path, name: &str, value: &[u8]) -> bool {
    match rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()) {
        Ok(()) => true,
        Err(Errno::NOTSUP | Errno::PERM) => {
            skip::this_test(&format!("in part: {name} cannot be set on {}", path.display()));
            false
        }
        Err(errno) => panic!("cannot set {name}: {errno}"),
    }
}

#[test]
fn forged_overlay_marks_are_neither_listed_nor_answered() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("d/f", "x")]);
    let marks = [
        "user.overlay.opaque",
        "user.overlay.whiteout",
        "trusted.overlay.opaque",
        "trusted.overlay.redirect",
        "user.vfsrun.path",
        "trusted.x",
    ];
    for name in marks {
        set_xattr(&tree.join("d"), name, b"y");
        set_xattr(&tree.join("d/f"), name, b"y");
    }
    let said = set_xattr(&tree.join("d/f"), "user.said", b"yes");
    let mut layer_file = entry("lf", world.blob("x"));
    layer_file = with_xattrs(layer_file, &[("user.said", "yes")]);
    let passing = BranchSpec { xattrs: Xattrs::Pass(Vec::new()), ..world.host(&tree) };
    let branches = vec![passing, world.layer(vec![layer_file])];
    let segment = world.build(branches);
    for path in ["d", "d/f", "lf"] {
        let node = get(&segment, path).unwrap();
        for name in
            marks.iter().chain(&["user.overlay.origin", "trusted.overlay.metacopy", "security.capability"])
        {
            let answer = segment.get_xattr(&node, OsStr::new(name));
            assert_eq!(answer.unwrap_err(), Errno::NODATA, "{path} {name}");
        }
    }
    if said {
        let file = get(&segment, "d/f").unwrap();
        assert_eq!(segment.get_xattr(&file, OsStr::new("user.said")).unwrap(), b"yes");
        assert_eq!(segment.list_xattrs(&file).unwrap(), ["user.said"]);
    }
    let file = get(&segment, "lf").unwrap();
    assert_eq!(segment.get_xattr(&file, OsStr::new("user.said")).unwrap(), b"yes");
    assert_eq!(segment.list_xattrs(&file).unwrap(), ["user.said"]);
}

#[test]
fn devices_do_not_exist_and_hide_nothing() {
    let mut world = World::new();
    let upper = world.dir("upper", &[("f", "x")]);
    let lower = world.dir("lower", &[("null", "lower"), ("gone", "lower")]);
    if !is_root() {
        skip::this_test("devices can only be made by root");
        return;
    }
    for (name, major, minor) in [("null", 1, 3), ("gone", 0, 0)] {
        let device = rustix::fs::makedev(major, minor);
        let made =
            mknodat(CWD, upper.join(name), FileType::CharacterDevice, Mode::from_raw_mode(0o666), device);
        made.unwrap();
    }
    let device = Kind::Device { block: false, major: 1, minor: 5 };
    let branches = vec![world.host(&upper), world.layer(vec![entry("zero", device)]), world.host(&lower)];
    let segment = world.build(branches);
    assert_eq!(names(&segment, ""), ["f", "gone", "null"]);
    assert_eq!(read(&segment, "null").unwrap(), "lower");
    assert_eq!(read(&segment, "gone").unwrap(), "lower");
    assert_eq!(kind(&segment, "zero"), Err(Errno::NOENT));
}

#[test]
fn set_id_bits_of_host_files_are_stripped_and_those_of_directories_stay() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("d/f", "x")]);
    std::fs::set_permissions(tree.join("d/f"), Permissions::from_mode(0o6755)).unwrap();
    std::fs::set_permissions(tree.join("d"), Permissions::from_mode(0o2755)).unwrap();
    let branches = vec![world.host(&tree)];
    let segment = world.build(branches);
    assert_eq!(segment.attr(&get(&segment, "d/f").unwrap()).unwrap().perm, 0o755);
    assert_eq!(segment.attr(&get(&segment, "d").unwrap()).unwrap().perm, 0o2755);
}

/// What a layer's file of user 0 with set-id bits and capabilities has when `owned` and `trusted` are so.
fn seen_of_a_layer(owned: bool, trusted: bool) -> (u16, bool, Vec<OsString>) {
    let mut world = World::new();
    let mut file = entry("f", world.blob("x"));
    file.meta.mode = 0o6755;
    file.meta.xattrs.insert("security.capability".into(), [&[1, 0, 0, 2], [0; 16].as_slice()].concat());
    let branch = BranchSpec { trusted, ..world.layer(vec![file]) };
    // Without a mapping of 0 there is nobody whose rights it would give.
    let map = vec![IdExtent { inside: u32::from(!owned), outside: 0, count: 1 }];
    let ids = IdMap { uids: map.clone(), gids: map };
    let spec = SegmentSpec { branches: vec![branch], ids, unmapped: Some((0, 0)), ..SegmentSpec::default() };
    let segment = world.build_spec(spec).unwrap();
    let node = get(&segment, "f").unwrap();
    let answer = segment.get_xattr(&node, OsStr::new("security.capability"));
    (segment.attr(&node).unwrap().perm, answer.is_ok(), segment.list_xattrs(&node).unwrap())
}

#[test]
fn rights_that_a_layer_gives_are_shown_of_a_trusted_one_alone_and_of_ids_that_exist() {
    assert_eq!(seen_of_a_layer(true, true), (0o6755, true, vec!["security.capability".into()]));
    let nothing = (0o755, false, Vec::new());
    assert_eq!(seen_of_a_layer(true, false), nothing);
    assert_eq!(seen_of_a_layer(false, true), nothing);
}

#[test]
fn set_id_bits_of_a_trusted_directory_are_shown_unless_a_mount_in_it_is_nosuid() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("f", "x"), ("mount/", "")]);
    std::fs::set_permissions(tree.join("f"), Permissions::from_mode(0o4755)).unwrap();
    let nosuid = MountFlags::NOSUID;
    if !is_root() {
        skip::this_test("only root mounts");
        return;
    }
    rustix::mount::mount("tmpfs", tree.join("mount"), "tmpfs", nosuid, None).unwrap();
    std::fs::write(tree.join("mount/f"), "x").unwrap();
    std::fs::set_permissions(tree.join("mount/f"), Permissions::from_mode(0o4755)).unwrap();
    let branch = BranchSpec { trusted: true, ..world.host(&tree) };
    let segment = world.build(vec![branch]);
    let perm = |path| segment.attr(&get(&segment, path).unwrap()).unwrap().perm;
    let seen = (perm("f"), perm("mount/f"));
    rustix::mount::unmount(tree.join("mount"), UnmountFlags::DETACH).unwrap();
    assert_eq!(seen, (0o4755, 0o755));
}

#[test]
fn links_of_scope_branch_do_not_lead_outside() {
    let mut world = World::new();
    let outside = world.dir("outside", &[("secret", "secret")]);
    let absolute = format!("->{}", outside.join("secret").display());
    let files =
        [("up", "->../outside/secret"), ("abs", absolute.as_str()), ("dir", "->../outside"), ("f", "x")];
    let tree = world.dir("tree", &files);
    for scope in [Scope::Branch, Scope::View] {
        let branches = vec![following(Symlinks::All, scope, world.host(&tree))];
        let segment = world.build(branches);
        for name in ["up", "abs", "dir"] {
            assert_eq!(kind(&segment, name), Ok(FileKind::Symlink), "{name} {scope:?}");
        }
        assert_eq!(kind(&segment, "dir/secret"), Err(Errno::NOTDIR));
    }
}

#[test]
fn magic_links_of_proc_are_not_followed() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("root", "->/proc/self/root/etc"), ("fd", "->/proc/self/fd/0")]);
    let branches = vec![following(Symlinks::All, Scope::Host, world.host(&tree))];
    let segment = world.build(branches);
    assert_eq!(kind(&segment, "root"), Ok(FileKind::Symlink));
    assert_eq!(kind(&segment, "fd"), Ok(FileKind::Symlink));
}

#[test]
fn a_directory_swapped_for_a_link_never_leads_outside() {
    let mut world = World::new();
    let outside = world.dir("outside", &[("f", "secret"), ("sub/f", "secret")]);
    let tree = world.dir("tree", &[("d/f", "inside"), ("d/sub/f", "inside")]);
    std::os::unix::fs::symlink(&outside, tree.join("swap")).unwrap();
    let branches = vec![world.host(&tree)];
    let segment = world.build(branches);
    let stop = AtomicBool::new(false);
    let served = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let (a, b) = (tree.join("d"), tree.join("swap"));
                renameat_with(CWD, &a, CWD, &b, rustix::fs::RenameFlags::EXCHANGE).unwrap();
            }
        });
        let mut served = 0;
        for _ in 0..3000 {
            for path in ["d/f", "d/sub/f"] {
                if let Ok(text) = read(&segment, path) {
                    assert_eq!(text, "inside", "{path}");
                    served += 1;
                }
            }
            if let Ok(dir) = get(&segment, "d")
                && let Ok(entries) = segment.list(&dir)
            {
                assert_eq!(entries.len(), 2);
            }
        }
        stop.store(true, Ordering::Relaxed);
        served
    });
    assert!(served > 0, "the race must have been won by the reader at times");
    assert!(!segment.is_current());
}

#[test]
fn names_that_are_not_utf8_are_served() {
    let mut world = World::new();
    let tree = world.dir("tree", &[]);
    let name = OsStr::from_bytes(b"\xff\xfe");
    std::fs::write(tree.join(name), "x").unwrap();
    let mut tree = world.host(&tree);
    tree.rules = rules(&[("hidden", RuleAction::Hide)]);
    let segment = world.build(vec![tree]);
    let listed = segment.list(&segment.root()).unwrap();
    assert_eq!(listed[0].name, name);
    assert_eq!(segment.lookup(&segment.root(), name).unwrap().kind(), FileKind::Regular);
}

#[test]
fn paths_longer_than_the_kernel_takes_are_reached() {
    let mut world = World::new();
    let tree = world.dir("tree", &[]);
    let part = "d".repeat(200);
    let mut dir = std::fs::File::open(&tree).unwrap();
    for _ in 0..60 {
        rustix::fs::mkdirat(&dir, part.as_str(), Mode::from_raw_mode(0o755)).unwrap();
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        dir = rustix::fs::openat(&dir, part.as_str(), flags, Mode::empty()).unwrap().into();
    }
    let branches = vec![world.host(&tree)];
    let segment = world.build(branches);
    let deep = get(&segment, &format!("{part}/").repeat(60)).unwrap();
    assert_eq!(segment.attr(&deep).unwrap().kind, FileKind::Directory);
    assert_eq!(segment.list(&deep).unwrap(), []);
}

#[test]
fn fifos_and_sockets_are_shown_and_never_opened() {
    let mut world = World::new();
    let tree = world.dir("tree", &[]);
    mknodat(CWD, tree.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(tree.join("socket")).unwrap();
    let branches = vec![world.host(&tree)];
    let segment = world.build(branches);
    for (name, wanted) in [("fifo", FileKind::Fifo), ("socket", FileKind::Socket)] {
        let node = get(&segment, name).unwrap();
        assert_eq!(node.kind(), wanted);
        assert_eq!(segment.open(&node).unwrap_err(), Errno::NXIO);
    }
}
