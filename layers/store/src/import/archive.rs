//! A tar read into the store. Nothing is unpacked to disk: contents go straight into blobs, names into a tree in
//! memory, so that a hostile name has nothing to reach.

use std::ffi::{OsStr, OsString};
use std::io::{self, Cursor, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rayon::prelude::*;
use tar::{Archive, EntryType};

use super::members::{Inode, Members, Node, NodeKind, clean};
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

/// Small files wait until there are this many of them, or this many bytes, and are then stored on all processors.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 8 << 20;

type Member<'a, 'r> = tar::Entry<'a, Box<dyn Read + 'r>>;

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
    let mut archive = Archive::new(decompress(reader)?);
    let mut import = Import::new(options, &writer);
    for member in archive.entries().map_err(|source| ImportError::Read { source })? {
        import.member(member.map_err(|source| ImportError::Read { source })?)?;
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
    let whole = Cursor::new(start).chain(reader);
    if kind.starts_with(GZIP) {
        Ok(Box::new(flate2::read::MultiGzDecoder::new(whole)))
    } else if kind.starts_with(ZSTD) {
        Ok(Box::new(zstd::stream::read::Decoder::new(whole).map_err(read)?))
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
    bytes: u64,
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
            devices_skipped: 0,
        }
    }

    fn member(&mut self, mut member: Member<'_, '_>) -> Result<(), ImportError> {
        let name = String::from_utf8_lossy(&member.path_bytes()).into_owned();
        self.entries += 1;
        if self.entries > self.options.max_entries {
            return Err(ImportError::TooManyEntries { limit: self.options.max_entries });
        }
        let Some(kind) = self.kind(&mut member, &name)? else { return Ok(()) };
        let refuse = |fault| ImportError::Member { member: name.clone(), fault };
        let path = clean(&member.path_bytes()).map_err(refuse)?;
        let meta = self.meta(&mut member, &name)?;
        let base = path.file_name().unwrap_or_default().as_bytes();
        let parent = path.parent().unwrap_or(Path::new(""));
        let placed = match base.strip_prefix(b".wh.") {
            Some(b".wh..opq") => self.members.make_opaque(parent),
            // aufs's own bookkeeping.
            Some(rest) if rest.starts_with(b".wh.") => Ok(()),
            Some(b"" | b"." | b"..") => Err(MemberFault::Name),
            Some(lower) => self.members.white_out(parent.join(OsStr::from_bytes(lower))),
            None => self.place(path, kind, meta),
        };
        placed.map_err(refuse)
    }

    /// What a member is; a file's content is in the store, or on its way, afterwards. `None`: not to be recorded.
    fn kind(&mut self, member: &mut Member<'_, '_>, name: &str) -> Result<Option<MemberKind>, ImportError> {
        let refuse = |fault| ImportError::Member { member: name.to_owned(), fault };
        let header = member.header();
        let device = |number: io::Result<Option<u32>>| {
            number.ok().flatten().ok_or_else(|| refuse(MemberFault::Number))
        };
        let kind = match header.entry_type() {
            // An old tar has no directories, only names that end in a slash.
            EntryType::Regular | EntryType::Continuous if name.ends_with('/') => directory(),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                refuse_pax_sparse(member, name)?;
                NodeKind::File(self.content(member, name)?)
            }
            EntryType::Directory => directory(),
            EntryType::Symlink => {
                let target = member.link_name_bytes().unwrap_or_default().into_owned();
                NodeKind::Other(Kind::Symlink { target: OsString::from_vec(target) })
            }
            EntryType::Link => {
                let target = member.link_name_bytes().unwrap_or_default().into_owned();
                return Ok(Some(MemberKind::HardLink(target)));
            }
            EntryType::Fifo => NodeKind::Other(Kind::Fifo),
            kind @ (EntryType::Char | EntryType::Block) => {
                let (major, minor) = (device(header.device_major())?, device(header.device_minor())?);
                let block = kind == EntryType::Block;
                // 0:0 is overlayfs's whiteout, in a tar of an upper; as a device it means nothing.
                if !self.options.devices || (!block && (major, minor) == (0, 0)) {
                    self.devices_skipped += 1;
                    return Ok(None);
                }
                NodeKind::Other(Kind::Device { block, major, minor })
            }
            EntryType::XGlobalHeader => return Ok(None),
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
                let found = self.members.get(&clean(&target)?).ok_or_else(missing)?;
                match found.kind {
                    // A second link to a symlink is as good as another symlink.
                    NodeKind::File(_) | NodeKind::Other(Kind::Symlink { .. }) => found.clone(),
                    _ => return Err(missing()),
                }
            }
        };
        self.members.insert(path, node)
    }

    fn content(&mut self, member: &mut Member<'_, '_>, name: &str) -> Result<Inode, ImportError> {
        let wanted = member.size();
        self.bytes = self.bytes.saturating_add(wanted);
        if self.bytes > self.options.max_bytes {
            return Err(ImportError::TooManyBytes { limit: self.options.max_bytes });
        }
        let inode = self.contents.len();
        let found = if wanted <= content::SMALL {
            let mut bytes = Vec::with_capacity(wanted as usize);
            member
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
            let stored = self.writer.put_blob(member).map_err(|source| ImportError::Store { source })?;
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

    fn meta(&self, member: &mut Member<'_, '_>, name: &str) -> Result<Meta, ImportError> {
        let number = |_| ImportError::Member { member: name.to_owned(), fault: MemberFault::Number };
        let header = member.header();
        let old = header.as_old();
        let mode =
            number_or_blank(&old.mode, || header.mode().map(u64::from)).map_err(number)? as u32 & 0o7777;
        let seconds = number_or_blank(&old.mtime, || header.mtime()).map_err(number)?;
        let mut mtime = (i64::try_from(seconds).unwrap_or(0), 0);
        let uid = number_or_blank(&old.uid, || header.uid()).map_err(number)?;
        let ids = (uid, number_or_blank(&old.gid, || header.gid()).map_err(number)?);
        let unmapped = || ImportError::Member { member: name.to_owned(), fault: MemberFault::Number };
        let (uid, gid) = match &self.options.owner {
            Owner::As(uid, gid) => (*uid, *gid),
            Owner::Keep(map) => {
                let id = |id: u64| u32::try_from(id).map_err(|_| unmapped());
                let uid = map.uid_inside(id(ids.0)?).map_err(|_| unmapped())?;
                (uid, map.gid_inside(id(ids.1)?).map_err(|_| unmapped())?)
            }
        };
        let mut attributes = Attributes::new();
        let read = |source| ImportError::ReadMember { member: name.to_owned(), source };
        for extension in member.pax_extensions().map_err(read)?.into_iter().flatten() {
            let extension = extension.map_err(read)?;
            let key = extension.key_bytes();
            if let Some(xattr) = key.strip_prefix(b"SCHILY.xattr.").filter(|xattr| xattrs::is_kept(xattr)) {
                attributes.insert(OsStr::from_bytes(xattr).to_owned(), extension.value_bytes().to_vec());
            } else if key == b"mtime" {
                mtime = extension.value().ok().and_then(parse_time).ok_or_else(unmapped)?;
            }
        }
        Ok(Meta { mode, uid, gid, mtime: clamp(mtime, self.options.clamp_mtime), xattrs: attributes })
    }

    fn finish(mut self) -> Result<Imported, ImportError> {
        self.store_waiting()?;
        let entries = self.members.into_entries(&self.contents);
        let manifest = Manifest::from_entries(entries).map_err(|source| ImportError::Entries { source })?;
        let digest = self.writer.put_layer(&manifest).map_err(|source| ImportError::Layer { source })?;
        let (files, bytes) = manifest.totals();
        Ok(Imported {
            digest,
            entries: manifest.entries.len() as u64,
            files,
            bytes,
            devices_skipped: self.devices_skipped,
            sockets_skipped: 0,
        })
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

/// Such a member's body is a map and the data; read as it stands it would be a wrong file.
fn refuse_pax_sparse(member: &mut Member<'_, '_>, name: &str) -> Result<(), ImportError> {
    let extensions = member
        .pax_extensions()
        .map_err(|source| ImportError::ReadMember { member: name.to_owned(), source })?;
    let sparse = extensions
        .into_iter()
        .flatten()
        .any(|extension| extension.is_ok_and(|extension| extension.key_bytes().starts_with(b"GNU.sparse.")));
    if sparse {
        return Err(ImportError::Member { member: name.to_owned(), fault: MemberFault::PaxSparse });
    }
    Ok(())
}

/// An empty field is 0 to every tar program, and an error to the tar crate.
fn number_or_blank(field: &[u8], parse: impl FnOnce() -> io::Result<u64>) -> io::Result<u64> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) { Ok(0) } else { parse() }
}

/// A time of PAX: seconds, perhaps negative, perhaps with a fraction.
fn parse_time(text: &str) -> Option<(i64, u32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    if whole.starts_with('-') && nanoseconds > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds));
    }
    Some((seconds, nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_times_keep_their_fraction() {
        assert_eq!(parse_time("1700000000.25"), Some((1_700_000_000, 250_000_000)));
        assert_eq!(parse_time("-1.5"), Some((-2, 500_000_000)));
        assert_eq!(parse_time("12"), Some((12, 0)));
        assert_eq!(parse_time("x"), None);
    }
}
