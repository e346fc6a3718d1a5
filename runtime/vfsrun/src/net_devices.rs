//! Network interfaces of the host that move into a container: `linux.netDevices`.

use std::fs::File;
use std::io;

use nix::sched::{CloneFlags, setns};
use thiserror::Error;
use vfsrun_plan::plan::NetDevice;
use vfsrun_sys::clone::Child;

use crate::route::{Index, Route};

#[derive(Debug, Error)]
pub enum NetDeviceError {
    #[error("linux.netDevices.{name}: cannot {step}")]
    Step { name: String, step: &'static str, source: io::Error },
    #[error("linux.netDevices: cannot ask the kernel about interfaces")]
    Socket { source: io::Error },
}

/// Moves them to the namespace of init, which has not begun. `host` was opened before any namespace was joined.
/// Stage: main. Needs CAP_NET_ADMIN on both sides.
pub fn move_all(devices: &[NetDevice], host: &Route, init: &Child) -> Result<(), NetDeviceError> {
    let inside = inside(init).map_err(|source| NetDeviceError::Socket { source })?;
    devices.iter().try_for_each(|device| move_one(device, host, &inside, init))
}

fn move_one(device: &NetDevice, host: &Route, inside: &Route, init: &Child) -> Result<(), NetDeviceError> {
    let failed = |step| move |source| NetDeviceError::Step { name: device.host.clone(), step, source };
    let outside = host.interface(&device.host).map_err(failed("find it"))?;
    // The kernel takes them from an interface that moves.
    let addresses = host.lasting_addresses(outside).map_err(failed("read its addresses"))?;
    let before = inside.interfaces().map_err(failed("list the container's interfaces"))?;
    let process = init.pid.as_raw_nonzero().get();
    host.hand_over(outside, process, &device.inside).map_err(failed("move it into the container"))?;
    let moved = find(inside, &before, &device.inside).map_err(failed("find it in the container"))?;
    for address in &addresses {
        inside.give_address(moved, address).map_err(failed("give it its address again"))?;
    }
    inside.set_up(moved).map_err(failed("bring it up"))
}

/// The kernel numbers a name with `%d`, and may give an interface another index.
fn find(inside: &Route, before: &[Index], name: &str) -> io::Result<Index> {
    if !name.contains('%') {
        return inside.interface(name);
    }
    let now = inside.interfaces()?;
    now.into_iter().find(|index| !before.contains(index)).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// A socket is of the namespace in which it is opened.
fn inside(init: &Child) -> io::Result<Route> {
    let own = File::open("/proc/self/ns/net")?;
    setns(&init.pidfd, CloneFlags::CLONE_NEWNET)?;
    let socket = Route::open();
    setns(own, CloneFlags::CLONE_NEWNET)?;
    socket
}
