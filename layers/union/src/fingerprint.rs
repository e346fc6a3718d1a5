//! A fingerprint: eight bytes that tell whether a host file is still the one that was shown.

use std::time::Duration;

use rustix::fs::{FileType, Stat};
use rustix::time::{ClockId, clock_gettime};

use crate::attr::Attr;

/// A file whose ctime is younger than this may change again without a new ctime: kernels stamp files with the
/// time of the last tick, up to 10 ms old, and file systems may round.
const RACY: Duration = Duration::from_millis(20);
/// The same where times have no fractions: FAT counts in two seconds.
const RACY_IN_SECONDS: Duration = Duration::from_millis(2100);

/// Mixes numbers into 64 bits. Not for adversaries: who can choose the numbers (times, sizes) can also restore them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mixer(u64);

impl Mixer {
    pub(crate) fn add(&mut self, value: u64) -> &mut Mixer {
        let mixed = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 29);
        self
    }

    pub(crate) fn get(self) -> u64 {
        self.0
    }
}

/// What makes it this file and no other.
pub(crate) fn object(stat: &Stat) -> u64 {
    let kind = u64::from(FileType::from_raw_mode(stat.st_mode).as_raw_mode());
    Mixer::default().add(stat.st_dev).add(stat.st_ino).add(kind).get()
}

/// What changes when its content, listing or attributes do. Access time is left out, for reading is no change; a new
/// link shows in the ctime.
pub(crate) fn print(stat: &Stat) -> u64 {
    let mut mixer = Mixer(object(stat));
    mixer.add(u64::from(stat.st_mode)).add(u64::from(stat.st_uid) << 32 | u64::from(stat.st_gid));
    mixer.add(stat.st_size as u64);
    mixer.add(stat.st_mtime as u64).add(stat.st_mtime_nsec);
    mixer.add(stat.st_ctime as u64).add(stat.st_ctime_nsec).get()
}

/// What decides about access, as it is shown.
pub(crate) fn rights(attr: &Attr) -> u32 {
    let mut mixer = Mixer::default();
    mixer.add(attr.perm.into()).add(u64::from(attr.uid) << 32 | u64::from(attr.gid)).get() as u32
}

/// Whether a change right now might leave the ctime as it is.
pub(crate) fn is_racy(stat: &Stat) -> bool {
    let now = clock_gettime(ClockId::Realtime);
    let nanos = |sec: i64, nsec: i64| i128::from(sec) * 1_000_000_000 + i128::from(nsec);
    let age = nanos(now.tv_sec, now.tv_nsec) - nanos(stat.st_ctime, stat.st_ctime_nsec as i64);
    let racy = if stat.st_ctime_nsec == 0 { RACY_IN_SECONDS } else { RACY };
    age < racy.as_nanos() as i128
}
