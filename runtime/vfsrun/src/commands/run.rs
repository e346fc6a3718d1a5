//! `vfsrun SPEC`: runs it.

use super::{Failure, Outcome};
use crate::cli::{Global, RunSpec};
use crate::error::chain;
use crate::log::Log;
use crate::run::{self, Request};
use crate::summary;

pub fn run(arguments: &RunSpec, global: &Global, log: &Log) -> Outcome {
    let request = Request {
        spec: arguments.spec.clone(),
        env: arguments.env.clone(),
        args: arguments.args.clone(),
        stdin: arguments.stdin,
        runtime: global.root.clone(),
        store: global.store.clone(),
    };
    let outcome = run::run(&request, |text| log.note(text));
    let text = match &outcome {
        Ok(outcome) => summary::json(outcome),
        Err(error) => summary::json_of_failure(&chain(error), error.exit_code()),
    };
    if let Some(path) = &arguments.result {
        let text = text.map_err(|error| Failure::own(&error))?;
        run::write_result(path, &text).map_err(|error| Failure {
            message: format!("--result: cannot write {}: {error}", path.display()),
            code: 125,
        })?;
    }
    let outcome = outcome.map_err(|error| Failure { message: chain(&error), code: error.exit_code() })?;
    // A plain bundle is run as other runtimes run it: silently.
    if !arguments.quiet && outcome.captured.is_some() || outcome.ended.timed_out {
        log.note(&summary::line(&outcome));
    }
    Ok(outcome.ended.code)
}
