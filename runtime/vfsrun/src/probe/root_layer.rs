//! The layer that a bundle's root writes to: `root.path` is an overlay mount of whoever made the bundle, and its options say
//! where it keeps what.

use std::path::{Path, PathBuf};

use vfsrun_plan::plan::RootLayer;
use vfsrun_sys::mountinfo::{self, Line};

/// Errors: what `path` is instead, and what to do.
pub fn of(path: &Path) -> Result<RootLayer, String> {
    let none = |what: String| {
        format!(
            "{what}, so there is no layer of its own to write to; say \"upper\": {{ \"on\": \"disk\" }}, or \"capture\""
        )
    };
    let real = path.canonicalize().map_err(|error| format!("cannot look at {}: {error}", path.display()))?;
    let mounts = std::fs::read("/proc/self/mountinfo");
    let mounts = mounts.map_err(|error| format!("cannot read /proc/self/mountinfo: {error}"))?;
    // The last one there covers the others.
    match mountinfo::lines(&mounts).rev().find(|mount| mount.point() == real) {
        Some(mount) if mount.kind() == "overlay" => layer(&mount, &real)
            .ok_or_else(|| none(format!("{} is an overlay without an upper", path.display()))),
        Some(mount) => {
            Err(none(format!("{} is a mount of {}, and no overlay", path.display(), mount.kind())))
        }
        None => Err(none(format!("{} is no overlay mount", path.display()))),
    }
}

fn layer(mount: &Line<'_>, at: &Path) -> Option<RootLayer> {
    // Container stores shorten long options by mounting from their own directory: STORE/ID/merged.
    let store = at.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    let path = |text: &[u8]| store.join(mountinfo::unescaped(text));
    let mut layer = RootLayer {
        lowers: Vec::new(),
        upper: PathBuf::new(),
        redirects: false,
        metacopy: false,
        user_xattrs: false,
    };
    for option in mount.super_options() {
        let mut parts = option.splitn(2, |byte| *byte == b'=');
        match (parts.next().unwrap_or_default(), parts.next().unwrap_or_default()) {
            (b"lowerdir", paths) => layer.lowers.extend(paths.split(|byte| *byte == b':').map(path)),
            (b"lowerdir+", one) => layer.lowers.push(path(one)),
            (b"upperdir", one) => layer.upper = path(one),
            (b"redirect_dir", b"on") => layer.redirects = true,
            (b"metacopy", b"on") => layer.metacopy = true,
            (b"userxattr", _) => layer.user_xattrs = true,
            _ => {}
        }
    }
    (!layer.upper.as_os_str().is_empty() && !layer.lowers.is_empty()).then_some(layer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(options: &str) -> Option<RootLayer> {
        let line = format!("61 28 0:40 / /store/1/merged rw,relatime shared:9 - overlay overlay {options}");
        let mount = mountinfo::lines(line.as_bytes()).next()?;
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
