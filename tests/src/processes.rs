//! Processes of the host, as /proc lists them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longer than anything here takes; reached only when a test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A process and its arguments.
#[derive(Clone, Debug)]
pub struct Process {
    pub pid: i32,
    pub arguments: Vec<String>,
}

/// Guards and servers of mounted views (`vfsrun view mount`) with `directory` as their `--root`, in the order of their pids.
pub fn views(directory: &Path) -> Vec<i32> {
    let mut pids: Vec<_> = view_processes(directory).into_iter().map(|process| process.pid).collect();
    pids.sort_unstable();
    pids
}

fn view_processes(directory: &Path) -> Vec<Process> {
    let mut views = mentioning(&directory.to_string_lossy());
    views.retain(|process| process.arguments.iter().any(|argument| argument == "view"));
    views
}

/// Every process that has arguments: no kernel thread, no zombie.
pub fn all() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").expect("/proc is mounted");
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| Some(Process { pid, arguments: arguments(pid)? })).collect()
}

fn arguments(pid: i32) -> Option<Vec<String>> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok().filter(|bytes| !bytes.is_empty())?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Some(text.trim_end_matches('\0').split('\0').map(str::to_owned).collect())
}

/// View servers whose directory lies in `directory`.
pub fn view_servers(directory: &Path) -> Vec<i32> {
    let directory = directory.to_string_lossy();
    let is_server = |process: &Process| {
        process.arguments.get(1).is_some_and(|argument| argument == "view-server")
            && process.arguments.get(2).is_some_and(|options| options.contains(&format!("{directory}/")))
    };
    all().into_iter().filter(is_server).map(|process| process.pid).collect()
}

/// Processes with `text` somewhere in their arguments.
pub fn mentioning(text: &str) -> Vec<Process> {
    all()
        .into_iter()
        .filter(|process| process.arguments.iter().any(|argument| argument.contains(text)))
        .collect()
}

/// Pids of processes that were started with this `NAME=VALUE` in their environment. Those that may not be looked into are not
/// among them.
pub fn with_variable(variable: &str) -> Vec<i32> {
    let has = |process: &Process| {
        let environment = std::fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|one| one == variable.as_bytes())
    };
    all().into_iter().filter(has).map(|process| process.pid).collect()
}

/// Whether the process runs: it is there and is no zombie.
pub fn runs(pid: i32) -> bool {
    !matches!(state(pid), None | Some('Z' | 'X'))
}

/// The letter of /proc/PID/stat.
pub fn state(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

pub fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap_or_else(|errno| panic!("cannot send {signal} to {pid}: {errno}"));
}

/// Waits until `true`; panics with `what` when it never comes.
pub fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !happened() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Kills view servers of `directory`, and waits for their end.
pub fn end_view_servers(directory: &Path) {
    for pid in view_servers(directory) {
        // It may have ended by itself since.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        until("the end of a killed view server", || !runs(pid));
    }
}

/// Unmounts what a failed test left mounted: of the two processes of a view the one that is left does that, and is given time for it.
pub fn end_views(directory: &Path) {
    let mut pairs: BTreeMap<Vec<String>, Vec<i32>> = BTreeMap::new();
    for process in view_processes(directory) {
        pairs.entry(process.arguments).or_default().push(process.pid);
    }
    for pair in pairs.into_values().filter(|pair| pair.len() > 1) {
        let _ = kill(Pid::from_raw(pair[0]), Signal::SIGKILL);
    }
    until("the end of the views", || view_processes(directory).is_empty());
}
