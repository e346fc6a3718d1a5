//! What a server remembers is bounded, whatever it is asked.

mod support;

use std::fs;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use support::{attach_host, ended_within, eventually, settle, with_rig};
use vfsrun_fuse::View;

const SOON: Duration = Duration::from_secs(5);

/// Bytes.
fn memory_of(view: &View) -> usize {
    status_of(view, "RssAnon:") * 1024
}

fn status_of(view: &View, field: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", view.server_pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// For a table that grows later everybody waits.
#[test]
fn thousands_of_descriptors_have_room_from_the_start() {
    with_rig("descriptors", |rig| {
        let (_, limit) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert!(status_of(&rig.view(), "FDSize:") >= limit.min(8192) as usize);
    });
}

/// `VFSRUN_TEST_LOOKUPS` makes it longer by hand.
#[test]
fn lookups_in_vain_cost_the_server_no_memory() {
    let count = std::env::var("VFSRUN_TEST_LOOKUPS").map_or(100_000, |count| count.parse().unwrap());
    with_rig("lookups_in_vain", |rig| {
        let host = rig.dir("host");
        fs::write(host.join("file"), "x").unwrap();
        let mut view = rig.view();
        let attached = attach_host(&mut view, &host);
        let root = rig.mounted("root", &attached);
        let look_for = |range: std::ops::Range<usize>| {
            for n in range {
                assert!(fs::symlink_metadata(root.join(format!("no{n}"))).is_err());
            }
        };
        look_for(0..1000);
        let before = memory_of(&view);
        look_for(1000..count);
        let grown = memory_of(&view).saturating_sub(before);
        assert!(view.stats().unwrap().negative >= count as u64, "the server was asked each time");
        assert!(grown < 1 << 20, "{grown} bytes for {count} lookups");
    });
}

#[test]
fn more_names_than_the_server_may_remember_are_an_error_and_a_fault() {
    with_rig("too_many_names", |rig| {
        rig.options.most_nodes = 100;
        let host = rig.dir("host");
        for n in 0..200 {
            fs::write(host.join(format!("f{n}")), "x").unwrap();
        }
        let mut view = rig.view();
        let attached = attach_host(&mut view, &host);
        let root = rig.mounted("root", &attached);
        let looks: Vec<_> = (0..200).map(|n| fs::metadata(root.join(format!("f{n}")))).collect();
        let refused = looks.iter().filter(|look| look.is_err()).count();
        assert!((100..=110).contains(&refused), "{refused}");
        assert!(looks[0].is_ok() && looks[199].is_err());
        assert!(view.ping(SOON).unwrap().nodes <= 100);
        let faults = view.visit(&[&attached.segment]).unwrap().faults;
        assert!(faults[0].ends_with("more than 100 names are in use at once"), "{faults:?}");
        assert_eq!(fs::read_dir(&root).unwrap().count(), 200, "names need not be remembered to be listed");
    });
}

#[test]
fn segments_that_nobody_uses_make_room() {
    with_rig("room", |rig| {
        rig.options.warm_nodes = 100;
        let (one, two) = (rig.dir("one"), rig.dir("two"));
        for n in 0..90 {
            fs::write(one.join(format!("f{n}")), "x").unwrap();
            fs::write(two.join(format!("f{n}")), "x").unwrap();
        }
        let mut view = rig.view();
        let look = |view: &mut View, host: &Path, at: &str| {
            let attached = attach_host(view, host);
            let root = rig.mounted(at, &attached);
            assert_eq!(fs::read_dir(&root).unwrap().flat_map(|entry| entry.unwrap().metadata()).count(), 90);
            nix::mount::umount2(&root, nix::mount::MntFlags::MNT_DETACH).unwrap();
        };
        look(&mut view, &one, "root1");
        drop(view);
        let mut view = rig.view();
        look(&mut view, &two, "root2");
        drop(view);
        let mut view = rig.view();
        eventually("the first segment goes", || view.ping(SOON).unwrap().nodes < 100);
    });
}

#[test]
fn after_many_clients_another_server_takes_the_place() {
    with_rig("recycled", |rig| {
        rig.options.most_clients = 3;
        let host = rig.dir("host");
        fs::write(host.join("file"), "old").unwrap();
        settle();
        let mut first = rig.view();
        let attached = attach_host(&mut first, &host);
        let first_pid = first.server_pid();
        assert_eq!(rig.view().server_pid(), first_pid);
        assert_eq!(rig.view().server_pid(), first_pid);
        eventually("another server", || rig.view().server_pid() != first_pid);
        let mut second = rig.view();
        assert!(!attach_host(&mut second, &host).warm);
        // Mounted now, or the second server's namespace would have a copy of the mount.
        let root = rig.mounted("root", &attached);
        assert_eq!(fs::read_to_string(root.join("file")).unwrap(), "old", "the first goes on for its client");
        assert!(!ended_within(first.server_pidfd(), Duration::from_millis(700)));
        let pidfd = first.server_pidfd().try_clone_to_owned().unwrap();
        drop(attached);
        drop(first);
        nix::mount::umount2(&root, nix::mount::MntFlags::MNT_DETACH).unwrap();
        assert!(ended_within(pidfd.as_fd(), SOON), "nobody needs the first any more");
        second.ping(SOON).unwrap();
        assert_eq!(rig.view().server_pid(), second.server_pid());
    });
}

#[test]
fn a_name_that_was_refused_for_lack_of_room_is_there_when_there_is_room() {
    with_rig("room_again", |rig| {
        rig.options.most_nodes = 20;
        let host = rig.dir("host");
        for n in 0..30 {
            fs::write(host.join(format!("f{n}")), "x").unwrap();
        }
        let mut view = rig.view();
        let attached = attach_host(&mut view, &host);
        let root = rig.mounted("root", &attached);
        let errors = (0..30).filter_map(|n| fs::metadata(root.join(format!("f{n}"))).err());
        assert!(errors.map(|error| error.kind()).all(|kind| kind != ErrorKind::NotFound), "it is there");
        nix::mount::umount2(&root, nix::mount::MntFlags::MNT_DETACH).unwrap();
        drop(view);
        eventually("the names are forgotten", || {
            let mut view = rig.view();
            let attached = attach_host(&mut view, &host);
            let root = rig.mounted("again", &attached);
            let is_there = fs::metadata(root.join("f29")).is_ok();
            nix::mount::umount2(&root, nix::mount::MntFlags::MNT_DETACH).unwrap();
            is_there
        });
    });
}

#[test]
fn what_is_left_of_an_old_generation_is_forgotten_when_its_last_mount_is_gone() {
    with_rig("old_generation", |rig| {
        let host = rig.dir("host");
        for n in 0..50 {
            fs::create_dir(host.join(format!("d{n}"))).unwrap();
            fs::write(host.join(format!("d{n}/f")), "x").unwrap();
        }
        settle();
        let mut first = rig.view();
        let attached = attach_host(&mut first, &host);
        let root = rig.mounted("root", &attached);
        let open: Vec<_> = (0..50).map(|n| fs::File::open(root.join(format!("d{n}/f"))).unwrap()).collect();
        fs::write(host.join("d0/f"), "changed").unwrap();
        let mut second = rig.view();
        assert!(!attach_host(&mut second, &host).warm);
        drop(attached);
        drop(first);
        std::thread::sleep(Duration::from_millis(300));
        let nodes = second.ping(SOON).unwrap().nodes;
        assert!(nodes > 100, "somebody is still inside");
        drop(open);
        // One client after the other, as where actions are many and short.
        nix::mount::umount2(&root, nix::mount::MntFlags::MNT_DETACH).unwrap();
        eventually("the kernel forgets them", || rig.view().ping(SOON).unwrap().nodes <= 1);
    });
}

#[test]
fn what_was_in_use_when_it_was_forgotten_goes_when_it_is_not() {
    with_rig("forgotten_in_use", |rig| {
        let host = rig.dir("host");
        fs::create_dir_all(host.join("d/e")).unwrap();
        for n in 0..50 {
            fs::write(host.join(format!("d/e/f{n}")), "x").unwrap();
        }
        settle();
        let mut view = rig.view();
        let attached = attach_host(&mut view, &host);
        let root = rig.mounted("root", &attached);
        // Somebody whom the server does not know of, as the overlay of a root that is kept.
        let open: Vec<_> = (0..50).map(|n| fs::File::open(root.join(format!("d/e/f{n}"))).unwrap()).collect();
        drop(view);
        fs::rename(host.join("d"), host.join("gone")).unwrap();
        eventually("the client's end is known", || {
            let mut view = rig.view();
            attach_host(&mut view, &host).warm
        });
        let mut view = rig.view();
        assert!(view.ping(SOON).unwrap().nodes > 50, "they are in use");
        drop(open);
        eventually("the kernel forgets them", || view.ping(SOON).unwrap().nodes < 5);
    });
}

#[test]
fn what_was_in_use_goes_although_its_path_was_looked_up_again() {
    with_rig("looked_up_again", |rig| {
        let (host, mounted) = (rig.dir("host"), rig.dir("mounted"));
        fs::create_dir(host.join("d")).unwrap();
        for n in 0..50 {
            fs::write(mounted.join(format!("f{n}")), "x").unwrap();
        }
        let bind = |from: &Path, to: &Path| {
            nix::mount::mount(Some(from), to, None::<&str>, nix::mount::MsFlags::MS_BIND, None::<&str>)
                .unwrap();
        };
        bind(&mounted, &host.join("d"));
        settle();
        let mut view = rig.view();
        let attached = attach_host(&mut view, &host);
        let root = rig.mounted("root", &attached);
        let open =
            || (0..50).map(|n| fs::File::open(root.join(format!("d/f{n}"))).unwrap()).collect::<Vec<_>>();
        let old = open();
        drop(view);
        // Until the server knows that nobody is inside.
        std::thread::sleep(Duration::from_millis(300));
        // What is mounted may be something else now, and is forgotten: the directory, not each name below it.
        bind(&mounted, &rig.dir("elsewhere"));
        let mut view = rig.view();
        assert!(attach_host(&mut view, &host).warm);
        let new = open();
        assert!(view.ping(SOON).unwrap().nodes > 100, "both are in use");
        drop((old, view));
        eventually("the kernel forgets the old ones", || rig.view().ping(SOON).unwrap().nodes < 60);
        drop(new);
    });
}

#[test]
fn a_file_system_below_a_branch_can_be_unmounted_when_nobody_is_inside() {
    with_rig("unmounted", |rig| {
        let (host, other) = (rig.dir("host"), rig.dir("other"));
        fs::create_dir(host.join("m")).unwrap();
        fs::write(other.join("f"), "x").unwrap();
        let place = host.join("m");
        let bind = nix::mount::MsFlags::MS_BIND;
        let mut view = rig.view();
        // After the server's start, whose namespace has a copy of all mounts else.
        nix::mount::mount(Some(&other), &place, None::<&str>, bind, None::<&str>).unwrap();
        let attached = attach_host(&mut view, &host);
        let root = rig.mounted("root", &attached);
        assert_eq!(fs::read_to_string(root.join("m/f")).unwrap(), "x");
        assert!(nix::mount::umount(&place).is_err(), "the file was read");
        drop(attached);
        nix::mount::umount2(&root, nix::mount::MntFlags::MNT_DETACH).unwrap();
        drop(view);
        eventually("the file is closed", || nix::mount::umount(&place).is_ok());
    });
}
