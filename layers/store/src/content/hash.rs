//! The digest of a file: its parts are read and hashed by all processors at once, and joined as BLAKE3's tree has them.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use blake3::hazmat::{self, ChainingValue, HasherExt, Mode};
use rayon::prelude::*;

use super::read_full;
use crate::digest::Digest;

/// What one thread reads and hashes at a time, in bytes; a power of two, as each is a subtree of its own. Smaller ones stay longer in
/// the processor's own cache, but cost more calls: 256 KiB took 8 % longer here.
const PART: u64 = 1 << 20;

/// The digest of an open file, from its beginning to its present end; the offset is left alone. A file of one part takes one thread, as
/// others would have to be woken for less than they cost.
///
/// Memory: one part for each processor, and 72 bytes for each part of the file.
///
/// Errors: `UnexpectedEof` if the file is cut short meanwhile.
pub fn hash(file: &OwnedFd) -> io::Result<Digest> {
    let size = rustix::fs::fstat(file)?.st_size as u64;
    if size <= PART {
        let mut buffer = vec![0; size as usize];
        read_all(file, &mut buffer, 0)?;
        return Ok(Digest::of(&buffer));
    }
    let values = part_values(file, size)?;
    let (left, right) = halves(&values);
    Ok(Digest::from_hash(hazmat::merge_subtrees_root(&joined(left), &joined(right), Mode::Hash)))
}

/// The values of all parts, in order.
fn part_values(file: &OwnedFd, size: u64) -> io::Result<Vec<ChainingValue>> {
    let count = size.div_ceil(PART);
    // Each thread takes the next part, so that all together read in sequence, which a disk and the kernel's read-ahead like best.
    let next = AtomicU64::new(0);
    let some = |_| {
        let mut buffer = vec![0; PART as usize];
        let mut values = Vec::new();
        loop {
            let part = next.fetch_add(1, Ordering::Relaxed);
            if part >= count {
                return Ok(values);
            }
            // Nobody takes a further one after an error.
            let value = part_value(file, part * PART, size, &mut buffer)
                .inspect_err(|_| next.store(count, Ordering::Relaxed))?;
            values.push((part, value));
        }
    };
    let values: io::Result<Vec<Vec<_>>> =
        (0..rayon::current_num_threads()).into_par_iter().with_max_len(1).map(some).collect();
    let mut values = values?.concat();
    values.sort_unstable_by_key(|(part, _)| *part);
    Ok(values.into_iter().map(|(_, value)| value).collect())
}

fn part_value(file: &OwnedFd, offset: u64, size: u64, buffer: &mut [u8]) -> io::Result<ChainingValue> {
    let length = (size - offset).min(PART) as usize;
    read_all(file, &mut buffer[..length], offset)?;
    Ok(blake3::Hasher::new().set_input_offset(offset).update(&buffer[..length]).finalize_non_root())
}

/// The value of the subtree that has these parts.
fn joined(values: &[ChainingValue]) -> ChainingValue {
    match values {
        [value] => *value,
        _ => {
            let (left, right) = halves(values);
            hazmat::merge_subtrees_non_root(&joined(left), &joined(right), Mode::Hash)
        }
    }
}

/// Of more than one part: the left half is the largest power of two that leaves something.
fn halves(values: &[ChainingValue]) -> (&[ChainingValue], &[ChainingValue]) {
    values.split_at(values.len().next_power_of_two() / 2)
}

fn read_all(file: &OwnedFd, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    if read_full(file, buffer, offset)? < buffer.len() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it was cut short while it was read"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;

    /// With every number of parts up to nine, each with an end that is a whole part, a whole chunk, and neither.
    #[test]
    fn a_digest_is_that_of_the_bytes_whatever_the_size() {
        let content: Vec<u8> =
            (0..9 * PART + 1).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect();
        let file: OwnedFd = filled(&content);
        let sizes = (0..=9)
            .flat_map(|parts| [-1024, -1, 0, 1, 1024].map(|more| (parts * PART).checked_add_signed(more)));
        for size in sizes.flatten().filter(|size| *size <= content.len() as u64).rev() {
            rustix::fs::ftruncate(&file, size).unwrap();
            assert_eq!(hash(&file).unwrap(), Digest::of(&content[..size as usize]), "{size} bytes");
        }
    }

    #[test]
    fn holes_are_zeros_and_the_offset_stays() {
        let file = filled(&[]);
        rustix::fs::ftruncate(&file, 5 * PART + 3).unwrap();
        File::from(file.try_clone().unwrap()).write_all_at(b"in the middle", 2 * PART - 5).unwrap();
        let mut content = vec![0; 5 * PART as usize + 3];
        content[2 * PART as usize - 5..][..13].copy_from_slice(b"in the middle");
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(77)).unwrap();
        assert_eq!(hash(&file).unwrap(), Digest::of(&content));
        assert_eq!(rustix::fs::tell(&file).unwrap(), 77);
    }

    #[test]
    fn many_files_at_once_share_the_threads() {
        let content = vec![7; 3 * PART as usize + 1];
        let file = filled(&content);
        let digests: Vec<_> = (0..64).into_par_iter().map(|_| hash(&file).unwrap()).collect();
        assert_eq!(digests, vec![Digest::of(&content); 64]);
    }

    #[test]
    fn a_file_that_is_cut_short_is_an_error() {
        let file = filled(&vec![1; 3 * PART as usize]);
        let error = part_values(&file, 4 * PART).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(error.to_string(), "it was cut short while it was read");
    }

    #[test]
    fn a_directory_is_an_error() {
        let directory: OwnedFd = File::open(std::env::temp_dir()).unwrap().into();
        assert!(hash(&directory).is_err());
    }

    fn filled(content: &[u8]) -> OwnedFd {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(content, 0).unwrap();
        file.into()
    }
}
