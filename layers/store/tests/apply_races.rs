//! Somebody saves while a layer is applied: what he saved last is always there.

mod common;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use common::scene::{Scene, gone, whys};

const ROUNDS: usize = 200;

/// Calls `save` with numbers that grow, from before `act` until after it. Returns the last one, and what `act` returned.
fn while_saving<T>(save: impl Fn(u64) + Sync, act: impl FnOnce() -> T) -> (u64, T) {
    let (has_ended, saved) = (AtomicBool::new(false), AtomicU64::new(0));
    let done = thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1.. {
                save(number);
                saved.store(number, Ordering::SeqCst);
                if has_ended.load(Ordering::SeqCst) {
                    break;
                }
            }
        });
        let done = act();
        has_ended.store(true, Ordering::SeqCst);
        done
    });
    (saved.load(Ordering::SeqCst), done)
}

fn in_place(path: &Path, number: u64) {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).open(path).unwrap();
    write!(file, "saved {number}").unwrap();
}

fn by_rename(path: &Path, number: u64) {
    let new = path.with_extension("new");
    fs::write(&new, format!("saved {number}")).unwrap();
    fs::rename(&new, path).unwrap();
}

/// The saver begins and ends at any time: at some it saves before the plan, at some never while the names are exchanged.
fn saves_survive(save: fn(&Path, u64), removes: bool) {
    let (mut refused, mut kept) = (0, 0);
    for round in 0..ROUNDS {
        let scene = Scene::new();
        let path = scene.path("f");
        scene.write("f", "old");
        scene.write("g", "old");
        let change = if removes { gone("f") } else { scene.file("f", "formatted") };
        let layer = scene.layer([change, scene.file("g", "formatted")]);
        let base = scene.base(&layer);
        let apply = |begins: &AtomicBool| {
            let plan = scene.plan(&layer, &base);
            begins.store(true, Ordering::SeqCst);
            plan.apply(&|_| ()).unwrap()
        };
        let begins = AtomicBool::new(round % 4 == 0);
        let (last, applied) = while_saving(
            |number| {
                while !begins.load(Ordering::SeqCst) {
                    thread::yield_now();
                }
                if number == 1 {
                    thread::sleep(Duration::from_micros(round as u64 % 50 * 300));
                }
                save(&path, number);
            },
            || apply(&begins),
        );
        assert_eq!(scene.read("f"), format!("saved {last}"), "round {round}: {:?}", applied.items);
        assert_eq!(scene.read("g"), "formatted");
        refused += whys(&applied).len();
        kept += fs::read_dir(&scene.host).unwrap().count() - 2;
    }
    println!("{refused} of {ROUNDS} were refused, {kept} files kept aside");
}

#[test]
fn a_save_in_place_survives_a_change() {
    saves_survive(in_place, false);
}

#[test]
fn a_save_by_rename_survives_a_change() {
    saves_survive(by_rename, false);
}

#[test]
fn a_save_in_place_survives_a_removal() {
    saves_survive(in_place, true);
}

#[test]
fn a_save_by_rename_survives_a_removal() {
    saves_survive(by_rename, true);
}

#[test]
fn what_is_made_in_a_directory_that_is_removed_survives() {
    for round in 0..ROUNDS {
        let scene = Scene::new();
        scene.write("dir/f", "old");
        let layer = scene.layer([gone("dir")]);
        let base = scene.base(&layer);
        let made = |number: u64| {
            // Where the directory is gone nobody can save in it.
            let _ = fs::create_dir(scene.path("dir"));
            fs::write(scene.path("dir").join(format!("new{number}")), "saved").is_ok()
        };
        let all = std::sync::Mutex::new(Vec::new());
        let (_, applied) = while_saving(
            |number| {
                if number < 50 && made(number) {
                    all.lock().unwrap().push(number);
                }
            },
            || scene.try_apply(&layer, &base).unwrap(),
        );
        for number in all.lock().unwrap().iter() {
            let name = format!("new{number}");
            let kept = fs::read_dir(&scene.host).unwrap().map(|entry| entry.unwrap().path());
            assert!(
                kept.into_iter().any(|dir| dir.join(&name).exists()),
                "round {round}, {name}: {applied:?}"
            );
        }
    }
}
