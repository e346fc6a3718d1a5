//! Names of units, and where systemd makes their cgroups.

use std::path::PathBuf;

use thiserror::Error;

const SLICE: &str = ".slice";
/// In bytes, systemd's UNIT_NAME_MAX without the final null.
const LONGEST: usize = 255;

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    // The words of runc.
    #[error(
        "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {0:?} instead"
    )]
    Format(String),
    #[error(
        "{0:?} is no name of a slice, such as \"machine.slice\" or \"a-b.slice\", or \"-\" for that above all"
    )]
    Slice(String),
    #[error(
        "{0:?} is no name of a unit of systemd's: it has letters, digits, `:`, `-`, `_`, `.`, `@` and `\\`, at most 255"
    )]
    Unit(String),
    #[error("{0:?} is a slice, which has no processes; a container is a scope")]
    NoScope(String),
}

/// Of a scope and the slice that it lies in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    pub slice: String,
    pub scope: String,
}

/// Those that `path`, which is `slice:prefix:name`, says.
pub fn names(path: &str, default_slice: &str) -> Result<Names, NameError> {
    let parts: Vec<_> = path.split(':').collect();
    let [slice, prefix, name] = parts[..] else { return Err(NameError::Format(path.to_owned())) };
    let slice = match slice {
        "" => default_slice,
        "-" => "-.slice",
        slice => slice,
    };
    expanded(slice)?;
    if name.ends_with(SLICE) {
        return Err(NameError::NoScope(name.to_owned()));
    }
    let scope = format!("{prefix}-{name}.scope");
    if !is_unit(&scope) {
        return Err(NameError::Unit(scope));
    }
    Ok(Names { slice: slice.to_owned(), scope })
}

/// A scope for a `name`, with `_` for what is no letter of a unit's.
pub fn scope_of(name: &str) -> String {
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    let letters = name.chars().map(|letter| if is_letter(letter) { letter } else { '_' });
    format!("{}.scope", letters.collect::<String>())
}

fn is_unit(name: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    // One with an `@` is made of a template.
    name.len() <= LONGEST && name.bytes().all(is_letter) && !name.starts_with('@')
}

/// Where a slice's cgroup lies below that of systemd: `a-b.slice` in `a.slice`.
fn expanded(slice: &str) -> Result<PathBuf, NameError> {
    let bad = || NameError::Slice(slice.to_owned());
    let stem =
        slice.strip_suffix(SLICE).filter(|_| is_unit(slice) && !slice.contains('@')).ok_or_else(bad)?;
    if stem == "-" {
        return Ok(PathBuf::new());
    }
    if stem.split('-').any(str::is_empty) {
        return Err(bad());
    }
    let ends = stem.match_indices('-').map(|(index, _)| index).chain([stem.len()]);
    Ok(ends.map(|end| cgroup_name(&format!("{}{SLICE}", &stem[..end]))).collect())
}

/// Where the scope's cgroup lies below that of systemd.
pub fn path(names: &Names) -> Result<PathBuf, NameError> {
    Ok(expanded(&names.slice)?.join(cgroup_name(&names.scope)))
}

/// systemd puts a `_` before what could be taken for a file of a cgroup.
fn cgroup_name(unit: &str) -> String {
    const CONTROLLERS: [&str; 12] = [
        "cpu",
        "cpuacct",
        "cpuset",
        "io",
        "blkio",
        "memory",
        "devices",
        "pids",
        "bpf-firewall",
        "bpf-devices",
        "bpf-foreign",
        "cgroup",
    ];
    let stem = unit.rsplit_once('.').map_or(unit, |(stem, _)| stem);
    let needs = unit.starts_with(['_', '.']) || unit.starts_with("cgroup.") || CONTROLLERS.contains(&stem);
    if needs { format!("_{unit}") } else { unit.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn is_at(said: &str, expected: &str) {
        assert_eq!(path(&names(said, "system.slice").unwrap()).unwrap(), PathBuf::from(expected));
    }

    #[test]
    fn names_are_those_of_runc() {
        is_at("machine.slice:libpod:ab12", "machine.slice/libpod-ab12.scope");
        is_at("::x", "system.slice/-x.scope");
        is_at(":crio:x", "system.slice/crio-x.scope");
        is_at("-:a:b", "a-b.scope");
        is_at("-.slice:a:b", "a-b.scope");
        is_at("test-a-b.slice:p:n", "test.slice/test-a.slice/test-a-b.slice/p-n.scope");
        is_at("memory.slice:p:n", "_memory.slice/p-n.scope");
        is_at("system.slice:_p:n", "system.slice/__p-n.scope");
    }

    #[test]
    fn names_that_are_none_are_refused() {
        let refused = |said: &str| names(said, "system.slice").unwrap_err();
        for said in ["", "a", "a:b", "a:b:c:d", "/a/b", "web"] {
            assert_eq!(refused(said), NameError::Format(said.to_owned()));
        }
        let slices = [
            "a",
            ".slice",
            "..",
            "../a.slice",
            "a/b.slice",
            "a--b.slice",
            "-a.slice",
            "a-.slice",
            "a b.slice",
            "a'.slice",
            "a\".slice",
            "a\n.slice",
            "a\0.slice",
            "a@b.slice",
            "--.slice",
            "a.slice\n",
            "ä.slice",
            "$(x).slice",
        ];
        for slice in slices {
            assert_eq!(refused(&format!("{slice}:p:n")), NameError::Slice(slice.to_owned()));
        }
        for name in ["../x", "a/b", "a b", "a\nb", "a'b", "a%nb", "ä", &"x".repeat(250)] {
            assert!(matches!(refused(&format!(":p:{name}")), NameError::Unit(_)), "{name}");
        }
        assert!(matches!(refused(":@p:n"), NameError::Unit(_)));
        assert!(matches!(refused("machine.slice:libpod:a.slice"), NameError::NoScope(_)));
    }

    #[test]
    fn any_name_makes_a_scope() {
        assert_eq!(scope_of("vfsrun-web+1"), "vfsrun-web_1.scope");
        assert!(is_unit(&scope_of("vfsrun-a_b.c-0")));
    }
}
