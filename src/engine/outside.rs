//! Answers whose logits are computed outside of the engine: checks, queue, choice of tokens and events are the engine's own, so that a
//! request means the same whatever computes it. Knows nothing of what does, and keeps no KV blocks.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::{Notify, watch};

use super::check;
use super::effort::Meter;
use super::grammar::{Room, Walk};
use super::handle::{EngineFacts, Generation, Places, SubmitError};
use super::job::Emitter;
use super::pressure::Pressure;
use super::request::{Event, Finish, Request, TokenLogprob};
use super::sampling::{SampleError, Sampler, Scratch, logprob};
use super::stats::{Health, QueueSlot, Shared, Stats};
use crate::model::lora::PreparedAdapter;

/// The engine's side of what computes elsewhere. Clones are the same.
#[derive(Clone)]
pub struct Outside(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    facts: EngineFacts,
    pressure: Pressure,
    /// Answers that are not over, and some that are.
    open: Mutex<Vec<Weak<Place>>>,
    /// An answer is over.
    ended: Notify,
}

/// Where an answer is written.
struct Place {
    writing: Mutex<Option<Writing>>,
    inner: Arc<Inner>,
}

/// One answer, for whoever computes its logits. Whatever happens it has an end: dropped before that, it has failed.
pub struct Writer(Arc<Place>);

/// What is to be computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Tokens that are there before the first row is wanted.
    pub prompt: Vec<u32>,
    /// Most rows that are wanted, at least one.
    pub most: usize,
}

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// This token was chosen, and the row after it is wanted.
    Token(u32),
    /// This token was chosen, and it is the last one.
    Last(u32),
    /// No token was: the answer is over.
    Over,
}

/// What is kept for an answer that is not over.
struct Writing {
    emitter: Emitter,
    /// Keeps the adapter's version in memory.
    lease: Option<Arc<PreparedAdapter>>,
    /// Until the first row is there.
    slot: Option<QueueSlot>,
    sampler: Sampler,
    scratch: Scratch,
    walk: Option<Walk>,
    /// Tokens that are a part of the prompt and of the answer, not sent yet.
    unsent: Vec<u32>,
    /// Tokens that have to come next.
    forced: VecDeque<u32>,
    stop_tokens: Arc<[u32]>,
    logprobs: Option<usize>,
    prompt_len: usize,
    /// Prompt and answer so far, tokens.
    len: usize,
    /// Prompt and answer at their longest.
    full_len: usize,
}

impl Outside {
    /// Nothing waits yet.
    pub fn new(facts: EngineFacts) -> Self {
        Self(Arc::new(Inner {
            shared: Shared::new(0),
            facts,
            pressure: Pressure::default(),
            open: Mutex::default(),
            ended: Notify::new(),
        }))
    }

    /// Takes `count` places in the queue, all or none, for requests that belong together, if no more than `within` are taken then.
    pub fn reserve(&self, count: usize, within: usize) -> Result<Places, SubmitError> {
        self.0.shared.refuse_unless_serving()?;
        let slots = QueueSlot::take(&self.0.shared, count, self.0.facts.config.queue_capacity.min(within));
        slots.map(Places).ok_or_else(|| SubmitError::Overloaded { waiting: self.0.shared.queued() })
    }

    /// Accepts a request at one of the reserved places; without any left, at a new one. Never blocks.
    pub fn open(&self, places: &mut Places, request: Request) -> Result<(Writer, Task, Generation), SubmitError> {
        self.0.shared.refuse_unless_serving()?;
        check::request(&request, &self.0.facts.model, self.0.facts.max_context)?;
        if request.prompt_logprobs.is_some() {
            return Err(SubmitError::Unable { field: "echo", what: "log-probabilities of a prompt" });
        }
        if request.pooling.is_some() {
            return Err(SubmitError::Unable { field: "model", what: "embeddings" });
        }
        if places.0.is_empty() {
            *places = self.reserve(1, usize::MAX)?;
        }
        let slot = places.0.pop().ok_or_else(|| SubmitError::Overloaded { waiting: self.0.shared.queued() })?;
        let (sender, events) = unbounded_channel();
        let meter = Arc::new(Meter::new());
        let emitter = Emitter::new(sender, Arc::clone(&meter), self.0.pressure.enter());
        let (task, writing) = Writing::new(request, emitter, slot, self.0.facts.max_context);
        let place = Arc::new(Place { writing: Mutex::new(Some(writing)), inner: Arc::clone(&self.0) });
        let mut open = self.0.open();
        open.retain(|place| place.strong_count() > 0);
        open.push(Arc::downgrade(&place));
        Ok((Writer(place), task, Generation { events, meter }))
    }

    /// Numbers of this moment; there are no steps and no KV blocks.
    pub fn stats(&self) -> Stats {
        self.0.shared.stats()
    }

    /// What is fixed for its life.
    pub fn facts(&self) -> &EngineFacts {
        &self.0.facts
    }

    /// Whether anybody waits for an answer.
    pub fn pressure(&self) -> &Pressure {
        &self.0.pressure
    }

    /// How it is, to be watched.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.0.shared.health.subscribe()
    }

    /// Stops taking requests, lets accepted ones finish until the deadline, cuts the rest off.
    pub async fn shutdown(&self, deadline: Duration) {
        self.0.shared.begin_stopping();
        // Late is the same as cut off.
        let _ = tokio::time::timeout(deadline, self.all_ended()).await;
        let open = std::mem::take(&mut *self.0.open());
        for place in open.iter().filter_map(Weak::upgrade) {
            place.end(Event::CutOff);
        }
        self.0.shared.health.send_replace(Health::Stopped);
    }

    async fn all_ended(&self) {
        loop {
            let ended = self.0.ended.notified();
            if self.0.pressure.sequences() == 0 {
                return;
            }
            ended.await;
        }
    }
}

impl std::fmt::Debug for Outside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outside").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Inner {
    fn open(&self) -> MutexGuard<'_, Vec<Weak<Place>>> {
        // Nothing panics while it is held.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    fn writing(&self) -> MutexGuard<'_, Option<Writing>> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, last: Event) {
        if let Some(writing) = self.writing().take() {
            self.give_back(writing, last);
        }
    }

    /// Gives back what the answer held, then sends its last event.
    fn give_back(&self, writing: Writing, last: Event) {
        let Writing { emitter, lease, slot, .. } = writing;
        let started = slot.is_none();
        drop((lease, slot));
        let abandoned = emitter.is_abandoned();
        self.inner.shared.change(|stats| {
            stats.running -= usize::from(started);
            let counter = match last {
                _ if abandoned => &mut stats.cancelled,
                Event::Done { .. } | Event::NothingAllowed => &mut stats.completed,
                _ => &mut stats.failed,
            };
            *counter += 1;
        });
        emitter.end(last);
        self.inner.ended.notify_waiters();
    }
}

impl Writer {
    /// Chooses the next token by its logits, and sends it.
    pub fn write(&self, row: &[f32]) -> Written {
        let mut held = self.0.writing();
        let Some(mut writing) = held.take() else { return Written::Over };
        if writing.emitter.is_abandoned() {
            self.0.give_back(writing, Event::CutOff);
            return Written::Over;
        }
        if let Some(slot) = writing.slot.take() {
            writing.emitter.meter.started(0);
            let prompt = writing.prompt_len as u64;
            self.0.inner.shared.change(|stats| {
                stats.running += 1;
                stats.prompt_tokens += prompt;
            });
            // Nobody is ever counted nowhere.
            drop(slot);
        }
        let before = writing.len - writing.unsent.len();
        let advanced = writing.advance(row);
        let generated = writing.len - before;
        writing.emitter.meter.generated(generated);
        self.0.inner.shared.change(|stats| stats.generated_tokens += generated as u64);
        let (written, last) = match advanced {
            Ok((Some(id), None)) => {
                *held = Some(writing);
                return Written::Token(id);
            }
            Ok((id, finish)) => {
                let finish = finish.unwrap_or(Finish::Length);
                (id.map_or(Written::Over, Written::Last), Event::Done { finish, cached_tokens: 0 })
            }
            Err(SampleError::NothingAllowed) => (Written::Over, Event::NothingAllowed),
            Err(error) => (Written::Over, Event::Failed(error.to_string())),
        };
        self.0.give_back(writing, last);
        written
    }

    /// What computes the logits cannot go on; the reason is for operators.
    pub fn fail(&self, reason: String) {
        self.0.end(Event::Failed(reason));
    }

    /// Whether nobody waits for another row.
    pub fn is_over(&self) -> bool {
        self.0.writing().as_ref().is_none_or(|writing| writing.emitter.is_abandoned())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.fail("what computes it has ended it".to_owned());
    }
}

impl Writing {
    fn new(request: Request, emitter: Emitter, slot: QueueSlot, max_context: usize) -> (Task, Self) {
        let prompt_len = request.prompt.len();
        let full_len = prompt_len.saturating_add(request.max_tokens).min(max_context);
        let mut unsent = request.grammar.as_ref().map(|grammar| grammar.beginning().to_vec()).unwrap_or_default();
        unsent.truncate(full_len.saturating_sub(prompt_len));
        let sampler = Sampler::new(request.sampling, &request.prompt);
        let mut prompt = request.prompt;
        prompt.extend_from_slice(&unsent);
        let len = prompt.len();
        let writing = Self {
            emitter,
            lease: request.adapter,
            slot: Some(slot),
            sampler,
            scratch: Scratch::default(),
            walk: request.grammar.map(Walk::new),
            unsent,
            forced: VecDeque::new(),
            stop_tokens: request.stop_tokens,
            logprobs: request.logprobs,
            prompt_len,
            len,
            full_len,
        };
        (Task { prompt, most: (full_len - len).max(1) }, writing)
    }

    /// One more token, if there is room for one, and why the answer ends with it, if it does.
    fn advance(&mut self, row: &[f32]) -> Result<(Option<u32>, Option<Finish>), SampleError> {
        for id in std::mem::take(&mut self.unsent) {
            self.sampler.accept(id);
            self.emitter.send(Event::Token { id, logprob: None, choice: None });
        }
        if self.len >= self.full_len {
            return Ok((None, Some(Finish::Length)));
        }
        let id = match self.forced.pop_front() {
            Some(id) => {
                self.take(id, None, None);
                id
            }
            None => self.choose(row)?,
        };
        let over = self.walk.as_ref().is_some_and(Walk::is_over);
        let finish = if self.stop_tokens.contains(&id)
            || self.walk.as_ref().is_some_and(|walk| walk.ends(id))
            // A vocabulary without a token for the end.
            || (over && self.forced.is_empty())
        {
            Some(Finish::Stop)
        } else {
            (self.len >= self.full_len).then_some(Finish::Length)
        };
        Ok((Some(id), finish))
    }

    fn choose(&mut self, row: &[f32]) -> Result<u32, SampleError> {
        let room = Room { left: self.full_len - self.len, all: self.full_len.saturating_sub(self.prompt_len) };
        let (id, choice) = match self.walk.as_mut().filter(|walk| walk.binds()) {
            None => (self.sampler.sample(row, &mut self.scratch)?, None),
            Some(walk) => {
                let (id, choice) = self.sampler.sample_within(row, &walk.allowed(room), &mut self.scratch)?;
                (id, Some(choice))
            }
        };
        let logprob = self.logprobs.map(|top| logprob(row, id, top, &mut self.scratch)).transpose()?;
        self.take(id, logprob, choice);
        if let Some(walk) = self.walk.as_mut().filter(|walk| !walk.ends(id) && !self.stop_tokens.contains(&id)) {
            self.forced.extend(walk.accept(id));
            self.forced.extend(walk.end_token().filter(|_| walk.is_over()));
        }
        Ok(id)
    }

    fn take(&mut self, id: u32, logprob: Option<TokenLogprob>, choice: Option<f32>) {
        self.len += 1;
        self.sampler.accept(id);
        self.emitter.send(Event::Token { id, logprob, choice });
    }
}
