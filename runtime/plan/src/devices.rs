//! Device nodes: those of `linux.devices`, and the six that every program expects in /dev.

use std::path::Path;

use vfsrun_spec::Spec;
use vfsrun_spec::oci::{self, DeviceType};

use crate::PlanError;
use crate::mounts::{Setting, clean};
use crate::plan::{Device, DeviceKind, Mount, MountKind, NodeOrigin};

/// Name, major and minor; the numbers are Linux's own (Documentation/admin-guide/devices.txt).
const DEFAULT: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const NODEV: u32 = crate::mount_options::NODEV;

/// Whether /dev is the host's, bound: then it is the host's to fill.
pub(crate) fn is_hosts(mounts: &[Mount]) -> bool {
    mounts.iter().any(|mount| mount.destination == Path::new("/dev") && mount.is_bind())
}

pub(crate) fn all(config: &Spec, mounts: &[Mount], setting: Setting<'_>) -> Result<Vec<Device>, PlanError> {
    let mut devices = Vec::new();
    let fresh = setting.makes_nodes() && takes_nodes(Path::new("/dev/null"), mounts);
    for (name, major, minor) in DEFAULT {
        devices.push(Device {
            path: Path::new("/dev").join(name),
            kind: DeviceKind::Character,
            major,
            minor,
            mode: 0o666,
            owner: (0, 0),
            origin: if fresh { NodeOrigin::MadeThere } else { NodeOrigin::Host },
            at: None,
        });
    }
    for (index, said) in config.linux.iter().flat_map(|linux| &linux.devices).enumerate() {
        let device = one(said, format!("linux.devices[{index}]"), mounts, setting)?;
        // The terminal's is a link to that of the root's own devpts.
        if device.path != Path::new("/dev/ptmx") {
            devices.retain(|other| other.path != device.path);
            devices.push(device);
        }
    }
    if is_hosts(mounts) {
        devices.retain(|device| !device.path.starts_with("/dev"));
    }
    Ok(devices)
}

fn one(said: &oci::Device, at: String, mounts: &[Mount], setting: Setting<'_>) -> Result<Device, PlanError> {
    let path = clean(&said.path);
    if path == Path::new("/") {
        return Err(PlanError::DevicePath { at: format!("{at}.path") });
    }
    let number = |number: i64, name: &str| {
        u32::try_from(number).map_err(|_| PlanError::DeviceNumber { at: format!("{at}.{name}"), number })
    };
    let kind = match said.kind {
        DeviceType::Character | DeviceType::Unbuffered => DeviceKind::Character,
        DeviceType::Block => DeviceKind::Block,
        DeviceType::Fifo => DeviceKind::Fifo,
    };
    let (major, minor) = match kind {
        DeviceKind::Fifo => (0, 0),
        _ => (number(said.major, "major")?, number(said.minor, "minor")?),
    };
    let origin = match kind {
        DeviceKind::Fifo => NodeOrigin::MadeThere,
        _ if !setting.facts.caller.privileged => NodeOrigin::Host,
        _ if setting.makes_nodes() && takes_nodes(&path, mounts) => NodeOrigin::MadeThere,
        _ => NodeOrigin::MadeApart,
    };
    Ok(Device {
        path,
        kind,
        major,
        minor,
        // Generated configs have the type of the file in it, too.
        mode: said.file_mode.map_or(0o666, |mode| mode & 0o7777),
        owner: (said.uid.unwrap_or(0), said.gid.unwrap_or(0)),
        origin,
        at: Some(at),
    })
}

/// Whether the mount that `path` lies on is a fresh one where nodes can be used. The root itself has `nodev`.
fn takes_nodes(path: &Path, mounts: &[Mount]) -> bool {
    let on = mounts.iter().rev().find(|mount| path.starts_with(&mount.destination));
    on.is_some_and(|mount| {
        matches!(&mount.what, MountKind::FileSystem { name, .. } if name == "tmpfs")
            && mount.attributes.set & NODEV == 0
    })
}
