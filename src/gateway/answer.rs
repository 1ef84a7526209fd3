//! The answers to one request while they come: engine events of all its sequences, merged, as pieces of text.
//! Dropping it cancels what still runs.

use std::collections::VecDeque;
use std::task::Poll;
use std::time::Instant;

use futures::stream::{AbortHandle, BoxStream, SelectAll, abortable, select_all};
use futures::{FutureExt, StreamExt};

use super::GatewayError;
use super::account::Account;
use super::cache::{Recorder, Stored};
use super::feed::{Arrival, Source, feed, report};
use super::shadow::{Copy, Silent};
use super::speech::{Manner, Speech};
use super::types::{Echo, EndToken, FinishReason, Piece, Served, Usage};
use crate::backends::{Effort, EffortReader, Event, Finish, Generation, Request, TokenLogprob};
use crate::model::tokenizer::Tokenizer;
use crate::registry::Lease;
use crate::tenants::{CacheUse, Outcome, Rate};

/// What all sequences of a request share.
pub(super) struct Shape {
    pub served: Served,
    /// Held while any answer runs.
    #[expect(dead_code, reason = "holding it is its use")]
    pub lease: Option<Lease>,
    pub echo: Echo,
    /// Tokens are reported with log-probabilities.
    pub reports: bool,
    pub end_token: EndToken,
    /// The field that asks for the answers' form, where one does.
    pub form_field: Option<&'static str>,
    /// Answers to each prompt.
    pub n: usize,
    pub manner: Manner,
}

/// Answers on their way.
pub struct Answer {
    shape: Shape,
    tokenizer: Tokenizer,
    account: Account,
    prompts: Vec<AskedPrompt>,
    sequences: Vec<Sequence>,
    arrivals: SelectAll<BoxStream<'static, (usize, Arrival, Effort)>>,
    ready: VecDeque<Piece>,
    usage: Usage,
    failed: bool,
    /// When the last event of all came.
    ended: Instant,
    /// Keeps the answer for those who ask the same.
    recorder: Option<Recorder>,
    choices: usize,
}

struct AskedPrompt {
    tokens: usize,
    /// Its text, where it comes back.
    text: Option<String>,
}

struct Sequence {
    prompt: usize,
    speech: Speech,
    running: Option<AbortHandle>,
    /// An event came.
    begun: bool,
    /// What it has cost the engine, as of the last event.
    effort: Effort,
    /// And as of now.
    reader: Option<EffortReader>,
    finish: Option<FinishReason>,
    /// Tokens that were read.
    taken: usize,
    /// Natural logarithm of the probability of its choices among what its grammar allowed.
    certainty: f64,
}

impl Answer {
    pub(super) fn new(shape: Shape, account: Account, tokenizer: Tokenizer) -> Self {
        Self {
            shape,
            account,
            tokenizer,
            prompts: Vec::new(),
            sequences: Vec::new(),
            arrivals: select_all([]),
            ready: VecDeque::new(),
            usage: Usage::default(),
            failed: false,
            ended: Instant::now(),
            recorder: None,
            choices: 0,
        }
    }

    /// Begins a prompt; the sequences that are added next answer it.
    pub(super) fn add_prompt(&mut self, tokens: usize, text: Option<String>) {
        self.usage.prompt_tokens += tokens;
        self.prompts.push(AskedPrompt { tokens, text: text.filter(|_| self.shape.echo == Echo::PromptAndAnswer) });
    }

    pub(super) fn add_sequence(&mut self, generation: Generation, source: Source) {
        let index = self.sequences.len();
        self.choices += 1;
        let prompt = self.prompts.len().saturating_sub(1);
        let echoed = self.prompts.last().and_then(|prompt| prompt.text.clone()).unwrap_or_default();
        let reader = generation.effort_reader();
        let arrivals = feed(generation, source).map(move |(arrival, effort)| (index, arrival, effort));
        let (arrivals, running) = abortable(arrivals);
        self.arrivals.push(arrivals.boxed());
        self.sequences.push(Sequence {
            prompt,
            speech: Speech::new(&self.tokenizer, &self.shape.manner, echoed.chars().count()),
            running: Some(running),
            begun: false,
            effort: Effort::default(),
            reader,
            finish: None,
            taken: 0,
            certainty: 0.0,
        });
        if !echoed.is_empty() && !self.shape.reports {
            self.ready.push_back(Piece { choice: index, text: echoed, ..Piece::default() });
        }
    }

    /// Has the request answered once more, unheard, when it is answered.
    pub(super) fn copy(&mut self, silent: Silent, request: Request) {
        self.account.copy(Box::new(Copy { silent, request, manner: self.shape.manner.clone() }));
    }

    /// It was refused after all: nothing was generated, nobody left, and there is nothing to write down.
    pub(super) fn refuse(mut self) {
        self.account.void();
    }

    /// Keeps the answer when it is complete.
    pub(super) fn record(&mut self, recorder: Option<Recorder>) {
        self.recorder = recorder;
    }

    /// Gives an answer that was given before, all of it at once.
    pub(super) fn replay(&mut self, stored: &Stored) -> Result<(), GatewayError> {
        self.usage = Usage { cached_tokens: stored.usage.prompt_tokens, ..stored.usage };
        self.choices = stored.pieces.len();
        self.ready.extend(stored.pieces.iter().cloned());
        stored.pieces.iter().filter(|piece| piece.choice == 0).for_each(|piece| self.account.text(&piece.said()));
        let outcome = if stored.is_cut() { Outcome::Length } else { Outcome::Stop };
        self.account.settle(self.usage, outcome, Effort::default())
    }

    /// What answers, fixed from the first token to the last.
    pub fn served(&self) -> &Served {
        &self.shape.served
    }

    /// Number of answers.
    pub fn choices(&self) -> usize {
        self.choices
    }

    /// What is left of the caller's limits.
    pub fn rate(&self) -> Rate {
        self.account.rate()
    }

    /// Whether the answer came from the response cache.
    pub fn cache(&self) -> CacheUse {
        self.account.cache()
    }

    /// What it cost, nano-dollars; known after the last piece.
    pub fn cost_nanos(&self) -> Option<i64> {
        self.account.cost_nanos()
    }

    /// When the backend had nothing more to do for it.
    pub fn ended_at(&self) -> Instant {
        self.ended
    }

    /// Tokens so far; final after the last piece.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Natural logarithm of the probability of an answer's choices among what its grammar allowed, so far.
    pub fn certainty(&self, choice: usize) -> f64 {
        self.sequences.get(choice).map_or(0.0, |sequence| sequence.certainty)
    }

    /// The next piece of any answer; `None` after every answer's last. An error ends all of them. The last piece of all comes
    /// when the request's row is in the ledger. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Piece, GatewayError>> {
        loop {
            if !self.is_running() {
                // What is still to be handed out is the end of the answer.
                self.account.synced().await;
            }
            if let Some(piece) = self.ready.pop_front() {
                if let Some(recorder) = &mut self.recorder {
                    recorder.note(&piece);
                    if self.ready.is_empty()
                        && !self.is_running()
                        && let Some(recorder) = self.recorder.take()
                    {
                        recorder.finish(self.usage);
                    }
                }
                return Some(Ok(piece));
            }
            if self.failed || !self.is_running() {
                return None;
            }
            let taken = match self.arrivals.next().await {
                Some((index, arrival, effort)) => self.take(index, arrival, effort),
                None => Err(GatewayError::Engine("it closed a sequence without ending it. This is a bug.".to_owned())),
            };
            if taken.is_err() || !self.is_running() {
                self.ended = Instant::now();
            }
            let settled = match &taken {
                Ok(()) if !self.is_running() => self.settle(self.outcome()),
                Ok(()) => Ok(()),
                // The row says how it ended; the error that matters is the first one.
                Err(GatewayError::Form { .. }) => self.settle(Outcome::Refused).or(Ok(())),
                Err(_) => self.settle(Outcome::Failed).or(Ok(())),
            };
            if let Err(error) = taken.and(settled) {
                self.failed = true;
                self.arrivals.clear();
                self.ready.clear();
                self.recorder = None;
                return Some(Err(error));
            }
        }
    }

    /// Waits for its first piece, which stays: whatever fails before that can be answered by something else. Not for answers that are
    /// kept.
    pub(super) async fn begun(&mut self) -> Result<(), GatewayError> {
        match self.next().await {
            None => Ok(()),
            Some(Ok(piece)) => {
                self.ready.push_front(piece);
                Ok(())
            }
            Some(Err(error)) => Err(error),
        }
    }

    fn outcome(&self) -> Outcome {
        let length = self.sequences.iter().any(|sequence| sequence.finish == Some(FinishReason::Length));
        if length { Outcome::Length } else { Outcome::Stop }
    }

    fn settle(&mut self, outcome: Outcome) -> Result<(), GatewayError> {
        let mut usage = self.usage;
        if outcome == Outcome::Cancelled {
            // Who leaves pays for what was done, not only for what was read: each prompt from its first step on, and every token.
            let mut begun = vec![false; self.prompts.len()];
            for sequence in &mut self.sequences {
                begun[sequence.prompt] |= sequence.begun;
                let running = sequence.reader.as_ref().filter(|_| sequence.running.is_some());
                if let Some(now) = running.map(EffortReader::read) {
                    begun[sequence.prompt] |= !now.computed.is_zero();
                    usage.completion_tokens += now.generated.saturating_sub(sequence.taken);
                    sequence.effort = now;
                }
            }
            usage.prompt_tokens =
                self.prompts.iter().zip(begun).filter(|(_, begun)| *begun).map(|(prompt, _)| prompt.tokens).sum();
        }
        if matches!(outcome, Outcome::Stop | Outcome::Length) {
            self.account.judge(self.certainty(0).exp());
        }
        let efforts = self.sequences.iter().fold(Effort::default(), |sum, sequence| sum.and(sequence.effort));
        self.account.settle(usage, outcome, efforts)
    }

    /// The next piece, if it is there without waiting.
    pub fn next_ready(&mut self) -> Poll<Option<Result<Piece, GatewayError>>> {
        self.next().now_or_never().map_or(Poll::Pending, Poll::Ready)
    }

    fn is_running(&self) -> bool {
        self.sequences.iter().any(|sequence| sequence.running.is_some())
    }

    fn take(&mut self, index: usize, arrival: Arrival, effort: Effort) -> Result<(), GatewayError> {
        // A stop string ended the sequence while the engine was a token ahead.
        if self.sequences[index].running.is_none() {
            return Ok(());
        }
        // Every prompt counts once: further answers to it find what the first one computed.
        if index.is_multiple_of(self.shape.n) && !self.sequences[index].begun {
            self.usage.cached_tokens += effort.cached_tokens;
        }
        self.sequences[index].begun = true;
        self.sequences[index].effort = effort;
        let event = match arrival {
            Arrival::Event(event) => event,
            Arrival::Prompt(report) => {
                let text = self.prompts[self.sequences[index].prompt].text.clone().unwrap_or_default();
                self.ready.push_back(Piece { choice: index, text, prompt: report, ..Piece::default() });
                return Ok(());
            }
            Arrival::Broken(error) => return Err(error),
        };
        match event {
            // Nobody asked for it.
            Event::Prompt(_) => {}
            Event::Embedding(vector) => {
                self.ready.push_back(Piece { choice: index, embedding: Some(vector.into()), ..Piece::default() });
            }
            Event::Token { id, logprob, choice } => {
                self.sequences[index].certainty += choice.map_or(0.0, f64::from);
                self.take_token(index, id, logprob);
            }
            Event::Done { finish, .. } => {
                let reason = match finish {
                    Finish::Stop => FinishReason::Stop,
                    Finish::Length => FinishReason::Length,
                };
                let piece = self.sequences[index].speech.end(reason);
                self.send(index, piece);
            }
            Event::NothingAllowed => {
                let problem = "allows nothing more after a part of the answer, or is too large to be followed further".to_owned();
                return Err(match self.shape.form_field {
                    Some(field) => GatewayError::Form { field, problem },
                    // A grammar of our own.
                    None => GatewayError::Engine(format!("the grammar {problem}")),
                });
            }
            Event::Failed(reason) => return Err(GatewayError::Engine(reason)),
            Event::CutOff => return Err(GatewayError::Stopping),
        }
        Ok(())
    }

    fn take_token(&mut self, index: usize, id: u32, logprob: Option<TokenLogprob>) {
        self.account.token();
        self.usage.completion_tokens += 1;
        self.sequences[index].taken += 1;
        let shown = self.shape.manner.shows(id);
        let reported = self.shape.reports && (shown || self.shape.end_token == EndToken::Reported);
        let report = reported.then(|| report(&self.tokenizer, id, logprob.as_ref()));
        let piece = self.sequences[index].speech.token(shown.then_some(id), report);
        self.send(index, piece);
    }

    fn send(&mut self, index: usize, piece: Piece) {
        if piece.finish.is_some()
            && let Some(running) = self.sequences[index].running.take()
        {
            running.abort();
            self.sequences[index].finish = piece.finish;
        }
        if index == 0 {
            self.account.text(&piece.said());
        }
        if piece.finish.is_some() || !piece.text.is_empty() || !piece.calls.is_empty() || !piece.tokens.is_empty() {
            self.ready.push_back(Piece { choice: index, ..piece });
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // Settled already, unless the client has left. Nobody is there to hear of an error, which is logged where it happens.
        let _ = self.settle(Outcome::Cancelled);
    }
}
