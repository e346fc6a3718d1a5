//! The keeper: a thread that does what nobody waits for. When an action is over it has what was looked at put under watch,
//! has the kernel forget what is left of segments that are gone, and drops segments without a user when there are many
//! names.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use crate::nodes::NodeTable;
use crate::registry::Registry;

/// How long the mounts of an action may take to go, at first; then longer and longer.
const SOON: Duration = Duration::from_millis(50);
const LATER: Duration = Duration::from_secs(60);

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
    let mut again = None;
    loop {
        let waited = match again {
            Some(pause) => wakened.recv_timeout(pause),
            None => wakened.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match waited {
            Ok(()) => {
                registry.trim();
                registry.settle();
                again = Some(SOON);
            }
            Err(RecvTimeoutError::Timeout) => {
                again = again.filter(|_| registry.clear_up(nodes)).map(|pause| (2 * pause).min(LATER));
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
