//! Devices: which of them the processes of a cgroup may use. Of several rules for a device the last one decides, for each
//! kind of access by itself; what no rule names is denied.

mod list;
mod program;

use serde::Serialize;
use vfsrun_spec::oci::DeviceRule;

pub use list::{Inexpressible, List};
pub use program::compile;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    Character,
    Block,
}

impl Kind {
    const ALL: [Kind; 2] = [Kind::Character, Kind::Block];
}

/// Bits of BPF_DEVCG_ACC_*, linux/bpf.h.
pub const MKNOD: u8 = 1;
pub const READ: u8 = 2;
pub const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    pub allow: bool,
    /// `None`: each of them, and so for the numbers.
    pub kind: Option<Kind>,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub access: u8,
}

impl Rule {
    /// `None` for what is no device (a fifo).
    fn new(said: &DeviceRule) -> Option<Rule> {
        let kind = match said.kind.as_deref() {
            None | Some("" | "a") => None,
            Some("b") => Some(Kind::Block),
            Some("p") => return None,
            Some(_) => Some(Kind::Character),
        };
        let bit = |letter| match letter {
            'r' => READ,
            'w' => WRITE,
            _ => MKNOD,
        };
        let access = said.access.as_deref().filter(|access| !access.is_empty());
        Some(Rule {
            allow: said.allow,
            kind,
            major: number(said.major),
            minor: number(said.minor),
            access: access.map_or(ALL, |letters| letters.chars().map(bit).fold(0, |all, bit| all | bit)),
        })
    }

    fn is_about_all(&self) -> bool {
        self.kind.is_none() && self.major.is_none() && self.minor.is_none() && self.access == ALL
    }
}

/// -1 is "each". Other numbers have been checked.
fn number(said: Option<i64>) -> Option<u32> {
    said.and_then(|number| u32::try_from(number).ok())
}

/// The rules of a config, and after them what every container may use: any node may be made, and the devices of its
/// /dev and /dev/pts be used. They are runc's, without the host's tun.
pub fn rules(said: &[DeviceRule]) -> Vec<Rule> {
    const NODES: [(u32, Option<u32>); 8] = [
        (1, Some(3)), // null
        (1, Some(5)), // zero
        (1, Some(7)), // full
        (1, Some(8)), // random
        (1, Some(9)), // urandom
        (5, Some(0)), // tty
        (5, Some(2)), // ptmx
        (136, None),  // pts
    ];
    let allow = |kind, major, minor, access| Rule { allow: true, kind: Some(kind), major, minor, access };
    let making = Kind::ALL.map(|kind| allow(kind, None, None, MKNOD));
    let nodes = NODES.map(|(major, minor)| allow(Kind::Character, Some(major), minor, ALL));
    said.iter().filter_map(Rule::new).chain(making).chain(nodes).collect()
}

/// Whether the rules of a config take anything away.
pub fn deny(said: &[DeviceRule]) -> bool {
    said.iter().any(|rule| !rule.allow)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the rules mean, said in the simplest way.
    pub(crate) fn allows(rules: &[Rule], kind: Kind, major: u32, minor: u32, access: u8) -> bool {
        let fits = |rule: &&Rule| {
            rule.kind.is_none_or(|one| one == kind)
                && rule.major.is_none_or(|one| one == major)
                && rule.minor.is_none_or(|one| one == minor)
        };
        [MKNOD, READ, WRITE].into_iter().filter(|bit| access & bit != 0).all(|bit| {
            let last = rules.iter().filter(fits).rfind(|rule| rule.access & bit != 0);
            last.is_some_and(|rule| rule.allow)
        })
    }

    /// Few numbers, so that rules meet.
    pub(crate) fn some_rules() -> impl Strategy<Value = Vec<Rule>> {
        let kind = prop_oneof![Just(None), Just(Some(Kind::Character)), Just(Some(Kind::Block))];
        let number = || prop_oneof![Just(None), (0..3u32).prop_map(Some)];
        let access = prop_oneof![Just(ALL), 1..=ALL];
        let rule = (any::<bool>(), kind, number(), number(), access)
            .prop_map(|(allow, kind, major, minor, access)| Rule { allow, kind, major, minor, access });
        proptest::collection::vec(rule, 0..8)
    }

    /// Every device and access that such rules could tell apart.
    pub(crate) fn every_use() -> impl Iterator<Item = (Kind, u32, u32, u8)> {
        let numbers = (0..4).flat_map(|major| (0..4).map(move |minor| (major, minor)));
        let devices = numbers.flat_map(|(major, minor)| Kind::ALL.map(|kind| (kind, major, minor)));
        devices.flat_map(|(kind, major, minor)| (1..=ALL).map(move |access| (kind, major, minor, access)))
    }

    #[test]
    fn the_words_of_a_config_are_understood() {
        let said = |kind: &str, major, minor, access: &str| DeviceRule {
            allow: false,
            kind: Some(kind.to_owned()).filter(|kind| !kind.is_empty()),
            major,
            minor,
            access: Some(access.to_owned()).filter(|access| !access.is_empty()),
        };
        let all = Rule { allow: false, kind: None, major: None, minor: None, access: ALL };
        assert_eq!(Rule::new(&said("", None, None, "")), Some(all));
        assert_eq!(Rule::new(&said("a", Some(-1), Some(-1), "rwm")), Some(all));
        let one =
            Rule { kind: Some(Kind::Character), major: Some(5), minor: Some(1), access: READ | WRITE, ..all };
        assert_eq!(Rule::new(&said("u", Some(5), Some(1), "wr")), Some(one));
        assert_eq!(Rule::new(&said("p", None, None, "rwm")), None);
    }

    #[test]
    fn the_host_is_out_of_reach_by_default() {
        let rules = rules(&[]);
        assert!(allows(&rules, Kind::Character, 1, 3, READ | WRITE));
        assert!(allows(&rules, Kind::Block, 8, 0, MKNOD));
        assert!(!allows(&rules, Kind::Block, 8, 0, READ));
        // The machine's console, /dev/mem, and what tells of FUSE.
        for (major, minor) in [(5, 1), (1, 1), (10, 229)] {
            assert!(!allows(&rules, Kind::Character, major, minor, READ));
        }
    }
}
