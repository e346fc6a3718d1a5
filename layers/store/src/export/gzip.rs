//! gzip on all processors: blocks that are compressed by themselves and joined to one stream, in the way of pigz.
//!
//! Each block ends at a whole byte (a sync flush) and is not the last one; an empty last block follows them all. Where
//! blocks begin is a matter of the input alone, so that the same input gives the same bytes.

use std::io::{self, Write};

use flate2::{Compress, Compression, Crc, FlushCompress};
use rayon::prelude::*;

/// Bytes of the input; a block knows nothing of the one before, which costs about a hundredth.
const BLOCK: usize = 1 << 20;
const LEVEL: u32 = 6;
/// Deflate, no name, no time, made by an unknown system.
const HEADER: [u8; 10] = [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 0xFF];
/// An empty block that is the last.
const LAST: [u8; 2] = [3, 0];

pub(super) struct Gzip<W> {
    out: W,
    /// Not compressed yet; all but the last are full.
    blocks: Vec<Vec<u8>>,
    /// Of what was compressed.
    crc: Crc,
}

impl<W: Write> Gzip<W> {
    pub(super) fn new(mut out: W) -> io::Result<Gzip<W>> {
        out.write_all(&HEADER)?;
        Ok(Gzip { out, blocks: Vec::new(), crc: Crc::new() })
    }

    pub(super) fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.blocks.last().is_none_or(|block| block.len() == BLOCK) {
                if self.blocks.len() >= rayon::current_num_threads() * 2 {
                    self.compress()?;
                }
                self.blocks.push(Vec::with_capacity(BLOCK));
            }
            let block = self.blocks.last_mut().expect("Gzip::write_all: pushed just above");
            let (now, rest) = bytes.split_at(bytes.len().min(BLOCK - block.len()));
            block.extend(now);
            bytes = rest;
        }
        Ok(())
    }

    /// Without it the stream has no end.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.compress()?;
        self.out.write_all(&LAST)?;
        self.out.write_all(&self.crc.sum().to_le_bytes())?;
        // The length modulo 2^32.
        self.out.write_all(&self.crc.amount().to_le_bytes())?;
        Ok(self.out)
    }

    fn compress(&mut self) -> io::Result<()> {
        let compressed: Vec<_> = self.blocks.par_iter().map(|block| deflate(block)).collect();
        self.blocks.clear();
        for block in compressed {
            let (bytes, crc) = block?;
            self.out.write_all(&bytes)?;
            self.crc.combine(&crc);
        }
        Ok(())
    }
}

fn deflate(block: &[u8]) -> io::Result<(Vec<u8>, Crc)> {
    let mut crc = Crc::new();
    crc.update(block);
    let mut compress = Compress::new(Compression::new(LEVEL), false);
    let mut bytes = Vec::with_capacity(block.len() / 2 + 1024);
    loop {
        let rest = &block[compress.total_in() as usize..];
        compress.compress_vec(rest, &mut bytes, FlushCompress::Sync)?;
        // With room left nothing is held back.
        if compress.total_in() as usize == block.len() && bytes.len() < bytes.capacity() {
            return Ok((bytes, crc));
        }
        bytes.reserve(block.len() / 4 + 1024);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    fn gzip(pieces: &[&[u8]]) -> Vec<u8> {
        let mut gzip = Gzip::new(Vec::new()).unwrap();
        for piece in pieces {
            gzip.write_all(piece).unwrap();
        }
        gzip.finish().unwrap()
    }

    fn gunzip(bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        // Of one member, that checks the sum and the length.
        let mut decoder = flate2::bufread::GzDecoder::new(bytes);
        decoder.read_to_end(&mut plain).unwrap();
        assert_eq!(decoder.into_inner(), b"", "nothing follows");
        plain
    }

    /// Bytes that no compression makes shorter.
    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1u64;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        std::iter::repeat_with(next).take(length).collect()
    }

    #[test]
    fn what_was_compressed_comes_back() {
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 7 * BLOCK + 5] {
            for content in [vec![b'x'; length], noise(length)] {
                assert!(gunzip(&gzip(&[&content])) == content, "{length}");
            }
        }
    }

    #[test]
    fn pieces_make_no_difference() {
        let content = noise(3 * BLOCK + 9);
        let whole = gzip(&[&content]);
        let (one, two) = content.split_at(BLOCK + 77);
        assert!(gzip(&[one, b"", two]) == whole);
        let small: Vec<&[u8]> = content.chunks(4093).collect();
        assert!(gzip(&small) == whole);
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(bytes: Vec<u8>) {
            prop_assert_eq!(gunzip(&gzip(&[&bytes])), bytes);
        }
    }
}
