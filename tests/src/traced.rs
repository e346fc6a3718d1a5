//! A traced run, and what `vfsrun trace show` says about it.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::command::Output;
use crate::sandbox::Sandbox;

/// `--trace` alone.
pub const ACTION: &str = "--trace";
pub const PROCESS: &str = "--trace=process";

pub struct Traced {
    pub output: Output,
    /// By their numbers.
    pub processes: BTreeMap<u64, Value>,
    pub seen: Vec<Value>,
}

impl Traced {
    /// Runs `spec` with `mode` and reads what it left in spec.trace.
    #[track_caller]
    pub fn run(sandbox: &Sandbox, spec: &Value, mode: &str) -> Traced {
        Traced::of(sandbox, sandbox.run_named("spec.json", spec, &[mode]).expect(0))
    }

    /// Reads what the run has left in spec.trace.
    #[track_caller]
    pub fn of(sandbox: &Sandbox, output: Output) -> Traced {
        let text = sandbox.call(&["trace", "show", "--json", "spec.trace"]).expect(0).stdout;
        // The first is about the trace itself.
        let objects = text.lines().skip(1).map(|line| serde_json::from_str(line).expect("each line is JSON"));
        let (seen, processes): (Vec<Value>, Vec<Value>) =
            objects.partition(|object: &Value| object.get("outcome").is_some());
        let number = |process: &Value| process["process"].as_u64().expect("a process has a number");
        let processes = processes.into_iter().map(|process| (number(&process), process)).collect();
        Traced { output, processes, seen }
    }

    /// What processes with these arguments saw of a path, in words: `read`, `stat file`, `absent ENOENT`, `link f`; `-` if
    /// nothing. The arguments joined by spaces.
    pub fn seen_by(&self, arguments: &str, path: &str) -> String {
        let seen = self.seen.iter().filter(|seen| seen["path"] == path);
        let mut seen = seen.filter(|seen| self.arguments(&seen["process"]) == arguments).map(words);
        seen.next().unwrap_or_else(|| "-".to_owned())
    }

    /// What all processes saw of a path, each outcome once.
    pub fn seen(&self, path: &str) -> Vec<String> {
        let mut seen: Vec<_> = self.seen.iter().filter(|seen| seen["path"] == path).map(words).collect();
        seen.sort();
        seen.dedup();
        seen
    }

    /// The programs with these arguments, in the order in which they were first seen.
    pub fn programs(&self, arguments: &str) -> Vec<&Value> {
        self.processes.values().filter(|process| joined(process) == arguments).collect()
    }

    fn arguments(&self, number: &Value) -> String {
        number.as_u64().and_then(|number| self.processes.get(&number)).map_or_else(String::new, joined)
    }
}

fn joined(process: &Value) -> String {
    let words = process["arguments"].as_array().into_iter().flatten().filter_map(Value::as_str);
    words.collect::<Vec<_>>().join(" ")
}

fn words(seen: &Value) -> String {
    let more = ["errno", "type", "target"].iter().find_map(|key| seen[*key].as_str());
    let outcome = seen["outcome"].as_str().expect("an outcome is a word");
    more.map_or_else(|| outcome.to_owned(), |more| format!("{outcome} {more}"))
}
