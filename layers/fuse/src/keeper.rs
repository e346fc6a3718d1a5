//! The keeper: a thread that does what nobody waits for. When an action is over it has what was looked at put under watch,
//! closes files that nobody reads, has the kernel forget what is left of segments that are gone, and drops segments without
//! a user when there are many names.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::nodes::NodeTable;
use crate::registry::Registry;

/// How long the mounts of an action may take to go, at first; then longer and longer.
const SOON: Duration = Duration::from_millis(50);
const LATER: Duration = Duration::from_secs(5);
/// Of the time of this thread clearing up takes no more than one part in so many.
const SHARE: u32 = 20;

#[derive(Clone)]
pub struct Keeper(SyncSender<()>);

impl Keeper {
    pub fn start(registry: Arc<Registry>, nodes: Arc<NodeTable>) -> io::Result<Keeper> {
        // One waiting wake-up stands for all.
        let (sender, receiver) = sync_channel(1);
        thread::Builder::new().name("keeper".to_owned()).spawn(move || keep(&registry, &nodes, &receiver))?;
        Ok(Keeper(sender))
    }

    pub fn wake(&self) {
        let _ = self.0.try_send(());
    }
}

fn keep(registry: &Registry, nodes: &NodeTable, wakened: &Receiver<()>) {
    let (mut pause, mut rest, mut due) = (SOON, SOON, None::<Instant>);
    loop {
        let waited = match due {
            Some(due) => wakened.recv_timeout(due.saturating_duration_since(Instant::now())),
            None => wakened.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match waited {
            Ok(()) => {
                registry.trim();
                registry.settle();
                // What was in use until now may be left.
                let soon = Instant::now() + rest;
                due = Some(due.map_or(soon, |due| due.min(soon)));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        // Looked at after each wake-up too: where one action follows another nothing ever times out.
        if due.is_some_and(|due| due <= Instant::now()) {
            let began = Instant::now();
            registry.close_unneeded();
            let is_left = registry.clear_up(nodes);
            rest = SOON.max(SHARE * began.elapsed());
            pause = if is_left { (2 * pause).min(LATER) } else { SOON };
            due = is_left.then(|| Instant::now() + pause.max(rest));
        }
    }
}
