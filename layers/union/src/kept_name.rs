//! A name as a node keeps it: one that is as short as most are lies in the node itself.

use std::ffi::OsStr;
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt;

/// With it both kinds take as many bytes.
const SHORT: usize = 22;

pub(crate) enum KeptName {
    Short { length: u8, bytes: [u8; SHORT] },
    Long(Box<OsStr>),
}

impl From<&OsStr> for KeptName {
    fn from(name: &OsStr) -> KeptName {
        let mut bytes = [0; SHORT];
        match bytes.get_mut(..name.len()) {
            Some(place) => {
                place.copy_from_slice(name.as_bytes());
                KeptName::Short { length: name.len() as u8, bytes }
            }
            None => KeptName::Long(name.into()),
        }
    }
}

impl Deref for KeptName {
    type Target = OsStr;

    fn deref(&self) -> &OsStr {
        match self {
            KeptName::Short { length, bytes } => OsStr::from_bytes(&bytes[..usize::from(*length)]),
            KeptName::Long(name) => name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_length_are_kept_as_they_are() {
        for length in 0..=255 {
            let name = vec![0xe4; length];
            let name = OsStr::from_bytes(&name);
            assert_eq!(&*KeptName::from(name), name);
        }
    }
}
