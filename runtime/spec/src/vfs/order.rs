//! The order in which directories are listed: a word, or an object with a number to scatter by.

use std::fmt;

use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `order`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Bytewise.
    #[default]
    Sorted,
    /// As the branches tell their names.
    Native,
    /// `{ "shuffle": N }`: scattered, but the same for the same number.
    Shuffled(u64),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Sorted,
    Native,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shuffle {
    shuffle: u64,
}

impl Serialize for Order {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Sorted => Word::Sorted.serialize(serializer),
            Self::Native => Word::Native.serialize(serializer),
            Self::Shuffled(shuffle) => Shuffle { shuffle: *shuffle }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Order {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OrderVisitor)
    }
}

/// Not an untagged enum: that would lose the path and the cause of an error inside the object.
struct OrderVisitor;

impl<'de> Visitor<'de> for OrderVisitor {
    type Value = Order;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"sorted\", \"native\" or an object with shuffle")
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<Order, E> {
        Word::deserialize(StrDeserializer::new(word)).map(|word| match word {
            Word::Sorted => Order::Sorted,
            Word::Native => Order::Native,
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Order, A::Error> {
        Shuffle::deserialize(MapAccessDeserializer::new(map))
            .map(|Shuffle { shuffle }| Order::Shuffled(shuffle))
    }
}
