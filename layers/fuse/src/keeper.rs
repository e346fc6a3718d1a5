//! The keeper: a thread that does what nobody waits for: when an action is over it puts under watch what has been
//! looked at, and when there are many names it drops segments that nobody uses.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use crate::registry::Registry;

#[derive(Clone)]
pub struct Keeper(SyncSender<()>);

impl Keeper {
    pub fn start(registry: Arc<Registry>) -> io::Result<Keeper> {
        // One waiting wake-up stands for all.
        let (sender, receiver) = sync_channel(1);
        thread::Builder::new().name("keeper".to_owned()).spawn(move || {
            while receiver.recv().is_ok() {
                registry.trim();
                registry.settle();
            }
        })?;
        Ok(Keeper(sender))
    }

    pub fn wake(&self) {
        let _ = self.0.try_send(());
    }
}
