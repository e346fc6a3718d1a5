//! An input root or an output directory of the Remote Execution API, stored as a layer: messages and files that lie in a directory
//! under their digests.
//!
//! Nothing is unpacked, and nothing is believed before it was hashed. Digests make circles impossible, and nothing else: a directory
//! may be in others any number of times, so that a few messages can stand for more names than any machine holds. Names are counted before
//! any is made, and bytes as often as they are read.

mod blobs;
mod messages;
mod names;

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rayon::prelude::*;
use thiserror::Error;

use super::{ImportOptions, Imported, Owner};
use crate::digest::Digest;
use crate::digest_function::DigestFunction;
use crate::intake::{Attributes, clamp};
use crate::manifest::{Entry, Kind, Manifest, ManifestError, Meta};
use crate::order;
use crate::store::{LayerStore, StoreError, Writer};
use blobs::{Blobs, Content};
use messages::{Node, NodeKind, Part, Properties, Sum, Tree, parts};

pub use messages::MessageFault;

#[derive(Debug, Error)]
pub enum ReapiError {
    #[error("cannot read the directory \"blobs\", as an export of an input root has it")]
    NoBlobs { source: io::Error },
    #[error("cannot read blobs/{hash}, which is {path} of the layer")]
    Read { path: String, hash: String, source: io::Error },
    #[error("blobs/{hash}, which is {path} of the layer, is no regular file")]
    NoFile { path: String, hash: String },
    #[error("{hash}, which is {path} of the layer, has {found} bytes and is to have {wanted}")]
    Size { path: String, hash: String, wanted: u64, found: u64 },
    #[error(
        "blobs/{hash}, which is {path} of the layer, is damaged, or named by another function (--digest): it hashes to {found}"
    )]
    Content { path: String, hash: String, found: String },
    #[error("blobs/{hash} is neither a Directory message ({directory}) nor a Tree message ({tree})")]
    NoRoot { hash: String, directory: MessageFault, tree: MessageFault },
    #[error("the message of {path} of the layer is no canonical Directory")]
    Message {
        path: String,
        #[source]
        fault: MessageFault,
    },
    #[error("the Tree does not have {hash}, which is {path} of the layer")]
    NotInTree { path: String, hash: String },
    #[error("the messages stand for more than {limit} names")]
    TooManyEntries { limit: u64 },
    #[error("the files are larger than {limit} bytes together")]
    TooManyBytes { limit: u64 },
    #[error("the messages and the paths that they stand for are too large together")]
    TooManyWords,
    #[error("{path} is nested in more than {limit} directories")]
    Depth { path: String, limit: usize },
    #[error("the messages are no layer")]
    Entries { source: ManifestError },
    #[error("cannot store {path}")]
    Store { path: String, source: StoreError },
    #[error("cannot put the layer into the store")]
    Layer { source: StoreError },
}

/// The digest of a Directory or Tree message: `HEX/SIZE`, or `HEX` alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootDigest {
    hash: String,
    size: Option<u64>,
}

#[derive(Debug, Error)]
#[error("64 lower-case hexadecimal digits are wanted, and a slash and the size in bytes if it is known")]
pub struct RootDigestError;

impl FromStr for RootDigest {
    type Err = RootDigestError;

    fn from_str(text: &str) -> Result<RootDigest, RootDigestError> {
        let (hash, size) = match text.split_once('/') {
            Some((hash, size)) => (hash, Some(size.parse().map_err(|_| RootDigestError)?)),
            None => (text, None),
        };
        if !messages::is_hash(hash) {
            return Err(RootDigestError);
        }
        Ok(RootDigest { hash: hash.to_owned(), size })
    }
}

/// Stores what `root` stands for, whose messages and files are `blobs/HEX` in `dir`; of a Tree only files need be there. `stored` is
/// told the size of each file.
///
/// Files have mode 0644, or 0755 if they are executable, directories 0755, and all the time 0, unless node properties say more;
/// everything is root's, or whose `options` say.
///
/// Errors: a message or a file that is missing, or is not what its digest says; messages that are not canonical, or exceed the limits.
/// Nothing but unnamed blobs is left behind then.
pub fn import_reapi(
    dir: BorrowedFd<'_>,
    root: &RootDigest,
    function: DigestFunction,
    options: &ImportOptions,
    store: &LayerStore,
    stored: impl Fn(u64) + Sync,
) -> Result<Imported, ReapiError> {
    let writer = store.doubting_writer().map_err(|source| ReapiError::Layer { source })?;
    let blobs = Blobs::open(dir, function)?;
    let message = blobs.message(Path::new(""), &root.hash, root.size, options.max_words)?;
    let mut walk = Walk::new(options);
    let (root, messages) = match root_of(&message, root, function, options)? {
        Root::Directory => (&message[..], Messages::Blobs(&blobs)),
        Root::Tree(tree) => (tree.root, Messages::Tree(tree.children)),
    };
    names::check(root, &messages, options)?;
    walk.all(root, &messages)?;
    let Walk { mut found, contents, properties_skipped, .. } = walk;
    found.sort_by(|(a, _), (b, _)| order::compare(&a.path, &b.path));
    let (entries, content_of): (Vec<_>, Vec<_>) = found.into_iter().unzip();
    let mut manifest = Manifest::from_entries(entries).map_err(|source| ReapiError::Entries { source })?;
    let digests = put_all(&contents, &blobs, &writer, stored)?;
    for (entry, content) in manifest.entries.iter_mut().zip(content_of) {
        if let (Kind::File { digest, .. }, Some(content)) = (&mut entry.kind, content) {
            *digest = digests[content];
        }
    }
    let digest = writer.put_layer(&manifest).map_err(|source| ReapiError::Layer { source })?;
    Ok(Imported { properties_skipped, ..Imported::of(digest, &manifest) })
}

fn put_all(
    contents: &[Content],
    blobs: &Blobs,
    writer: &Writer<'_>,
    stored: impl Fn(u64) + Sync,
) -> Result<Vec<Digest>, ReapiError> {
    let put = |content| blobs.put(content, writer).inspect(|_| stored(content.size));
    contents.par_iter().map(put).collect()
}

enum Root<'a> {
    Directory,
    Tree(Tree<'a>),
}

/// What `message` is can be seen: the first field of a Directory has Digests where that of a Tree has DirectoryNodes.
fn root_of<'a>(
    message: &'a [u8],
    root: &RootDigest,
    function: DigestFunction,
    options: &ImportOptions,
) -> Result<Root<'a>, ReapiError> {
    let check = |message: &[u8]| parts(message).try_for_each(|part| part.map(drop));
    let Err(directory) = check(message) else { return Ok(Root::Directory) };
    let tree = Tree::read(message, function, options.max_entries);
    match tree.and_then(|tree| check(tree.root).map(|()| tree)) {
        Ok(tree) => Ok(Root::Tree(tree)),
        Err(tree) => Err(ReapiError::NoRoot { hash: root.hash.clone(), directory, tree }),
    }
}

/// Where the messages of directories are.
enum Messages<'a> {
    Blobs(&'a Blobs),
    Tree(HashMap<String, &'a [u8]>),
}

impl Messages<'_> {
    fn get(&self, wanted: &Pending, most: u64) -> Result<Cow<'_, [u8]>, ReapiError> {
        let Pending { path, hash, size } = wanted;
        match self {
            Messages::Blobs(blobs) => Ok(blobs.message(path, hash, Some(*size), most)?.into()),
            Messages::Tree(children) => {
                let missing = || ReapiError::NotInTree { path: shown(path), hash: hash.clone() };
                let message = *children.get(hash).ok_or_else(missing)?;
                blobs::check_size(path, hash, *size, message.len() as u64)?;
                Ok(message.into())
            }
        }
    }
}

/// A directory whose message is to be read.
struct Pending {
    path: PathBuf,
    hash: String,
    size: u64,
}

impl Pending {
    fn of(path: PathBuf, message: Sum<'_>) -> Pending {
        Pending { path, hash: message.hash.to_owned(), size: message.size }
    }
}

struct Walk<'a> {
    options: &'a ImportOptions,
    /// Entries, and the indexes of their contents in `contents`.
    found: Vec<(Entry, Option<usize>)>,
    contents: Vec<Content>,
    by_digest: HashMap<(String, u64), usize>,
    pending: Vec<Pending>,
    /// Of contents; and of messages and paths.
    bytes: u64,
    words: u64,
    properties_skipped: u64,
}

impl<'a> Walk<'a> {
    fn new(options: &'a ImportOptions) -> Walk<'a> {
        Walk {
            options,
            found: Vec::new(),
            contents: Vec::new(),
            by_digest: HashMap::new(),
            pending: Vec::new(),
            bytes: 0,
            words: 0,
            properties_skipped: 0,
        }
    }

    fn all(&mut self, root: &[u8], messages: &Messages<'_>) -> Result<(), ReapiError> {
        self.count(Path::new(""))?;
        self.directory(PathBuf::new(), root)?;
        while let Some(next) = self.pending.pop() {
            let message = messages.get(&next, self.options.max_words - self.words)?;
            self.directory(next.path, &message)?;
        }
        Ok(())
    }

    fn directory(&mut self, path: PathBuf, message: &[u8]) -> Result<(), ReapiError> {
        self.add_words(message.len())?;
        let index = self.found.len();
        self.add(path.clone(), Kind::Directory { opaque: false }, &Properties::default(), 0o755);
        for part in parts(message) {
            match part.map_err(|fault| ReapiError::Message { path: shown(&path), fault })? {
                Part::Node(node) => self.node(&path, node)?,
                Part::Properties(properties) => {
                    self.found[index].0.meta = self.meta(&properties, 0o755);
                }
            }
        }
        Ok(())
    }

    fn node(&mut self, dir: &Path, node: Node<'_>) -> Result<(), ReapiError> {
        let path = dir.join(node.name);
        self.count(&path)?;
        match node.kind {
            NodeKind::Directory { message } => {
                self.pending.push(Pending::of(path, message));
            }
            NodeKind::File { content, executable } => {
                self.bytes = self.bytes.saturating_add(content.size);
                if self.bytes > self.options.max_bytes {
                    return Err(ReapiError::TooManyBytes { limit: self.options.max_bytes });
                }
                let (hash, size) = (content.hash.to_owned(), content.size);
                let content = *self.by_digest.entry((hash.clone(), size)).or_insert_with(|| {
                    self.contents.push(Content { hash, size, path: path.clone() });
                    self.contents.len() - 1
                });
                // Its own digest is known when it is stored.
                let kind = Kind::File { digest: Digest::of(&[]), size };
                self.add(path, kind, &node.properties, if executable { 0o755 } else { 0o644 });
                self.found.last_mut().expect("it was added").1 = Some(content);
            }
            NodeKind::Symlink { target } => {
                let kind = Kind::Symlink { target: target.into() };
                // As Linux has them, which knows no other.
                self.add(path, kind, &Properties { mode: None, ..node.properties }, 0o777);
            }
        }
        Ok(())
    }

    fn add(&mut self, path: PathBuf, kind: Kind, properties: &Properties, mode: u32) {
        let meta = self.meta(properties, mode);
        self.found.push((Entry { path, kind, meta }, None));
    }

    fn meta(&mut self, properties: &Properties, mode: u32) -> Meta {
        self.properties_skipped += properties.others;
        let (uid, gid) = match &self.options.owner {
            Owner::As(uid, gid) => (*uid, *gid),
            Owner::Keep(_) => (0, 0),
        };
        let mtime = clamp(properties.mtime.unwrap_or_default(), self.options.clamp_mtime);
        Meta { mode: properties.mode.unwrap_or(mode), uid, gid, mtime, xattrs: Attributes::new() }
    }

    /// One more name must be within the limits.
    fn count(&mut self, path: &Path) -> Result<(), ReapiError> {
        let (limit, depth) = (self.options.max_entries, self.options.max_depth);
        if (self.found.len() + self.pending.len()) as u64 >= limit {
            return Err(ReapiError::TooManyEntries { limit });
        }
        if path.components().count() > depth {
            return Err(ReapiError::Depth { path: shown(path), limit: depth });
        }
        self.add_words(path.as_os_str().len())
    }

    fn add_words(&mut self, length: usize) -> Result<(), ReapiError> {
        let words = self.words.saturating_add(length as u64);
        if words > self.options.max_words {
            return Err(ReapiError::TooManyWords);
        }
        self.words = words;
        Ok(())
    }
}

/// For messages.
fn shown(path: &Path) -> String {
    format!("{:?}", Path::new("/").join(path))
}
