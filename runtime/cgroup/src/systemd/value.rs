//! A value of D-Bus, of the types that the properties of units have.

use serde::{Deserialize, Serialize};

use super::wire::Writer;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Value {
    Flag(bool),
    Int(i32),
    Number(u64),
    Text(String),
    Texts(Vec<String>),
    Bytes(Vec<u8>),
    Pids(Vec<u32>),
    Pairs(Vec<(String, String)>),
}

/// Of a unit, by the name that it has in D-Bus: times are in microseconds and called `…USec`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Property {
    pub name: String,
    pub value: Value,
}

impl Property {
    pub fn new(name: &str, value: Value) -> Property {
        Property { name: name.to_owned(), value }
    }

    pub fn number(name: &str, value: u64) -> Property {
        Property::new(name, Value::Number(value))
    }

    pub fn flag(name: &str, value: bool) -> Property {
        Property::new(name, Value::Flag(value))
    }

    pub fn text(name: &str, value: impl Into<String>) -> Property {
        Property::new(name, Value::Text(value.into()))
    }
}

impl Value {
    pub(super) fn signature(&self) -> &'static str {
        match self {
            Value::Flag(_) => "b",
            Value::Int(_) => "i",
            Value::Number(_) => "t",
            Value::Text(_) => "s",
            Value::Texts(_) => "as",
            Value::Bytes(_) => "ay",
            Value::Pids(_) => "au",
            Value::Pairs(_) => "a(ss)",
        }
    }

    fn write(&self, to: &mut Writer) {
        match self {
            Value::Flag(value) => to.u32((*value).into()),
            Value::Int(value) => to.u32(value.cast_unsigned()),
            Value::Number(value) => to.u64(*value),
            Value::Text(text) => to.string(text),
            Value::Texts(texts) => to.array(4, |to| texts.iter().for_each(|text| to.string(text))),
            Value::Bytes(bytes) => to.array(1, |to| bytes.iter().for_each(|byte| to.u8(*byte))),
            Value::Pids(pids) => to.array(4, |to| pids.iter().for_each(|pid| to.u32(*pid))),
            Value::Pairs(pairs) => to.array(8, |to| {
                for (one, other) in pairs {
                    to.begin_struct();
                    to.string(one);
                    to.string(other);
                }
            }),
        }
    }
}

/// `a(sv)`.
pub(super) fn write_properties<'a>(to: &mut Writer, properties: impl IntoIterator<Item = &'a Property>) {
    to.array(8, |to| {
        for property in properties {
            to.begin_struct();
            to.string(&property.name);
            to.signature(property.value.signature());
            property.value.write(to);
        }
    });
}
