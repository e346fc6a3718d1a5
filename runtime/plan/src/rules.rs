//! Rules: from the words of the spec to those of a segment, with the ids that the view server knows.

use vfsrun_spec::Vfs;
use vfsrun_spec::vfs::{self, Branch, OneOrMore};
use vfsrun_union::attr::FileKind;
use vfsrun_union::describe::{Conditions, LogRule, NameRule, Names, Rule, RuleAction, SizeRange};
use vfsrun_union::rules::{LogRules, regex};

use crate::plan::Ids;
use crate::{PlanError, ids};

/// Errors: a regular expression that is none.
pub(crate) fn refuse_bad(vfs: &Vfs, at: &str) -> Result<(), PlanError> {
    refuse_bad_among(&vfs.rules, &format!("{at}.rules"))?;
    let mut branches = vfs.branches.iter().enumerate();
    branches.try_for_each(|(index, branch)| {
        refuse_bad_among(&branch.rules, &format!("{at}.branches[{index}].rules"))
    })
}

fn refuse_bad_among(rules: &[vfs::Rule], at: &str) -> Result<(), PlanError> {
    for (index, rule) in rules.iter().enumerate() {
        if let vfs::Rule::Names(vfs::NameRule { names: vfs::Names::Regex(text), .. }) = rule {
            let text = text.strip_prefix('!').unwrap_or(text);
            regex(text).map_err(|source| PlanError::Regex { at: format!("{at}[{index}].regex"), source })?;
        }
    }
    Ok(())
}

/// All of a branch: what is all that it shows, what it hides, its rules.
pub(crate) fn of_branch(branch: &Branch, ids: Option<&Ids>) -> Vec<Rule> {
    let sugar = |patterns: &[String], action| {
        patterns.iter().map(|pattern| Rule::pattern(pattern, action)).collect::<Vec<_>>()
    };
    let mut rules = sugar(&branch.only, RuleAction::Only);
    rules.extend(sugar(&branch.hide, RuleAction::Hide));
    rules.extend(described(&branch.rules, ids));
    rules
}

/// Those that say what is shown.
pub(crate) fn described(rules: &[vfs::Rule], ids: Option<&Ids>) -> Vec<Rule> {
    rules
        .iter()
        .filter(|rule| !rule.logs())
        .map(|rule| match rule {
            vfs::Rule::Names(rule) => Rule::Names(name_rule(rule, ids)),
            vfs::Rule::ExtensionPriority(extensions) => Rule::ExtensionPriority(extensions.clone()),
        })
        .collect()
}

/// Errors: a pattern that is none.
pub(crate) fn of_log(vfs: &Vfs) -> Result<Vec<LogRule>, PlanError> {
    let named = vfs.rules.iter().filter_map(|rule| match rule {
        vfs::Rule::Names(rule) if rule.action == vfs::RuleAction::Log => Some(rule),
        _ => None,
    });
    let rules: Vec<_> =
        named.map(|rule| LogRule { names: described_names(&rule.names), types: kinds(rule) }).collect();
    match LogRules::new(&rules) {
        Ok(_) => Ok(rules),
        Err((pattern, source)) => Err(PlanError::LogRule { pattern, source }),
    }
}

fn name_rule(rule: &vfs::NameRule, ids: Option<&Ids>) -> NameRule {
    let vfs::Predicates { types: _, owners, groups, size } = &rule.predicates;
    let ids_outside = |wanted: &Option<OneOrMore<u32>>, map: fn(&Ids) -> &Vec<ids::Extent>| {
        let wanted = wanted.as_ref()?.0.iter();
        // An id that does not exist inside is nobody's.
        let outside = |id: &u32| ids.map_or(Some(*id), |ids| ids::outside(map(ids), *id));
        Some(wanted.filter_map(outside).collect())
    };
    NameRule {
        names: described_names(&rule.names),
        conditions: Conditions {
            types: kinds(rule),
            owners: ids_outside(owners, |ids| &ids.uids),
            groups: ids_outside(groups, |ids| &ids.gids),
            size: size.map(|size| SizeRange {
                min: size.min.map_or(0, |size| size.0),
                max: size.max.map_or(u64::MAX, |size| size.0),
            }),
        },
        action: match rule.action {
            vfs::RuleAction::Hide => RuleAction::Hide,
            vfs::RuleAction::Deny => RuleAction::Deny,
            vfs::RuleAction::Log => unreachable!("log rules are no part of a segment"),
        },
    }
}

fn described_names(names: &vfs::Names) -> Names {
    match names {
        vfs::Names::Pattern(pattern) => Names::Pattern(pattern.clone()),
        vfs::Names::Regex(regex) => Names::Regex(regex.clone()),
        vfs::Names::All => Names::All,
    }
}

fn kinds(rule: &vfs::NameRule) -> Option<Vec<FileKind>> {
    rule.predicates.types.as_ref().map(|types| types.0.iter().copied().map(kind).collect())
}

fn kind(file_type: vfs::FileType) -> FileKind {
    match file_type {
        vfs::FileType::Regular => FileKind::Regular,
        vfs::FileType::Directory => FileKind::Directory,
        vfs::FileType::Symlink => FileKind::Symlink,
        vfs::FileType::Fifo => FileKind::Fifo,
        vfs::FileType::Socket => FileKind::Socket,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ids::Extent;

    #[test]
    fn owners_are_those_of_the_servers_namespace() {
        let parent = Extent { inside: 0, outside: 1000, count: 11 };
        let only_own = vec![Extent { inside: 1000, outside: 0, count: 1 }];
        let ids = Ids { uids: ids::action_map(1000, &[parent], false), gids: only_own };
        let rule = |ids: Option<&Ids>| {
            let some = |list: &[u32]| Some(OneOrMore(list.to_vec()));
            let predicates = vfs::Predicates {
                owners: some(&[1000, 0, 9, 5000]),
                groups: some(&[0]),
                ..Default::default()
            };
            let (names, action) = (vfs::Names::All, vfs::RuleAction::Hide);
            let conditions = name_rule(&vfs::NameRule { names, predicates, action }, ids).conditions;
            (conditions.owners.unwrap(), conditions.groups.unwrap())
        };
        // Those that do not exist inside fit nothing.
        assert_eq!(rule(Some(&ids)), (vec![0, 1, 10], vec![]));
        assert_eq!(rule(None), (vec![1000, 0, 9, 5000], vec![0]));
    }
}
