//! Kept runs: what was written is there until somebody captures or drops it, and captured once.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use common::kept::{keep, record};
use common::{World, find};
use vfsrun_layers::{Base, IdExtent, IdMap, KeptRecord, Kind, LayerStore, Recovery, Run, StoreError};

fn named(name: &str) -> Recovery<'_> {
    Recovery { name: Some(name), ..Recovery::default() }
}

#[test]
fn a_kept_run_is_listed_with_its_record_and_captured_as_it_was_to_be() {
    let world = World::new();
    let id = keep(&world, &record());
    let kept = world.store.kept().unwrap();
    let [kept] = kept.as_slice() else { panic!("{kept:?}") };
    assert_eq!((&kept.id, kept.record.as_ref(), kept.is_busy), (&id, Some(&record()), false));
    assert!(kept.bytes.unwrap() >= 8 && kept.upper.join("work/file").is_file());
    let (captured, name) =
        world.store.claim_kept(&id).unwrap().capture(Recovery::default(), &world.store).unwrap();
    assert_eq!(name.as_deref(), Some("result"));
    assert_eq!(world.store.resolve("result").unwrap(), captured.digest);
    let manifest = world.store.manifest(&captured.digest).unwrap();
    assert_eq!(find(&manifest, "work/file").meta.mtime, (7, 0));
    assert!(manifest.entries.iter().all(|entry| entry.path.to_str() != Some("other")));
    assert!(world.store.kept().unwrap().is_empty());
    assert!(matches!(world.store.claim_kept(&id), Err(StoreError::NotKept { .. })));
    assert_eq!(world.store.verify(&|_| {}).unwrap().problems, []);
}

#[test]
fn a_failed_recovery_costs_nothing_and_can_be_repeated() {
    let world = World::new();
    // An owner that the action cannot have had.
    let extent = IdExtent { inside: 0, outside: 4_000_000, count: 1 };
    let ids = IdMap { uids: vec![extent], gids: vec![extent] };
    let id = keep(&world, &KeptRecord { ids, ..record() });
    for _ in 0..2 {
        let error = world.store.claim_kept(&id).unwrap().capture(named("mine"), &world.store).unwrap_err();
        assert!(error.to_string().contains("id map"), "{error}");
        assert_eq!(world.store.sweep().unwrap().runs, 0);
    }
    // A name that cannot be set is found out before anything leaves the upper.
    let other = keep(&world, &record());
    world.store.claim_kept(&other).unwrap().capture(named("No"), &world.store).unwrap_err();
    let upper = world.path("store/runs").join(&other).join("upper");
    assert_eq!(fs::read_to_string(upper.join("work/file")).unwrap(), "precious");
    let mode = fs::metadata(upper.join("work/file")).unwrap().mode();
    assert_ne!(mode & 0o200, 0, "it is as the action left it");
    world.store.claim_kept(&other).unwrap().capture(named("yes"), &world.store).unwrap();
}

/// As long as the layer is not in place, nothing but the run has what was written.
#[test]
fn a_run_is_kept_while_it_is_captured() {
    let world = World::new();
    let run = world.store.new_run().unwrap();
    fs::write(run.path().join("upper/file"), "precious").unwrap();
    let record = KeptRecord { only: Vec::new(), ..record() };
    let look = |layer, _: &_| {
        let kept = world.store.kept().unwrap();
        assert_eq!(kept.len(), 1);
        let found = kept[0].record.clone().unwrap();
        assert!(found.unsynced_in.is_some() && found.is_whole());
        assert_eq!((&*kept[0].id, kept[0].is_busy), (run.id(), true));
        assert_eq!(KeptRecord { unsynced_in: None, ..found }, record);
        Ok(Base::new(layer))
    };
    run.capture(&record, &world.store, &look).unwrap();
    assert!(world.store.kept().unwrap().is_empty());
    // The next action finds room for a record in it.
    let (first, next) = reused(&world, run);
    assert_ne!(first, next.id());
    let reserved = fs::read_to_string(next.path().join("reserve")).unwrap();
    assert!(
        reserved.len() == 4096 && reserved.trim().is_empty(),
        "and nothing of this one's command: {reserved}"
    );
}

/// Ends a run; its id, and the next run, which has its directory.
fn reused(world: &World, run: Run) -> (String, Run) {
    let inode = |run: &Run| fs::metadata(run.path()).unwrap().ino();
    let (id, first) = (run.id().to_owned(), inode(&run));
    run.remove().unwrap();
    let next = world.store.new_run().unwrap();
    assert_eq!(inode(&next), first);
    (id, next)
}

/// What is not synced is lost by a power failure: `keep` may have its name and hold what an action before had written there.
#[test]
fn the_record_of_another_action_says_nothing_of_this_one() {
    let world = World::new();
    let run = world.store.new_run().unwrap();
    fs::write(run.path().join("upper/work"), "first").unwrap();
    let stale = std::cell::OnceCell::new();
    let look = |layer, _: &_| {
        stale.set(fs::read(run.path().join("keep")).unwrap()).unwrap();
        Ok(Base::new(layer))
    };
    run.capture(&record(), &world.store, &look).unwrap();
    let (_, run) = reused(&world, run);
    fs::write(run.path().join("upper/elsewhere"), "second").unwrap();
    run.keep(&KeptRecord { only: Vec::new(), ..record() }).unwrap();
    fs::write(run.path().join("keep"), stale.get().unwrap()).unwrap();
    let id = run.id().to_owned();
    drop(run);
    assert_eq!(world.store.kept().unwrap()[0].record, None);
    let claimed = world.store.claim_kept(&id).unwrap();
    assert_eq!(claimed.record(), None);
    let (captured, name) = claimed.capture(Recovery::default(), &world.store).unwrap();
    assert_eq!(name, None);
    find(&world.store.manifest(&captured.digest).unwrap(), "elsewhere");
}

#[test]
fn a_record_that_was_written_in_part_is_none() {
    let world = World::new();
    // Of two blocks, as long as the one before.
    let [one, two] = ["one", "two"].map(|only| KeptRecord {
        why: "x".repeat(5000),
        only: vec![PathBuf::from(only); 500],
        ..record()
    });
    let run = world.store.new_run().unwrap();
    let keep = run.path().join("keep");
    let texts = [one, two].map(|record| {
        run.keep(&record).unwrap();
        fs::read(&keep).unwrap()
    });
    assert_eq!(texts[0].len(), texts[1].len());
    for (start, end) in [(0, 1), (1, 0)] {
        fs::write(&keep, [&texts[start][..4096], &texts[end][4096..]].concat()).unwrap();
        assert!(world.store.kept().unwrap()[0].record.is_none());
    }
}

#[test]
fn an_upper_with_a_device_is_recovered_when_that_is_asked_for() {
    if !rustix::process::geteuid().is_root() {
        return common::skip::this_test("device nodes are made by root only");
    }
    let world = World::new();
    let id = keep(&world, &record());
    let device = world.path("store/runs").join(&id).join("upper/work/null");
    let (kind, mode) = (rustix::fs::FileType::CharacterDevice, rustix::fs::Mode::from_raw_mode(0o600));
    rustix::fs::mknodat(rustix::fs::CWD, device, kind, mode, rustix::fs::makedev(1, 3)).unwrap();
    let claimed = world.store.claim_kept(&id).unwrap();
    let error = claimed.capture(Recovery::default(), &world.store).unwrap_err();
    assert!(error.to_string().contains("`vfsrun layer recover --devices`"), "{error}");
    let claimed = world.store.claim_kept(&id).unwrap();
    let devices = Recovery { devices: true, ..Recovery::default() };
    let (captured, name) = claimed.capture(devices, &world.store).unwrap();
    assert_eq!(name.as_deref(), Some("result"));
    let manifest = world.store.manifest(&captured.digest).unwrap();
    assert_eq!(find(&manifest, "work/null").kind, Kind::Device { block: false, major: 1, minor: 3 });
}

/// Files may lack their content then: nobody is to take them for the result.
#[test]
fn an_upper_that_may_have_lost_something_gets_no_name_by_itself() {
    for (boot, expected) in [(Some("another"), None), (Some(""), None), (None, Some("result"))] {
        let world = World::new();
        let unsynced_in = boot.map(str::to_owned);
        let id = keep(&world, &KeptRecord { unsynced_in, ..record() });
        assert_eq!(world.store.kept().unwrap()[0].is_whole(), boot.is_none());
        let (_, name) =
            world.store.claim_kept(&id).unwrap().capture(Recovery::default(), &world.store).unwrap();
        assert_eq!(name.as_deref(), expected, "{boot:?}");
        let again = keep(&world, &record());
        world.store.claim_kept(&again).unwrap().capture(named("asked"), &world.store).unwrap();
    }
}

#[test]
fn another_record_takes_the_place_of_the_first_whole() {
    let world = World::new();
    let run = world.store.new_run().unwrap();
    for length in [10, 9000, 3, 5000, 0] {
        let record = KeptRecord { why: "x".repeat(length), ..record() };
        run.keep(&record).unwrap();
        let kept = world.store.kept().unwrap().into_iter().find(|kept| kept.id == run.id()).unwrap();
        assert_eq!(kept.record, Some(record));
    }
}

#[test]
fn two_do_not_recover_the_same() {
    let world = World::new();
    let id = keep(&world, &record());
    let first = world.store.claim_kept(&id).unwrap();
    assert!(matches!(world.store.claim_kept(&id), Err(StoreError::KeptBusy { .. })));
    assert!(world.store.kept().unwrap()[0].is_busy);
    drop(first);
    world.store.claim_kept(&id).unwrap().remove().unwrap();
    assert!(!world.path("store/runs").join(&id).exists());
}

/// Whoever looks is not taken for somebody who captures.
#[test]
fn looking_at_what_is_kept_disturbs_nobody() {
    let world = World::new();
    let id = keep(&world, &record());
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let store = LayerStore::open(&world.path("store")).unwrap();
                while !is_over.load(Ordering::Relaxed) {
                    assert_eq!(store.kept().unwrap().len(), 1);
                }
            });
        }
        let claimed = (0..300).all(|_| world.store.claim_kept(&id).is_ok());
        is_over.store(true, Ordering::Relaxed);
        assert!(claimed);
    });
}

/// A capture that ends keeps its upper no more.
#[test]
fn captures_may_end_while_somebody_looks() {
    let world = World::new();
    std::thread::scope(|scope| {
        let captures = scope.spawn(|| {
            let store = LayerStore::open(&world.path("store")).unwrap();
            let look = |layer, _: &_| Ok(Base::new(layer));
            for _ in 0..100 {
                let run = store.new_run().unwrap();
                fs::create_dir(run.path().join("upper/dir")).unwrap();
                run.capture(&record(), &store, &look).unwrap();
                run.remove().unwrap();
            }
        });
        while !captures.is_finished() {
            world.store.kept_count().unwrap();
            for kept in world.store.kept().unwrap() {
                let error = world.store.claim_kept(&kept.id).unwrap_err();
                assert!(matches!(error, StoreError::KeptBusy { .. } | StoreError::NotKept { .. }), "{error}");
            }
        }
    });
}

#[test]
fn what_is_kept_and_not_being_captured_is_counted() {
    let world = World::new();
    let [first, _] = [(); 2].map(|()| keep(&world, &record()));
    assert_eq!(world.store.kept_count().unwrap(), 2);
    let claimed = world.store.claim_kept(&first).unwrap();
    assert_eq!(world.store.kept_count().unwrap(), 1);
    drop(claimed);
    assert_eq!(world.store.kept_count().unwrap(), 2);
}

#[test]
fn a_living_action_and_other_files_are_not_kept_runs() {
    let world = World::new();
    let run = world.store.new_run().unwrap();
    for id in [run.id(), "", ".", "..", "../layers", ".lock", "0123456789abcdef", "0123456789ABCDEF"] {
        assert!(matches!(world.store.claim_kept(id), Err(StoreError::NotKept { .. })), "{id:?}");
    }
    assert!(world.store.kept().unwrap().is_empty());
}

#[test]
fn a_record_that_is_damaged_or_missing_is_none() {
    let world = World::new();
    let id = keep(&world, &record());
    for text in ["", "{", "[]", "{\"why\":7}", "\u{0}\u{0}"] {
        fs::write(world.path("store/runs").join(&id).join("keep"), text).unwrap();
        let kept = &world.store.kept().unwrap()[0];
        assert_eq!((&kept.record, kept.is_whole()), (&None, false), "{text:?}");
    }
    let (captured, name) =
        world.store.claim_kept(&id).unwrap().capture(Recovery::default(), &world.store).unwrap();
    assert_eq!((captured.files, name), (2, None));
}

#[test]
fn what_cannot_be_looked_through_is_listed_all_the_same() {
    let world = World::new();
    let id = keep(&world, &record());
    let deep = world.path("store/runs").join(&id).join("upper/work/closed");
    fs::create_dir(&deep).unwrap();
    fs::set_permissions(&deep, fs::Permissions::from_mode(0o000)).unwrap();
    let kept = world.store.kept().unwrap();
    assert_eq!((kept.len(), kept[0].bytes.is_some()), (1, rustix::process::geteuid().is_root()));
    fs::set_permissions(&deep, fs::Permissions::from_mode(0o700)).unwrap();
}
