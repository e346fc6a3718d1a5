//! Cgroups of containers: what is mounted here, where a container's cgroup lies, its limits, devices and processes, and its end.
//!
//! ```text
//! hierarchy::all ──▶ Place::of ──▶ Cgroup::make ── write, guard, doors ──▶ remove
//!                      │ kept in the container's directory before anything is made
//!                      └──▶ Cgroup::open ── update, enter, signal, freeze, stats
//! with systemd: Place::of ──▶ systemd::Scope ── admit
//! ```

#![forbid(unsafe_code)]

mod cgroup;
mod controllers;
mod cpuset;
pub mod devices;
mod files;
pub mod hierarchy;
pub mod limits;
mod oom;
mod place;
mod processes;
mod remove;
pub mod resctrl;
pub mod stats;
pub mod systemd;
mod update;

pub use cgroup::{Cgroup, CgroupError, Doors};
pub use hierarchy::{Hierarchy, Version};
pub use limits::Limit;
pub use oom::Notices;
pub use place::Place;
pub use remove::{Processes, remove};
