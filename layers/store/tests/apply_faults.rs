//! What can go wrong while a layer is applied: nothing is lost, and nothing is half done.

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::scene::{Scene, at, gone, whys};
use common::{World, skip};
use vfsrun_layers::apply::{ApplyError, Options, Plan};
use vfsrun_layers::{Kind, LayerStore, Manifest};

fn chain(error: &ApplyError) -> String {
    vfsrun_sys::chain(error)
}

/// In mount namespaces of its own, which its threads do not have: a child runs one test of this file there.
fn in_namespace(test: &str, setup: &str) -> bool {
    const INSIDE: &str = "VFSRUN_TESTS_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if !rustix::process::geteuid().is_root() {
        skip::this_test("only root mounts file systems here");
        return false;
    }
    let place = tempfile::tempdir().unwrap();
    let script = format!("{setup}\nexec \"$0\" --exact --nocapture {test}");
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-euc", &script])
        .arg(std::env::current_exe().unwrap())
        .env(INSIDE, place.path())
        .env("PLACE", place.path())
        .output()
        .unwrap();
    let told =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.contains("1 passed"), "{told}");
    false
}

fn place() -> PathBuf {
    std::env::var_os("VFSRUN_TESTS_INSIDE").unwrap().into()
}

/// A scene whose host directory is `host`, with the store elsewhere.
fn scene_at(host: PathBuf) -> Scene {
    fs::create_dir_all(&host).unwrap();
    Scene { world: World::new(), host: host.canonicalize().unwrap() }
}

#[test]
fn a_full_disk_leaves_all_as_it_was() {
    if !in_namespace("a_full_disk_leaves_all_as_it_was", "mount -t tmpfs -o size=1m none $PLACE") {
        return;
    }
    let scene = scene_at(place().join("src"));
    for name in ["a", "b", "c"] {
        scene.write(name, "old");
    }
    let large = "x".repeat(400 << 10);
    let layer = scene.layer([
        scene.file("a", "new"),
        scene.file("b", &large),
        scene.file("c", &format!("{large}y")),
        scene.file("d", &format!("{large}z")),
    ]);
    let base = scene.base(&layer);
    let before = scene.state("");
    let error = scene.try_apply(&layer, &base).unwrap_err();
    assert!(
        chain(&error).contains("nothing was applied") && chain(&error).contains("No space left"),
        "{}",
        chain(&error)
    );
    assert_eq!(scene.state(""), before);
    scene.assert_clean();
    // Once there is room it can be done.
    let applied = scene.apply(&scene.layer([scene.file("a", "new")]), &base);
    assert_eq!(whys(&applied), [""; 0]);
    assert_eq!(scene.read("a"), "new");
}

#[test]
fn a_full_store_leaves_all_as_it_was() {
    if !in_namespace("a_full_store_leaves_all_as_it_was", "mount -t tmpfs -o size=1m none $PLACE") {
        return;
    }
    let scene = Scene {
        world: World::beneath(&place()),
        host: tempfile::tempdir().unwrap().keep().canonicalize().unwrap(),
    };
    scene.write("a", "old");
    fs::write(scene.path("b"), vec![7; 2 << 20]).unwrap();
    let layer = scene.layer([scene.file("a", "new"), scene.file("b", "new")]);
    let base = scene.base(&layer);
    let before = scene.state("");
    let error = scene.try_apply(&layer, &base).unwrap_err();
    assert!(chain(&error).contains("No space left"), "{}", chain(&error));
    assert_eq!(scene.state(""), before);
    scene.assert_clean();
    fs::remove_dir_all(&scene.host).unwrap();
}

#[test]
fn a_read_only_file_system_is_told() {
    if !in_namespace("a_read_only_file_system_is_told", "mount -t tmpfs none $PLACE") {
        return;
    }
    let scene = scene_at(place().join("src"));
    scene.write("a", "old");
    let layer = scene.layer([scene.file("a", "new")]);
    let base = scene.base(&layer);
    assert!(Command::new("mount").args(["-o", "remount,ro"]).arg(place()).status().unwrap().success());
    let error = scene.try_apply(&layer, &base).unwrap_err();
    assert!(chain(&error).contains("Read-only file system"), "{}", chain(&error));
    assert_eq!(scene.read("a"), "old");
    scene.assert_clean();
}

#[test]
fn a_mount_point_in_a_directory_that_goes_keeps_it() {
    if !in_namespace("a_mount_point_in_a_directory_that_goes_keeps_it", "true") {
        return;
    }
    let scene = Scene::new();
    scene.write("dir/sub/f", "old");
    scene.write("other/f", "old");
    let layer = scene.layer([gone("dir")]);
    let base = scene.base(&layer);
    // Of the same file system: its device says nothing.
    let mounted =
        Command::new("mount").arg("--bind").arg(scene.path("dir/sub")).arg(scene.path("dir/sub")).status();
    assert!(mounted.unwrap().success());
    let applied = scene.try_apply(&layer, &base).unwrap();
    assert!(whys(&applied)[0].contains("a file system is mounted there"), "{:?}", whys(&applied));
    assert_eq!(scene.read("dir/sub/f"), "old");
    assert!(Command::new("umount").arg(scene.path("dir/sub")).status().unwrap().success());
}

#[test]
fn a_file_system_without_exchange_is_told_before_anything_is_changed() {
    let setup = "truncate -s 4m $PLACE/image && mkfs.vfat $PLACE/image >/dev/null && mkdir $PLACE/fat && mount -o loop $PLACE/image $PLACE/fat";
    let can = Command::new("sh").args(["-c", "command -v mkfs.vfat"]).output().unwrap().status.success();
    if !can {
        return skip::this_test("there is no mkfs.vfat");
    }
    if !in_namespace("a_file_system_without_exchange_is_told_before_anything_is_changed", setup) {
        return;
    }
    let scene = scene_at(place().join("fat/src"));
    scene.write("a", "old");
    let layer = scene.layer([scene.file("a", "new")]);
    let base = scene.base(&layer);
    match scene.try_apply(&layer, &base) {
        Err(error) => assert!(chain(&error).contains("cannot exchange two names"), "{}", chain(&error)),
        // Linux 6.0 and later can on FAT, whose owners and modes are no file's own.
        Ok(applied) => {
            assert!(applied.conflicts().next().is_some() || scene.read("a") == "new", "{applied:?}")
        }
    }
}

#[test]
fn a_directory_that_is_swapped_for_a_symlink_is_not_followed() {
    let scene = Scene::new();
    scene.write("dir/f", "old");
    let elsewhere = scene.world.dir("elsewhere");
    fs::write(elsewhere.join("f"), "precious").unwrap();
    let layer = scene.layer([scene.file("dir/f", "new"), scene.file("dir/g", "new")]);
    let base = scene.base(&layer);
    let swap = || {
        fs::rename(scene.path("dir"), scene.path("moved")).unwrap();
        symlink(&elsewhere, scene.path("dir")).unwrap();
    };
    // Before it is planned, and between the plan and its steps.
    let planned = scene.plan(&layer, &base);
    swap();
    let applied = planned.apply(&|_| ()).unwrap();
    assert_eq!(whys(&applied).len(), 2, "{:?}", whys(&applied));
    let applied = scene.try_apply(&layer, &base).unwrap();
    assert_eq!(whys(&applied).len(), 2, "{:?}", whys(&applied));
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(elsewhere.join("f")).unwrap(), "precious");
    assert_eq!(fs::read_to_string(scene.path("moved/f")).unwrap(), "old");
    scene.assert_clean();
}

#[test]
fn a_file_that_is_swapped_for_a_symlink_is_left_alone() {
    let scene = Scene::new();
    scene.write("f", "old");
    scene.write("precious", "precious");
    let layer = scene.layer([scene.file("f", "new")]);
    let base = scene.base(&layer);
    let planned = scene.plan(&layer, &base);
    fs::remove_file(scene.path("f")).unwrap();
    symlink("precious", scene.path("f")).unwrap();
    let applied = planned.apply(&|_| ()).unwrap();
    assert_eq!(whys(&applied), ["src/f: it has changed since the command saw it"]);
    assert_eq!(scene.read("precious"), "precious");
    assert!(fs::symlink_metadata(scene.path("f")).unwrap().is_symlink());
    scene.assert_clean();
}

#[test]
fn a_directory_of_the_same_name_is_not_the_one_that_was_seen() {
    let scene = Scene::new();
    scene.write("dir/f", "old");
    let layer = scene.layer([scene.file("dir/g", "new")]);
    let base = scene.base(&layer);
    fs::rename(scene.path("dir"), scene.path("moved")).unwrap();
    fs::create_dir(scene.path("dir")).unwrap();
    let applied = scene.apply(&layer, &base);
    assert!(
        whys(&applied)[0].contains("its directory is not the one that the command saw"),
        "{:?}",
        whys(&applied)
    );
    assert_eq!(fs::read_dir(scene.path("dir")).unwrap().count(), 0);
}

#[test]
fn a_second_apply_is_refused_while_one_is_at_work() {
    let scene = Scene::new();
    scene.write("f", "old");
    scene.write("g", "old");
    let (layer, other) = (scene.layer([scene.file("f", "new")]), scene.layer([scene.file("g", "new")]));
    let (base, other_base) = (scene.base(&layer), scene.base(&other));
    let refused = std::sync::Mutex::new(None);
    let second = |_: usize| {
        let error = scene.try_apply(&other, &other_base).unwrap_err();
        *refused.lock().unwrap() = Some(chain(&error));
        // Nor does anybody settle what is being done.
        assert_eq!(scene.world.store.settle_applies().unwrap().0, [""; 0]);
    };
    let applied = scene.plan(&layer, &base).apply(&second).unwrap();
    assert_eq!(applied.applied(), 1);
    assert_eq!(
        refused.lock().unwrap().as_deref(),
        Some("another apply is at work with this store: wait until it has ended")
    );
    assert_eq!((scene.read("f"), scene.read("g")), ("new".into(), "old".into()));
    scene.assert_clean();
}

#[test]
fn a_damaged_blob_is_an_error_before_anything_is_done() {
    let scene = Scene::new();
    scene.write("a", "old");
    scene.write("b", "old");
    let layer =
        scene.layer([scene.file("a", "new a"), scene.file("b", "new b"), scene.file("tree/c", "new c")]);
    let base = scene.base(&layer);
    let before = scene.state("");
    let Kind::File { digest, .. } = common::find(&layer, "src/b").kind else { panic!("b is a file") };
    let blob = scene.world.blob_path(&digest);
    fs::set_permissions(&blob, fs::Permissions::from_mode(0o644)).unwrap();
    for (content, fault) in [("forge", "another content"), ("forged!", "bytes")] {
        fs::write(&blob, content).unwrap();
        let error = scene.try_apply(&layer, &base).unwrap_err();
        assert!(chain(&error).contains("src/b cannot be read"), "{} ({fault})", chain(&error));
        assert_eq!(scene.state(""), before);
    }
    fs::remove_file(&blob).unwrap();
    scene.try_apply(&layer, &base).unwrap_err();
    assert_eq!(scene.state(""), before);
    let left: Vec<_> = fs::read_dir(scene.world.path("store/applies"))
        .unwrap()
        .map(|name| name.unwrap().file_name())
        .collect();
    assert_eq!(left, ["lock"]);
}

#[test]
fn a_directory_that_may_not_be_written_is_told() {
    if rustix::process::geteuid().is_root() {
        return skip::this_test("root writes everywhere");
    }
    let scene = Scene::new();
    scene.write("a", "old");
    scene.write("dir/b", "old");
    let layer = scene.layer([scene.file("a", "new"), scene.file("dir/b", "new")]);
    let base = scene.base(&layer);
    let before = scene.state("");
    fs::set_permissions(scene.path("dir"), fs::Permissions::from_mode(0o555)).unwrap();
    let error = scene.try_apply(&layer, &base).unwrap_err();
    fs::set_permissions(scene.path("dir"), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(chain(&error).contains("Permission denied"), "{}", chain(&error));
    assert_eq!(scene.state(""), before);
    scene.assert_clean();
}

#[test]
fn an_owner_that_may_not_be_set_is_a_conflict() {
    if rustix::process::geteuid().is_root() {
        return skip::this_test("root gives files away");
    }
    let scene = Scene::new();
    scene.write("f", "old");
    let mut file = scene.file("f", "new");
    (file.meta.uid, file.meta.gid) = (0, 0);
    let layer = scene.layer([file, scene.file("g", "new")]);
    let applied = scene.apply(&layer, &scene.base(&layer));
    assert_eq!(whys(&applied), ["src/f: it would belong to 0:0, which only root may set"]);
    assert_eq!((scene.read("f"), scene.read("g")), ("old".into(), "new".into()));
}

#[test]
fn default_lists_of_the_directory_give_nothing_to_what_is_new() {
    let scene = Scene::new();
    scene.write("f", "old");
    let set = Command::new("setfacl").args(["-d", "-m", "u:12345:rwx"]).arg(&scene.host).status();
    if !set.is_ok_and(|status| status.success()) {
        return skip::this_test("there is no setfacl, or no lists on this file system");
    }
    let layer = scene.layer([scene.file("f", "new"), scene.file("tree/g", "new")]);
    scene.apply(&layer, &scene.base(&layer));
    for name in ["f", "tree", "tree/g"] {
        let listed = Command::new("getfacl").arg("-cn").arg(scene.path(name)).output().unwrap();
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(!listed.contains("12345"), "{name}: {listed}");
    }
}

#[test]
fn journals_that_are_no_journals_do_nothing() {
    let scene = Scene::new();
    scene.write("f", "old");
    let layer = scene.layer([scene.file("f", "new")]);
    let base = scene.base(&layer);
    let applies = scene.world.dir("store/applies");
    let before = scene.state("");
    for (name, text) in [
        ("0000000000000001", ""),
        ("0000000000000002", "0123456789abcdef {\"begin\":{\"version\":1}}\n"),
        ("0000000000000003", "\u{0}\n"),
    ] {
        fs::write(applies.join(name), text).unwrap();
        fs::set_permissions(applies.join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    fs::set_permissions(&applies, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(scene.world.store.settle_applies().unwrap().0, [""; 0]);
    assert_eq!(scene.state(""), before);
    assert_eq!(scene.apply(&layer, &base).applied(), 1);
}

#[test]
fn two_paths_that_are_one_file_are_not_both_changed() {
    let scene = Scene::new();
    scene.write("f", "old");
    let mut again = scene.file("f", "other");
    again.path = "twice/f".into();
    let layer = scene.layer([scene.file("f", "new"), again]);
    let mut base = scene.base(&layer);
    base.seen.push(scene.seen("twice".into(), &scene.host));
    base.seen.push(scene.seen("twice/f".into(), &scene.path("f")));
    let applied = scene.apply(&layer, &base);
    assert_eq!(whys(&applied), ["twice/f: it is the same file of the host as /src/f"]);
    assert_eq!(scene.read("f"), "new");
}

#[test]
fn another_directory_has_to_have_what_was_seen() {
    let scene = Scene::new();
    scene.write("f", "old");
    scene.write("edited", "old");
    symlink("x", scene.path("link")).unwrap();
    scene.write("dir/g", "old");
    let other = scene.world.dir("other");
    let copied = Command::new("cp").arg("-a").arg(&scene.host).arg(other.join("src")).status().unwrap();
    assert!(copied.success());
    fs::write(other.join("src/edited"), "edited").unwrap();
    fs::write(other.join("src/there"), "there").unwrap();
    let layer: Manifest = scene.layer([
        scene.file("f", "new"),
        scene.file("edited", "new"),
        scene.file("there", "new"),
        at("link", Kind::Symlink { target: "y".into() }, 0o777),
        gone("dir"),
    ]);
    let base = scene.base(&layer);
    let options = Options { to: Some(other.canonicalize().unwrap()), ..Options::default() };
    let store: &LayerStore = &scene.world.store;
    let applied = Plan::new(store, layer.clone(), &base, options).apply(&|_| ()).unwrap();
    let wanted = [
        "src/edited: it has changed since the command saw it",
        "src/there: something is there that the command did not see",
    ];
    assert_eq!(whys(&applied), wanted);
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    assert_eq!(read(&other.join("src/f")), "new");
    assert_eq!(read(&other.join("src/there")), "there");
    assert_eq!(fs::read_link(other.join("src/link")).unwrap(), Path::new("y"));
    assert!(!other.join("src/dir").exists() && scene.path("dir/g").exists());
    assert_eq!(scene.read("f"), "old");
}

/// Calls `act` at the `number`th time that progress is told: each step is told when it is staged, and again before its names are
/// exchanged.
fn at_call(number: usize, act: impl Fn() + Sync) -> impl Fn(usize) + Sync {
    let calls = std::sync::atomic::AtomicUsize::new(0);
    move |_| {
        if calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1 == number {
            act();
        }
    }
}

/// Of what was taken back the base is told, so that it can be applied again; not of what somebody has changed meanwhile.
#[test]
fn what_was_changed_and_never_went_is_not_what_the_command_saw() {
    let scene = Scene::new();
    for name in ["f", "g", "h"] {
        scene.write(name, "old");
    }
    let layer = scene.layer(["f", "g", "h"].map(|name| scene.file(name, "new")));
    let store = &scene.world.store;
    store.set_name_with_base("n", &scene.base(&layer)).unwrap();
    let plan = |whole| {
        let options = Options { whole, name: Some("n".into()), ..Options::default() };
        Plan::new(store, layer.clone(), &store.base("n").unwrap().unwrap(), options)
    };
    // It has another ctime then, and nothing else.
    let touch = at_call(4, || {
        std::thread::sleep(std::time::Duration::from_millis(20));
        let mode = fs::metadata(scene.path("h")).unwrap().permissions();
        fs::set_permissions(scene.path("h"), mode).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
    });
    let applied = plan(true).apply(&touch).unwrap();
    assert_eq!(whys(&applied), ["src/h: it has changed since the command saw it"]);
    assert_eq!(
        (scene.read("f"), scene.read("g"), scene.read("h")),
        ("old".into(), "old".into(), "old".into())
    );
    let applied = plan(false).apply(&|_| {}).unwrap();
    assert_eq!(
        (applied.applied(), whys(&applied)),
        (2, vec!["src/h: it has changed since the command saw it".to_owned()])
    );
    scene.assert_clean();
}

#[test]
fn what_is_written_to_a_file_that_went_comes_back_with_it() {
    use std::os::fd::AsRawFd;
    let scene = Scene::new();
    for name in ["f", "g", "h"] {
        scene.write(name, "old");
    }
    let layer = scene.layer([scene.file("f", "new"), gone("g"), scene.file("h", "new")]);
    let base = scene.base(&layer);
    let open = ["f", "g"].map(|name| fs::File::open(scene.path(name)).unwrap());
    // By whoever found the files before they went: a reader is no writer, and opens them anew.
    let save = at_call(6, || {
        for file in &open {
            fs::write(format!("/proc/self/fd/{}", file.as_raw_fd()), "saved").unwrap();
        }
    });
    let applied = scene.plan(&layer, &base).apply(&save).unwrap();
    scene.assert_clean();
    assert_eq!(
        whys(&applied),
        ["src/f: it has changed since the command saw it", "src/g: it has changed since the command saw it"]
    );
    assert_eq!(
        (scene.read("f"), scene.read("g"), scene.read("h")),
        ("saved".into(), "saved".into(), "new".into())
    );
}

#[test]
fn what_was_edited_stays_when_the_rest_is_taken_back() {
    let scene = Scene::new();
    for name in ["f", "g", "replaced", "z/h"] {
        scene.write(name, "old");
    }
    let names = ["f", "g", "replaced", "z/h"];
    let layer = scene
        .layer(names.map(|name| scene.file(name, "new")).into_iter().chain([scene.file("added", "new")]));
    let base = scene.base(&layer);
    // Steps are those of added, f, g, replaced, and z/h; the directory of the last is gone when it is to be done.
    let edit = at_call(5 + 4, || {
        fs::write(scene.path("f"), "edited").unwrap();
        fs::write(scene.path("added"), "edited").unwrap();
        fs::rename(scene.path("z"), scene.world.path("moved")).unwrap();
    });
    let error = scene.plan(&layer, &base).apply(&edit).unwrap_err();
    let told = chain(&error);
    for part in [
        "nothing was applied",
        "/f: was changed since it was put here, and stays",
        "f.vfsrun-kept-1",
        "/added: was changed since it was made here, and stays",
        "not all could be taken back yet",
    ] {
        assert!(told.contains(part), "{told}");
    }
    let found = ["f", "f.vfsrun-kept-1", "added", "g", "replaced"].map(|name| scene.read(name));
    assert_eq!(found, ["edited", "old", "edited", "old", "old"]);
    assert_eq!(scene.world.store.settle_applies().unwrap().0.len(), 1, "the directory is not there");
    fs::rename(scene.world.path("moved"), scene.path("z")).unwrap();
    assert_eq!(scene.world.store.settle_applies().unwrap().0, [""; 0]);
    assert_eq!(scene.read("z/h"), "old");
    scene.assert_clean_but("vfsrun-kept");
}

#[test]
fn a_choice_has_whole_files_and_what_went_with_a_directory() {
    use vfsrun_layers::apply::choose;
    let scene = Scene::new();
    scene.write("gone/a", "old");
    scene.write("gone/b", "old");
    scene.write("f", "old");
    let link = |name: &str| at(name, Kind::HardLink { to: "src/one".into() }, 0);
    let layer = scene.layer([
        scene.file("one", "text"),
        link("three"),
        link("two"),
        gone("gone"),
        scene.file("f", "new"),
    ]);
    let base = scene.base(&layer);
    let chosen =
        choose(&layer, &base, &["/src/two".into(), "/src/three".into(), "src/gone/a".into()]).unwrap();
    assert_eq!(common::paths(&chosen), ["", "src", "src/gone", "src/gone/a", "src/three", "src/two"]);
    assert!(matches!(common::find(&chosen, "src/three").kind, Kind::File { size: 4, .. }));
    assert_eq!(common::find(&chosen, "src/two").kind, Kind::HardLink { to: "src/three".into() });
    let applied = scene.apply(&chosen, &base);
    assert_eq!((applied.applied(), whys(&applied)), (3, vec![]));
    assert_eq!(
        (scene.read("gone/b"), scene.read("f"), scene.read("two")),
        ("old".into(), "old".into(), "text".into())
    );
    assert!(!scene.path("gone/a").exists() && !scene.path("one").exists());
}

/// The staging directory that is there, which its name alone tells.
fn staging(scene: &Scene) -> PathBuf {
    let names = fs::read_dir(&scene.host).unwrap().map(|name| name.unwrap().path());
    let is_staging = |path: &PathBuf| path.to_string_lossy().contains("/.vfsrun-apply-");
    names.into_iter().find(is_staging).unwrap()
}

#[test]
fn another_directory_of_the_name_of_a_staging_directory_stays() {
    let scene = Scene::new();
    scene.write("a", "old");
    scene.write("precious/1", "precious");
    let layer = scene.layer([scene.file("a", "new"), at("fifo", Kind::Fifo, 0o666)]);
    let base = scene.base(&layer);
    // While the first step is staged, and before the names of the first are exchanged.
    for call in [1, 3] {
        let precious = fs::metadata(scene.path("precious")).unwrap();
        let swap = at_call(call, || {
            let staging = staging(&scene);
            fs::rename(&staging, scene.world.path(&format!("moved-{call}"))).unwrap();
            fs::rename(scene.path("precious"), &staging).unwrap();
        });
        let applied = scene.plan(&layer, &base).apply(&swap);
        let told = applied.map_or_else(|error| chain(&error), |applied| applied.notes.to_string());
        let swapped = staging(&scene);
        assert!(told.contains("not the directory that was made there"), "{told}");
        assert_eq!(fs::read_to_string(swapped.join("1")).unwrap(), "precious");
        assert_eq!(fs::metadata(&swapped).unwrap().permissions(), precious.permissions());
        fs::rename(&swapped, scene.path("precious")).unwrap();
        fs::rename(scene.world.path(&format!("moved-{call}")), &swapped).unwrap();
        // What is in it goes back to its place now.
        scene.world.store.settle_applies().unwrap();
        assert_eq!(scene.read("a"), "old");
        if call == 1 {
            // Given up then: nothing of the host's was in it.
            fs::remove_dir_all(&swapped).unwrap();
        }
        scene.assert_clean();
    }
}

/// As the program seals them.
fn journal(lines: &[String]) -> String {
    let seal = |line: &String| format!("{} {line}\n", &blake3::hash(line.as_bytes()).to_hex()[..16]);
    lines.iter().map(seal).collect()
}

#[test]
fn a_journal_that_others_may_write_is_told_and_not_carried_out() {
    let scene = Scene::new();
    scene.write("f", "old");
    let applies = scene.world.dir("store/applies");
    let id = "0000000000000001";
    let (file, staging) = (applies.join(id), scene.path(&format!(".vfsrun-apply-{id}")));
    let stat = rustix::fs::lstat(&scene.host).unwrap();
    let parent = format!(
        r#"{{"parent":{{"path":"{}","dev":{},"ino":{}}}}}"#,
        scene.host.display(),
        stat.st_dev,
        stat.st_ino
    );
    fs::create_dir(&staging).unwrap();
    fs::write(&file, journal(&[r#"{"begin":{"version":1,"name":null}}"#.into(), parent])).unwrap();
    let modes = |dir, journal| {
        fs::set_permissions(&applies, fs::Permissions::from_mode(dir)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(journal)).unwrap();
    };
    let foreign = || {
        let told = scene.world.store.settle_applies().unwrap().0;
        assert!(told.len() == 1 && told[0].contains("others may write to it"), "{told:?}");
        assert!(staging.exists() && file.exists());
    };
    for (dir, journal) in [(0o777, 0o600), (0o770, 0o600), (0o700, 0o620), (0o700, 0o602)] {
        modes(dir, journal);
        foreign();
    }
    modes(0o700, 0o600);
    if rustix::process::geteuid().is_root() {
        for path in [&applies, &file] {
            std::os::unix::fs::chown(path, Some(12345), None).unwrap();
            foreign();
            std::os::unix::fs::chown(path, Some(0), None).unwrap();
        }
    }
    assert_eq!(scene.world.store.settle_applies().unwrap().0, [""; 0]);
    assert!(!staging.exists() && !file.exists());
}

#[test]
fn a_journal_whose_steps_lead_elsewhere_is_refused() {
    let scene = Scene::new();
    let applies = scene.world.dir("store/applies");
    fs::set_permissions(&applies, fs::Permissions::from_mode(0o700)).unwrap();
    let file = applies.join("0000000000000001");
    let parent = r#"{"parent":{"path":"/","dev":1,"ino":1}}"#;
    let step = |name: &str, parent: usize, old: &str| {
        format!(
            r#"{{"step":{{"p":"x","parent":{parent},"name":"{name}","slot":0,"do":"remove","old":[{old}],"new":[]}}}}"#
        )
    };
    let node = r#"{"p":"../x","t":"f","dev":1,"ino":1,"m":"644","s":1,"mt":[0,0],"ct":[0,0]}"#;
    let steps = ["", ".", "..", "a/b", "/", "/etc", "../etc"].map(|name| step(name, 0, ""));
    for step in steps.into_iter().chain([step("a", 1, ""), step("a", 0, node)]) {
        let begin = r#"{"begin":{"version":1,"name":null}}"#.into();
        fs::write(&file, journal(&[begin, parent.into(), step.clone()])).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let error = scene.world.store.settle_applies().unwrap_err();
        assert!(chain(&error).contains("a journal with a step at /x"), "{step}: {}", chain(&error));
    }
}

#[test]
fn a_save_into_what_went_is_kept_when_another_save_took_its_place() {
    use std::os::fd::AsRawFd;
    let scene = Scene::new();
    for name in ["f", "g", "h"] {
        scene.write(name, "old");
    }
    let layer = scene.layer(["f", "g", "h"].map(|name| scene.file(name, "new")));
    let base = scene.base(&layer);
    let open = fs::File::open(scene.path("f")).unwrap();
    // When the names of f and g are exchanged: one saves into what had the name, and another renames his own to it.
    let save = at_call(6, || {
        fs::write(format!("/proc/self/fd/{}", open.as_raw_fd()), "saved in place").unwrap();
        for name in ["f", "g"] {
            scene.write("other", "saved by rename");
            fs::rename(scene.path("other"), scene.path(name)).unwrap();
        }
    });
    let applied = scene.plan(&layer, &base).apply(&save).unwrap();
    assert_eq!(whys(&applied), ["src/f: it has changed since the command saw it"]);
    assert!(applied.notes.to_string().contains("f.vfsrun-kept-1"), "{}", applied.notes);
    let found = ["f", "f.vfsrun-kept-1", "g", "h"].map(|name| scene.read(name));
    assert_eq!(found, ["saved by rename", "saved in place", "saved by rename", "new"]);
    assert!(!scene.path("g.vfsrun-kept-1").exists());
    scene.assert_clean_but("vfsrun-kept");
}
