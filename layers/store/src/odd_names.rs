//! Odd names: those that other systems cannot keep apart, or cannot write.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::manifest::Manifest;

/// Names of a layer that a file system without case, or one that wants Unicode, would lose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OddNames {
    /// Each with the one before it in the same directory that differs from it in case alone.
    pub collisions: Vec<(PathBuf, PathBuf)>,
    /// No UTF-8.
    pub undecodable: Vec<PathBuf>,
}

impl OddNames {
    pub fn of(manifest: &Manifest) -> OddNames {
        let mut odd = OddNames::default();
        let mut folded: HashMap<(&Path, String), &Path> = HashMap::new();
        for entry in &manifest.entries {
            let (Some(parent), Some(name)) = (entry.path.parent(), entry.path.file_name()) else { continue };
            let Some(name) = without_case(name) else {
                odd.undecodable.push(entry.path.clone());
                continue;
            };
            if let Some(other) = folded.insert((parent, name), &entry.path) {
                odd.collisions.push((other.to_owned(), entry.path.clone()));
            }
        }
        odd
    }
}

/// What names of one directory have in common that differ in case alone; `None` for a name that is no UTF-8.
pub fn without_case(name: &OsStr) -> Option<String> {
    Some(name.to_str()?.to_lowercase())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;
    use crate::manifest::{Entry, Kind, Meta};

    #[test]
    fn names_that_differ_in_case_alone_and_names_that_are_no_text_are_found() {
        let dir = |path: &OsStr| Entry {
            path: path.into(),
            kind: Kind::Directory { opaque: false },
            meta: Meta { mode: 0o755, ..Meta::default() },
        };
        let names: [&[u8]; 9] =
            [b"", b"A", b"A/x", b"B", b"a", b"a/X", b"b\xff", "É".as_bytes(), "é".as_bytes()];
        let manifest =
            Manifest::from_entries(names.map(|name| dir(OsStr::from_bytes(name))).to_vec()).unwrap();
        let odd = OddNames::of(&manifest);
        assert_eq!(odd.collisions, [("A".into(), "a".into()), ("É".into(), "é".into())]);
        assert_eq!(odd.undecodable, [Path::new(OsStr::from_bytes(b"b\xff"))]);
    }
}
