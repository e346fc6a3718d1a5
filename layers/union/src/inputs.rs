//! An input manifest: paths in the root and where their contents come from, any number of them at no set-up cost.
//!
//! ```json
//! {
//!   "version": 1,
//!   "files": {
//!     "usr/include/a.h": "relative/or/absolute/host/file",
//!     "b": { "digest": "b3:…", "executable": true }
//!   }
//! }
//! ```
//!
//! A key is relative to the branch's place, without `.`, `..` or empty components. A string names a host file:
//! relative to the manifest's directory or absolute; symlinks are followed, so that an input is always a real file
//! and has the host file's mode and owner. An object names a blob of the layer store, shown as 0644 (0755 with
//! `executable`), owned by root, mtime 1. Directories are implied: 0755, root, mtime 1.

use std::collections::BTreeSet;

use thiserror::Error;
use vfsrun_layers::Digest;

use crate::input_text::{Span, Target, read};

#[derive(Debug, Error)]
pub enum InputsError {
    #[error("it is not UTF-8")]
    Encoding(#[source] std::str::Utf8Error),
    #[error("it is larger than 4 GiB")]
    TooLarge,
    #[error("it is not an input manifest")]
    Json(#[source] serde_json::Error),
    #[error("files[{key:?}] is neither a host path nor a digest")]
    Entry { key: String, source: serde_json::Error },
    #[error("its version is {0}, this program reads version 1")]
    Version(u64),
    #[error(
        "files[{key:?}]: a path without `.`, `..` or empty components, relative to the branch's place, is wanted"
    )]
    Path { key: String },
    #[error("files[{key:?}] appears twice")]
    Twice { key: String },
    #[error("files[{key:?}] is a file and, because of {below:?}, a directory")]
    FileAndDirectory { key: String, below: String },
    #[error("files[{key:?}] is a blob, but the branch has no layer store")]
    NoStore { key: String },
    #[error("files[{key:?}] is a relative host path, and a manifest in the store lies in no directory")]
    Relative { key: String },
}

/// What a manifest may name beside absolute host paths.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach {
    pub(crate) blobs: bool,
    pub(crate) relative: bool,
}

/// The blobs that a manifest names, each once, sorted. Errors: it is none that may lie in a store.
pub fn blobs_of_stored(manifest: Vec<u8>) -> Result<Vec<Digest>, InputsError> {
    let index = InputIndex::parse(manifest, Reach { blobs: true, relative: false })?;
    let blob = |(_, target): &(Span, Target)| match target {
        Target::Blob { digest, .. } => Some(*digest),
        Target::Host(_) => None,
    };
    Ok(index.files.iter().filter_map(blob).collect::<BTreeSet<_>>().into_iter().collect())
}

/// What an input is made from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Input<'a> {
    Host(&'a str),
    Blob { digest: Digest, executable: bool },
}

/// The files sorted bytewise; names stay where they are in the manifest's text, and directories are ranges.
#[derive(Debug)]
pub(crate) struct InputIndex {
    text: String,
    files: Vec<(Span, Target)>,
}

/// A directory: the files below it and how many bytes of their paths lead there, slash included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InputDir {
    start: u32,
    end: u32,
    prefix: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InputChild {
    Dir(InputDir),
    File(u32),
}

impl InputIndex {
    /// Errors: the key and what is wrong with it.
    pub(crate) fn parse(bytes: Vec<u8>, reach: Reach) -> Result<InputIndex, InputsError> {
        let text = String::from_utf8(bytes).map_err(|error| InputsError::Encoding(error.utf8_error()))?;
        u32::try_from(text.len()).map_err(|_| InputsError::TooLarge)?;
        let (mut files, escaped) = read(&text)?;
        let mut text = text;
        text.push_str(&escaped);
        u32::try_from(text.len()).map_err(|_| InputsError::TooLarge)?;
        let key = |span: Span| &text[span.start as usize..(span.start + span.len) as usize];
        // The stable sort, because manifests are written in runs that are in order, which it finds.
        files.sort_by(|a, b| key(a.0).cmp(key(b.0)));
        check(&files, reach, key)?;
        Ok(InputIndex { text, files })
    }

    pub(crate) fn root(&self) -> InputDir {
        InputDir { start: 0, end: self.files.len() as u32, prefix: 0 }
    }

    pub(crate) fn child(&self, dir: InputDir, name: &[u8]) -> Option<InputChild> {
        let files = &self.files[dir.start as usize..dir.end as usize];
        let rest = |file: &(Span, Target)| &self.path_of(file.0).as_bytes()[dir.prefix as usize..];
        let first = files.partition_point(|file| rest(file) < name);
        if files.get(first).is_some_and(|file| rest(file) == name) {
            return Some(InputChild::File(dir.start + first as u32));
        }
        // `name/` sorts after `name-x`, so the directory need not start right there.
        let below = |file: &(Span, Target)| compare_to_dir(rest(file), name);
        let start = first + files[first..].partition_point(|file| below(file).is_lt());
        let end = start + files[start..].partition_point(|file| below(file).is_eq());
        (start < end).then(|| {
            InputChild::Dir(InputDir {
                start: dir.start + start as u32,
                end: dir.start + end as u32,
                prefix: dir.prefix + name.len() as u32 + 1,
            })
        })
    }

    /// The names in `dir`, each once, and whether it is a directory.
    pub(crate) fn children(&self, dir: InputDir) -> impl Iterator<Item = (&str, bool)> {
        let mut next = dir.start as usize;
        std::iter::from_fn(move || {
            let files = &self.files[next..dir.end as usize];
            let rest = |file: &(Span, Target)| &self.path_of(file.0)[dir.prefix as usize..];
            let path = rest(files.first()?);
            match path.find('/') {
                None => {
                    next += 1;
                    Some((path, false))
                }
                Some(slash) => {
                    let below = &path[..=slash];
                    next += files.partition_point(|file| rest(file).starts_with(below));
                    Some((&path[..slash], true))
                }
            }
        })
    }

    pub(crate) fn input(&self, file: u32) -> Input<'_> {
        match self.files[file as usize].1 {
            Target::Host(span) => Input::Host(self.path_of(span)),
            Target::Blob { digest, executable } => Input::Blob { digest, executable },
        }
    }

    fn path_of(&self, span: Span) -> &str {
        &self.text[span.start as usize..(span.start + span.len) as usize]
    }
}

/// Where `path` lies with respect to everything below `name`.
fn compare_to_dir(path: &[u8], name: &[u8]) -> std::cmp::Ordering {
    let head = &path[..path.len().min(name.len() + 1)];
    match head.strip_prefix(name) {
        Some(rest) => rest.cmp(b"/"),
        None => head.cmp(name),
    }
}

/// One pass over the sorted files: a file that is also a directory is a string prefix of everything between the two.
fn check<'a>(
    files: &[(Span, Target)],
    reach: Reach,
    key: impl Fn(Span) -> &'a str,
) -> Result<(), InputsError> {
    let mut prefixes: Vec<&str> = Vec::new();
    for (span, target) in files {
        let path = key(*span);
        if !is_plain(path) {
            return Err(InputsError::Path { key: path.to_owned() });
        }
        match target {
            Target::Blob { .. } if !reach.blobs => return Err(InputsError::NoStore { key: path.to_owned() }),
            Target::Host(host) if !reach.relative && !key(*host).starts_with('/') => {
                return Err(InputsError::Relative { key: path.to_owned() });
            }
            _ => {}
        }
        while prefixes.pop_if(|prefix| !path.starts_with(*prefix)).is_some() {}
        if let Some(file) = prefixes.last() {
            match path.as_bytes().get(file.len()) {
                None => return Err(InputsError::Twice { key: path.to_owned() }),
                Some(b'/') => {
                    let (key, below) = ((*file).to_owned(), path.to_owned());
                    return Err(InputsError::FileAndDirectory { key, below });
                }
                Some(_) => {}
            }
        }
        prefixes.push(path);
    }
    Ok(())
}

fn is_plain(path: &str) -> bool {
    let bytes = path.as_bytes();
    // Few paths have a part that is empty or begins with a dot; only those are taken apart.
    let in_doubt = matches!(bytes, [] | [b'/' | b'.', ..] | [.., b'/'])
        || bytes.windows(2).any(|pair| pair[0] == b'/' && matches!(pair[1], b'/' | b'.'));
    let has_bad_part = || path.split('/').any(|part| matches!(part, "" | "." | ".."));
    !(path.contains('\0') || in_doubt && has_bad_part())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Reach = Reach { blobs: true, relative: true };

    fn index(files: &str) -> Result<InputIndex, InputsError> {
        InputIndex::parse(format!(r#"{{"version":1,"files":{files}}}"#).into_bytes(), ALL)
    }

    #[test]
    fn a_directory_that_does_not_follow_its_sibling_file_is_found() {
        let index = index(r#"{"a-b":"1","a/x":"2","a/y/z":"3","a.c":"4"}"#).unwrap();
        let names: Vec<_> = index.children(index.root()).collect();
        assert_eq!(names, [("a-b", false), ("a.c", false), ("a", true)]);
        let Some(InputChild::Dir(dir)) = index.child(index.root(), b"a") else { panic!("a is a directory") };
        assert_eq!(index.children(dir).collect::<Vec<_>>(), [("x", false), ("y", true)]);
        let Some(InputChild::File(file)) = index.child(dir, b"x") else { panic!("x is a file") };
        assert_eq!(index.input(file), Input::Host("2"));
        assert_eq!(index.child(index.root(), b"a-"), None);
        assert_eq!(index.child(dir, b""), None);
    }

    #[test]
    fn escaped_names_and_digests_are_read() {
        let digest = Digest::of(b"x");
        let index =
            index(&format!(r#"{{"a\u00e4":"h\"ost","d/e":{{"digest":"{digest}","executable":true}}}}"#))
                .unwrap();
        let Some(InputChild::File(file)) = index.child(index.root(), "aä".as_bytes()) else {
            panic!("aä is a file")
        };
        assert_eq!(index.input(file), Input::Host("h\"ost"));
        let Some(InputChild::Dir(dir)) = index.child(index.root(), b"d") else { panic!("d is a directory") };
        let Some(InputChild::File(file)) = index.child(dir, b"e") else { panic!("e is a file") };
        assert_eq!(index.input(file), Input::Blob { digest, executable: true });
    }

    #[test]
    fn bad_manifests_name_the_key() {
        let said = |files: &str| index(files).unwrap_err().to_string();
        assert!(
            said(r#"{"a":"x","a-b":"x","a/b":"y"}"#)
                .contains(r#"files["a"] is a file and, because of "a/b""#)
        );
        assert!(said(r#"{"a":"x","a":"y"}"#).contains(r#"files["a"] appears twice"#));
        assert!(said(r#"{"a":7}"#).contains(r#"files["a"] is neither"#));
        assert!(said(r#"{"a":{"digest":"sha256:00"}}"#).contains(r#"files["a"] is neither"#));
        for key in ["/a", "a//b", "a/../b", "./a", "", "a/"] {
            assert!(said(&format!(r#"{{"{key}":"x"}}"#)).contains("without `.`"), "{key}");
        }
    }

    #[test]
    fn other_versions_unknown_fields_and_trailing_text_are_refused() {
        let parse = |text: &str| InputIndex::parse(text.as_bytes().to_vec(), ALL).unwrap_err();
        assert!(matches!(parse(r#"{"version":2,"files":{}}"#), InputsError::Version(2)));
        assert!(matches!(parse(r#"{"version":1,"files":{},"x":1}"#), InputsError::Json(_)));
        assert!(matches!(parse(r#"{"version":1,"files":{}} x"#), InputsError::Json(_)));
        assert!(matches!(parse(r#"{"version":1}"#), InputsError::Json(_)));
    }

    #[test]
    fn a_blob_without_a_store_is_refused() {
        let text = format!(r#"{{"version":1,"files":{{"a":{{"digest":"{}"}}}}}}"#, Digest::of(b""));
        let error = InputIndex::parse(text.into_bytes(), Reach { blobs: false, ..ALL }).unwrap_err();
        assert!(matches!(error, InputsError::NoStore { .. }));
    }

    #[test]
    fn a_stored_manifest_names_blobs_and_absolute_paths_alone() {
        let [one, two] = [b"1", b"2"].map(|content| Digest::of(content));
        let text = |more: &str| {
            let files = format!(
                r#""a":{{"digest":"{one}"}},"b":{{"digest":"{two}"}},"c":{{"digest":"{one}"}}{more}"#
            );
            format!(r#"{{"version":1,"files":{{{files}}}}}"#).into_bytes()
        };
        let mut sorted = vec![one, two];
        sorted.sort();
        assert_eq!(blobs_of_stored(text(r#","d":"/etc/hosts""#)).unwrap(), sorted);
        let error = blobs_of_stored(text(r#","d":"hosts""#)).unwrap_err();
        assert!(error.to_string().starts_with(r#"files["d"] is a relative host path"#), "{error}");
    }
}
