//! A stream: bytes made by one thread, and compressed, hashed and written by another.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::ExportError;
use super::blobs::Blob;
use super::gzip::Gzip;
use crate::sha256::Hashed;

/// Bytes that change threads at once, and how many of such pieces may wait.
const PIECE: usize = 1 << 20;
const WAITING: usize = 4;
/// Fast, as the content of layers is mostly compressed for a short time; gzip is for programs that know nothing else.
const ZSTD_LEVEL: i32 = 1;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    #[default]
    None,
    Gzip,
    Zstd,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// SHA-256 in 64 hexadecimal digits: of the bytes that were written, and of what they are when uncompressed.
    pub digest: String,
    pub diff_id: String,
    /// Number of the bytes that were written.
    pub size: u64,
}

/// Where the bytes are made.
pub(super) struct Pieces {
    piece: Vec<u8>,
    length: usize,
    to: SyncSender<(Vec<u8>, usize)>,
    /// Pieces that have been written and may be filled again.
    spare: Receiver<Vec<u8>>,
}

/// Why making ended early.
#[derive(Debug)]
pub(super) enum Stop {
    /// Writing has failed, and says why.
    Closed,
    Failed(ExportError),
}

impl From<ExportError> for Stop {
    fn from(error: ExportError) -> Stop {
        Stop::Failed(error)
    }
}

/// Runs `make` in a thread of its own and writes what it makes.
///
/// Errors: that of `make`, or of writing, with what was written so far left to the caller.
pub(super) fn write(
    compression: Compression,
    out: impl Write,
    make: impl FnOnce(&mut Pieces) -> Result<(), Stop> + Send,
) -> Result<Written, ExportError> {
    let (to, pieces) = sync_channel(WAITING);
    let (give_back, spare) = sync_channel(WAITING + 2);
    std::thread::scope(|scope| {
        let maker = scope.spawn(move || {
            let mut made = Pieces { piece: vec![0; PIECE], length: 0, to, spare };
            make(&mut made)?;
            made.end()
        });
        let written = consume(compression, out, &pieces, &give_back);
        // A maker that waits for room learns of a failure by this.
        drop(pieces);
        match maker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
            Err(Stop::Failed(error)) => Err(error),
            Ok(()) | Err(Stop::Closed) => written.map_err(|source| ExportError::Write { source }),
        }
    })
}

fn consume(
    compression: Compression,
    out: impl Write,
    pieces: &Receiver<(Vec<u8>, usize)>,
    give_back: &SyncSender<Vec<u8>>,
) -> io::Result<Written> {
    let mut encoder = Encoder::new(compression, Hashed::new(out))?;
    let mut plain = Hashed::new(io::sink());
    loop {
        // Only what is whole gets the end that its compression has.
        let (piece, length) = pieces.recv().map_err(|_| io::ErrorKind::UnexpectedEof)?;
        if length == 0 {
            break;
        }
        // Uncompressed, the two digests are one.
        if compression != Compression::None {
            plain.write_all(&piece[..length])?;
        }
        encoder.write_all(&piece[..length])?;
        // The maker may have ended.
        let _ = give_back.try_send(piece);
    }
    let mut hashed = encoder.finish()?;
    hashed.flush()?;
    let (digest, size) = hashed.finish();
    let diff_id = if compression == Compression::None { digest.clone() } else { plain.finish().0 };
    Ok(Written { digest, diff_id, size })
}

impl Pieces {
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<(), Stop> {
        while !bytes.is_empty() {
            let room = self.room()?;
            let length = room.len().min(bytes.len());
            room[..length].copy_from_slice(&bytes[..length]);
            self.length += length;
            bytes = &bytes[length..];
        }
        Ok(())
    }

    pub(super) fn zeros(&mut self, count: usize) -> Result<(), Stop> {
        const ZEROS: [u8; 1024] = [0; 1024];
        self.write(&ZEROS[..count])
    }

    /// The whole content of `blob`, verified.
    pub(super) fn blob(&mut self, mut blob: Blob<'_>) -> Result<(), Stop> {
        loop {
            match blob.read(self.room()?)? {
                0 => return Ok(blob.verify()?),
                length => self.length += length,
            }
        }
    }

    fn room(&mut self) -> Result<&mut [u8], Stop> {
        if self.length == self.piece.len() {
            self.send()?;
        }
        Ok(&mut self.piece[self.length..])
    }

    /// An empty piece says that all was made.
    fn end(mut self) -> Result<(), Stop> {
        if self.length > 0 {
            self.send()?;
        }
        self.send()
    }

    fn send(&mut self) -> Result<(), Stop> {
        let next = self.spare.try_recv().unwrap_or_else(|_| vec![0; PIECE]);
        let full = std::mem::replace(&mut self.piece, next);
        let length = std::mem::take(&mut self.length);
        self.to.send((full, length)).map_err(|_| Stop::Closed)
    }
}

enum Encoder<W: Write> {
    None(W),
    Gzip(Gzip<W>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> Encoder<W> {
    fn new(compression: Compression, out: W) -> io::Result<Encoder<W>> {
        Ok(match compression {
            Compression::None => Encoder::None(out),
            Compression::Gzip => Encoder::Gzip(Gzip::new(out)?),
            Compression::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(out, ZSTD_LEVEL)?;
                // One worker or many make the same bytes; none makes others.
                encoder.multithread(rayon::current_num_threads() as u32)?;
                Encoder::Zstd(encoder)
            }
        })
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Encoder::None(out) => out.write_all(bytes),
            Encoder::Gzip(out) => out.write_all(bytes),
            Encoder::Zstd(out) => out.write_all(bytes),
        }
    }

    fn finish(self) -> io::Result<W> {
        match self {
            Encoder::None(out) => Ok(out),
            Encoder::Gzip(out) => out.finish(),
            Encoder::Zstd(out) => out.finish(),
        }
    }
}
