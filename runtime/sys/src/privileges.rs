//! Privileges: what a process may still do, given up for good.

use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets};

/// Sets the effective, permitted and inheritable sets in one call. Bits as in capabilities(7), bit 0 is CAP_CHOWN.
pub fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    let sets = CapabilitySets {
        effective: CapabilitySet::from_bits_retain(effective),
        permitted: CapabilitySet::from_bits_retain(permitted),
        inheritable: CapabilitySet::from_bits_retain(inheritable),
    };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// The effective set of this process.
pub fn effective_capabilities() -> io::Result<u64> {
    Ok(rustix::thread::capabilities(None)?.effective.bits())
}

/// The permitted set of this process.
pub fn permitted_capabilities() -> io::Result<u64> {
    Ok(rustix::thread::capabilities(None)?.permitted.bits())
}

/// Makes everything permitted effective, as after a change of user that cleared the effective set.
pub fn use_permitted() -> io::Result<()> {
    let mut sets = rustix::thread::capabilities(None)?;
    sets.effective = sets.permitted;
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// Drops every capability from the bounding set of this thread that is not in `keep`, also those newer than any list.
/// Needs CAP_SETPCAP.
pub fn limit_bounding_set(keep: u64) -> io::Result<()> {
    drop_all_but(keep, |capability| {
        // SAFETY: PR_CAPBSET_DROP takes numbers only.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    })
}

/// The kernel says EINVAL at the first number that it does not know; the highest one that it could is 63.
fn drop_all_but(keep: u64, mut drop: impl FnMut(u32) -> io::Result<()>) -> io::Result<()> {
    for capability in (0..64).filter(|capability| keep & (1 << capability) == 0) {
        match drop(capability) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(()),
            dropped => dropped?,
        }
    }
    Ok(())
}

/// Makes the ambient set exactly `keep`, which must be permitted and inheritable already.
pub fn set_ambient(keep: u64) -> io::Result<()> {
    rustix::thread::clear_ambient_capability_set()?;
    for capability in (0..64).filter(|bit| keep & (1 << bit) != 0) {
        let (raise, capability) = (libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong, capability as libc::c_ulong);
        // SAFETY: PR_CAP_AMBIENT takes numbers only.
        let result = unsafe {
            libc::prctl(libc::PR_CAP_AMBIENT, raise, capability, 0 as libc::c_ulong, 0 as libc::c_ulong)
        };
        if result == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left of the capabilities up to `last`.
    fn left(keep: u64, last: u32) -> u64 {
        let mut set = u64::MAX >> (63 - last);
        let dropped = drop_all_but(keep, |capability| {
            if capability > last {
                return Err(io::Error::from_raw_os_error(libc::EINVAL));
            }
            set &= !(1 << capability);
            Ok(())
        });
        dropped.expect("every capability could be dropped");
        set
    }

    #[test]
    fn capabilities_newer_than_any_list_are_dropped() {
        for last in [37, 40, 41, 50, 62, 63] {
            assert_eq!(left(0, last), 0, "kernel up to {last}");
            assert_eq!(left(1 << 5 | 1 << 21, last), 1 << 5 | 1 << 21, "kernel up to {last}");
        }
        // One that is kept and that the kernel lacks stops nothing.
        assert_eq!(left(1 << 60 | 1 << 40, 40), 1 << 40);
    }

    #[test]
    fn right_that_is_missing_is_an_error() {
        let refuse = |_| Err(io::Error::from_raw_os_error(libc::EPERM));
        let error = drop_all_but(0, refuse).expect_err("nothing could be dropped");
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    }
}
