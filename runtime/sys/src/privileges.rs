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

/// Makes everything permitted effective, as after a change of user that cleared the effective set.
pub fn use_permitted() -> io::Result<()> {
    let mut sets = rustix::thread::capabilities(None)?;
    sets.effective = sets.permitted;
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// Drops every capability from the bounding set that is not in `keep`, also those newer than any list: the kernel
/// says EINVAL at the first number it does not know.
pub fn limit_bounding_set(keep: u64) -> io::Result<()> {
    for capability in 0..64 {
        if keep & (1 << capability) != 0 {
            continue;
        }
        // SAFETY: PR_CAPBSET_DROP takes numbers only.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability as libc::c_ulong, 0, 0, 0) };
        if result == -1 {
            let error = io::Error::last_os_error();
            return if error.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(error) };
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
