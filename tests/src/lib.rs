//! Helpers of the tests of the whole program: a sandbox per test, run as root and as an ordinary user.
//!
//! ```text
//!  cargo test (root) ──▶ vfsrun                                      caller root
//!        │
//!        └─ keeper: a private mount namespace ──▶ setpriv ──▶ vfsrun  caller user
//!             /dev/fuse 0666, /etc with a user and its subordinate ids; the host's own are not touched
//! ```
//!
//! Without root the second caller is whoever runs the tests, and tests of root are skipped, loudly. What a test that was killed
//! has left, the next one ends ([`left`]).

#![forbid(unsafe_code)]

pub mod blocks;
pub mod caller;
pub mod cgroups;
pub mod changer;
/// Shared with the tests of the union, which this crate does not depend on.
#[path = "../../layers/union/tests/support/changes.rs"]
pub mod changes;
pub mod command;
pub mod containers;
pub mod dialogue;
pub mod fixtures;
pub mod hanging;
pub mod landlocked;
pub mod left;
pub mod podman;
pub mod power;
pub mod privileges;
pub mod processes;
pub mod program;
pub mod random_changes;
pub mod random_stack;
pub mod receiver;
pub mod room;
pub mod sandbox;
pub mod skip;
pub mod stepped;
pub mod strace;
pub mod systemd;
pub mod traced;

pub use caller::Caller;
pub use changer::Changer;
pub use command::{Background, Output};
pub use dialogue::Dialogue;
pub use hanging::Hanging;
pub use random_changes::RandomChanges;
pub use random_stack::RandomStack;
pub use sandbox::Sandbox;
pub use serde_json::{Value, json};
pub use traced::Traced;

/// Each `fn name(sandbox: &Sandbox)` as two tests, `as_root::name` and `as_user::name`; what follows `; root:` as the
/// first alone.
#[macro_export]
macro_rules! as_root_and_user {
    ($($name:ident),+ $(,)? $(; root: $($root:ident),+ $(,)?)?) => {
        $crate::as_root!($($name,)+ $($($root),+)?);
        $crate::as_user!($($name),+);
    };
}

/// Each `fn name(sandbox: &Sandbox)` as the test `as_root::name`.
#[macro_export]
macro_rules! as_root {
    ($($name:ident),+ $(,)?) => {
        mod as_root {
            $(#[test]
            fn $name() {
                $crate::sandbox::with($crate::Caller::Root, concat!(module_path!(), "::", stringify!($name)), super::$name);
            })+
        }
    };
}

/// Each `fn name(sandbox: &Sandbox)` as the test `as_user::name`.
#[macro_export]
macro_rules! as_user {
    ($($name:ident),+ $(,)?) => {
        mod as_user {
            $(#[test]
            fn $name() {
                $crate::sandbox::with($crate::Caller::User, concat!(module_path!(), "::", stringify!($name)), super::$name);
            })+
        }
    };
}
