//! A branch: one source of names, made ready from its description and the descriptors that came along.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FileType;
use vfsrun_layers::LayerStore;
use vfsrun_sys::image;

use crate::context::Context;
use crate::describe::{BranchSpec, FdIndex, Live, Rewrite, Rule, Scope, Source, Symlinks, Whiteouts, Xattrs};
use crate::error::SegmentError;
use crate::host::{self, HostBranch};
use crate::inputs::{InputIndex, Reach};
use crate::layer::{Blobs, LayerBranch};
use crate::mount_table::{MountTable, mount_of};
use crate::rules::Rules;

#[derive(Debug)]
pub(crate) struct Branch {
    pub(crate) label: String,
    /// The components of its place in the view.
    pub(crate) at: Vec<OsString>,
    pub(crate) rules: Rules,
    /// The components of the place in the view where the patterns of `rules` start.
    pub(crate) rules_at: Vec<OsString>,
    pub(crate) symlinks: Symlinks,
    pub(crate) scope: Scope,
    /// May change while it is served.
    pub(crate) live: bool,
    pub(crate) watching: Live,
    pub(crate) whiteouts: Whiteouts,
    pub(crate) xattrs: Xattrs,
    pub(crate) rewrite: Option<Rewrite>,
    pub(crate) trusted: bool,
    /// Change times of its files come from this machine's clock.
    pub(crate) has_our_clock: bool,
    pub(crate) content: Content,
}

#[derive(Debug)]
pub(crate) enum Content {
    Host(HostBranch),
    Layer(LayerBranch),
    Inputs(InputsBranch),
}

#[derive(Debug)]
pub(crate) struct InputsBranch {
    pub(crate) index: InputIndex,
    /// Where relative host paths start.
    pub(crate) base: Arc<OwnedFd>,
    pub(crate) host: Arc<OwnedFd>,
    /// Of a stored one: what keeps it and its blobs in the store.
    manifest: Arc<OwnedFd>,
    pub(crate) store: Option<LayerStore>,
}

impl Branch {
    /// Whether overlayfs or a program may find extended attributes in it; at the `bottom` nothing has to be hidden.
    pub(crate) fn has_marks(&self, bottom: bool) -> bool {
        match &self.content {
            Content::Layer(layer) => layer.layer.has_xattrs(self.trusted) || !bottom && layer.layer.hides(),
            Content::Host(_) => self.xattrs != Xattrs::Off || !bottom && self.whiteouts != Whiteouts::None,
            Content::Inputs(_) => false,
        }
    }

    /// All that it is reached by.
    pub(crate) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let (files, store) = match &self.content {
            Content::Host(HostBranch { root, host, image }) => {
                let others = [host, image].into_iter().flatten();
                (others.chain([root]).collect::<Vec<_>>(), None)
            }
            Content::Layer(LayerBranch { blobs: Blobs::Store(store), .. }) => (Vec::new(), Some(store)),
            Content::Layer(_) => (Vec::new(), None),
            Content::Inputs(InputsBranch { base, host, manifest, store, .. }) => {
                (vec![base, host, manifest], store.as_ref())
            }
        };
        let hold = match &self.content {
            Content::Layer(LayerBranch { hold, .. }) => hold.as_ref(),
            Content::Host(_) | Content::Inputs(_) => None,
        };
        files
            .into_iter()
            .map(|file| file.as_fd())
            .chain(hold.map(AsFd::as_fd))
            .chain(store.into_iter().flat_map(LayerStore::descriptors))
            .collect()
    }

    /// `polled` is the table of mounts of whose changes the context hears.
    pub(crate) fn new(
        spec: BranchSpec,
        fds: &Fds,
        context: &Context,
        polled: &MountTable,
    ) -> Result<Branch, SegmentError> {
        let label = spec.label;
        let at = place(&spec.at).ok_or_else(|| bad_place(&label, &spec.at))?;
        let rules = compile(&spec.rules, || format!("branch {label}"))?;
        let rules_at = spec.rules_at.as_ref().unwrap_or(&spec.at);
        let rules_at = place(rules_at).ok_or_else(|| bad_place(&label, rules_at))?;
        let follows_host = spec.symlinks != Symlinks::Never && spec.scope == Scope::Host;
        let live = !spec.frozen && matches!(spec.source, Source::Host { .. } | Source::Inputs { .. });
        let fds = Labelled { label: &label, fds };
        let content = match spec.source {
            Source::Host { root, host } => {
                let host = host.map(|host| fds.get(host)).transpose()?;
                if follows_host && host.is_none() {
                    return Err(SegmentError::NoHostRoot { label });
                }
                Content::Host(HostBranch { root: fds.get(root)?, host, image: None })
            }
            _ if follows_host => return Err(SegmentError::HostScope { label }),
            Source::Image { file } => {
                let file = fds.get(file)?;
                let root = image::mount(&*file, spec.trusted)
                    .map_err(|source| SegmentError::Image { label: label.clone(), source })?;
                Content::Host(HostBranch { root: Arc::new(root), host: None, image: Some(file) })
            }
            Source::Layer { digest, store } => Content::Layer(fds.layer(&digest, store, context)?),
            Source::Inputs { manifest, base, host, store } => {
                Content::Inputs(fds.inputs(manifest, base, host, store)?)
            }
            Source::Skeleton { entries } => Content::Layer(
                LayerBranch::skeleton(&entries)
                    .map_err(|source| SegmentError::Skeleton { label: label.clone(), source })?,
            ),
        };
        if let Content::Host(host) = &content {
            check_root(host, &label, &at)?;
        }
        let (symlinks, scope, mut watching) = (spec.symlinks, spec.scope, spec.live);
        if live && !has_polled_mounts(&content, polled) {
            watching = Live::Sweep;
        }
        let has_our_clock = has_our_clock(&content);
        let (whiteouts, xattrs) = (spec.whiteouts, spec.xattrs);
        let rewrite = Some(spec.rewrite).filter(|rewrite| *rewrite != Rewrite::default());
        Ok(Branch {
            label,
            at,
            rules,
            rules_at,
            symlinks,
            scope,
            live,
            watching,
            whiteouts,
            xattrs,
            rewrite,
            trusted: spec.trusted,
            has_our_clock,
            content,
        })
    }
}

/// Network file systems have the time of their server, and so may what FUSE serves (linux/magic.h).
const OTHER_CLOCK: [u64; 9] = [
    0x6969,      // nfs
    0x517b,      // smbfs
    0xff53_4d42, // cifs
    0xfe53_4d42, // smb2
    0x0102_1997, // 9p
    0x6573_5546, // fuse
    0x00c3_6400, // ceph
    0x5346_414f, // afs
    0x0bd0_0bd0, // lustre
];

/// Whether the table of mounts that is polled has the branch's: else nobody tells when something is mounted below it. False
/// for a branch in another mount namespace, or in none.
fn has_polled_mounts(content: &Content, polled: &MountTable) -> bool {
    let Content::Host(host) = content else { return true };
    mount_of(host.root.as_fd()).is_some_and(|mount| polled.get(mount).is_some())
}

fn has_our_clock(content: &Content) -> bool {
    let root = match content {
        Content::Host(host) => &host.root,
        Content::Inputs(inputs) => &inputs.base,
        Content::Layer(_) => return false,
    };
    rustix::fs::fstatfs(root).is_ok_and(|fs| !OTHER_CLOCK.contains(&(fs.f_type as u64)))
}

/// Errors: the rule that is none.
pub(crate) fn compile(rules: &[Rule], owner: impl Fn() -> String) -> Result<Rules, SegmentError> {
    Rules::new(rules).map_err(|(pattern, source)| SegmentError::Rule { owner: owner(), pattern, source })
}

/// The descriptors that came with a description, and what the manifests among them hold.
#[derive(Debug)]
pub(crate) struct Fds {
    all: Vec<Arc<OwnedFd>>,
    /// Each is taken once: it is large, and of one branch.
    manifests: RefCell<HashMap<FdIndex, Vec<u8>>>,
}

impl Fds {
    pub(crate) fn new(fds: Vec<OwnedFd>, manifests: HashMap<FdIndex, Vec<u8>>) -> Fds {
        Fds { all: fds.into_iter().map(Arc::new).collect(), manifests: RefCell::new(manifests) }
    }
}

struct Labelled<'a> {
    label: &'a str,
    fds: &'a Fds,
}

impl Labelled<'_> {
    fn get(&self, index: FdIndex) -> Result<Arc<OwnedFd>, SegmentError> {
        self.fds.all.get(index).cloned().ok_or_else(|| self.missing(index))
    }

    fn missing(&self, index: FdIndex) -> SegmentError {
        SegmentError::MissingDescriptor { label: self.label(), index, count: self.fds.all.len() }
    }

    fn store(&self, index: FdIndex) -> Result<LayerStore, SegmentError> {
        let label = self.label();
        let root = self
            .get(index)?
            .try_clone()
            .map_err(|source| SegmentError::Root { label: label.clone(), source })?;
        LayerStore::from_fd(root).map_err(|source| SegmentError::Store { label, source: Box::new(source) })
    }

    fn layer(&self, text: &str, store: FdIndex, context: &Context) -> Result<LayerBranch, SegmentError> {
        let digest = text.parse().map_err(|source| {
            let (label, digest) = (self.label(), text.to_owned());
            SegmentError::Digest { label, digest, source }
        })?;
        let store = self.store(store)?;
        let failed = |source| SegmentError::Layer { label: self.label(), source: Box::new(source) };
        let hold = Some(store.hold(&digest).map_err(failed)?);
        let layer = context.layers.load(digest, &store).map_err(failed)?;
        Ok(LayerBranch {
            digest: Some(digest),
            layer,
            blobs: Blobs::Store(store),
            hold,
            implied: Default::default(),
        })
    }

    fn inputs(
        &self,
        manifest: FdIndex,
        base: Option<FdIndex>,
        host: FdIndex,
        store: Option<FdIndex>,
    ) -> Result<InputsBranch, SegmentError> {
        let bad = |source| SegmentError::Inputs { label: self.label(), source };
        let store = store.map(|store| self.store(store)).transpose()?;
        let bytes = self.fds.manifests.borrow_mut().remove(&manifest);
        let bytes = bytes.ok_or_else(|| self.missing(manifest))?;
        let reach = Reach { blobs: store.is_some(), relative: base.is_some() };
        let index = InputIndex::parse(bytes, reach).map_err(bad)?;
        let (base, host) = (self.get(base.unwrap_or(host))?, self.get(host)?);
        Ok(InputsBranch { index, base, host, manifest: self.get(manifest)?, store })
    }

    fn label(&self) -> String {
        self.label.to_owned()
    }
}

/// The whole file, wherever its offset stands: the descriptor may be shared with the client.
pub(crate) fn read_all(file: &OwnedFd) -> std::io::Result<Vec<u8>> {
    let size = rustix::fs::fstat(file)?.st_size as usize;
    let mut bytes = vec![0; size + 1];
    let mut length = 0;
    loop {
        match rustix::io::pread(file, &mut bytes[length..], length as u64) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if length == bytes.len() {
            bytes.resize(2 * length, 0);
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

fn check_root(host: &HostBranch, label: &str, at: &[OsString]) -> Result<(), SegmentError> {
    let stat = rustix::fs::fstat(&*host.root)
        .map_err(|errno| SegmentError::Root { label: label.to_owned(), source: errno.into() })?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Ok(()),
        FileType::RegularFile if at.is_empty() => Err(SegmentError::FileAtRoot { label: label.to_owned() }),
        FileType::RegularFile => Ok(()),
        _ => Err(SegmentError::RootKind { label: label.to_owned() }),
    }
}

fn place(at: &Path) -> Option<Vec<OsString>> {
    let names = at.components().map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        _ => None,
    });
    names.collect()
}

fn bad_place(label: &str, at: &Path) -> SegmentError {
    SegmentError::BadPlace { label: label.to_owned(), at: PathBuf::from(at) }
}

impl InputsBranch {
    /// Opens (O_PATH) the host file of an input, symlinks followed.
    pub(crate) fn open_host(&self, path: &str) -> Result<OwnedFd, rustix::io::Errno> {
        host::open_on_host(&self.host, self.base.as_fd(), Path::new(path))
    }
}
