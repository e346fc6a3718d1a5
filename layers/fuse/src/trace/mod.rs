//! A trace of the one action that a server serves: who asked what of the kernel, which asks us.
//!
//! The kernel asks once for what it then knows, so a traced action has a server and a mount of its own, in which nothing
//! is known yet. A request names the thread that waits for it; what else there is to know of it, /proc tells.

mod describer;
mod processes;
mod recorder;

pub use recorder::Recorder;
