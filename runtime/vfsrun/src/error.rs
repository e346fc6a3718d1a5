//! Errors, as users read them.

use std::error::Error;

/// An error and its causes in one line: `cannot run spec.json: cannot mount proc at /proc: EPERM`.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // A wrapper that shows its cause already must not make it appear twice.
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
