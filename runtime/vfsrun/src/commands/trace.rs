//! `vfsrun trace`: what a traced action looked at.

use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde_json::json;
use vfsrun_trace::{Outcome as Told, Process, Seen};

use super::{Failure, Outcome, print, print_lines};
use crate::cli::Trace;
use crate::trace::{escaped, tell, told};

pub fn trace(command: &Trace) -> Outcome {
    let Trace::Show { json, paths, file } = command;
    let failed = |error: &dyn std::error::Error| Failure {
        message: format!("cannot show {}: {}", file.display(), vfsrun_sys::chain(error)),
        code: 125,
    };
    let log = File::open(file).map_err(|error| failed(&error))?;
    let trace = vfsrun_trace::Trace::read(log).map_err(|error| failed(&error))?;
    match (json, paths) {
        (true, _) => print(&objects(&trace)),
        (_, true) => print_lines(lines(&trace).lines()),
        _ => print_lines(tree(&trace).lines()),
    }?;
    if trace.is_cut_short {
        let message = format!("{} is cut short: the run was killed, or failed", file.display());
        return Err(Failure { message, code: 125 });
    }
    Ok(0)
}

/// Each path once.
fn lines(trace: &vfsrun_trace::Trace) -> String {
    trace.outcomes().into_iter().map(|(path, outcome)| line(&path, outcome)).collect()
}

/// `stat   directory /usr`
fn line(path: &Path, outcome: &Told) -> String {
    let path = escaped(path.as_os_str().as_bytes());
    match told(outcome) {
        (word, Some(("target", target))) => format!("{word:<6} {:<9} {path} -> {target}\n", ""),
        (word, more) => format!("{word:<6} {:<9} {path}\n", more.map(|(_, more)| more).unwrap_or_default()),
    }
}

fn objects(trace: &vfsrun_trace::Trace) -> String {
    let vfsrun_trace::Trace { mode, segments, is_cut_short, .. } = trace;
    let mut text = format!("{}\n", json!({ "mode": mode, "segments": segments, "cutShort": is_cut_short }));
    for (index, process) in trace.processes.iter().enumerate() {
        let Process { pid, pid_inside, start, parent, before, .. } = process;
        let object = json!({
            "process": index + 1,
            "pid": pid,
            "pidInside": pid_inside,
            "start": start,
            "parent": parent,
            "before": before,
            "arguments": process.arguments.as_ref().map(|all| arguments(all).map(escaped).collect::<Vec<_>>()),
            "cwd": process.cwd.as_deref().map(escaped),
            "environment": process.environment.map(digest),
        });
        let _ = writeln!(text, "{object}");
    }
    for Seen { process, path, outcome } in &trace.seen {
        let mut object = json!({
            "process": process.map_or(0, |index| index + 1),
            "path": escaped(trace.path(*path).as_os_str().as_bytes()),
        });
        tell(outcome, &mut object);
        let _ = writeln!(text, "{object}");
    }
    text
}

/// Processes below those that began them; in each the programs that it ran one after the other.
fn tree(trace: &vfsrun_trace::Trace) -> String {
    let count = trace.processes.len() + 1;
    // By number, what has none by 0.
    let (mut seen, mut children, mut next) =
        (vec![Vec::new(); count], vec![Vec::new(); count], vec![None; count]);
    for event in &trace.seen {
        seen[event.process.map_or(0, |index| index + 1)].push(event);
    }
    for (number, process) in (1..).zip(&trace.processes) {
        match process.before {
            0 => children[process.parent as usize].push(number),
            before => next[before as usize] = Some(number),
        }
    }
    let mut text = String::new();
    let print_seen = |text: &mut String, number: usize, indent: &str| {
        for event in &seen[number] {
            text.push_str(indent);
            text.push_str(&line(&trace.path(event.path), &event.outcome));
        }
    };
    if !seen[0].is_empty() {
        text.push_str("processes that were gone, or that nobody may look at\n");
        print_seen(&mut text, 0, "    ");
    }
    // Those to be printed and how deep they lie, the next one last.
    let below = |number: usize, depth: usize| children[number].iter().rev().map(move |child| (*child, depth));
    let mut left: Vec<(usize, usize)> = below(0, 0).collect();
    while let Some((first, depth)) = left.pop() {
        let indent = "  ".repeat(depth);
        let process = &trace.processes[first - 1];
        let _ = writeln!(text, "{indent}{} {}", process.pid_inside, command_line(process));
        let mut programs = vec![first];
        while let Some(number) = next[programs[programs.len() - 1]] {
            programs.push(number);
        }
        for number in &programs {
            if *number != first {
                let _ = writeln!(text, "{indent}  exec {}", command_line(&trace.processes[number - 1]));
            }
            print_seen(&mut text, *number, &format!("{indent}    "));
        }
        left.extend(programs.iter().rev().flat_map(|number| below(*number, depth + 1)));
    }
    text
}

/// `cc -c "a b.c"  (in /src, environment b3:12ab34cd…)`
fn command_line(process: &Process) -> String {
    let words = process.arguments.as_ref().map(|all| {
        let words = arguments(all).map(|word| {
            let plain = !word.is_empty() && !word.iter().any(u8::is_ascii_whitespace);
            if plain { escaped(word) } else { format!("\"{}\"", escaped(word)) }
        });
        words.collect::<Vec<_>>().join(" ")
    });
    let mut more = Vec::new();
    if let Some(cwd) = &process.cwd {
        more.push(format!("in {}", escaped(cwd)));
    }
    if let Some(environment) = process.environment {
        more.push(format!("environment {}…", &digest(environment)[..15]));
    }
    let more = if more.is_empty() { String::new() } else { format!("  ({})", more.join(", ")) };
    format!("{}{more}", words.unwrap_or_else(|| "(its arguments cannot be read)".to_owned()))
}

/// A NUL ends each.
fn arguments(all: &[u8]) -> impl Iterator<Item = &[u8]> {
    let all = all.strip_suffix(b"\0").unwrap_or(all);
    all.split(|byte| *byte == 0)
}

fn digest(digest: [u8; 32]) -> String {
    format!("b3:{}", blake3::Hash::from_bytes(digest).to_hex())
}
