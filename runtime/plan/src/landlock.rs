//! Landlock: which rights are denied, where they are allowed, and which ones this kernel does not know.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use vfsrun_spec::vfs::{
    self, CaptureLayer, Enforce, FsRight, HIGHEST_ABI, LANDLOCK_ANNOTATION, LandlockRules, NetRight, Right,
    ScopeRight, linux_of,
};
use vfsrun_spec::{Process, Spec, Vfs};

use crate::plan::{Landlock, Mount, MountKind, PathRule, PortRule};
use crate::{Facts, PlanError};

/// Devices whose ioctls a terminal program needs.
const TERMINALS: [&str; 3] = ["/dev/tty", "/dev/pts", "/dev/console"];

/// The rules, where any are asked for and can be enforced, and a note about what cannot.
///
/// # Errors
/// The kernel does not know what the spec requires.
pub(crate) fn decide(
    config: &Spec,
    process: &Process,
    mounts: &[Mount],
    facts: &Facts,
) -> Result<(Option<Landlock>, Option<String>), PlanError> {
    let Some(Asked { rules, at }) = asked(config) else { return Ok((None, None)) };
    let abi = facts.kernel.landlock_abi;
    let wanted = match rules.is_by_right() {
        true => by_right(rules, &at),
        false => by_place(rules, &at, config.vfs.as_ref(), process, mounts),
    };
    let lacking = wanted.named.lacking(abi);
    if rules.enforce == Enforce::Required {
        if let Some(needed) = rules.abi.filter(|needed| *needed > abi) {
            let at = format!("{at}.abi");
            return Err(PlanError::LandlockAbi { at, needed, linux: linux_of(needed), abi });
        }
        if let Some((right, needed)) = lacking.first().copied() {
            return Err(PlanError::LandlockRight { at, right, needed, linux: linux_of(needed), abi });
        }
    }
    // ABI 1 denies every rename and link between directories, which would break builds for nothing.
    if abi == 1 && wanted.everything_is_writable {
        return Ok((
            None,
            Some(format!("{at}: ABI 1 denies every rename between directories, so it is not used")),
        ));
    }
    let note = match &*lacking {
        _ if abi == 0 => {
            Some("this kernel has no Landlock: only file modes keep the command from writing".to_owned())
        }
        [] => None,
        lacking => {
            let names: Vec<_> = lacking.iter().map(|(name, abi)| format!("{name} (ABI {abi})")).collect();
            Some(format!("{at}: this kernel has ABI {abi}, so it does not deny {}", names.join(", ")))
        }
    };
    Ok((wanted.known_to(abi), note))
}

struct Asked<'a> {
    rules: &'a LandlockRules,
    /// The JSON path.
    at: String,
}

fn asked(config: &Spec) -> Option<Asked<'_>> {
    let (landlock, at) = match &config.vfs {
        Some(vfs) => (&vfs.landlock, "vfs.landlock".to_owned()),
        None => (config.landlock.as_ref()?, format!("annotations[{LANDLOCK_ANNOTATION:?}]")),
    };
    match landlock {
        vfs::Landlock::Rules(rules) => Some(Asked { rules, at }),
        vfs::Landlock::Off => None,
    }
}

#[derive(Clone)]
struct Rights {
    fs: BTreeSet<FsRight>,
    net: BTreeSet<NetRight>,
    scoped: BTreeSet<ScopeRight>,
}

impl Rights {
    /// What a spec itself asks for, beyond defaults.
    fn named(rules: &LandlockRules) -> Rights {
        if rules.is_by_right() {
            return Rights { fs: rules.handled_fs(), net: rules.handled_net(), scoped: rules.scoped() };
        }
        let ports = [
            (NetRight::BindTcp, rules.bind_tcp.is_some()),
            (NetRight::ConnectTcp, rules.connect_tcp.is_some()),
        ];
        let net = ports.into_iter().filter(|(_, said)| *said).map(|(right, _)| right).collect();
        let fs = rules.write.iter().map(|_| FsRight::WriteFile).collect();
        Rights { fs, net, scoped: BTreeSet::new() }
    }

    /// Names and ABIs of what a kernel with `abi` does not know.
    fn lacking(&self, abi: u32) -> Vec<(&'static str, u32)> {
        fn of<R: Right>(rights: &BTreeSet<R>) -> impl Iterator<Item = (&'static str, u32)> {
            rights.iter().map(|right| (right.name(), right.abi()))
        }
        let all = of(&self.fs).chain(of(&self.net)).chain(of(&self.scoped));
        all.filter(|(_, needed)| *needed > abi).collect()
    }
}

/// Rules before it is known what of them the kernel can enforce.
struct Wanted {
    /// What the spec itself names: what the kernel must know if that is required.
    named: Rights,
    handled: Rights,
    paths: Vec<PathRule>,
    ports: Vec<PortRule>,
    everything_is_writable: bool,
}

fn by_right(rules: &LandlockRules, at: &str) -> Wanted {
    let mut paths = Vec::new();
    for (index, rule) in rules.path_beneath.iter().flatten().enumerate() {
        for (nth, path) in rule.parent.iter().enumerate() {
            paths.push(PathRule {
                path: path.clone(),
                allowed: rules.rights(&rule.allowed_access),
                at: Some(format!("{at}.pathBeneath[{index}].parent[{nth}]")),
                must_exist: rules.enforce == Enforce::Required,
            });
        }
    }
    let ports = rules.net_port.iter().flatten().flat_map(|rule| {
        let allowed = rules.rights(&rule.allowed_access);
        rule.port.iter().map(move |port| PortRule { port: *port, allowed: allowed.clone() })
    });
    let named = Rights::named(rules);
    Wanted { handled: named.clone(), named, paths, ports: ports.collect(), everything_is_writable: false }
}

/// What is not captured is not writable, so that no file's content is lost silently; reading and executing is left to
/// file modes; abstract sockets and signals do not leave the action; device ioctls are the terminal's alone.
fn by_place(
    rules: &LandlockRules,
    at: &str,
    vfs: Option<&Vfs>,
    process: &Process,
    mounts: &[Mount],
) -> Wanted {
    let default = || vfs.map_or_else(|| vec!["/".into()], |vfs| writable_by_default(vfs, process, mounts));
    let write = rules.write.clone().unwrap_or_else(default);
    let everything_is_writable = write == [PathBuf::from("/")];
    let all = FsRight::known_to(HIGHEST_ABI);
    let mut paths = vec![PathRule::default_of("/", FsRight::READ.into())];
    let writing: BTreeSet<_> = all.iter().copied().filter(|right| *right != FsRight::IoctlDev).collect();
    for (index, path) in write.into_iter().enumerate() {
        let at = rules.write.as_ref().map(|_| format!("{at}.write[{index}]"));
        paths.push(PathRule { path, allowed: writing.clone(), at, must_exist: false });
    }
    paths.extend(TERMINALS.map(|path| PathRule::default_of(path, [FsRight::IoctlDev].into())));
    let port = |port: &u16, right| PortRule { port: *port, allowed: [right].into() };
    let bound = rules.bind_tcp.iter().flatten().map(|number| port(number, NetRight::BindTcp));
    let connected = rules.connect_tcp.iter().flatten().map(|number| port(number, NetRight::ConnectTcp));
    let ports = bound.chain(connected).collect();
    let named = Rights::named(rules);
    let scoped = ScopeRight::known_to(HIGHEST_ABI);
    let handled = Rights { fs: all, net: named.net.clone(), scoped };
    Wanted { named, handled, paths, ports, everything_is_writable }
}

impl Wanted {
    fn known_to(self, abi: u32) -> Option<Landlock> {
        if abi == 0 {
            return None;
        }
        let Wanted { handled, mut paths, mut ports, .. } = self;
        let dropped = handled.lacking(abi).into_iter().map(|(name, _)| name).collect();
        let mut fs = known(handled.fs, abi);
        if !fs.is_empty() && abi >= FsRight::Refer.abi() {
            // The kernel denies it in every domain with rules about files, said or not.
            fs.insert(FsRight::Refer);
        }
        let (net, scoped) = (known(handled.net, abi), known(handled.scoped, abi));
        if fs.is_empty() && net.is_empty() && scoped.is_empty() {
            return None;
        }
        paths.iter_mut().for_each(|rule| rule.allowed.retain(|right| fs.contains(right)));
        ports.iter_mut().for_each(|rule| rule.allowed.retain(|right| net.contains(right)));
        // The kernel refuses a rule that allows nothing.
        paths.retain(|rule| !rule.allowed.is_empty());
        ports.retain(|rule| !rule.allowed.is_empty());
        Some(Landlock { abi: abi.min(HIGHEST_ABI), fs, net, scoped, paths, ports, dropped })
    }
}

fn known<R: Right>(rights: BTreeSet<R>, abi: u32) -> BTreeSet<R> {
    rights.into_iter().filter(|right| right.abi() <= abi).collect()
}

impl PathRule {
    /// A rule of ours, about a path that need not be there.
    fn default_of(path: impl AsRef<Path>, allowed: BTreeSet<FsRight>) -> PathRule {
        PathRule { path: path.as_ref().into(), allowed, at: None, must_exist: false }
    }
}

fn writable_by_default(vfs: &Vfs, process: &Process, mounts: &[Mount]) -> Vec<PathBuf> {
    let only = match &vfs.capture {
        vfs::Capture::Layer(CaptureLayer { only, .. }) => only.clone().unwrap_or_default(),
        vfs::Capture::Discard => Vec::new(),
    };
    if only.is_empty() {
        return vec!["/".into()];
    }
    let mut write = only;
    write.extend(["/tmp", "/dev"].map(PathBuf::from));
    write.extend(process.env.iter().filter_map(|entry| entry.strip_prefix("HOME=")).map(PathBuf::from));
    // A tmpfs or a writable bind that the spec asked for is there to be written.
    let writable = mounts.iter().filter(|mount| match &mount.what {
        MountKind::FileSystem { name, .. } => name == "tmpfs",
        MountKind::Bind { .. } => !mount.attributes.is_readonly(),
        MountKind::Remount { .. } | MountKind::Cgroup(_) => false,
    });
    write.extend(writable.map(|mount| mount.destination.clone()));
    write.sort();
    write.dedup();
    write
}
