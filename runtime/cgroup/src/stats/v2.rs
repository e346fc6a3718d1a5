//! What version 2 counts, in the words of version 1.

use std::collections::BTreeMap;

use super::{BlockIo, BlockIoEntry, CpuUsage, Files, Huge, Memory, MemoryUse, Pids, Throttling, value};
use crate::cgroup::CgroupError;

/// In a microsecond.
const NANOSECONDS: u64 = 1000;

pub(super) fn cpu_usage(files: Files<'_>) -> Result<CpuUsage, CgroupError> {
    let table = files.table("cpu.stat")?;
    Ok(CpuUsage {
        total: time(&table, "usage_usec"),
        kernel: time(&table, "system_usec"),
        user: time(&table, "user_usec"),
        ..CpuUsage::default()
    })
}

pub(super) fn throttling(files: Files<'_>) -> Result<Throttling, CgroupError> {
    let table = files.table("cpu.stat")?;
    Ok(Throttling {
        periods: value(&table, "nr_periods"),
        throttled_periods: value(&table, "nr_throttled"),
        throttled_time: time(&table, "throttled_usec"),
    })
}

fn time(table: &BTreeMap<String, u64>, name: &str) -> u64 {
    value(table, name).saturating_mul(NANOSECONDS)
}

pub(super) fn memory(files: Files<'_>) -> Result<Memory, CgroupError> {
    let of = |kind: &str| -> Result<MemoryUse, CgroupError> {
        let value =
            |name: &str| Ok::<_, CgroupError>(files.number(&format!("memory.{kind}{name}"))?.unwrap_or(0));
        Ok(MemoryUse { limit: value("max")?, usage: value("current")?, max: value("peak")?, failcnt: 0 })
    };
    let raw = files.table("memory.stat")?;
    let (usage, swap) = (of("")?, of("swap.")?);
    // Both together, but for their peak: they need not have had it at once.
    let limit = swap.limit.saturating_add(if swap.limit == u64::MAX { 0 } else { usage.limit });
    let swap = MemoryUse { limit, usage: swap.usage.saturating_add(usage.usage), max: 0, failcnt: 0 };
    Ok(Memory {
        cache: value(&raw, "file"),
        usage,
        swap,
        raw,
        psi: files.pressure("memory.pressure")?,
        ..Memory::default()
    })
}

/// Where the controller is not passed on.
pub(super) fn uncounted_pids(files: Files<'_>) -> Result<Pids, CgroupError> {
    let text = match files.read("cgroup.procs")? {
        Some(text) => text,
        // A threaded cgroup.
        None => files.text("cgroup.threads")?,
    };
    Ok(Pids { current: text.lines().count() as u64, limit: 0 })
}

/// `8:16 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=0 dios=0`
pub(super) fn block_io(files: Files<'_>) -> Result<BlockIo, CgroupError> {
    let text = files.text("io.stat")?;
    let mut io = BlockIo { psi: files.pressure("io.pressure")?, ..BlockIo::default() };
    for line in text.lines() {
        let mut words = line.split(' ');
        let device = words.next().and_then(|device| {
            let (major, minor) = device.split_once(':')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        });
        let Some((major, minor)) = device else { continue };
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            let (counted, op) = match name {
                "rbytes" => (&mut io.io_service_bytes_recursive, "Read"),
                "wbytes" => (&mut io.io_service_bytes_recursive, "Write"),
                "rios" => (&mut io.io_serviced_recursive, "Read"),
                "wios" => (&mut io.io_serviced_recursive, "Write"),
                _ => continue,
            };
            if let Ok(value) = value.parse() {
                counted.push(BlockIoEntry { major, minor, op: op.to_owned(), value });
            }
        }
    }
    Ok(io)
}

/// Of reservations, where they are counted. `None`: the kernel has pages of the size and does not count them.
pub(super) fn huge(files: Files<'_>, size: &str) -> Result<Option<Huge>, CgroupError> {
    let failcnt = value(&files.table(&format!("hugetlb.{size}.events"))?, "max");
    for kind in [".rsvd", ""] {
        if let Some(usage) = files.number(&format!("hugetlb.{size}{kind}.current"))? {
            return Ok(Some(Huge { usage, max: 0, failcnt }));
        }
    }
    Ok(None)
}
