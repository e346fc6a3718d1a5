//! The files of cgroup version 2, with the values that runc and crun write for numbers that are meant for version 1.

use vfsrun_spec::oci::{BlockIo, Cpu, Memory};

use super::{Limit, LimitError, or_max, said};
use crate::hierarchy::Version;

fn limit(controller: &str, at: &str, file: &str, value: impl ToString) -> Limit {
    Limit::new(Version::V2, controller, at, file, value)
}

/// Swap alone: both together minus memory. It has been checked that this is not below 0.
pub(super) fn memory(memory: &Memory) -> Result<Vec<Limit>, LimitError> {
    let mut limits = Vec::new();
    let swap = match (said(memory.limit), said(memory.swap)) {
        (Some(-1), None) | (_, Some(-1)) => Some("max".to_owned()),
        (Some(limit), Some(swap)) => Some((swap - limit).to_string()),
        _ => None,
    };
    if let Some(value) = swap {
        let without_swap = value == "max" || value == "0";
        let swap = limit("memory", "memory.swap", "memory.swap.max", value);
        limits.push(if without_swap { swap.where_there_is_one() } else { swap });
    }
    if let Some(bytes) = said(memory.limit) {
        limits.push(limit("memory", "memory.limit", "memory.max", or_max(bytes)));
    }
    if let Some(bytes) = said(memory.reservation) {
        limits.push(limit("memory", "memory.reservation", "memory.low", or_max(bytes)));
    }
    Ok(limits)
}

pub(super) fn ignored_of_memory(memory: &Memory) -> Vec<&'static str> {
    let fields = [
        ("memory.swappiness", memory.swappiness.is_some()),
        ("memory.disableOOMKiller", memory.disable_oom_killer == Some(true)),
    ];
    fields.into_iter().filter(|(_, asked)| *asked).map(|(at, _)| at).collect()
}

pub(super) fn has_times(cpu: &Cpu) -> bool {
    said(cpu.shares).is_some()
        || said(cpu.quota).is_some()
        || said(cpu.period).is_some()
        || cpu.burst.is_some()
        || cpu.idle.is_some()
}

pub(super) fn cpu(cpu: &Cpu) -> Vec<Limit> {
    /// The kernel's own, in microseconds.
    const PERIOD: u64 = 100_000;
    let mut limits = Vec::new();
    if let Some(idle) = cpu.idle {
        limits.push(limit("cpu", "cpu.idle", "cpu.idle", idle));
    }
    // What is idle has no weight, and the kernel refuses one.
    if let Some(shares) = said(cpu.shares).filter(|_| cpu.idle != Some(1)) {
        limits.push(limit("cpu", "cpu.shares", "cpu.weight", weight(shares)));
    }
    if said(cpu.quota).is_some() || said(cpu.period).is_some() {
        let quota = said(cpu.quota).filter(|quota| *quota > 0).unwrap_or(-1);
        let value = format!("{} {}", or_max(quota), said(cpu.period).unwrap_or(PERIOD));
        limits.push(limit("cpu", "cpu.quota", "cpu.max", value));
    }
    if let Some(burst) = cpu.burst {
        limits.push(limit("cpu", "cpu.burst", "cpu.max.burst", burst));
    }
    limits
}

pub(super) fn ignored_of_cpu(cpu: &Cpu) -> Vec<&'static str> {
    let fields = [
        ("cpu.realtimePeriod", said(cpu.realtime_period).is_some()),
        ("cpu.realtimeRuntime", said(cpu.realtime_runtime).is_some()),
    ];
    fields.into_iter().filter(|(_, asked)| *asked).map(|(at, _)| at).collect()
}

/// Shares of version 1 (2 to 262144, 1024 by default) as a weight (1 to 10000, 100 by default): a quadratic function of their
/// logarithms through these three points, which runc 1.4 and crun 1.23 have in place of a straight line.
fn weight(shares: u64) -> u64 {
    const LOWEST: u64 = 2;
    const HIGHEST: u64 = 262_144;
    let logarithm = (shares.clamp(LOWEST, HIGHEST) as f64).log2();
    let exponent = (logarithm * logarithm + 125.0 * logarithm) / 612.0 - 7.0 / 34.0;
    // Of the lowest it is 1 and of the highest 10000, but for what a float loses.
    (10f64.powf(exponent) - 1e-9).ceil() as u64
}

pub(super) fn block_io(io: &BlockIo) -> Vec<Limit> {
    let mut limits = Vec::new();
    // Weights of the scheduler bfq are those of version 1.
    if let Some(weight) = said(io.weight) {
        let linear = 1 + (u64::from(weight).max(10) - 10) * 9999 / 990;
        let own = limit("io", "blockIO.weight", "io.bfq.weight", weight);
        limits.push(own.or_else("io.weight", linear));
    }
    for device in &io.weight_device {
        if let Some(weight) = said(device.weight) {
            let value = format!("{}:{} {weight}", device.major, device.minor);
            limits.push(limit("io", "blockIO.weightDevice", "io.bfq.weight", value));
        }
    }
    let throttles = [
        ("throttleReadBpsDevice", "rbps", &io.throttle_read_bps_device),
        ("throttleWriteBpsDevice", "wbps", &io.throttle_write_bps_device),
        ("throttleReadIOPSDevice", "riops", &io.throttle_read_iops_device),
        ("throttleWriteIOPSDevice", "wiops", &io.throttle_write_iops_device),
    ];
    for (field, word, devices) in throttles {
        limits.extend(devices.iter().map(|device| {
            // In version 1 a rate of 0 takes the limit away.
            let rate = said(Some(device.rate)).map_or("max".to_owned(), |rate| rate.to_string());
            let value = format!("{}:{} {word}={rate}", device.major, device.minor);
            limit("io", &format!("blockIO.{field}"), "io.max", value)
        }));
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_those_of_the_three_points() {
        assert_eq!([0, 2, 1024, 262_144, u64::MAX].map(weight), [1, 1, 100, 10_000, 10_000]);
        let weights: Vec<_> = (1..=18).map(|power| weight(1 << power)).collect();
        assert!(weights.is_sorted() && weights[9] == 100, "{weights:?}");
    }
}
