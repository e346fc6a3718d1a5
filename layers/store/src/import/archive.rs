//! A tar read into the store. Nothing is unpacked to disk: contents go straight into blobs, names into a tree in
//! memory, so that a hostile name has nothing to reach.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufReader, Cursor, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rayon::prelude::*;
use tar::EntryType;

use super::members::{Inode, Members, Node, NodeKind, checked, simplified};
use super::tar::{Member, TarReader};
use super::{ImportError, ImportOptions, Imported, MemberFault, Owner};
use crate::content;
use crate::digest::Digest;
use crate::intake::{Attributes, clamp};
use crate::manifest::{Kind, Manifest, Meta};
use crate::store::{LayerStore, Writer};
use crate::xattrs;

const GZIP: &[u8] = &[0x1F, 0x8B];
const ZSTD: &[u8] = &[0x28, 0xB5, 0x2F, 0xFD];
const XZ: &[u8] = &[0xFD, b'7', b'z', b'X', b'Z', 0];
const BZIP2: &[u8] = b"BZh";

/// Headers are small.
const BUFFER: usize = 128 << 10;

/// Small files wait until there are this many of them, or this many bytes, and are then stored on all processors.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 8 << 20;

type Tar<'r> = TarReader<Box<dyn Read + 'r>>;

/// Stores the content of a tar, plain or compressed by gzip or zstd. Names like `.wh.NAME` and `.wh..wh..opq` mean
/// whiteouts and opaque directories, as in OCI layers.
///
/// Errors: a member with an absolute name, with `..`, beneath something that is no directory; a hard link to nothing;
/// a tar that ends too early or exceeds the limits. Nothing but unnamed blobs is left behind then.
pub fn import_tar(
    reader: impl Read,
    options: &ImportOptions,
    store: &LayerStore,
) -> Result<Imported, ImportError> {
    let writer = store.doubting_writer().map_err(|source| ImportError::Layer { source })?;
    let mut tar = TarReader::new(decompress(reader)?);
    let mut import = Import::new(options, &writer);
    while let Some(member) = tar.next().map_err(|source| import.unread(source))? {
        import.member(&mut tar, member)?;
    }
    import.finish()
}

fn decompress<'a>(mut reader: impl Read + 'a) -> Result<Box<dyn Read + 'a>, ImportError> {
    let read = |source| ImportError::Read { source };
    let mut start = vec![0; 6];
    let length = content::fill(&mut reader, &mut start).map_err(read)?;
    start.truncate(length);
    let compressed_by =
        [(XZ, "xz"), (BZIP2, "bzip2")].into_iter().find(|(magic, _)| start.starts_with(magic));
    if let Some((_, program)) = compressed_by {
        return Err(ImportError::Compression { program });
    }
    if start.is_empty() {
        return Err(ImportError::Empty);
    }
    let kind = start.clone();
    let whole = BufReader::with_capacity(BUFFER, Cursor::new(start).chain(reader));
    if kind.starts_with(GZIP) {
        Ok(Box::new(BufReader::with_capacity(BUFFER, flate2::bufread::MultiGzDecoder::new(whole))))
    } else if kind.starts_with(ZSTD) {
        let decoder = zstd::stream::read::Decoder::with_buffer(whole).map_err(read)?;
        Ok(Box::new(BufReader::with_capacity(BUFFER, decoder)))
    } else {
        Ok(Box::new(whole))
    }
}

struct Import<'a> {
    options: &'a ImportOptions,
    writer: &'a Writer<'a>,
    members: Members,
    contents: Vec<(Digest, u64)>,
    waiting: Vec<(Inode, Vec<u8>)>,
    waiting_bytes: usize,
    entries: u64,
    /// Of contents, and of names and attributes.
    bytes: u64,
    words: u64,
    /// For messages.
    last: String,
    devices_skipped: u64,
}

impl<'a> Import<'a> {
    fn new(options: &'a ImportOptions, writer: &'a Writer<'a>) -> Import<'a> {
        Import {
            options,
            writer,
            members: Members::default(),
            contents: Vec::new(),
            waiting: Vec::new(),
            waiting_bytes: 0,
            entries: 0,
            bytes: 0,
            words: 0,
            last: String::new(),
            devices_skipped: 0,
        }
    }

    fn unread(&self, source: io::Error) -> ImportError {
        if self.last.is_empty() {
            ImportError::Read { source }
        } else {
            ImportError::ReadAfter { member: self.last.clone(), source }
        }
    }

    fn member(&mut self, tar: &mut Tar<'_>, member: Member) -> Result<(), ImportError> {
        let name = String::from_utf8_lossy(&member.name).into_owned();
        self.last.clone_from(&name);
        self.count(&member)?;
        let Some(kind) = self.kind(tar, &member, &name)? else { return Ok(()) };
        let refuse = |fault| ImportError::Member { member: name.clone(), fault };
        let path = simplified(&member.name).map_err(refuse)?;
        if path.components().count() > self.options.max_depth {
            return Err(refuse(MemberFault::Depth { limit: self.options.max_depth }));
        }
        let meta = self.meta(member, &name)?;
        let base = path.file_name().unwrap_or_default().as_bytes();
        let parent = path.parent().unwrap_or(Path::new(""));
        let placed = match base.strip_prefix(b".wh.") {
            Some(b".wh..opq") => checked(parent.to_owned()).and_then(|dir| self.members.make_opaque(&dir)),
            // aufs's own bookkeeping.
            Some(rest) if rest.starts_with(b".wh.") => Ok(()),
            Some(b"" | b"." | b"..") => Err(MemberFault::Name),
            // The name that was deleted may be as long as a name can be, and the whiteout's is longer then.
            Some(lower) => {
                checked(parent.join(OsStr::from_bytes(lower))).and_then(|lower| self.members.white_out(lower))
            }
            None => checked(path).and_then(|path| self.place(path, kind, meta)),
        };
        placed.map_err(refuse)
    }

    /// What it adds must be within the limits. Directories that it implies count as members.
    fn count(&mut self, member: &Member) -> Result<(), ImportError> {
        let attributes = member.attributes.iter().map(|(name, value)| name.len() + value.len());
        let words = member.name.len() + member.target.len() + attributes.sum::<usize>();
        self.words = self.words.saturating_add(words as u64);
        self.entries += 1;
        let (count, implied_bytes) = self.members.count();
        let (most, most_words) = (self.options.max_entries, self.options.max_words);
        if self.entries.max(count) > most {
            return Err(ImportError::TooManyEntries { limit: most });
        }
        if self.words.saturating_add(implied_bytes) > most_words {
            return Err(ImportError::TooManyWords { limit: most_words });
        }
        Ok(())
    }

    /// What a member is; a file's content is in the store, or on its way, afterwards. `None`: not to be recorded.
    fn kind(
        &mut self,
        tar: &mut Tar<'_>,
        member: &Member,
        name: &str,
    ) -> Result<Option<MemberKind>, ImportError> {
        let refuse = |fault| ImportError::Member { member: name.to_owned(), fault };
        let kind = match member.kind {
            // An old tar has no directories, only names that end in a slash.
            EntryType::Regular | EntryType::Continuous if name.ends_with('/') => directory(),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                NodeKind::File(self.content(tar, member, name)?)
            }
            EntryType::Directory => directory(),
            EntryType::Symlink => {
                NodeKind::Other(Kind::Symlink { target: OsString::from_vec(member.target.clone()) })
            }
            EntryType::Link => return Ok(Some(MemberKind::HardLink(member.target.clone()))),
            EntryType::Fifo => NodeKind::Other(Kind::Fifo),
            kind @ (EntryType::Char | EntryType::Block) => {
                let (major, minor) = member.device.ok_or_else(|| refuse(MemberFault::Number))?;
                let block = kind == EntryType::Block;
                // 0:0 is overlayfs's whiteout, in a tar of an upper; as a device it means nothing.
                if !self.options.devices || (!block && (major, minor) == (0, 0)) {
                    self.devices_skipped += 1;
                    return Ok(None);
                }
                NodeKind::Other(Kind::Device { block, major, minor })
            }
            other => return Err(refuse(MemberFault::Type(char::from(other.as_byte())))),
        };
        Ok(Some(MemberKind::Node(kind)))
    }

    fn place(&mut self, path: std::path::PathBuf, kind: MemberKind, meta: Meta) -> Result<(), MemberFault> {
        let node = match kind {
            MemberKind::Node(kind) if path.as_os_str().is_empty() => match kind {
                NodeKind::Other(Kind::Directory { .. }) => Node { kind, meta },
                _ => return Err(MemberFault::Name),
            },
            MemberKind::Node(kind) => Node { kind, meta },
            MemberKind::HardLink(target) => {
                let missing =
                    || MemberFault::HardLink { target: String::from_utf8_lossy(&target).into_owned() };
                let found = self.members.get(&checked(simplified(&target)?)?).ok_or_else(missing)?;
                match found.kind {
                    // A second link to a symlink is as good as another symlink.
                    NodeKind::File(_) | NodeKind::Other(Kind::Symlink { .. }) => found.clone(),
                    _ => return Err(missing()),
                }
            }
        };
        self.members.insert(path, node)
    }

    fn content(&mut self, tar: &mut Tar<'_>, member: &Member, name: &str) -> Result<Inode, ImportError> {
        let wanted = member.size;
        self.bytes = self.bytes.saturating_add(wanted);
        if self.bytes > self.options.max_bytes {
            return Err(ImportError::TooManyBytes { limit: self.options.max_bytes });
        }
        let mut content = tar.content(member);
        let inode = self.contents.len();
        let found = if wanted <= content::SMALL {
            let mut bytes = Vec::with_capacity(wanted as usize);
            content
                .read_to_end(&mut bytes)
                .map_err(|source| ImportError::ReadMember { member: name.to_owned(), source })?;
            let found = bytes.len() as u64;
            self.contents.push((Digest::of(&[]), found));
            self.waiting_bytes += bytes.len();
            self.waiting.push((inode, bytes));
            if self.waiting.len() >= BATCH || self.waiting_bytes >= BATCH_BYTES {
                self.store_waiting()?;
            }
            found
        } else {
            let stored = self.writer.put_blob(content).map_err(|source| ImportError::Store { source })?;
            self.contents.push(stored);
            stored.1
        };
        if found != wanted {
            let fault = MemberFault::Short { wanted, found };
            return Err(ImportError::Member { member: name.to_owned(), fault });
        }
        Ok(inode)
    }

    fn store_waiting(&mut self) -> Result<(), ImportError> {
        let writer = self.writer;
        let stored: Vec<(Inode, Digest)> = self
            .waiting
            .par_iter()
            .map(|(inode, bytes)| {
                let digest = Digest::of(bytes);
                writer.put_bytes(&digest, bytes)?;
                Ok((*inode, digest))
            })
            .collect::<Result<_, _>>()
            .map_err(|source| ImportError::Store { source })?;
        for (inode, digest) in stored {
            self.contents[inode].0 = digest;
        }
        self.waiting.clear();
        self.waiting_bytes = 0;
        Ok(())
    }

    fn meta(&self, member: Member, name: &str) -> Result<Meta, ImportError> {
        let unmapped = || ImportError::Member { member: name.to_owned(), fault: MemberFault::Number };
        let (uid, gid) = match &self.options.owner {
            Owner::As(uid, gid) => (*uid, *gid),
            Owner::Keep(map) => {
                let id = |id: u64| u32::try_from(id).map_err(|_| unmapped());
                let uid = map.uid_inside(id(member.uid)?).map_err(|_| unmapped())?;
                (uid, map.gid_inside(id(member.gid)?).map_err(|_| unmapped())?)
            }
        };
        let kept = member.attributes.into_iter().filter(|(name, _)| xattrs::is_kept(name));
        let xattrs: Attributes = kept.map(|(name, value)| (OsString::from_vec(name), value)).collect();
        let mtime = clamp(member.mtime, self.options.clamp_mtime);
        Ok(Meta { mode: member.mode, uid, gid, mtime, xattrs })
    }

    fn finish(mut self) -> Result<Imported, ImportError> {
        self.store_waiting()?;
        let entries = self.members.into_entries(&self.contents);
        let manifest = Manifest::from_entries(entries).map_err(|source| ImportError::Entries { source })?;
        let digest = self.writer.put_layer(&manifest).map_err(|source| ImportError::Layer { source })?;
        Ok(Imported { devices_skipped: self.devices_skipped, ..Imported::of(digest, &manifest) })
    }
}

enum MemberKind {
    Node(NodeKind),
    /// The name it is a link to, as the tar has it.
    HardLink(Vec<u8>),
}

fn directory() -> NodeKind {
    NodeKind::Other(Kind::Directory { opaque: false })
}
