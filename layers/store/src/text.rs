//! The text of a manifest: a header line, then one JSON object per entry.
//!
//! Keys, always in this order, with defaults left out: `p` path, `t` type, `m` permission bits in octal, `u` uid, `g`
//! gid, `mt` seconds and `ns` nanoseconds of the mtime, `o` opaque, `s` size, `h` BLAKE3, `to` target of a link, `maj`
//! and `min` of a device, `x` extended attributes. Strings are escaped as [`crate::escape`] says. A line that is not
//! exactly what [`write`] would write is refused, so that one layer has one digest.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::Deserialize;

use crate::check::ManifestError;
use crate::escape;
use crate::line;
use crate::manifest::{Entry, Kind, Meta};

/// The newest version this program reads, and the one it writes.
pub const VERSION: u64 = 1;

#[derive(Deserialize)]
struct Header {
    #[serde(rename = "vfsrun-layer")]
    version: u64,
}

/// All keys, for the explanation of a line that [`line::parse`] does not take.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only whether the line has this shape is asked")]
struct Line {
    p: String,
    t: String,
    m: Option<String>,
    u: Option<u32>,
    g: Option<u32>,
    mt: Option<i64>,
    ns: Option<u32>,
    o: Option<bool>,
    s: Option<u64>,
    h: Option<String>,
    to: Option<String>,
    maj: Option<u32>,
    min: Option<u32>,
    x: Option<BTreeMap<String, String>>,
}

const TYPES: [&str; 8] = ["d", "f", "l", "h", "w", "p", "b", "c"];

/// The text of `entries`, in the order given.
pub fn write(entries: &[Entry]) -> String {
    let mut out = String::with_capacity(32 + entries.len() * 160);
    let _ = writeln!(out, "{{\"vfsrun-layer\":{VERSION}}}");
    for entry in entries {
        write_line(&mut out, entry);
    }
    out
}

/// The entries of a text, each line canonical; their order and paths are still unchecked, and hard links and whiteouts
/// have no metadata.
pub fn parse(bytes: &[u8]) -> Result<Vec<Entry>, ManifestError> {
    let text = str::from_utf8(bytes).map_err(|source| ManifestError::NotText { source })?;
    let (header, body) = text.split_once('\n').ok_or(ManifestError::NoHeader)?;
    check_header(header)?;
    if !body.is_empty() && !body.ends_with('\n') {
        return Err(ManifestError::Truncated);
    }
    let mut entries = Vec::with_capacity(body.len() / 128);
    for (index, text) in body.split_terminator('\n').enumerate() {
        match line::parse(text) {
            Some(entry) => entries.push(entry),
            None => return Err(explain(text, index + 2)),
        }
    }
    Ok(entries)
}

fn check_header(header: &str) -> Result<(), ManifestError> {
    let Header { version } = serde_json::from_str(header).map_err(|_| ManifestError::NoHeader)?;
    if version > VERSION {
        return Err(ManifestError::Newer { found: version, known: VERSION });
    }
    if header != format!("{{\"vfsrun-layer\":{VERSION}}}") {
        return Err(ManifestError::NoHeader);
    }
    Ok(())
}

/// What is wrong with a line that is not canonical: no JSON, unknown keys, an unknown type, or just another form.
fn explain(text: &str, number: usize) -> ManifestError {
    match serde_json::from_str::<Line>(text) {
        Err(source) => ManifestError::Line { line: number, source },
        Ok(line) if !TYPES.contains(&&*line.t) => ManifestError::UnknownType { line: number, found: line.t },
        Ok(_) => ManifestError::NotCanonical { line: number },
    }
}

fn write_line(out: &mut String, entry: &Entry) {
    out.push_str("{\"p\":\"");
    escape::push(out, path_bytes(&entry.path));
    out.push_str("\",\"t\":\"");
    out.push_str(letter(&entry.kind));
    out.push('"');
    // A whiteout has no metadata and a hard link has its file's.
    if !matches!(entry.kind, Kind::Whiteout | Kind::HardLink { .. }) {
        write_meta(out, &entry.meta);
    }
    write_kind(out, &entry.kind);
    if !matches!(entry.kind, Kind::Whiteout | Kind::HardLink { .. }) && !entry.meta.xattrs.is_empty() {
        write_xattrs(out, &entry.meta.xattrs);
    }
    out.push_str("}\n");
}

fn letter(kind: &Kind) -> &'static str {
    match kind {
        Kind::Directory { .. } => "d",
        Kind::File { .. } => "f",
        Kind::Symlink { .. } => "l",
        Kind::HardLink { .. } => "h",
        Kind::Whiteout => "w",
        Kind::Fifo => "p",
        Kind::Device { block: true, .. } => "b",
        Kind::Device { block: false, .. } => "c",
    }
}

fn write_meta(out: &mut String, meta: &Meta) {
    // Writing to a String cannot fail.
    let _ = write!(out, ",\"m\":\"{:o}\"", meta.mode);
    for (key, id) in [("u", meta.uid), ("g", meta.gid)] {
        if id != 0 {
            let _ = write!(out, ",\"{key}\":{id}");
        }
    }
    if meta.mtime.0 != 0 {
        let _ = write!(out, ",\"mt\":{}", meta.mtime.0);
    }
    if meta.mtime.1 != 0 {
        let _ = write!(out, ",\"ns\":{}", meta.mtime.1);
    }
}

fn write_kind(out: &mut String, kind: &Kind) {
    match kind {
        Kind::Directory { opaque: true } => out.push_str(",\"o\":true"),
        Kind::File { digest, size } => {
            let _ = write!(out, ",\"s\":{size},\"h\":\"");
            out.push_str(&digest.hex());
            out.push('"');
        }
        Kind::Symlink { target } => write_string(out, "to", target.as_bytes()),
        Kind::HardLink { to } => write_string(out, "to", path_bytes(to)),
        Kind::Device { major, minor, .. } => {
            let _ = write!(out, ",\"maj\":{major},\"min\":{minor}");
        }
        Kind::Directory { opaque: false } | Kind::Whiteout | Kind::Fifo => {}
    }
}

fn write_string(out: &mut String, key: &str, value: &[u8]) {
    let _ = write!(out, ",\"{key}\":\"");
    escape::push(out, value);
    out.push('"');
}

fn write_xattrs(out: &mut String, xattrs: &BTreeMap<OsString, Vec<u8>>) {
    out.push_str(",\"x\":{");
    for (index, (name, value)) in xattrs.iter().enumerate() {
        out.push_str(if index == 0 { "\"" } else { ",\"" });
        escape::push(out, name.as_bytes());
        out.push_str("\":\"");
        escape::push(out, value);
        out.push('"');
    }
    out.push('}');
}

fn path_bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}
