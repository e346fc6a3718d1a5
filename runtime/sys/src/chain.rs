//! A chain: an error and its causes in one line, as users read it.

use std::error::Error;

/// `cannot run spec.json: cannot mount proc at /proc: EPERM`. A wrapper that shows its cause already does not make it
/// appear twice.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}
