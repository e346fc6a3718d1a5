//! Validation: what must hold beyond types, in the order a reader would check it.

mod landlock;
mod linux;
mod process;
mod vfs;

use std::path::{Component, Path};

use serde_json::Value;

use crate::oci::{Hook, HookKind, Resources};
use crate::vfs::{BranchSource, LANDLOCK_ANNOTATION, Landlock, UpperOn, VIEW_ANNOTATION};
use crate::{Spec, Vfs, suggest};

/// What is wrong, and where: `path` as in `vfs.branches[2].at`, empty for the whole document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub path: String,
    pub cause: String,
}

impl Problem {
    fn new(path: impl Into<String>, cause: impl Into<String>) -> Self {
        Self { path: path.into(), cause: cause.into() }
    }
}

/// `raw`: the document, for a spec with `vfs`.
pub(crate) fn spec(spec: &Spec, raw: &Value) -> Result<(), Problem> {
    match &spec.vfs {
        Some(vfs) => {
            no_null("vfs", &raw["vfs"])?;
            with_vfs(spec, vfs)?;
        }
        None => without_vfs(spec)?,
    }
    oci_version(spec)?;
    host_names(spec)?;
    if let Some(process) = &spec.process {
        process::process(process, spec.vfs.is_some())?;
    }
    mounts(spec)?;
    hooks(spec)?;
    match &spec.linux {
        Some(linux) => linux::linux(linux, spec.vfs.is_some()),
        None => Ok(()),
    }
}

/// The rules of a bundle, whose annotation is `path`.
pub(crate) fn annotated_landlock(path: &str, rules: &Landlock, raw: &Value) -> Result<(), Problem> {
    no_null(path, raw)?;
    landlock::landlock(path, rules)
}

/// The view of a bundle, whose annotation is `path`. What a container's config says in its own words is no part of it.
pub(crate) fn annotated_view(path: &str, view: &Vfs, raw: &Value) -> Result<(), Problem> {
    no_null(path, raw)?;
    let elsewhere = [
        ("network", "the container's namespaces decide"),
        ("stdin", "the container's caller decides"),
        ("timeLimit", "the container's caller decides"),
        ("env", "the container's config has its environment"),
        ("landlock", "the annotation run.vfsrun.landlock has the rules"),
    ];
    if let Some((field, why)) = elsewhere.into_iter().find(|(field, _)| raw.get(field).is_some()) {
        return Err(Problem::new(format!("{path}.{field}"), format!("is for specs with vfs; {why}")));
    }
    vfs::vfs(path, view, None)?;
    vfs::container(path, view)
}

/// Resources that are a document of their own: its paths begin where they do.
pub(crate) fn resources(resources: &Resources) -> Result<(), Problem> {
    let below = |path: String| path.strip_prefix("linux.resources.").map(str::to_owned).unwrap_or(path);
    linux::resources(resources).map_err(|problem| Problem { path: below(problem.path), ..problem })
}

/// `null` says neither "the default" nor "nothing" clearly, so it is refused throughout `vfs`.
fn no_null(path: &str, value: &Value) -> Result<(), Problem> {
    match value {
        Value::Null => Err(Problem::new(path, "null; leave the field out for its default")),
        Value::Array(items) => {
            items.iter().enumerate().try_for_each(|(index, item)| no_null(&format!("{path}[{index}]"), item))
        }
        Value::Object(fields) => {
            fields.iter().try_for_each(|(key, field)| no_null(&format!("{path}.{key}"), field))
        }
        _ => Ok(()),
    }
}

fn with_vfs(spec: &Spec, vfs: &Vfs) -> Result<(), Problem> {
    if spec.process.as_ref().is_none_or(|process| process.args.is_empty()) {
        return Err(Problem::new("process.args", "missing; say which command to run"));
    }
    let has_root = spec.root.as_ref().is_some_and(|root| !root.path.as_os_str().is_empty());
    if vfs.branches.is_empty() && !has_root {
        return Err(Problem::new("vfs.branches", "missing; the root needs at least one branch"));
    }
    if spec.annotations.contains_key(LANDLOCK_ANNOTATION) {
        let cause = "is for bundles; beside vfs, say it in vfs.landlock";
        return Err(Problem::new(format!("annotations[{LANDLOCK_ANNOTATION:?}]"), cause));
    }
    if spec.annotations.contains_key(VIEW_ANNOTATION) {
        let cause = "is for bundles; this spec has vfs";
        return Err(Problem::new(format!("annotations[{VIEW_ANNOTATION:?}]"), cause));
    }
    if let Some(index) = vfs.branches.iter().position(|branch| branch.source == BranchSource::Root)
        && !has_root
    {
        return Err(Problem::new(format!("vfs.branches[{index}].root"), "there is no root.path"));
    }
    if vfs.upper.on == UpperOn::Root && !has_root {
        return Err(Problem::new("vfs.upper.on", "\"root\" is the layer of root.path, and there is none"));
    }
    vfs::vfs("vfs", vfs, spec.linux.as_ref())
}

fn without_vfs(spec: &Spec) -> Result<(), Problem> {
    if let Some(path) = spec.view_file() {
        absolute(&format!("annotations[{VIEW_ANNOTATION:?}]"), path)?;
    }
    let missing = if spec.oci_version.is_none() {
        "ociVersion"
    } else if spec.root.as_ref().is_none_or(|root| root.path.as_os_str().is_empty()) {
        "root.path"
    } else {
        return Ok(());
    };
    let raw: Value = serde_json::from_str(&spec.text).unwrap_or_default();
    let keys = raw.as_object().into_iter().flat_map(|object| object.keys());
    let hint = keys
        .filter(|key| suggest::nearest(key, ["vfs"]).is_some())
        .map(|key| format!("; {key:?} is not known, did you mean \"vfs\"?"))
        .next()
        .unwrap_or_default();
    Err(Problem::new(missing, format!("missing; a spec without \"vfs\" is an OCI config and needs it{hint}")))
}

fn oci_version(spec: &Spec) -> Result<(), Problem> {
    let Some(version) = &spec.oci_version else { return Ok(()) };
    let mut numbers = version.split(['.', '-', '+']);
    let is_number = |part: Option<&str>| part.is_some_and(|digits| digits.parse::<u32>().is_ok());
    if numbers.next() == Some("1") && is_number(numbers.next()) && is_number(numbers.next()) {
        return Ok(());
    }
    Err(Problem::new("ociVersion", format!("unsupported version {version:?}, expected 1.x.y")))
}

/// The kernel takes at most 64 bytes for either name (uts_namespaces(7)).
fn host_names(spec: &Spec) -> Result<(), Problem> {
    for (path, name) in [("hostname", &spec.hostname), ("domainname", &spec.domainname)] {
        if name.as_ref().is_some_and(|name| name.len() > 64) {
            return Err(Problem::new(path, "longer than 64 bytes"));
        }
    }
    Ok(())
}

fn mounts(spec: &Spec) -> Result<(), Problem> {
    for (index, mount) in spec.mounts.iter().enumerate() {
        let path = format!("mounts[{index}].destination");
        if mount.destination.as_os_str().is_empty() {
            return Err(Problem::new(path, "empty"));
        }
        // OCI allows relative destinations (config.md: SHOULD be absolute); ours have no need of them.
        if spec.vfs.is_some() {
            in_root(&path, &mount.destination)?;
        }
        if mount.uid_mappings.is_empty() != mount.gid_mappings.is_empty() {
            let cause = "has only one of uidMappings and gidMappings, expected both or none";
            return Err(Problem::new(format!("mounts[{index}]"), cause));
        }
    }
    Ok(())
}

fn hooks(spec: &Spec) -> Result<(), Problem> {
    let Some(hooks) = &spec.hooks else { return Ok(()) };
    for kind in HookKind::ALL {
        for (index, one) in hooks.of(kind).iter().enumerate() {
            hook(&format!("hooks.{}[{index}]", kind.name()), one)?;
        }
    }
    Ok(())
}

fn hook(path: &str, hook: &Hook) -> Result<(), Problem> {
    absolute(&format!("{path}.path"), &hook.path)?;
    for (index, argument) in hook.args.iter().enumerate() {
        no_nul(&format!("{path}.args[{index}]"), argument)?;
    }
    if hook.timeout.is_some_and(|seconds| seconds <= 0) {
        return Err(Problem::new(format!("{path}.timeout"), "not more than 0 seconds"));
    }
    process::env(&format!("{path}.env"), hook.env.as_deref().unwrap_or_default())
}

/// An absolute path that a kernel call can take.
fn absolute(path: &str, value: &Path) -> Result<(), Problem> {
    no_nul(path, &value.to_string_lossy())?;
    if value.is_absolute() {
        return Ok(());
    }
    Err(Problem::new(path, format!("{:?} is not absolute", value.display().to_string())))
}

/// An absolute path that does not go up.
fn in_root(path: &str, value: &Path) -> Result<(), Problem> {
    absolute(path, value)?;
    if value.components().any(|part| part == Component::ParentDir) {
        return Err(Problem::new(path, format!("{:?} has \"..\" in it", value.display().to_string())));
    }
    Ok(())
}

/// A list of CPUs or memory nodes.
fn number_list(path: &str, list: &str) -> Result<(), Problem> {
    crate::numbers(list).map(drop).map_err(|cause| Problem::new(path, cause))
}

fn no_nul(path: &str, value: &str) -> Result<(), Problem> {
    if value.contains('\0') {
        return Err(Problem::new(path, "contains a NUL character"));
    }
    Ok(())
}
