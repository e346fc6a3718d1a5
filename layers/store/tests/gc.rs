//! Collection: what has expired goes, what anybody needs stays.

mod common;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use common::{World, directory, file};
use vfsrun_layers::{
    CaptureOptions, Collected, Digest, Expiry, Hooks, LayerStore, Manifest, Really, StoreError, Why, capture,
};

const DAY: Duration = Duration::from_secs(24 * 3600);
const ALL: Expiry = Expiry { age: Duration::ZERO, bytes: u64::MAX };

/// A layer of one file.
fn put(world: &World, content: &[u8]) -> Digest {
    let writer = world.store.writer().unwrap();
    writer.put_blob(content).unwrap();
    writer.put_layer(&Manifest::from_entries(vec![file("f", content)]).unwrap()).unwrap()
}

/// Makes the layer's last use so long ago.
fn age(world: &World, digest: &Digest, age: Duration) {
    let time = SystemTime::now() - age;
    let times = fs::FileTimes::new().set_accessed(time).set_modified(time);
    fs::File::open(world.path("store/layers").join(digest.hex())).unwrap().set_times(times).unwrap();
}

fn collect(world: &World, expiry: &Expiry) -> Collected {
    world.store.collect(expiry, Really::Do).unwrap()
}

fn layers(collected: &Collected) -> Vec<Digest> {
    collected.layers.iter().map(|layer| layer.digest).collect()
}

#[test]
fn layers_without_a_name_expire_by_age_and_named_ones_do_not() {
    let world = World::new();
    let [named, old, young] = [&b"named"[..], b"old", b"young"].map(|content| put(&world, content));
    world.store.set_name("named", &named).unwrap();
    for (layer, days) in [(&named, 900), (&old, 8), (&young, 6)] {
        age(&world, layer, DAY * days);
    }
    let told = world.store.collect(&Expiry::default(), Really::DryRun).unwrap();
    assert_eq!(layers(&told), [old]);
    assert!(world.store.manifest(&old).is_ok(), "nothing is done");
    let done = collect(&world, &Expiry::default());
    assert_eq!((done.layers, done.blobs, done.bytes), (told.layers, told.blobs, told.bytes));
    assert_eq!((told.blobs, told.bytes, told.young), (1, 3, 1));
    assert!(matches!(world.store.manifest(&old), Err(StoreError::NoSuchLayer { .. })));
    for layer in [named, young] {
        world.store.check_blobs(&world.store.manifest(&layer).unwrap()).unwrap();
    }
}

#[test]
fn a_listing_does_not_disturb_a_removal() {
    let world = World::new();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let store = LayerStore::open(&world.path("store")).unwrap();
            while !is_over.load(Ordering::Relaxed) {
                store.list().unwrap();
            }
        });
        let removed = (0..200).all(|_| {
            let layer = put(&world, b"content");
            world.store.set_name("name", &layer).unwrap();
            world.store.remove("name").unwrap().layer == Some(layer)
        });
        is_over.store(true, Ordering::Relaxed);
        assert!(removed);
    });
}

#[test]
fn listings_do_not_take_each_other_for_users_of_a_layer() {
    let world = World::new();
    let layers: Vec<_> = (0u8..8).map(|content| put(&world, &[content])).collect();
    let _hold = world.store.hold(&layers[0]).unwrap();
    let used = |store: &LayerStore| -> Vec<Digest> {
        store.list().unwrap().iter().filter(|layer| layer.in_use).map(|layer| layer.digest).collect()
    };
    let other = LayerStore::open(&world.path("store")).unwrap();
    std::thread::scope(|scope| {
        // Of one process, by one store, and by stores of their own.
        for store in [&world.store, &world.store, &other] {
            scope.spawn(|| assert!((0..200).all(|_| used(store) == layers[..1])));
        }
    });
}

#[test]
fn the_least_recently_used_go_when_there_is_no_room() {
    let world = World::new();
    let layers_of: Vec<_> =
        [b"aaaa", b"bbbb", b"cccc", b"dddd"].iter().map(|content| put(&world, *content)).collect();
    // The third was used last.
    for (layer, hours) in layers_of.iter().zip([4, 3, 1, 2]) {
        age(&world, layer, Duration::from_secs(hours * 3600));
    }
    let done = collect(&world, &Expiry { bytes: 9, ..Expiry::default() });
    assert_eq!(layers(&done), [layers_of[0], layers_of[1]]);
    assert!(done.layers.iter().all(|layer| layer.why == Why::Room));
    assert_eq!((done.young, done.bytes), (2, 8));
}

#[test]
fn what_a_named_layer_holds_takes_no_room() {
    let world = World::new();
    let named = put(&world, b"a large content");
    world.store.set_name("named", &named).unwrap();
    let writer = world.store.writer().unwrap();
    let entries = vec![file("f", b"a large content"), file("g", b"a large content"), directory("d")];
    let unnamed = writer.put_layer(&Manifest::from_entries(entries).unwrap()).unwrap();
    drop(writer);
    assert_eq!(layers(&collect(&world, &Expiry { bytes: 0, ..Expiry::default() })), []);
    assert!(world.store.manifest(&unnamed).is_ok());
}

#[test]
fn a_layer_that_is_held_stays_with_its_blobs() {
    let world = World::new();
    let layer = put(&world, b"held");
    let hold = world.store.hold(&layer).unwrap();
    assert_eq!(collect(&world, &ALL).in_use, 1);
    world.store.check_blobs(&world.store.manifest(&layer).unwrap()).unwrap();
    assert!(matches!(world.store.remove(&layer.to_string()), Err(StoreError::InUse { .. })));
    // Putting it again does not take the hold away.
    put(&world, b"held");
    assert_eq!(collect(&world, &ALL).in_use, 1);
    drop(hold);
    assert_eq!(layers(&collect(&world, &ALL)), [layer]);
    assert!(matches!(world.store.hold(&layer), Err(StoreError::NoSuchLayer { .. })));
    assert_eq!(world.blobs(), 0);
}

#[test]
fn a_name_removed_from_a_held_layer_lets_it_go_with_the_first_collection_after() {
    let world = World::new();
    let layer = put(&world, b"held");
    world.store.set_name("x", &layer).unwrap();
    let hold = world.store.hold(&layer).unwrap();
    let removed = world.store.remove("x").unwrap();
    assert_eq!((removed.in_use, removed.layer, removed.blobs), (true, None, 0));
    assert_eq!(layers(&collect(&world, &Expiry::default())), []);
    drop(hold);
    assert_eq!(layers(&collect(&world, &Expiry::default())), [layer], "although it is young");
}

#[test]
fn an_open_input_manifest_keeps_its_blobs() {
    let world = World::new();
    let (blob, _) = world.store.put_blob(&b"input"[..]).unwrap();
    let (inputs, _) = world.store.put_inputs("inputs", b"{}", &[blob]).unwrap();
    let open = world.store.open_inputs(&inputs).unwrap();
    world.store.remove_name("inputs").unwrap();
    assert_eq!(collect(&world, &ALL).in_use, 1);
    world.store.open_sound_blob(&blob, None).unwrap();
    drop(open);
    assert_eq!(collect(&world, &ALL).layers.len(), 1);
    assert!(matches!(world.store.open_inputs(&inputs), Err(StoreError::Inputs { .. })));
}

#[test]
fn a_use_of_an_input_manifest_makes_the_layer_young_that_keeps_it() {
    let world = World::new();
    let (inputs, _) = world.store.put_inputs("inputs", b"{}", &[]).unwrap();
    let layer = world.store.resolve("inputs").unwrap();
    world.store.remove_name("inputs").unwrap();
    age(&world, &layer, DAY * 30);
    world.store.open_inputs(&inputs).unwrap();
    assert_eq!(layers(&collect(&world, &Expiry::default())), []);
    assert_eq!(world.store.verify(&|_| {}).unwrap().unsettled, 0);
    let blob = fs::File::open(world.blob_path(&inputs)).unwrap();
    blob.set_times(fs::FileTimes::new().set_accessed(SystemTime::now() - DAY * 8)).unwrap();
    assert_eq!(layers(&collect(&world, &Expiry::default())), [layer]);
}

#[test]
fn a_use_makes_a_layer_young_and_our_own_reading_does_not() {
    let world = World::new();
    let [used, read] = [&b"used"[..], b"read"].map(|content| put(&world, content));
    for layer in [&used, &read] {
        age(&world, layer, DAY * 30);
    }
    world.store.note_use(&used);
    world.store.manifest(&read).unwrap();
    world.store.list().unwrap();
    world.store.verify(&|_| {}).unwrap();
    world.store.hold(&read).unwrap();
    assert_eq!(layers(&collect(&world, &Expiry::default())), [read]);
    world.store.note_use(&read); // Nothing is there to be noted.
}

#[test]
fn a_use_is_written_once_an_hour() {
    let world = World::new();
    let layer = put(&world, b"used");
    let path = world.path("store/layers").join(layer.hex());
    let accessed = || fs::metadata(&path).unwrap().accessed().unwrap();
    let before = accessed();
    world.store.note_use(&layer);
    assert_eq!(accessed(), before);
    age(&world, &layer, Duration::from_secs(2 * 3600));
    let (before, made) = (accessed(), fs::metadata(&path).unwrap().modified().unwrap());
    world.store.note_use(&layer);
    assert!(accessed() > before);
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), made, "when it was put stays known");
}

#[test]
fn blobs_without_a_layer_and_what_dead_processes_left_go() {
    let world = World::new();
    world.store.put_blob(&b"of nobody"[..]).unwrap();
    drop(world.store.new_run().unwrap());
    let living = world.store.new_run().unwrap();
    let told = world.store.collect(&Expiry::default(), Really::DryRun).unwrap();
    let done = collect(&world, &Expiry::default());
    assert_eq!((done.blobs, done.bytes, done.swept.runs), (1, 9, 1));
    assert_eq!((told.blobs, told.bytes, told.swept), (done.blobs, done.bytes, done.swept));
    assert!(living.path().is_dir());
}

#[test]
fn nothing_goes_while_something_is_damaged_that_stays() {
    let world = World::new();
    let [one, two] = [&b"one"[..], b"two"].map(|content| put(&world, content));
    world.store.set_name("one", &one).unwrap();
    let name = world.path("store/names/one");
    let text = fs::read(&name).unwrap();
    fs::write(&name, "nonsense").unwrap();
    assert!(matches!(world.store.collect(&ALL, Really::Do), Err(StoreError::DamagedName { .. })));
    fs::write(&name, text).unwrap();
    let manifest = world.path("store/layers").join(one.hex());
    fs::remove_file(&manifest).unwrap();
    fs::write(&manifest, "nonsense").unwrap();
    assert!(matches!(world.store.collect(&ALL, Really::Do), Err(StoreError::UnknownBlobs { .. })));
    world.store.manifest(&two).unwrap();
    // Without its name it is one that goes itself.
    world.store.remove_name("one").unwrap();
    assert_eq!(collect(&world, &ALL).layers.len(), 2);
    assert_eq!(world.blobs(), 0);
}

#[test]
fn the_configuration_says_how_long_and_how_much() {
    let world = World::new();
    let config = world.path("store/config.json");
    assert_eq!(world.store.expiry().unwrap(), Expiry::default());
    fs::write(&config, r#"{ "keepDays": 1 }"#).unwrap();
    assert_eq!(world.store.expiry().unwrap(), Expiry { age: DAY, ..Expiry::default() });
    fs::write(&config, r#"{ "keepDays": 18446744073709551615, "keepBytes": 5 }"#).unwrap();
    assert_eq!(world.store.expiry().unwrap().bytes, 5);
    for text in ["", "7", r#"{ "keepDays": -1 }"#, r#"{ "keepDay": 1 }"#] {
        fs::write(&config, text).unwrap();
        assert!(matches!(world.store.expiry(), Err(StoreError::BadConfig { .. })), "{text}");
    }
    assert_eq!(world.store.verify(&|_| {}).unwrap().problems, [], "it belongs to the store");
    let early = world.dir("early");
    fs::write(early.join("config.json"), "{}").unwrap();
    LayerStore::open(&early).unwrap();
}

/// Captures, namings, collections and removals at once: whoever is told that a layer is there finds it whole.
#[test]
fn captures_imports_and_collections_at_once_leave_a_sound_store() {
    let world = World::new();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let collectors: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let store = LayerStore::open(&world.path("store")).unwrap();
                    while !over.load(Ordering::Relaxed) {
                        store.collect(&ALL, Really::Do).unwrap();
                    }
                })
            })
            .collect();
        let captors: Vec<_> = (0..3)
            .map(|number| {
                let world = &world;
                scope.spawn(move || {
                    let store = LayerStore::open(&world.path("store")).unwrap();
                    for round in 0..40 {
                        let upper = world.dir(&format!("upper-{number}-{round}"));
                        fs::write(upper.join("own"), format!("{number} {round}")).unwrap();
                        fs::write(upper.join("shared"), format!("{round}")).unwrap();
                        let name = format!("result-{number}");
                        let adding = store.adding().unwrap();
                        let options = CaptureOptions::default();
                        let captured = capture(
                            std::os::fd::AsFd::as_fd(&common::open(&upper)),
                            &options,
                            &store,
                            Hooks::default(),
                        )
                        .unwrap();
                        store.set_name(&name, &captured.digest).unwrap();
                        drop(adding);
                        let hold = store.hold(&captured.digest).unwrap();
                        if round % 3 == 0 {
                            store.remove(&name).unwrap();
                        }
                        store.check_blobs(&store.manifest(&captured.digest).unwrap()).unwrap();
                        drop(hold);
                    }
                })
            })
            .collect();
        for captor in captors {
            captor.join().unwrap();
        }
        over.store(true, Ordering::Relaxed);
        for collector in collectors {
            collector.join().unwrap();
        }
    });
    assert_eq!(world.store.verify(&|_| {}).unwrap().problems, []);
}
