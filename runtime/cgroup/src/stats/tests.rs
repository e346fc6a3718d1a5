use std::fs;
use std::path::Path;

use serde_json::json;

use super::*;
use crate::place::Place;

/// A cgroup of these files.
fn cgroup(directory: &Path, controllers: &[&str], version: Version, contents: &[(&str, &str)]) -> Place {
    let path = directory.join(format!("cgroup-{}", controllers.join(",")));
    fs::create_dir(&path).unwrap();
    for (file, text) in contents {
        fs::write(path.join(file), text).unwrap();
    }
    let controllers = controllers.iter().map(|name| (*name).to_owned()).collect();
    Place { version, controllers, mount: path, path: ".".into() }
}

#[track_caller]
fn told(places: &[Place]) -> String {
    let mut stats = Cgroup::open(places).unwrap().stats().unwrap();
    stats.hugetlb.clear();
    serde_json::to_string_pretty(&stats).unwrap()
}

#[test]
fn version_2_is_told_in_the_words_of_version_1() {
    let directory = tempfile::tempdir().unwrap();
    let files = [
        (
            "cpu.stat",
            "usage_usec 30\nuser_usec 10\nsystem_usec 20\nnr_periods 4\nnr_throttled 3\nthrottled_usec 2\nnr_bursts 0\nburst_usec 0\n",
        ),
        (
            "cpu.pressure",
            "some avg10=1.50 avg60=0.25 avg300=0.00 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
        ),
        ("memory.stat", "anon 4096\nfile 8192\nkernel_stack 0\n"),
        ("memory.current", "20480\n"),
        ("memory.max", "40960\n"),
        ("memory.peak", "30000\n"),
        ("memory.swap.current", "1000\n"),
        ("memory.swap.max", "max\n"),
        ("pids.current", "3\n"),
        ("pids.max", "max\n"),
        (
            "io.stat",
            "8:16 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=0 dios=0\n8:0 rbytes=0 wbytes=7 rios=0 wios=1\n",
        ),
    ];
    let place = cgroup(directory.path(), &[], Version::V2, &files);
    let value: serde_json::Value = serde_json::from_str(&told(&[place])).unwrap();
    let still = json!({ "avg10": 0.0, "avg60": 0.0, "avg300": 0.0, "total": 0 });
    assert_eq!(
        value["cpu"],
        json!({
            "usage": { "total": 30000, "kernel": 20000, "user": 10000 },
            "throttling": { "periods": 4, "throttledPeriods": 3, "throttledTime": 2000 },
            "psi": { "some": { "avg10": 1.5, "avg60": 0.25, "avg300": 0.0, "total": 77 }, "full": still },
        })
    );
    assert_eq!(value["memory"]["cache"], 8192);
    assert_eq!(
        value["memory"]["usage"],
        json!({ "limit": 40960, "usage": 20480, "max": 30000, "failcnt": 0 })
    );
    assert_eq!(value["memory"]["swap"], json!({ "limit": u64::MAX, "usage": 21480, "failcnt": 0 }));
    assert_eq!(value["memory"]["raw"]["anon"], 4096);
    assert_eq!(value["pids"], json!({ "current": 3 }));
    let entry = |major, minor, op: &str, value: u64| json!({ "major": major, "minor": minor, "op": op, "value": value });
    assert_eq!(
        value["blkio"]["ioServiceBytesRecursive"],
        json!([
            entry(8, 16, "Read", 1_459_200),
            entry(8, 16, "Write", 314_773_504),
            { "major": 8, "op": "Read" },
            { "major": 8, "op": "Write", "value": 7 },
        ])
    );
    assert_eq!(value["blkio"]["ioServicedRecursive"][1], entry(8, 16, "Write", 353));
}

#[test]
fn version_1_is_told_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let memory = [
        ("memory.stat", "cache 5\nrss 6\ntotal_cache 7\n"),
        ("memory.usage_in_bytes", "10\n"),
        ("memory.max_usage_in_bytes", "20\n"),
        ("memory.failcnt", "2\n"),
        ("memory.limit_in_bytes", "9223372036854771712\n"),
        ("memory.kmem.usage_in_bytes", "4\n"),
        ("memory.kmem.max_usage_in_bytes", "5\n"),
        ("memory.kmem.failcnt", "0\n"),
    ];
    let blkio = [
        ("blkio.bfq.io_serviced_recursive", "Total 0\n"),
        ("blkio.throttle.io_serviced_recursive", "8:0 Read 124\n8:0 Total 124\nTotal 124\n"),
        ("blkio.throttle.io_service_bytes_recursive", "8:0 Read 4096\n8:0 Total 4096\nTotal 4096\n"),
    ];
    let places = [
        cgroup(
            directory.path(),
            &["cpu"],
            Version::V1,
            &[("cpu.stat", "nr_periods 1\nnr_throttled 2\nthrottled_time 3\n")],
        ),
        cgroup(
            directory.path(),
            &["cpuacct"],
            Version::V1,
            &[
                ("cpuacct.stat", "user 3\nsystem 2\n"),
                ("cpuacct.usage", "51000000\n"),
                ("cpuacct.usage_percpu", "20000000 31000000 \n"),
                ("cpuacct.usage_all", "cpu user system\n0 1 2\n1 3 4\n"),
            ],
        ),
        cgroup(
            directory.path(),
            &["cpuset"],
            Version::V1,
            &[
                ("cpuset.cpus", "0-2,7\n"),
                ("cpuset.mems", "0\n"),
                ("cpuset.sched_relax_domain_level", "-1\n"),
            ],
        ),
        cgroup(directory.path(), &["memory"], Version::V1, &memory),
        cgroup(directory.path(), &["blkio"], Version::V1, &blkio),
        cgroup(directory.path(), &["pids"], Version::V1, &[("pids.current", "1\n"), ("pids.max", "50\n")]),
    ];
    let value: serde_json::Value = serde_json::from_str(&told(&places)).unwrap();
    let expected = json!({
        "cpu": {
            "usage": { "total": 51_000_000, "percpu": [20_000_000, 31_000_000], "percpu_kernel": [2, 4], "percpu_user": [1, 3],
                "kernel": 20_000_000, "user": 30_000_000 },
            "throttling": { "periods": 1, "throttledPeriods": 2, "throttledTime": 3 },
        },
        "cpuset": { "cpus": [0, 1, 2, 7], "cpu_exclusive": 0, "mems": [0], "mem_hardwall": 0, "mem_exclusive": 0, "memory_migrate": 0,
            "memory_spread_page": 0, "memory_spread_slab": 0, "memory_pressure": 0, "sched_load_balance": 0,
            "sched_relax_domain_level": -1 },
        "memory": {
            "cache": 5,
            "usage": { "limit": 9_223_372_036_854_771_712_u64, "usage": 10, "max": 20, "failcnt": 2 },
            "swap": { "limit": 0, "failcnt": 0 },
            "kernel": { "limit": 0, "usage": 4, "max": 5, "failcnt": 0 },
            "kernelTCP": { "limit": 0, "failcnt": 0 },
            "raw": { "cache": 5, "rss": 6, "total_cache": 7 },
        },
        "pids": { "current": 1, "limit": 50 },
        "blkio": {
            "ioServiceBytesRecursive": [{ "major": 8, "op": "Read", "value": 4096 }, { "major": 8, "op": "Total", "value": 4096 }],
            "ioServicedRecursive": [{ "major": 8, "op": "Read", "value": 124 }, { "major": 8, "op": "Total", "value": 124 }],
        },
        "hugetlb": {},
    });
    assert_eq!(value, expected);
}

#[test]
fn page_sizes_are_in_the_words_of_cgroups() {
    let sizes =
        ["hugepages-64kB", "hugepages-2048kB", "hugepages-1048576kB", "hugepages-2", "2048kB"].map(page_size);
    assert_eq!(sizes, [Some("64KB".to_owned()), Some("2MB".to_owned()), Some("1GB".to_owned()), None, None]);
}
