//! Validation of the `vfs` key: branches, rules, and settings that contradict each other.

use std::path::Path;

use super::landlock::landlock;
use super::{Problem, in_root, no_nul};
use crate::oci::NamespaceType;
use crate::vfs::{
    Access, Branch, BranchSource, Capture, CaptureLayer, Live, Names, Network, Owner, Predicates, Rule,
    RuleAction, Scope, Size, SizeRange, Symlinks, Upper, UpperOn, Whiteouts, XattrRule, Xattrs, image_parts,
};
use crate::{Linux, Vfs};

/// `at` is the JSON path of `vfs`.
pub(super) fn vfs(at: &str, vfs: &Vfs, linux: Option<&Linux>) -> Result<(), Problem> {
    for (index, one) in vfs.branches.iter().enumerate() {
        branch(&format!("{at}.branches[{index}]"), one)?;
    }
    one_root(at, &vfs.branches)?;
    rules(&format!("{at}.rules"), &vfs.rules)?;
    upper(&format!("{at}.upper"), vfs.upper)?;
    if let Capture::Layer(layer) = &vfs.capture {
        capture(&format!("{at}.capture"), layer)?;
    }
    landlock(&format!("{at}.landlock"), &vfs.landlock)?;
    network(&format!("{at}.network"), vfs.network, linux)
}

/// The description of a container's root: what its config says otherwise it says in its own words.
pub(super) fn container(at: &str, vfs: &Vfs) -> Result<(), Problem> {
    for (index, branch) in vfs.branches.iter().enumerate() {
        if branch.access == Access::ReadWrite {
            let cause = "rw is a bind mount; a container has those in its mounts";
            return Err(Problem::new(format!("{at}.branches[{index}].mode"), cause));
        }
    }
    if let Some(index) = vfs.rules.iter().position(Rule::logs) {
        let cause = "\"log\" is for runs that are traced, and a container's is not";
        return Err(Problem::new(format!("{at}.rules[{index}].action"), cause));
    }
    Ok(())
}

fn one_root(at: &str, branches: &[Branch]) -> Result<(), Problem> {
    let mut roots = (0..branches.len()).filter(|index| branches[*index].source == BranchSource::Root);
    match (roots.next(), roots.next()) {
        (Some(first), Some(second)) => {
            let cause = format!("the root is a branch already, branches[{first}]");
            Err(Problem::new(format!("{at}.branches[{second}].root"), cause))
        }
        _ => Ok(()),
    }
}

fn upper(at: &str, upper: Upper) -> Result<(), Problem> {
    match upper {
        Upper { size: Some(Size(0)), .. } => {
            Err(Problem::new(format!("{at}.size"), "0, expected at least one byte"))
        }
        Upper { on: UpperOn::Root, size: Some(_) } => Err(Problem::new(
            format!("{at}.size"),
            "is for an upper in memory; the root's own layer is somebody else's",
        )),
        _ => Ok(()),
    }
}

fn branch(path: &str, branch: &Branch) -> Result<(), Problem> {
    source(path, &branch.source)?;
    in_root(&format!("{path}.at"), &branch.at)?;
    for (name, lines) in [("hide", &branch.hide), ("only", &branch.only)] {
        for (index, line) in lines.iter().enumerate() {
            pattern(&format!("{path}.{name}[{index}]"), line)?;
        }
    }
    rules(&format!("{path}.rules"), &branch.rules)?;
    if let Some(index) = branch.rules.iter().position(Rule::logs) {
        let cause = "\"log\" goes by paths of the root, whichever branch has them; set it in vfs.rules";
        return Err(Problem::new(format!("{path}.rules[{index}].action"), cause));
    }
    if branch.frozen && branch.live != Live::Auto {
        let cause = "has no effect on a frozen branch, which is never checked; leave one of them out";
        return Err(Problem::new(format!("{path}.live"), cause));
    }
    let is_on_host =
        matches!(branch.source, BranchSource::Path(_) | BranchSource::Glob(_) | BranchSource::Root);
    if branch.whiteouts != Whiteouts::None && !is_on_host {
        let cause = "is for directories of the host; a layer has whiteouts of its own";
        return Err(Problem::new(format!("{path}.whiteouts"), cause));
    }
    if branch.xattrs != Xattrs::Off && !is_on_host {
        let cause = "is for directories of the host; a layer has the attributes that it records";
        return Err(Problem::new(format!("{path}.xattrs"), cause));
    }
    if let Xattrs::Map(rules) = &branch.xattrs {
        xattrs(&format!("{path}.xattrs"), rules)?;
    }
    for (field, said) in rewriting(branch) {
        if said && !is_on_host {
            let cause =
                "is for directories of the host; a layer has the owners and permissions that it records";
            return Err(Problem::new(format!("{path}.{field}"), cause));
        }
    }
    if branch.trusted {
        trusted(path, branch)?;
    }
    match branch.access {
        Access::ReadWrite => read_write(path, branch),
        Access::ReadOnly if branch.scope != Scope::View && branch.symlinks == Symlinks::Never => {
            let cause = "has no effect while no links are followed; set symlinks, or leave it out";
            Err(Problem::new(format!("{path}.scope"), cause))
        }
        Access::ReadOnly => Ok(()),
    }
}

/// What is trusted is the source itself.
fn trusted(path: &str, branch: &Branch) -> Result<(), Problem> {
    let has_set_ids = !matches!(
        branch.source,
        BranchSource::Inputs(_) | BranchSource::StoredInputs(_) | BranchSource::HostTools
    );
    let cause = if !has_set_ids {
        "is for path, glob, layer and image; of the others no file has a set-id bit"
    } else if branch.scope == Scope::Host {
        "does not work with the scope host, as links lead out of what is trusted"
    } else {
        return Ok(());
    };
    Err(Problem::new(format!("{path}.trusted"), cause))
}

fn source(path: &str, source: &BranchSource) -> Result<(), Problem> {
    match source {
        BranchSource::Path(file) => host_path(&format!("{path}.path"), file),
        BranchSource::Inputs(file) => host_path(&format!("{path}.inputs"), file),
        BranchSource::StoredInputs(digest) => whole_digest(&format!("{path}.inputs"), digest),
        BranchSource::Glob(pattern) => {
            let path = format!("{path}.glob");
            host_path(&path, Path::new(pattern))?;
            glob::Pattern::new(pattern).map(drop).map_err(|error| Problem::new(path, error.msg))
        }
        BranchSource::Image(image) => {
            let path = format!("{path}.image");
            match image_parts(image) {
                (_, Some("")) => Err(Problem::new(path, "has an empty tag after the colon")),
                (dir, _) => host_path(&path, dir),
            }
        }
        BranchSource::Layer(name) => layer_name(&format!("{path}.layer"), name),
        BranchSource::HostTools | BranchSource::Root => Ok(()),
    }
}

/// Absolute, relative to the spec's file, or `~/…`.
fn host_path(path: &str, value: &Path) -> Result<(), Problem> {
    let text = value.to_string_lossy();
    no_nul(path, &text)?;
    if text.is_empty() {
        return Err(Problem::new(path, "empty"));
    }
    let first = text.split('/').next().unwrap_or_default();
    if first.starts_with('~') && first != "~" {
        let cause = format!("{first:?} is not understood; only ~/ is, and ./{first} is a file of that name");
        return Err(Problem::new(path, cause));
    }
    Ok(())
}

fn layer_name(path: &str, name: &str) -> Result<(), Problem> {
    if name.is_empty() {
        return Err(Problem::new(path, "empty"));
    }
    if name.contains(|character: char| character.is_whitespace() || character.is_control()) {
        return Err(Problem::new(path, format!("{name:?} has white space in it")));
    }
    Ok(())
}

fn whole_digest(path: &str, text: &str) -> Result<(), Problem> {
    let digits = text.strip_prefix("b3:").unwrap_or_default();
    if digits.len() == 64 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Ok(());
    }
    let cause = "begins as a digest and is none: b3: and 64 lower-case hexadecimal digits; a file of that name starts with ./";
    Err(Problem::new(path, cause))
}

fn rules(path: &str, rules: &[Rule]) -> Result<(), Problem> {
    for (index, rule) in rules.iter().enumerate() {
        let path = format!("{path}[{index}]");
        match rule {
            Rule::Names(rule) => {
                names(&path, &rule.names)?;
                predicates(&path, &rule.predicates)?;
                if rule.action == RuleAction::Log {
                    log_predicates(&path, &rule.predicates)?;
                }
            }
            Rule::ExtensionPriority(list) => extensions(&format!("{path}.extensionPriority"), list)?,
        }
    }
    Ok(())
}

/// Whether the expression is one is asked by those who know its language.
fn names(path: &str, names: &Names) -> Result<(), Problem> {
    let (path, text) = match names {
        Names::Pattern(text) => (format!("{path}.match"), text),
        Names::Regex(text) => (format!("{path}.regex"), text),
        Names::All => return Ok(()),
    };
    if text.trim().is_empty() {
        return Err(Problem::new(path, "empty"));
    }
    match names {
        Names::Pattern(_) => pattern(&path, text),
        _ => Ok(()),
    }
}

/// Names are taken from and given to users alone: what the kernel, overlayfs or the view itself means by a name in another
/// namespace is not for a file's owner to say.
fn xattrs(path: &str, rules: &[XattrRule]) -> Result<(), Problem> {
    if rules.is_empty() {
        return Err(Problem::new(path, "an empty list changes nothing; say \"pass\""));
    }
    for (index, rule) in rules.iter().enumerate() {
        let path = format!("{path}[{index}]");
        xattr_name(&format!("{path}.from"), &rule.from)?;
        if let Some(earlier) = rules[..index].iter().position(|other| fits(&other.from, &rule.from)) {
            let cause = format!("{:?} is fitted by the rule {earlier} before it", rule.from);
            return Err(Problem::new(format!("{path}.from"), cause));
        }
        let Some(to) = &rule.to else { continue };
        let path = format!("{path}.to");
        xattr_name(&path, to)?;
        if to.ends_with('.') != rule.from.ends_with('.') {
            let cause = format!(
                "{to:?} for {:?}: both have a dot at the end, for all names that begin so, or none has",
                rule.from
            );
            return Err(Problem::new(path, cause));
        }
    }
    Ok(())
}

fn fits(rule: &str, name: &str) -> bool {
    rule == name || rule.ends_with('.') && name.starts_with(rule)
}

fn xattr_name(path: &str, name: &str) -> Result<(), Problem> {
    no_nul(path, name)?;
    // XATTR_NAME_MAX of linux/limits.h.
    if name.len() > 255 {
        return Err(Problem::new(
            path,
            "longer than the 255 bytes that the name of an attribute has at most",
        ));
    }
    if !name.starts_with("user.") {
        return Err(Problem::new(path, format!("{name:?} is not in the namespace \"user.\", as it must be")));
    }
    if name.starts_with("user.overlay.") || name.starts_with("user.vfsrun.") {
        let cause = format!("{name:?} is overlayfs's or our own, and never taken from or given to a file");
        return Err(Problem::new(path, cause));
    }
    Ok(())
}

fn predicates(path: &str, predicates: &Predicates) -> Result<(), Problem> {
    let Predicates { types, owners, groups, size } = predicates;
    let empty = |list: Option<usize>| list == Some(0);
    let lists = [
        ("type", empty(types.as_ref().map(|list| list.0.len()))),
        ("owner", empty(owners.as_ref().map(|list| list.0.len()))),
        ("group", empty(groups.as_ref().map(|list| list.0.len()))),
    ];
    if let Some((field, _)) = lists.iter().find(|(_, is_empty)| *is_empty) {
        return Err(Problem::new(format!("{path}.{field}"), "an empty list fits nothing"));
    }
    match size {
        Some(SizeRange { min: None, max: None }) => {
            Err(Problem::new(format!("{path}.size"), "empty, expected min, max or both"))
        }
        Some(SizeRange { min: Some(min), max: Some(max) }) if min > max => Err(Problem::new(
            format!("{path}.size"),
            format!("min {min} is above max {max}, which fits nothing"),
        )),
        _ => Ok(()),
    }
}

/// A trace tells nothing else.
fn log_predicates(path: &str, predicates: &Predicates) -> Result<(), Problem> {
    let Predicates { types: _, owners, groups, size } = predicates;
    let unknown = [("owner", owners.is_some()), ("group", groups.is_some()), ("size", size.is_some())];
    match unknown.into_iter().find(|(_, said)| *said) {
        Some((field, _)) => {
            Err(Problem::new(format!("{path}.{field}"), "\"log\" goes by match, regex and type alone"))
        }
        None => Ok(()),
    }
}

fn extensions(path: &str, extensions: &[String]) -> Result<(), Problem> {
    if extensions.len() < 2 {
        return Err(Problem::new(path, "expected two extensions at least, of which the first is preferred"));
    }
    for (index, extension) in extensions.iter().enumerate() {
        let cause = if extension.is_empty() {
            "empty".into()
        } else if extension.contains(['.', '/', '\0']) {
            format!("{extension:?} is no extension; it is what follows the last dot of a name")
        } else if extensions[..index].iter().any(|other| other.eq_ignore_ascii_case(extension)) {
            format!("{extension:?} is in the list already")
        } else {
            continue;
        };
        return Err(Problem::new(format!("{path}[{index}]"), cause));
    }
    Ok(())
}

fn pattern(path: &str, line: &str) -> Result<(), Problem> {
    if line.contains(['\n', '\r', '\0']) {
        return Err(Problem::new(path, "is more than one line; each pattern is a string of its own"));
    }
    Ok(())
}

/// A bind mount shows its source as it is, so nothing can be filtered, followed or assumed to stay.
fn read_write(path: &str, branch: &Branch) -> Result<(), Problem> {
    if !matches!(branch.source, BranchSource::Path(_)) {
        return Err(Problem::new(format!("{path}.mode"), "rw works only with path"));
    }
    if branch.at.components().count() < 2 {
        let cause = "rw needs a place of its own below /; set at";
        return Err(Problem::new(format!("{path}.mode"), cause));
    }
    let contradictions = [
        ("hide", !branch.hide.is_empty()),
        ("only", !branch.only.is_empty()),
        ("rules", !branch.rules.is_empty()),
        ("symlinks", branch.symlinks != Symlinks::Never),
        ("scope", branch.scope != Scope::View),
        ("frozen", branch.frozen),
        ("live", branch.live != Live::Auto),
        ("whiteouts", branch.whiteouts != Whiteouts::None),
        ("xattrs", branch.xattrs != Xattrs::Off),
        ("trusted", branch.trusted),
    ];
    match contradictions.into_iter().chain(rewriting(branch)).find(|(_, said)| *said) {
        Some((field, _)) => {
            let cause = format!("rw is a bind mount and does not work with {field}");
            Err(Problem::new(format!("{path}.mode"), cause))
        }
        None => Ok(()),
    }
}

fn rewriting(branch: &Branch) -> [(&'static str, bool); 3] {
    [
        ("overrideStat", branch.override_stat),
        ("owner", branch.owner != Owner::default()),
        ("perms", branch.perms.is_some()),
    ]
}

fn capture(at: &str, layer: &CaptureLayer) -> Result<(), Problem> {
    if layer.only.as_ref().is_some_and(Vec::is_empty) {
        let cause =
            "an empty list captures nothing; say \"capture\": false, or leave it out to capture everything";
        return Err(Problem::new(format!("{at}.only"), cause));
    }
    for (index, path) in layer.only.iter().flatten().enumerate() {
        in_root(&format!("{at}.only[{index}]"), path)?;
    }
    layer.name.as_ref().map_or(Ok(()), |name| layer_name(&format!("{at}.name"), name))
}

/// `linux.namespaces` replaces the default set whole, so both may speak of the network.
fn network(at: &str, network: Option<Network>, linux: Option<&Linux>) -> Result<(), Problem> {
    let (Some(network), Some(namespaces)) = (network, linux.and_then(|linux| linux.namespaces.as_ref()))
    else {
        return Ok(());
    };
    let has_namespace = namespaces.iter().any(|namespace| namespace.kind == NamespaceType::Network);
    match (network, has_namespace) {
        (Network::Host, true) => {
            Err(Problem::new(at, "\"host\" contradicts the network namespace in linux.namespaces"))
        }
        (Network::None | Network::Loopback, false) => {
            Err(Problem::new(at, "needs a namespace of type network in linux.namespaces"))
        }
        _ => Ok(()),
    }
}
