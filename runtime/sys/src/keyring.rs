//! A session keyring: the keys that a process and its children hold, and find first (session-keyring(7)).

use std::ffi::CStr;
use std::io;

/// Who besides its holders may find a keyring by its name, as bits of keyctl(2), KEYCTL_SETPERM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundBy {
    /// Processes of the user that made it.
    Owner = 0x0008_0000,
    /// Every process of its user namespace: those that enter it may have other ids than who made it.
    Everybody = 0x0008_0008,
}

/// Replaces this process's session keyring by a new one without a name.
///
/// Errors: EDQUOT when the user has too many keys, ENOSYS on a kernel without keys, EPERM where a filter refuses.
pub fn join_new() -> io::Result<()> {
    keyctl(libc::KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0).map(|_| ())
}

/// Replaces this process's session keyring by the one of that name, which is made if there is none, and says who finds it.
/// One of that name that somebody else has put in the way is left alone: then it is a new one without a name.
///
/// Errors: as [`join_new`].
pub fn join_named(name: &CStr, found_by: FoundBy) -> io::Result<()> {
    let serial = keyctl(libc::KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr() as usize, 0, 0)? as usize;
    let mut text = [0u8; 512];
    let length = keyctl(libc::KEYCTL_DESCRIBE, serial, text.as_mut_ptr() as usize, text.len())?;
    let told = text.get(..length as usize).and_then(|text| std::str::from_utf8(text).ok());
    let Some((owner, permissions)) = told.and_then(owner_and_permissions) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    if owner != rustix::process::geteuid().as_raw() {
        return join_new();
    }
    let wanted = permissions | found_by as u32;
    if wanted != permissions {
        keyctl(libc::KEYCTL_SETPERM, serial, wanted as usize, 0)?;
    }
    Ok(())
}

/// Of `type;uid;gid;permissions;name`, the permissions in hexadecimal.
fn owner_and_permissions(text: &str) -> Option<(u32, u32)> {
    let mut fields = text.split(';').skip(1);
    let owner = fields.next()?.parse().ok()?;
    Some((owner, u32::from_str_radix(fields.nth(1)?, 16).ok()?))
}

fn keyctl(operation: u32, first: usize, second: usize, third: usize) -> io::Result<libc::c_long> {
    // SAFETY: the callers above pass numbers, a C string that outlives the call, or a buffer with its length.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, operation, first, second, third, 0usize) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn description_tells_owner_and_permissions() {
        assert_eq!(owner_and_permissions("keyring;1000;0;3f130000;_ses.web\0"), Some((1000, 0x3f13_0000)));
        assert_eq!(owner_and_permissions("keyring;1000"), None);
        assert_eq!(owner_and_permissions("keyring;x;0;3f130000;name"), None);
    }
}
