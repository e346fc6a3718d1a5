//! Cutting: from the list of branches to segments that actions can share.
//!
//! Adjacent layers are one segment, and so is each host directory, input manifest and preset. Where the merge must
//! happen in one place (links followed in the view, conflicts reported, the newest file looked for, extensions preferred in
//! the whole root) all branches are one segment. A skeleton comes last: the names that every root needs whatever its
//! branches hold.

use std::path::{Path, PathBuf};

use vfsrun_spec::vfs::{self, Access, Branch, BranchSource, PermOperation};
use vfsrun_spec::{Root, Vfs};
use vfsrun_union::describe::{
    BranchSpec, IdExtent, IdMap, Live, Order, Passthrough, PermChange, Policy, Rewrite, Scope, SegmentSpec,
    Source, Symlinks, TypeConflict, Whiteouts, XattrRule, Xattrs,
};

use crate::facts::{Image, PathKind};
use crate::plan::{Command, Ids, Mount, Open, RootLayer, Segment};
use crate::{Facts, PlanError, ids, paths, rules, skeleton};

/// What a root is composed of.
#[derive(Clone, Copy)]
pub(crate) struct Composed<'a> {
    pub vfs: &'a Vfs,
    /// Where the spec says it.
    pub at: &'a str,
    pub root: Option<&'a Root>,
    /// Its writable layer, which the branch of the root then leaves out.
    pub layer: Option<&'a RootLayer>,
    /// All but the root has exact OCI semantics.
    pub is_container: bool,
}

pub(crate) fn cut(
    composed: Composed<'_>,
    facts: &Facts,
    ids: Option<&Ids>,
    mounts: &[Mount],
    command: &Command,
) -> Result<Vec<Segment>, PlanError> {
    let Composed { vfs, at, is_container, .. } = composed;
    rules::refuse_bad(vfs, at)?;
    let whole = SegmentSpec {
        ids: ids.map(layer_ids).unwrap_or_default(),
        unmapped: unmapped(facts, ids),
        ..empty(vfs, ids)
    };
    refuse_foreign_host_scope(vfs, at, facts, command)?;
    refuse_foreign_rewrite(vfs, at, facts, command)?;
    let mut segments = branches(composed, facts, ids, &whole, merges_inside(vfs))?;
    mark_bottoms(&mut segments);
    leave_passthrough_where_it_is_of_no_use(&mut segments, facts.caller.privileged);
    segments.push(skeleton::segment(&whole, vfs, is_container, facts, mounts, command));
    Ok(segments)
}

/// All branches in one segment, for the caller to look at: what they hold is the caller's where it is not the host's.
pub(crate) fn bare(composed: Composed<'_>, facts: &Facts) -> Result<Segment, PlanError> {
    let Composed { vfs, at, .. } = composed;
    rules::refuse_bad(vfs, at)?;
    let mut whole = SegmentSpec { provenance: true, bottom: true, ..empty(vfs, None) };
    if !facts.caller.privileged {
        // The caller mounts where it lives, without other ids: no map but this one, and all else is unmapped.
        let (uid, gid) = (facts.caller.uid, facts.caller.gid);
        let only = |outside| vec![IdExtent { inside: 0, outside, count: 1 }];
        whole.ids = IdMap { uids: only(uid), gids: only(gid) };
        whole.unmapped = Some((uid, gid));
    }
    let segments = branches(composed, facts, None, &whole, true)?;
    // Of branches that are bound for writing there is nothing to look at.
    Ok(segments.into_iter().next().unwrap_or(Segment { spec: whole, opens: Vec::new() }))
}

/// Where no segment further down has anything at the same place, nothing has to be hidden from it. (What the skeleton has
/// every root needs.) Others are spared the questions that overlayfs asks of those that may hide something.
fn mark_bottoms(segments: &mut [Segment]) {
    for index in 0..segments.len() {
        let (above, below) = segments.split_at_mut(index + 1);
        let spec = &mut above[index].spec;
        let hides = |branch: &BranchSpec| {
            matches!(branch.source, Source::Layer { .. }) || branch.whiteouts != Whiteouts::None
        };
        // Said only where it makes a difference, so that others are the same segment wherever they lie.
        let may_hide = spec.branches.iter().any(hides) || spec.branches_meet();
        let below = places(below.iter().flat_map(|segment| &segment.spec.branches));
        let meets =
            |one: &PathBuf| below.iter().any(|other| one.starts_with(other) || other.starts_with(one));
        spec.bottom = may_hide && !places(spec.branches.iter()).iter().any(meets);
    }
}

/// Where branches have names in the view. A skeleton has those that it says, wherever it starts.
fn places<'a>(branches: impl Iterator<Item = &'a BranchSpec>) -> Vec<PathBuf> {
    let of = |branch: &BranchSpec| match &branch.source {
        Source::Skeleton { entries } => entries.iter().map(|entry| branch.at.join(&entry.path)).collect(),
        _ => vec![branch.at.clone()],
    };
    let mut places: Vec<_> = branches.flat_map(of).collect();
    // All of a glob have the same.
    places.dedup();
    places
}

/// Only root can have it, and only of what cannot change. Opens of all else are no requests.
fn leave_passthrough_where_it_is_of_no_use(segments: &mut [Segment], privileged: bool) {
    let is_fixed = |branch: &BranchSpec| match branch.source {
        Source::Layer { .. } | Source::Image { .. } => true,
        Source::Host { .. } | Source::Inputs { .. } => branch.frozen,
        Source::Skeleton { .. } => false,
    };
    for Segment { spec, .. } in segments {
        let is_of_use = privileged && spec.branches.iter().any(is_fixed);
        if spec.passthrough == Passthrough::Always && !is_of_use {
            spec.passthrough = Passthrough::Auto;
        }
    }
}

fn empty(vfs: &Vfs, ids: Option<&Ids>) -> SegmentSpec {
    SegmentSpec {
        rules: rules::described(&vfs.rules, ids),
        types: match vfs.types {
            vfs::TypeConflict::First => TypeConflict::First,
            vfs::TypeConflict::Error => TypeConflict::Error,
        },
        policy: match vfs.policy {
            vfs::Policy::First => Policy::First,
            vfs::Policy::Newest => Policy::Newest,
            vfs::Policy::Error => Policy::Error,
        },
        order: match vfs.order {
            vfs::Order::Sorted => Order::Sorted,
            vfs::Order::Native => Order::Native,
            vfs::Order::Shuffled(seed) => Order::Shuffled(seed),
        },
        latest: vfs.latest_time,
        passthrough: match vfs.passthrough {
            vfs::Passthrough::Auto => Passthrough::Auto,
            vfs::Passthrough::Always => Passthrough::Always,
            vfs::Passthrough::Never => Passthrough::Never,
        },
        provenance: vfs.provenance,
        deadline: vfs.deadline.map(|deadline| deadline.as_millis() as u64),
        ..SegmentSpec::default()
    }
}

fn branches(
    composed: Composed<'_>,
    facts: &Facts,
    ids: Option<&Ids>,
    whole: &SegmentSpec,
    together: bool,
) -> Result<Vec<Segment>, PlanError> {
    let Composed { vfs, at, root, .. } = composed;
    let mut cutter = Cutter { composed, facts, ids, empty: whole, segments: Vec::new() };
    let mut last_was_layer = false;
    for (index, branch) in vfs.branches.iter().enumerate() {
        if branch.access == Access::ReadWrite {
            continue;
        }
        let is_layer = is_layer(branch, facts);
        let joins = !cutter.segments.is_empty() && (together || (is_layer && last_was_layer));
        if !joins {
            cutter.segments.push(Segment { spec: whole.clone(), opens: Vec::new() });
        }
        cutter.add(branch, &format!("{at}.branches[{index}]"))?;
        last_was_layer = is_layer;
    }
    let is_said = vfs.branches.iter().any(|branch| branch.source == BranchSource::Root);
    if root.is_some() && !is_said {
        // An image's root, for instance: the lowest branch.
        if !together || cutter.segments.is_empty() {
            cutter.segments.push(Segment { spec: whole.clone(), opens: Vec::new() });
        }
        cutter.add_root(&Branch::new(BranchSource::Root))?;
    }
    Ok(cutter.segments)
}

fn is_layer(branch: &Branch, facts: &Facts) -> bool {
    match &branch.source {
        BranchSource::Layer(_) => true,
        BranchSource::Image(image) => matches!(facts.images.get(image), Some(Ok(Image::Layers(_)))),
        _ => false,
    }
}

/// The view server follows a link on the host with the caller's rights, through directories that another user could
/// not enter. (An ordinary caller's server has no more rights than the caller, whatever number the process has.)
fn refuse_foreign_host_scope(vfs: &Vfs, at: &str, facts: &Facts, command: &Command) -> Result<(), PlanError> {
    let caller = facts.caller.uid;
    if !facts.caller.privileged || command.uid == caller {
        return Ok(());
    }
    let said = |branch: &Branch| branch.symlinks != vfs::Symlinks::Never && branch.scope == vfs::Scope::Host;
    let preset = |branch: &Branch| {
        branch.source == BranchSource::HostTools && facts.host_tools.branches.iter().any(|tool| tool.follow)
    };
    let mut branches = vfs.branches.iter().enumerate();
    match branches.find(|(_, branch)| said(branch) || preset(branch)) {
        Some((index, _)) => {
            let at = format!("{at}.branches[{index}].scope");
            Err(PlanError::ForeignHostScope { at, caller, user: command.uid })
        }
        None => Ok(()),
    }
}

/// Rewritten owners and permissions say nothing of who may read a file on the host: the server reads it for the caller,
/// and may not for somebody else.
fn refuse_foreign_rewrite(vfs: &Vfs, at: &str, facts: &Facts, command: &Command) -> Result<(), PlanError> {
    let caller = facts.caller.uid;
    if !facts.caller.privileged || command.uid == caller {
        return Ok(());
    }
    match vfs.branches.iter().position(Branch::is_rewritten) {
        Some(index) => {
            let at = format!("{at}.branches[{index}]");
            Err(PlanError::ForeignRewrite { at, caller, user: command.uid })
        }
        None => Ok(()),
    }
}

fn merges_inside(vfs: &Vfs) -> bool {
    let follows_in_view =
        |branch: &Branch| branch.symlinks != vfs::Symlinks::Never && branch.scope == vfs::Scope::View;
    let prefers = |rule: &vfs::Rule| matches!(rule, vfs::Rule::ExtensionPriority(_));
    let decides = vfs.types != vfs::TypeConflict::First || vfs.policy != vfs::Policy::First;
    decides || vfs.rules.iter().any(prefers) || vfs.branches.iter().any(follows_in_view)
}

/// From ids as layers record them to ids of the server's namespace, which is the parent of the action's.
fn layer_ids(ids: &Ids) -> IdMap {
    let convert = |map: &[ids::Extent]| {
        let same = map.iter().all(|extent| extent.inside == extent.outside);
        let extents = map.iter().filter(|_| !same);
        extents.map(|e| IdExtent { inside: e.inside, outside: e.outside, count: e.count }).collect()
    };
    IdMap { uids: convert(&ids.uids), gids: convert(&ids.gids) }
}

/// Host files of owners that the namespace cannot express are shown as root's, or as the caller's where that is all.
fn unmapped(facts: &Facts, ids: Option<&Ids>) -> Option<(u32, u32)> {
    let everything =
        |map: &[ids::Extent]| map.iter().map(|e| u64::from(e.count)).sum::<u64>() >= u64::from(u32::MAX);
    if everything(&facts.parent_ids.uids) && everything(&facts.parent_ids.gids) {
        return None;
    }
    let root = |map: Option<&Vec<ids::Extent>>| map.and_then(|map| ids::outside(map, 0)).unwrap_or(0);
    Some((root(ids.map(|ids| &ids.uids)), root(ids.map(|ids| &ids.gids))))
}

struct Cutter<'a> {
    composed: Composed<'a>,
    facts: &'a Facts,
    ids: Option<&'a Ids>,
    empty: &'a SegmentSpec,
    segments: Vec<Segment>,
}

impl Cutter<'_> {
    fn add(&mut self, branch: &Branch, at: &str) -> Result<(), PlanError> {
        match &branch.source {
            BranchSource::Path(path) => self.add_path(branch, path, &format!("{at}.path")),
            BranchSource::Glob(pattern) => self.add_glob(branch, pattern, at),
            BranchSource::Layer(layer) => self.add_layer(branch, layer, at),
            BranchSource::Image(image) => self.add_image(branch, image, at),
            BranchSource::Inputs(file) => self.add_inputs(branch, file, at),
            BranchSource::StoredInputs(digest) => {
                self.add_stored_inputs(branch, digest, at);
                Ok(())
            }
            BranchSource::HostTools => self.add_host_tools(branch, at),
            BranchSource::Root => self.add_root(branch),
        }
    }

    fn add_path(&mut self, branch: &Branch, path: &Path, at: &str) -> Result<(), PlanError> {
        let path = paths::host_path(path, self.facts);
        if *paths::existing(&path, at, self.facts)? == PathKind::Other {
            return Err(PlanError::NotABranch { at: at.to_owned(), path });
        }
        let label = format!("{at} ({})", path.display());
        let root = self.open(Open::Path { path, at: at.to_owned() });
        let host = (branch.scope == vfs::Scope::Host).then(|| self.open(Open::HostRoot));
        self.push(described(branch, self.ids, Source::Host { root, host }, label));
        Ok(())
    }

    /// In a container its programs have the rights that they have without a view.
    fn add_root(&mut self, branch: &Branch) -> Result<(), PlanError> {
        let Composed { root, layer, is_container, .. } = self.composed;
        let root = root.ok_or(PlanError::NoRoot)?;
        let mut branch = Branch { trusted: branch.trusted || is_container, ..branch.clone() };
        let at = "root.path";
        let Some(layer) = layer else { return self.add_path(&branch, &root.path, at) };
        if let [_] = &*layer.lowers {
            // The kernel makes no overlay of one directory, which says for itself what is deleted in it.
            branch.whiteouts = vfs::Whiteouts::Overlay;
        }
        let opened = self.open(Open::Lowers { paths: layer.lowers.clone(), at: at.to_owned() });
        let label = format!("{at} ({})", root.path.display());
        self.push(described(&branch, self.ids, Source::Host { root: opened, host: None }, label));
        Ok(())
    }

    /// All that matches is one segment.
    fn add_glob(&mut self, branch: &Branch, pattern: &str, at: &str) -> Result<(), PlanError> {
        let at = format!("{at}.glob");
        let missing = || Err("nobody has tried it".to_owned());
        let found = self.facts.globs.get(pattern).cloned().unwrap_or_else(missing);
        let found = found.map_err(|reason| PlanError::Glob { at: at.clone(), reason })?;
        if found.is_empty() {
            return Err(PlanError::GlobMatchesNothing { at, pattern: pattern.to_owned() });
        }
        found.iter().try_for_each(|path| self.add_path(branch, path, &at))
    }

    fn add_layer(&mut self, branch: &Branch, layer: &str, at: &str) -> Result<(), PlanError> {
        let missing = || Err(format!("no layer is named {layer}"));
        let digest = self.facts.layers.get(layer).cloned().unwrap_or_else(missing);
        let digest = digest.map_err(|reason| PlanError::Layer { at: format!("{at}.layer"), reason })?;
        let store = self.open(Open::Store);
        self.push(described(
            branch,
            self.ids,
            Source::Layer { digest, store },
            format!("{at} (layer {layer})"),
        ));
        Ok(())
    }

    fn add_image(&mut self, branch: &Branch, image: &str, at: &str) -> Result<(), PlanError> {
        let missing = || Err("nobody has looked at it".to_owned());
        let found = self.facts.images.get(image).cloned().unwrap_or_else(missing);
        let at_image = format!("{at}.image");
        match found.map_err(|reason| PlanError::Image { at: at_image.clone(), reason })? {
            Image::Layers(layers) => {
                if branch.symlinks != vfs::Symlinks::Never && branch.scope == vfs::Scope::Branch {
                    return Err(PlanError::ScopeOfLayers { at: format!("{at}.scope") });
                }
                let store = self.open(Open::Store);
                for layer in layers {
                    let label = format!("{at} (image {image}, {})", layer.name);
                    self.push(described(
                        branch,
                        self.ids,
                        Source::Layer { digest: layer.digest, store },
                        label,
                    ));
                }
            }
            Image::File(path) => {
                if !self.facts.caller.privileged {
                    return Err(PlanError::ImageNeedsRoot { at: at_image, path });
                }
                let file = self.open(Open::File { path, at: at_image });
                self.push(described(
                    branch,
                    self.ids,
                    Source::Image { file },
                    format!("{at} (image {image})"),
                ));
            }
        }
        Ok(())
    }

    fn add_inputs(&mut self, branch: &Branch, file: &Path, at: &str) -> Result<(), PlanError> {
        let path = paths::host_path(file, self.facts);
        let at_inputs = format!("{at}.inputs");
        if *paths::existing(&path, &at_inputs, self.facts)? != PathKind::File {
            return Err(PlanError::NotAFile { at: at_inputs, path });
        }
        let label = format!("{at} ({})", path.display());
        let base = path.parent().unwrap_or(Path::new("/")).to_path_buf();
        let manifest = self.open(Open::File { path, at: at_inputs.clone() });
        let base = Some(self.open(Open::Path { path: base, at: at_inputs }));
        self.push_inputs(branch, manifest, base, label);
        Ok(())
    }

    /// Nothing in it depends on where the spec lies, so that all specs that name it share it.
    fn add_stored_inputs(&mut self, branch: &Branch, digest: &str, at: &str) {
        let at_inputs = format!("{at}.inputs");
        let label = format!("{at} (inputs {digest})");
        let manifest = self.open(Open::StoredInputs { digest: digest.to_owned(), at: at_inputs });
        self.push_inputs(branch, manifest, None, label);
    }

    fn push_inputs(&mut self, branch: &Branch, manifest: usize, base: Option<usize>, label: String) {
        let host = self.open(Open::HostRoot);
        let store = Some(self.open(Open::Store));
        self.push(described(branch, self.ids, Source::Inputs { manifest, base, host, store }, label));
    }

    fn add_host_tools(&mut self, branch: &Branch, at: &str) -> Result<(), PlanError> {
        let tools = &self.facts.host_tools;
        if tools.branches.is_empty() {
            return Err(PlanError::NoHostTools { at: format!("{at}.host") });
        }
        for tool in tools.branches.clone() {
            let label = format!("{at} ({})", tool.path.display());
            let root = self.open(Open::Path { path: tool.path.clone(), at: format!("{at}.host") });
            let host = tool.follow.then(|| self.open(Open::HostRoot));
            let mut spec = described(branch, self.ids, Source::Host { root, host }, label);
            // The preset is one branch to the user: its patterns start where it does, not at each of its parts.
            spec.rules_at = Some(std::mem::replace(&mut spec.at, place(&branch.at, &tool.at)));
            spec.frozen |= tool.frozen;
            if tool.follow {
                (spec.symlinks, spec.scope) = (Symlinks::All, Scope::Host);
            }
            self.push(spec);
        }
        let links = skeleton::links(&tools.links);
        self.push(described(branch, self.ids, Source::Skeleton { entries: links }, format!("{at} (links)")));
        Ok(())
    }

    fn current(&mut self) -> &mut Segment {
        if self.segments.is_empty() {
            self.segments.push(Segment { spec: self.empty.clone(), opens: Vec::new() });
        }
        self.segments.last_mut().expect("segments: one was pushed above")
    }

    fn push(&mut self, branch: BranchSpec) {
        self.current().spec.branches.push(branch);
    }

    /// The index of `what` among the segment's descriptors. Only what has no path is likely to be there already.
    fn open(&mut self, what: Open) -> usize {
        let opens = &mut self.current().opens;
        let known = match what {
            Open::HostRoot | Open::Store => opens.iter().position(|known| *known == what),
            Open::Path { .. } | Open::File { .. } | Open::StoredInputs { .. } | Open::Lowers { .. } => None,
        };
        known.unwrap_or_else(|| {
            opens.push(what);
            opens.len() - 1
        })
    }
}

fn described(branch: &Branch, ids: Option<&Ids>, source: Source, label: String) -> BranchSpec {
    BranchSpec {
        at: place(&branch.at, Path::new("/")),
        source,
        rules: rules::of_branch(branch, ids),
        rules_at: None,
        symlinks: match branch.symlinks {
            vfs::Symlinks::Never => Symlinks::Never,
            vfs::Symlinks::Directory => Symlinks::Directory,
            vfs::Symlinks::Regular => Symlinks::Regular,
            vfs::Symlinks::All => Symlinks::All,
        },
        scope: match branch.scope {
            vfs::Scope::View => Scope::View,
            vfs::Scope::Branch => Scope::Branch,
            vfs::Scope::Host => Scope::Host,
        },
        frozen: branch.frozen,
        live: match branch.live {
            vfs::Live::Auto => Live::Auto,
            vfs::Live::Watch => Live::Watch,
            vfs::Live::Sweep => Live::Sweep,
        },
        whiteouts: match branch.whiteouts {
            vfs::Whiteouts::None => Whiteouts::None,
            vfs::Whiteouts::Overlay => Whiteouts::Overlay,
            vfs::Whiteouts::Oci => Whiteouts::Oci,
        },
        xattrs: match &branch.xattrs {
            vfs::Xattrs::Off => Xattrs::Off,
            vfs::Xattrs::Pass => Xattrs::Pass(Vec::new()),
            vfs::Xattrs::Map(rules) => Xattrs::Pass(rules.iter().map(xattr_rule).collect()),
        },
        rewrite: Rewrite {
            override_stat: branch.override_stat,
            uid: branch.owner.uid,
            gid: branch.owner.gid,
            perms: branch.perms.iter().flat_map(|perms| &perms.0).map(perm_change).collect(),
        },
        trusted: branch.trusted,
        label,
    }
}

fn xattr_rule(rule: &vfs::XattrRule) -> XattrRule {
    XattrRule { from: rule.from.clone(), to: rule.to.clone() }
}

fn perm_change(change: &vfs::PermChange) -> PermChange {
    let (bits, search) = (change.bits & change.whose, if change.search { 0o111 & change.whose } else { 0 });
    match change.operation {
        PermOperation::Add => PermChange { clear: 0, set: bits, set_search: search, clear_search: 0 },
        PermOperation::Remove => PermChange { clear: bits, set: 0, set_search: 0, clear_search: search },
        PermOperation::Set => {
            PermChange { clear: change.whose, set: bits, set_search: search, clear_search: 0 }
        }
    }
}

/// Relative to the root of the view.
fn place(at: &Path, below: &Path) -> PathBuf {
    let at = at.strip_prefix("/").unwrap_or(at);
    let joined = at.join(below.strip_prefix("/").unwrap_or(below));
    joined.components().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(branches: &[(&str, bool)]) -> Segment {
        let branch = |(at, is_layer): &(&str, bool)| {
            let host = Source::Host { root: 0, host: None };
            let layer = Source::Layer { digest: String::new(), store: 0 };
            let source = if *is_layer { layer } else { host };
            BranchSpec { at: at.into(), ..BranchSpec::new(source, "test") }
        };
        let spec = SegmentSpec { branches: branches.iter().map(branch).collect(), ..SegmentSpec::default() };
        Segment { spec, opens: Vec::new() }
    }

    #[test]
    fn passthrough_is_asked_for_where_something_cannot_change() {
        let passthrough = |privileged, asked_for| {
            let mut segments =
                [segment(&[("", false)]), segment(&[("", true)]), segment(&[("", false), ("", false)])];
            segments[2].spec.branches[1].frozen = true;
            segments.iter_mut().for_each(|segment| segment.spec.passthrough = asked_for);
            leave_passthrough_where_it_is_of_no_use(&mut segments, privileged);
            segments.map(|segment| segment.spec.passthrough)
        };
        let (auto, always, never) = (Passthrough::Auto, Passthrough::Always, Passthrough::Never);
        assert_eq!(passthrough(true, always), [auto, always, always]);
        assert_eq!(passthrough(false, always), [auto, auto, auto]);
        assert_eq!(passthrough(true, never), [never, never, never]);
    }

    #[test]
    fn a_segment_is_the_bottom_where_no_other_one_below_has_anything() {
        let mut segments = [
            segment(&[("parts", false), ("parts", false)]),
            segment(&[("", true)]),
            segment(&[("usr", false), ("usr", false)]),
            segment(&[("usr/share", false), ("usr/share/doc", false)]),
            segment(&[("bin", false), ("lib", false)]),
        ];
        mark_bottoms(&mut segments);
        let bottoms: Vec<_> = segments.iter().map(|segment| segment.spec.bottom).collect();
        // The first lies above a layer that may have anything, and the last hides nothing.
        assert_eq!(bottoms, [false, false, false, true, false]);
    }

    #[test]
    fn of_a_skeleton_only_its_names_are_in_the_way() {
        let links =
            skeleton::links(&[("/bin".into(), "usr/bin".into()), ("/usr/lib64".into(), "lib".into())]);
        let mut tools = segment(&[("usr/bin", false), ("usr/lib", false)]);
        tools.spec.branches.push(BranchSpec::new(Source::Skeleton { entries: links }, "links"));
        let is_bottom = |at| {
            let mut segments = [segment(&[(at, true)]), tools.clone()];
            mark_bottoms(&mut segments);
            segments[0].spec.bottom
        };
        assert!(is_bottom("many") && is_bottom("usr/share"));
        assert!(!is_bottom("") && !is_bottom("usr") && !is_bottom("bin/below") && !is_bottom("usr/lib64"));
    }
}
