//! Seen contents: kept if they are what was seen, and held by the name whose base has them.

mod common;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use common::{World, file, paths};
use vfsrun_layers::base::{Access, Identity, Place, Seen, SeenKind};
use vfsrun_layers::verify::{Fault, What};
use vfsrun_layers::{Base, Digest, Expiry, MAX_SEEN_FILE, Manifest, Really, StoreError};

const ALL: Expiry = Expiry { age: Duration::ZERO, bytes: u64::MAX };

/// A file of the host as an action sees it now, at the same path in its root.
fn seen(world: &World, path: &str) -> Seen {
    let host = world.path(path);
    let stat = rustix::fs::lstat(&host).unwrap();
    let kind = SeenKind::of(rustix::fs::FileType::from_raw_mode(stat.st_mode));
    let access = Access { mode: stat.st_mode & 0o7777, uid: 1, gid: 2 };
    let place = Place::Host { path: host, was: Identity::of(&stat), changed: false };
    Seen { path: path.into(), kind, access, place }
}

fn write(world: &World, path: &str, content: impl AsRef<[u8]>) -> Seen {
    world.dir(Path::new(path).parent().unwrap().to_str().unwrap());
    fs::write(world.path(path), content).unwrap();
    seen(world, path)
}

fn kept(world: &World, seen: &[Seen]) -> Option<Manifest> {
    let digest = world.store.put_seen_contents(seen).unwrap();
    digest.map(|digest| world.store.manifest(&digest).unwrap())
}

/// A layer of one file.
fn put(world: &World, content: &[u8]) -> Digest {
    let writer = world.store.writer().unwrap();
    writer.put_blob(content).unwrap();
    writer.put_layer(&Manifest::from_entries(vec![file("f", content)]).unwrap()).unwrap()
}

/// Gives a layer of `after` the name, with `before` as what was seen. The layers of both.
fn name(world: &World, name: &str, before: &[u8], after: &[u8]) -> [Digest; 2] {
    let [contents, layer] = [before, after].map(|content| put(world, content));
    let base = Base { contents: Some(contents), ..Base::new(layer) };
    world.store.set_name_with_base(name, &base).unwrap();
    [contents, layer]
}

fn is_there(world: &World, layer: &Digest) -> bool {
    match world.store.manifest(layer) {
        Ok(manifest) => {
            world.store.check_blobs(&manifest).unwrap();
            true
        }
        Err(StoreError::NoSuchLayer { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn what_was_seen_is_kept_at_its_path_with_the_directories_above() {
    let world = World::new();
    let sub = world.dir("tree/sub");
    fs::set_permissions(&sub, Permissions::from_mode(0o750)).unwrap();
    let (a, b) = (write(&world, "tree/sub/a", "was a"), write(&world, "tree/b", ""));
    symlink("b", world.path("tree/link")).unwrap();
    let all = [
        seen(&world, "tree"),
        b.clone(),
        seen(&world, "tree/link"),
        seen(&world, "tree/sub"),
        a.clone(),
        Seen { path: "fixed".into(), place: Place::Fixed { name: "x".into(), content: None }, ..a.clone() },
        Seen { path: "lost".into(), place: Place::Lost {}, ..a.clone() },
    ];
    let contents = world.store.put_seen_contents(&all).unwrap().unwrap();
    let manifest = world.store.manifest(&contents).unwrap();
    assert_eq!(paths(&manifest), ["", "tree", "tree/b", "tree/sub", "tree/sub/a"]);
    let modes: Vec<_> = manifest.entries.iter().map(|entry| entry.meta.mode).collect();
    assert_eq!((modes[0], modes[3], manifest.entries[4].meta.gid), (0o755, 0o750, 2));
    let base = Base { contents: Some(contents), seen: all.to_vec(), ..Base::new(contents) };
    // Whatever becomes of the file.
    fs::write(world.path("tree/sub/a"), "is a").unwrap();
    let held = world.store.seen_contents(&base).unwrap();
    assert_eq!(held.len(), 2, "{held:?}");
    assert_eq!(held[Path::new("tree/sub/a")], (Digest::of(b"was a"), 5));
    assert_eq!(held[Path::new("tree/b")], (Digest::of(b""), 0));
    assert_eq!(fs::read(world.blob_path(&Digest::of(b"was a"))).unwrap(), b"was a");
    assert!(world.store.seen_contents(&Base::new(contents)).unwrap().is_empty());
}

#[test]
fn what_is_not_known_to_be_what_was_seen_is_left_out() {
    let world = World::new();
    let mut odd = Vec::new();
    let mut all = |change: &dyn Fn(&Path), path: &str| {
        let seen = write(&world, path, "content");
        change(&world.path(path));
        odd.push(seen);
    };
    all(&|path| fs::write(path, "CONTENT").unwrap(), "h/written");
    // With the time and the size that it had: the ctime tells.
    let back = |path: &Path| {
        let time = fs::metadata(path).unwrap().modified().unwrap();
        fs::write(path, "CONTENT").unwrap();
        File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    };
    all(&back, "h/set-back");
    all(&|path| fs::remove_file(path).unwrap(), "h/gone");
    let fifo = |path: &Path| {
        fs::remove_file(path).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
    };
    all(&fifo, "h/fifo");
    let link = |path: &Path| {
        fs::rename(path, path.with_extension("moved")).unwrap();
        symlink(path.with_extension("moved"), path).unwrap();
    };
    all(&link, "h/link");
    let directory = |path: &Path| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    };
    all(&directory, "h/directory");
    let Place::Host { path, was, .. } = write(&world, "h/changed", "content").place else { unreachable!() };
    odd.push(Seen { place: Place::Host { path, was, changed: true }, ..seen(&world, "h/changed") });
    // As the spec shows what it denies; this process may read it.
    let access = Access { mode: 0, uid: 0, gid: 0 };
    odd.push(Seen { access, ..write(&world, "h/denied", "content") });
    if !rustix::process::geteuid().is_root() {
        write(&world, "h/unreadable", "content");
        fs::set_permissions(world.path("h/unreadable"), Permissions::from_mode(0o200)).unwrap();
        odd.push(Seen { access: Access { mode: 0o644, uid: 0, gid: 0 }, ..seen(&world, "h/unreadable") });
    }
    odd.push(write(&world, "h/open", "content"));
    let writing = File::options().write(true).open(world.path("h/open")).unwrap();
    assert_eq!(kept(&world, &odd), None);
    drop(writing);
    let manifest = kept(&world, &odd).unwrap();
    assert_eq!(paths(&manifest), ["", "h", "h/open"]);
}

#[test]
fn large_files_are_left_out_and_so_is_what_comes_after_256_mib() {
    let world = World::new();
    let limit = MAX_SEEN_FILE;
    let mut all = Vec::new();
    for index in 0..258 {
        let path = format!("h/{index:03}");
        write(&world, &path, "");
        let size = if index == 1 { limit + 1 } else { limit };
        File::options().write(true).open(world.path(&path)).unwrap().set_len(size).unwrap();
        all.push(seen(&world, &path));
    }
    all.push(write(&world, "h/empty", ""));
    let manifest = kept(&world, &all).unwrap();
    let (files, bytes) = manifest.totals();
    assert_eq!((files, bytes), (257, 256 << 20));
    assert!(!paths(&manifest).contains(&"h/001") && !paths(&manifest).contains(&"h/257"));
    assert!(paths(&manifest).contains(&"h/256") && paths(&manifest).contains(&"h/empty"));
}

#[test]
fn contents_are_held_by_the_name_until_it_has_another_base() {
    let world = World::new();
    let [contents, layer] = name(&world, "name", b"before", b"after");
    for layer in [&contents, &layer] {
        let time = SystemTime::now() - Duration::from_secs(1_000_000_000);
        let times = fs::FileTimes::new().set_accessed(time).set_modified(time);
        File::open(world.path("store/layers").join(layer.hex())).unwrap().set_times(times).unwrap();
    }
    for really in [Really::DryRun, Really::Do] {
        let done = world.store.collect(&ALL, really).unwrap();
        assert_eq!((done.layers.len(), done.blobs, done.in_use, done.young), (0, 0, 0, 0), "{done:?}");
    }
    assert!(is_there(&world, &contents) && is_there(&world, &layer));
    assert_eq!(world.store.seen_contents(&world.store.base("name").unwrap().unwrap()).unwrap().len(), 1);
    // As `layer tag` does.
    world.store.set_name("name", &layer).unwrap();
    let done = world.store.collect(&ALL, Really::Do).unwrap();
    assert_eq!((done.layers.len(), done.layers[0].digest, done.bytes), (1, contents, 6));
    assert!(!is_there(&world, &contents) && is_there(&world, &layer));
}

#[test]
fn contents_go_with_the_last_name_that_holds_them() {
    let world = World::new();
    let [contents, one] = name(&world, "one", b"before", b"after");
    let [same, two] = name(&world, "two", b"before", b"otherwise");
    assert_eq!(contents, same);
    let refused = world.store.remove(&contents.to_string()).unwrap_err();
    assert!(
        matches!(&refused, StoreError::Named { digest, names } if *digest == contents && names.len() == 2)
    );
    let removed = world.store.remove("one").unwrap();
    assert_eq!((removed.layer, removed.blobs, removed.bytes), (Some(one), 1, 5));
    assert!(is_there(&world, &contents));
    let removed = world.store.remove("two").unwrap();
    assert_eq!((removed.layer, removed.blobs, removed.bytes), (Some(two), 2, 15));
    assert!(!is_there(&world, &contents));
    assert_eq!(world.blobs(), 0);
}

#[test]
fn contents_that_are_a_layer_with_a_name_or_in_use_stay() {
    let world = World::new();
    let [contents, _] = name(&world, "name", b"before", b"after");
    world.store.set_name("before", &contents).unwrap();
    let removed = world.store.remove("name").unwrap();
    assert_eq!((removed.blobs, removed.bytes), (1, 5));
    assert!(is_there(&world, &contents));
    let [contents, layer] = name(&world, "name", b"seen", b"after");
    let hold = world.store.hold(&contents).unwrap();
    let removed = world.store.remove("name").unwrap();
    assert_eq!((removed.layer, removed.in_use, removed.bytes), (Some(layer), false, 5));
    assert!(is_there(&world, &contents));
    drop(hold);
    let keep = Expiry { age: Duration::from_secs(3600), bytes: u64::MAX };
    let done = world.store.collect(&keep, Really::Do).unwrap();
    assert_eq!((done.layers.len(), done.layers[0].digest), (1, contents), "it expires at once");
    // A layer that is what was seen: nothing is removed twice.
    let layer = put(&world, b"same");
    world.store.set_name_with_base("name", &Base { contents: Some(layer), ..Base::new(layer) }).unwrap();
    assert_eq!(world.store.verify(&|_| {}).unwrap().problems, []);
    assert_eq!(world.store.remove("name").unwrap().blobs, 1);
}

#[test]
fn a_base_without_its_contents_gets_no_name() {
    let world = World::new();
    let layer = put(&world, b"layer");
    world.store.set_name("name", &layer).unwrap();
    let base = Base { contents: Some(Digest::of(b"?")), ..Base::new(layer) };
    let refused = world.store.set_name_with_base("name", &base);
    assert!(matches!(refused, Err(StoreError::NoSuchLayer { .. })));
    assert_eq!(world.store.base("name").unwrap(), None);
}

#[test]
fn missing_and_damaged_contents_are_told_with_the_name() {
    let world = World::new();
    let [contents, _] = name(&world, "name", b"before", b"after");
    let problems = || world.store.verify(&|_| {}).unwrap().problems;
    assert_eq!(problems(), []);
    let blob = world.blob_path(&Digest::of(b"before"));
    fs::rename(&blob, world.path("aside")).unwrap();
    let [problem] = &problems()[..] else { panic!("{:?}", problems()) };
    assert_eq!(
        (&problem.fault, &problem.uses[0].contents_of[..]),
        (&Fault::Missing, &["name".to_owned()][..])
    );
    let told = problem.to_string();
    assert!(told.contains("(contents of name) /f: blob"), "{told}");
    assert!(told.contains("`vfsrun layer tag name name` forgets what it was made to"), "{told}");
    fs::rename(world.path("aside"), &blob).unwrap();
    assert_eq!(problems(), []);
    fs::remove_file(world.path("store/layers").join(contents.hex())).unwrap();
    let [problem] = &problems()[..] else { panic!("{:?}", problems()) };
    assert_eq!(problem.what, What::Base("name".into()));
    assert_eq!(problem.fault, Fault::Dangling { digest: contents });
    // The remedy that is told.
    let layer = world.store.resolve("name").unwrap();
    world.store.set_name("name", &layer).unwrap();
    assert_eq!(problems(), []);
}

#[test]
fn nothing_goes_while_a_base_is_damaged_but_its_own_name() {
    let world = World::new();
    let [contents, _] = name(&world, "damaged", b"before", b"after");
    let [_, other] = name(&world, "other", b"seen", b"made");
    let path = world.path("store/names/damaged");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace(&contents.to_string(), &other.to_string())).unwrap();
    let told = world.store.collect(&ALL, Really::Do).unwrap_err().to_string();
    assert!(told.contains("`vfsrun layer tag damaged damaged` forgets that"), "{told}");
    assert!(matches!(world.store.remove("other"), Err(StoreError::UnknownContents { .. })));
    assert!(is_there(&world, &contents) && is_there(&world, &other));
    world.store.remove("damaged").unwrap();
    assert!(is_there(&world, &contents), "who knows whose they are; they expire");
    world.store.remove("other").unwrap();
    assert_eq!(world.store.collect(&ALL, Really::Do).unwrap().layers[0].digest, contents);
}

#[test]
fn a_listing_tells_whose_contents_a_layer_has() {
    let world = World::new();
    let [contents, layer] = name(&world, "name", b"before", b"after");
    let listed = world.store.list().unwrap();
    let of = |digest: &Digest| listed.iter().find(|layer| layer.digest == *digest).unwrap();
    assert_eq!((&of(&contents).names, &of(&contents).contents_of), (&vec![], &vec!["name".to_owned()]));
    assert_eq!((&of(&layer).names, &of(&layer).contents_of), (&vec!["name".to_owned()], &vec![]));
    assert!(of(&contents).own_bytes.unwrap() > 0 && of(&contents).bytes == Some(6));
}

#[test]
fn a_collection_does_not_come_between_contents_and_their_name() {
    let world = World::new();
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                world.store.collect(&ALL, Really::Do).unwrap();
            }
        });
        let upper = world.dir("upper");
        for round in 0..50 {
            fs::write(upper.join("f"), format!("after {round}")).unwrap();
            let before = write(&world, "h/f", format!("before {round}"));
            let look = |layer, _: &Manifest| {
                let contents = world.store.put_seen_contents(std::slice::from_ref(&before))?;
                Ok(Base { contents, ..Base::new(layer) })
            };
            let options = vfsrun_layers::CaptureOptions { name: Some("name".into()), ..Default::default() };
            let hooks = vfsrun_layers::Hooks { look: Some(&look), ..Default::default() };
            let upper = common::open(&upper);
            vfsrun_layers::capture(std::os::fd::AsFd::as_fd(&upper), &options, &world.store, hooks).unwrap();
            let base = world.store.base("name").unwrap().unwrap();
            assert_eq!(world.store.seen_contents(&base).unwrap().len(), 1, "round {round}");
            assert!(is_there(&world, &base.contents.unwrap()));
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
