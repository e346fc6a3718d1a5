//! Limits: `linux.resources` as texts for the files of a cgroup.

mod v1;
mod v2;

use serde::Serialize;
use thiserror::Error;
use vfsrun_spec::oci::Resources;

use crate::hierarchy::Version;
use crate::place::Place;

/// What the JSON paths of resources begin with.
pub const RESOURCES: &str = "linux.resources.";

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LimitError {
    #[error("{at}: there is no cgroup controller {controller} here")]
    NoController { at: String, controller: &'static str },
    #[error("{at}: {problem}")]
    Value { at: String, problem: &'static str },
    #[error("{at}: there is no cgroup version 2 here")]
    NoUnified { at: String },
}

/// A text for a file of the cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Limit {
    /// Its field, for messages: a JSON path of the config, or what an update calls it.
    pub at: String,
    pub version: Version,
    pub controller: String,
    pub file: String,
    /// Written where there is no such file; kernels differ in it.
    pub or_else: Option<(String, String)>,
    pub value: String,
    /// A kernel that has neither file does so anyway.
    pub may_be_missing: bool,
}

impl LimitError {
    /// With another name for its field.
    pub fn renamed(mut self, name: impl Fn(&str) -> String) -> LimitError {
        let (LimitError::NoController { at, .. }
        | LimitError::Value { at, .. }
        | LimitError::NoUnified { at }) = &mut self;
        *at = name(at);
        self
    }
}

impl Limit {
    fn new(version: Version, controller: &str, at: &str, file: &str, value: impl ToString) -> Limit {
        Limit {
            at: field(at),
            version,
            controller: controller.to_owned(),
            file: file.to_owned(),
            or_else: None,
            value: value.to_string(),
            may_be_missing: false,
        }
    }

    fn or_else(self, file: &str, value: impl ToString) -> Limit {
        Limit { or_else: Some((file.to_owned(), value.to_string())), ..self }
    }

    fn where_there_is_one(self) -> Limit {
        Limit { may_be_missing: true, ..self }
    }
}

/// What a config comes to here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// In the order in which they are written.
    pub set: Vec<Limit>,
    /// Fields that this version of cgroups does not have.
    pub ignored: Vec<&'static str>,
}

/// The limits of `resources` for a cgroup at `places`; of its devices nothing.
///
/// # Errors
/// A controller that is not here, or values that contradict each other.
pub fn of(resources: &Resources, places: &[Place]) -> Result<Limits, LimitError> {
    let mut limits = Limits::default();
    let version = |controller: &'static str, at: &str| {
        version_of(controller, places).ok_or_else(|| LimitError::NoController { at: field(at), controller })
    };
    if let Some(memory) = &resources.memory {
        check_swap(memory)?;
        match version("memory", "memory")? {
            Version::V1 => limits.set.extend(v1::memory(memory)),
            Version::V2 => {
                limits.set.extend(v2::memory(memory)?);
                limits.ignored.extend(v2::ignored_of_memory(memory));
            }
        }
    }
    if let Some(cpu) = &resources.cpu {
        if v2::has_times(cpu) || cpu.realtime_period.is_some() || cpu.realtime_runtime.is_some() {
            match version("cpu", "cpu")? {
                Version::V1 => limits.set.extend(v1::cpu(cpu)),
                Version::V2 => {
                    limits.set.extend(v2::cpu(cpu));
                    limits.ignored.extend(v2::ignored_of_cpu(cpu));
                }
            }
        }
        let sets = [("cpus", &cpu.cpus), ("mems", &cpu.mems)];
        for (name, list) in sets.into_iter().filter_map(|(name, list)| Some((name, list.as_deref()?))) {
            if !list.is_empty() {
                let at = format!("cpu.{name}");
                let version = version("cpuset", &at)?;
                limits.set.push(Limit::new(version, "cpuset", &at, &format!("cpuset.{name}"), list));
            }
        }
    }
    if let Some(limit) = resources.pids.as_ref().and_then(|pids| pids.limit).filter(|limit| *limit != 0) {
        let version = version("pids", "pids.limit")?;
        limits.set.push(Limit::new(version, "pids", "pids.limit", "pids.max", or_max(limit)));
    }
    if let Some(io) = &resources.block_io {
        match version("blkio", "blockIO").or_else(|error| version("io", "blockIO").map_err(|_| error))? {
            Version::V1 => limits.set.extend(v1::block_io(io)),
            Version::V2 => limits.set.extend(v2::block_io(io)),
        }
    }
    for (index, limit) in resources.hugepage_limits.iter().enumerate() {
        let at = format!("hugepageLimits[{index}]");
        let word = match version("hugetlb", &at)? {
            Version::V1 => "limit_in_bytes",
            Version::V2 => "max",
        };
        let version = version("hugetlb", &at)?;
        let of = |kind: &str| {
            let file = format!("hugetlb.{}{kind}.{word}", limit.page_size);
            Limit::new(version, "hugetlb", &at, &file, limit.limit)
        };
        // Reservations are counted since Linux 5.7.
        limits.set.extend([of(""), of(".rsvd").where_there_is_one()]);
    }
    if let Some(network) = &resources.network {
        limits.set.extend(v1::network(network, &version)?);
    }
    for (device, limit) in &resources.rdma {
        let at = format!("rdma.{device}");
        let version = version("rdma", &at)?;
        let handles = limit.hca_handles.map(|count| format!(" hca_handle={count}")).unwrap_or_default();
        let objects = limit.hca_objects.map(|count| format!(" hca_object={count}")).unwrap_or_default();
        let value = format!("{device}{handles}{objects}");
        limits.set.push(Limit::new(version, "rdma", &at, "rdma.max", value));
    }
    if !resources.unified.is_empty() && !places.iter().any(|place| place.version == Version::V2) {
        return Err(LimitError::NoUnified { at: field("unified") });
    }
    // Last: what is said in the kernel's own words wins.
    limits.set.extend(resources.unified.iter().map(|(file, value)| {
        let controller = file.split('.').next().unwrap_or_default();
        Limit::new(Version::V2, controller, &format!("unified.{file}"), file, value)
    }));
    Ok(limits)
}

/// The JSON path of a field of the resources.
fn field(name: &str) -> String {
    format!("{RESOURCES}{name}")
}

/// Version 2 tells what it has only file by file.
fn version_of(controller: &str, places: &[Place]) -> Option<Version> {
    const ONLY_V1: [&str; 3] = ["blkio", "net_cls", "net_prio"];
    if places.iter().any(|place| place.has(controller)) {
        return Some(Version::V1);
    }
    let has_v2 = places.iter().any(|place| place.version == Version::V2);
    (has_v2 && !ONLY_V1.contains(&controller)).then_some(Version::V2)
}

/// Swap counts memory and swap together. 0 is not said.
fn check_swap(memory: &vfsrun_spec::oci::Memory) -> Result<(), LimitError> {
    let problem = |problem| Err(LimitError::Value { at: field("memory.swap"), problem });
    match (memory.limit.unwrap_or(0), memory.swap.unwrap_or(0)) {
        (limit, swap) if swap > 0 && limit <= 0 => problem("needs a memory.limit"),
        (limit, swap) if swap > 0 && swap < limit => {
            problem("is less than memory.limit; it counts memory and swap together")
        }
        _ => Ok(()),
    }
}

/// Below 0 is no limit.
fn or_max(number: i64) -> String {
    if number < 0 { "max".to_owned() } else { number.to_string() }
}

/// What is 0 is not said, as with runc: Go programs write it so.
fn said<T: PartialEq + Default>(value: Option<T>) -> Option<T> {
    value.filter(|value| *value != T::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(version: Version, controllers: &[&str]) -> Place {
        Place {
            version,
            controllers: controllers.iter().map(|name| (*name).to_owned()).collect(),
            mount: "/m".into(),
            path: "c".into(),
        }
    }

    fn v1() -> Vec<Place> {
        let names = ["memory", "cpu", "cpuset", "pids", "blkio", "hugetlb", "net_cls", "net_prio", "rdma"];
        names.iter().map(|name| place(Version::V1, &[name])).collect()
    }

    fn v2() -> Vec<Place> {
        vec![place(Version::V2, &[])]
    }

    #[track_caller]
    fn written(json: &str, places: &[Place]) -> Vec<String> {
        let limits = of(&resources(json), places).unwrap();
        limits.set.iter().map(|limit| format!("{}={}", limit.file, limit.value)).collect()
    }

    fn resources(json: &str) -> Resources {
        let config = format!(
            r#"{{"ociVersion":"1.0.0","root":{{"path":"r"}},"process":{{"cwd":"/","args":["x"]}},"linux":{{"resources":{json}}}}}"#
        );
        let spec = vfsrun_spec::Spec::parse(&config, std::path::Path::new("config.json")).unwrap();
        spec.linux.unwrap().resources.unwrap()
    }

    #[test]
    fn memory_of_both_versions() {
        let said = r#"{"memory":{"limit":1000000,"swap":1500000,"reservation":500000}}"#;
        assert_eq!(
            written(said, &v1()),
            [
                "memory.limit_in_bytes=1000000",
                "memory.memsw.limit_in_bytes=1500000",
                "memory.soft_limit_in_bytes=500000"
            ]
        );
        assert_eq!(
            written(said, &v2()),
            ["memory.swap.max=500000", "memory.max=1000000", "memory.low=500000"]
        );
        let none = r#"{"memory":{"limit":-1}}"#;
        assert_eq!(written(none, &v1()), ["memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=-1"]);
        assert_eq!(written(none, &v2()), ["memory.swap.max=max", "memory.max=max"]);
        let no_swap = r#"{"memory":{"limit":4096,"swap":4096}}"#;
        assert_eq!(written(no_swap, &v2()), ["memory.swap.max=0", "memory.max=4096"]);
        assert_eq!(written(r#"{"memory":{"limit":0,"swap":0,"kernel":9}}"#, &v2()), [""; 0]);
        assert_eq!(
            written(r#"{"memory":{"swappiness":0,"disableOOMKiller":true,"kernel":5,"kernelTCP":7}}"#, &v1()),
            ["memory.kmem.tcp.limit_in_bytes=7", "memory.oom_control=1", "memory.swappiness=0"]
        );
    }

    #[test]
    fn swap_that_contradicts_the_limit_is_an_error() {
        for (said, problem) in [
            (r#"{"memory":{"limit":4096,"swap":1}}"#, "is less than"),
            (r#"{"memory":{"swap":1}}"#, "needs a memory.limit"),
        ] {
            for places in [v1(), v2()] {
                let error = of(&resources(said), &places).unwrap_err().to_string();
                assert!(error.starts_with("linux.resources.memory.swap: ") && error.contains(problem));
            }
        }
    }

    #[test]
    fn cpu_of_both_versions() {
        let said = r#"{"cpu":{"shares":1024,"quota":50000,"period":100000,"burst":1000,"cpus":"0-1","mems":"0","idle":0}}"#;
        assert_eq!(
            written(said, &v1()),
            [
                "cpu.shares=1024",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=50000",
                "cpu.cfs_burst_us=1000",
                "cpu.idle=0",
                "cpuset.cpus=0-1",
                "cpuset.mems=0"
            ]
        );
        assert_eq!(
            written(said, &v2()),
            [
                "cpu.idle=0",
                "cpu.weight=100",
                "cpu.max=50000 100000",
                "cpu.max.burst=1000",
                "cpuset.cpus=0-1",
                "cpuset.mems=0"
            ]
        );
        assert_eq!(written(r#"{"cpu":{"quota":-1}}"#, &v2()), ["cpu.max=max 100000"]);
        assert_eq!(written(r#"{"cpu":{"period":5000}}"#, &v2()), ["cpu.max=max 5000"]);
        // The kernel takes no weight of what is idle.
        assert_eq!(written(r#"{"cpu":{"idle":1,"shares":2}}"#, &v2()), ["cpu.idle=1"]);
        let real_time = r#"{"cpu":{"realtimeRuntime":9,"realtimePeriod":10}}"#;
        assert_eq!(written(real_time, &v1()), ["cpu.rt_period_us=10", "cpu.rt_runtime_us=9"]);
        assert_eq!(
            of(&resources(real_time), &v2()).unwrap().ignored,
            ["cpu.realtimePeriod", "cpu.realtimeRuntime"]
        );
    }

    #[test]
    fn block_io_of_both_versions() {
        let said = r#"{"blockIO":{"weight":500,"leafWeight":10,"weightDevice":[{"major":8,"minor":0,"weight":20,"leafWeight":30}],
            "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":100}],"throttleWriteIOPSDevice":[{"major":8,"minor":1,"rate":0}]}}"#;
        assert_eq!(
            written(said, &v1()),
            [
                "blkio.weight=500",
                "blkio.leaf_weight=10",
                "blkio.weight_device=8:0 20",
                "blkio.leaf_weight_device=8:0 30",
                "blkio.throttle.read_bps_device=8:0 100",
                "blkio.throttle.write_iops_device=8:1 0"
            ]
        );
        assert_eq!(
            written(said, &v2()),
            ["io.bfq.weight=500", "io.bfq.weight=8:0 20", "io.max=8:0 rbps=100", "io.max=8:1 wiops=max"]
        );
        let weight = &of(&resources(said), &v2()).unwrap().set[0];
        assert_eq!(weight.or_else, Some(("io.weight".to_owned(), "4950".to_owned())));
    }

    #[test]
    fn the_rest() {
        let said = r#"{"pids":{"limit":-1},"hugepageLimits":[{"pageSize":"2MB","limit":18446744073709551615}],
            "rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":10}}}"#;
        assert_eq!(
            written(said, &v1()),
            [
                "pids.max=max",
                "hugetlb.2MB.limit_in_bytes=18446744073709551615",
                "hugetlb.2MB.rsvd.limit_in_bytes=18446744073709551615",
                "rdma.max=mlx5_1 hca_handle=3 hca_object=10"
            ]
        );
        assert_eq!(written(said, &v2())[1], "hugetlb.2MB.max=18446744073709551615");
        let network = r#"{"network":{"classID":1048577,"priorities":[{"name":"eth0","priority":5}]}}"#;
        assert_eq!(written(network, &v1()), ["net_cls.classid=1048577", "net_prio.ifpriomap=eth0 5"]);
        assert_eq!(
            of(&resources(network), &v2()).unwrap_err().to_string(),
            "linux.resources.network.classID: there is no cgroup controller net_cls here"
        );
        let unified = r#"{"pids":{"limit":5},"unified":{"pids.max":"7"}}"#;
        assert_eq!(written(unified, &v2()), ["pids.max=5", "pids.max=7"]);
        let error = of(&resources(unified), &v1()).unwrap_err().to_string();
        assert_eq!(error, "linux.resources.unified: there is no cgroup version 2 here");
        assert_eq!(written(r#"{"pids":{"limit":0},"memory":{},"cpu":{},"blockIO":{}}"#, &v2()), [""; 0]);
    }

    #[test]
    fn on_a_hybrid_machine_a_controller_is_where_version_1_has_it() {
        let places = [place(Version::V1, &["memory"]), place(Version::V2, &[])];
        let said = r#"{"memory":{"limit":5},"hugepageLimits":[{"pageSize":"2MB","limit":0}]}"#;
        assert_eq!(written(said, &places)[..2], ["memory.limit_in_bytes=5", "hugetlb.2MB.max=0"]);
    }
}
