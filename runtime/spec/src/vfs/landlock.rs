//! Landlock: which paths the command may write and which TCP ports it may use, enforced by the kernel.

use std::fmt;
use std::path::PathBuf;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `landlock`: an object, or `false`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Landlock {
    Rules(LandlockRules),
    /// `false`: no Landlock domain.
    Off,
}

/// What is allowed. `None` is the default, an empty list is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct LandlockRules {
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
