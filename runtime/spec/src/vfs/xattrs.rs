//! What becomes of the extended attributes and access control lists of a directory of the host: a word, or a list of rules
//! that hide attributes and give them other names.

use std::fmt;

use serde::de::value::{SeqAccessDeserializer, StrDeserializer};
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `xattrs`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Xattrs {
    /// None is shown.
    #[default]
    Off,
    /// Those in `user` and access control lists are.
    Pass,
    /// The same, but for names in `user` that a rule fits: the first one decides.
    Map(Vec<XattrRule>),
}

/// A name, or with a dot at its end all that begin with it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "XattrRuleFields")]
pub struct XattrRule {
    pub from: String,
    /// What is shown in the place of `from`; `None` hides it.
    pub to: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct XattrRuleFields {
    from: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hide: Option<bool>,
}

impl TryFrom<XattrRuleFields> for XattrRule {
    type Error = &'static str;

    fn try_from(fields: XattrRuleFields) -> Result<Self, Self::Error> {
        let XattrRuleFields { from, to, hide } = fields;
        match (&to, hide.unwrap_or(false)) {
            (Some(_), true) => Err("has both \"to\" and \"hide\", which contradict each other"),
            (None, false) => {
                Err("says nothing of what becomes of \"from\", expected \"to\" or \"hide\": true")
            }
            _ => Ok(Self { from, to }),
        }
    }
}

impl Serialize for XattrRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (from, to) = (self.from.clone(), self.to.clone());
        let hide = to.is_none().then_some(true);
        XattrRuleFields { from, to, hide }.serialize(serializer)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Off,
    Pass,
}

impl Serialize for Xattrs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => Word::Off.serialize(serializer),
            Self::Pass => Word::Pass.serialize(serializer),
            Self::Map(rules) => rules.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Xattrs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(XattrsVisitor)
    }
}

/// Not an untagged enum: that would lose the path and the cause of an error inside the list.
struct XattrsVisitor;

impl<'de> Visitor<'de> for XattrsVisitor {
    type Value = Xattrs;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"off\", \"pass\" or an array of rules")
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<Xattrs, E> {
        Word::deserialize(StrDeserializer::new(word)).map(|word| match word {
            Word::Off => Xattrs::Off,
            Word::Pass => Xattrs::Pass,
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Xattrs, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list)).map(Xattrs::Map)
    }
}
