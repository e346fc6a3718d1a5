//! The host: files reached beneath descriptors, and what stat says of them.

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, openat2};
use rustix::io::Errno;
use rustix::path::Arg;
use vfsrun_sys::{beneath, xattr};

use crate::acl::{self, List};
use crate::attr::{Attr, FileKind, Time};
use crate::branch::Branch;
use crate::describe::Rewrite;
use crate::fingerprint;
use crate::origin::{Anchor, Start};
use crate::owners::{Owners, is_readable};
use crate::trust;

/// A live directory or file of the host.
#[derive(Debug)]
pub(crate) struct HostBranch {
    pub(crate) root: Arc<OwnedFd>,
    /// The client's `/`, for links of scope `host`.
    pub(crate) host: Option<Arc<OwnedFd>>,
    /// The file that `root` is the content of.
    pub(crate) image: Option<Arc<OwnedFd>>,
}

/// Opens without touching: no device is woken, no fifo waits.
pub(crate) const LOOK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW);
/// Opens a regular file. NONBLOCK: a write lease of somebody else is an error, not a wait.
pub(crate) const READ: OFlags =
    OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);
/// openat2 takes less than PATH_MAX (4096) at a time.
const LONGEST: usize = 3800;

impl HostBranch {
    /// Opens (O_PATH) what lies at `rest` seen from `anchor`. No symlink on the way is followed but the anchor's own.
    pub(crate) fn open(&self, anchor: &Anchor, rest: &Path) -> Result<OwnedFd, Errno> {
        match &anchor.start {
            Start::Root => look(&self.root, rest),
            Start::Beneath(path) => look(&self.root, &join(path, rest)),
            Start::Link { from, dir, name } => {
                let target = self.open_target(from, dir, name)?;
                look(&target, rest)
            }
        }
    }

    /// Opens (O_PATH) what the link leads to as the host resolves it: absolute targets from the host's root.
    pub(crate) fn open_target(&self, from: &Anchor, dir: &Path, name: &OsStr) -> Result<OwnedFd, Errno> {
        let dir = self.open(from, dir)?;
        let target = link_target(look(&dir, Path::new(name))?.as_fd())?;
        let host = self.host.as_ref().ok_or(Errno::NOENT)?;
        open_on_host(host, dir.as_fd(), Path::new(OsStr::from_bytes(&target)))
    }
}

/// Opens (O_PATH) `path` as the host resolves it: an absolute one in `host`, a relative one from `dir`.
pub(crate) fn open_on_host(host: &OwnedFd, dir: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    if path.is_absolute() {
        return beneath::open_in_root(host, path, OFlags::PATH).map_err(errno);
    }
    loop {
        let opened =
            openat2(dir, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_MAGICLINKS);
        match opened {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Opens (O_PATH) `path` beneath `root`, symlinks not followed; longer paths than the kernel takes at once included.
pub(crate) fn look(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    if path.as_os_str().is_empty() {
        // Of a branch that is one file there is no `.` to open.
        return rustix::io::fcntl_dupfd_cloexec(root, 0);
    }
    if path.as_os_str().len() < LONGEST {
        return beneath::open(root, path, LOOK).map_err(errno);
    }
    let (mut dir, mut part) = (None, PathBuf::new());
    for component in path.components() {
        if part.as_os_str().len() + component.as_os_str().len() >= LONGEST {
            let from = dir.as_ref().unwrap_or(root);
            dir = Some(beneath::open(from, &part, LOOK | OFlags::DIRECTORY).map_err(errno)?);
            part = PathBuf::new();
        }
        part.push(component);
    }
    beneath::open(dir.as_ref().unwrap_or(root), &part, LOOK).map_err(errno)
}

/// Opens for reading what `fd` (O_PATH) holds, whatever its name means by now.
pub(crate) fn reopen(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    rustix::fs::open(magic_link(fd), READ, Mode::empty())
}

/// Whether a store through a mapping may leave nothing that a later stat or lease shows: a page of tmpfs that was read
/// through a mapping is stored to without a fault.
pub(crate) fn hides_stores(file: &OwnedFd) -> bool {
    const TMPFS: u64 = 0x0102_1994;
    rustix::fs::fstatfs(file).is_ok_and(|fs| fs.f_type as u64 == TMPFS)
}

/// Whether a directory (O_PATH) may find a name in another spelling than its own (linux/magic.h).
pub(crate) fn may_fold_case(dir: &OwnedFd) -> bool {
    const FOLDING: [u64; 8] = [
        0x4d44,      // vfat
        0x2011_bab0, // exfat
        0x7366_746e, // ntfs3
        0x482b,      // hfsplus
        0xff53_4d42, // cifs
        0xfe53_4d42, // smb2
        0x0102_1997, // 9p
        0x6573_5546, // fuse
    ];
    rustix::fs::fstatfs(dir).is_ok_and(|fs| FOLDING.contains(&(fs.f_type as u64)))
        || open_to_list(dir).is_ok_and(|dir| folds_case(&dir))
}

/// As a directory says itself, on ext4, f2fs and tmpfs.
fn folds_case(dir: &Dir) -> bool {
    // FS_CASEFOLD_FL of linux/fs.h.
    const CASEFOLD: u32 = 0x4000_0000;
    let flags = dir.fd().and_then(rustix::fs::ioctl_getflags);
    flags.is_ok_and(|flags| flags.bits() & CASEFOLD != 0)
}

/// Whether a name is found in a directory exactly if it is listed there (linux/magic.h). Others may find what they
/// do not list, as automounters do.
pub(crate) fn lists_what_it_finds(dir: &Dir) -> bool {
    // None of these is one of those that fold case as a whole.
    const LISTING: [u64; 7] = [
        0xef53,      // ext4
        0x5846_5342, // xfs
        0x9123_683e, // btrfs
        0xf2f5_2010, // f2fs
        0x0102_1994, // tmpfs
        0xe0f5_e1e2, // erofs
        0x7371_7368, // squashfs
    ];
    dir.statfs().is_ok_and(|fs| LISTING.contains(&(fs.f_type as u64))) && !folds_case(dir)
}

/// What overlayfs means by a file of an upper (fs/overlayfs/util.c).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    None,
    Whiteout,
    /// Of a directory: the lower ones do not show through.
    Opaque,
    /// The content of the file, or what is below the directory, lies elsewhere in a lower layer.
    OnlyAPart,
}

pub(crate) fn overlay_mark(fd: BorrowedFd<'_>, stat: &Stat) -> Mark {
    let path = magic_link(fd);
    let value = |name: &str| {
        let get = |space: &str| {
            let mut value = [0; 1];
            match rustix::fs::getxattr(&path, format!("{space}.overlay.{name}"), &mut value) {
                Ok(length) => Some(value[..length].to_vec()),
                // Longer.
                Err(Errno::RANGE) => Some(Vec::new()),
                Err(_) => None,
            }
        };
        get("user").or_else(|| get("trusted"))
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice if stat.st_rdev == 0 => Mark::Whiteout,
        FileType::RegularFile if stat.st_size == 0 && value("whiteout").is_some() => Mark::Whiteout,
        FileType::RegularFile if value("metacopy").is_some() => Mark::OnlyAPart,
        FileType::Directory if value("redirect").is_some() => Mark::OnlyAPart,
        FileType::Directory if value("opaque").as_deref() == Some(b"y") => Mark::Opaque,
        _ => Mark::None,
    }
}

/// What makes a directory of an unpacked image layer opaque.
pub(crate) const OCI_OPAQUE: &str = ".wh..wh..opq";
const OCI_WHITEOUT: &[u8] = b".wh.";

/// The name that a marker of an unpacked image layer deletes, empty if it deletes none; `None` for what is no marker.
pub(crate) fn oci_deletes(name: &OsStr) -> Option<&OsStr> {
    let name = name.as_bytes().strip_prefix(OCI_WHITEOUT)?;
    Some(OsStr::from_bytes(if name.starts_with(OCI_WHITEOUT) { b"" } else { name }))
}

/// The marker that deletes a name.
pub(crate) fn oci_marker(name: &OsStr) -> OsString {
    OsString::from_vec([OCI_WHITEOUT, name.as_bytes()].concat())
}

/// The one way to say "this very file" to calls that take no descriptor. /proc is verified when a segment is built.
pub(crate) use vfsrun_sys::fd_passing::magic_link;

/// Errors: /proc is not procfs.
pub(crate) fn verify_proc() -> io::Result<()> {
    let stat = rustix::fs::statfs("/proc/self/fd")?;
    if stat.f_type == rustix::fs::PROC_SUPER_MAGIC {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "/proc is not a proc file system"))
}

pub(crate) fn link_target(fd: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    Ok(rustix::fs::readlinkat(fd, "", Vec::new())?.into_bytes())
}

type Listed = Vec<(OsString, Option<FileType>, u64)>;

/// As [`read_names`], of a directory (O_PATH).
pub(crate) fn read_dir(dir: &OwnedFd, most: usize) -> Result<Listed, Errno> {
    read_names(&mut open_to_list(dir)?, most)
}

pub(crate) fn open_to_list(dir: &OwnedFd) -> Result<Dir, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Dir::new(rustix::fs::openat(dir, ".", flags, Mode::empty())?)
}

/// Name, type and inode number of each name in a directory, without `.` and `..`; `None` where the file system does
/// not tell the type. Errors: OVERFLOW for more than `most`.
pub(crate) fn read_names(dir: &mut Dir, most: usize) -> Result<Listed, Errno> {
    let mut entries = Vec::new();
    for entry in dir {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            let kind = Some(entry.file_type()).filter(|kind| *kind != FileType::Unknown);
            if entries.len() == most {
                return Err(Errno::OVERFLOW);
            }
            entries.push((OsString::from_vec(name.to_vec()), kind, entry.ino()));
        }
    }
    Ok(entries)
}

/// Devices are not shown: their major and minor numbers would be the host's.
pub(crate) fn kind_of(kind: FileType) -> Option<FileKind> {
    match kind {
        FileType::Directory => Some(FileKind::Directory),
        FileType::RegularFile => Some(FileKind::Regular),
        FileType::Symlink => Some(FileKind::Symlink),
        FileType::Fifo => Some(FileKind::Fifo),
        FileType::Socket => Some(FileKind::Socket),
        FileType::BlockDevice | FileType::CharacterDevice | FileType::Unknown => None,
    }
}

/// What is shown of a host file (with `ino` still 0): set-id bits gone unless they are trusted, owners rewritten, no
/// permission that the server itself does not have. `None` for devices.
pub(crate) fn attr_of(fd: BorrowedFd<'_>, stat: &Stat, owners: &Owners, branch: &Branch) -> Option<Attr> {
    let list = || acl::of_host(fd, acl::ACCESS, stat, owners, branch);
    let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let mask = trust::perm_mask(is_dir, trust::in_host_file(fd, stat, owners, branch));
    let hides_list = may_have_list(stat) && !is_dir_without_list(fd, stat) && matches!(list(), List::Hidden);
    let mut attr = attr_within(mask, stat, hides_list)?;
    let rewrite = branch.rewrite.as_ref();
    let rewritten = owners.of_host(attr.uid, attr.gid);
    (attr.uid, attr.gid) = rewritten.unwrap_or((attr.uid, attr.gid));
    if let Some(rewrite) = rewrite {
        if let Some(said) = overridden(fd, rewrite) {
            (attr.uid, attr.gid) = owners.of_layer(said.uid, said.gid);
            attr.perm = said.perm & mask;
        }
        (attr.uid, attr.gid) = owners.instead(rewrite, attr.uid, attr.gid);
        if attr.kind != FileKind::Symlink {
            attr.perm = rewrite.perms.iter().fold(attr.perm, |perm, change| change.apply(perm, is_dir));
        }
    }
    let is_another = rewritten.is_some() || rewrite.is_some();
    if is_another && attr.kind != FileKind::Symlink && !is_readable(fd, is_dir) {
        attr.perm = 0;
    }
    Some(attr)
}

/// The same for a file whose owner and permissions are those of the host, set-id bits gone.
pub(crate) fn plain_attr(stat: &Stat, hides_list: bool) -> Option<Attr> {
    let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    attr_within(trust::perm_mask(is_dir, false), stat, hides_list)
}

/// With the permission bits of `mask` alone.
fn attr_within(mask: u16, stat: &Stat, hides_list: bool) -> Option<Attr> {
    let kind = kind_of(FileType::from_raw_mode(stat.st_mode))?;
    let mut perm = stat.st_mode as u16 & mask;
    if hides_list {
        // The list may give less than the mode says, to anybody but the owner.
        perm &= !0o077;
    }
    let time = |sec: i64, nsec: u64| Time { sec, nsec: nsec as u32 };
    Some(Attr {
        ino: 0,
        kind,
        perm,
        nlink: stat.st_nlink as u32,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: stat.st_size as u64,
        blocks: stat.st_blocks as u64,
        blksize: stat.st_blksize as u32,
        atime: time(stat.st_atime, stat.st_atime_nsec),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
    })
}

/// The stat of what lies at a name, and whether an access control list says more than its mode, without opening it: half of
/// what a look costs. `None`: look at it. Only where a file that is moved gets a new ctime, by the clock of this machine.
pub(crate) fn glance(dir: &OwnedFd, name: &OsStr) -> Result<Option<(Stat, bool)>, Errno> {
    let has_list = match xattr::is_set_at(dir, name, acl::ACCESS) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(Errno::NOENT),
        has_list => has_list.ok(),
    };
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if !may_have_list(&stat) {
        return Ok(Some((stat, false)));
    }
    // Had another file come to be at the name meanwhile, its ctime would tell.
    Ok(has_list.filter(|_| !fingerprint::is_racy(&stat)).map(|has_list| (stat, has_list)))
}

/// Owner and permissions that a container store keeps beside a file.
#[derive(Debug, PartialEq, Eq)]
struct Overridden {
    uid: u32,
    gid: u32,
    perm: u16,
}

fn overridden(fd: BorrowedFd<'_>, rewrite: &Rewrite) -> Option<Overridden> {
    if !rewrite.override_stat {
        return None;
    }
    let mut value = [0; 64];
    let length = rustix::fs::getxattr(magic_link(fd), "user.containers.override_stat", &mut value).ok()?;
    parse_overridden(str::from_utf8(&value[..length]).ok()?)
}

/// `UID:GID:MODE`, the mode in octal, then perhaps a type, which is the file's own here.
fn parse_overridden(text: &str) -> Option<Overridden> {
    let mut parts = text.split(':');
    let (uid, gid) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let mode = u32::from_str_radix(parts.next()?, 8).ok()?;
    Some(Overridden { uid, gid, perm: (mode & 0o7777) as u16 })
}

/// Whether a POSIX access control list could take away what the mode gives.
fn may_have_list(stat: &Stat) -> bool {
    stat.st_mode & 0o077 != 0 && FileType::from_raw_mode(stat.st_mode) != FileType::Symlink
}

/// Known by a directory's own name in itself, for a tenth of what the way through /proc costs.
fn is_dir_without_list(fd: BorrowedFd<'_>, stat: &Stat) -> bool {
    let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    is_dir && xattr::is_set_at(fd, OsStr::new("."), acl::ACCESS).is_ok_and(|is_set| !is_set)
}

/// An extended attribute of what `fd` (O_PATH) holds, but for a symlink, which it would follow.
pub(crate) fn get_xattr(fd: BorrowedFd<'_>, name: impl Arg + Copy) -> Result<Vec<u8>, Errno> {
    let path = magic_link(fd);
    grow(|buffer| rustix::fs::getxattr(&path, name, buffer))
}

/// The names of all of them.
pub(crate) fn list_xattrs(fd: BorrowedFd<'_>) -> Result<Vec<OsString>, Errno> {
    let path = magic_link(fd);
    let list = grow(|buffer| rustix::fs::listxattr(&path, buffer))?;
    let names = list.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| OsString::from_vec(name.to_vec())).collect())
}

/// XATTR_SIZE_MAX and XATTR_LIST_MAX of the kernel.
const LONGEST_XATTR: usize = 1 << 16;

fn grow(mut ask: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 256];
    loop {
        match ask(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < LONGEST_XATTR => buffer = vec![0; LONGEST_XATTR],
            Err(errno) => return Err(errno),
        }
    }
}

pub(crate) fn join(base: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() { base.to_owned() } else { base.join(rest) }
}

pub(crate) fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_container_store_says_is_read_and_nonsense_is_not() {
        let said = |uid, gid, perm| Some(Overridden { uid, gid, perm });
        assert_eq!(parse_overridden("0:42:0644"), said(0, 42, 0o644));
        assert_eq!(parse_overridden("1:2:100755:file"), said(1, 2, 0o755));
        for text in ["", "0:0", "0:0:", "a:0:0644", "0:0:0999", "-1:0:0644", "4294967296:0:0644"] {
            assert_eq!(parse_overridden(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_directory_with_too_many_names_is_an_error() {
        let temp = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c"] {
            std::fs::write(temp.path().join(name), "").unwrap();
        }
        let dir = rustix::fs::open(temp.path(), OFlags::PATH, Mode::empty()).unwrap();
        assert_eq!(read_dir(&dir, 3).unwrap().len(), 3);
        assert_eq!(read_dir(&dir, 2).unwrap_err(), Errno::OVERFLOW);
    }
}
