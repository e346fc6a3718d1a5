//! The files of cgroup version 1, with the values that runc writes.

use vfsrun_spec::oci::{BlockIo, Cpu, Memory, NetworkClass};

use super::{Limit, LimitError, said};
use crate::hierarchy::Version;

fn limit(controller: &str, at: &str, file: &str, value: impl ToString) -> Limit {
    Limit::new(Version::V1, controller, at, file, value)
}

/// Kernel memory is ignored, as the kernel does.
pub(super) fn memory(memory: &Memory) -> Vec<Limit> {
    let new = |at: &str, file: &str, value: String| limit("memory", at, file, value);
    let mut limits = Vec::new();
    if let Some(bytes) = said(memory.limit) {
        limits.push(new("memory.limit", "memory.limit_in_bytes", bytes.to_string()));
    }
    // Without a limit of memory there is none of both either.
    let swap = said(memory.swap).or(memory.limit.filter(|limit| *limit == -1));
    if let Some(bytes) = swap {
        let swap = new("memory.swap", "memory.memsw.limit_in_bytes", bytes.to_string());
        // Where swap is not counted it is not limited either.
        limits.push(if bytes == -1 { swap.where_there_is_one() } else { swap });
    }
    if let Some(bytes) = said(memory.reservation) {
        limits.push(new("memory.reservation", "memory.soft_limit_in_bytes", bytes.to_string()));
    }
    if let Some(bytes) = said(memory.kernel_tcp) {
        limits.push(new("memory.kernelTCP", "memory.kmem.tcp.limit_in_bytes", bytes.to_string()));
    }
    if memory.disable_oom_killer == Some(true) {
        limits.push(new("memory.disableOOMKiller", "memory.oom_control", "1".to_owned()));
    }
    if let Some(percent) = memory.swappiness {
        limits.push(new("memory.swappiness", "memory.swappiness", percent.to_string()));
    }
    limits
}

pub(super) fn cpu(cpu: &Cpu) -> Vec<Limit> {
    let new = |at: &str, file: &str, value: String| limit("cpu", at, file, value);
    let numbers = [
        ("cpu.realtimePeriod", "cpu.rt_period_us", said(cpu.realtime_period).map(|n| n.to_string())),
        ("cpu.realtimeRuntime", "cpu.rt_runtime_us", said(cpu.realtime_runtime).map(|n| n.to_string())),
        ("cpu.shares", "cpu.shares", said(cpu.shares).map(|n| n.to_string())),
        ("cpu.period", "cpu.cfs_period_us", said(cpu.period).map(|n| n.to_string())),
        ("cpu.quota", "cpu.cfs_quota_us", said(cpu.quota).map(|n| n.to_string())),
        ("cpu.burst", "cpu.cfs_burst_us", cpu.burst.map(|n| n.to_string())),
        ("cpu.idle", "cpu.idle", cpu.idle.map(|n| n.to_string())),
    ];
    numbers.into_iter().filter_map(|(at, file, value)| Some(new(at, file, value?))).collect()
}

pub(super) fn block_io(io: &BlockIo) -> Vec<Limit> {
    let new = |at: &str, file: &str, value: String| limit("blkio", at, file, value);
    let mut limits = Vec::new();
    // The scheduler bfq has files of its own.
    if let Some(weight) = said(io.weight) {
        let limit = new("blockIO.weight", "blkio.weight", weight.to_string());
        limits.push(limit.or_else("blkio.bfq.weight", weight));
    }
    if let Some(weight) = said(io.leaf_weight) {
        limits.push(new("blockIO.leafWeight", "blkio.leaf_weight", weight.to_string()));
    }
    for device in &io.weight_device {
        let value = |weight: u16| format!("{}:{} {weight}", device.major, device.minor);
        if let Some(weight) = said(device.weight) {
            let limit = new("blockIO.weightDevice", "blkio.weight_device", value(weight));
            limits.push(limit.or_else("blkio.bfq.weight_device", value(weight)));
        }
        if let Some(weight) = said(device.leaf_weight) {
            limits.push(new("blockIO.weightDevice", "blkio.leaf_weight_device", value(weight)));
        }
    }
    let throttles = [
        ("throttleReadBpsDevice", "read_bps", &io.throttle_read_bps_device),
        ("throttleWriteBpsDevice", "write_bps", &io.throttle_write_bps_device),
        ("throttleReadIOPSDevice", "read_iops", &io.throttle_read_iops_device),
        ("throttleWriteIOPSDevice", "write_iops", &io.throttle_write_iops_device),
    ];
    for (field, word, devices) in throttles {
        limits.extend(devices.iter().map(|device| {
            let value = format!("{}:{} {}", device.major, device.minor, device.rate);
            new(&format!("blockIO.{field}"), &format!("blkio.throttle.{word}_device"), value)
        }));
    }
    limits
}

pub(super) fn network(
    network: &NetworkClass,
    version: &impl Fn(&'static str, &str) -> Result<Version, LimitError>,
) -> Result<Vec<Limit>, LimitError> {
    let mut limits = Vec::new();
    if let Some(class) = said(network.class_id) {
        version("net_cls", "network.classID")?;
        limits.push(limit("net_cls", "network.classID", "net_cls.classid", class));
    }
    for interface in &network.priorities {
        version("net_prio", "network.priorities")?;
        let value = format!("{} {}", interface.name, interface.priority);
        limits.push(limit("net_prio", "network.priorities", "net_prio.ifpriomap", value));
    }
    Ok(limits)
}
