//! Network interfaces of the host that move into a container: `linux.netDevices`.

use std::fs::File;
use std::io;

use nix::sched::{CloneFlags, setns};
use serde::Serialize;
use thiserror::Error;
use vfsrun_plan::plan::NetDevice;
use vfsrun_spec::Spec;
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

/// What has gone through an interface, in the words of runc.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Traffic {
    pub name: String,
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

/// Those of the config, by their names in the container; `%d` stands for a number.
pub fn names(config: &Spec) -> Vec<String> {
    let devices = config.linux.iter().flat_map(|linux| &linux.net_devices);
    let inside =
        devices.map(|(host, device)| device.name.as_ref().filter(|name| !name.is_empty()).unwrap_or(host));
    inside.cloned().collect()
}

/// Of those interfaces that are in the network namespace of the process.
pub fn traffic(process: i32, names: &[String]) -> Vec<Traffic> {
    let table = std::fs::read_to_string(format!("/proc/{process}/net/dev")).unwrap_or_default();
    let all = table.lines().filter_map(line);
    all.filter(|traffic| names.iter().any(|name| is_called(&traffic.name, name))).collect()
}

/// `  eth0:    1296      16    0    0    0     0          0         0     1296      16    0    0    0     0       0          0`
fn line(text: &str) -> Option<Traffic> {
    let (name, counts) = text.split_once(':')?;
    let counts: Vec<u64> = counts.split_whitespace().filter_map(|count| count.parse().ok()).collect();
    let [rx_bytes, rx_packets, rx_errors, rx_dropped] = *counts.get(..4)? else { return None };
    let [tx_bytes, tx_packets, tx_errors, tx_dropped] = *counts.get(8..12)? else { return None };
    let name = name.trim().to_owned();
    Some(Traffic {
        name,
        rx_bytes,
        rx_packets,
        rx_errors,
        rx_dropped,
        tx_bytes,
        tx_packets,
        tx_errors,
        tx_dropped,
    })
}

fn is_called(name: &str, pattern: &str) -> bool {
    let Some((before, after)) = pattern.split_once("%d") else { return name == pattern };
    let number = name.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
    number.is_some_and(|number| number.parse::<u32>().is_ok())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_is_that_of_the_lines_of_the_kernel() {
        let text = "  eth0:    1    2    3    4    5     6          7         8     9      10    11    12    13     14       15          16";
        let expected = Traffic {
            name: "eth0".to_owned(),
            rx_bytes: 1,
            rx_packets: 2,
            rx_errors: 3,
            rx_dropped: 4,
            tx_bytes: 9,
            tx_packets: 10,
            tx_errors: 11,
            tx_dropped: 12,
        };
        assert_eq!(line(text), Some(expected));
        assert_eq!(line(" face |bytes    packets errs drop fifo frame compressed multicast|bytes"), None);
        assert_eq!(
            ["eth0", "eth%d", "et%d", "%d"].map(|pattern| is_called("eth0", pattern)),
            [true, true, false, false]
        );
    }
}
