//! Where connections are parked: of all that wait at one port only the first tries whether the
//! service is back, so that a thousand of them don't keep it from coming back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Semaphore, SemaphorePermit, watch};

/// Where connections to one published port wait.
pub(super) struct Gate {
    /// Whoever has it tries; with it gone, the next does.
    pub front: Semaphore,
    /// Counts how often somebody got through: then all others try at once.
    pub opened: watch::Sender<u64>,
}

impl Gate {
    /// Whoever was first got through: all others may try, and those that still wait have another first.
    pub fn open(&self, turn: Option<SemaphorePermit<'_>>) {
        if turn.is_some() {
            self.opened.send_modify(|times| *times += 1);
        }
    }
}

/// One for each published port ever asked for: as many as the home declares.
#[derive(Default)]
pub(super) struct Gates(Mutex<BTreeMap<u16, Arc<Gate>>>);

impl Gates {
    /// The gate of a published port.
    pub fn at(&self, published: u16) -> Arc<Gate> {
        let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Gate { front: Semaphore::new(1), opened: watch::Sender::new(0) });
        gates.entry(published).or_insert_with(new).clone()
    }
}
