//! The keeper: a thread that puts under watch what an action has looked at, when it is over.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use crate::registry::Registry;

pub struct Keeper(SyncSender<()>);

impl Keeper {
    pub fn start(registry: Arc<Registry>) -> io::Result<Keeper> {
        // One waiting wake-up stands for all.
        let (sender, receiver) = sync_channel(1);
        thread::Builder::new().name("keeper".to_owned()).spawn(move || {
            while receiver.recv().is_ok() {
                registry.settle();
            }
        })?;
        Ok(Keeper(sender))
    }

    pub fn wake(&self) {
        let _ = self.0.try_send(());
    }
}
