//! The session keyring of a command: whose keys it holds.

use std::ffi::CString;
use std::io;

use thiserror::Error;
use vfsrun_sys::keyring::{self, FoundBy};

use crate::container::Id;

#[derive(Debug, Error)]
#[error("cannot give the command a session keyring of its own{}", hint(.source))]
pub struct KeyringError {
    source: io::Error,
}

fn hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EDQUOT) => {
            "; /proc/key-users says how many keys each user has, /proc/sys/kernel/keys how many it may have"
        }
        _ => "",
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keyring {
    /// The caller's stays.
    Callers,
    New,
    /// A container's, by which name the commands that join it find it.
    Named {
        name: CString,
        found_by: FoundBy,
    },
}

impl Keyring {
    /// The name is runc's.
    pub fn of_container(id: &Id, has_user_namespace: bool) -> Keyring {
        let name = CString::new(format!("_ses.{id}")).expect("an id has no NUL character");
        let found_by = if has_user_namespace { FoundBy::Everybody } else { FoundBy::Owner };
        Keyring::Named { name, found_by }
    }

    /// Stage: workload, before it becomes the user of the command: all who join it are the same one then.
    pub fn join(&self) -> Result<(), KeyringError> {
        let joined = match self {
            Keyring::Callers => Ok(()),
            Keyring::New => keyring::join_new(),
            Keyring::Named { name, found_by } => keyring::join_named(name, *found_by),
        };
        match joined {
            // Without keys in the kernel nobody has any, and a filter that refuses us refuses the command, too.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => Ok(()),
            joined => joined.map_err(|source| KeyringError { source }),
        }
    }
}
