//! A base: what an action saw at the paths that it changed, before it changed them. Whoever brings its changes back to where they
//! came from goes by it: what is not any more as it was seen is somebody else's change.
//!
//! Its text is a header line and one JSON object per path, with strings escaped as in a manifest (see [`crate::escape`]):
//!
//! ```text
//! {"vfsrun-base":1,"layer":"b3:…","raw":true,"over":["b3:…"],"contents":"b3:…","lines":"b3:…"}
//! {"p":"src/main.rs","t":"f","m":"644","u":0,"g":0,"host":{"at":"/home/me/src/main.rs","dev":2049,"ino":17,"m":"644","s":120,"mt":[1700000000,5],"ct":[1700000000,5]}}
//! {"p":"usr/bin/tool","t":"f","m":"755","u":0,"g":0,"branch":{"name":"layer debian-12","c":"b3:…"}}
//! ```

use std::fmt::Write as _;
use std::path::PathBuf;

use rustix::fs::{FileType, Stat};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::digest::Digest;

/// The newest version this program reads, and the one it writes.
const VERSION: u64 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// Which changes it is the base of.
    pub layer: Digest,
    /// The layer has times as they were written, which are comparable with those of the host.
    pub raw: bool,
    /// The layers of which the root was made that they were made in, first on top.
    pub over: Vec<Digest>,
    /// A layer that has, at their paths, what files of the host held; see [`crate::LayerStore::seen_contents`].
    pub contents: Option<Digest>,
    /// Parents first. What the layer has and this has not was absent.
    pub seen: Vec<Seen>,
}

/// What the view showed at one path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Relative to the root of the action.
    #[serde(rename = "p", with = "escaped")]
    pub path: PathBuf,
    #[serde(rename = "t")]
    pub kind: SeenKind,
    /// As the action saw it, ids as inside.
    #[serde(flatten)]
    pub access: Access,
    #[serde(flatten)]
    pub place: Place,
}

/// Who may do what with a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Permission bits.
    #[serde(rename = "m", with = "octal")]
    pub mode: u32,
    #[serde(rename = "u")]
    pub uid: u32,
    #[serde(rename = "g")]
    pub gid: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeenKind {
    #[serde(rename = "d")]
    Directory,
    #[serde(rename = "f")]
    File,
    #[serde(rename = "l")]
    Symlink,
    /// A fifo, socket or device, or what is not known.
    #[serde(rename = "o")]
    Other,
}

/// Where it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// A file of the host, as it was.
    #[serde(rename = "host")]
    Host {
        #[serde(rename = "at", with = "escaped")]
        path: PathBuf,
        #[serde(flatten)]
        was: Identity,
        /// It is not known to be what the action saw.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        changed: bool,
    },
    /// What cannot be changed: a layer, an input, what the program itself provides.
    #[serde(rename = "branch")]
    Fixed {
        /// The label of the branch.
        name: String,
        /// Of a file, or a symlink's target, where it is known.
        #[serde(rename = "c", default, skip_serializing_if = "Option::is_none", with = "digest")]
        content: Option<Digest>,
    },
    /// It is gone, or cannot be looked at any more. What it was is not known.
    #[serde(rename = "lost")]
    Lost {},
}

/// By what a file is known to be the one that was seen, with nothing written to it since: any change to it changes its ctime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub dev: u64,
    pub ino: u64,
    /// The file's own permission bits. Of owners it says nothing: whoever looks may be in another user namespace.
    #[serde(rename = "m", with = "octal")]
    pub mode: u32,
    /// In bytes; 0 of a directory.
    #[serde(rename = "s")]
    pub size: u64,
    /// Seconds since the epoch, nanoseconds. Not of a directory, whose names say what changed.
    #[serde(rename = "mt")]
    pub mtime: (i64, u32),
    #[serde(rename = "ct")]
    pub ctime: (i64, u32),
}

impl Identity {
    /// A directory is the same when names in it are others: those are looked at one by one.
    pub fn of(stat: &Stat) -> Identity {
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let unless_dir = |time: (i64, u32)| if is_dir { (0, 0) } else { time };
        Identity {
            dev: stat.st_dev,
            ino: stat.st_ino,
            mode: stat.st_mode & 0o7777,
            size: if is_dir { 0 } else { stat.st_size as u64 },
            mtime: unless_dir((stat.st_mtime, stat.st_mtime_nsec as u32)),
            ctime: unless_dir((stat.st_ctime, stat.st_ctime_nsec as u32)),
        }
    }
}

impl SeenKind {
    pub fn of(kind: FileType) -> SeenKind {
        match kind {
            FileType::Directory => SeenKind::Directory,
            FileType::RegularFile => SeenKind::File,
            FileType::Symlink => SeenKind::Symlink,
            _ => SeenKind::Other,
        }
    }
}

#[derive(Debug, Error)]
pub enum BaseError {
    #[error("it has version {found}; this program reads up to {VERSION}: use a newer vfsrun")]
    Newer { found: u64 },
    #[error("line {line} is wrong")]
    Line { line: usize, source: Option<serde_json::Error> },
    #[error("it is damaged: its lines have another digest than its first one says")]
    Damaged,
    #[error("it is not UTF-8")]
    NotText,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    #[serde(rename = "vfsrun-base")]
    version: u64,
    layer: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    raw: bool,
    over: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "digest")]
    contents: Option<Digest>,
    /// See [`Header::seal`].
    lines: String,
}

#[derive(Deserialize)]
struct Version {
    #[serde(rename = "vfsrun-base")]
    version: u64,
}

impl Base {
    /// Of a layer with canonical times, at whose paths nothing was.
    pub fn new(layer: Digest) -> Base {
        Base { layer, raw: false, over: Vec::new(), contents: None, seen: Vec::new() }
    }

    pub fn to_text(&self) -> String {
        let mut lines = String::new();
        for seen in &self.seen {
            let line = serde_json::to_string(seen).expect("a line has strings and numbers alone");
            writeln!(lines, "{line}").expect("a string takes what is written");
        }
        let over: Vec<_> = self.over.iter().map(Digest::to_string).collect();
        let (layer, raw, contents) = (self.layer.to_string(), self.raw, self.contents);
        let mut header = Header { version: VERSION, layer, raw, over, contents, lines: String::new() };
        header.lines = header.seal(&lines);
        let header = serde_json::to_string(&header).expect("a header has strings and numbers alone");
        format!("{header}\n{lines}")
    }

    /// The same without what was seen, which takes a fraction of the time. Errors: the same, but for lines that are wrong in a
    /// text that is whole.
    pub fn parse_header(bytes: &[u8]) -> Result<Base, BaseError> {
        Base::open(bytes).map(|(base, _)| base)
    }

    /// Errors: a newer version, another text than [`Base::to_text`] writes.
    pub fn parse(bytes: &[u8]) -> Result<Base, BaseError> {
        let (base, lines) = Base::open(bytes)?;
        let seen = lines.lines().enumerate().map(|(index, line)| {
            let wrong = |source| BaseError::Line { line: index + 2, source: Some(source) };
            serde_json::from_str(line).map_err(wrong)
        });
        Ok(Base { seen: seen.collect::<Result<_, _>>()?, ..base })
    }

    /// What the header says, and the lines.
    fn open(bytes: &[u8]) -> Result<(Base, &str), BaseError> {
        let text = str::from_utf8(bytes).map_err(|_| BaseError::NotText)?;
        let wrong = |line| BaseError::Line { line, source: None };
        let (header, lines) = text.split_once('\n').ok_or_else(|| wrong(1))?;
        // Before all else, as one that is newer may have other keys.
        let Version { version } = serde_json::from_str(header)
            .map_err(|source| BaseError::Line { line: 1, source: Some(source) })?;
        if version > VERSION {
            return Err(BaseError::Newer { found: version });
        }
        let header: Header = serde_json::from_str(header)
            .map_err(|source| BaseError::Line { line: 1, source: Some(source) })?;
        let digest = |text: &String| text.parse().map_err(|_| wrong(1));
        let (layer, over) =
            (digest(&header.layer)?, header.over.iter().map(digest).collect::<Result<_, _>>()?);
        if version < VERSION {
            return Err(wrong(1));
        }
        if header.lines != header.seal(lines) {
            return Err(BaseError::Damaged);
        }
        Ok((Base { layer, raw: header.raw, over, contents: header.contents, seen: Vec::new() }, lines))
    }
}

impl Header {
    /// The digest of what the header says besides version and layer, a line each, and of all that follows.
    fn seal(&self, lines: &str) -> String {
        let mut sealed: String = self.over.iter().map(|layer| format!("{layer}\n")).collect();
        if self.raw {
            sealed.push_str("raw\n");
        }
        if let Some(contents) = self.contents {
            writeln!(sealed, "contents {contents}").expect("a string takes what is written");
        }
        Digest::of(format!("{sealed}{lines}").as_bytes()).to_string()
    }
}

/// As in a manifest.
pub(crate) mod escaped {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::escape;

    pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::new();
        escape::push(&mut text, path.as_os_str().as_bytes());
        serializer.serialize_str(&text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        let bytes = escape::decode(&String::deserialize(deserializer)?);
        bytes.map(|bytes| OsString::from_vec(bytes).into()).ok_or_else(|| D::Error::custom("a wrong escape"))
    }
}

mod octal {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(mode: &u32, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{mode:o}"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
        u32::from_str_radix(&String::deserialize(deserializer)?, 8).map_err(D::Error::custom)
    }
}

mod digest {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::digest::Digest;

    pub fn serialize<S: Serializer>(digest: &Option<Digest>, serializer: S) -> Result<S::Ok, S::Error> {
        match digest {
            Some(digest) => serializer.collect_str(digest),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Digest>, D::Error> {
        let digest = String::deserialize(deserializer)?.parse();
        digest.map(Some).map_err(|_| D::Error::custom("no digest"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    use super::*;

    fn base() -> Base {
        let (mtime, ctime) = ((-5, 999_999_999), (1_700_000_000, 1));
        let was = Identity { dev: 2049, ino: 17, mode: 0o4755, size: 1 << 40, mtime, ctime };
        let odd = PathBuf::from(std::ffi::OsStr::from_bytes(b"a\xFF\n%\"b"));
        let host = |changed| Place::Host { path: Path::new("/home").join(&odd), was, changed };
        let fixed = |content| Place::Fixed { name: "layer debian \"12\"".into(), content };
        let seen = |path: &Path, kind, place| {
            let access = Access { mode: 0o644, uid: 0, gid: 4_294_967_294 };
            Seen { path: path.to_owned(), kind, access, place }
        };
        Base {
            layer: Digest::of(b"layer"),
            raw: true,
            contents: Some(Digest::of(b"contents")),
            over: vec![Digest::of(b"top"), Digest::of(b"bottom")],
            seen: vec![
                seen(Path::new(""), SeenKind::Directory, fixed(None)),
                seen(&odd, SeenKind::File, host(true)),
                seen(Path::new("b"), SeenKind::Symlink, host(false)),
                seen(Path::new("c"), SeenKind::Other, Place::Lost {}),
                seen(Path::new("d"), SeenKind::File, fixed(Some(Digest::of(b"content")))),
            ],
        }
    }

    #[test]
    fn its_text_says_all_of_it() {
        let base = base();
        let text = base.to_text();
        assert_eq!(Base::parse(text.as_bytes()).unwrap(), base);
        assert_eq!(text.lines().count(), 6, "{text}");
        assert_eq!(Base::parse_header(text.as_bytes()).unwrap(), Base { seen: Vec::new(), ..base.clone() });
        for (raw, contents) in [(true, None), (false, base.contents), (false, None)] {
            let base = Base { raw, contents, ..base.clone() };
            assert_eq!(Base::parse(base.to_text().as_bytes()).unwrap(), base);
        }
        let empty = Base::new(base.layer);
        let text = empty.to_text();
        assert_eq!(Base::parse(text.as_bytes()).unwrap(), empty);
        assert!(!text.contains("raw") && !text.contains("contents"), "{text}");
    }

    #[test]
    fn another_text_is_refused_by_its_line() {
        let text = base().to_text();
        let refused = |text: &str| Base::parse(text.as_bytes()).unwrap_err().to_string();
        let resealed = |text: String| {
            let (header, lines) = text.split_once('\n').unwrap();
            let mut header: Header = serde_json::from_str(header).unwrap();
            header.lines = header.seal(lines);
            format!("{}\n{lines}", serde_json::to_string(&header).unwrap())
        };
        assert_eq!(refused(""), "line 1 is wrong");
        assert_eq!(refused(&resealed(text.replace("\"ino\":17,", ""))), "line 3 is wrong");
        assert_eq!(refused(&resealed(text.replace("\"t\":\"l\"", "\"t\":\"x\""))), "line 4 is wrong");
        // What the header says is under the seal, too.
        let damaged = "it is damaged: its lines have another digest than its first one says";
        let other = Digest::of(b"other").to_string();
        assert_eq!(refused(&text.replace("\"raw\":true,", "")), damaged);
        assert_eq!(refused(&text.replace(&Digest::of(b"contents").to_string(), &other)), damaged);
        assert_eq!(
            refused(&text.replace(&format!(",\"contents\":\"{}\"", Digest::of(b"contents")), "")),
            damaged
        );
        let null = text.replace(&format!("\"{}\"", Digest::of(b"contents")), "null");
        assert_eq!(refused(&null), "line 1 is wrong");
        let newer = "it has version 2; this program reads up to 1: use a newer vfsrun";
        assert_eq!(refused(&text.replace("base\":1", "base\":2")), newer);
    }

    #[test]
    fn any_flipped_bit_is_seen() {
        let base = base();
        let text = base.to_text();
        for bit in 0..text.len() * 8 {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            // That of another layer is known by its file's name.
            let parsed = Base::parse(&bytes);
            assert!(parsed.is_err() || parsed.is_ok_and(|parsed| parsed.layer != base.layer), "bit {bit}");
        }
    }
}
