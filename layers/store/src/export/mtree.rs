//! A layer as an mtree(5) specification: a line of text per name, to be read, compared and verified.

use std::fmt::Write as _;
use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{ExportError, sums};
use crate::manifest::{Entry, Kind, Manifest};
use crate::order;
use crate::store::LayerStore;

/// Writes `manifest` to `out`. What mtree has no word for, whiteouts, opaque directories, hard links and extended
/// attributes, is said in comments.
///
/// Errors: a missing or damaged blob, before anything is written; `out`'s.
pub fn export_mtree(manifest: &Manifest, store: &LayerStore, out: impl Write) -> Result<(), ExportError> {
    let sums = sums::sha256(manifest, store)?;
    let mut out = BufWriter::new(out);
    let mut write =
        |text: &str| out.write_all(text.as_bytes()).map_err(|source| ExportError::Write { source });
    write("#mtree v2.0\n")?;
    for (index, entry) in manifest.entries.iter().enumerate() {
        let file = match &entry.kind {
            Kind::HardLink { to } => {
                let found = manifest.entries.binary_search_by(|other| order::compare(&other.path, to));
                found.expect("Manifest::check: a hard link comes after its file")
            }
            _ => index,
        };
        write(&lines(entry, &manifest.entries[file].kind, sums[file].as_deref()))?;
    }
    out.flush().map_err(|source| ExportError::Write { source })
}

/// `content` and `sum` are those of the file that a hard link is another name of.
fn lines(entry: &Entry, content: &Kind, sum: Option<&str>) -> String {
    let name = name(&entry.path);
    let mut lines = String::new();
    let meta = &entry.meta;
    // Writing to a String cannot fail.
    match &entry.kind {
        Kind::Whiteout => return format!("# {name} type=whiteout\n"),
        Kind::Directory { opaque: true } => lines = format!("# {name} opaque\n"),
        Kind::HardLink { to } => lines = format!("# {name} hardlink={}\n", self::name(to)),
        _ => {}
    }
    for (key, value) in &meta.xattrs {
        let _ = writeln!(lines, "# {name} xattr.{}={}", encoded(key.as_bytes()), encoded(value));
    }
    let (seconds, nanoseconds) = meta.mtime;
    let word = match content {
        Kind::Directory { .. } => "dir",
        Kind::File { .. } | Kind::HardLink { .. } | Kind::Whiteout => "file",
        Kind::Symlink { .. } => "link",
        Kind::Fifo => "fifo",
        Kind::Device { block: true, .. } => "block",
        Kind::Device { block: false, .. } => "char",
    };
    let _ = write!(
        lines,
        "{name} type={word} mode={:04o} uid={} gid={} time={seconds}.{nanoseconds:09}",
        meta.mode, meta.uid, meta.gid
    );
    let _ = match content {
        Kind::File { size, .. } => write!(lines, " size={size} sha256digest={}", sum.unwrap_or_default()),
        Kind::Symlink { target } => write!(lines, " link={}", encoded(target.as_bytes())),
        Kind::Device { major, minor, .. } => write!(lines, " device=native,{major},{minor}"),
        _ => Ok(()),
    };
    lines.push('\n');
    lines
}

/// With `./` before it, so that it is a whole path whatever is in it.
fn name(path: &Path) -> String {
    if path.as_os_str().is_empty() {
        return ".".to_owned();
    }
    format!("./{}", encoded(path.as_os_str().as_bytes()))
}

/// As vis(3) with VIS_OCTAL has it: what is blank, no ASCII, or means something in a specification is `\ooo`.
fn encoded(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_graphic() && !matches!(byte, b'#' | b'\\' | b'*' | b'?' | b'[' | b'=') {
            text.push(char::from(*byte));
        } else {
            let _ = write!(text, "\\{byte:03o}");
        }
    }
    text
}
