//! Schemata: lines `L3:0=ff;1=c0`, what of a resource is given of each cache.

use std::collections::BTreeMap;

/// Whether what `line` asks for is what `schemata` say; of caches that it does not name nothing is asked.
///
/// # Errors
/// What they say of that resource instead.
pub(super) fn compare(line: &str, schemata: &str) -> Result<(), String> {
    let Some((resource, asked)) = parse(line) else { return Err("it is no schema".to_owned()) };
    let found = schemata.lines().find(|found| parse(found).is_some_and(|(known, _)| known == resource));
    let found = found.ok_or_else(|| "nothing of it".to_owned())?;
    let has = parse(found).map(|(_, has)| has).unwrap_or_default();
    let is_same = asked.iter().all(|(cache, value)| has.get(cache) == Some(value));
    if is_same { Ok(()) } else { Err(found.trim().to_owned()) }
}

/// The resource, and the values by cache. Bits are hexadecimal and may begin with zeros.
fn parse(line: &str) -> Option<(&str, BTreeMap<&str, String>)> {
    let (resource, values) = line.trim().split_once(':')?;
    let value = |part: &'_ str| {
        let (_, value) = part.split_once('=')?;
        Some(value.trim().trim_start_matches('0').to_ascii_lowercase())
    };
    let parts = values.split(';').filter(|part| !part.trim().is_empty());
    let values: Option<_> = parts.map(|part| Some((part.split_once('=')?.0.trim(), value(part)?))).collect();
    Some((resource.trim(), values?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemata_are_compared_by_cache() {
        // As the kernel writes them.
        let has = "    MB:0= 20;1= 70\n    L3:0=07f0;1=001f\n";
        for line in ["L3:0=7f0;1=1f", "L3:1=1F;0=7F0", "L3:0=7f0", "MB:0=20;1=70", "MB:1=70;"] {
            assert_eq!(compare(line, has), Ok(()), "{line}");
        }
        for line in ["L3:0=7f1;1=1f", "L3:0=7f0;1=1f;2=1", "MB:0=30"] {
            assert!(compare(line, has).is_err(), "{line}");
        }
        assert_eq!(compare("MB:0=30", has), Err("MB:0= 20;1= 70".to_owned()));
        assert_eq!(compare("L2:0=1", has), Err("nothing of it".to_owned()));
        assert_eq!(compare("L3", has), Err("it is no schema".to_owned()));
        assert_eq!(compare("L3:0", has), Err("it is no schema".to_owned()));
    }
}
