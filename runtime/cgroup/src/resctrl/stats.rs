//! What is counted of a group and what this machine can give, in the words of `runc events`.

use serde::Serialize;

use super::{Group, ResctrlError, SCHEMATA};
use crate::files;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub l3_cache_info: Option<CacheInfo>,
    /// Of the default group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub l3_cache_schema_root: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub l3_cache_schema: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_bw_info: Option<BandwidthInfo>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mem_bw_schema_root: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mem_bw_schema: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub schemata: Vec<String>,
    /// Of each NUMA node; without a monitoring group of the container's own, all that is in its group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mbm_stats: Option<Vec<Bandwidth>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmt_stats: Option<Vec<Occupancy>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CacheInfo {
    pub cbm_mask: String,
    pub min_cbm_bits: u64,
    pub num_closids: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BandwidthInfo {
    pub bandwidth_gran: u64,
    pub delay_linear: u64,
    pub min_bandwidth: u64,
    pub num_closids: u64,
}

/// Bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Bandwidth {
    pub mbm_total_bytes: u64,
    pub mbm_local_bytes: u64,
}

/// Bytes of the last cache.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Occupancy {
    pub llc_occupancy: u64,
}

impl Group {
    pub fn stats(&self) -> Result<Stats, ResctrlError> {
        let mount = self.mount()?;
        // What a machine does not have is no error.
        let text = |file: &str| files::read(&mount, file).ok().map(|text| text.trim().to_owned());
        let number = |file: String| text(&file).and_then(|text| text.parse().ok()).unwrap_or(0);
        let (root, own) = (text(SCHEMATA).unwrap_or_default(), self.read(SCHEMATA)?);
        let line = |schemata: &str, resource: &str| {
            let lines = schemata.lines().map(str::trim);
            lines.rev().find(|line| line.contains(resource)).unwrap_or_default().to_owned()
        };
        let mut stats =
            Stats { schemata: own.lines().map(|line| line.trim().to_owned()).collect(), ..Stats::default() };
        if let Some(cbm_mask) = text("info/L3/cbm_mask") {
            let number = |name: &str| number(format!("info/L3/{name}"));
            let (min_cbm_bits, num_closids) = (number("min_cbm_bits"), number("num_closids"));
            stats.l3_cache_info = Some(CacheInfo { cbm_mask, min_cbm_bits, num_closids });
            stats.l3_cache_schema_root = line(&root, "L3");
            stats.l3_cache_schema = line(&own, "L3");
        }
        if text("info/MB/num_closids").is_some() {
            let number = |name: &str| number(format!("info/MB/{name}"));
            stats.mem_bw_info = Some(BandwidthInfo {
                bandwidth_gran: number("bandwidth_gran"),
                delay_linear: number("delay_linear"),
                min_bandwidth: number("min_bandwidth"),
                num_closids: number("num_closids"),
            });
            stats.mem_bw_schema_root = line(&root, "MB");
            stats.mem_bw_schema = line(&own, "MB");
        }
        let features = text("info/L3_MON/mon_features").unwrap_or_default();
        let nodes = self.nodes();
        let count = |node: &str, name: &str| number(format!("{node}/{name}"));
        if features.contains("mbm_") {
            let of = |node: &String| Bandwidth {
                mbm_total_bytes: count(node, "mbm_total_bytes"),
                mbm_local_bytes: count(node, "mbm_local_bytes"),
            };
            stats.mbm_stats = Some(nodes.iter().map(of).collect());
        }
        if features.contains("llc_occupancy") {
            let of = |node: &String| Occupancy { llc_occupancy: count(node, "llc_occupancy") };
            stats.cmt_stats = Some(nodes.iter().map(of).collect());
        }
        Ok(stats)
    }

    /// Directories of counts, below the mount.
    fn nodes(&self) -> Vec<String> {
        let data = self.monitored().unwrap_or_else(|| self.path.clone()).join("mon_data");
        let entries = std::fs::read_dir(self.mount.join(&data)).into_iter().flatten().flatten();
        let names = entries.map(|entry| data.join(entry.file_name()).to_string_lossy().into_owned());
        let mut nodes: Vec<_> = names.collect();
        nodes.sort();
        nodes
    }
}
