//! Capture: what of the writes becomes the output layer.

use std::fmt;
use std::path::PathBuf;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::optional::is_default;

/// `capture`: an object, or `false`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capture {
    /// The writes become a layer.
    Layer(CaptureLayer),
    /// `false`: the writes are thrown away.
    Discard,
}

/// Which layer the writes become.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CaptureLayer {
    /// Absolute path prefixes: what is written elsewhere is not captured, and not writable. `None` is everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub only: Option<Vec<PathBuf>>,
    /// The name in the store that points to the layer; `None` is no name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub when: CaptureWhen,
    #[serde(skip_serializing_if = "is_default")]
    pub form: CaptureForm,
    #[serde(skip_serializing_if = "is_default")]
    pub base: CaptureBase,
}

/// `when`: after which command the layer gets its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CaptureWhen {
    /// One that ended with status 0.
    #[default]
    Success,
    /// Any that ended.
    Always,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CaptureForm {
    /// Equal runs give equal layers: times later than SOURCE_DATE_EPOCH become that.
    #[default]
    Canonical,
    /// Times as they were written, by which make goes on where the command ended.
    Raw,
}

/// What is recorded with the name of what the command saw where it changed something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CaptureBase {
    /// Which file it was, and in which state.
    #[default]
    State,
    /// What the host's files held, too.
    Contents,
}

impl Default for Capture {
    /// Everything, unnamed.
    fn default() -> Self {
        Self::Layer(CaptureLayer::default())
    }
}

impl Serialize for Capture {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Layer(layer) => layer.serialize(serializer),
            Self::Discard => serializer.serialize_bool(false),
        }
    }
}

impl<'de> Deserialize<'de> for Capture {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CaptureVisitor)
    }
}

/// Not an untagged enum: that would lose the path and the cause of an error inside the object.
struct CaptureVisitor;

impl<'de> Visitor<'de> for CaptureVisitor {
    type Value = Capture;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object, or false to discard the writes")
    }

    fn visit_bool<E: de::Error>(self, capture: bool) -> Result<Capture, E> {
        if capture { Err(E::invalid_type(de::Unexpected::Bool(true), &self)) } else { Ok(Capture::Discard) }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Capture, A::Error> {
        CaptureLayer::deserialize(MapAccessDeserializer::new(map)).map(Capture::Layer)
    }
}
