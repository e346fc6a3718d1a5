//! Properties of a scope: what limits and devices of a container are called by systemd. What it has no word for is in the files of the
//! cgroup alone, where all of it is written afterwards.

use super::value::{Property, Value};
use crate::devices::{List, Rule};
use crate::hierarchy::Version;
use crate::limits::Limit;

/// systemd's "infinity".
const NO_LIMIT: u64 = u64::MAX;

/// Those of `limits`, for a systemd of this version. Of several for one property the last counts, as it does in the files.
pub fn of(limits: &[Limit], systemd: u32) -> Vec<Property> {
    // What is idle has no weight, whatever is said of it.
    let is_idle = limits.iter().any(|limit| limit.file == "cpu.idle" && limit.value.trim() == "1");
    let mut properties: Vec<Property> = Vec::new();
    for limit in limits.iter().filter(|limit| !(is_idle && limit.file == "cpu.weight")) {
        for property in of_one(limit, systemd) {
            properties.retain(|earlier| earlier.name != property.name);
            properties.push(property);
        }
    }
    properties.extend(quota_of_v1(limits));
    properties
}

fn of_one(limit: &Limit, systemd: u32) -> Vec<Property> {
    let value = limit.value.trim();
    let number = |name: &str| amount(value).map(|number| Property::number(name, number));
    // What the kernel takes and systemd refuses.
    let within = |name: &str, least: u64, most: u64| match amount(value)? {
        NO_LIMIT => Some(Property::number(name, NO_LIMIT)),
        number => Some(Property::number(name, number.clamp(least, most))),
    };
    let one = match (limit.version, limit.file.as_str()) {
        (_, "pids.max") => amount(value).map(|count| Property::number("TasksMax", count.max(1))),
        (_, "cpuset.cpus") if systemd >= 244 => bits(value).map(|bits| Property::new("AllowedCPUs", bits)),
        (_, "cpuset.mems") if systemd >= 244 => {
            bits(value).map(|bits| Property::new("AllowedMemoryNodes", bits))
        }
        (Version::V1, "memory.limit_in_bytes") => number("MemoryLimit"),
        // The file gets the exact value afterwards.
        (Version::V1, "cpu.shares") => within("CPUShares", 2, 1 << 18),
        (Version::V1, "blkio.weight") => within("BlockIOWeight", 10, 1000),
        (Version::V2, "memory.max") => within("MemoryMax", 1, NO_LIMIT),
        (Version::V2, "memory.high") => number("MemoryHigh"),
        (Version::V2, "memory.low") => number("MemoryLow"),
        (Version::V2, "memory.min") => number("MemoryMin"),
        (Version::V2, "memory.swap.max") => number("MemorySwapMax"),
        (Version::V2, "memory.zswap.max") if systemd >= 253 => number("MemoryZSwapMax"),
        (Version::V2, "cpu.idle") if systemd >= 252 => match value {
            "1" => Some(Property::number("CPUWeight", 0)),
            "0" => Some(Property::number("CPUWeight", NO_LIMIT)),
            _ => None,
        },
        (Version::V2, "cpu.weight") => number("CPUWeight"),
        (Version::V2, "io.weight") => number("IOWeight"),
        // That of the scheduler has another range.
        (Version::V2, "io.bfq.weight") => {
            let linear = limit.or_else.as_ref().and_then(|(_, linear)| amount(linear));
            linear.map(|weight| Property::number("IOWeight", weight))
        }
        (Version::V2, "cpu.max") => {
            let mut words = value.split_whitespace();
            let quota = words.next().unwrap_or_default();
            return quota_of(quota, words.next(), systemd);
        }
        _ => None,
    };
    one.into_iter().collect()
}

/// What can only be said when the unit is made, of limits of version 2.
pub fn at_first(limits: &[Limit], systemd: u32) -> Option<Property> {
    let group = limits.iter().rfind(|limit| limit.file == "memory.oom.group").filter(|_| systemd >= 253)?;
    match group.value.trim() {
        "0" => Some(Property::text("OOMPolicy", "continue")),
        "1" => Some(Property::text("OOMPolicy", "kill")),
        _ => None,
    }
}

/// A number, or none for a limit that is taken away.
fn amount(text: &str) -> Option<u64> {
    match text {
        "max" | "-1" => Some(NO_LIMIT),
        text => text.parse().ok(),
    }
}

fn quota_of_v1(limits: &[Limit]) -> Vec<Property> {
    let said = |file: &str| {
        let limit = limits.iter().rfind(|limit| limit.version == Version::V1 && limit.file == file);
        limit.map(|limit| limit.value.as_str())
    };
    match (said("cpu.cfs_quota_us"), said("cpu.cfs_period_us")) {
        (None, None) => Vec::new(),
        // Any systemd that serves version 1 by the name of its period is new enough.
        (quota, period) => quota_of(quota.unwrap_or("-1"), period, 242),
    }
}

/// In whole hundredths of a processor, rounded up as runc and crun do it: systemd keeps nothing finer when it is reloaded.
fn quota_of(quota: &str, period: Option<&str>, systemd: u32) -> Vec<Property> {
    /// The kernel's own, in microseconds.
    const PERIOD: u64 = 100_000;
    const HUNDREDTH: u64 = 10_000;
    let said = period.and_then(|period| period.parse::<u64>().ok()).filter(|period| *period > 0);
    let per_second = match quota.parse::<u64>() {
        Ok(quota) => {
            let exact = u128::from(quota) * 1_000_000 / u128::from(said.unwrap_or(PERIOD));
            u64::try_from(exact).unwrap_or(NO_LIMIT / 2).max(1).next_multiple_of(HUNDREDTH)
        }
        Err(_) => NO_LIMIT,
    };
    let period = said.filter(|_| systemd >= 242).map(|period| Property::number("CPUQuotaPeriodUSec", period));
    period.into_iter().chain([Property::number("CPUQuotaPerSecUSec", per_second)]).collect()
}

/// `0-2,5` as bits, the first number the lowest of the first byte. `None` for what the kernel will refuse.
fn bits(list: &str) -> Option<Value> {
    /// More than a kernel has.
    const MOST: usize = 65_536;
    let mut bytes = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= MOST {
            return None;
        }
        for number in first..=last {
            if bytes.len() <= number / 8 {
                bytes.resize(number / 8 + 1, 0);
            }
            bytes[number / 8] |= 1 << (number % 8);
        }
    }
    (!bytes.is_empty()).then_some(Value::Bytes(bytes))
}

/// Which devices systemd allows. It writes that again when it is reloaded, so that it must not undo what the rules deny: what it
/// cannot express it denies in version 1, and leaves to our own program in version 2, which it does not touch.
pub fn devices(rules: &[Rule], is_v1: bool) -> [Property; 2] {
    let of = |policy: &str, allowed: Vec<(String, String)>| {
        [Property::text("DevicePolicy", policy), Property::new("DeviceAllow", Value::Pairs(allowed))]
    };
    match List::new(rules).ok().and_then(|list| list.allowed()) {
        Some(allowed) if allowed.allows_all => of("auto", Vec::new()),
        Some(allowed) if allowed.is_complete || is_v1 => of("strict", allowed.devices),
        _ if is_v1 => of("strict", Vec::new()),
        _ => of("auto", Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use vfsrun_spec::oci::DeviceRule;

    use super::*;
    use crate::devices;

    fn limit(version: Version, file: &str, value: &str) -> Limit {
        Limit {
            at: String::new(),
            version,
            controller: String::new(),
            file: file.to_owned(),
            or_else: None,
            value: value.to_owned(),
            may_be_missing: false,
        }
    }

    #[track_caller]
    fn are(version: Version, said: &[(&str, &str)], expected: &[Property]) {
        let limits: Vec<_> = said.iter().map(|(file, value)| limit(version, file, value)).collect();
        assert_eq!(of(&limits, 252), expected);
    }

    #[test]
    fn limits_of_both_versions() {
        let bytes = |name: &str, bytes: &[u8]| Property::new(name, Value::Bytes(bytes.to_vec()));
        are(
            Version::V2,
            &[
                ("memory.max", "5"),
                ("memory.low", "max"),
                ("pids.max", "0"),
                ("cpuset.cpus", "0-2,9"),
                ("cpuset.mems", "0"),
            ],
            &[
                Property::number("MemoryMax", 5),
                Property::number("MemoryLow", u64::MAX),
                Property::number("TasksMax", 1),
                bytes("AllowedCPUs", &[7, 2]),
                bytes("AllowedMemoryNodes", &[1]),
            ],
        );
        are(
            Version::V1,
            &[
                ("memory.limit_in_bytes", "-1"),
                ("memory.memsw.limit_in_bytes", "9"),
                ("cpu.shares", "512"),
                ("blkio.weight", "10"),
            ],
            &[
                Property::number("MemoryLimit", u64::MAX),
                Property::number("CPUShares", 512),
                Property::number("BlockIOWeight", 10),
            ],
        );
    }

    #[test]
    fn the_last_of_several_counts() {
        are(Version::V2, &[("pids.max", "5"), ("pids.max", " 7\n")], &[Property::number("TasksMax", 7)]);
        for said in [[("cpu.idle", "1"), ("cpu.weight", "9")], [("cpu.weight", "9"), ("cpu.idle", "1")]] {
            are(Version::V2, &said, &[Property::number("CPUWeight", 0)]);
        }
    }

    #[test]
    fn quotas_are_rounded_up_to_what_systemd_keeps() {
        let quota = |number| Property::number("CPUQuotaPerSecUSec", number);
        let period = |number| Property::number("CPUQuotaPeriodUSec", number);
        are(Version::V2, &[("cpu.max", "50000 200000")], &[period(200_000), quota(250_000)]);
        are(Version::V2, &[("cpu.max", "33333")], &[quota(340_000)]);
        are(Version::V2, &[("cpu.max", "max 100000")], &[period(100_000), quota(u64::MAX)]);
        are(
            Version::V1,
            &[("cpu.cfs_period_us", "200000"), ("cpu.cfs_quota_us", "50000")],
            &[period(200_000), quota(250_000)],
        );
        are(Version::V1, &[("cpu.cfs_quota_us", "-1")], &[quota(u64::MAX)]);
    }

    #[test]
    fn an_old_systemd_is_not_told_what_it_does_not_know() {
        let limits = [("cpuset.cpus", "0"), ("cpu.idle", "1"), ("memory.zswap.max", "1")];
        let limits = limits.map(|(file, value)| limit(Version::V2, file, value));
        assert_eq!(of(&limits, 239), []);
        let group = [limit(Version::V2, "memory.oom.group", "1")];
        assert_eq!(at_first(&group, 252), None);
        assert_eq!(at_first(&group, 253), Some(Property::text("OOMPolicy", "kill")));
    }

    #[test]
    fn numbers_of_processors_that_are_none_are_left_to_the_kernel() {
        for list in ["", "x", "3-1", "0-99999999999", "65536", "-1"] {
            are(Version::V2, &[("cpuset.cpus", list)], &[]);
        }
    }

    #[test]
    fn devices_are_never_more_than_the_rules_allow() {
        let rule = |allow, kind: &str, major, minor, access: &str| DeviceRule {
            allow,
            kind: Some(kind.to_owned()),
            major,
            minor,
            access: Some(access.to_owned()),
        };
        let deny_all = rule(false, "a", None, None, "rwm");
        let said = |rules: &[DeviceRule], is_v1| {
            let [policy, allowed] = super::devices(&devices::rules(rules), is_v1);
            let (Value::Text(policy), Value::Pairs(allowed)) = (policy.value, allowed.value) else {
                unreachable!()
            };
            (policy, allowed)
        };
        let (policy, allowed) = said(&[deny_all.clone(), rule(true, "b", Some(7), None, "r")], false);
        assert_eq!(policy, "strict");
        for expected in [
            ("char-*", "m"),
            ("/dev/char/1:3", "rwm"),
            ("char-136", "rwm"),
            ("block-7", "r"),
            ("block-*", "m"),
        ] {
            assert!(
                allowed.contains(&(expected.0.to_owned(), expected.1.to_owned())),
                "{expected:?} in {allowed:?}"
            );
        }
        let all = rule(true, "a", None, None, "rwm");
        assert_eq!(said(std::slice::from_ref(&all), true), ("auto".to_owned(), Vec::new()));
        // All but one, and each of one minor: systemd has no words for them.
        let but_one = [all, rule(false, "b", Some(8), Some(0), "rwm")];
        assert_eq!(said(&but_one, true), ("strict".to_owned(), Vec::new()));
        assert_eq!(said(&but_one, false), ("auto".to_owned(), Vec::new()));
        let each = [deny_all, rule(true, "c", None, Some(5), "r")];
        assert_eq!(said(&each, false).0, "auto");
        assert_eq!(said(&each, true).0, "strict");
    }
}
