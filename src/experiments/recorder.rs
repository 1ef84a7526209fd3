//! Where outcomes go.

use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::outcome::Outcome;

/// Takes outcomes. Cheap to clone; one that was made by `default` forgets them.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Option<Sender<Outcome>>);

impl Recorder {
    /// A recorder and where its outcomes come out; with more than `capacity` of them waiting, new ones are lost.
    pub fn channel(capacity: usize) -> (Self, Receiver<Outcome>) {
        let (sender, receiver) = channel(capacity);
        (Self(Some(sender)), receiver)
    }

    /// Notes what came of a request. Never blocks.
    pub fn note(&self, outcome: Outcome) {
        if let Some(sender) = &self.0 {
            // A statistic that misses one of very many is still one.
            let _ = sender.try_send(outcome);
        }
    }
}
