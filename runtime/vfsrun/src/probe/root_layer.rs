//! The layer that a bundle's root writes to: `root.path` is an overlay mount of whoever made the bundle, and its options say
//! where it keeps what.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use vfsrun_plan::plan::RootLayer;

/// Errors: what `path` is instead, and what to do.
pub fn of(path: &Path) -> Result<RootLayer, String> {
    let none = |what: String| {
        format!(
            "{what}, so there is no layer of its own to write to; say \"upper\": {{ \"on\": \"disk\" }}, or \"capture\""
        )
    };
    let real = path.canonicalize().map_err(|error| format!("cannot look at {}: {error}", path.display()))?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo");
    let mounts = mounts.map_err(|error| format!("cannot read /proc/self/mountinfo: {error}"))?;
    // The last one there covers the others.
    let mount = mounts.lines().rev().filter_map(Mount::parse).find(|mount| mount.at == real);
    match mount {
        Some(mount) if mount.kind == "overlay" => layer(&mount, &real)
            .ok_or_else(|| none(format!("{} is an overlay without an upper", path.display()))),
        Some(mount) => Err(none(format!("{} is a mount of {}, and no overlay", path.display(), mount.kind))),
        None => Err(none(format!("{} is no overlay mount", path.display()))),
    }
}

/// A line of mountinfo, proc_pid_mountinfo(5).
struct Mount<'a> {
    at: PathBuf,
    kind: &'a str,
    /// Of its super block.
    options: &'a str,
}

impl Mount<'_> {
    fn parse(line: &str) -> Option<Mount<'_>> {
        let (own, rest) = line.split_once(" - ")?;
        let at = unescaped(own.split(' ').nth(4)?);
        let mut rest = rest.split(' ');
        let (kind, _source, options) = (rest.next()?, rest.next()?, rest.next()?);
        Some(Mount { at: at.into(), kind, options })
    }
}

fn layer(mount: &Mount<'_>, at: &Path) -> Option<RootLayer> {
    // Container stores shorten long options by mounting from their own directory: STORE/ID/merged.
    let store = at.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    let path = |text: &str| store.join(unescaped(text));
    let mut layer = RootLayer {
        lowers: Vec::new(),
        upper: PathBuf::new(),
        redirects: false,
        metacopy: false,
        user_xattrs: false,
    };
    for option in mount.options.split(',') {
        match option.split_once('=').unwrap_or((option, "")) {
            ("lowerdir", paths) => layer.lowers.extend(paths.split(':').map(path)),
            ("lowerdir+", one) => layer.lowers.push(path(one)),
            ("upperdir", one) => layer.upper = path(one),
            ("redirect_dir", "on") => layer.redirects = true,
            ("metacopy", "on") => layer.metacopy = true,
            ("userxattr", _) => layer.user_xattrs = true,
            _ => {}
        }
    }
    (!layer.upper.as_os_str().is_empty() && !layer.lowers.is_empty()).then_some(layer)
}

/// Spaces and such are written as `\040`.
fn unescaped(text: &str) -> OsString {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| first == b'\\');
        let number = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match number {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(options: &str) -> Option<RootLayer> {
        let line = format!("61 28 0:40 / /store/1/merged rw,relatime shared:9 - overlay overlay {options}");
        let mount = Mount::parse(&line)?;
        layer(&mount, Path::new("/store/1/merged"))
    }

    #[test]
    fn options_say_where_the_layer_is() {
        let layer = mounted(
            "rw,lowerdir=/store/l/A:/store/l/B\\040C,upperdir=/store/1/diff,workdir=/store/1/work,metacopy=on",
        );
        let layer = layer.unwrap();
        assert_eq!(layer.lowers, [PathBuf::from("/store/l/A"), "/store/l/B C".into()]);
        assert_eq!(layer.upper, Path::new("/store/1/diff"));
        assert!(layer.metacopy && !layer.redirects && !layer.user_xattrs);
    }

    #[test]
    fn short_options_start_at_the_store() {
        let layer = mounted("rw,lowerdir=l/A:l/B,upperdir=1/diff,workdir=1/work,userxattr").unwrap();
        assert_eq!(layer.lowers, [PathBuf::from("/store/l/A"), "/store/l/B".into()]);
        assert_eq!(layer.upper, Path::new("/store/1/diff"));
        assert!(layer.user_xattrs);
    }

    #[test]
    fn an_overlay_without_upper_has_none() {
        assert_eq!(mounted("ro,lowerdir=/a:/b"), None);
    }
}
