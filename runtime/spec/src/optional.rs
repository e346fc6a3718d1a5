//! An optional field: how absent, `null` and empty values are read and written.

use serde::{Deserialize, Deserializer};

/// Reads `null` as the type's default: Go programs write a nil list as `null`.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// True for a value that need not be written, because reading its absence gives it back.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
