//! What a layer changes is brought to the host, and taken back: every kind of thing in the place of every other.

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use common::scene::{MTIME, Scene, at, gone, state, whys};
use common::skip;
use vfsrun_layers::{Base, Entry, Kind};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thing {
    Nothing,
    File,
    Empty,
    Full,
    /// Only as what is wanted.
    Opaque,
    Link,
    Fifo,
    Socket,
    Device,
}

use Thing::*;

const BEFORE: [Thing; 8] = [Nothing, File, Empty, Full, Link, Fifo, Socket, Device];
const AFTER: [Thing; 8] = [Nothing, File, Empty, Full, Opaque, Link, Fifo, Device];

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Pairs that say something, as whoever runs the test may make them.
fn pairs() -> Vec<(Thing, Thing)> {
    let all = BEFORE.iter().flat_map(|before| AFTER.iter().map(|after| (*before, *after)));
    let says = |(before, after): &(Thing, Thing)| {
        let changes_nothing = (*before, *after) == (Nothing, Nothing);
        let needs_root = [*before, *after].contains(&Device) && !is_root();
        // What stays in a directory that stays is no change of it.
        let stays = matches!((before, after), (Empty | Full, Empty | Full));
        !(changes_nothing || needs_root || stays)
    };
    all.filter(says).collect()
}

fn make(path: &Path, thing: Thing) {
    match thing {
        Nothing => {}
        File => {
            fs::write(path, "old").unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
            let _ = rustix::fs::setxattr(path, "user.old", b"1", rustix::fs::XattrFlags::empty());
        }
        Empty => fs::create_dir(path).unwrap(),
        Full | Opaque => {
            fs::create_dir_all(path.join("sub/deep")).unwrap();
            fs::write(path.join("a"), "old a").unwrap();
            fs::hard_link(path.join("a"), path.join("sub/b")).unwrap();
            symlink("nowhere", path.join("sub/link")).unwrap();
            rustix::fs::mknodat(
                rustix::fs::CWD,
                path.join("sub/deep/fifo"),
                rustix::fs::FileType::Fifo,
                0o600.into(),
                0,
            )
            .unwrap();
            fs::set_permissions(path.join("sub/deep"), fs::Permissions::from_mode(0o2750)).unwrap();
        }
        Link => symlink("old-target", path).unwrap(),
        Fifo => {
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        }
        Socket => drop(UnixListener::bind(path).unwrap()),
        Device => {
            let kind = rustix::fs::FileType::CharacterDevice;
            rustix::fs::mknodat(rustix::fs::CWD, path, kind, 0o600.into(), rustix::fs::makedev(1, 3))
                .unwrap();
        }
    }
}

/// The same by its entries in a layer.
fn wanted(scene: &Scene, name: &str, thing: Thing) -> Vec<Entry> {
    let file = |name: &str, text: &str| {
        let mut file = scene.file(name, text);
        file.meta.mode = 0o4750;
        file.meta.xattrs.insert("user.new".into(), b"2".to_vec());
        file
    };
    let directory = |name: &str, opaque| at(name, Kind::Directory { opaque }, 0o751);
    let full = |opaque| {
        vec![
            directory(name, opaque),
            file(&format!("{name}/a"), "new a"),
            directory(&format!("{name}/new"), false),
            file(&format!("{name}/new/c"), "new c"),
            at(&format!("{name}/new/d"), Kind::HardLink { to: format!("src/{name}/new/c").into() }, 0),
            at(&format!("{name}/new/pipe"), Kind::Fifo, 0o622),
        ]
    };
    match thing {
        Nothing => vec![gone(name)],
        File => vec![file(name, "new content")],
        Empty => vec![directory(name, false)],
        Full => full(false),
        Opaque => full(true),
        Link => vec![at(name, Kind::Symlink { target: "new-target".into() }, 0o777)],
        Fifo => vec![at(name, Kind::Fifo, 0o622)],
        Socket => unreachable!("no layer has sockets"),
        Device => vec![at(name, Kind::Device { block: false, major: 1, minor: 5 }, 0o644)],
    }
}

/// What there is to be, made without a layer.
fn expected(scene: &Scene, entries: &[Entry]) -> Vec<String> {
    let place = scene.world.dir("expected");
    let layer =
        scene.layer(entries.iter().filter(|entry| entry.kind != Kind::Whiteout).cloned().map(|mut entry| {
            if let Kind::Directory { opaque } = &mut entry.kind {
                *opaque = false;
            }
            entry
        }));
    vfsrun_layers::export_dir(&layer, &scene.world.store, &place).unwrap();
    state(&place.join("src/it"))
}

#[test]
fn everything_takes_the_place_of_everything_and_goes_back() {
    if !is_root() {
        skip::this_test("of devices alone: only root makes some");
    }
    for (before, after) in pairs() {
        let scene = Scene::new();
        scene.write("beside", "stays");
        make(&scene.path("it"), before);
        let old = scene.state("it");
        let entries = wanted(&scene, "it", after);
        let layer = scene.layer(entries.clone());
        let base = scene.base(&layer);
        let applied = scene.apply(&layer, &base);
        assert_eq!(whys(&applied), [""; 0], "{before:?} -> {after:?}");
        assert_eq!(scene.state("it"), expected(&scene, &entries), "{before:?} -> {after:?}");
        assert_eq!(scene.read("beside"), "stays");
        let again = scene.apply(&layer, &base);
        assert_eq!((again.applied(), whys(&again)), (0, vec![]), "again {before:?} -> {after:?}");
        let undone = scene.undo();
        assert_eq!(whys(&undone), [""; 0], "undo {before:?} -> {after:?}");
        // No layer has sockets.
        let old = if before == Socket { Vec::new() } else { old };
        assert_eq!(scene.state("it"), old, "undo {before:?} -> {after:?}");
        let redone = scene.undo();
        assert_eq!(whys(&redone), [""; 0], "redo {before:?} -> {after:?}");
        assert_eq!(scene.state("it"), expected_again(&scene), "redo {before:?} -> {after:?}");
    }
}

fn expected_again(scene: &Scene) -> Vec<String> {
    state(&scene.world.path("expected/src/it"))
}

#[test]
fn what_has_changed_since_stays_as_it_is() {
    for (before, after) in pairs() {
        let scene = Scene::new();
        make(&scene.path("it"), before);
        let layer = scene.layer(wanted(&scene, "it", after));
        let base = scene.base(&layer);
        let it = scene.path("it");
        // Somebody puts another one in its place, or writes to it.
        match before {
            Nothing => fs::write(&it, "user's").unwrap(),
            File => fs::write(&it, "user's").unwrap(),
            Empty | Full => fs::write(it.join("a"), "user's").unwrap(),
            _ => {
                fs::rename(&it, scene.path("moved")).unwrap();
                make(&it, before);
            }
        }
        let now = scene.state("it");
        let applied = scene.apply(&layer, &base);
        if (before, after) == (Nothing, Nothing) {
            continue;
        }
        assert!(!whys(&applied).is_empty(), "{before:?} -> {after:?}");
        let is_kept = |line: &String| !line.contains("user's") || scene.state("it").contains(line);
        if matches!(before, Empty | Full) && matches!(after, Nothing | Opaque) {
            // What has not changed in it may go.
            assert!(now.iter().all(is_kept), "{before:?} -> {after:?}: {:?}", scene.state("it"));
        } else {
            assert_eq!(scene.state("it"), now, "{before:?} -> {after:?}");
        }
    }
}

#[test]
fn what_changed_while_the_command_ran_is_left_alone() {
    let scene = Scene::new();
    scene.write("f", "saved meanwhile");
    scene.write("g", "old");
    let layer = scene.layer([scene.file("f", "formatted"), scene.file("g", "formatted")]);
    let mut base = scene.base(&layer);
    for seen in &mut base.seen {
        if let (true, vfsrun_layers::base::Place::Host { changed, .. }) =
            (seen.path.ends_with("f"), &mut seen.place)
        {
            *changed = true;
        }
    }
    let applied = scene.apply(&layer, &base);
    assert_eq!(whys(&applied), ["src/f: it changed while the command ran"]);
    assert_eq!((scene.read("f"), scene.read("g")), ("saved meanwhile".into(), "formatted".into()));
}

#[test]
fn what_was_hidden_is_never_removed() {
    let scene = Scene::new();
    scene.write("repository/.git/config", "precious");
    scene.write("repository/f", "old");
    for entries in
        [vec![gone("repository")], wanted(&scene, "repository", Opaque), wanted(&scene, "repository", File)]
    {
        let layer = scene.layer(entries);
        let base = scene.base_without(&layer, |path| path.starts_with("repository/.git"));
        let before = scene.state("repository");
        let applied = scene.apply(&layer, &base);
        assert_eq!(scene.state("repository"), before);
        let whys = whys(&applied);
        assert!(whys[0].contains("/src/repository/.git, which is in it: something is there"), "{whys:?}");
    }
}

#[test]
fn a_new_name_that_exists_hidden_is_left_alone() {
    let scene = Scene::new();
    scene.write("hidden", "precious");
    scene.write("dir/hidden", "precious");
    let layer = scene.layer([
        scene.file("hidden", "new"),
        at("dir", Kind::Directory { opaque: false }, 0o755),
        scene.file("dir/x", "new"),
        scene.file("other", "new"),
    ]);
    let base = scene.base_without(&layer, |path| path.starts_with("hidden") || path.starts_with("dir"));
    let applied = scene.apply(&layer, &base);
    assert_eq!(scene.read("hidden"), "precious");
    assert!(!scene.path("dir/x").exists());
    assert_eq!(scene.read("other"), "new");
    assert_eq!(whys(&applied).len(), 3, "{:?}", whys(&applied));
}

#[test]
fn a_new_directory_that_exists_hidden_gets_nothing() {
    let scene = Scene::new();
    fs::create_dir(scene.path("empty")).unwrap();
    scene.write("other/x", "precious");
    let dir = |name: &str| at(name, Kind::Directory { opaque: false }, 0o755);
    let layer = scene.layer([
        dir("empty"),
        scene.file("empty/new", "new"),
        dir("other"),
        scene.file("other/new", "new"),
        scene.file("other/x", "new"),
    ]);
    let base = scene.base_without(&layer, |path| path != Path::new(""));
    let before = scene.state("");
    let applied = scene.apply(&layer, &base);
    assert_eq!((applied.applied(), whys(&applied).len()), (0, 5), "{:?}", whys(&applied));
    assert_eq!(scene.state(""), before);
}

#[test]
fn what_was_chosen_first_hinders_nothing_of_the_rest() {
    let scene = Scene::new();
    let layer = scene.layer([
        at("dir", Kind::Directory { opaque: false }, 0o755),
        scene.file("dir/sub/a", "new"),
        scene.file("dir/sub/b", "new"),
        scene.file("dir/c", "new"),
    ]);
    let base = scene.base(&layer);
    let chosen = vfsrun_layers::apply::choose(&layer, &base, &["src/dir/sub/b".into()]).unwrap();
    assert_eq!(scene.apply(&chosen, &base).applied(), 3);
    let applied = scene.apply(&layer, &base);
    assert_eq!((applied.applied(), applied.already(), whys(&applied)), (2, 3, vec![]));
    assert_eq!((scene.read("dir/sub/a"), scene.read("dir/c")), ("new".into(), "new".into()));
}

#[test]
fn what_comes_from_a_layer_is_left_alone() {
    let scene = Scene::new();
    let layer = scene.layer([
        common::scene::entry("etc/motd", scene.file("x", "new").kind, 0o644),
        scene.file("ok", "new"),
    ]);
    let applied = scene.apply(&layer, &scene.base(&layer));
    assert_eq!(applied.applied(), 1);
    let told = "etc: it comes from the program, which is no directory of the host";
    assert_eq!(whys(&applied)[0], told);
}

#[test]
fn what_is_so_already_is_no_step() {
    let scene = Scene::new();
    scene.write("same", "text");
    fs::set_permissions(scene.path("same"), fs::Permissions::from_mode(0o644)).unwrap();
    scene.write("gone", "text");
    let layer = scene.layer([scene.file("same", "text"), gone("gone"), scene.file("made", "text")]);
    let base = scene.base(&layer);
    // By somebody else, in the meantime.
    fs::remove_file(scene.path("gone")).unwrap();
    scene.write("made", "text");
    fs::set_permissions(scene.path("made"), fs::Permissions::from_mode(0o644)).unwrap();
    let applied = scene.apply(&layer, &base);
    assert_eq!((applied.applied(), applied.already(), applied.undo), (0, 3, None));
}

#[test]
fn hard_links_are_kept_and_made() {
    use std::os::unix::fs::MetadataExt;
    let scene = Scene::new();
    scene.write("old", "text");
    fs::set_permissions(scene.path("old"), fs::Permissions::from_mode(0o644)).unwrap();
    scene.write("sub/x", "x");
    let link = |name: &str, to: &str| at(name, Kind::HardLink { to: format!("src/{to}").into() }, 0);
    let layer = scene.layer([
        scene.file("a", "together"),
        link("b", "a"),
        link("sub/c", "a"),
        at("tree", Kind::Directory { opaque: false }, 0o755),
        link("tree/d", "a"),
        scene.file("old", "text"),
        link("sub/old2", "old"),
    ]);
    let applied = scene.apply(&layer, &scene.base(&layer));
    assert_eq!(whys(&applied), [""; 0]);
    let ino = |name: &str| fs::metadata(scene.path(name)).unwrap().ino();
    assert!(["b", "sub/c", "tree/d"].iter().all(|name| ino(name) == ino("a")));
    assert_eq!(ino("old"), ino("sub/old2"));
    assert_eq!(scene.read("a"), "together");
    assert_eq!(whys(&scene.undo()), [""; 0]);
    let left = scene.state("");
    assert_eq!(left.len(), 4, "{left:?}");
}

#[test]
fn two_names_of_a_file_are_removed_one_by_one() {
    let scene = Scene::new();
    scene.write("a", "text");
    fs::hard_link(scene.path("a"), scene.path("b")).unwrap();
    let before = scene.state("");
    let layer = scene.layer([gone("a"), gone("b")]);
    assert_eq!(whys(&scene.apply(&layer, &scene.base(&layer))), [""; 0]);
    assert!(!scene.path("a").exists() && !scene.path("b").exists());
    scene.undo();
    assert_eq!(scene.state(""), before);
}

#[test]
fn permissions_of_a_directory_that_stays_are_set() {
    let scene = Scene::new();
    scene.write("dir/f", "old");
    fs::set_permissions(scene.path("dir"), fs::Permissions::from_mode(0o755)).unwrap();
    let before = scene.state("");
    let mut entries = vec![at("dir", Kind::Directory { opaque: false }, 0o2555), scene.file("dir/f", "new")];
    entries.push(scene.file("dir/g", "new"));
    let layer = scene.layer(entries);
    let applied = scene.apply(&layer, &scene.base(&layer));
    assert_eq!((applied.applied(), whys(&applied)), (3, vec![]));
    assert_eq!(fs::metadata(scene.path("dir")).unwrap().permissions().mode() & 0o7777, 0o2555);
    if is_root() {
        scene.undo();
        assert_eq!(scene.state(""), before);
    }
    fs::set_permissions(scene.path("dir"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_file_that_is_open_for_writing_is_left_alone() {
    let scene = Scene::new();
    scene.write("f", "old");
    let layer = scene.layer([scene.file("f", "new")]);
    let base = scene.base(&layer);
    let writer = fs::OpenOptions::new().write(true).open(scene.path("f")).unwrap();
    let applied = scene.apply(&layer, &base);
    assert_eq!(whys(&applied), ["src/f: it is open for writing: end the process that has it open"]);
    drop(writer);
    assert_eq!(scene.apply(&layer, &base).applied(), 1);
}

#[test]
fn an_undo_leaves_what_was_edited_since() {
    let scene = Scene::new();
    scene.write("f", "old");
    scene.write("g", "old");
    let layer = scene.layer([scene.file("f", "new"), scene.file("g", "new"), scene.file("tree/x", "new")]);
    scene.apply(&layer, &scene.base(&layer));
    scene.write("f", "edited");
    scene.write("tree/y", "user's");
    let undone = scene.undo();
    assert_eq!(whys(&undone).len(), 3, "{:?}", whys(&undone));
    assert_eq!(
        (scene.read("f"), scene.read("g"), scene.read("tree/y")),
        ("edited".into(), "old".into(), "user's".into())
    );
}

/// As `rm -rf dir` and a build that makes it again leave it.
#[test]
fn what_lay_deep_in_a_directory_that_was_made_anew_is_gone() {
    for hidden in [false, true] {
        let scene = Scene::new();
        ["dir/sub/old", "dir/sub/kept", "dir/top"].iter().for_each(|name| scene.write(name, "old"));
        let layer = scene.layer([
            at("dir", Kind::Directory { opaque: true }, 0o755),
            at("dir/sub", Kind::Directory { opaque: false }, 0o755),
            scene.file("dir/sub/kept", "new"),
            scene.file("dir/sub/new", "new"),
        ]);
        let base = scene.base_without(&layer, |below| hidden && below == Path::new("dir/sub/old"));
        let applied = scene.apply(&layer, &base);
        assert_eq!(scene.path("dir/sub/old").exists(), hidden, "{:?}", whys(&applied));
        if hidden {
            assert_eq!(
                (scene.read("dir/sub/kept"), scene.path("dir/sub/new").exists()),
                ("old".into(), false)
            );
            continue;
        }
        assert!(whys(&applied).is_empty() && !scene.path("dir/top").exists());
        scene.undo();
        assert_eq!((scene.read("dir/sub/old"), scene.read("dir/top")), ("old".into(), "old".into()));
        let base = scene.base(&layer);
        let chosen = vfsrun_layers::apply::choose(&layer, &base, &["src/dir/sub/old".into()]).unwrap();
        assert_eq!(scene.apply(&chosen, &base).applied(), 1);
        assert!(!scene.path("dir/sub/old").exists() && scene.path("dir/top").exists());
    }
}

/// As `git stash` and back, or an undo, does.
#[test]
fn what_was_put_back_as_it_was_is_what_the_command_saw() {
    let names = ["same", "gone", "other", "mode", "attribute"];
    let scene = Scene::new();
    names.iter().for_each(|name| scene.write(name, "old"));
    let changed = names.iter().filter(|name| **name != "gone").map(|name| scene.file(name, "new"));
    let layer = scene.layer(changed.chain([gone("gone")]));
    let base = scene.base(&layer);
    let contents = scene.world.store.put_seen_contents(&base.seen).unwrap();
    let (known, unknown) = (Base { contents, ..base.clone() }, base);
    for name in names {
        let mode = fs::metadata(scene.path(name)).unwrap().permissions();
        fs::remove_file(scene.path(name)).unwrap();
        scene.write(name, if name == "other" { "new and old" } else { "old" });
        fs::set_permissions(scene.path(name), mode).unwrap();
    }
    fs::set_permissions(scene.path("mode"), fs::Permissions::from_mode(0o600)).unwrap();
    let (path, flags) = (scene.path("attribute"), rustix::fs::XattrFlags::empty());
    let has_attributes = rustix::fs::setxattr(&path, "user.note", b"theirs", flags).is_ok();
    // Nobody knows what they held.
    assert_eq!(scene.apply(&layer, &unknown).applied(), 0);
    let applied = scene.apply(&layer, &known);
    let left: Vec<_> = applied.conflicts().map(|item| item.path.to_str().unwrap()).collect();
    let wanted = ["src/attribute", "src/mode", "src/other"];
    assert_eq!(left, if has_attributes { &wanted[..] } else { &wanted[1..] });
    assert_eq!((applied.applied(), scene.read("same")), (names.len() - left.len(), "new".into()));
    assert!(!scene.path("gone").exists());
}

#[test]
fn times_are_the_layers_only_if_it_has_some() {
    let scene = Scene::new();
    scene.write("f", "old");
    let layer = scene.layer([scene.file("f", "new")]);
    let mut base = scene.base(&layer);
    base.raw = false;
    scene.apply(&layer, &base);
    let mtime = |name: &str| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(scene.path(name)).unwrap().mtime()
    };
    assert!(mtime("f") > MTIME.0);
}
