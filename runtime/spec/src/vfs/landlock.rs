//! Landlock: what the command may do with files and TCP ports, and whom it may reach, enforced by the kernel.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::right::{Access, FsRight, NetRight, Right, ScopeRight};
use crate::optional::is_default;

/// The annotation that holds the same object as `vfs.landlock`, as JSON text, for a bundle.
pub const LANDLOCK_ANNOTATION: &str = "run.vfsrun.landlock";

/// `landlock`: an object, or `false`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Landlock {
    Rules(LandlockRules),
    /// `false`: no Landlock domain.
    Off,
}

/// What is allowed, in one of two forms: by place (`write`, `connect_tcp`, `bind_tcp`; the default), or by right, as in a
/// file of landlockconfig (`ruleset`, `path_beneath`, `net_port`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct LandlockRules {
    /// What becomes of rights that the kernel does not know.
    #[serde(skip_serializing_if = "is_default")]
    pub enforce: Enforce,
    /// The lowest ABI that the kernel must have; by right also the one whose rights the groups are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abi: Option<u32>,
    /// Absolute paths that may be written, with all beneath them. Default: what is captured, /tmp, HOME, /dev
    /// and branches with `"mode": "rw"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write: Option<Vec<PathBuf>>,
    /// Ports that may be connected to. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_tcp: Option<Vec<u16>>,
    /// Ports that may be bound. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_tcp: Option<Vec<u16>>,
    /// What is denied where no rule allows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ruleset: Option<Vec<Ruleset>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_beneath: Option<Vec<PathBeneath>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_port: Option<Vec<NetPort>>,
    #[serde(skip_serializing)]
    pub variable: Option<NoVariables>,
}

/// `enforce`: whether the command runs on a kernel that does not know all rights that the spec names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Enforce {
    /// No.
    #[default]
    Required,
    /// Yes, without these rights, and it is said.
    BestEffort,
}

/// Rights that are denied unless a rule allows them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Ruleset {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handled_access_fs: Option<Vec<Access<FsRight>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handled_access_net: Option<Vec<Access<NetRight>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scoped: Option<Vec<Access<ScopeRight>>>,
}

/// Rights on absolute paths and all beneath them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PathBeneath {
    pub allowed_access: Vec<Access<FsRight>>,
    pub parent: Vec<PathBuf>,
}

/// Rights on ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NetPort {
    pub allowed_access: Vec<Access<NetRight>>,
    pub port: Vec<u16>,
}

/// `variable` of landlockconfig, which nobody can say here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoVariables {}

impl<'de> Deserialize<'de> for NoVariables {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(de::Error::custom("variables are not supported; write the paths out"))
    }
}

impl LandlockRules {
    /// Whether these are rules by right, as landlockconfig has them.
    pub fn is_by_right(&self) -> bool {
        self.ruleset.is_some() || self.path_beneath.is_some() || self.net_port.is_some()
    }

    /// What the groups and names of a list stand for.
    pub fn rights<R: Right>(&self, accesses: &[Access<R>]) -> BTreeSet<R> {
        accesses.iter().filter_map(|access| access.rights(self.abi)).flatten().collect()
    }

    /// The rights on files that are denied unless a rule allows them: those of the rulesets, or where none says any, those
    /// that the rules name.
    pub fn handled_fs(&self) -> BTreeSet<FsRight> {
        let rules = self.path_beneath.iter().flatten().map(|rule| &rule.allowed_access);
        self.said_fs().unwrap_or_else(|| rules.flat_map(|accesses| self.rights(accesses)).collect())
    }

    /// The same of ports.
    pub fn handled_net(&self) -> BTreeSet<NetRight> {
        let rules = self.net_port.iter().flatten().map(|rule| &rule.allowed_access);
        self.said_net().unwrap_or_else(|| rules.flat_map(|accesses| self.rights(accesses)).collect())
    }

    pub fn scoped(&self) -> BTreeSet<ScopeRight> {
        self.said(|ruleset| ruleset.scoped.as_deref()).unwrap_or_default()
    }

    /// `None`: no ruleset has such a list.
    pub(crate) fn said_fs(&self) -> Option<BTreeSet<FsRight>> {
        self.said(|ruleset| ruleset.handled_access_fs.as_deref())
    }

    pub(crate) fn said_net(&self) -> Option<BTreeSet<NetRight>> {
        self.said(|ruleset| ruleset.handled_access_net.as_deref())
    }

    fn said<R: Right>(&self, list: fn(&Ruleset) -> Option<&[Access<R>]>) -> Option<BTreeSet<R>> {
        let lists: Vec<_> = self.ruleset.iter().flatten().filter_map(list).collect();
        (!lists.is_empty()).then(|| lists.into_iter().flat_map(|accesses| self.rights(accesses)).collect())
    }
}

impl Default for Landlock {
    fn default() -> Self {
        Self::Rules(LandlockRules::default())
    }
}

impl Serialize for Landlock {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Rules(rules) => rules.serialize(serializer),
            Self::Off => serializer.serialize_bool(false),
        }
    }
}

impl<'de> Deserialize<'de> for Landlock {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LandlockVisitor)
    }
}

/// Not an untagged enum: that would lose the path and the cause of an error inside the object.
struct LandlockVisitor;

impl<'de> Visitor<'de> for LandlockVisitor {
    type Value = Landlock;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object, or false for no Landlock")
    }

    fn visit_bool<E: de::Error>(self, landlock: bool) -> Result<Landlock, E> {
        if landlock { Err(E::invalid_type(de::Unexpected::Bool(true), &self)) } else { Ok(Landlock::Off) }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Landlock, A::Error> {
        LandlockRules::deserialize(MapAccessDeserializer::new(map)).map(Landlock::Rules)
    }
}
