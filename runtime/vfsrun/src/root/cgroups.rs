//! A mount of the command's own cgroup. The directories of it are bound: what lies above them cannot be reached, whether or not the
//! command has a cgroup namespace.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, mkdirat, symlinkat};
use vfsrun_cgroup::{Place, Version};
use vfsrun_plan::plan::Attributes;
use vfsrun_sys::mount::{self, Attr, NewMount, Propagation};

use super::mounts::show;

/// Stage: init, before the pivot, with the host's cgroups still in sight.
pub fn mount(places: &[Place], attributes: &Attributes, target: &OwnedFd) -> io::Result<()> {
    // Each is one mount, so that what holds for all below holds for it.
    let attributes = &Attributes { set: attributes.set | attributes.recursive_set, ..attributes.clone() };
    if let [place] = places
        && place.version == Version::V2
    {
        return mount::attach(bind(place, attributes)?, target);
    }
    let set = Attr::from_bits_retain(attributes.set);
    let directory =
        NewMount::of(c"tmpfs")?.option(c"mode", b"0755")?.create(set - Attr::MOUNT_ATTR_RDONLY)?;
    mount::set_propagation(&directory, Propagation::Private, false)?;
    // Nothing can be mounted on what is not attached (before Linux 6.15).
    mount::attach(&directory, target)?;
    for place in places {
        mount_hierarchy(place, attributes, &directory)?;
    }
    mount::set_attributes(&directory, set & Attr::MOUNT_ATTR_RDONLY, Attr::empty(), false)
}

/// Under the name that it has on the host, by which programs look for it.
fn mount_hierarchy(place: &Place, attributes: &Attributes, directory: &OwnedFd) -> io::Result<()> {
    let name = place.mount.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    mkdirat(directory, name, Mode::from_raw_mode(0o755))?;
    // Nobody else has seen the directory yet.
    mount::attach_at(bind(place, attributes)?, directory, Path::new(name))?;
    // cpu and cpuacct are often one hierarchy, and looked for under either name.
    let is_other = |controller: &&String| name != controller.as_str() && !controller.contains('=');
    for controller in place.controllers.iter().filter(is_other) {
        match symlinkat(name, directory, controller) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn bind(place: &Place, attributes: &Attributes) -> io::Result<OwnedFd> {
    show(mount::clone_tree(CWD, &place.full_path(), false)?, attributes)
}
