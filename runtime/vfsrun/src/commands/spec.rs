//! `vfsrun spec`: a spec as it is understood, or complete.

use std::path::PathBuf;

use super::{Failure, Outcome, print};
use crate::cli::Global;
use crate::{decide, run};
use vfsrun_sys::chain;

pub fn spec(spec: Option<PathBuf>, resolve: bool, schema: bool, global: &Global) -> Outcome {
    let Some(file) = spec.filter(|_| !schema) else { return print(vfsrun_spec::SCHEMA) };
    let request = super::plan::request(file.clone(), global);
    let failed = |error: run::RunError| Failure { message: chain(&error), code: error.exit_code() };
    let config = if resolve {
        let (spec, facts, _) = decide::plan_only(&request).map_err(failed)?;
        vfsrun_plan::complete(&spec, &facts).map_err(|source| failed(run::RunError::Plan { file, source }))?
    } else {
        decide::load(&request).map_err(failed)?.0
    };
    let text = serde_json::to_string_pretty(&config).map_err(|error| Failure::own(&error))?;
    print(&text)
}
