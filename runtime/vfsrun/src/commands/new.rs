//! `vfsrun new`: a short spec to start from.

use serde_json::json;

use super::{Failure, Outcome};

pub fn new(args: &[String]) -> Outcome {
    let args = if args.is_empty() {
        vec!["sh".to_owned(), "-c".to_owned(), "echo hello > /out".to_owned()]
    } else {
        args.to_vec()
    };
    let spec = json!({
        "process": { "args": args },
        "vfs": { "branches": [{ "host": "tools" }] },
    });
    let text = serde_json::to_string_pretty(&spec).map_err(|error| Failure::own(&error))?;
    super::print(&text)
}
