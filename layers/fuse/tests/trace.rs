//! A server that traces: what it writes, and when it ends.

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use support::{Rig, SERVER, attach_host, ended_within, with_rig};
use vfsrun_fuse::{ClientError, TraceMode, View, spawn_server};
use vfsrun_trace::{Outcome, Trace};

/// A server of one's own.
fn start(rig: &Rig, mode: TraceMode) -> View {
    let options = rig.options.clone().traced(mode);
    View::start_own(rig.domain(), |domain, listener| {
        spawn_server(domain, listener, Path::new(SERVER), &options)
    })
    .unwrap()
}

/// A tracing server, a root of one host directory that it serves, and the log.
fn traced(rig: &Rig, mode: TraceMode, host: &Path) -> (View, PathBuf, PathBuf) {
    let mut view = start(rig, mode);
    let log = rig.dir("logs").join("log");
    view.begin_trace(&[File::create(&log).unwrap().as_fd()], vec!["host".to_owned()]).unwrap();
    let attached = attach_host(&mut view, host);
    (view, rig.mounted("root", &attached), log)
}

fn read(log: &Path) -> Trace {
    Trace::read(File::open(log).unwrap()).unwrap()
}

#[test]
fn what_threads_look_at_is_told_of_their_process() {
    with_rig("threads", |rig| {
        let host = rig.dir("host");
        fs::write(host.join("file"), "x").unwrap();
        let (mut view, root, log) = traced(rig, TraceMode::Process, &host);
        let file = root.join("file");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| fs::read(&file).unwrap());
            }
        });
        assert!(Command::new("cat").arg(&file).output().unwrap().status.success());
        let counts = view.end_trace().unwrap();
        let trace = read(&log);
        assert_eq!((counts.paths, counts.processes), (2, trace.processes.len() as u64));
        let mut by: BTreeMap<u32, Outcome> = BTreeMap::new();
        let file = trace.seen.iter().filter(|seen| trace.path(seen.path) == Path::new("/file"));
        for seen in file {
            by.insert(trace.processes[seen.process.unwrap()].pid, seen.outcome.clone());
        }
        // This process is who started the server, and its child is the other one.
        assert_eq!(by.len(), 2, "{:?}", trace.processes);
        assert_eq!(by[&std::process::id()], Outcome::Read);
        assert!(trace.processes.iter().all(|process| process.parent == 0), "{:?}", trace.processes);
    });
}

#[test]
fn a_server_that_traces_has_one_client_and_ends_with_it() {
    with_rig("one_client", |rig| {
        let host = rig.dir("host");
        let (view, _, _) = traced(rig, TraceMode::Action, &host);
        let other = start(rig, TraceMode::Action);
        assert_ne!(view.server_pid(), other.server_pid());
        drop(other);
        let server = view.server_pidfd().try_clone_to_owned().unwrap();
        assert!(!ended_within(server.as_fd(), Duration::from_secs(1)), "it has a client");
        nix::mount::umount2(&rig.dir("root"), nix::mount::MntFlags::MNT_DETACH).unwrap();
        drop(view);
        assert!(ended_within(server.as_fd(), Duration::from_secs(10)));
    });
}

#[test]
fn a_server_makes_one_trace() {
    with_rig("one_trace", |rig| {
        let host = rig.dir("host");
        let (mut view, root, log) = traced(rig, TraceMode::Action, &host);
        let other = File::create(rig.dir("logs").join("other")).unwrap();
        assert!(matches!(view.begin_trace(&[other.as_fd()], Vec::new()), Err(ClientError::Refused { .. })));
        assert!(fs::symlink_metadata(root.join("none")).is_err());
        assert_eq!(view.end_trace().unwrap().paths, 1);
        assert!(!read(&log).is_cut_short);
        assert!(matches!(view.end_trace(), Err(ClientError::Refused { .. })));
    });
}

#[test]
fn a_server_that_does_not_trace_says_so() {
    with_rig("not_traced", |rig| {
        let mut view = rig.view();
        let log = File::create(rig.dir("logs").join("log")).unwrap();
        let refused = view.begin_trace(&[log.as_fd()], Vec::new()).unwrap_err();
        assert!(matches!(refused, ClientError::Refused { message } if message == "it does not trace"));
    });
}

#[test]
fn a_trace_of_many_lookups_in_vain_is_complete() {
    const MANY: usize = 10_000;
    with_rig("many_paths", |rig| {
        let host = rig.dir("host");
        let (mut view, root, log) = traced(rig, TraceMode::Action, &host);
        for n in 0..MANY {
            assert!(fs::symlink_metadata(root.join(format!("no{n}"))).is_err());
        }
        assert_eq!(view.end_trace().unwrap().paths, MANY as u64);
        let trace = read(&log);
        assert_eq!(trace.outcomes().len(), MANY);
        assert!(trace.outcomes().iter().all(|(_, outcome)| **outcome == Outcome::Failed(libc::ENOENT)));
    });
}
