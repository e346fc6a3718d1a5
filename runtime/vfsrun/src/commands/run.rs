//! `vfsrun SPEC`: runs it.

use std::path::Path;

use super::{Failure, Outcome};
use crate::cli::{Global, RunSpec, Whose};
use crate::decide::Request;
use crate::log::note;
use crate::run;
use crate::trace::TraceRequest;
use crate::{result_file, summary};
use vfsrun_fuse::TraceMode;
use vfsrun_sys::chain;

pub fn run(arguments: &RunSpec, global: &Global) -> Outcome {
    let request = Request {
        spec: arguments.spec.clone(),
        text: None,
        env: arguments.env.clone(),
        args: arguments.args.clone(),
        stdin: arguments.stdin,
        strict: arguments.strict,
        trace: trace(arguments),
        runtime: global.root.clone(),
        store: global.store.clone(),
        cgroup_manager: global.cgroup_manager(),
        container: None,
        bundle: None,
    };
    let outcome = run::run(&request, note);
    let failure = |error: &run::RunError| Failure { message: chain(error), code: error.exit_code() };
    if let Some(path) = &arguments.result {
        let text = match &outcome {
            Ok(outcome) => summary::json(outcome),
            Err(error) => summary::json_of_failure(error),
        };
        if let Err(unwritten) = write_result(path, text) {
            match &outcome {
                // The run's own failure is the more important one.
                Err(failed) => note(&format!("{}; {}", unwritten.message, chain(failed))),
                Ok(_) => return Err(unwritten),
            }
        }
    }
    let outcome = outcome.map_err(|error| failure(&error))?;
    if !arguments.quiet && !outcome.inputs_changed.is_empty() {
        note(&summary::changed_line(&outcome));
    }
    if let Some(line) = summary::logged_line(&outcome).filter(|_| !arguments.quiet) {
        note(&line);
    }
    // A plain bundle is run as other runtimes run it: silently.
    let is_traced = outcome.trace.as_ref().is_some_and(|trace| trace.log.is_some());
    let has_news = outcome.captured.is_some() || outcome.ended.timed_out || is_traced;
    if !arguments.quiet && has_news {
        note(&summary::line(&outcome));
    }
    Ok(outcome.ended.code)
}

/// What happened, as the file of `--result`.
pub fn write_result(path: &Path, text: serde_json::Result<String>) -> Result<(), Failure> {
    let written = text.map_err(std::io::Error::from).and_then(|text| result_file::write(path, &text));
    written.map_err(|error| Failure {
        message: format!("--result: cannot write {}: {error}", path.display()),
        code: 125,
    })
}

pub fn trace_mode(whose: Whose) -> TraceMode {
    match whose {
        Whose::Action => TraceMode::Action,
        Whose::Process => TraceMode::Process,
    }
}

fn trace(arguments: &RunSpec) -> Option<TraceRequest> {
    let mode = trace_mode(arguments.trace?);
    let log = arguments.trace_log.clone().unwrap_or_else(|| TraceRequest::usual_log(&arguments.spec));
    Some(TraceRequest { mode, log })
}
