//! How far one answer of the null backend is: told by the clock's thread, read by whoever waits for the answer, without a lock.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;

use futures::task::AtomicWaker;

/// Nothing is due yet; the answer holds a place in the queue.
const WAITING: usize = 0;
/// Everything else that is not listed here: one more than the number of tokens that are due.
const FIRST: usize = 1;
/// The answer will not go on.
const CUT_OFF: usize = usize::MAX - 1;
/// Nobody waits for it any more.
const LEFT: usize = usize::MAX;

/// What an answer holds, by how far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// A place in the queue.
    Waiting,
    /// It runs: so many of its tokens are due.
    Running(usize),
    /// Nothing: it was cut off.
    CutOff,
    /// Nothing: whoever waited has left.
    Left,
}

impl State {
    const fn of(code: usize) -> Self {
        match code {
            WAITING => Self::Waiting,
            CUT_OFF => Self::CutOff,
            LEFT => Self::Left,
            tokens => Self::Running(tokens - FIRST),
        }
    }
}

/// How far an answer is.
#[derive(Debug, Default)]
pub struct Progress {
    code: AtomicUsize,
    waker: AtomicWaker,
}

impl Progress {
    /// The state now.
    pub fn state(&self) -> State {
        State::of(self.code.load(Ordering::Acquire))
    }

    /// `tokens` are due; [`Progress::wake`] tells it. Returns the state before; one that has ended stays.
    pub fn release(&self, tokens: usize) -> State {
        self.advance(tokens.saturating_add(FIRST).min(CUT_OFF - 1))
    }

    /// The answer will not go on; [`Progress::wake`] tells it. Returns the state before.
    pub fn cut_off(&self) -> State {
        self.advance(CUT_OFF)
    }

    fn advance(&self, code: usize) -> State {
        let next = |before| (before < CUT_OFF).then_some(code);
        let (Ok(before) | Err(before)) = self.code.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        State::of(before)
    }

    /// Calls whoever waits.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// Whoever waited has left or has everything. Returns the state before.
    pub fn leave(&self) -> State {
        State::of(self.code.swap(LEFT, Ordering::AcqRel))
    }

    /// Has this waker called at the next change.
    pub fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }
}
