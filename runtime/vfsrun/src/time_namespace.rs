//! A time namespace: what its clocks show beside the host's. A process that is cloned into a new one finds its clocks fixed
//! already, so that offsets are for whoever makes one without being in it yet (time_namespaces(7)).

use std::collections::BTreeMap;
use std::fs::File;
use std::io;

use nix::sched::{CloneFlags, setns, unshare};
use vfsrun_spec::oci::TimeOffset;

/// CLONE_NEWTIME, which nix has no name for.
pub const FLAG: CloneFlags = CloneFlags::from_bits_retain(libc::CLONE_NEWTIME);

/// Makes a time namespace with these offsets and enters it. Stage: init, with the host's /proc, while it can be traced: else its
/// files there are the host's root's.
pub fn enter_new(offsets: &BTreeMap<String, TimeOffset>) -> io::Result<()> {
    unshare(FLAG)?;
    let lines: String = offsets
        .iter()
        .map(|(clock, offset)| format!("{clock} {} {}\n", offset.secs, offset.nanosecs))
        .collect();
    std::fs::write("/proc/self/timens_offsets", lines)?;
    Ok(setns(File::open("/proc/self/ns/time_for_children")?, FLAG)?)
}

/// The time namespace that this process is in.
pub struct Own(File);

impl Own {
    pub fn open() -> io::Result<Own> {
        File::open("/proc/self/ns/time").map(Own)
    }

    /// After a process was cloned into another one.
    pub fn enter_again(self) -> io::Result<()> {
        Ok(setns(self.0, FLAG)?)
    }
}
