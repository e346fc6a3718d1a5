//! A time as programs in Go take it: `500ms`, `5s`, `1m30s`.

use std::time::Duration;

/// From long to short, but `m` after what begins with it.
const UNITS: [(&str, f64); 7] =
    [("h", 3600.0), ("ms", 1e-3), ("m", 60.0), ("s", 1.0), ("us", 1e-6), ("µs", 1e-6), ("ns", 1e-9)];

/// The clock can count so far.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Errors: it is no time, not above 0, or more than a year.
pub fn interval(text: &str) -> Result<Duration, String> {
    let total = seconds(text).and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let total = total.ok_or_else(|| format!("{text:?} is no time, expected such as 500ms, 5s or 1m30s"))?;
    if total.is_zero() || total > LONGEST {
        return Err("must be above 0, and a year at most".to_owned());
    }
    Ok(total)
}

fn seconds(text: &str) -> Option<f64> {
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let (number, after) =
            rest.split_at(rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?);
        let (unit, seconds) = UNITS.iter().find(|(unit, _)| after.starts_with(unit))?;
        total += number.parse::<f64>().ok()? * seconds;
        rest = &after[unit.len()..];
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_go() {
        for (text, milliseconds) in [
            ("5s", 5000),
            ("500ms", 500),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("1000µs", 1),
            (".5s", 500),
        ] {
            assert_eq!(interval(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in [
            "",
            "5",
            "s",
            "5s5",
            "-1s",
            "0s",
            "0ns",
            "5 s",
            "1d",
            "1e3s",
            "99999999999999999999h",
            "4000000000000000h",
            "1.2.3s",
            ".",
        ] {
            assert!(interval(text).is_err(), "{text}");
        }
    }
}
