//! A moment that the change times of files can be compared with: whatever changes a file after it gives the file a later
//! or equal ctime, whatever changed one before an earlier one.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;

use crate::attr::Time;

/// Never reached by any file.
pub(crate) const NEVER: Time = Time { sec: i64::MAX, nsec: 0 };

/// A later time comes with the next or next but one try, unless all processors do nothing but change files.
const TRIES: usize = 100;

/// Takes the time from a file of its own. Since Linux 6.13 a file that was looked at gets a fine-grained time with its
/// next change, and no file gets an earlier one afterwards (timekeeping's floor). On older kernels times count in ticks:
/// what happens in the tick of the moment counts as before it.
#[derive(Debug)]
pub(crate) struct Clock {
    file: Option<OwnedFd>,
    fine: bool,
}

impl Clock {
    pub(crate) fn new() -> Clock {
        let file = rustix::fs::memfd_create("clock", MemfdFlags::CLOEXEC).ok();
        let clock = Clock { file, fine: true };
        let stamps: BTreeSet<_> = (0..8).filter_map(|_| clock.stamp().ok()).collect();
        // A tick may end meanwhile, but not two.
        Clock { fine: stamps.len() > 2, ..clock }
    }

    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// [`NEVER`] where there is no such file to be had.
    pub(crate) fn now(&self) -> Time {
        let (Ok(first), mut next) = (self.stamp(), self.stamp()) else { return NEVER };
        if !self.fine {
            return Time { nsec: first.nsec + 1, ..first };
        }
        // Two files that are changed on two processors at once can get one time. What was changed until now has the first
        // time at most.
        for _ in 0..TRIES {
            match next {
                Ok(later) if later > first => return later,
                _ => next = self.stamp(),
            }
        }
        first
    }

    fn stamp(&self) -> Result<Time, Errno> {
        let file = self.file.as_ref().ok_or(Errno::BADF)?;
        // Marks the time as seen.
        rustix::fs::fstat(file)?;
        let set = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
        let times = Timestamps { last_access: set(UTIME_OMIT), last_modification: set(UTIME_NOW) };
        rustix::fs::futimens(file, &times)?;
        let stat = rustix::fs::fstat(file)?;
        Ok(Time { sec: stat.st_ctime, nsec: stat.st_ctime_nsec as u32 })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn what_changes_before_is_earlier_and_what_changes_after_is_not() {
        let clock = Clock::new();
        let temp = tempfile::tempdir().unwrap();
        let file = |name| File::create(temp.path().join(name)).unwrap();
        let (mut one, mut two) = (file("one"), file("two"));
        let ctime = |file: &File| {
            let stat = rustix::fs::fstat(file).unwrap();
            Time { sec: stat.st_ctime, nsec: stat.st_ctime_nsec as u32 }
        };
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Somebody changes other files all the time.
            scope.spawn(|| {
                let other = Clock::new();
                while !done.load(Ordering::Relaxed) {
                    other.stamp().unwrap();
                }
            });
            for _ in 0..10_000 {
                one.write_all(b"x").unwrap();
                let moment = clock.now();
                two.write_all(b"x").unwrap();
                let (before, after) = (ctime(&one), ctime(&two));
                if before >= moment || clock.fine && after < moment {
                    done.store(true, Ordering::Relaxed);
                    panic!("{before:?} {moment:?} {after:?}");
                }
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}
