//! What the engine keeps for one request beside its tokens: where its events go, its lease, its sampler, why it ends.

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedSender;

use super::effort::Meter;
use super::grammar::{Masks, Room, Walk};
use super::pool::Pool;
use super::pressure::Present;
use super::request::{Event, Finish, Realm, Request, TokenLogprob};
use super::sampling::{SampleError, Sampler, Scratch, logprob};
use super::scheduler::{PlannedChunk, Sequence};
use super::speculation::Guesser;
use super::stats::QueueSlot;
use crate::model::lora::PreparedAdapter;
use crate::model::{LogitRows, Logits};

/// A request on its way to the engine's thread.
pub(super) struct Submission {
    pub(super) request: Request,
    pub(super) emitter: Emitter,
    pub(super) slot: QueueSlot,
}

/// Sends events; whatever happens, there is a last one.
pub(super) struct Emitter {
    sender: UnboundedSender<Event>,
    /// Read by [`super::Generation::effort`].
    pub(super) meter: Arc<Meter>,
    ended: bool,
    #[expect(dead_code, reason = "held for as long as somebody waits for the sequence")]
    present: Present,
}

impl Emitter {
    pub(super) const fn new(sender: UnboundedSender<Event>, meter: Arc<Meter>, present: Present) -> Self {
        Self { sender, meter, ended: false, present }
    }

    /// Whether nobody listens any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.sender.is_closed()
    }

    pub(super) fn send(&self, event: Event) {
        // A listener that left is noticed before the next step.
        let _ = self.sender.send(event);
    }

    /// Sends the last event.
    pub(super) fn end(mut self, event: Event) {
        self.send(event);
        self.ended = true;
    }
}

impl Drop for Emitter {
    fn drop(&mut self) {
        if !self.ended {
            // The thread ends every sequence that it knows: this one came when it had ended.
            self.send(Event::CutOff);
        }
    }
}

/// The engine's side of a request.
pub(super) struct Job {
    pub(super) emitter: Emitter,
    /// Keeps the adapter version in memory.
    pub(super) lease: Option<Arc<PreparedAdapter>>,
    /// Who is served.
    pub(super) account: Realm,
    /// Who shares its prefixes.
    pub(super) realm: Realm,
    /// Held until the sequence first starts.
    pub(super) slot: Option<QueueSlot>,
    /// Prompt tokens found in the prefix cache at the first start.
    pub(super) cached_tokens: usize,
    /// Set when the sequence has ended; sent when everything it held is given back.
    pub(super) last: Option<Event>,
    /// Where its answer is in its grammar, where it has one.
    walk: Option<Walk>,
    /// Tokens of the answer that were there before the first step and are not sent yet.
    unsent: Vec<u32>,
    sampler: Sampler,
    guesser: Guesser,
    stop_tokens: Arc<[u32]>,
    /// Length of prompt and answer at which the answer ends.
    full_len: usize,
    logprobs: Option<usize>,
    prompt_logprobs: Option<PromptLogprobs>,
    /// The prompt's hidden states, where those are what is wanted.
    pool: Option<Pool>,
}

struct PromptLogprobs {
    top: usize,
    entries: Vec<Option<TokenLogprob>>,
}

impl Job {
    /// Splits a submission into its tokens, of which the first are the prompt's (their number follows), and the rest.
    pub(super) fn new(submission: Submission, max_context: usize) -> (Vec<u32>, usize, Self) {
        let Submission { request, emitter, slot } = submission;
        let full_len = request.prompt.len().saturating_add(request.max_tokens).min(max_context);
        let prompt_len = request.prompt.len();
        let mut unsent = request.grammar.as_ref().map(|grammar| grammar.beginning().to_vec()).unwrap_or_default();
        unsent.truncate(full_len.saturating_sub(prompt_len));
        let walk = request.grammar.map(Walk::new);
        let mut tokens = request.prompt.clone();
        tokens.extend_from_slice(&unsent);
        let pool = request.pooling.map(Pool::new);
        let job = Self {
            emitter,
            lease: request.adapter,
            account: request.realm,
            realm: if pool.as_ref().is_some_and(Pool::wants_every_row) { Realm::NOBODY } else { request.realm },
            slot: Some(slot),
            cached_tokens: 0,
            last: None,
            walk,
            unsent,
            sampler: Sampler::new(request.sampling, &request.prompt),
            guesser: Guesser::default(),
            stop_tokens: request.stop_tokens,
            full_len,
            logprobs: request.logprobs,
            prompt_logprobs: request.prompt_logprobs.map(|top| PromptLogprobs { top, entries: vec![None] }),
            pool,
        };
        (tokens, prompt_len, job)
    }

    /// Whether the rows of the whole prompt are wanted.
    pub(super) const fn wants_prompt_rows(&self) -> bool {
        self.prompt_logprobs.is_some()
    }

    /// What is wanted of a chunk that was planned for logits.
    pub(super) fn wanted(&self, planned: LogitRows) -> LogitRows {
        self.pool.as_ref().map_or(planned, |pool| pool.wanted(planned))
    }

    /// Has the next token's choices looked for while the model runs.
    pub(super) fn prepare(&mut self, masks: &mut Masks) {
        if let Some(walk) = self.walk.as_mut().filter(|_| self.last.is_none()) {
            walk.prepare(masks);
        }
    }

    /// Appends at most `most` guesses of how the answer goes on to its tokens; says how many. A grammar knows better, and rows that are
    /// wanted of a prompt come first.
    pub(super) fn guess(&mut self, tokens: &mut Vec<u32>, most: usize) -> usize {
        if self.walk.is_some() || self.prompt_logprobs.is_some() || self.pool.is_some() {
            return 0;
        }
        // One token is chosen beyond the last guess.
        let left = self.full_len.saturating_sub(tokens.len() + 1);
        self.guesser.guess(tokens, most.min(left))
    }

    fn done(&mut self, finish: Finish) {
        self.last = Some(Event::Done { finish, cached_tokens: self.cached_tokens });
    }
}

/// The rows of logits, or of hidden states, that one chunk got.
pub(super) struct ChunkRows<'a> {
    logits: &'a Logits,
    /// Row of `logits` that belongs to position `first`.
    row: usize,
    /// First position that got a row.
    first: usize,
    /// Number of rows of logits.
    count: usize,
    /// Number of hidden states; none beside logits.
    hidden: usize,
}

/// Where the rows of the next chunk begin.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cursor {
    logits: usize,
    hidden: usize,
}

impl<'a> ChunkRows<'a> {
    /// The rows that were `wanted` of `chunk`; they begin where the last chunk's ended.
    pub(super) const fn new(chunk: &PlannedChunk, wanted: LogitRows, logits: &'a Logits, cursor: &mut Cursor) -> Self {
        let (count, hidden) = match wanted {
            LogitRows::None => (0, 0),
            LogitRows::Last => (1, 0),
            LogitRows::All => (chunk.len, 0),
            LogitRows::HiddenLast => (0, 1),
            LogitRows::HiddenAll => (0, chunk.len),
        };
        let row = if hidden > 0 { cursor.hidden } else { cursor.logits };
        cursor.logits += count;
        cursor.hidden += hidden;
        Self { logits, row, first: chunk.end() - count - hidden, count, hidden }
    }

    /// The hidden states.
    fn states(&self) -> Result<&'a [f32], SampleError> {
        if self.hidden == 0 {
            return Ok(&[]);
        }
        let width = self.logits.width;
        let states = self.logits.hidden.get(self.row * width..(self.row + self.hidden) * width);
        states.ok_or(SampleError::NoRow { position: self.first })
    }

    fn at(&self, position: usize) -> Result<&'a [f32], SampleError> {
        let row = position.checked_sub(self.first).filter(|row| *row < self.count);
        let row = row.map(|row| self.row + row).filter(|row| *row < self.logits.rows());
        row.map(|row| self.logits.row(row)).ok_or(SampleError::NoRow { position })
    }
}

impl Sequence<Job> {
    /// Takes what a computed chunk brings: prompt log-probabilities, and the next tokens where the chunk reaches the end: one, and another
    /// for each of the `guesses` behind it that was right. Returns how many tokens were generated, and how many guesses were right.
    pub(super) fn advance(
        &mut self,
        chunk: &PlannedChunk,
        guesses: &[u32],
        rows: &ChunkRows<'_>,
        scratch: &mut Scratch,
    ) -> Result<(usize, usize), SampleError> {
        let mut right = 0;
        let mut generated = self.advance_by_one(chunk, rows, scratch)?;
        while guesses.get(right).is_some_and(|guess| self.payload.last.is_none() && self.tokens.last() == Some(guess)) {
            right += 1;
            let job = &mut self.payload;
            let row = rows.at(chunk.end() - 1 + right)?;
            let id = job.sampler.sample(row, scratch)?;
            let logprob = job.logprobs.map(|top| logprob(row, id, top, scratch)).transpose()?;
            generated += 1;
            self.take(id, logprob, None);
        }
        if !guesses.is_empty() {
            self.payload.guesser.learn(guesses.len(), right);
        }
        Ok((generated, right))
    }

    /// The same without what is guessed.
    fn advance_by_one(
        &mut self,
        chunk: &PlannedChunk,
        rows: &ChunkRows<'_>,
        scratch: &mut Scratch,
    ) -> Result<usize, SampleError> {
        self.note_prompt(chunk, rows, scratch)?;
        if let Some(pool) = &mut self.payload.pool {
            pool.take(rows.first, rows.states()?, rows.logits.width)?;
        }
        if chunk.end() < self.tokens.len() {
            return Ok(0);
        }
        let job = &mut self.payload;
        let unsent = std::mem::take(&mut job.unsent);
        let mut generated = unsent.len();
        for id in unsent {
            job.sampler.accept(id);
            job.emitter.send(Event::Token { id, logprob: None, choice: None });
        }
        if let Some(pool) = job.pool.take() {
            job.emitter.send(Event::Embedding(pool.finish(self.prompt_len)?));
            job.done(Finish::Stop);
            return Ok(generated);
        }
        if self.tokens.len() >= job.full_len {
            job.done(Finish::Length);
            return Ok(generated);
        }
        let row = rows.at(chunk.end() - 1)?;
        let room = Room { left: job.full_len - self.tokens.len(), all: job.full_len.saturating_sub(self.prompt_len) };
        let (id, choice) = match job.walk.as_mut().filter(|walk| walk.binds()) {
            None => (job.sampler.sample(row, scratch)?, None),
            Some(walk) => {
                let (id, choice) = job.sampler.sample_within(row, &walk.allowed(room), scratch)?;
                (id, Some(choice))
            }
        };
        let logprob = job.logprobs.map(|top| logprob(row, id, top, scratch)).transpose()?;
        generated += 1;
        self.take(id, logprob, choice);
        // What the grammar leaves no choice about goes through the next step with it.
        let job = &mut self.payload;
        let Some(walk) = job.walk.as_mut().filter(|_| job.last.is_none()) else { return Ok(generated) };
        let mut forced = walk.accept(id);
        forced.extend(walk.end_token().filter(|_| walk.is_over()));
        for id in forced {
            if self.payload.last.is_none() {
                generated += 1;
                self.take(id, None, None);
            }
        }
        let job = &mut self.payload;
        // A vocabulary without a token for the end.
        if job.last.is_none() && job.walk.as_ref().is_some_and(Walk::is_over) {
            job.done(Finish::Stop);
        }
        Ok(generated)
    }

    /// One more token of the answer.
    fn take(&mut self, id: u32, logprob: Option<TokenLogprob>, choice: Option<f32>) {
        let job = &mut self.payload;
        self.tokens.push(id);
        job.sampler.accept(id);
        job.emitter.send(Event::Token { id, logprob, choice });
        if job.stop_tokens.contains(&id) || job.walk.as_ref().is_some_and(|walk| walk.ends(id)) {
            job.done(Finish::Stop);
        } else if self.tokens.len() >= job.full_len {
            job.done(Finish::Length);
        }
    }

    fn note_prompt(&mut self, chunk: &PlannedChunk, rows: &ChunkRows<'_>, scratch: &mut Scratch) -> Result<(), SampleError> {
        let Some(prompt) = &mut self.payload.prompt_logprobs else { return Ok(()) };
        // Entry `i` comes from the row of position `i - 1`; a chunk computed again after a preemption adds nothing.
        while prompt.entries.len() < self.prompt_len && prompt.entries.len() <= chunk.end() {
            let next = prompt.entries.len();
            let row = rows.at(next - 1)?;
            prompt.entries.push(Some(logprob(row, self.tokens[next], prompt.top, scratch)?));
        }
        if prompt.entries.len() == self.prompt_len && chunk.end() >= self.prompt_len {
            let entries = std::mem::take(&mut prompt.entries);
            self.payload.prompt_logprobs = None;
            self.payload.emitter.send(Event::Prompt(entries));
        }
        Ok(())
    }
}
