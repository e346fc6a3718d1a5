//! Sockets of the host that a trial's command may use. None is reached through the view, so that each has to be bound.
//!
//! What listens at one acts on the host itself, outside of the trial: docker's runs anything as root, and the session's D-Bus
//! starts programs. So these are for those who ask for them.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Socket {
    /// $SSH_AUTH_SOCK
    SshAgent,
    /// GnuPG's agent
    GpgAgent,
    /// $WAYLAND_DISPLAY
    Wayland,
    /// $DISPLAY; programs may type into others' windows
    X11,
    /// Buses of the session and of the system; programs may start others outside of the trial
    Dbus,
    /// $DOCKER_HOST, and podman's; programs may do anything to the host
    Docker,
    /// All of these
    All,
    /// None of these
    None,
}

impl std::fmt::Display for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.to_possible_value().expect("no value is skipped");
        f.write_str(value.get_name())
    }
}

impl std::str::FromStr for Socket {
    type Err = String;

    fn from_str(text: &str) -> Result<Socket, String> {
        <Socket as ValueEnum>::from_str(text, true)
    }
}

/// The one that nobody can change files by, nor type into other windows.
pub const USUAL: [Socket; 1] = [Socket::SshAgent];

const EACH: [Socket; 6] =
    [Socket::SshAgent, Socket::GpgAgent, Socket::Wayland, Socket::X11, Socket::Dbus, Socket::Docker];

/// Where they are, of those that there are: without links, sorted.
pub fn places(sockets: &[Socket], variable: impl Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let mut sockets = sockets.to_vec();
    if sockets.contains(&Socket::All) {
        sockets = EACH.to_vec();
    }
    let named = sockets.into_iter().flat_map(|socket| candidates(socket, &variable));
    let is_socket = |path: &PathBuf| {
        use std::os::unix::fs::FileTypeExt;
        path.metadata().is_ok_and(|metadata| metadata.file_type().is_socket())
    };
    let mut places: Vec<_> = named.filter(is_socket).filter_map(|path| path.canonicalize().ok()).collect();
    places.sort();
    places.dedup();
    places
}

fn candidates(socket: Socket, variable: &impl Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let runtime = variable("XDG_RUNTIME_DIR").map(PathBuf::from);
    let in_runtime = |name: &str| runtime.as_ref().map(|runtime| runtime.join(name));
    let address = |name: &str, prefix: &str| {
        let text = variable(name)?;
        let path = text.strip_prefix(prefix)?.split([',', ';']).next()?;
        Some(PathBuf::from(path))
    };
    match socket {
        Socket::SshAgent => variable("SSH_AUTH_SOCK").map(PathBuf::from).into_iter().collect(),
        Socket::GpgAgent => {
            let home = variable("GNUPGHOME").map(PathBuf::from);
            let home = home.or(variable("HOME").map(|home| Path::new(&home).join(".gnupg")));
            let names = ["S.gpg-agent", "S.gpg-agent.ssh"];
            let directories = [in_runtime("gnupg"), home];
            directories
                .iter()
                .flatten()
                .flat_map(|directory| names.map(|name| directory.join(name)))
                .collect()
        }
        Socket::Wayland => {
            variable("WAYLAND_DISPLAY").and_then(|name| in_runtime(&name)).into_iter().collect()
        }
        Socket::X11 => variable("DISPLAY").and_then(|display| x11(&display)).into_iter().collect(),
        Socket::Dbus => {
            let system = Some(PathBuf::from("/run/dbus/system_bus_socket"));
            let session = address("DBUS_SESSION_BUS_ADDRESS", "unix:path=").or(in_runtime("bus"));
            [system, session].into_iter().flatten().collect()
        }
        Socket::Docker => {
            let usual = ["docker.sock", "podman/podman.sock"];
            let own = usual.map(in_runtime).into_iter().flatten();
            let said = address("DOCKER_HOST", "unix://");
            said.into_iter().chain(own).chain(usual.map(|name| Path::new("/run").join(name))).collect()
        }
        Socket::All | Socket::None => Vec::new(),
    }
}

/// `:1.0` is the first screen of the second display.
fn x11(display: &str) -> Option<PathBuf> {
    let number = display.strip_prefix("unix").unwrap_or(display).strip_prefix(':')?;
    let number = number.split('.').next()?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| Path::new("/tmp/.X11-unix").join(format!("X{number}")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn sockets_are_found_where_their_clients_look() {
        let temp = tempfile::tempdir().unwrap();
        let runtime = temp.path().canonicalize().unwrap();
        let listen = |name: &str| {
            std::fs::create_dir_all(runtime.join(name).parent().unwrap()).unwrap();
            UnixListener::bind(runtime.join(name)).unwrap()
        };
        let _listening = ["agent", "wayland-1", "bus", "podman/podman.sock", "gnupg/S.gpg-agent"].map(listen);
        std::fs::write(runtime.join("docker.sock"), "no socket").unwrap();
        std::os::unix::fs::symlink("agent", runtime.join("link")).unwrap();
        let variable = |name: &str| match name {
            "XDG_RUNTIME_DIR" => Some(runtime.display().to_string()),
            "SSH_AUTH_SOCK" => Some(runtime.join("link").display().to_string()),
            "WAYLAND_DISPLAY" => Some("wayland-1".to_owned()),
            "DBUS_SESSION_BUS_ADDRESS" => Some(format!("unix:path={},guid=1", runtime.join("bus").display())),
            _ => None,
        };
        let own = |sockets: &[Socket]| {
            let places = places(sockets, variable).into_iter();
            places
                .filter_map(|path| Some(path.strip_prefix(&runtime).ok()?.to_path_buf()))
                .collect::<Vec<_>>()
        };
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(own(&USUAL), paths(&["agent"]));
        assert_eq!(own(&[Socket::SshAgent, Socket::Wayland]), paths(&["agent", "wayland-1"]));
        assert_eq!(own(&[Socket::Docker]), paths(&["podman/podman.sock"]));
        assert_eq!(own(&[Socket::Dbus, Socket::GpgAgent]), paths(&["bus", "gnupg/S.gpg-agent"]));
        assert_eq!(own(&[Socket::All]).len(), 5);
        assert_eq!(own(&[Socket::None]), paths(&[]));
    }

    #[test]
    fn a_display_is_a_number() {
        assert_eq!(x11(":1.0"), Some("/tmp/.X11-unix/X1".into()));
        assert_eq!(x11("unix:10"), Some("/tmp/.X11-unix/X10".into()));
        assert_eq!(x11("host:0"), None);
        assert_eq!(x11(":../x"), None);
    }
}
