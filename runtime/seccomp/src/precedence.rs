//! Precedence: which of several rules for one system call decides when their conditions overlap.
//!
//! libseccomp keeps the rules of a call in a tree of 32-bit comparisons. Followed from its root the tree is an
//! ordered list in which the first match wins:
//! - a rule without conditions replaces all others, and the first of several such rules stays;
//! - higher argument indexes come first; on one argument equality before less-than before greater-than, and the
//!   narrower bound first;
//! - a rule whose conditions are the beginning of another's comes before it, which thereby never decides.
//!
//! Where the tree loses a rule (ranges or inequalities that share the upper half of their bounds and continue with
//! another argument), the rule is kept here.

use crate::{
    Operator, SeccompError,
    rules::{BoundRule, Condition, Rule},
};

/// What happens to a system call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Verdict {
    Return(u32),
    /// The first check that holds decides, the default if none does.
    Checks {
        checks: Vec<Check>,
        wide: bool,
    },
}

/// Conditions that must all hold, and what the filter then returns. Never without conditions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Check {
    pub conditions: Vec<Condition>,
    pub action: u32,
}

/// Decides between the rules of one call, at least one, given in the order of the profile. Errors: `Conflict` where
/// libseccomp refuses the profile, because the same conditions have different actions.
pub(crate) fn verdict(call: &[BoundRule]) -> Result<Verdict, SeccompError> {
    let (number, arch) = (call[0].number, call[0].arch);
    let wide = arch.compares_64_bits();
    let narrowed = |rule: &Rule| {
        let conditions = rule.conditions.iter().filter_map(|condition| narrow(*condition, wide)).collect();
        Rule { conditions, ..*rule }
    };
    let rules: Vec<Rule> = call.iter().map(|bound| narrowed(&bound.rule)).collect();
    if let Some(unconditional) = rules.iter().find(|rule| rule.conditions.is_empty()) {
        return Ok(Verdict::Return(unconditional.action));
    }
    let conflict = |first: &Rule, second: &Rule| SeccompError::Conflict {
        syscall: number,
        arch,
        first: format!("syscalls[{}]", first.entry),
        second: format!("syscalls[{}]", second.entry),
    };
    let paths = rules.iter().map(|rule| Path { nodes: nodes(&rule.conditions, wide), rule }).collect();
    let mut ordered = Vec::with_capacity(rules.len());
    order(paths, 0, &mut ordered).map_err(|(first, second)| conflict(first, second))?;
    let checks = ordered
        .into_iter()
        .map(|rule| Check { conditions: rule.conditions.clone(), action: rule.action })
        .collect();
    Ok(Verdict::Checks { checks, wide })
}

/// The condition as the architecture compares it; None when it always holds.
fn narrow(mut condition: Condition, wide: bool) -> Option<Condition> {
    if !wide {
        condition.value &= u64::from(u32::MAX);
        condition.mask &= u64::from(u32::MAX);
    }
    (condition.mask != 0).then_some(condition)
}

/// A 32-bit comparison in libseccomp's tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Node {
    /// Twice the argument's index, one more for its upper half.
    word: u32,
    /// Equality 3, less-than 2, greater-than 1.
    class: u32,
    comparison: Comparison,
    value: u32,
    mask: u32,
}

/// The comparison that the program makes: NE is a failed EQ, LT a failed GE, LE a failed GT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    MaskedEqual,
    Greater,
    GreaterOrEqual,
}

struct Path<'r> {
    nodes: Vec<Node>,
    rule: &'r Rule,
}

impl Node {
    fn same(&self, other: &Node) -> bool {
        (self.word, self.comparison, self.value, self.mask)
            == (other.word, other.comparison, other.value, other.mask)
    }

    fn comes_after(&self, other: &Node) -> bool {
        let value = |node: &Node| if node.class == 2 { u32::MAX - node.value } else { node.value };
        (self.word, self.class, value(self)) < (other.word, other.class, value(other))
    }
}

fn nodes(conditions: &[Condition], wide: bool) -> Vec<Node> {
    let mut nodes = Vec::with_capacity(2 * conditions.len());
    for condition in conditions {
        let (class, upper, lower) = match condition.operator {
            Operator::Equal | Operator::NotEqual => (3, Comparison::Equal, Comparison::Equal),
            Operator::MaskedEqual => (3, Comparison::MaskedEqual, Comparison::MaskedEqual),
            Operator::LessOrEqual => (2, Comparison::Greater, Comparison::Greater),
            Operator::Less => (2, Comparison::Greater, Comparison::GreaterOrEqual),
            Operator::Greater => (1, Comparison::Greater, Comparison::Greater),
            Operator::GreaterOrEqual => (1, Comparison::Greater, Comparison::GreaterOrEqual),
        };
        let node = |half: u32, comparison| Node {
            word: 2 * condition.index + half,
            class,
            comparison,
            value: (condition.value >> (32 * half)) as u32,
            mask: (condition.mask >> (32 * half)) as u32,
        };
        if wide {
            nodes.push(node(1, upper));
        }
        nodes.push(node(0, lower));
    }
    nodes
}

/// Appends the rules of `paths`, which agree in their first `depth` nodes, in order of precedence.
fn order<'r>(
    paths: Vec<Path<'r>>,
    depth: usize,
    ordered: &mut Vec<&'r Rule>,
) -> Result<(), (&'r Rule, &'r Rule)> {
    let (ending, longer): (Vec<_>, Vec<_>) = paths.into_iter().partition(|path| path.nodes.len() == depth);
    if let Some((first, others)) = ending.split_first() {
        // EQ and NE of one value, or LT and GE, are the same node taken in different directions.
        for (at, path) in ending.iter().enumerate() {
            let mut earlier = ending[..at].iter().filter(|earlier| earlier.rule.same_operators(path.rule));
            if let Some(other) = earlier.find(|earlier| earlier.rule.action != path.rule.action) {
                return Err((other.rule, path.rule));
            }
        }
        ordered.push(first.rule);
        for (at, path) in others.iter().enumerate() {
            if !ending[..=at].iter().any(|earlier| earlier.rule.same_operators(path.rule)) {
                ordered.push(path.rule);
            }
        }
    }
    let mut groups: Vec<(Node, Vec<Path<'r>>)> = Vec::new();
    for path in longer {
        let node = path.nodes[depth];
        // As the tree is searched: the first node that is the same, or else before the first that comes after.
        let found = groups.iter().position(|(other, _)| other.same(&node) || other.comes_after(&node));
        match found {
            Some(at) if groups[at].0.same(&node) => groups[at].1.push(path),
            Some(at) => groups.insert(at, (node, vec![path])),
            None => groups.push((node, vec![path])),
        }
    }
    groups.into_iter().try_for_each(|(_, paths)| order(paths, depth + 1, ordered))
}

impl Rule {
    fn same_operators(&self, other: &Rule) -> bool {
        self.conditions.iter().map(|c| c.operator).eq(other.conditions.iter().map(|c| c.operator))
    }
}
