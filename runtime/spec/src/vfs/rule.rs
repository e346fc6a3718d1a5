//! A rule: what happens to the paths that match a pattern.

use serde::{Deserialize, Serialize};

/// One entry of `rules`, of the whole root or of a branch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// A gitignore pattern, relative to the root or to the branch's place in it.
    #[serde(rename = "match")]
    pub pattern: String,
    pub action: RuleAction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleAction {
    /// As if it were not there: ENOENT, and not listed.
    Hide,
    /// Listed, and EACCES when used.
    Deny,
    /// Every first use is recorded.
    Log,
}
