//! A watch over the view server: notices that it died or hangs, so that the action can be killed before it takes an
//! I/O error for an answer. No threads: the caller polls, and ticks when a descriptor is ready or time has passed.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::client::View;
use crate::protocol::{Health, Reply};

/// How patient a watch is.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Between two questions.
    pub period: Duration,
    /// A question without an answer for so long means that the server hangs.
    pub answer: Duration,
    /// A kernel request that is served for so long means that a branch hangs.
    pub request: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            period: Duration::from_secs(1),
            answer: Duration::from_secs(10),
            request: Duration::from_secs(30),
        }
    }
}

/// What a tick found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Alive,
    /// The process has ended, or closed the connection.
    Dead,
    /// It does not answer.
    Silent(Duration),
    /// It answers, but a request of the action is stuck in a branch.
    Stuck(Duration),
}

/// Borrows the view while it watches; ask nothing else in the meantime.
#[derive(Debug)]
pub struct Watch<'a> {
    view: &'a mut View,
    patience: Patience,
    asked: Option<Instant>,
    answered: Instant,
    last: Health,
}

impl<'a> Watch<'a> {
    pub fn new(view: &'a mut View, patience: Patience) -> Watch<'a> {
        Watch { view, patience, asked: None, answered: Instant::now(), last: Health::default() }
    }

    /// Poll these for input beside the action's own: the server's pidfd and the connection.
    pub fn poll_fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.view.server_pidfd(), self.view.socket_fd()]
    }

    /// How long the caller may sleep before the next `tick`.
    pub fn next_tick(&self) -> Duration {
        let due = match self.asked {
            Some(asked) => asked + self.patience.answer,
            None => self.answered + self.patience.period,
        };
        due.saturating_duration_since(Instant::now())
    }

    /// Reads what has come, asks again when it is time. Never blocks.
    pub fn tick(&mut self) -> Verdict {
        if readable(self.view.server_pidfd()) {
            return Verdict::Dead;
        }
        loop {
            match self.view.take_unread() {
                Ok(Some(reply)) => self.note(&reply),
                Ok(None) => break,
                Err(_) => return Verdict::Dead,
            }
        }
        let now = Instant::now();
        match self.asked {
            Some(asked) if now - asked >= self.patience.answer => return Verdict::Silent(now - asked),
            Some(_) => {}
            None if now - self.answered >= self.patience.period => {
                if self.view.send_ping().is_err() {
                    return Verdict::Dead;
                }
                self.asked = Some(now);
            }
            None => {}
        }
        let oldest = Duration::from_millis(self.last.oldest_request_ms);
        if oldest >= self.patience.request { Verdict::Stuck(oldest) } else { Verdict::Alive }
    }

    /// The last answer.
    pub fn health(&self) -> Health {
        self.last
    }

    fn note(&mut self, reply: &Reply) {
        if let Reply::Pong(health) = reply {
            self.last = *health;
            self.asked = None;
            self.answered = Instant::now();
        }
    }
}

fn readable(fd: BorrowedFd<'_>) -> bool {
    matches!(poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::ZERO), Ok(1..))
}
