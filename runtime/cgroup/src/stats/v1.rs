//! What version 1 counts.

use super::{BlockIo, BlockIoEntry, CpuSet, CpuUsage, Files, Huge, Memory, MemoryUse, Throttling, value};
use crate::cgroup::CgroupError;

/// Of a tick of cpuacct.stat, of which every Linux has 100 in a second.
const NANOSECONDS: u64 = 10_000_000;

pub(super) fn cpu_usage(files: Files<'_>) -> Result<CpuUsage, CgroupError> {
    let ticks = files.table("cpuacct.stat")?;
    let time = |name: &str| value(&ticks, name).saturating_mul(NANOSECONDS);
    let all = files.text("cpuacct.usage_all")?;
    // `cpu user system` heads the lines.
    let column = |index: usize| -> Vec<u64> {
        all.lines().skip(1).filter_map(|line| line.split(' ').nth(index)?.parse().ok()).collect()
    };
    let percpu = files.text("cpuacct.usage_percpu")?;
    Ok(CpuUsage {
        total: files.number("cpuacct.usage")?.unwrap_or(0),
        percpu: percpu.split_whitespace().filter_map(|text| text.parse().ok()).collect(),
        percpu_kernel: column(2),
        percpu_user: column(1),
        kernel: time("system"),
        user: time("user"),
    })
}

pub(super) fn throttling(files: Files<'_>) -> Result<Throttling, CgroupError> {
    let table = files.table("cpu.stat")?;
    Ok(Throttling {
        periods: value(&table, "nr_periods"),
        throttled_periods: value(&table, "nr_throttled"),
        throttled_time: value(&table, "throttled_time"),
    })
}

pub(super) fn cpuset(files: Files<'_>) -> Result<CpuSet, CgroupError> {
    let value = |name: &str| Ok::<_, CgroupError>(files.number(&format!("cpuset.{name}"))?.unwrap_or(0));
    Ok(CpuSet {
        cpus: list(&files.text("cpuset.cpus")?),
        cpu_exclusive: value("cpu_exclusive")?,
        mems: list(&files.text("cpuset.mems")?),
        mem_hardwall: value("mem_hardwall")?,
        mem_exclusive: value("mem_exclusive")?,
        memory_migrate: value("memory_migrate")?,
        memory_spread_page: value("memory_spread_page")?,
        memory_spread_slab: value("memory_spread_slab")?,
        memory_pressure: value("memory_pressure")?,
        sched_load_balance: value("sched_load_balance")?,
        sched_relax_domain_level: files.text("cpuset.sched_relax_domain_level")?.trim().parse().unwrap_or(0),
    })
}

/// Of `0-2,7`.
fn list(text: &str) -> Vec<u16> {
    let spans = text.trim().split(',').filter_map(|span| {
        let (first, last) = span.split_once('-').unwrap_or((span, span));
        Some(first.parse::<u16>().ok()?..=last.parse().ok()?)
    });
    spans.flatten().collect()
}

pub(super) fn memory(files: Files<'_>) -> Result<Memory, CgroupError> {
    let of = |kind: &str| -> Result<MemoryUse, CgroupError> {
        let value =
            |name: &str| Ok::<_, CgroupError>(files.number(&format!("memory.{kind}{name}"))?.unwrap_or(0));
        Ok(MemoryUse {
            limit: value("limit_in_bytes")?,
            usage: value("usage_in_bytes")?,
            max: value("max_usage_in_bytes")?,
            failcnt: value("failcnt")?,
        })
    };
    let raw = files.table("memory.stat")?;
    Ok(Memory {
        cache: value(&raw, "cache"),
        usage: of("")?,
        swap: of("memsw.")?,
        kernel: of("kmem.")?,
        kernel_tcp: of("kmem.tcp.")?,
        raw,
        psi: None,
    })
}

/// A file, and where what it counts is told.
type Counted = (&'static str, fn(&mut BlockIo) -> &mut Vec<BlockIoEntry>);

/// The scheduler counts, bfq or cfq, or the throttle does; the first that has counted anything knows.
pub(super) fn block_io(files: Files<'_>) -> Result<BlockIo, CgroupError> {
    const SCHEDULERS: [Counted; 8] = [
        ("sectors_recursive", |io| &mut io.sectors_recursive),
        ("io_service_time_recursive", |io| &mut io.io_service_time_recursive),
        ("io_wait_time_recursive", |io| &mut io.io_wait_time_recursive),
        ("io_merged_recursive", |io| &mut io.io_merged_recursive),
        ("io_queued_recursive", |io| &mut io.io_queued_recursive),
        ("time_recursive", |io| &mut io.io_time_recursive),
        ("io_serviced_recursive", |io| &mut io.io_serviced_recursive),
        ("io_service_bytes_recursive", |io| &mut io.io_service_bytes_recursive),
    ];
    const THROTTLE: [Counted; 2] = [
        ("io_serviced", |io| &mut io.io_serviced_recursive),
        ("io_service_bytes", |io| &mut io.io_service_bytes_recursive),
    ];
    let groups: [(&str, &[Counted]); 5] = [
        ("blkio.bfq.", &SCHEDULERS),
        // A kernel without debugging of bfq has these alone.
        ("blkio.bfq.", &SCHEDULERS[6..]),
        ("blkio.", &SCHEDULERS),
        ("blkio.throttle.", &SCHEDULERS[6..]),
        ("blkio.throttle.", &THROTTLE),
    ];
    for (prefix, counted) in groups {
        if entries(files, prefix, counted[0].0)?.is_empty() {
            continue;
        }
        let mut io = BlockIo::default();
        for (file, place) in counted {
            *place(&mut io) = entries(files, prefix, file)?;
        }
        return Ok(io);
    }
    Ok(BlockIo::default())
}

/// Lines `8:0 Read 124` or `8:0 124`, and a sum.
fn entries(files: Files<'_>, prefix: &str, file: &str) -> Result<Vec<BlockIoEntry>, CgroupError> {
    let text = files.text(&format!("{prefix}{file}"))?;
    let entry = |line: &str| {
        let (device, rest) = line.split_once(' ')?;
        let (major, minor) = device.split_once(':')?;
        let (op, value) = rest.split_once(' ').unwrap_or(("", rest));
        Some(BlockIoEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            op: op.to_owned(),
            value: value.parse().ok()?,
        })
    };
    Ok(text.lines().filter_map(entry).collect())
}

/// Of reservations, where they are counted. `None`: the kernel has pages of the size and does not count them.
pub(super) fn huge(files: Files<'_>, size: &str) -> Result<Option<Huge>, CgroupError> {
    for kind in [".rsvd", ""] {
        let value = |name: &str| files.number(&format!("hugetlb.{size}{kind}.{name}"));
        if let Some(usage) = value("usage_in_bytes")? {
            let (max, failcnt) = (value("max_usage_in_bytes")?.unwrap_or(0), value("failcnt")?.unwrap_or(0));
            return Ok(Some(Huge { usage, max, failcnt }));
        }
    }
    Ok(None)
}
