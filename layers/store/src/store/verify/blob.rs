//! Blobs of a verification: hashed on all processors.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rayon::prelude::*;
use rustix::fs::{FileType, Stat};

use super::{Blobs, Fault, Problem, Verified, Wanted, What};
use crate::digest::Digest;
use crate::store::{LayerStore, blobs};
use crate::{content, fsat};

/// Of one blob.
struct Read {
    bytes: u64,
    is_settled: bool,
    fault: Option<Fault>,
}

impl LayerStore {
    pub(super) fn verify_blobs(&self, wanted: Blobs, progress: &(dyn Fn(u64) + Sync), found: &mut Verified) {
        let wanted: Vec<(Digest, Wanted)> = wanted.into_iter().collect();
        let reads: Vec<Read> = wanted
            .par_iter()
            .map(|(digest, wanted)| {
                let read = self.verify_blob(digest, wanted);
                progress(read.bytes);
                read
            })
            .collect();
        for ((digest, wanted), read) in wanted.into_iter().zip(reads) {
            found.blobs += 1;
            found.bytes += read.bytes;
            found.unsettled += u64::from(read.fault.is_none() && !read.is_settled);
            if let Some(fault) = read.fault {
                let file = PathBuf::from("blobs").join(blobs::file_name(&digest));
                found.problems.push(Problem { what: What::Blob(digest), file, fault, uses: wanted.uses });
            }
        }
    }

    fn verify_blob(&self, digest: &Digest, wanted: &Wanted) -> Read {
        let wrong = |fault| Read { bytes: 0, is_settled: false, fault: Some(fault) };
        let stat = match self.blob_stat(digest) {
            Ok(Some(stat)) => stat,
            Ok(None) => return wrong(Fault::Missing),
            Err(error) => return wrong(Fault::unreadable(&error)),
        };
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            return wrong(Fault::NoFile);
        }
        let size = stat.st_size as u64;
        if let Some(&wanted) = wanted.sizes.iter().find(|wanted| **wanted != size) {
            return wrong(Fault::Size { wanted, found: size });
        }
        // Being looked at is no use.
        let opened = fsat::open_quietly(&self.blobs, blobs::file_name(digest));
        let hashed = opened.map_err(|error| Fault::unreadable(&error));
        let hashed = hashed.and_then(|file| hash(&file, size).map_err(|error| Fault::unreadable(&error)));
        let fault = match hashed {
            Err(fault) => Some(fault),
            Ok(found) if found != *digest => Some(Fault::Content { found }),
            Ok(_) => mode_fault(&stat),
        };
        Read { bytes: size, is_settled: blobs::is_settled(&stat, size), fault }
    }
}

/// A capture that was interrupted leaves modes as the action set them, with the times that the action gave, which is never that of
/// blobs; and a blob gets its mode before its time. With the time of blobs, another mode is somebody's doing.
fn mode_fault(stat: &Stat) -> Option<Fault> {
    let found = stat.st_mode & 0o7777;
    (found != blobs::MODE && blobs::has_time(stat) && stat.st_nlink == 1).then_some(Fault::Mode { found })
}

fn hash(file: &OwnedFd, size: u64) -> std::io::Result<Digest> {
    if size <= content::SMALL {
        Ok(Digest::of(&content::read_small(file, size)?))
    } else {
        content::hash(file)
    }
}
