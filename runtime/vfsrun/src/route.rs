//! Network interfaces as the kernel tells them, over a socket of rtnetlink(7).

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

/// The protocol of number 0.
const NETLINK_ROUTE: Option<Protocol> = None;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
/// With RTM_NEWADDR: a new one, or it is an error.
const NLM_F_CREATE_NEW: u16 = 0x600;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_PID: u16 = 19;
const IFA_LABEL: u16 = 3;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;

const IFF_UP: u32 = 0x1;
const IFA_F_PERMANENT: u32 = 0x80;
const RT_SCOPE_UNIVERSE: u8 = 0;

/// Lengths of a message's header and of the structures ifinfomsg and ifaddrmsg behind it.
const HEADER: usize = 16;
const LINK: usize = 16;
const ADDRESS: usize = 8;

/// A socket of the network namespace that it was opened in.
pub struct Route(OwnedFd);

/// An interface by its number in its namespace.
pub type Index = i32;

/// An address as it was told: ifaddrmsg, and the attributes that are its own and not its interface's.
#[derive(Debug, PartialEq, Eq)]
pub struct Address {
    head: [u8; ADDRESS],
    attributes: Vec<u8>,
}

impl Route {
    pub fn open() -> io::Result<Route> {
        let socket =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, NETLINK_ROUTE)?;
        Ok(Route(socket))
    }

    /// Errors: ENODEV.
    pub fn interface(&self, name: &str) -> io::Result<Index> {
        let mut body = link(0, 0, 0);
        push(&mut body, IFLA_IFNAME, &c_name(name));
        let answers = self.ask(RTM_GETLINK, 0, &body)?;
        answers.iter().find_map(|answer| index_of(answer)).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Every interface of the namespace.
    pub fn interfaces(&self) -> io::Result<Vec<Index>> {
        let answers = self.ask(RTM_GETLINK, NLM_F_DUMP, &link(0, 0, 0))?;
        Ok(answers.iter().filter_map(|answer| index_of(answer)).collect())
    }

    /// Addresses of an interface that somebody has given it for good, for use beyond its link.
    pub fn lasting_addresses(&self, interface: Index) -> io::Result<Vec<Address>> {
        let answers = self.ask(RTM_GETADDR, NLM_F_DUMP, &[0; ADDRESS])?;
        Ok(answers.iter().filter_map(|answer| lasting_address(answer, interface)).collect())
    }

    /// Moves an interface to the network namespace of a process, where it has that name. It is down there, without addresses.
    ///
    /// Errors: EEXIST when the name is taken there, EPERM.
    pub fn hand_over(&self, interface: Index, process: i32, name: &str) -> io::Result<()> {
        let mut body = link(interface, 0, 0);
        push(&mut body, IFLA_NET_NS_PID, &process.to_ne_bytes());
        push(&mut body, IFLA_IFNAME, &c_name(name));
        self.ask(RTM_NEWLINK, 0, &body).map(drop)
    }

    pub fn give_address(&self, interface: Index, address: &Address) -> io::Result<()> {
        let mut body = address.head.to_vec();
        body[4..].copy_from_slice(&interface.to_ne_bytes());
        body.extend_from_slice(&address.attributes);
        self.ask(RTM_NEWADDR, NLM_F_CREATE_NEW, &body).map(drop)
    }

    pub fn set_up(&self, interface: Index) -> io::Result<()> {
        self.ask(RTM_NEWLINK, 0, &link(interface, IFF_UP, IFF_UP)).map(drop)
    }

    /// The bodies of all messages that answer a request.
    fn ask(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let mut request = Vec::with_capacity(HEADER + body.len());
        request.extend_from_slice(&((HEADER + body.len()) as u32).to_ne_bytes());
        request.extend_from_slice(&kind.to_ne_bytes());
        request.extend_from_slice(&(NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
        // Nobody else uses the socket, so that no number is needed to tell its answers apart.
        request.extend_from_slice(&[0; 8]);
        request.extend_from_slice(body);
        send(&self.0, &request, SendFlags::empty())?;
        let mut answers = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let (length, _) = recv(&self.0, &mut buffer[..], RecvFlags::empty())?;
            let mut rest = &buffer[..length];
            while let Some((message, next)) = split(rest, 0) {
                let kind = u16_at(message, 4);
                let body = message.get(HEADER..).unwrap_or_default();
                match kind {
                    Some(NLMSG_DONE) => return Ok(answers),
                    Some(NLMSG_ERROR) => match i32_at(body, 0) {
                        Some(0) => return Ok(answers),
                        Some(errno) => return Err(io::Error::from_raw_os_error(-errno)),
                        None => return Err(io::ErrorKind::InvalidData.into()),
                    },
                    _ => answers.push(body.to_vec()),
                }
                rest = next;
            }
        }
    }
}

/// ifinfomsg.
fn link(interface: Index, flags: u32, change: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend_from_slice(&interface.to_ne_bytes());
    body.extend_from_slice(&flags.to_ne_bytes());
    body.extend_from_slice(&change.to_ne_bytes());
    debug_assert_eq!(body.len(), LINK);
    body
}

fn index_of(body: &[u8]) -> Option<Index> {
    i32_at(body, 4).filter(|_| body.len() >= LINK)
}

fn lasting_address(body: &[u8], interface: Index) -> Option<Address> {
    let head: [u8; ADDRESS] = body.get(..ADDRESS)?.try_into().ok()?;
    let mut flags = u32::from(head[2]);
    let mut attributes = Vec::new();
    let mut rest = &body[ADDRESS..];
    while let Some((attribute, next)) = split(rest, 2) {
        match u16_at(attribute, 2)? {
            // All of them; the head has room for the first eight.
            IFA_FLAGS => flags = i32_at(attribute, 4)? as u32,
            // The interface's old name, and when the address was given.
            IFA_LABEL | IFA_CACHEINFO => {}
            kind => push(&mut attributes, kind, &attribute[4..]),
        }
        rest = next;
    }
    let is_lasting = flags & IFA_F_PERMANENT != 0 && head[3] == RT_SCOPE_UNIVERSE;
    (is_lasting && i32_at(&head, 4)? == interface).then_some(Address { head, attributes })
}

/// An attribute with its length, padded to four bytes.
fn push(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend_from_slice(&((4 + value.len()) as u16).to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn c_name(name: &str) -> Vec<u8> {
    name.bytes().chain([0]).collect()
}

/// The first of several messages, or attributes (whose length has two bytes), and what comes behind it.
fn split(bytes: &[u8], length_bytes: usize) -> Option<(&[u8], &[u8])> {
    let length = match length_bytes {
        2 => usize::from(u16_at(bytes, 0)?),
        _ => usize::try_from(i32_at(bytes, 0)?).ok()?,
    };
    let first = bytes.get(..length).filter(|_| length >= 4)?;
    Some((first, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer about an address of interface 7, without end.
    fn answer(flags: u32, scope: u8) -> Vec<u8> {
        let mut body = vec![2, 24, flags as u8, scope];
        body.extend_from_slice(&7_i32.to_ne_bytes());
        push(&mut body, 1, &[10, 0, 0, 1]);
        push(&mut body, IFA_LABEL, b"eth0\0");
        push(&mut body, IFA_FLAGS, &flags.to_ne_bytes());
        body
    }

    #[test]
    fn lasting_global_addresses_are_kept_without_their_label() {
        let mut kept = Vec::new();
        push(&mut kept, 1, &[10, 0, 0, 1]);
        let address = lasting_address(&answer(IFA_F_PERMANENT, 0), 7).expect("it lasts");
        assert_eq!(address.attributes, kept);
        assert_eq!(lasting_address(&answer(0, 0), 7), None, "it was leased");
        assert_eq!(lasting_address(&answer(IFA_F_PERMANENT, 253), 7), None, "it is the link's own");
        assert_eq!(lasting_address(&answer(IFA_F_PERMANENT, 0), 8), None, "it is another interface's");
    }

    #[test]
    fn what_is_cut_short_is_no_message() {
        let whole = answer(IFA_F_PERMANENT, 0);
        for length in 0..whole.len() {
            let _ = lasting_address(&whole[..length], 7);
        }
        assert_eq!(split(&[3, 0, 1, 0], 2), None);
        assert_eq!(split(&[9, 0, 1, 0], 2), None);
        assert_eq!(split(&[0xff; 8], 0), None);
    }
}
