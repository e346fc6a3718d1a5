//! Stages: the processes of a run, one file each.

mod builder;
pub mod init;
pub mod joined;
pub mod opener;
pub mod report;
pub mod workload;
