//! Traces against strace: every path that strace reports of random programs is in the trace with the same outcome.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};

use vfsrun_tests::changes::Random;
use vfsrun_tests::strace::{Call, STRACE};
use vfsrun_tests::traced::{ACTION, PROCESS};
use vfsrun_tests::{Sandbox, Traced, Value, as_root_and_user, fixtures, json, skip};

as_root_and_user!(what_strace_reports_is_in_the_trace);

const ACTIONS: usize = 10;
const PROGRAMS: usize = 20;
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

fn what_strace_reports_is_in_the_trace(sandbox: &Sandbox) {
    if !fixtures::has("strace") {
        return skip::loudly("trace_oracle::what_strace_reports_is_in_the_trace", "strace is not installed");
    }
    fixtures::seer(sandbox);
    let (mut random, mut calls) = (Random(u64::from(sandbox.caller.uid()) + 1), 0);
    for action in 0..ACTIONS {
        let closed = make_tree(sandbox, &mut random, action);
        let programs: Vec<String> = (0..PROGRAMS).map(|_| program(&mut random, action)).collect();
        let mode = if action % 2 == 0 { ACTION } else { PROCESS };
        calls += compare(sandbox, action, &programs, mode, &closed);
    }
    assert!(calls > 20 * ACTIONS * PROGRAMS, "only {calls} calls were compared");
}

/// Two branches of a few files, directories and links of both sorts. Returns what nobody may enter or read.
fn make_tree(sandbox: &Sandbox, random: &mut Random, action: usize) -> Vec<PathBuf> {
    let (mut script, mut closed) = (String::new(), Vec::new());
    for branch in ["one", "two"] {
        let _ = writeln!(script, "mkdir -p {action}/{branch}; cd {action}/{branch}");
        let mut paths = Vec::new();
        for _ in 0..30 {
            let path = path_of(random, 3);
            let parent = Path::new(&path).parent().unwrap_or(Path::new("")).display().to_string();
            let _ = writeln!(script, "mkdir -p ./{parent} 2>/dev/null || true");
            let _ = match random.below(10) {
                0..=2 => writeln!(script, "echo {path} > {path} 2>/dev/null || true"),
                3 if !paths.is_empty() => {
                    let other: &String = &paths[random.below(paths.len())];
                    writeln!(script, "ln {other} {path} 2>/dev/null || true")
                }
                4..=5 => writeln!(script, "mkdir -p {path} 2>/dev/null || true"),
                _ => writeln!(script, "ln -sn {} {path} 2>/dev/null || true", target(random)),
            };
            paths.push(path);
        }
        let path = path_of(random, 2);
        let _ = writeln!(script, "[ -h {path} ] || chmod 0 {path} 2>/dev/null || true; cd ../..");
        closed.push(Path::new("/src").join(path));
    }
    sandbox.sh(&script);
    closed
}

fn path_of(random: &mut Random, most: usize) -> String {
    let names: Vec<&str> = (0..=random.below(most)).map(|_| random.one_of(&NAMES)).collect();
    names.join("/")
}

fn target(random: &mut Random) -> String {
    let path = path_of(random, 2);
    match random.below(4) {
        0 => format!("/src/{path}"),
        1 => format!("../{path}"),
        _ => path,
    }
}

/// A path as a program may name it, and the same in other words.
fn asked(random: &mut Random) -> String {
    let path = path_of(random, 4);
    match random.below(8) {
        0 => path,
        1 => format!("../src/{path}"),
        2 => format!("/src/{path}/"),
        3 => format!("/src/{}/../{path}", random.one_of(&NAMES)),
        _ => format!("/src/{path}"),
    }
}

fn program(random: &mut Random, action: usize) -> String {
    if random.below(3) > 0 { ways(random, action) } else { script(random) }
}

/// Of tests/fixtures/seer.c. Threads only where the trace is compared as a whole.
fn ways(random: &mut Random, action: usize) -> String {
    let mut words = "/seer/seer".to_owned();
    let brackets = if action.is_multiple_of(2) { ["{", "[", "["] } else { ["{", "{", "{"] };
    let mut open = Vec::new();
    for _ in 0..random.below(25) + 5 {
        match random.below(12) {
            0 if open.len() < 2 => {
                let bracket = random.one_of(&brackets);
                open.push(bracket);
                let _ = write!(words, " '{bracket}'");
            }
            1 => {
                let closed = open.pop().map(|bracket| if bracket == "{" { " '}'" } else { " ']'" });
                words.push_str(closed.unwrap_or_default());
            }
            2 if open.is_empty() => words.push_str(" e:/seer/seer"),
            3 if !open.contains(&"[") => {
                let _ = write!(words, " c:/src/{}", path_of(random, 2));
            }
            _ => {
                let way = random.one_of(&["s", "l", "x", "a", "o", "n", "p", "D", "L", "r", "m"]);
                let _ = write!(words, " {way}:{}", asked(random));
            }
        }
    }
    words
}

fn script(random: &mut Random) -> String {
    let mut commands = Vec::new();
    for _ in 0..random.below(3) + 1 {
        let (path, other) = (asked(random), asked(random));
        commands.push(match random.below(9) {
            0 => format!("cat {path} {other}"),
            1 => format!("ls -l {path}"),
            2 => format!("test -e {path} || test -d {other}"),
            3 => format!("readlink {path}"),
            4 => format!("find /src/{} -type f", path_of(random, 2)),
            5 => format!("stat -L {path}"),
            6 => format!("cd /src/{} && cat {}", path_of(random, 2), path_of(random, 1)),
            7 => format!("while read -r line; do echo $line; done < {path}"),
            _ => format!("head -c 1 {path}; wc {other}"),
        });
    }
    format!("sh -c '{}'", commands.join("; "))
}

/// Runs the programs in one action and compares. Returns how many calls were.
fn compare(sandbox: &Sandbox, action: usize, programs: &[String], mode: &str, closed: &[PathBuf]) -> usize {
    let out = sandbox.dir(format!("{action}/out"));
    let run = |(number, program)| format!("{STRACE} -o /out/{number} {program}");
    let script: Vec<String> = programs.iter().enumerate().map(run).collect();
    let branches = json!([
        { "path": format!("{action}/one"), "at": "/src" },
        { "path": format!("{action}/two"), "at": "/src" },
        { "path": "seer", "at": "/seer" },
        { "path": format!("{action}/out"), "at": "/out", "mode": "rw" },
    ]);
    let script = format!("exec > /dev/null 2>&1; {}; true", script.join("; "));
    let mut spec = sandbox.shell_spec(&script, &json!({ "branches": branches, "capture": false }));
    spec["process"]["env"] = json!(["LC_ALL=C"]);
    spec["process"]["cwd"] = json!("/src");
    let traced = Traced::run(sandbox, &spec, mode);
    let mut calls = 0;
    for entry in std::fs::read_dir(out).expect("the directory is there") {
        let file = entry.expect("it can be listed").path();
        let process = file.extension().and_then(OsStr::to_str).and_then(|pid| pid.parse().ok());
        let process = process.expect("strace adds the process to the name");
        let sights = Sights::of(&traced, (mode == PROCESS).then_some(process), closed);
        let mut cwd = PathBuf::from("/src");
        let program =
            file.file_stem().and_then(OsStr::to_str).and_then(|number| number.parse::<usize>().ok());
        for line in std::fs::read_to_string(&file).expect("strace wrote text").lines() {
            let Some(mut call) = Call::parse(line) else { continue };
            if line.contains("(AT_FDCWD<") {
                cwd.clone_from(call.base.as_ref().expect("strace tells what it stands for"));
            }
            let base = call.base.get_or_insert(cwd.clone());
            if call.name == "chdir" && call.result.is_ok() {
                cwd = sights.walk(base, &call.path, false).0.reached();
            }
            calls += 1;
            if let Err(why) = sights.explain(&call) {
                let program = program.and_then(|number| programs.get(number));
                panic!("action {action} {mode}, process {process} of {program:?}:\n{line}\n{why}");
            }
        }
    }
    calls
}

/// What a trace tells of each path.
struct Sights<'a> {
    told: BTreeMap<PathBuf, Value>,
    closed: &'a [PathBuf],
}

/// Where a walk along a path ends.
#[derive(Debug, PartialEq)]
enum End<'a> {
    At(PathBuf, Option<&'a Value>),
    Error(String),
    /// The trace says nothing of this name.
    Unknown(PathBuf),
    /// On another mount.
    Elsewhere,
}

impl End<'_> {
    fn reached(self) -> PathBuf {
        match self {
            End::At(path, _) => path,
            other => panic!("strace says that it was reached, the trace {other:?}"),
        }
    }
}

const OTHER_MOUNTS: [&str; 5] = ["/proc", "/dev", "/tmp", "/out", "/sys"];

impl<'s> Sights<'s> {
    /// Of one process, by its number inside, and absences of all: they are told once.
    fn of(traced: &Traced, process: Option<u64>, closed: &'s [PathBuf]) -> Sights<'s> {
        let mut sights = BTreeMap::new();
        for seen in &traced.seen {
            let number = seen["process"].as_u64().expect("a number");
            let by = traced.processes.get(&number).and_then(|process| process["pidInside"].as_u64());
            if process.is_some() && process != by && seen["outcome"] != "absent" {
                continue;
            }
            let known = sights.entry(PathBuf::from(seen["path"].as_str().expect("a path"))).or_insert(seen);
            if strength(seen) > strength(known) {
                *known = seen;
            }
        }
        let told = sights.into_iter().map(|(path, seen)| (path, seen.clone())).collect();
        Sights { told, closed }
    }

    /// Walks as the kernel does, but asks the trace; and whether the way leads to or through something that is closed.
    /// `base` has been reached before.
    fn walk(&self, base: &Path, path: &Path, keeps_link: bool) -> (End<'_>, bool) {
        let mut at = base.to_path_buf();
        let slash = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        let mut left: Vec<PathBuf> = components(path);
        let (mut links, mut seen, mut is_closed) = (0, self.told.get(&at), self.closed.contains(&at));
        while let Some(name) = left.pop() {
            match name.to_str() {
                Some("/") => at = PathBuf::from("/"),
                Some("..") => drop(at.pop()),
                _ => {
                    let next = at.join(&name);
                    is_closed |= self.closed.contains(&next);
                    if OTHER_MOUNTS.iter().any(|mount| next.starts_with(mount)) {
                        return (End::Elsewhere, is_closed);
                    }
                    let Some(told) = self.told.get(&next) else { return (End::Unknown(next), is_closed) };
                    let follow = !left.is_empty() || slash || !keeps_link;
                    match (outcome(told), told["type"].as_str()) {
                        ("absent" | "failed", _) => {
                            let errno = told["errno"].as_str().expect("a word");
                            return (End::Error(errno.to_owned()), is_closed);
                        }
                        ("stat", Some("link")) if follow => return (End::Unknown(next), is_closed),
                        ("link", _) if follow => {
                            links += 1;
                            if links > 40 {
                                return (End::Error("ELOOP".to_owned()), is_closed);
                            }
                            left.extend(components(Path::new(told["target"].as_str().expect("a target"))));
                            continue;
                        }
                        ("listed", _) | (_, Some("directory")) => at = next,
                        _ if !left.is_empty() || slash => {
                            return (End::Error("ENOTDIR".to_owned()), is_closed);
                        }
                        _ => at = next,
                    }
                }
            }
            seen = self.told.get(&at);
        }
        (End::At(at, seen), is_closed)
    }

    /// Errors: in words, what the trace should say.
    fn explain(&self, call: &Call) -> Result<(), String> {
        let base = call.base.as_deref().expect("the caller has found it");
        let (end, is_closed) = self.walk(base, &call.path, call.keeps_link);
        if end == End::Elsewhere || OTHER_MOUNTS.iter().any(|mount| base.starts_with(mount)) {
            return Ok(());
        }
        let said = format!("the trace leads to {end:?}");
        match (&call.result, &end) {
            (Ok(_), End::At(at, seen)) => {
                self.explain_success(call, at, *seen).map_err(|why| format!("{why}; {said}"))
            }
            (Err(errno), End::Error(told)) if errno == told => Ok(()),
            // The kernel itself judges by what it was told: modes and types.
            (Err(errno), _) if errno == "EACCES" && is_closed => Ok(()),
            (Err(errno), End::At(..)) if !["ENOENT", "EACCES"].contains(&errno.as_str()) => Ok(()),
            _ => Err(said),
        }
    }

    fn explain_success(&self, call: &Call, at: &Path, seen: Option<&Value>) -> Result<(), String> {
        let outcome = seen.map_or("", outcome);
        let is_directory =
            || outcome.is_empty() || outcome == "listed" || seen.is_some_and(|s| s["type"] == "directory");
        if call.opened().is_some_and(|opened| opened != at) {
            return Err("it was opened elsewhere".to_owned());
        }
        let expected = match call.name.as_str() {
            "getdents64" => {
                let listed = self.told.get(at).is_some_and(|seen| seen["outcome"] == "listed");
                return if listed { Ok(()) } else { Err(format!("{} is not listed", at.display())) };
            }
            "openat" | "open" if !call.has("O_PATH") && !is_directory() => "read",
            "execve" => "read",
            "readlink" | "readlinkat" => {
                let told = seen.and_then(|seen| seen["target"].as_str());
                return if told == call.target() {
                    Ok(())
                } else {
                    Err(format!("the target is not {told:?}"))
                };
            }
            _ => return self.explain_type(call, outcome, seen),
        };
        if outcome == expected { Ok(()) } else { Err(format!("it is not {expected}")) }
    }

    fn explain_type(&self, call: &Call, outcome: &str, seen: Option<&Value>) -> Result<(), String> {
        let shown = ["S_IFREG", "S_IFDIR", "S_IFLNK"].into_iter().find(|kind| call.has(kind));
        let kind = match (outcome, seen.and_then(|seen| seen["type"].as_str())) {
            ("read", _) | (_, Some("file")) => "S_IFREG",
            ("link", _) | (_, Some("link")) => "S_IFLNK",
            _ => "S_IFDIR",
        };
        if shown.is_none_or(|shown| shown == kind) { Ok(()) } else { Err(format!("it is not {kind}")) }
    }
}

/// The first one last.
fn components(path: &Path) -> Vec<PathBuf> {
    let names = path.components().filter(|component| *component != Component::CurDir);
    names.map(|component| PathBuf::from(component.as_os_str())).rev().collect()
}

fn outcome(seen: &Value) -> &str {
    seen["outcome"].as_str().expect("a word")
}

fn strength(seen: &Value) -> usize {
    let order = ["absent", "stat", "read", "failed"];
    order.iter().position(|word| seen["outcome"] == **word).unwrap_or(2)
}
