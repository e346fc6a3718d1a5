//! Probing: finding out what is true here, before anything is decided.

pub mod cgroups;
pub mod host_tools;
pub mod reach;
mod root_layer;
pub mod subids;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use vfsrun_layers::LayerStore;
use vfsrun_plan::facts::{
    Caller, Facts, HostTools, Image, ImageLayer, Kernel, ParentIds, PathKind, SecurityModules, UpperFacts,
};
use vfsrun_plan::ids::Extent;
use vfsrun_plan::paths;
use vfsrun_plan::plan::RootLayer;
use vfsrun_spec::Spec;
use vfsrun_spec::oci::NamespaceType;
use vfsrun_spec::vfs::{Branch, BranchSource, UpperOn};
use vfsrun_sys::privileges;

use crate::images::{self, Found};

/// CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN and CAP_SETFCAP: enough to make namespaces, mounts, and maps that hold id 0
/// (user_namespaces(7), since Linux 5.12).
const NEEDED: u64 = 1 << 6 | 1 << 7 | 1 << 21 | 1 << 31;

/// Everything the plan of `spec` asks about.
pub fn facts(
    spec: &Spec,
    spec_directory: &Path,
    store: Option<&LayerStore>,
    cgroup: cgroups::Wanted<'_>,
) -> Facts {
    let caller = caller();
    let joins = matches!(cgroup, cgroups::Wanted::Joined { .. });
    let parent_ids = if joins { ParentIds::identity() } else { parent_ids(&caller) };
    let globs = globs(spec, spec_directory, caller.home.as_deref());
    let mut wanted = paths::wanted(spec, spec_directory, caller.home.as_deref());
    wanted.extend(globs.values().flatten().flatten().cloned());
    // What a container was made of was there then, and is in it, wherever it may be now.
    let kind = if joins { |_: &Path| PathKind::Directory } else { kind };
    let wants_tools = branches(spec).any(|branch| branch.source == BranchSource::HostTools);
    let kernel = kernel();
    Facts {
        spec_directory: spec_directory.to_path_buf(),
        cgroups: cgroups::facts(cgroup, spec, &caller, &parent_ids),
        parent_ids,
        fuse: if spec.composed().is_some() { fuse() } else { Ok(()) },
        upper: UpperFacts {
            disk: store.map_or(Ok(()), |store| disk_upper(store.path())),
            memory: memory_upper(&kernel),
        },
        layers: store.map(|store| layers(spec, store)).unwrap_or_default(),
        globs,
        images: store.map(|store| images(spec, spec_directory, store)).unwrap_or_default(),
        paths: wanted.into_iter().map(|path| (path.clone(), kind(&path))).collect(),
        root_layer: root_layer(spec, spec_directory, &caller),
        host_tools: if wants_tools { host_tools::find() } else { HostTools::default() },
        security: if has_labels(spec) { security_modules() } else { SecurityModules::default() },
        kernel,
        caller,
    }
}

fn root_layer(spec: &Spec, directory: &Path, caller: &Caller) -> Option<Result<RootLayer, String>> {
    let (vfs, _) = spec.composed()?;
    let root = spec.root.as_ref().filter(|_| vfs.upper.on == UpperOn::Root)?;
    let path = paths::absolute(&root.path, directory, caller.home.as_deref());
    let mut namespaces = spec.linux.iter().flat_map(|linux| linux.namespaces.iter().flatten());
    Some(if !caller.privileged {
        Err("only root can mount the layer of root.path again, or who is root in a user namespace".to_owned())
    } else if namespaces.any(|namespace| namespace.kind == NamespaceType::User) {
        Err("a container in a user namespace of its own cannot write to an overlay of its parent's"
            .to_owned())
    } else {
        root_layer::of(&path)
    })
}

fn branches(spec: &Spec) -> impl Iterator<Item = &Branch> {
    spec.composed().into_iter().flat_map(|(vfs, _)| &vfs.branches)
}

pub fn caller() -> Caller {
    let effective = privileges::effective_capabilities().unwrap_or(0);
    Caller {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        home: std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute()),
        privileged: effective & NEEDED == NEEDED,
        capabilities: privileges::permitted_capabilities().unwrap_or(0),
    }
}

/// Ids of the namespace that actions are cloned from.
pub fn parent_ids(caller: &Caller) -> ParentIds {
    if !caller.privileged {
        return subids::parent_ids(caller.uid, caller.gid);
    }
    let own = |file: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let lines = text.lines().filter_map(|line| {
            let mut numbers = line.split_whitespace().map(str::parse::<u32>);
            let (inside, _, count) = (numbers.next()?.ok()?, numbers.next()?, numbers.next()?.ok()?);
            Some(Extent { inside, outside: inside, count })
        });
        lines.collect::<Vec<_>>()
    };
    ParentIds { uids: own("/proc/self/uid_map"), gids: own("/proc/self/gid_map"), single_because: None }
}

fn has_labels(spec: &Spec) -> bool {
    let process = spec.process.iter().flat_map(|process| [&process.apparmor_profile, &process.selinux_label]);
    let mounts = spec.linux.iter().map(|linux| &linux.mount_label);
    process.chain(mounts).flatten().any(|label| !label.is_empty())
}

pub fn security_modules() -> SecurityModules {
    let enabled = std::fs::read("/sys/module/apparmor/parameters/enabled");
    SecurityModules {
        apparmor: enabled.is_ok_and(|text| text.starts_with(b"Y")),
        // Mounted where it is enabled, be it enforcing or not.
        selinux: Path::new("/sys/fs/selinux/enforce").exists(),
    }
}

pub fn kernel() -> Kernel {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse().ok());
    let last = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").ok();
    let last: u32 = last.and_then(|text| text.trim().parse().ok()).unwrap_or(40);
    Kernel {
        version: (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)),
        landlock_abi: vfsrun_sys::landlock::abi(),
        capabilities: u64::MAX >> (63 - last.min(63)),
    }
}

/// Whether /dev/fuse can be used, else what to do about it.
pub fn fuse() -> Result<(), String> {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    match accessat(CWD, "/dev/fuse", Access::READ_OK | Access::WRITE_OK, AtFlags::EACCESS) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::NOENT) => {
            Err("there is no /dev/fuse; load the module with `modprobe fuse`, or give a container `--device /dev/fuse`".into())
        }
        Err(rustix::io::Errno::ACCESS) => {
            Err("/dev/fuse is closed to this user; `chmod 0666 /dev/fuse` as root opens it, as most distributions do".into())
        }
        Err(errno) => Err(format!("/dev/fuse cannot be used: {}", io::Error::from(errno))),
    }
}

/// Whether an overlay's upper can lie in `directory`.
pub fn disk_upper(directory: &Path) -> Result<(), String> {
    const OVERLAYFS: u64 = 0x794c_7630;
    const FUSE: u64 = 0x6573_5546;
    const NFS: u64 = 0x6969;
    let at = directory.display();
    let statfs = rustix::fs::statfs(directory)
        .map_err(|errno| format!("cannot look at {at}: {}", io::Error::from(errno)))?;
    let refused = match statfs.f_type as u64 {
        OVERLAYFS => Some("an overlay"),
        FUSE => Some("FUSE"),
        NFS => Some("NFS"),
        _ => None,
    };
    if let Some(name) = refused {
        return Err(format!("the store {at} lies on {name}, which cannot hold an overlay's upper"));
    }
    // A file system that has user xattrs says ENODATA for one that is not there.
    match rustix::fs::lgetxattr(directory, "user.vfsrun", &mut [0u8; 1][..]) {
        Err(rustix::io::Errno::OPNOTSUPP) => Err(format!(
            "the store {at} lies on a file system without user xattrs, which an overlay's upper needs"
        )),
        _ => Ok(()),
    }
}

fn memory_upper(kernel: &Kernel) -> bool {
    kernel.version >= (6, 6)
}

fn layers(spec: &Spec, store: &LayerStore) -> BTreeMap<String, Result<String, String>> {
    let mut layers = BTreeMap::new();
    for branch in branches(spec) {
        if let BranchSource::Layer(name) = &branch.source {
            let digest = store.resolve(name).map(|digest| digest.to_string());
            layers.insert(name.clone(), digest.map_err(|error| vfsrun_sys::chain(&error)));
        }
    }
    layers
}

/// As in a shell: `*` matches no `/`, and no dot at the start of a name.
fn globs(
    spec: &Spec,
    directory: &Path,
    home: Option<&Path>,
) -> BTreeMap<String, Result<Vec<PathBuf>, String>> {
    let options = glob::MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        require_literal_leading_dot: true,
    };
    let found = |pattern: &str| {
        // What is before the pattern is no pattern.
        let (rest, start) = match (pattern.strip_prefix("~/"), home) {
            (Some(rest), Some(home)) => (rest, home),
            _ => (pattern, directory),
        };
        let start = start.to_str().ok_or_else(|| format!("{} is no UTF-8", start.display()))?;
        let start = glob::Pattern::escape(start);
        let whole = if rest.starts_with('/') { rest.to_owned() } else { format!("{start}/{rest}") };
        let paths = glob::glob_with(&whole, options).map_err(|error| error.to_string())?;
        let mut paths = paths.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
        paths.sort_unstable();
        Ok(paths)
    };
    let tried = |branch: &Branch| match &branch.source {
        BranchSource::Glob(pattern) => Some((pattern.clone(), found(pattern))),
        _ => None,
    };
    branches(spec).filter_map(tried).collect()
}

fn images(spec: &Spec, directory: &Path, store: &LayerStore) -> BTreeMap<String, Result<Image, String>> {
    let found = |name: &str| {
        let image = match images::find(name, directory).map_err(|error| vfsrun_sys::chain(&error))? {
            Found::File(path) => return Ok(Image::File(path)),
            Found::Layout(image) => image,
        };
        let digests = image.layers(store);
        let digests =
            digests.map_err(|error| format!("{error}; a run of the spec brings the image's layers in"))?;
        let named = image.names().into_iter().zip(digests);
        let layers = named.map(|(name, digest)| ImageLayer { name, digest: digest.to_string() });
        Ok(Image::Layers(layers.collect()))
    };
    let named = |branch: &Branch| match &branch.source {
        BranchSource::Image(name) => Some((name.clone(), found(name))),
        _ => None,
    };
    branches(spec).filter_map(named).collect()
}

fn kind(path: &Path) -> PathKind {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => PathKind::Directory,
        Ok(metadata) if metadata.is_file() => PathKind::File,
        Ok(_) => PathKind::Other,
        Err(error) if error.kind() == io::ErrorKind::NotFound => PathKind::Missing,
        Err(error) => PathKind::Unreachable(error.to_string()),
    }
}
