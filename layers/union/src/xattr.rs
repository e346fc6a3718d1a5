//! Extended attributes of a node. Those of overlayfs are ours alone: whatever a branch holds, only a directory that
//! hides lower segments says so, and only one with whiteouts in it makes the overlay look for them.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::io::Errno;

use crate::attr::FileKind;
use crate::branch::Content;
use crate::describe::Whiteouts;
use crate::host;
use crate::layer::is_overlay_mark;
use crate::node::Node;
use crate::origin::{Origin, Place};
use crate::segment::Segment;

/// XATTR_SIZE_MAX and XATTR_LIST_MAX of the kernel.
const MAX: usize = 1 << 16;

/// What only we say, and only when asked by name: copies and overlayfs's copy-up take along what is listed.
const OURS: &[u8] = b"user.vfsrun.";

impl Segment {
    pub(crate) fn xattr(&self, node: &Node, name: &OsStr) -> Result<Vec<u8>, Errno> {
        if is_overlay_mark(name) {
            return self.overlay_mark(node, name);
        }
        if let Some(asked) = name.as_bytes().strip_prefix(OURS) {
            node.refuse_denied()?;
            return self.tell_provenance(node, asked);
        }
        if !is_passed_on(name) {
            return Err(if has_namespace(name) { Errno::NODATA } else { Errno::NOTSUP });
        }
        // Not earlier: overlayfs takes a name for absent if it cannot ask for its marks, and no mark is the branch's.
        node.refuse_denied()?;
        let Some(origin) = top(node) else { return Err(Errno::NODATA) };
        match (&origin.place, &self.branch(origin.branch).content) {
            (Place::Alias(target), _) => self.xattr(target, name),
            (Place::Entry(Some(position)), Content::Layer(layer)) => {
                let entry = layer.layer.entry(layer.layer.content(*position).unwrap_or(*position));
                let value = entry.meta.xattrs.get(name).ok_or(Errno::NODATA)?;
                Ok(if is_acl(name) { self.owners.acl_of_layer(value) } else { value.clone() })
            }
            _ => self.on_host(node, origin, Err(Errno::NODATA), |path| {
                grow(|buffer| rustix::fs::getxattr(path, name, buffer))
            }),
        }
    }

    pub(crate) fn xattr_names(&self, node: &Node) -> Result<Vec<OsString>, Errno> {
        // overlayfs asks before it copies a name up, and gives up on this error.
        node.refuse_denied()?;
        let Some(origin) = top(node) else { return Ok(Vec::new()) };
        let names: Vec<OsString> = match (&origin.place, &self.branch(origin.branch).content) {
            (Place::Alias(target), _) => return self.xattr_names(target),
            (Place::Entry(Some(position)), Content::Layer(layer)) => {
                let entry = layer.layer.entry(layer.layer.content(*position).unwrap_or(*position));
                entry.meta.xattrs.keys().cloned().collect()
            }
            _ => self.on_host(node, origin, Ok(Vec::new()), |path| {
                let list = grow(|buffer| rustix::fs::listxattr(path, buffer))?;
                let names = list.split(|byte| *byte == 0).filter(|name| !name.is_empty());
                Ok(names.map(|name| OsString::from_vec(name.to_vec())).collect())
            })?,
        };
        Ok(names.into_iter().filter(|name| is_passed_on(name) && !is_overlay_mark(name)).collect())
    }

    /// `trusted.` is what an overlay reads that root mounted without `userxattr`.
    fn overlay_mark(&self, node: &Node, name: &OsStr) -> Result<Vec<u8>, Errno> {
        if node.kind() != FileKind::Directory {
            return Err(Errno::NODATA);
        }
        match name.as_bytes() {
            b"user.overlay.opaque" | b"trusted.overlay.opaque" if node.opaque => Ok(b"y".to_vec()),
            // overlayfs shows whiteouts in the listing of a directory that only one of its layers has, unless the
            // directory was once copied up. An empty origin says just that (ovl_get_inode, ovl_check_origin_xattr).
            b"user.overlay.origin" | b"trusted.overlay.origin" if self.has_whiteouts(node) => Ok(Vec::new()),
            _ => Err(Errno::NODATA),
        }
    }

    fn has_whiteouts(&self, node: &Node) -> bool {
        node.origins.iter().any(|origin| match (&origin.place, &self.branch(origin.branch).content) {
            (Place::Entry(at), Content::Layer(layer)) => layer.layer.has_whiteouts(*at),
            // There may be some; a look at each name would be the price of knowing.
            (Place::Host(_), Content::Host(_)) => self.branch(origin.branch).whiteouts != Whiteouts::None,
            _ => false,
        })
    }

    /// `otherwise` for what is no host file, and for symlinks, which have none of the attributes that are passed on.
    fn on_host<T>(
        &self,
        node: &Node,
        origin: &Origin,
        otherwise: Result<T, Errno>,
        ask: impl FnOnce(&str) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        if node.kind() == FileKind::Symlink {
            return otherwise;
        }
        let Some(fd) = self.open_origin(node, origin)? else { return otherwise };
        match ask(&host::magic_link(fd.as_fd())) {
            Err(Errno::NOTSUP) => otherwise,
            other => other,
        }
    }
}

/// The origin whose attributes are shown.
pub(crate) fn top(node: &Node) -> Option<&Origin> {
    node.origins.iter().find(|origin| !origin.synthetic)
}

fn is_passed_on(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    bytes.starts_with(b"user.") && !bytes.starts_with(OURS) || name == "security.capability" || is_acl(name)
}

/// As on any file system, what is in none is not asked for but refused.
fn has_namespace(name: &OsStr) -> bool {
    let namespaces: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"system."];
    namespaces.iter().any(|namespace| name.as_bytes().starts_with(namespace))
}

fn is_acl(name: &OsStr) -> bool {
    name == "system.posix_acl_access" || name == "system.posix_acl_default"
}

fn grow(mut ask: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 256];
    loop {
        match ask(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < MAX => buffer = vec![0; MAX],
            Err(errno) => return Err(errno),
        }
    }
}
