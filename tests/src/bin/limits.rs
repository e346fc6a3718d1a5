//! Changes limits of a unit that runs, as a program that updates a container does: `limits CGROUP.JSON v1:FILE=VALUE…`, with the file that
//! vfsrun keeps of a container's cgroup.

use vfsrun_cgroup::systemd::{self, Unit};
use vfsrun_cgroup::{Limit, Version};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let kept = std::fs::read(arguments.next().expect("a file")).expect("it can be read");
    let mut kept: serde_json::Value = serde_json::from_slice(&kept).expect("it is JSON");
    let unit: Unit = serde_json::from_value(kept["unit"].take()).expect("it has a unit");
    let limits: Vec<_> = arguments.map(|word| limit(&word)).collect();
    let properties = systemd::of_limits(&limits, unit.version);
    if let Err(error) = unit.set(&properties) {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        println!("{error}: {}", cause.unwrap_or_default());
        std::process::exit(1);
    }
}

fn limit(word: &str) -> Limit {
    let (version, rest) = word.split_once(':').expect("a version");
    let (file, value) = rest.split_once('=').expect("a file and its value");
    Limit {
        at: file.to_owned(),
        version: if version == "v1" { Version::V1 } else { Version::V2 },
        controller: file.split('.').next().unwrap_or_default().to_owned(),
        file: file.to_owned(),
        or_else: None,
        value: value.to_owned(),
        may_be_missing: false,
    }
}
