//! A spec error: why a spec cannot be used, in one line with its place.

use std::path::{Path, PathBuf};

use crate::validate::Problem;
use crate::wording;

/// Prints as `FILE: JSON.PATH: CAUSE`; the path is missing where the whole document is meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    #[error("{}: not JSON: {cause}", file.display())]
    NotJson { file: PathBuf, cause: String },
    /// A value of the wrong type, an unknown word or an unknown field.
    #[error("{}: {}{cause}", file.display(), prefix(path))]
    Mistyped { file: PathBuf, path: String, cause: String },
    /// Each value is of its type, but it or the whole is not allowed.
    #[error("{}: {}{cause}", file.display(), prefix(path))]
    Invalid { file: PathBuf, path: String, cause: String },
}

fn prefix(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("{path}: ") }
}

impl SpecError {
    pub(crate) fn not_json(file: &Path, text: &str, error: &serde_json::Error) -> Self {
        Self::NotJson { file: file.into(), cause: wording::of_syntax_error(text, error) }
    }

    /// The same of a text that a string of the document holds, at `path`.
    pub(crate) fn not_json_within(file: &Path, path: &str, text: &str, error: &serde_json::Error) -> Self {
        let cause = format!("not JSON: {}", wording::of_syntax_error(text, error));
        Self::Invalid { file: file.into(), path: path.into(), cause }
    }

    /// `within`: where in the document the text is that was read, empty for the document itself.
    pub(crate) fn mistyped(
        file: &Path,
        within: &str,
        error: &serde_path_to_error::Error<serde_json::Error>,
    ) -> Self {
        let cause = wording::of_type_error(error.inner());
        let path = match (within, place(error)) {
            ("", path) => path,
            (within, path) if path.is_empty() => within.into(),
            (within, path) => format!("{within}.{path}"),
        };
        Self::Mistyped { file: file.into(), path: wording::one_line(&path), cause }
    }

    pub(crate) fn invalid(file: &Path, problem: Problem) -> Self {
        Self::Invalid {
            file: file.into(),
            path: wording::one_line(&problem.path),
            cause: wording::one_line(&problem.cause),
        }
    }

    /// The place in the document, such as `vfs.branches[2].at`; empty for the document itself.
    pub fn json_path(&self) -> &str {
        match self {
            Self::NotJson { .. } => "",
            Self::Mistyped { path, .. } | Self::Invalid { path, .. } => path,
        }
    }
}

/// The place of the object for an unknown field, which the message itself names; else the place of the value.
fn place(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    let is_unknown_field = wording::is_unknown_field(error.inner());
    let path = error.path().to_string();
    let last = match error.path().iter().next_back() {
        Some(serde_path_to_error::Segment::Map { key }) if is_unknown_field => key.as_str(),
        _ => "",
    };
    let path = path.strip_suffix(last).unwrap_or(&path);
    path.strip_suffix('.').unwrap_or(path).into()
}
