//! Spec and facts to plan: every decision about a run, and no side effect.
//!
//! ```text
//! Spec ──resolve──▶ complete OCI config ──Plan::new──▶ Plan
//!        defaults of an action            segments, ids, mounts, sandbox
//! Facts ─────┴───────────────────────────────┘
//! ```

#![forbid(unsafe_code)]

mod capabilities;
pub mod cgroup;
mod defaults;
mod devices;
mod error;
pub mod facts;
mod host_wide;
pub mod ids;
mod labels;
mod landlock;
mod mount_options;
pub mod mounts;
pub mod paths;
pub mod plan;
mod resolve;
mod rules;
mod sandbox;
mod scheduling;
mod segments;
mod skeleton;
mod unit;

pub use error::PlanError;
pub use facts::Facts;
pub use plan::Plan;
pub use resolve::{complete, resolve};

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use vfsrun_spec::oci::{GROUPS_ANNOTATION, IdMapping, NamespaceType};
use vfsrun_spec::vfs::{CaptureBase, CaptureForm};
use vfsrun_spec::{Linux, Process, Spec, Vfs};

use plan::{
    Capture, Command, Directory, Ids, Namespace, NetDevice, Rlimit, Root, RootLayer, Stdin, Upper, UpperOn,
};
use segments::Composed;

impl Plan {
    /// Decides everything about one run of `spec`.
    ///
    /// # Errors
    /// The spec asks for what does not exist here, or is not this caller's to have.
    pub fn new(spec: &Spec, facts: &Facts) -> Result<Plan, PlanError> {
        let config = resolve(spec, facts)?;
        // Of a container that is never started.
        let nothing = Process::default();
        let process = config.process.as_ref().unwrap_or(&nothing);
        let linux = linux(&config);
        let namespaces = namespaces(linux);
        host_wide::refuse(&config, &namespaces)?;
        if config.composed().is_some()
            && !facts.caller.privileged
            && !namespaces.iter().any(Namespace::is_new_user)
        {
            return Err(PlanError::NoUserNamespace);
        }
        let own_user = namespaces.iter().any(Namespace::is_new_user);
        let ids = if own_user { Some(ids(&config, facts)?) } else { None };
        let command = command(&config, process, facts, ids.as_ref())?;
        let (cgroup, cgroup_notes) = cgroup::decide(&config, facts)?;
        let guarded = facts.cgroups.joins_guarded || cgroup::is_guarded(cgroup.as_ref());
        let setting = mounts::Setting {
            facts,
            ids: ids.as_ref(),
            in_user_namespace: namespaces.iter().any(|namespace| namespace.kind == NamespaceType::User),
            is_action: config.vfs.is_some(),
            cgroup: cgroup.as_ref(),
        };
        let mut mounts = mounts::all(&config, setting)?;
        let label_note = labels::label_mounts(linux, &mut mounts, facts);
        let devices = devices::all(&config, &mounts, setting)?;
        let mut notes = error::notes(spec, guarded || own_user, facts);
        notes.extend(cgroup_notes);
        notes.extend(label_note);
        let (root, upper_note) = root(spec, &config, guarded, facts, ids.as_ref(), &mounts, &command)?;
        notes.extend(upper_note);
        let (landlock, landlock_note) = landlock::decide(&config, process, &mounts, facts)?;
        notes.extend(landlock_note);
        let sandbox = sandbox::decide(&config, facts, guarded, landlock)?;
        let mut propagation = linux.rootfs_propagation.clone().filter(|word| !word.is_empty());
        if !namespaces.iter().any(Namespace::is_new_mount) {
            notes.extend(standing_still(&mut propagation, &mut mounts));
        }
        let opened_outside = opened_outside(&root, &mounts, &devices, setting);
        let mut sysctl: BTreeMap<_, _> = linux.sysctl.clone().into_iter().collect();
        Ok(Plan {
            loopback: loopback(&config, &namespaces),
            namespaces,
            time_offsets: linux.time_offsets.clone(),
            net_devices: net_devices(linux.net_devices.clone()),
            ids,
            hostname: config.hostname.clone(),
            // By its file only root could set it.
            domainname: sysctl.remove("kernel.domainname").or_else(|| config.domainname.clone()),
            directories: home(&config, &command),
            opened_outside,
            device_links: !devices::is_hosts(&mounts),
            devices,
            root,
            propagation,
            mounts,
            masked: linux.masked_paths.clone().unwrap_or_default(),
            readonly: linux.readonly_paths.clone().unwrap_or_default(),
            sysctl: sysctl.into_iter().collect(),
            sandbox,
            cgroup,
            annotations: config.annotations.clone(),
            hooks: config.hooks.clone().unwrap_or_default(),
            capture: config.composed().and_then(|(vfs, _)| capture(vfs, process)),
            log: config.vfs.as_ref().map_or(Ok(Vec::new()), rules::of_log)?,
            time_limit: config.vfs.as_ref().and_then(|vfs| vfs.time_limit).map(|limit| limit.as_secs_f64()),
            command,
            notes,
        })
    }
}

/// To mounts that belong to no mount namespace nothing travels, nor from them.
fn standing_still(of_root: &mut Option<String>, mounts: &mut [plan::Mount]) -> Vec<String> {
    let travels = |word: &String| word.ends_with("shared") || word.ends_with("slave");
    let of_root = of_root.take().map(|word| ("linux.rootfsPropagation".to_owned(), vec![word]));
    let of_mounts = mounts
        .iter_mut()
        .map(|mount| (format!("{}.options", mount.at), std::mem::take(&mut mount.attributes.propagation)));
    let said = of_root.into_iter().chain(of_mounts).filter_map(|(at, words)| {
        let word = words.into_iter().find(travels)?;
        Some(format!("{at}: {word:?} has no effect without a mount namespace of the container's own"))
    });
    said.collect()
}

/// Whether init, with its user namespace's rights, would lack some of the caller's. The ids of an action of root are the
/// host's own.
fn opened_outside(
    root: &Root,
    mounts: &[plan::Mount],
    devices: &[plan::Device],
    setting: mounts::Setting<'_>,
) -> bool {
    let needs_rights =
        mounts.iter().any(|mount| matches!(mount.what, plan::MountKind::Bind { ids: Some(_), .. }))
            || devices.iter().any(|device| device.origin == plan::NodeOrigin::MadeApart)
            || matches!(root, Root::Directory { .. });
    setting.facts.caller.privileged && setting.ids.is_some() && needs_rights
}

/// The branches of `spec` as the action would see them without mounts and upper, in one segment that tells where its names
/// come from.
///
/// # Errors
/// As [`Plan::new`], and a spec without `vfs` has no branches.
pub fn bare_view(spec: &Spec, facts: &Facts) -> Result<plan::Segment, PlanError> {
    let config = resolve(spec, facts)?;
    let vfs = config.vfs.as_ref().ok_or(PlanError::NoBranches)?;
    facts.fuse.clone().map_err(|reason| PlanError::NoFuse { reason })?;
    let composed = Composed { vfs, at: "vfs", root: spec.root.as_ref(), layer: None, is_container: false };
    segments::bare(composed, facts)
}

/// It may hold a long seccomp profile, and is not copied for what is looked up in it.
fn linux(config: &Spec) -> &Linux {
    static WITHOUT: LazyLock<Linux> = LazyLock::new(Linux::default);
    config.linux.as_ref().unwrap_or(&WITHOUT)
}

fn namespaces(linux: &Linux) -> Vec<Namespace> {
    let said = linux.namespaces.iter().flatten();
    said.map(|namespace| Namespace { kind: namespace.kind, path: namespace.path.clone() }).collect()
}

/// What the kernel's maps must say: ids of the host in the config, of the parent namespace in the plan.
fn ids(config: &Spec, facts: &Facts) -> Result<Ids, PlanError> {
    let linux = linux(config);
    let from = |mappings: &[IdMapping], parent: &[ids::Extent], at: &'static str| {
        mappings
            .iter()
            .map(|m| {
                let outside =
                    ids::inside(parent, m.host_id).ok_or(PlanError::IdNotOurs { at, id: m.host_id })?;
                Ok(ids::Extent { inside: m.container_id, outside, count: m.size })
            })
            .collect::<Result<Vec<_>, PlanError>>()
    };
    let parent = match config.composed() {
        Some(_) => facts.parent_ids.clone(),
        // A bundle is cloned from the caller's own namespace.
        None => facts::ParentIds::identity(),
    };
    let user = config.process.as_ref().and_then(|process| process.user.clone()).unwrap_or_default();
    // Without mappings the one id inside is the command's, and the caller's outside: more an ordinary user has no right to.
    let said = |mappings: &[IdMapping], inside: u32, outside: u32| match mappings {
        [] => vec![IdMapping { container_id: inside, host_id: outside, size: 1 }],
        said => said.to_vec(),
    };
    let uids = said(&linux.uid_mappings, user.uid, facts.caller.uid);
    let gids = said(&linux.gid_mappings, user.gid, facts.caller.gid);
    Ok(Ids {
        uids: from(&uids, &parent.uids, "linux.uidMappings")?,
        gids: from(&gids, &parent.gids, "linux.gidMappings")?,
    })
}

fn command(config: &Spec, process: &Process, facts: &Facts, ids: Option<&Ids>) -> Result<Command, PlanError> {
    let user = process.user.clone().unwrap_or_default();
    let is_action = config.vfs.is_some();
    let keeps_groups = keeps_groups(config);
    let several = |ids: &Ids| ids.gids.iter().map(|extent| u64::from(extent.count)).sum::<u64>() > 1;
    let can_set_groups = facts.caller.privileged || ids.is_some_and(several);
    let can_set_groups = can_set_groups && !keeps_groups;
    refuse_no_ids(&user, can_set_groups || keeps_groups)?;
    Ok(Command {
        args: process.args.clone(),
        env: process.env.clone(),
        // Actions have one by default. runc takes an empty one for none, too.
        home_of_user: !is_action && !process.env.iter().any(|entry| has_value(entry, "HOME=")),
        listens: false,
        cwd: process.cwd.clone().unwrap_or_else(|| "/".into()),
        uid: user.uid,
        gid: user.gid,
        groups: can_set_groups.then_some(user.additional_gids),
        umask: user.umask.unwrap_or(0o022),
        terminal: process.terminal,
        stdin: if config.vfs.as_ref().is_some_and(|vfs| !vfs.stdin) { Stdin::Null } else { Stdin::Inherit },
        rlimits: process
            .rlimits
            .iter()
            .map(|limit| Rlimit { kind: limit.kind, soft: limit.soft, hard: limit.hard })
            .collect(),
        oom_score_adj: process.oom_score_adj,
        labels: labels::decide(process, facts)?,
        scheduling: scheduling::decide(process, linux(config))?,
        reaper: is_action,
        console_size: process.console_size.map(|size| (size.height as u16, size.width as u16)),
    })
}

/// Whether the command keeps the caller's supplementary groups, as with crun.
fn keeps_groups(config: &Spec) -> bool {
    config.vfs.is_none() && config.annotations.get(GROUPS_ANNOTATION).is_some_and(|said| said != "0")
}

fn has_value(entry: &str, variable: &str) -> bool {
    entry.strip_prefix(variable).is_some_and(|value| !value.is_empty())
}

/// The highest number means "leave it" to setresuid(2): a process that asked for it would keep the caller's id.
fn refuse_no_ids(user: &vfsrun_spec::oci::User, can_set_groups: bool) -> Result<(), PlanError> {
    let mut ids = [user.uid, user.gid].into_iter().chain(user.additional_gids.iter().copied());
    if let Some(id) = ids.find(|id| *id == u32::MAX) {
        return Err(PlanError::NoId { id });
    }
    if can_set_groups || user.additional_gids.is_empty() { Ok(()) } else { Err(PlanError::Groups) }
}

/// HOME lies in a fresh /tmp, so nobody has made it yet.
fn home(config: &Spec, command: &Command) -> Vec<Directory> {
    let home = command.env.iter().find_map(|entry| entry.strip_prefix("HOME="));
    let is_fresh = config.vfs.is_some()
        && config.mounts.iter().any(|mount| mount.destination == Path::new("/tmp") && !paths::is_bind(mount));
    match home {
        Some(path) if is_fresh && paths::is_below(Path::new(path), Path::new("/tmp")) => {
            vec![Directory { path: path.into(), uid: command.uid, gid: command.gid }]
        }
        _ => Vec::new(),
    }
}

fn net_devices(said: BTreeMap<String, vfsrun_spec::oci::NetDevice>) -> Vec<NetDevice> {
    let named = |(host, device): (String, vfsrun_spec::oci::NetDevice)| NetDevice {
        inside: device.name.filter(|name| !name.is_empty()).unwrap_or_else(|| host.clone()),
        host,
    };
    said.into_iter().map(named).collect()
}

fn loopback(config: &Spec, namespaces: &[Namespace]) -> bool {
    let fresh = namespaces.iter().any(|n| n.kind == NamespaceType::Network && n.path.is_none());
    let wanted = config.vfs.as_ref().is_none_or(|vfs| vfs.network() == vfsrun_spec::vfs::Network::Loopback);
    fresh && wanted
}

fn root(
    spec: &Spec,
    config: &Spec,
    guarded: bool,
    facts: &Facts,
    ids: Option<&Ids>,
    mounts: &[plan::Mount],
    command: &Command,
) -> Result<(Root, Option<String>), PlanError> {
    let Some((vfs, at)) = config.composed() else {
        let root = config.root.as_ref().ok_or(PlanError::NoRoot)?;
        let path = paths::host_path(&root.path, facts);
        // Of a mount namespace that is joined the caller sees nothing.
        let is_elsewhere = config.linux.iter().flat_map(namespaces).any(|namespace| namespace.joins_mounts());
        if !is_elsewhere && *paths::existing(&path, "root.path", facts)? != facts::PathKind::Directory {
            return Err(PlanError::RootMissing { path });
        }
        return Ok((Root::Directory { path, readonly: root.readonly, devices: guarded }, None));
    };
    facts.fuse.clone().map_err(|reason| PlanError::NoFuse { reason })?;
    // What the spec says, not the config: a root.path that was only filled in is nobody's branch.
    let said = spec.root.as_ref();
    let layer = layer(vfs, &at, facts)?;
    let is_container = config.vfs.is_none();
    let composed = Composed { vfs, at: &at, root: said, layer: layer.as_ref(), is_container };
    let segments = segments::cut(composed, facts, ids, mounts, command)?;
    let (upper, note) = upper(vfs, &at, facts)?;
    let readonly = said.is_some_and(|root| root.readonly);
    // Without new privileges they could give nothing, and a program whose capabilities lie beyond the bounding set would not
    // even start.
    let said = config.process.as_ref().and_then(|process| process.no_new_privileges);
    let may_gain = if is_container { said != Some(true) } else { said == Some(false) };
    let suid = may_gain && (is_container || vfs.branches.iter().any(|branch| branch.trusted));
    let owner = if is_container { (0, 0) } else { (command.uid, command.gid) };
    Ok((Root::View { segments, upper, owner, readonly, suid, layer }, note))
}

/// The layer of the root that takes the writes, if it does.
fn layer(vfs: &Vfs, at: &str, facts: &Facts) -> Result<Option<RootLayer>, PlanError> {
    if vfs.upper.on != vfsrun_spec::vfs::UpperOn::Root {
        return Ok(None);
    }
    let refused = |reason| PlanError::RootLayer { at: at.to_owned(), reason };
    if vfs.capture != vfsrun_spec::vfs::Capture::Discard {
        return Err(refused(
            "what is written is the root's own, and not captured; say \"capture\": false".into(),
        ));
    }
    let found = facts.root_layer.clone().unwrap_or_else(|| Err("nobody has looked at root.path".into()));
    found.map(Some).map_err(refused)
}

fn upper(vfs: &Vfs, at: &str, facts: &Facts) -> Result<(Upper, Option<String>), PlanError> {
    let size = vfs.upper.size.map(|size| size.0);
    let memory = Upper { on: UpperOn::Memory, size };
    match (vfs.upper.on, &facts.upper.disk) {
        (vfsrun_spec::vfs::UpperOn::Root, _) => Ok((Upper { on: UpperOn::Root, size: None }, None)),
        (vfsrun_spec::vfs::UpperOn::Memory, _) if facts.upper.memory => Ok((memory, None)),
        (vfsrun_spec::vfs::UpperOn::Memory, _) => Err(PlanError::NoMemoryUpper),
        (vfsrun_spec::vfs::UpperOn::Disk, Ok(())) => {
            let note =
                size.map(|_| format!("{at}.upper.size limits an upper in memory; on disk it is not limited"));
            Ok((Upper { on: UpperOn::Disk, size: None }, note))
        }
        (vfsrun_spec::vfs::UpperOn::Disk, Err(reason)) if facts.upper.memory => {
            Ok((memory, Some(format!("{reason}; writes are kept in memory instead"))))
        }
        (vfsrun_spec::vfs::UpperOn::Disk, Err(reason)) => Err(PlanError::NoUpper { reason: reason.clone() }),
    }
}

fn capture(vfs: &Vfs, process: &Process) -> Option<Capture> {
    let vfsrun_spec::vfs::Capture::Layer(layer) = &vfs.capture else { return None };
    let epoch = process.env.iter().find_map(|entry| entry.strip_prefix("SOURCE_DATE_EPOCH="));
    let epoch = epoch.and_then(|seconds| seconds.parse().ok()).unwrap_or(defaults::SOURCE_DATE_EPOCH);
    Some(Capture {
        only: layer.only.clone().unwrap_or_default(),
        name: layer.name.clone(),
        when: layer.when,
        clamp_time: (layer.form == CaptureForm::Canonical).then_some(epoch),
        keep_contents: layer.base == CaptureBase::Contents,
    })
}
