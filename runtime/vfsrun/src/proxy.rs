//! A proxy: the caller's terminal joined to the action's. It never blocks, and holds only so much of what one side has
//! said and the other not yet heard.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use rustix::io::Errno;

use crate::terminal;

/// What may wait on its way in one direction, in bytes.
const ROOM: usize = 64 * 1024;
/// A write of this size to a descriptor that poll calls writable does not block (pipe(7)).
const TURN: usize = 4096;
/// A terminal that nobody has open is looked at again after this.
const DEAF: Duration = Duration::from_millis(100);

/// Which sides poll found ready.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sides {
    pub stdin: bool,
    pub stdout: bool,
    pub master: bool,
}

#[derive(Default)]
pub struct Proxy {
    raw: Option<terminal::Raw>,
    started: bool,
    stdin_ended: bool,
    stdout_gone: bool,
    to_master: VecDeque<u8>,
    to_stdout: VecDeque<u8>,
    /// Until then the master is not polled: it would be ready all the time with nothing to say.
    deaf_until: Option<Instant>,
}

impl Proxy {
    pub fn start(&mut self, master: &OwnedFd) {
        if !self.started {
            self.started = true;
            terminal::copy_size(io::stdin(), master);
            self.raw = terminal::Raw::enter();
        }
    }

    pub fn master_events(&self) -> PollFlags {
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLIN, self.to_stdout.len() < ROOM && self.deaf_until.is_none());
        events.set(PollFlags::POLLOUT, !self.to_master.is_empty() && self.deaf_until.is_none());
        events
    }

    pub fn stdin_events(&self) -> PollFlags {
        if self.started && !self.stdin_ended && self.to_master.len() < ROOM {
            PollFlags::POLLIN
        } else {
            PollFlags::empty()
        }
    }

    pub fn stdout_events(&self) -> PollFlags {
        if self.to_stdout.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT }
    }

    /// How long a poll may last at the most.
    pub fn patience(&self) -> Option<Duration> {
        self.deaf_until.map(|until| until.saturating_duration_since(Instant::now()))
    }

    /// Moves what can be moved now.
    pub fn copy(&mut self, master: &OwnedFd, ready: Sides) {
        if self.deaf_until.is_some_and(|until| until <= Instant::now()) {
            self.deaf_until = None;
        }
        if ready.stdin {
            self.read_stdin();
        }
        if ready.master && self.deaf_until.is_none() {
            if self.to_stdout.len() < ROOM {
                self.read_master(master);
            }
            self.write_master(master);
        }
        if ready.stdout {
            self.write_stdout();
        }
    }

    fn read_stdin(&mut self) {
        let mut buffer = [0u8; TURN];
        match rustix::io::read(io::stdin(), &mut buffer[..]) {
            Ok(0) => {
                self.stdin_ended = true;
                // What a user would type: the end of input.
                self.to_master.push_back(0x04);
            }
            Ok(length) => self.to_master.extend(&buffer[..length]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => self.stdin_ended = true,
        }
    }

    fn read_master(&mut self, master: &OwnedFd) {
        let mut buffer = [0u8; TURN];
        match rustix::io::read(master, &mut buffer[..]) {
            Ok(0) | Err(Errno::IO) => self.deaf_until = Some(Instant::now() + DEAF),
            Ok(length) if !self.stdout_gone => self.to_stdout.extend(&buffer[..length]),
            Ok(_) | Err(_) => {}
        }
    }

    fn write_master(&mut self, master: &OwnedFd) {
        let (front, back) = self.to_master.as_slices();
        // The master does not block: a command that reads nothing leaves it full.
        if let Ok(written) = rustix::io::writev(master, &[IoSlice::new(front), IoSlice::new(back)]) {
            self.to_master.drain(..written);
        }
    }

    fn write_stdout(&mut self) {
        let turn: Vec<u8> = self.to_stdout.iter().take(TURN).copied().collect();
        match rustix::io::write(io::stdout(), &turn) {
            Ok(written) => drop(self.to_stdout.drain(..written)),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => {
                self.stdout_gone = true;
                self.to_stdout.clear();
            }
        }
    }

    /// What the command wrote before it ended. Nobody writes any more, so blocking on our own stdout is right.
    pub fn drain(&mut self, master: &OwnedFd) {
        let mut buffer = [0u8; TURN];
        while let Ok(length @ 1..) = rustix::io::read(master, &mut buffer[..]) {
            self.to_stdout.extend(&buffer[..length]);
        }
        while !self.to_stdout.is_empty() {
            self.write_stdout();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_that_does_not_read_stops_the_other_and_nothing_else() {
        let mut proxy = Proxy { started: true, ..Proxy::default() };
        assert!(proxy.stdin_events().contains(PollFlags::POLLIN));
        proxy.to_master.extend(std::iter::repeat_n(b'x', ROOM));
        assert!(proxy.stdin_events().is_empty());
        assert!(proxy.master_events().contains(PollFlags::POLLIN | PollFlags::POLLOUT));
    }

    #[test]
    fn a_terminal_that_nobody_has_open_is_not_polled_for_a_while() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        drop(writer);
        let mut proxy = Proxy { started: true, ..Proxy::default() };
        proxy.copy(&reader, Sides { master: true, ..Sides::default() });
        assert!(proxy.master_events().is_empty());
        assert!(proxy.patience().unwrap() <= DEAF);
    }
}
