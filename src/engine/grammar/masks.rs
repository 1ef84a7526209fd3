//! The thread that looks for allowed tokens while the engine's thread runs the model. Knows places in grammars, not sequences.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};

use toktrie::SimpleVob;

use super::Grammar;
use super::walk::Place;

struct Order {
    grammar: Arc<Grammar>,
    place: Place,
    reply: SyncSender<SimpleVob>,
}

/// The thread's door. It is started for the first order and ends with this.
#[derive(Debug, Default)]
pub struct Masks(Option<Sender<Order>>);

/// A set of tokens that is being looked for.
#[derive(Debug)]
pub(super) struct Coming(Receiver<SimpleVob>);

impl Masks {
    /// Orders the tokens that may come at a place; `None` where there is no thread to look for them.
    pub(super) fn order(&mut self, grammar: &Arc<Grammar>, place: Place) -> Option<Coming> {
        if self.0.is_none() {
            self.0 = start();
        }
        let (reply, coming) = mpsc::sync_channel(1);
        let sent = self.0.as_ref()?.send(Order { grammar: Arc::clone(grammar), place, reply });
        if sent.is_err() {
            self.0 = None;
            return None;
        }
        Some(Coming(coming))
    }
}

impl Coming {
    /// Waits for it.
    pub(super) fn take(self) -> Option<SimpleVob> {
        self.0.recv().ok()
    }
}

fn start() -> Option<Sender<Order>> {
    let (orders, inbox) = mpsc::channel::<Order>();
    let work = move || {
        for Order { grammar, mut place, reply } in inbox {
            // The sequence may be gone.
            let _ = reply.send(place.allowed(&grammar));
        }
    };
    let started = std::thread::Builder::new().name("grammar".to_owned()).spawn(work);
    if let Err(error) = &started {
        tracing::warn!(%error, "no thread for grammars: they are looked at between steps");
    }
    started.ok().map(|_| orders)
}
