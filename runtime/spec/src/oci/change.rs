//! A change of resources: what is said of those of a container that runs, and what of the others has to be said again with it.

use super::{BlockIo, Cpu, Memory, Pids, Resources, ThrottleDevice, WeightDevice};

impl Resources {
    /// These as they are after `change`. Device rules, and that an update be checked, are of no change.
    pub fn changed_by(&self, change: &Resources) -> Resources {
        let changed = change.clone();
        let mut hugepage_limits = self.hugepage_limits.clone();
        hugepage_limits
            .retain(|old| changed.hugepage_limits.iter().all(|new| new.page_size != old.page_size));
        hugepage_limits.extend(changed.hugepage_limits);
        Resources {
            devices: self.devices.clone(),
            memory: either(&self.memory, &change.memory, Memory::changed_by),
            cpu: either(&self.cpu, &change.cpu, Cpu::changed_by),
            pids: either(&self.pids, &change.pids, |old, new| Pids { limit: newer(old.limit, new.limit) }),
            block_io: either(&self.block_io, &change.block_io, BlockIo::changed_by),
            hugepage_limits,
            network: changed.network.or_else(|| self.network.clone()),
            rdma: self.rdma.clone().into_iter().chain(changed.rdma).collect(),
            unified: self.unified.clone().into_iter().chain(changed.unified).collect(),
        }
    }

    /// What is to be written for `change`, which made these out of others: with fields of which the kernel wants to know both.
    pub fn written_for(&self, change: &Resources) -> Resources {
        let memory = change.memory.as_ref().map(|asked| {
            let now = self.memory.clone().unwrap_or_default();
            let is_about_both = said(asked.limit).or(said(asked.swap)).is_some();
            let both = |value| if is_about_both { value } else { None };
            Memory { limit: both(now.limit), swap: both(now.swap), ..asked.clone() }
        });
        let cpu = change.cpu.as_ref().map(|asked| {
            let now = self.cpu.clone().unwrap_or_default();
            let is_about_both = said(asked.quota).is_some() || said(asked.period).is_some();
            let (quota, period) = if is_about_both { (now.quota, now.period) } else { (None, None) };
            // What was idle has the kernel's own weight.
            let shares = if asked.idle == Some(0) { now.shares } else { asked.shares };
            Cpu { quota, period, shares, ..asked.clone() }
        });
        Resources { memory, cpu, devices: Vec::new(), ..change.clone() }
    }
}

impl Memory {
    fn changed_by(&self, change: &Memory) -> Memory {
        // Without a limit of memory there is none of both, unless it is said.
        let is_freed = change.limit == Some(-1);
        let swap = newer(self.swap.filter(|_| !is_freed), change.swap);
        Memory {
            limit: newer(self.limit, change.limit),
            reservation: newer(self.reservation, change.reservation),
            swap,
            kernel: newer(self.kernel, change.kernel),
            kernel_tcp: newer(self.kernel_tcp, change.kernel_tcp),
            swappiness: change.swappiness.or(self.swappiness),
            disable_oom_killer: change.disable_oom_killer.or(self.disable_oom_killer),
            use_hierarchy: self.use_hierarchy,
            check_before_update: self.check_before_update,
        }
    }
}

impl Cpu {
    fn changed_by(&self, change: &Cpu) -> Cpu {
        let list = |old: &Option<String>, new: &Option<String>| {
            new.clone().filter(|new| !new.is_empty()).or_else(|| old.clone())
        };
        Cpu {
            shares: newer(self.shares, change.shares),
            quota: newer(self.quota, change.quota),
            burst: change.burst.or(self.burst),
            period: newer(self.period, change.period),
            realtime_runtime: newer(self.realtime_runtime, change.realtime_runtime),
            realtime_period: newer(self.realtime_period, change.realtime_period),
            cpus: list(&self.cpus, &change.cpus),
            mems: list(&self.mems, &change.mems),
            idle: change.idle.or(self.idle),
        }
    }
}

impl BlockIo {
    fn changed_by(&self, change: &BlockIo) -> BlockIo {
        BlockIo {
            weight: newer(self.weight, change.weight),
            leaf_weight: newer(self.leaf_weight, change.leaf_weight),
            weight_device: by_device(&self.weight_device, &change.weight_device, |old, new| WeightDevice {
                weight: newer(old.weight, new.weight),
                leaf_weight: newer(old.leaf_weight, new.leaf_weight),
                ..*new
            }),
            throttle_read_bps_device: throttles(
                &self.throttle_read_bps_device,
                &change.throttle_read_bps_device,
            ),
            throttle_write_bps_device: throttles(
                &self.throttle_write_bps_device,
                &change.throttle_write_bps_device,
            ),
            throttle_read_iops_device: throttles(
                &self.throttle_read_iops_device,
                &change.throttle_read_iops_device,
            ),
            throttle_write_iops_device: throttles(
                &self.throttle_write_iops_device,
                &change.throttle_write_iops_device,
            ),
        }
    }
}

fn throttles(old: &[ThrottleDevice], new: &[ThrottleDevice]) -> Vec<ThrottleDevice> {
    by_device(old, new, |_, new| *new)
}

/// Lists by device, in which the last of a device counts.
fn by_device<T: Copy + OfDevice>(old: &[T], new: &[T], both: impl Fn(&T, &T) -> T) -> Vec<T> {
    let mut all = old.to_vec();
    for entry in new {
        match all.iter_mut().rev().find(|known| known.device() == entry.device()) {
            Some(known) => *known = both(known, entry),
            None => all.push(*entry),
        }
    }
    all
}

trait OfDevice {
    /// Major and minor number.
    fn device(&self) -> (i64, i64);
}

impl OfDevice for WeightDevice {
    fn device(&self) -> (i64, i64) {
        (self.major, self.minor)
    }
}

impl OfDevice for ThrottleDevice {
    fn device(&self) -> (i64, i64) {
        (self.major, self.minor)
    }
}

fn either<T: Clone>(old: &Option<T>, new: &Option<T>, both: impl Fn(&T, &T) -> T) -> Option<T> {
    match (old, new) {
        (Some(old), Some(new)) => Some(both(old, new)),
        (old, new) => new.as_ref().or(old.as_ref()).cloned(),
    }
}

fn newer<T: PartialEq + Default>(old: Option<T>, new: Option<T>) -> Option<T> {
    said(new).or(old)
}

/// Callers in Go write what they do not mean as 0.
fn said<T: PartialEq + Default>(value: Option<T>) -> Option<T> {
    value.filter(|value| *value != T::default())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn resources(json: Value) -> Resources {
        serde_json::from_value(json).unwrap()
    }

    #[track_caller]
    fn assert_change(before: Value, change: Value, written: Value, after: Value) {
        let (before, change) = (resources(before), resources(change));
        let now = before.changed_by(&change);
        assert_eq!(serde_json::to_value(now.written_for(&change)).unwrap(), written);
        assert_eq!(serde_json::to_value(&now).unwrap(), after);
    }

    #[test]
    fn what_belongs_together_is_written_together() {
        let before = json!({ "cpu": { "quota": 5000, "shares": 512 }, "memory": { "limit": 64, "swap": 96, "reservation": 9 } });
        assert_change(
            before.clone(),
            json!({ "cpu": { "period": 20000 } }),
            json!({ "cpu": { "quota": 5000, "period": 20000 } }),
            json!({ "cpu": { "quota": 5000, "period": 20000, "shares": 512 }, "memory": { "limit": 64, "swap": 96, "reservation": 9 } }),
        );
        assert_change(
            before.clone(),
            json!({ "memory": { "swap": 200 } }),
            json!({ "memory": { "limit": 64, "swap": 200 } }),
            json!({ "cpu": { "quota": 5000, "shares": 512 }, "memory": { "limit": 64, "swap": 200, "reservation": 9 } }),
        );
        assert_change(
            before.clone(),
            json!({ "memory": { "limit": -1 } }),
            json!({ "memory": { "limit": -1 } }),
            json!({ "cpu": { "quota": 5000, "shares": 512 }, "memory": { "limit": -1, "reservation": 9 } }),
        );
        assert_change(
            before.clone(),
            json!({ "memory": { "reservation": 7 }, "cpu": { "idle": 0 } }),
            json!({ "memory": { "reservation": 7 }, "cpu": { "idle": 0, "shares": 512 } }),
            json!({ "cpu": { "quota": 5000, "shares": 512, "idle": 0 }, "memory": { "limit": 64, "swap": 96, "reservation": 7 } }),
        );
    }

    #[test]
    fn zero_and_devices_change_nothing() {
        let before = json!({ "devices": [{ "allow": true }], "pids": { "limit": 5 }, "cpu": { "shares": 512, "cpus": "0" } });
        let change = json!({ "devices": [{ "allow": false }], "pids": { "limit": 0 }, "cpu": { "shares": 0, "cpus": "" } });
        let written = json!({ "pids": { "limit": 0 }, "cpu": { "shares": 0, "cpus": "" } });
        assert_change(before.clone(), change, written, before);
    }

    #[test]
    fn lists_change_by_device_and_by_name() {
        let rate = |rate: u64| json!({ "throttleReadBpsDevice": [{ "major": 8, "minor": 0, "rate": rate }] });
        assert_change(
            json!({ "blockIO": rate(5), "unified": { "a.b": "1" }, "hugepageLimits": [{ "pageSize": "2MB", "limit": 1 }] }),
            json!({ "blockIO": rate(0), "unified": { "a.c": "2" }, "hugepageLimits": [{ "pageSize": "2MB", "limit": 3 }] }),
            json!({ "blockIO": rate(0), "unified": { "a.c": "2" }, "hugepageLimits": [{ "pageSize": "2MB", "limit": 3 }] }),
            json!({ "blockIO": rate(0), "unified": { "a.b": "1", "a.c": "2" }, "hugepageLimits": [{ "pageSize": "2MB", "limit": 3 }] }),
        );
    }
}
