//! Subordinate ids: the ranges that /etc/subuid and /etc/subgid give an ordinary user, and the set-id programs that
//! write them into a map.

use std::path::PathBuf;

use vfsrun_plan::facts::ParentIds;
use vfsrun_plan::ids::Extent;

/// Where NixOS keeps set-id programs, then where the rest of the world does.
const HELPER_DIRECTORIES: [&str; 4] = ["/run/wrappers/bin", "/usr/bin", "/bin", "/usr/local/bin"];

/// The ids of an ordinary user's long-lived namespace: 0 is the user, then the subordinate ranges.
pub fn parent_ids(uid: u32, gid: u32) -> ParentIds {
    let ranges = subordinate(uid);
    let single = |because: String| ParentIds {
        uids: vec![Extent { inside: 0, outside: uid, count: 1 }],
        gids: vec![Extent { inside: 0, outside: gid, count: 1 }],
        single_because: Some(because),
    };
    match ranges {
        Ok((uids, gids)) => {
            ParentIds { uids: stacked(uid, &uids), gids: stacked(gid, &gids), single_because: None }
        }
        Err(because) => single(because),
    }
}

type Ranges = Vec<(u32, u32)>;

fn subordinate(uid: u32) -> Result<(Ranges, Ranges), String> {
    let name = nix::unistd::User::from_uid(uid.into()).ok().flatten().map(|user| user.name);
    for program in ["newuidmap", "newgidmap"] {
        if helper(program).is_none() {
            return Err(format!("{program} is not installed; Debian's package uidmap has it"));
        }
    }
    let read = |file: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let ranges = parse(&text, uid, name.as_deref());
        let who = name.clone().unwrap_or_else(|| uid.to_string());
        if ranges.is_empty() {
            Err(format!(
                "{file} gives {who} no ids; `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {who}` adds some"
            ))
        } else {
            Ok(ranges)
        }
    };
    Ok((read("/etc/subuid")?, read("/etc/subgid")?))
}

/// A program that writes id maps, if it is installed.
pub fn helper(program: &str) -> Option<PathBuf> {
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    let directories = HELPER_DIRECTORIES.iter().map(PathBuf::from).chain(std::env::split_paths(&in_path));
    directories.map(|directory| directory.join(program)).find(|path| path.is_file())
}

fn parse(text: &str, uid: u32, name: Option<&str>) -> Ranges {
    let ours = |who: &str| Some(who) == name || who.parse() == Ok(uid);
    let lines = text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (who, start, count) = (fields.next()?, fields.next()?, fields.next()?);
        let (start, count): (u32, u32) = (start.parse().ok()?, count.parse().ok()?);
        (ours(who) && count > 0).then_some((start, count))
    });
    lines.collect()
}

fn stacked(own: u32, ranges: &[(u32, u32)]) -> Vec<Extent> {
    let mut map = vec![Extent { inside: 0, outside: own, count: 1 }];
    for (start, count) in ranges {
        let next = map.last().map_or(0, |last| last.inside + last.count);
        map.push(Extent { inside: next, outside: *start, count: *count });
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        let text = "bob:100000:65536\n# comment\nann:200000:10\n1000:300000:20\nann:400000:0\nbroken\n";
        assert_eq!(parse(text, 1000, Some("ann")), [(200_000, 10), (300_000, 20)]);
        assert_eq!(parse(text, 7, None), []);
    }

    #[test]
    fn ranges_follow_the_callers_own_id() {
        let map = stacked(1000, &[(100_000, 10), (200_000, 5)]);
        assert_eq!(map[2], Extent { inside: 11, outside: 200_000, count: 5 });
    }
}
