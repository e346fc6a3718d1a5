//! Validation of Landlock rules, of `vfs.landlock` and of a bundle's annotation alike.

use std::collections::BTreeSet;

use super::{Problem, in_root};
use crate::vfs::{
    Enforce, HIGHEST_ABI, Landlock, LandlockAccess, LandlockRules, NetPort, PathBeneath, Right, Ruleset,
};

pub(super) fn landlock(path: &str, landlock: &Landlock) -> Result<(), Problem> {
    let Landlock::Rules(rules) = landlock else { return Ok(()) };
    one_form(path, rules)?;
    if let Some(abi) = rules.abi
        && !(1..=HIGHEST_ABI).contains(&abi)
    {
        let cause = format!("{abi} is not an ABI whose rights are known; expected 1 to {HIGHEST_ABI}");
        return Err(Problem::new(format!("{path}.abi"), cause));
    }
    if rules.is_by_right() { by_right(path, rules) } else { by_place(path, rules) }
}

fn one_form(path: &str, rules: &LandlockRules) -> Result<(), Problem> {
    let by_place = [
        ("write", rules.write.is_some()),
        ("connectTcp", rules.connect_tcp.is_some()),
        ("bindTcp", rules.bind_tcp.is_some()),
    ];
    let by_right = [
        ("ruleset", rules.ruleset.is_some()),
        ("pathBeneath", rules.path_beneath.is_some()),
        ("netPort", rules.net_port.is_some()),
    ];
    let said = |keys: [(&'static str, bool); 3]| keys.into_iter().find(|(_, said)| *said).map(|(key, _)| key);
    match (said(by_place), said(by_right)) {
        (Some(place), Some(right)) => {
            let cause =
                format!("{place} and {right} are of two forms; write all rules by place, or all by right");
            Err(Problem::new(path, cause))
        }
        _ => Ok(()),
    }
}

fn by_place(path: &str, rules: &LandlockRules) -> Result<(), Problem> {
    if rules.abi.is_some() && rules.enforce == Enforce::BestEffort {
        let cause = "has no effect with \"bestEffort\", as no rule names a group; leave one of them out";
        return Err(Problem::new(format!("{path}.abi"), cause));
    }
    for (index, one) in rules.write.iter().flatten().enumerate() {
        in_root(&format!("{path}.write[{index}]"), one)?;
    }
    Ok(())
}

fn by_right(path: &str, rules: &LandlockRules) -> Result<(), Problem> {
    let lists = [
        ("ruleset", rules.ruleset.as_ref().is_some_and(Vec::is_empty)),
        ("pathBeneath", rules.path_beneath.as_ref().is_some_and(Vec::is_empty)),
        ("netPort", rules.net_port.as_ref().is_some_and(Vec::is_empty)),
    ];
    if let Some((list, _)) = lists.into_iter().find(|(_, is_empty)| *is_empty) {
        return Err(Problem::new(format!("{path}.{list}"), "empty"));
    }
    for (index, one) in rules.ruleset.iter().flatten().enumerate() {
        ruleset(&format!("{path}.ruleset[{index}]"), one, rules.abi)?;
    }
    for (index, one) in rules.path_beneath.iter().flatten().enumerate() {
        path_beneath(&format!("{path}.pathBeneath[{index}]"), one, rules)?;
    }
    for (index, one) in rules.net_port.iter().flatten().enumerate() {
        net_port(&format!("{path}.netPort[{index}]"), one, rules)?;
    }
    if rules.handled_fs().is_empty() && rules.handled_net().is_empty() && rules.scoped().is_empty() {
        return Err(Problem::new(path, "handles no right: of what it names, its abi has nothing"));
    }
    Ok(())
}

fn ruleset(path: &str, ruleset: &Ruleset, abi: Option<u32>) -> Result<(), Problem> {
    if *ruleset == Ruleset::default() {
        return Err(Problem::new(path, "empty, expected handledAccessFs, handledAccessNet or scoped"));
    }
    let list = |name: &str| format!("{path}.{name}");
    ruleset.handled_access_fs.as_ref().map_or(Ok(()), |l| accesses(&list("handledAccessFs"), l, abi))?;
    ruleset.handled_access_net.as_ref().map_or(Ok(()), |l| accesses(&list("handledAccessNet"), l, abi))?;
    ruleset.scoped.as_ref().map_or(Ok(()), |l| accesses(&list("scoped"), l, abi))
}

fn path_beneath(path: &str, rule: &PathBeneath, rules: &LandlockRules) -> Result<(), Problem> {
    let allowed = format!("{path}.allowedAccess");
    accesses(&allowed, &rule.allowed_access, rules.abi)?;
    are_handled(&allowed, "handledAccessFs", &rule.allowed_access, rules.said_fs(), rules.abi)?;
    if rule.parent.is_empty() {
        return Err(Problem::new(format!("{path}.parent"), "empty"));
    }
    for (index, parent) in rule.parent.iter().enumerate() {
        let path = format!("{path}.parent[{index}]");
        in_root(&path, parent)?;
        // What landlockconfig would put in their place is not what the path says.
        let text = parent.to_string_lossy();
        if text.contains("${") || text.contains("$$") {
            let cause = format!("{text:?} names a variable; they are not supported, write the path out");
            return Err(Problem::new(path, cause));
        }
    }
    Ok(())
}

fn net_port(path: &str, rule: &NetPort, rules: &LandlockRules) -> Result<(), Problem> {
    let allowed = format!("{path}.allowedAccess");
    accesses(&allowed, &rule.allowed_access, rules.abi)?;
    are_handled(&allowed, "handledAccessNet", &rule.allowed_access, rules.said_net(), rules.abi)?;
    if rule.port.is_empty() { Err(Problem::new(format!("{path}.port"), "empty")) } else { Ok(()) }
}

fn accesses<R: Right>(path: &str, accesses: &[LandlockAccess<R>], abi: Option<u32>) -> Result<(), Problem> {
    if accesses.is_empty() {
        return Err(Problem::new(path, "empty"));
    }
    match accesses.iter().position(|access| access.rights(abi).is_none()) {
        Some(index) => {
            let cause = format!("{:?} needs abi, which says what is in the group", accesses[index].name());
            Err(Problem::new(format!("{path}[{index}]"), cause))
        }
        None => Ok(()),
    }
}

/// A rule about a right that is not denied anywhere would change nothing.
fn are_handled<R: Right>(
    path: &str,
    list: &str,
    accesses: &[LandlockAccess<R>],
    handled: Option<BTreeSet<R>>,
    abi: Option<u32>,
) -> Result<(), Problem> {
    let Some(handled) = handled else { return Ok(()) };
    for (index, access) in accesses.iter().enumerate() {
        let rights = access.rights(abi).unwrap_or_default();
        if let Some(right) = rights.difference(&handled).next() {
            let cause = match access {
                LandlockAccess::Right(right) => {
                    format!("{:?} is in no {list}, so it is not denied anywhere", right.name())
                }
                LandlockAccess::Group(_) => {
                    format!("{:?} has {:?}, which is in no {list}", access.name(), right.name())
                }
            };
            return Err(Problem::new(format!("{path}[{index}]"), cause));
        }
    }
    Ok(())
}
