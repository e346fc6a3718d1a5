//! The options of `update`.

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use vfsrun_spec::oci::{BlockIo, Cpu, Memory, Pids, Resources};

use crate::container::{Flag, Id, Schemata};

pub const UPDATE_HELP: &str = "\
What is not said, or said as 0, stays as it is. Bytes may have a unit: 64m, 1.5g; -1 is no limit. Either all of it is written or nothing.

Examples:
  vfsrun update --memory 512m --memory-swap 1g --pids-limit 100 web
  vfsrun update --cpu-quota 150000 --cpuset-cpus 0-1 web
  echo '{ \"cpu\": { \"shares\": 2048 } }' | vfsrun update --resources - web";

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("flags").multiple(true))]
pub struct Update {
    /// A file with an object as linux.resources in a config, or - for stdin; its devices are left as they are
    #[arg(short, long, value_name = "FILE", conflicts_with = "flags")]
    pub resources: Option<PathBuf>,
    /// Relative weight of its block I/O, 10 to 1000
    #[arg(long, value_name = "WEIGHT", group = "flags")]
    blkio_weight: Option<u16>,
    /// Microseconds in which it may use --cpu-quota
    #[arg(long, value_name = "US", group = "flags")]
    cpu_period: Option<u64>,
    /// Microseconds of CPU time in each period; -1 is no limit
    #[arg(long, value_name = "US", group = "flags", allow_negative_numbers = true)]
    cpu_quota: Option<i64>,
    /// Microseconds that it may save up in periods and use at once
    #[arg(long, value_name = "US", group = "flags")]
    cpu_burst: Option<u64>,
    /// Relative share of the CPUs, 2 to 262144; 1024 is the default
    #[arg(long, value_name = "SHARES", group = "flags")]
    cpu_share: Option<u64>,
    /// The period of --cpu-rt-runtime, in microseconds (cgroup version 1)
    #[arg(long, value_name = "US", group = "flags")]
    cpu_rt_period: Option<u64>,
    /// Microseconds of real-time scheduling in each period (cgroup version 1)
    #[arg(long, value_name = "US", group = "flags", allow_negative_numbers = true)]
    cpu_rt_runtime: Option<i64>,
    /// CPUs that it may use
    #[arg(long, value_name = "LIST", group = "flags")]
    cpuset_cpus: Option<String>,
    /// Memory nodes that it may use
    #[arg(long, value_name = "LIST", group = "flags")]
    cpuset_mems: Option<String>,
    /// 1: it has CPUs that nobody else wants (SCHED_IDLE); 0: as others
    #[arg(long, value_name = "0|1", group = "flags", value_parser = clap::value_parser!(i64).range(0..=1))]
    cpu_idle: Option<i64>,
    /// Memory
    #[arg(long, value_name = "BYTES", group = "flags", allow_negative_numbers = true, value_parser = bytes)]
    memory: Option<i64>,
    /// Memory that it keeps when others are short of it
    #[arg(long, value_name = "BYTES", group = "flags", allow_negative_numbers = true, value_parser = bytes)]
    memory_reservation: Option<i64>,
    /// Memory and swap together
    #[arg(long, value_name = "BYTES", group = "flags", allow_negative_numbers = true, value_parser = bytes)]
    memory_swap: Option<i64>,
    /// Processes and threads; -1 is no limit
    #[arg(long, value_name = "N", group = "flags", allow_negative_numbers = true)]
    pids_limit: Option<i64>,
    /// Accepted: kernels have no such limit any more
    #[arg(long, hide = true, allow_negative_numbers = true, value_parser = bytes)]
    kernel_memory: Option<i64>,
    /// The same for buffers of TCP (cgroup version 1)
    #[arg(long, hide = true, group = "flags", allow_negative_numbers = true, value_parser = bytes)]
    kernel_memory_tcp: Option<i64>,
    /// Its part of the L3 cache, as a line of resctrl: L3:0=ff;1=c0
    #[arg(long, value_name = "SCHEMA", value_parser = one_line)]
    l3_cache_schema: Option<String>,
    /// Its part of the memory bandwidth: MB:0=20;1=70
    #[arg(long, value_name = "SCHEMA", value_parser = one_line)]
    mem_bw_schema: Option<String>,
    /// The container's name
    pub id: Id,
}

impl Update {
    pub fn schemata(&self) -> Schemata {
        Schemata { l3_cache: self.l3_cache_schema.clone(), bandwidth: self.mem_bw_schema.clone() }
    }

    /// What the options say, each with the field that it is.
    pub fn flags(&self) -> (Resources, Vec<Flag>) {
        let memory = Memory {
            limit: self.memory,
            reservation: self.memory_reservation,
            swap: self.memory_swap,
            kernel: self.kernel_memory,
            kernel_tcp: self.kernel_memory_tcp,
            ..Memory::default()
        };
        let cpu = Cpu {
            shares: self.cpu_share,
            quota: self.cpu_quota,
            burst: self.cpu_burst,
            period: self.cpu_period,
            realtime_runtime: self.cpu_rt_runtime,
            realtime_period: self.cpu_rt_period,
            cpus: self.cpuset_cpus.clone(),
            mems: self.cpuset_mems.clone(),
            idle: self.cpu_idle,
        };
        let block_io = BlockIo { weight: self.blkio_weight, ..BlockIo::default() };
        let resources = Resources {
            memory: Some(memory).filter(|memory| *memory != Memory::default()),
            cpu: Some(cpu).filter(|cpu| *cpu != Cpu::default()),
            pids: self.pids_limit.map(|limit| Pids { limit: Some(limit) }),
            block_io: Some(block_io).filter(|block_io| *block_io != BlockIo::default()),
            ..Resources::default()
        };
        let flags = [
            ("--memory", "memory.limit", self.memory.is_some()),
            ("--memory-reservation", "memory.reservation", self.memory_reservation.is_some()),
            ("--memory-swap", "memory.swap", self.memory_swap.is_some()),
            ("--kernel-memory-tcp", "memory.kernelTCP", self.kernel_memory_tcp.is_some()),
            ("--cpu-share", "cpu.shares", self.cpu_share.is_some()),
            ("--cpu-quota", "cpu.quota", self.cpu_quota.is_some()),
            ("--cpu-burst", "cpu.burst", self.cpu_burst.is_some()),
            ("--cpu-period", "cpu.period", self.cpu_period.is_some()),
            ("--cpu-rt-runtime", "cpu.realtimeRuntime", self.cpu_rt_runtime.is_some()),
            ("--cpu-rt-period", "cpu.realtimePeriod", self.cpu_rt_period.is_some()),
            ("--cpuset-cpus", "cpu.cpus", self.cpuset_cpus.is_some()),
            ("--cpuset-mems", "cpu.mems", self.cpuset_mems.is_some()),
            ("--cpu-idle", "cpu.idle", self.cpu_idle.is_some()),
            ("--pids-limit", "pids.limit", self.pids_limit.is_some()),
            ("--blkio-weight", "blockIO.weight", self.blkio_weight.is_some()),
        ];
        let given = flags.into_iter().filter(|(.., is_given)| *is_given);
        (resources, given.map(|(name, field, _)| Flag { name, field }).collect())
    }
}

fn one_line(text: &str) -> Result<String, String> {
    match text.is_empty() || text.contains('\n') {
        true => Err("expected one line".to_owned()),
        false => Ok(text.to_owned()),
    }
}

/// A number of bytes as callers of runc say it: with a unit of either case, b, k, m, g, t or p, all of them powers of 1024, and `ib` or `b` after
/// it; or -1.
fn bytes(text: &str) -> Result<i64, String> {
    let is_digit = |letter: char| letter.is_ascii_digit() || letter == '.';
    if text == "-1" {
        return Ok(-1);
    }
    let (number, unit) = text.split_at(text.find(|letter| !is_digit(letter)).unwrap_or(text.len()));
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let power = match unit.as_str() {
        "" | "b" => Some(0),
        unit => {
            let (letter, rest) = unit.split_at(unit.chars().next().map_or(0, char::len_utf8));
            ["k", "m", "g", "t", "p"]
                .iter()
                .position(|known| *known == letter)
                .filter(|_| matches!(rest, "" | "b" | "ib"))
        }
        .map(|index| index as u32 + 1),
    };
    let syntax = || format!("{text:?} is no number of bytes, expected such as 512m, or -1 for no limit");
    let factor = 1_i64 << (10 * power.ok_or_else(syntax)?);
    let large = || format!("{text:?} is more bytes than 63 bits can hold");
    if number.contains('.') {
        let number: f64 = number.parse().map_err(|_| syntax())?;
        let bytes = number * factor as f64;
        return if bytes < i64::MAX as f64 { Ok(bytes as i64) } else { Err(large()) };
    }
    if number.is_empty() {
        return Err(syntax());
    }
    number.parse::<i64>().ok().and_then(|number| number.checked_mul(factor)).ok_or_else(large)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units_of_either_case() {
        for (text, expected) in [
            ("0", 0),
            ("-1", -1),
            ("4096", 4096),
            ("64b", 64),
            ("64m", 64 << 20),
            ("64M", 64 << 20),
            ("64MB", 64 << 20),
            ("64MiB", 64 << 20),
            ("64 mib", 64 << 20),
            ("1.5g", 3 << 29),
            ("2t", 2 << 40),
            ("1p", 1 << 50),
            ("9223372036854775807", i64::MAX),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        let refused = [
            "",
            "-2",
            "m",
            "64x",
            "64mm",
            "64mib ",
            "6 4",
            "0x10",
            "1.2.3",
            ".",
            "+1",
            "9223372036854775808",
            "9000000p",
            "99999999.5p",
            "1e3",
            "٣",
            "max",
        ];
        for text in refused {
            assert!(bytes(text).is_err(), "{text:?}");
        }
    }
}
