//! Extended attributes of a node. Those of overlayfs are ours alone: whatever a branch holds, only a directory that
//! hides lower segments says so, and only one with whiteouts in it makes the overlay look for them.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;
use vfsrun_layers::Meta;

use crate::acl::{self, List};
use crate::attr::FileKind;
use crate::branch::{Branch, Content};
use crate::describe::{Whiteouts, XattrRule, Xattrs};
use crate::fingerprint;
use crate::host;
use crate::layer::is_overlay_mark;
use crate::merge::Found;
use crate::node::Node;
use crate::origin::{Origin, Place};
use crate::segment::Segment;
use crate::trust::{self, CAPABILITY};
use crate::xattr_rule;

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
                self.xattr_of_layer(&origin, &entry.meta, name)
            }
            _ => self.xattr_of_host(node, &origin, name),
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
                let is_shown = |name: &&OsString| self.xattr_of_layer(&origin, &entry.meta, name).is_ok();
                entry.meta.xattrs.keys().filter(is_shown).cloned().collect()
            }
            _ => self.xattr_names_of_host(node, &origin)?,
        };
        Ok(names.into_iter().filter(|name| is_passed_on(name)).collect())
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
        node.origins().iter().any(|origin| match (&origin.place, &self.branch(origin.branch).content) {
            (Place::Entry(at), Content::Layer(layer)) => layer.layer.has_whiteouts(*at),
            // There may be some; a look at each name would be the price of knowing.
            (Place::Host(_), Content::Host(_)) => self.branch(origin.branch).whiteouts != Whiteouts::None,
            _ => false,
        })
    }

    fn xattr_of_layer(&self, origin: &Origin, meta: &Meta, name: &OsStr) -> Result<Vec<u8>, Errno> {
        let value = meta.xattrs.get(name).ok_or(Errno::NODATA)?;
        if is_acl(name) {
            return Ok(self.owners.acl_of_layer(value));
        }
        if name != CAPABILITY {
            return Ok(value.clone());
        }
        let is_trusted = trust::in_layer_file(meta, &self.owners, self.branch(origin.branch));
        is_trusted.then(|| trust::capability_of_layer(value, &self.owners)).flatten().ok_or(Errno::NODATA)
    }

    /// Errors: NODATA for what is no host file, IO if it is not what was shown.
    fn xattr_of_host(&self, node: &Node, origin: &Origin, name: &OsStr) -> Result<Vec<u8>, Errno> {
        let Some(fd) = self.open_for_xattrs(node, origin)? else { return Err(Errno::NODATA) };
        let (stat, branch) = (rustix::fs::fstat(&fd)?, self.branch(origin.branch));
        let value = if is_acl(name) {
            match acl::of_host(fd.as_fd(), name, &stat, &self.owners, branch) {
                List::Shown(list) => Ok(list),
                List::None | List::Hidden => Err(Errno::NODATA),
            }
        } else if name != CAPABILITY {
            users_xattr(fd.as_fd(), name, xattr_rules(branch))
        } else if trust::in_host_file(fd.as_fd(), &stat, &self.owners, branch) {
            host::get_xattr(fd.as_fd(), name)
        } else {
            Err(Errno::NODATA)
        };
        // Also of what is not there: the mode that was shown may be the mask of a list.
        self.refuse_what_changed(node)?;
        value.map_err(|errno| match errno {
            // OVERFLOW: capabilities of a root that the server's namespace has not.
            Errno::NOTSUP | Errno::OVERFLOW => Errno::NODATA,
            other => other,
        })
    }

    fn xattr_names_of_host(&self, node: &Node, origin: &Origin) -> Result<Vec<OsString>, Errno> {
        let Some(fd) = self.open_for_xattrs(node, origin)? else { return Ok(Vec::new()) };
        let names = match host::list_xattrs(fd.as_fd()) {
            Err(Errno::NOTSUP) => Vec::new(),
            names => names?,
        };
        self.refuse_what_changed(node)?;
        let rules = xattr_rules(self.branch(origin.branch));
        let shown = names.into_iter().filter_map(|name| {
            if is_users(&name) {
                return xattr_rule::shown_as(&name, rules).filter(|shown| is_users(shown));
            }
            (is_passed_on(&name) && self.xattr_of_host(node, origin, &name).is_ok()).then_some(name)
        });
        // Two may be shown as one.
        Ok(shown.collect::<BTreeSet<_>>().into_iter().collect())
    }

    /// `None` where attributes are not shown, and for symlinks, which have none of those that are.
    fn open_for_xattrs(&self, node: &Node, origin: &Origin) -> Result<Option<OwnedFd>, Errno> {
        let are_shown = self.branch(origin.branch).xattrs != Xattrs::Off && node.kind() != FileKind::Symlink;
        if are_shown { self.open_origin(node, origin) } else { Ok(None) }
    }

    /// A directory that names have come to or gone from last has the same time twice: what is asked for here did not change
    /// then.
    fn refuse_what_changed(&self, node: &Node) -> Result<(), Errno> {
        let has_other_names = |found: &Found| {
            node.kind() == FileKind::Directory
                && found.changed == found.attr.mtime
                && fingerprint::rights(&found.attr) == node.served.rights()
        };
        let same = |found: &Found| {
            found.object == node.object() && (found.print == node.served.print() || has_other_names(found))
        };
        match self.resolve_again(node) {
            Ok(found) if same(&found) => Ok(()),
            Ok(_) | Err(Errno::STALE) => Err(self.refuse_changed(node)),
            Err(errno) => Err(errno),
        }
    }
}

/// The origin whose attributes are shown.
pub(crate) fn top(node: &Node) -> Option<Origin> {
    node.origins().iter().find(|origin| !origin.synthetic).cloned()
}

fn is_passed_on(name: &OsStr) -> bool {
    is_users(name) || is_acl(name) || name == CAPABILITY
}

/// What the file's owner may say, and anybody may be told.
fn is_users(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    bytes.starts_with(b"user.") && !bytes.starts_with(OURS) && !is_overlay_mark(name)
}

fn xattr_rules(branch: &Branch) -> &[XattrRule] {
    match &branch.xattrs {
        Xattrs::Off => &[],
        Xattrs::Pass(rules) => rules,
    }
}

/// The value of the first attribute that is shown as `name`.
fn users_xattr(fd: BorrowedFd<'_>, name: &OsStr, rules: &[XattrRule]) -> Result<Vec<u8>, Errno> {
    let own = xattr_rule::own_names(name, rules).into_iter().filter(|own| is_users(own));
    let mut values = own.map(|own| host::get_xattr(fd, &own));
    values.find(|value| *value != Err(Errno::NODATA)).unwrap_or(Err(Errno::NODATA))
}

/// As on any file system, what is in none is not asked for but refused.
fn has_namespace(name: &OsStr) -> bool {
    let namespaces: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"system."];
    namespaces.iter().any(|namespace| name.as_bytes().starts_with(namespace))
}

fn is_acl(name: &OsStr) -> bool {
    [acl::ACCESS, acl::DEFAULT].iter().any(|acl| acl.to_bytes() == name.as_bytes())
}
