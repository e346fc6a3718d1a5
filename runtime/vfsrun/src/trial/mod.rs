//! A trial: a command that is run on the whole host, with nothing of the host changed. What it would have changed is a
//! proposal, a layer with a name, until somebody says what becomes of it.

pub mod apart;
pub mod patterns;
pub mod proposal;
pub mod question;
pub mod sockets;
pub mod spec;
