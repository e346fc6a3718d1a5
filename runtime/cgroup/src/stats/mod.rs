//! Statistics: what a cgroup has used, as `runc events` tells it. Its readers parse this JSON, so that its names are runc's and a
//! version 2 is told in the words of version 1.

#[cfg(test)]
mod tests;
mod v1;
mod v2;

use std::collections::BTreeMap;

use rustix::io::Errno;
use serde::Serialize;

use crate::cgroup::{Cgroup, CgroupError, Part};
use crate::files;
use crate::hierarchy::Version;

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    pub cpu: Cpu,
    pub cpuset: CpuSet,
    pub memory: Memory,
    pub pids: Pids,
    pub blkio: BlockIo,
    /// By page size, such as `2MB`.
    pub hugetlb: BTreeMap<String, Huge>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cpu {
    pub usage: CpuUsage,
    pub throttling: Throttling,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// Nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CpuUsage {
    #[serde(skip_serializing_if = "is_zero")]
    pub total: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_kernel: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_user: Vec<u64>,
    pub kernel: u64,
    pub user: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Throttling {
    #[serde(skip_serializing_if = "is_zero")]
    pub periods: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled_periods: u64,
    /// Nanoseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled_time: u64,
}

/// Settings of version 1; nothing is told of version 2.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CpuSet {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u16>,
    pub cpu_exclusive: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mems: Vec<u16>,
    pub mem_hardwall: u64,
    pub mem_exclusive: u64,
    pub memory_migrate: u64,
    pub memory_spread_page: u64,
    pub memory_spread_slab: u64,
    pub memory_pressure: u64,
    pub sched_load_balance: u64,
    pub sched_relax_domain_level: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Memory {
    #[serde(skip_serializing_if = "is_zero")]
    pub cache: u64,
    pub usage: MemoryUse,
    /// Memory and swap together.
    pub swap: MemoryUse,
    pub kernel: MemoryUse,
    #[serde(rename = "kernelTCP")]
    pub kernel_tcp: MemoryUse,
    /// The kernel's memory.stat.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub raw: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// Bytes; no limit is the highest number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemoryUse {
    pub limit: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub max: u64,
    pub failcnt: u64,
}

/// No limit is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pids {
    #[serde(skip_serializing_if = "is_zero")]
    pub current: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub limit: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockIo {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_bytes_recursive: Vec<BlockIoEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_serviced_recursive: Vec<BlockIoEntry>,
    #[serde(rename = "ioQueueRecursive", skip_serializing_if = "Vec::is_empty")]
    pub io_queued_recursive: Vec<BlockIoEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_time_recursive: Vec<BlockIoEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_wait_time_recursive: Vec<BlockIoEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_merged_recursive: Vec<BlockIoEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_time_recursive: Vec<BlockIoEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sectors_recursive: Vec<BlockIoEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BlockIoEntry {
    #[serde(skip_serializing_if = "is_zero")]
    pub major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub minor: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub op: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub value: u64,
}

/// Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Huge {
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub max: u64,
    pub failcnt: u64,
}

/// How much of the time processes had to wait. See the kernel's documentation of PSI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Pressure {
    pub some: Stall,
    pub full: Stall,
}

/// Percent of the last seconds; in total microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Stall {
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    pub total: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Cgroup {
    /// What it has used so far. What no controller here counts is 0.
    pub fn stats(&self) -> Result<Stats, CgroupError> {
        let v2 = self.v2().map(Files);
        let of = |controller: &str| {
            let v1 = self
                .parts()
                .iter()
                .find(|part| part.place.has(controller))
                .map(|part| (Version::V1, Files(part)));
            v1.or(v2.map(|files| (Version::V2, files)))
        };
        let mut stats = Stats::default();
        match of("cpuacct") {
            Some((Version::V1, files)) => stats.cpu.usage = v1::cpu_usage(files)?,
            Some((Version::V2, files)) => {
                (stats.cpu.usage, stats.cpu.psi) = (v2::cpu_usage(files)?, files.pressure("cpu.pressure")?)
            }
            None => {}
        }
        match of("cpu") {
            Some((Version::V1, files)) => stats.cpu.throttling = v1::throttling(files)?,
            Some((Version::V2, files)) => stats.cpu.throttling = v2::throttling(files)?,
            None => {}
        }
        if let Some((Version::V1, files)) = of("cpuset") {
            stats.cpuset = v1::cpuset(files)?;
        }
        match of("memory") {
            Some((Version::V1, files)) => stats.memory = v1::memory(files)?,
            Some((Version::V2, files)) => stats.memory = v2::memory(files)?,
            None => {}
        }
        match of("pids") {
            Some((Version::V2, files)) if files.read("pids.current")?.is_none() => {
                stats.pids = v2::uncounted_pids(files)?
            }
            Some((_, files)) => stats.pids = pids(files)?,
            None => {}
        }
        match of("blkio") {
            Some((Version::V1, files)) => stats.blkio = v1::block_io(files)?,
            Some((Version::V2, files)) => stats.blkio = v2::block_io(files)?,
            None => {}
        }
        if let Some((version, files)) = of("hugetlb") {
            for size in page_sizes() {
                let huge = match version {
                    Version::V1 => v1::huge(files, &size)?,
                    Version::V2 => v2::huge(files, &size)?,
                };
                stats.hugetlb.extend(huge.map(|huge| (size, huge)));
            }
        }
        Ok(stats)
    }
}

/// The files of a cgroup in one hierarchy.
#[derive(Clone, Copy)]
struct Files<'a>(&'a Part);

impl Files<'_> {
    /// `None` if there is none: kernels and controllers differ, and the cgroup may go.
    fn read(self, file: &str) -> Result<Option<String>, CgroupError> {
        match files::read(&self.0.directory, file) {
            Ok(text) => Ok(Some(text)),
            Err(error) if files::is_gone(&error) => Ok(None),
            // PSI that is off.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::OPNOTSUPP) => Ok(None),
            Err(error) => {
                Err(CgroupError::step("read a file of", self.0.place.full_path().join(file))(error))
            }
        }
    }

    fn text(self, file: &str) -> Result<String, CgroupError> {
        Ok(self.read(file)?.unwrap_or_default())
    }

    /// `None` also if it is no number.
    fn number(self, file: &str) -> Result<Option<u64>, CgroupError> {
        Ok(self.read(file)?.and_then(|text| number(text.trim())))
    }

    /// Lines of a name and a number.
    fn table(self, file: &str) -> Result<BTreeMap<String, u64>, CgroupError> {
        let text = self.text(file)?;
        let pairs = text.lines().filter_map(|line| line.split_once(' '));
        Ok(pairs.filter_map(|(name, text)| Some((name.to_owned(), number(text)?))).collect())
    }

    fn pressure(self, file: &str) -> Result<Option<Pressure>, CgroupError> {
        Ok(self.read(file)?.as_deref().map(pressure))
    }
}

/// 0 where the kernel does not count it.
fn value(table: &BTreeMap<String, u64>, name: &str) -> u64 {
    table.get(name).copied().unwrap_or(0)
}

/// `max` is the highest number.
fn number(text: &str) -> Option<u64> {
    if text == "max" { Some(u64::MAX) } else { text.parse().ok() }
}

fn pids(files: Files<'_>) -> Result<Pids, CgroupError> {
    let limit = files.number("pids.max")?.filter(|limit| *limit != u64::MAX);
    Ok(Pids { current: files.number("pids.current")?.unwrap_or(0), limit: limit.unwrap_or(0) })
}

/// `some avg10=0.12 avg60=0.00 avg300=0.00 total=1234`, and the same of `full`.
fn pressure(text: &str) -> Pressure {
    let stall = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind)).unwrap_or_default();
        let value = |name: &str| line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        let average = |name| value(name).and_then(|text| text.parse().ok()).unwrap_or(0.0);
        Stall {
            avg10: average("avg10"),
            avg60: average("avg60"),
            avg300: average("avg300"),
            total: value("total").and_then(number).unwrap_or(0),
        }
    };
    Pressure { some: stall("some "), full: stall("full ") }
}

/// Of huge pages that this kernel has, in the words of cgroups: `2MB`.
fn page_sizes() -> Vec<String> {
    let entries = std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| page_size(&entry.file_name().into_string().ok()?));
    names.collect()
}

/// Of `hugepages-2048kB`.
fn page_size(name: &str) -> Option<String> {
    let mut size: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    let mut units = ["KB", "MB", "GB", "TB"].into_iter();
    let mut unit = units.next()?;
    while size >= 1024 {
        size /= 1024;
        unit = units.next()?;
    }
    Some(format!("{size}{unit}"))
}
