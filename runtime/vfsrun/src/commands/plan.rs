//! `vfsrun plan SPEC`: every decision, and nothing done.

use std::path::PathBuf;

use super::{Failure, Outcome};
use crate::cli::Global;
use crate::decide::{self, Request};
use vfsrun_sys::chain;

pub fn plan(spec: PathBuf, global: &Global) -> Outcome {
    let request = request(spec, global);
    let (_, _, plan) = decide::plan_only(&request)
        .map_err(|error| Failure { message: chain(&error), code: error.exit_code() })?;
    let text = serde_json::to_string_pretty(&plan).map_err(|error| Failure::own(&error))?;
    super::print(&text)
}

pub(super) fn request(spec: PathBuf, global: &Global) -> Request {
    Request {
        spec,
        runtime: global.root.clone(),
        store: global.store.clone(),
        cgroup_manager: global.cgroup_manager(),
        ..Request::default()
    }
}
