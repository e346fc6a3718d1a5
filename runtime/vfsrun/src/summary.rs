//! The summary of a run: one line for people, one JSON file for programs.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Value, json};
use vfsrun_fuse::{AttachedSegment, TraceCounts, TraceMode};
use vfsrun_plan::plan;
use vfsrun_spec::vfs::{FsRight, NetRight, ScopeRight};
use vfsrun_sys::chain;

use crate::run::{Outcome, RunError, Times, first_of, some_of};
use crate::supervise::Ended;
use crate::trace::{Logged, Traced, escaped, tell, told};

/// Version of the `--result` file; it changes when a field's meaning does.
const VERSION: u32 = 1;

/// `layer hello b3:1a2b3c4d5e6f… +3 ~1 -0, 0.41 s`
pub fn line(outcome: &Outcome) -> String {
    let mut text = String::new();
    if let Some(captured) = &outcome.captured {
        let digest = captured.digest.to_string();
        let name = outcome.named.as_ref().map(|name| format!("{name} ")).unwrap_or_default();
        let (added, changed, removed) = (captured.added, captured.changed, captured.removed);
        let _ = write!(text, "layer {name}{}… +{added} ~{changed} -{removed}, ", &digest[..15]);
    }
    if outcome.ended.timed_out {
        text.push_str("time limit reached, ");
    }
    if let Some(trace @ Traced { counts, log: Some(log), .. }) = &outcome.trace {
        let _ =
            write!(text, "{} paths of {} processes in {}, ", counts.paths, counts.processes, log.display());
        if trace.mode == TraceMode::Process {
            let cpu = trace.cpu.as_secs_f64();
            let _ = write!(text, "which cost {cpu:.2} s of CPU for {} requests, ", trace.requests);
        }
    }
    let _ = write!(text, "{:.2} s", outcome.times.total.as_secs_f64());
    text
}

/// `inputs changed during the run: /src/a, /src/b`
pub fn changed_line(outcome: &Outcome) -> String {
    let name = outcome.plan.capture.as_ref().and_then(|capture| capture.name.as_ref());
    let unnamed = name.filter(|_| outcome.named.is_none() && outcome.ended.code == 0);
    let consequence = unnamed.map(|name| format!("; reading them failed, so {name} stays what it was"));
    let changed = some_of(&outcome.inputs_changed);
    format!("inputs changed during the run: {changed}{}", consequence.unwrap_or_default())
}

/// `log rules fit what was used: /etc/passwd (read), /src/.envrc (absent)`
pub fn logged_line(outcome: &Outcome) -> Option<String> {
    let logged = outcome.trace.as_ref()?.logged.as_deref()?;
    let names =
        logged.iter().map(|Logged { path, outcome, .. }| format!("{} ({})", path.display(), told(outcome).0));
    (!logged.is_empty()).then(|| format!("log rules fit what was used: {}", first_of(names)))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResultFile<'a> {
    vfsrun_result: u32,
    /// The exit code of the program itself: the command's, or 128 and the signal.
    status: u8,
    signal: Option<i32>,
    timed_out: bool,
    layer: Option<Layer<'a>>,
    enforced: Enforced<'a>,
    segments: Vec<Segment>,
    inputs_changed_during_run: Vec<String>,
    root_was_kept: bool,
    trace: Option<Trace<'a>>,
    logged: Option<Vec<Value>>,
    notes: &'a [String],
    seconds: Seconds,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Layer<'a> {
    digest: String,
    name: Option<&'a str>,
    added: u64,
    changed: u64,
    removed: u64,
    files: u64,
    bytes: u64,
    copied_up_bytes: u64,
    sockets_skipped: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Enforced<'a> {
    landlock: Option<Landlock<'a>>,
    seccomp: bool,
    no_new_privileges: bool,
}

#[derive(Serialize)]
struct Landlock<'a> {
    abi: u32,
    fs: &'a BTreeSet<FsRight>,
    net: &'a BTreeSet<NetRight>,
    scoped: &'a BTreeSet<ScopeRight>,
    dropped: &'a [&'static str],
    skipped: Vec<Cow<'a, str>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Segment {
    warm: bool,
    looked_at: u64,
    check_seconds: f64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Trace<'a> {
    file: Cow<'a, str>,
    mode: TraceMode,
    processes: u64,
    paths: u64,
    bytes: u64,
    server_cpu_seconds: f64,
    server_requests: u64,
}

#[derive(Serialize)]
struct Seconds {
    plan: f64,
    attach: f64,
    start: f64,
    command: f64,
    capture: f64,
    total: f64,
}

/// The `--result` file of a run that did not come to an end of its own.
pub fn json_of_failure(error: &RunError) -> serde_json::Result<String> {
    let mut file = json!({ "vfsrunResult": VERSION, "status": error.exit_code(), "error": chain(error) });
    if !error.inputs_changed().is_empty() {
        file["inputsChangedDuringRun"] = readable(error.inputs_changed()).into();
    }
    serde_json::to_string_pretty(&file)
}

/// The `--result` file; docs/spec.md has its fields.
pub fn json(outcome: &Outcome) -> serde_json::Result<String> {
    let layer = outcome.captured.as_ref().map(|captured| Layer {
        digest: captured.digest.to_string(),
        name: outcome.named.as_deref(),
        added: captured.added,
        changed: captured.changed,
        removed: captured.removed,
        files: captured.files,
        bytes: captured.bytes,
        copied_up_bytes: captured.copied_up_bytes,
        sockets_skipped: captured.sockets_skipped,
    });
    let file = ResultFile {
        vfsrun_result: VERSION,
        status: outcome.ended.code,
        signal: outcome.ended.signal,
        timed_out: outcome.ended.timed_out,
        layer,
        enforced: Enforced {
            landlock: outcome.plan.sandbox.landlock.as_ref().and_then(|plan| landlock(plan, &outcome.ended)),
            seccomp: outcome.ended.seccomp,
            no_new_privileges: outcome.plan.sandbox.no_new_privileges,
        },
        segments: outcome.segments.iter().map(segment).collect(),
        inputs_changed_during_run: readable(&outcome.inputs_changed),
        root_was_kept: outcome.root_was_kept,
        trace: outcome.trace.as_ref().and_then(trace),
        logged: outcome.trace.as_ref().and_then(logged),
        notes: &outcome.plan.notes,
        seconds: seconds(&outcome.times),
    };
    serde_json::to_string_pretty(&file)
}

/// JSON has no bytes that are no UTF-8.
fn readable(paths: &[PathBuf]) -> Vec<String> {
    paths.iter().map(|path| path.to_string_lossy().into_owned()).collect()
}

/// `None`: the kernel was not asked for it, or has not said that it is so.
fn landlock<'a>(plan: &'a plan::Landlock, ended: &Ended) -> Option<Landlock<'a>> {
    let plan::Landlock { abi, fs, net, scoped, paths, dropped, .. } = plan;
    // Rules of our own are about what may be missing.
    let skipped = ended.skipped_rules.iter().filter_map(|rule| paths.get(*rule));
    let said = skipped.filter(|rule| rule.at.is_some()).map(|rule| rule.path.to_string_lossy());
    ended.landlock.then(|| Landlock { abi: *abi, fs, net, scoped, dropped, skipped: said.collect() })
}

fn segment(segment: &AttachedSegment) -> Segment {
    let AttachedSegment { warm, looked_at, check, .. } = segment;
    Segment { warm: *warm, looked_at: *looked_at, check_seconds: check.as_secs_f64() }
}

/// `None`: nobody asked for it.
fn trace(traced: &Traced) -> Option<Trace<'_>> {
    let TraceCounts { processes, paths, bytes } = traced.counts;
    Some(Trace {
        file: traced.log.as_ref()?.to_string_lossy(),
        mode: traced.mode,
        processes,
        paths,
        bytes,
        server_cpu_seconds: traced.cpu.as_secs_f64(),
        server_requests: traced.requests,
    })
}

fn logged(traced: &Traced) -> Option<Vec<Value>> {
    let object = |Logged { path, outcome, rule }: &Logged| {
        let mut object = json!({ "path": escaped(path.as_os_str().as_bytes()), "rule": rule });
        tell(outcome, &mut object);
        object
    };
    Some(traced.logged.as_ref()?.iter().map(object).collect())
}

fn seconds(times: &Times) -> Seconds {
    Seconds {
        plan: times.plan.as_secs_f64(),
        attach: times.attach.as_secs_f64(),
        start: times.start.as_secs_f64(),
        command: times.command.as_secs_f64(),
        capture: times.capture.as_secs_f64(),
        total: times.total.as_secs_f64(),
    }
}
