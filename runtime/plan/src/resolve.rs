//! Resolving: from a spec to a complete OCI config, with every default of an action filled in.

use std::borrow::Cow;

use vfsrun_spec::merge;
use vfsrun_spec::oci::{Capabilities, IdMapping, NamespaceType, Rlimit, RlimitType, User};
use vfsrun_spec::vfs::{Access, BranchSource, Environment, Network};
use vfsrun_spec::{Linux, Mount, Process, Root, Spec, Vfs};

use crate::facts::{Facts, PathKind};
use crate::{PlanError, defaults, ids, paths};

/// The complete config. A spec without `vfs` is one already.
///
/// # Errors
/// A path of a branch with `"mode": "rw"` does not exist.
pub fn resolve<'a>(spec: &'a Spec, facts: &Facts) -> Result<Cow<'a, Spec>, PlanError> {
    let Some(vfs) = &spec.vfs else { return Ok(Cow::Borrowed(spec)) };
    let mut config = spec.clone();
    config.oci_version.get_or_insert_with(|| "1.0.2".to_owned());
    config.root.get_or_insert_with(|| Root { path: "rootfs".into(), readonly: false });
    let process = process(spec.process.clone().unwrap_or_default(), vfs, facts);
    let user = process.user.clone().unwrap_or_default();
    config.linux = Some(linux(spec.linux.clone().unwrap_or_default(), vfs, &user, facts)?);
    config.process = Some(process);
    let own_uts = config.linux.iter().flat_map(|linux| linux.namespaces.iter().flatten());
    if own_uts.into_iter().any(|namespace| namespace.kind == NamespaceType::Uts) {
        config.hostname.get_or_insert_with(|| "localhost".to_owned());
    }
    let has_group_tty = config.linux.as_ref().is_some_and(|linux| maps(&linux.gid_mappings, 5));
    let mut said = spec.mounts.clone();
    said.extend(write_through(vfs, facts)?);
    config.mounts = merge::mounts(&defaults::mounts(has_group_tty), &said);
    config.mounts.extend(name_service(vfs, facts));
    Ok(Cow::Owned(config))
}

/// As [`resolve`], with the action's seccomp profile written out for runtimes that do not have it.
///
/// # Errors
/// As [`resolve`].
pub fn complete(spec: &Spec, facts: &Facts) -> Result<Spec, PlanError> {
    let mut config = resolve(spec, facts)?.into_owned();
    // It is to be used from another directory.
    if let Some(root) = &mut config.root
        && spec.root.is_some()
    {
        root.path = paths::host_path(&root.path, facts);
    }
    for mount in config.mounts.iter_mut().filter(|mount| paths::is_bind(mount)) {
        let absolute = mount.source.as_ref().map(|source| paths::host_path(source.as_ref(), facts));
        mount.source = absolute.map(|path| path.to_string_lossy().into_owned());
    }
    if let (Some(_), Some(linux)) = (&config.vfs, &mut config.linux)
        && linux.seccomp.is_none()
    {
        let mut profile = vfsrun_seccomp::action::action_profile();
        // Other runtimes refuse architectures that they do not know.
        let family = vfsrun_seccomp::Arch::native_family();
        profile.architectures.retain(|name| name.arch().is_some_and(|arch| family.contains(&arch)));
        let profile = serde_json::to_value(profile);
        linux.seccomp = Some(profile.map_err(|error| PlanError::Seccomp { reason: error.to_string() })?);
    }
    Ok(config)
}

fn process(mut process: Process, vfs: &Vfs, facts: &Facts) -> Process {
    if vfs.env == Environment::Hermetic {
        process.env = merge::env(&defaults::env(), &process.env);
    }
    process.cwd.get_or_insert_with(|| "/".into());
    let caller = User { uid: facts.caller.uid, gid: facts.caller.gid, ..User::default() };
    let user = process.user.get_or_insert(caller);
    user.umask.get_or_insert(0o022);
    process.no_new_privileges.get_or_insert(true);
    process.capabilities.get_or_insert_with(Capabilities::default);
    if !process.rlimits.iter().any(|limit| limit.kind == RlimitType::Core) {
        process.rlimits.push(Rlimit { kind: RlimitType::Core, soft: 0, hard: 0 });
    }
    process
}

fn linux(mut linux: Linux, vfs: &Vfs, user: &User, facts: &Facts) -> Result<Linux, PlanError> {
    let has_offsets = !linux.time_offsets.is_empty();
    let namespaces = linux.namespaces.get_or_insert_with(|| defaults::namespaces(vfs.network(), has_offsets));
    let own_user = namespaces.iter().any(|n| n.kind == NamespaceType::User && n.path.is_none());
    if own_user && linux.uid_mappings.is_empty() {
        linux.uid_mappings = host_map(user.uid, &facts.parent_ids.uids, facts.caller.privileged);
    }
    if own_user && linux.gid_mappings.is_empty() {
        linux.gid_mappings = host_map(user.gid, &facts.parent_ids.gids, facts.caller.privileged);
    }
    linux.masked_paths.get_or_insert_with(defaults::masked_paths);
    linux.readonly_paths.get_or_insert_with(defaults::readonly_paths);
    Ok(linux)
}

/// The action's map with the host's numbers, as other runtimes want it.
fn host_map(own: u32, parent: &[ids::Extent], privileged: bool) -> Vec<IdMapping> {
    let mut map = Vec::new();
    for extent in ids::action_map(own, parent, privileged) {
        map.extend(ids::through(extent, parent));
    }
    map.iter().map(|e| IdMapping { container_id: e.inside, host_id: e.outside, size: e.count }).collect()
}

fn maps(mappings: &[IdMapping], id: u32) -> bool {
    mappings.iter().any(|m| id >= m.container_id && id - m.container_id < m.size)
}

/// A branch with `"mode": "rw"` is a bind mount in every runtime.
fn write_through(vfs: &Vfs, facts: &Facts) -> Result<Vec<Mount>, PlanError> {
    let mut mounts = Vec::new();
    for (index, branch) in vfs.branches.iter().enumerate() {
        let (Access::ReadWrite, BranchSource::Path(path)) = (branch.access, &branch.source) else { continue };
        let path = paths::host_path(path, facts);
        paths::existing(&path, &format!("vfs.branches[{index}].path"), facts)?;
        mounts.push(Mount {
            destination: branch.at.clone(),
            kind: Some("bind".to_owned()),
            source: Some(path.to_string_lossy().into_owned()),
            options: ["rbind", "rw", "nosuid", "nodev"].map(str::to_owned).to_vec(),
            ..Mount::default()
        });
    }
    Ok(mounts)
}

/// With the host's network a command wants the host's resolver too.
fn name_service(vfs: &Vfs, facts: &Facts) -> Option<Mount> {
    let resolv = std::path::Path::new("/etc/resolv.conf");
    let wanted = vfs.network() == Network::Host && facts.paths.get(resolv) == Some(&PathKind::File);
    wanted.then(|| Mount {
        destination: resolv.into(),
        kind: Some("bind".to_owned()),
        source: Some("/etc/resolv.conf".to_owned()),
        options: ["bind", "ro", "nosuid", "nodev", "noexec"].map(str::to_owned).to_vec(),
        ..Mount::default()
    })
}
