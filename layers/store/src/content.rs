//! Content: hashing and copying what a file holds.

mod hash;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::digest::Digest;

pub use hash::hash;

/// Files up to this size are read at once.
pub const SMALL: u64 = 128 << 10;
const CHUNK: usize = 2 << 20;
/// What is left out of a file when it is zeros.
const PIECE: usize = 256 << 10;

/// The whole of a small file; one byte more than `expected` is asked for, so that growth is seen.
pub fn read_small(file: &OwnedFd, expected: u64) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; expected as usize + 1];
    let first = rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut buffer[..], 0))?;
    // Less than was asked for is the end: a file that has all that was expected is not asked again.
    let rest =
        if first as u64 >= expected { 0 } else { read_full(file, &mut buffer[first..], first as u64)? };
    buffer.truncate(first + rest);
    Ok(buffer)
}

/// Fills `target`, which is new and empty, with the content of `source`: by reflink, or by copying the ranges that
/// hold data inside the kernel.
pub fn copy(source: &OwnedFd, target: &OwnedFd, size: u64) -> io::Result<()> {
    if rustix::fs::ioctl_ficlone(target, source).is_ok() {
        return Ok(());
    }
    let sparse = rustix::fs::fstat(source)?.st_blocks as u64 * 512 < size;
    if !sparse {
        return copy_range(source, target, 0, size);
    }
    rustix::fs::ftruncate(target, size)?;
    let mut position = 0;
    while position < size {
        let start = match rustix::fs::seek(source, SeekFrom::Data(position)) {
            Err(Errno::NXIO) => break,
            other => other?,
        };
        let end = rustix::fs::seek(source, SeekFrom::Hole(start))?.min(size);
        copy_range(source, target, start, end)?;
        position = end.max(start + 1);
    }
    Ok(())
}

/// Hashes what comes out of `reader` while writing it to `target`, which is new and gets a hole where a whole piece is zeros.
/// Returns the digest and the number of bytes.
pub fn copy_hashed(reader: &mut impl Read, start: &[u8], target: &OwnedFd) -> io::Result<(Digest, u64)> {
    let file = File::from(target.as_fd().try_clone_to_owned()?);
    let mut hasher = blake3::Hasher::new();
    hasher.update(start);
    file.write_all_at(start, 0)?;
    let mut size = start.len() as u64;
    let mut buffer = vec![0; CHUNK];
    loop {
        let length = fill(reader, &mut buffer)?;
        let bytes = &buffer[..length];
        // Neither is worth a thread for less.
        if length > SMALL as usize {
            rayon::join(|| hasher.update(bytes), || write_data(&file, bytes, size)).1?;
        } else {
            hasher.update(bytes);
            write_data(&file, bytes, size)?;
        }
        size += length as u64;
        if length < buffer.len() {
            file.set_len(size)?;
            return Ok((Digest::from_hash(hasher.finalize()), size));
        }
    }
}

/// Writes the pieces of `bytes` that are not zeros.
fn write_data(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    for (index, piece) in bytes.chunks(PIECE).enumerate() {
        if !is_zeros(piece) {
            file.write_all_at(piece, offset + (index * PIECE) as u64)?;
        }
    }
    Ok(())
}

/// By comparing the bytes with themselves, one further, which is one call of memcmp.
fn is_zeros(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0) && bytes[1..] == bytes[..bytes.len() - 1]
}

/// Reads until `buffer` is full or the input ends. Returns the number of bytes.
pub fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match reader.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

fn copy_range(source: &OwnedFd, target: &OwnedFd, start: u64, end: u64) -> io::Result<()> {
    let (mut from, mut to) = (start, start);
    while from < end {
        let length = usize::try_from(end - from).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), length) {
            // The file became shorter; the caller compares stat.
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            // Across file systems, or one that cannot (EINVAL: some special file systems).
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                return copy_by_hand(source, target, from, end);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(source: &OwnedFd, target: &OwnedFd, start: u64, end: u64) -> io::Result<()> {
    let target = File::from(target.try_clone()?);
    let mut buffer = vec![0; CHUNK];
    let mut position = start;
    while position < end {
        let wanted = usize::try_from(end - position).unwrap_or(usize::MAX).min(CHUNK);
        let length = read_full(source, &mut buffer[..wanted], position)?;
        target.write_all_at(&buffer[..length], position)?;
        if length < wanted {
            return Ok(());
        }
        position += length as u64;
    }
    Ok(())
}

fn read_full(file: &OwnedFd, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match rustix::io::pread(file, &mut buffer[length..], offset + length as u64) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(length)
}
