//! The blobs of an input root: files that are named by what they hold, which is believed of none of them.

use std::fs::File;
use std::io::Read;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::{ReapiError, shown};
use crate::digest::Digest;
use crate::digest_function::DigestFunction;
use crate::fsat;
use crate::sha256::Hashed;
use crate::store::Writer;

pub(super) struct Blobs {
    dir: OwnedFd,
    function: DigestFunction,
}

/// The content of a file of the layer.
#[derive(Debug)]
pub(super) struct Content {
    pub hash: String,
    pub size: u64,
    /// The first file that has it.
    pub path: PathBuf,
}

impl Blobs {
    /// Those in the directory `blobs` of `dir`.
    pub(super) fn open(dir: BorrowedFd<'_>, function: DigestFunction) -> Result<Blobs, ReapiError> {
        let dir =
            fsat::open_dir(dir, "blobs").map_err(|errno| ReapiError::NoBlobs { source: errno.into() })?;
        Ok(Blobs { dir, function })
    }

    /// The message of the directory `path`, of at most `most` bytes.
    pub(super) fn message(
        &self,
        path: &Path,
        hash: &str,
        size: Option<u64>,
        most: u64,
    ) -> Result<Vec<u8>, ReapiError> {
        let (file, size) = self.open_blob(path, hash, size)?;
        if size > most {
            return Err(ReapiError::TooManyWords);
        }
        let mut message = Vec::with_capacity(size as usize);
        let read = file.take(size + 1).read_to_end(&mut message);
        read.map_err(|source| ReapiError::Read { path: shown(path), hash: hash.to_owned(), source })?;
        check(path, hash, &self.function.of(&message))?;
        Ok(message)
    }

    /// Puts the content of a file into the store.
    pub(super) fn put(&self, content: &Content, writer: &Writer<'_>) -> Result<Digest, ReapiError> {
        let (path, hash) = (content.path.as_path(), content.hash.as_str());
        let (file, size) = self.open_blob(path, hash, Some(content.size))?;
        // A byte more: a blob that has grown is another one.
        let file = file.take(size + 1);
        let failed = |source| ReapiError::Store { path: shown(path), source };
        let (digest, found) = match self.function {
            DigestFunction::Sha256 => {
                let mut hashed = Hashed::new(file);
                let (digest, _) = writer.put_blob(&mut hashed).map_err(failed)?;
                (digest, hashed.finish().0)
            }
            DigestFunction::Blake3 => {
                let (digest, _) = writer.put_blob(file).map_err(failed)?;
                (digest, digest.hex())
            }
        };
        check(path, hash, &found)?;
        Ok(digest)
    }

    /// With its size, which is to be `size` if that is known.
    fn open_blob(&self, path: &Path, hash: &str, size: Option<u64>) -> Result<(File, u64), ReapiError> {
        let fail = |source| ReapiError::Read { path: shown(path), hash: hash.to_owned(), source };
        let file = fsat::open_file(&self.dir, hash).map_err(|errno| fail(errno.into()))?;
        let stat = rustix::fs::fstat(&file).map_err(|errno| fail(errno.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(ReapiError::NoFile { path: shown(path), hash: hash.to_owned() });
        }
        let found = stat.st_size as u64;
        check_size(path, hash, size.unwrap_or(found), found)?;
        Ok((file.into(), found))
    }
}

pub(super) fn check_size(path: &Path, hash: &str, wanted: u64, found: u64) -> Result<(), ReapiError> {
    if found == wanted {
        return Ok(());
    }
    Err(ReapiError::Size { path: shown(path), hash: hash.to_owned(), wanted, found })
}

fn check(path: &Path, hash: &str, found: &str) -> Result<(), ReapiError> {
    if found == hash {
        return Ok(());
    }
    Err(ReapiError::Content { path: shown(path), hash: hash.to_owned(), found: found.to_owned() })
}
