//! One sequence at a time for each model. mistralrs 0.8.1 computes sequences of the same length in one batch, and on the CPU such batches
//! give other logits than each sequence by itself (`tests/contract`): its own bound on sequences does not keep it from that.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mistralrs::core::{MistralRs, NormalRequest, Request};

use super::chooser::Chooser;

/// A sequence that waits for its turn.
pub(super) struct Waiting {
    pub(super) request: Box<NormalRequest>,
    pub(super) chooser: Arc<Chooser>,
}

/// Where the sequences of a model wait.
pub(super) struct Lane {
    pub(super) runner: Arc<MistralRs>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    is_taken: bool,
    waiting: VecDeque<Waiting>,
}

/// The one that runs holds it; when it is dropped the next one runs.
pub(super) struct Turn(Option<Arc<Lane>>);

impl Lane {
    pub(super) fn new(runner: Arc<MistralRs>) -> Self {
        Self { runner, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has it run when those before it are over.
    pub(super) fn join(self: &Arc<Self>, waiting: Waiting) {
        let mut state = self.state();
        state.waiting.push_back(waiting);
        if !std::mem::replace(&mut state.is_taken, true) {
            drop(state);
            self.go_on();
        }
    }

    /// The next one that somebody still waits for.
    fn go_on(self: &Arc<Self>) {
        loop {
            let mut state = self.state();
            let Some(Waiting { request, chooser }) = state.waiting.pop_front() else {
                state.is_taken = false;
                return;
            };
            drop(state);
            if chooser.is_over() {
                continue;
            }
            chooser.begin(Turn(Some(Arc::clone(self))));
            let sender = self.runner.get_sender(None).map_err(|error| error.to_string());
            let sent = sender.and_then(|sender| sender.try_send(Request::Normal(request)).map_err(|error| error.to_string()));
            match sent {
                Ok(()) => return,
                // Its turn is over without having begun.
                Err(reason) => chooser.never_ran(format!("mistralrs takes no request: {reason}")),
            }
        }
    }
}

impl Turn {
    /// Nobody goes on after it.
    pub(super) fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(lane) = self.0.take() {
            lane.go_on();
        }
    }
}
