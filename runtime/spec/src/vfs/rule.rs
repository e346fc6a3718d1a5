//! A rule: what happens to the names that it fits.

use serde::{Deserialize, Serialize};

use super::{OneOrMore, Size};

/// One entry of `rules`, of the whole root or of a branch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "RuleFields", into = "RuleFields")]
pub enum Rule {
    Names(NameRule),
    /// Extensions without their dot. Of regular files of one directory whose names differ in these alone, only the one
    /// with the first of them is shown.
    ExtensionPriority(Vec<String>),
}

/// The last rule that fits a name decides about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameRule {
    pub names: Names,
    /// What is there has to hold too.
    pub predicates: Predicates,
    pub action: RuleAction,
}

/// Relative to the root or to the branch's place in it; a `!` at the start takes matches back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Names {
    /// `match`: a gitignore pattern.
    Pattern(String),
    /// `regex`: a regular expression over the bytes of the path, which starts without a slash.
    Regex(String),
    /// Neither: every name.
    All,
}

/// What a rule asks of a file besides its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Predicates {
    pub types: Option<OneOrMore<FileType>>,
    /// Users, as the command sees them.
    pub owners: Option<OneOrMore<u32>>,
    pub groups: Option<OneOrMore<u32>>,
    /// Of regular files alone.
    pub size: Option<SizeRange>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileType {
    Regular,
    Directory,
    Symlink,
    Fifo,
    Socket,
}

/// Both ends included; one of them at least is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SizeRange {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<Size>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<Size>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleAction {
    /// As if it were not there: ENOENT, and not listed.
    Hide,
    /// Listed, and EACCES when used.
    Deny,
    /// Its use is recorded; what is shown stays as it is. In the rules of the whole root alone.
    Log,
}

impl Rule {
    pub fn logs(&self) -> bool {
        matches!(self, Rule::Names(NameRule { action: RuleAction::Log, .. }))
    }
}

/// A rule as it is written in JSON, before it is known to be one of the two.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RuleFields {
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    pattern: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    regex: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    types: Option<OneOrMore<FileType>>,
    #[serde(rename = "owner", skip_serializing_if = "Option::is_none")]
    owners: Option<OneOrMore<u32>>,
    #[serde(rename = "group", skip_serializing_if = "Option::is_none")]
    groups: Option<OneOrMore<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<SizeRange>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<RuleAction>,
    #[serde(rename = "extensionPriority", skip_serializing_if = "Option::is_none")]
    extension_priority: Option<Vec<String>>,
}

impl TryFrom<RuleFields> for Rule {
    type Error = String;

    fn try_from(fields: RuleFields) -> Result<Self, String> {
        let RuleFields { pattern, regex, types, owners, groups, size, action, extension_priority } = fields;
        let predicates = Predicates { types, owners, groups, size };
        let has_predicates = predicates != Predicates::default();
        if let Some(extensions) = extension_priority {
            if pattern.is_some() || regex.is_some() || has_predicates || action.is_some() {
                return Err("\"extensionPriority\" is a rule of its own and takes no other field".into());
            }
            return Ok(Rule::ExtensionPriority(extensions));
        }
        let names = match (pattern, regex) {
            (Some(_), Some(_)) => return Err("has both \"match\" and \"regex\", expected one of them".into()),
            (Some(pattern), None) => Names::Pattern(pattern),
            (None, Some(regex)) => Names::Regex(regex),
            (None, None) if has_predicates => Names::All,
            (None, None) => {
                return Err("says nothing of names, expected match, regex, type, owner, group or size".into());
            }
        };
        let action = action.ok_or("missing field \"action\"")?;
        Ok(Rule::Names(NameRule { names, predicates, action }))
    }
}

impl From<Rule> for RuleFields {
    fn from(rule: Rule) -> Self {
        let NameRule { names, predicates, action } = match rule {
            Rule::Names(rule) => rule,
            Rule::ExtensionPriority(extensions) => {
                return Self { extension_priority: Some(extensions), ..Self::default() };
            }
        };
        let (pattern, regex) = match names {
            Names::Pattern(pattern) => (Some(pattern), None),
            Names::Regex(regex) => (None, Some(regex)),
            Names::All => (None, None),
        };
        let Predicates { types, owners, groups, size } = predicates;
        Self { pattern, regex, types, owners, groups, size, action: Some(action), extension_priority: None }
    }
}
