//! How long something may take: seconds in JSON, a [`Duration`] in whole milliseconds here.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer, de};

/// Thirty years, far from where a float would lose milliseconds.
const MOST_SECONDS: f64 = 1e9;

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let Some(seconds) = Option::<f64>::deserialize(deserializer)? else { return Ok(None) };
    // Rounded: serde_json reads 16509335.14 as the float next to the nearest one, which is off by a nanosecond.
    let milliseconds = (seconds * 1000.0).round();
    if !(1.0..=MOST_SECONDS * 1000.0).contains(&milliseconds) {
        let cause = format_args!("{seconds} is out of range, expected 0.001 to {MOST_SECONDS} seconds");
        return Err(de::Error::custom(cause));
    }
    Ok(Some(Duration::from_millis(milliseconds as u64)))
}

pub(super) fn serialize<S: Serializer>(limit: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match limit {
        None => serializer.serialize_none(),
        Some(limit) if limit.subsec_nanos() == 0 => serializer.serialize_u64(limit.as_secs()),
        Some(limit) => serializer.serialize_f64(limit.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Option<Duration> {
        deserialize(&mut serde_json::Deserializer::from_str(json)).ok().flatten()
    }

    #[test]
    fn seconds_are_exact_to_the_millisecond() {
        assert_eq!(parse("90"), Some(Duration::from_secs(90)));
        assert_eq!(parse("16509335.14"), Some(Duration::from_millis(16_509_335_140)));
        assert_eq!(parse("1000000000"), Some(Duration::from_secs(1_000_000_000)));
    }

    #[test]
    fn seconds_out_of_range_are_refused() {
        for json in ["0", "-1", "0.0004", "1000000001", "1e300"] {
            assert_eq!(parse(json), None, "{json}");
        }
    }
}
