//! A connection to systemd: to the socket of its own, or through a bus. One that is not used costs nothing: there is no thread, and
//! nothing is kept when it is dropped.

use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::wire::{Call, ERROR, HEAD, Malformed, Message, RETURN, SIGNAL, Writer, size};

/// As long as runc waits for a job.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) const SYSTEMD: &str = "org.freedesktop.systemd1";
const BUS: &str = "org.freedesktop.DBus";

/// Which systemd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Whose {
    Machines,
    /// `systemd --user` of the caller.
    Users,
}

#[derive(Debug, Error)]
pub enum BusError {
    #[error("nobody answers at {}", list(tried))]
    Nobody { tried: Vec<(String, io::Error)> },
    #[error(
        "there is no address of this user's: neither XDG_RUNTIME_DIR nor DBUS_SESSION_BUS_ADDRESS is set"
    )]
    NoAddress,
    #[error("it is in another pid namespace, and would take other processes for the container's")]
    OtherPids,
    #[error("it refuses this user: {answer:?}")]
    Refused { answer: String },
    #[error("it does not answer for {} seconds", PATIENCE.as_secs())]
    Late,
    #[error("cannot talk to it")]
    Talk(#[from] io::Error),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("{member}: {text} ({name})")]
    Answer { member: String, name: String, text: String },
}

fn list(tried: &[(String, io::Error)]) -> String {
    let each = tried.iter().map(|(address, error)| format!("{address} ({error})"));
    each.collect::<Vec<_>>().join(" and ")
}

impl BusError {
    /// The last part of an error's name.
    pub fn is(&self, wanted: &str) -> bool {
        matches!(self, BusError::Answer { name, .. } if name.rsplit('.').next() == Some(wanted))
    }
}

pub(super) struct Bus {
    stream: UnixStream,
    serial: u32,
    /// Jobs that have ended: their path and result.
    ended: Vec<(String, String)>,
}

impl Bus {
    pub fn connect(whose: Whose) -> Result<Bus, BusError> {
        let (private, shared) = addresses(whose)?;
        let mut tried = Vec::new();
        for (address, is_private) in
            private.into_iter().map(|it| (it, true)).chain(shared.into_iter().map(|it| (it, false)))
        {
            match address.connect() {
                Ok(stream) => return Bus::greet(stream, is_private),
                Err(error) => tried.push((address.to_string(), error)),
            }
        }
        Err(BusError::Nobody { tried })
    }

    fn greet(stream: UnixStream, is_private: bool) -> Result<Bus, BusError> {
        let peer = getsockopt(&stream, PeerCredentials).map_err(io::Error::from)?;
        // Pids mean the same to both only in one namespace; of others the kernel tells 0.
        if peer.pid() == 0 {
            return Err(BusError::OtherPids);
        }
        let mut bus = Bus { stream, serial: 0, ended: Vec::new() };
        bus.authenticate()?;
        if !is_private {
            bus.ask(BUS, "/org/freedesktop/DBus", BUS, "Hello", "", &Writer::default())?;
            let mut rule = Writer::default();
            rule.string("type='signal',sender='org.freedesktop.systemd1',member='JobRemoved'");
            bus.ask(BUS, "/org/freedesktop/DBus", BUS, "AddMatch", "s", &rule)?;
            bus.manager("Subscribe", "", &Writer::default())?;
        }
        Ok(bus)
    }

    /// Without a uid: in a user namespace ours is another one to whoever listens, who goes by the socket's credentials.
    fn authenticate(&mut self) -> Result<(), BusError> {
        self.stream.write_all(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let line = self.line(deadline)?;
            match line.split(' ').next() {
                Some("DATA") => {}
                Some("OK") => return Ok(()),
                _ => return Err(BusError::Refused { answer: line }),
            }
        }
    }

    fn line(&mut self, deadline: Instant) -> Result<String, BusError> {
        const LONGEST: usize = 1024;
        let mut line = Vec::new();
        // Byte by byte: what follows is no line.
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.read(&mut byte, deadline)?;
            line.push(byte[0]);
            if line.len() > LONGEST {
                return Err(Malformed.into());
            }
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// Calls a method of systemd's manager.
    pub fn manager(&mut self, member: &str, signature: &str, body: &Writer) -> Result<Message, BusError> {
        self.ask(
            SYSTEMD,
            "/org/freedesktop/systemd1",
            "org.freedesktop.systemd1.Manager",
            member,
            signature,
            body,
        )
    }

    /// A property that is a text.
    pub fn property(&mut self, path: &str, interface: &str, name: &str) -> Result<String, BusError> {
        let mut body = Writer::default();
        body.string(interface);
        body.string(name);
        let answer = self.ask(SYSTEMD, path, "org.freedesktop.DBus.Properties", "Get", "ss", &body)?;
        Ok(answer.texts("v")?.remove(0))
    }

    fn ask(
        &mut self,
        destination: &str,
        path: &str,
        interface: &str,
        member: &str,
        signature: &str,
        body: &Writer,
    ) -> Result<Message, BusError> {
        self.serial += 1;
        let call = Call { destination, path, interface, member, signature };
        self.stream.write_all(&call.message(self.serial, body))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let message = self.hear(deadline)?;
            match message.kind {
                RETURN if message.reply_to == self.serial => return Ok(message),
                ERROR if message.reply_to == self.serial => {
                    let text = message.texts("s").map(|mut texts| texts.remove(0)).unwrap_or_default();
                    return Err(BusError::Answer { member: member.to_owned(), name: message.error, text });
                }
                _ => {}
            }
        }
    }

    /// The result of a job, when it has ended.
    pub fn result(&mut self, job: &str) -> Result<String, BusError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // It may end before we know how it is called.
            if let Some((_, result)) = self.ended.iter().find(|(path, _)| path == job) {
                return Ok(result.clone());
            }
            self.hear(deadline)?;
        }
    }

    /// The next message; ends of jobs are kept.
    fn hear(&mut self, deadline: Instant) -> Result<Message, BusError> {
        let mut bytes = vec![0; HEAD];
        self.read(&mut bytes, deadline)?;
        let size = size(&bytes[..].try_into().expect("as long as a head"))?;
        bytes.resize(size, 0);
        self.read(&mut bytes[HEAD..], deadline)?;
        let message = Message::parse(&bytes)?;
        if message.kind == SIGNAL && message.member == "JobRemoved" {
            // On a shared bus anybody may send one; whether the scope is there is looked at afterwards.
            if let Ok(mut texts) = message.texts("uoss") {
                self.ended.push((std::mem::take(&mut texts[1]), std::mem::take(&mut texts[3])));
            }
        }
        Ok(message)
    }

    fn read(&mut self, mut into: &mut [u8], deadline: Instant) -> Result<(), BusError> {
        while !into.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(BusError::Late);
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(into) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::ConnectionReset).into()),
                Ok(count) => into = &mut into[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(BusError::Late),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Address {
    Path(PathBuf),
    Abstract(Vec<u8>),
}

impl Address {
    /// One who accepts nobody any more is waited for as long as one who does not answer.
    fn connect(&self) -> io::Result<UnixStream> {
        let address = match self {
            Address::Path(path) => SocketAddrUnix::new(path)?,
            Address::Abstract(name) => SocketAddrUnix::new_abstract_name(name)?,
        };
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // It is that of connecting, too.
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(PATIENCE))?;
        connect(&socket, &address)?;
        Ok(UnixStream::from(socket))
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Path(path) => write!(formatter, "{}", path.display()),
            Address::Abstract(name) => write!(formatter, "@{}", name.escape_ascii()),
        }
    }
}

/// Sockets of systemd's own, and then those of buses.
fn addresses(whose: Whose) -> Result<(Vec<Address>, Vec<Address>), BusError> {
    let path = |path: PathBuf| vec![Address::Path(path)];
    match whose {
        Whose::Machines => {
            Ok((path("/run/systemd/private".into()), path("/run/dbus/system_bus_socket".into())))
        }
        Whose::Users => {
            let directory = std::env::var_os("XDG_RUNTIME_DIR").filter(|directory| !directory.is_empty());
            let directory = directory.map(PathBuf::from);
            let said = std::env::var("DBUS_SESSION_BUS_ADDRESS").unwrap_or_default();
            let at = |name| directory.as_ref().map(|directory| Address::Path(directory.join(name)));
            let shared: Vec<_> = parse_addresses(&said).into_iter().chain(at("bus")).collect();
            if shared.is_empty() {
                return Err(BusError::NoAddress);
            }
            Ok((at("systemd/private").into_iter().collect(), shared))
        }
    }
}

/// The addresses of unix sockets in a list of D-Bus (`unix:path=/run/user/7/bus,guid=…;unix:abstract=x`).
fn parse_addresses(text: &str) -> Vec<Address> {
    let sockets = text.split(';').filter_map(|address| address.strip_prefix("unix:"));
    let named = sockets.filter_map(|keys| {
        keys.split(',').find_map(|key| match key.split_once('=')? {
            ("path", path) => {
                let path = std::ffi::OsString::from_vec(unescaped(path)?);
                Path::new(&path).is_absolute().then_some(Address::Path(path.into()))
            }
            ("abstract", name) => Some(Address::Abstract(unescaped(name)?)),
            _ => None,
        })
    });
    named.collect()
}

/// `%20` and the like.
fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut unescaped = Vec::new();
    while let Some(byte) = bytes.next() {
        unescaped.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        });
    }
    Some(unescaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_unix_sockets_are_understood() {
        let path = |path: &str| Address::Path(path.into());
        assert_eq!(parse_addresses("unix:path=/run/user/7/bus"), [path("/run/user/7/bus")]);
        assert_eq!(
            parse_addresses("tcp:host=x;unix:guid=1,path=/a%20b;unix:abstract=/tmp/d%2d1,guid=2"),
            [path("/a b"), Address::Abstract(b"/tmp/d-1".to_vec())]
        );
        for none in ["", "unix:", "unix:path=bus", "unix:path=%", "unix:path=%zz", "unix:tmpdir=/tmp"] {
            assert_eq!(parse_addresses(none), [], "{none}");
        }
    }

    #[test]
    fn whoever_ends_the_connection_or_refuses_is_an_error() {
        for (said, expected) in
            [(&b""[..], "cannot talk to it"), (b"REJECTED EXTERNAL\r\n", "it refuses this user")]
        {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(said).unwrap();
            theirs.shutdown(std::net::Shutdown::Write).unwrap();
            let error = Bus::greet(ours, true).err().unwrap();
            assert!(error.to_string().starts_with(expected), "{error}");
        }
    }
}
