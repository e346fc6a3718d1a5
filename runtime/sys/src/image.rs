//! An image: a file system in a file, which the kernel serves read-only.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::mount::{Attr, NewMount};

/// A mount of the image that is attached nowhere, read-only, nodev, and nosuid unless its set-id bits are to count. It is
/// gone, with its loop device, when the descriptor is closed.
///
/// Errors: InvalidData for what is neither EROFS nor squashfs, EPERM without CAP_SYS_ADMIN in the initial user namespace.
pub fn mount(file: impl AsFd, suid: bool) -> io::Result<OwnedFd> {
    let file = file.as_fd();
    let kind = kind(file)?;
    if kind != EROFS {
        return mount_by_loop(kind, file, suid);
    }
    // Since Linux 6.12 it takes a file as it is.
    mount_file(kind, file, suid)
        .or_else(|first| mount_by_loop(kind, file, suid).map_err(|second| both(&first, &second)))
}

fn mount_file(kind: &CStr, file: impl AsFd, suid: bool) -> io::Result<OwnedFd> {
    let nosuid = if suid { Attr::empty() } else { Attr::MOUNT_ATTR_NOSUID };
    let attributes = Attr::MOUNT_ATTR_RDONLY | Attr::MOUNT_ATTR_NODEV | nosuid;
    let source = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    NewMount::of(kind)?.option(c"source", source.as_bytes())?.flag(c"ro")?.create(attributes)
}

fn mount_by_loop(kind: &CStr, file: BorrowedFd<'_>, suid: bool) -> io::Result<OwnedFd> {
    let device = attach_loop(file)
        .map_err(|error| io::Error::new(error.kind(), format!("there is no loop device for it: {error}")))?;
    mount_file(kind, device, suid)
}

/// The kernel's word on the image is in the first one, unless it takes no files.
fn both(first: &io::Error, second: &io::Error) -> io::Error {
    let [one, two] = [first, second].map(ToString::to_string);
    let text = if one == two { one } else { format!("as a file: {one}; by a loop device: {two}") };
    io::Error::new(second.kind(), text)
}

const EROFS: &CStr = c"erofs";
const SQUASHFS: &CStr = c"squashfs";

/// By the magic numbers of erofs_fs.h and squashfs_fs.h.
fn kind(file: BorrowedFd<'_>) -> io::Result<&'static CStr> {
    let mut magic = [0; 4];
    let mut is_at = |offset, wanted: u32| match rustix::io::pread(file, &mut magic, offset) {
        Ok(4) => Ok(u32::from_le_bytes(magic) == wanted),
        Ok(_) => Ok(false),
        Err(errno) => Err(io::Error::from(errno)),
    };
    if is_at(1024, 0xe0f5_e1e2)? {
        Ok(EROFS)
    } else if is_at(0, 0x7371_7368)? {
        Ok(SQUASHFS)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "it is neither EROFS nor squashfs"))
    }
}

const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4c82;
const LOOP_CONFIGURE: libc::c_ulong = 0x4c0a;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// struct loop_config of linux/loop.h, with struct loop_info64 in it.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    devices_and_range: [u64; 5],
    number_and_encryption: [u32; 3],
    flags: u32,
    names_and_key: [u8; 160],
    init: [u64; 2],
    reserved: [u64; 8],
}

/// A loop device of the file; the kernel takes it back with its last user.
fn attach_loop(file: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let control = rustix::fs::open("/dev/loop-control", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let config = LoopConfig {
        fd: file.as_raw_fd() as u32,
        block_size: 0,
        devices_and_range: [0; 5],
        number_and_encryption: [0; 3],
        flags: LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR,
        names_and_key: [0; 160],
        init: [0; 2],
        reserved: [0; 8],
    };
    loop {
        // SAFETY: the request takes no argument and writes nothing.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
        if number < 0 {
            return Err(io::Error::last_os_error());
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let device = rustix::fs::open(format!("/dev/loop{number}"), flags, Mode::empty())?;
        // SAFETY: `config` has the layout that the request reads, and outlives the call.
        let configured = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &raw const config) };
        if configured == 0 {
            return Ok(device);
        }
        let error = io::Error::last_os_error();
        // Somebody else was faster.
        if error.raw_os_error() != Some(Errno::BUSY.raw_os_error()) {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_has_the_size_that_the_kernel_reads() {
        assert_eq!(size_of::<LoopConfig>(), 8 + 232 + 64);
    }

    #[test]
    fn what_is_no_image_is_refused_before_anything_is_mounted() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(mount(&file, false).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
