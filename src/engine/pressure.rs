//! Whether anybody waits for the engine: what work of lower priority looks at before each of its pieces. Knows no such work.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Sequences that were accepted and are not over. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Pressure(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    sequences: AtomicUsize,
    lock: Mutex<()>,
    changed: Condvar,
}

/// One sequence that somebody waits for; it is over when this is dropped.
#[derive(Debug)]
pub struct Present(Pressure);

impl Pressure {
    /// A sequence comes.
    pub fn enter(&self) -> Present {
        self.0.sequences.fetch_add(1, Ordering::AcqRel);
        Present(self.clone())
    }

    /// Sequences that somebody waits for.
    pub fn sequences(&self) -> usize {
        self.0.sequences.load(Ordering::Acquire)
    }

    /// Waits until the last sequence is over, [`Pressure::wake`] is called, or the time is up. May return early.
    pub fn wait(&self, most: Duration) {
        let held = self.0.lock.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.0.changed.wait_timeout(held, most));
    }

    /// Wakes everybody who waits.
    pub fn wake(&self) {
        drop(self.0.lock.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.changed.notify_all();
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        if self.0.0.sequences.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.wake();
        }
    }
}
