//! The answers to one request while they come: engine events of all its sequences, merged, as pieces of text.
//! Dropping it cancels what still runs.

use std::collections::VecDeque;
use std::task::Poll;
use std::time::Instant;

use futures::stream::{AbortHandle, BoxStream, SelectAll, abortable, select_all, unfold};
use futures::{FutureExt, StreamExt};

use super::assemble::{Assembler, Delta, ReportedToken};
use super::metrics::Metrics;
use super::prompt::Rendered;
use super::types::{Echo, EndToken, FinishReason, Piece, Served, Stops, Usage};
use super::{GatewayError, StopText};
use crate::backends::{Event, Finish, Generation, TokenLogprob};
use crate::model::tokenizer::{Position, Specials, TextStream, Tokenizer};
use crate::registry::Lease;

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
    /// Answers to each prompt.
    pub n: usize,
    /// Where answers stand in their text.
    pub position: Position,
    /// Tokens that end an answer.
    pub end_tokens: Vec<u32>,
    pub stops: Stops,
}

/// Answers on their way.
pub struct Answer {
    shape: Shape,
    tokenizer: Tokenizer,
    metrics: Metrics,
    started: Instant,
    prompts: Vec<Rendered>,
    sequences: Vec<Sequence>,
    events: SelectAll<BoxStream<'static, (usize, Event, usize)>>,
    ready: VecDeque<Piece>,
    usage: Usage,
    failed: bool,
}

struct Sequence {
    prompt: usize,
    decoder: TextStream,
    text: Assembler,
    running: Option<AbortHandle>,
    /// An event came.
    begun: bool,
}

impl Answer {
    pub(super) fn new(shape: Shape, tokenizer: Tokenizer, metrics: Metrics) -> Self {
        Self {
            shape,
            tokenizer,
            metrics,
            started: Instant::now(),
            prompts: Vec::new(),
            sequences: Vec::new(),
            events: select_all([]),
            ready: VecDeque::new(),
            usage: Usage::default(),
            failed: false,
        }
    }

    /// Begins a prompt; the sequences that are added next answer it.
    pub(super) fn add_prompt(&mut self, mut prompt: Rendered) -> Result<(), GatewayError> {
        self.usage.prompt_tokens += prompt.tokens.len();
        if self.shape.echo == Echo::PromptAndAnswer && prompt.text.is_none() {
            let decoded = self.tokenizer.decode(&prompt.tokens, Specials::Omit);
            prompt.text = Some(decoded.map_err(|error| GatewayError::Tokenizer(error.to_string()))?);
        }
        self.prompts.push(prompt);
        Ok(())
    }

    pub(super) fn add_sequence(&mut self, generation: Generation) {
        let index = self.sequences.len();
        let prompt = self.prompts.len().saturating_sub(1);
        let echoed = match (self.shape.echo, self.prompts.last()) {
            (Echo::PromptAndAnswer, Some(Rendered { text: Some(text), .. })) => text.clone(),
            _ => String::new(),
        };
        let events = unfold(generation, move |mut generation| async move {
            let event = generation.next().await?;
            let cached = generation.cached_tokens();
            Some(((index, event, cached), generation))
        });
        let (events, running) = abortable(events);
        self.events.push(events.boxed());
        self.sequences.push(Sequence {
            prompt,
            decoder: self.tokenizer.stream(Specials::Omit, self.shape.position),
            text: Assembler::new(self.shape.stops.strings.clone(), self.shape.stops.text, echoed.chars().count()),
            running: Some(running),
            begun: false,
        });
        if !echoed.is_empty() && !self.shape.reports {
            self.ready.push_back(Piece { choice: index, text: echoed, ..Piece::default() });
        }
    }

    /// What answers, fixed from the first token to the last.
    pub fn served(&self) -> &Served {
        &self.shape.served
    }

    /// Number of answers.
    pub fn choices(&self) -> usize {
        self.sequences.len()
    }

    /// Tokens so far; final after the last piece.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// The next piece of any answer; `None` after every answer's last. An error ends all of them.
    pub async fn next(&mut self) -> Option<Result<Piece, GatewayError>> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Some(Ok(piece));
            }
            if self.failed || !self.is_running() {
                return None;
            }
            let taken = match self.events.next().await {
                Some((index, event, cached)) => self.take(index, event, cached),
                None => Err(GatewayError::Engine("it closed a sequence without ending it. This is a bug.".to_owned())),
            };
            if let Err(error) = taken {
                self.failed = true;
                self.events.clear();
                return Some(Err(error));
            }
        }
    }

    /// The next piece, if it is there without waiting.
    pub fn next_ready(&mut self) -> Poll<Option<Result<Piece, GatewayError>>> {
        self.next().now_or_never().map_or(Poll::Pending, Poll::Ready)
    }

    fn is_running(&self) -> bool {
        self.sequences.iter().any(|sequence| sequence.running.is_some())
    }

    fn take(&mut self, index: usize, event: Event, cached: usize) -> Result<(), GatewayError> {
        // A stop string ended the sequence while the engine was a token ahead.
        if self.sequences[index].running.is_none() {
            return Ok(());
        }
        // Every prompt counts once: further answers to it find what the first one computed.
        if index.is_multiple_of(self.shape.n) && !self.sequences[index].begun {
            self.usage.cached_tokens += cached;
        }
        self.sequences[index].begun = true;
        match event {
            Event::Prompt(logprobs) => self.take_prompt(index, &logprobs),
            Event::Token { id, logprob } => self.take_token(index, id, logprob),
            Event::Done { finish, .. } => {
                let sequence = &mut self.sequences[index];
                let held = sequence.decoder.finish();
                let delta = sequence.text.finish(&held);
                let reason = match finish {
                    _ if delta.stopped => FinishReason::Stop,
                    Finish::Stop => FinishReason::Stop,
                    Finish::Length => FinishReason::Length,
                };
                self.send(index, delta, Some(reason));
            }
            Event::Failed(reason) => return Err(GatewayError::Engine(reason)),
        }
        Ok(())
    }

    fn take_prompt(&mut self, index: usize, logprobs: &[Option<TokenLogprob>]) {
        let prompt = &self.prompts[self.sequences[index].prompt];
        let mut decoder = self.tokenizer.stream(Specials::Omit, Position::Start);
        let mut tokens = Vec::with_capacity(prompt.tokens.len());
        let mut offset = 0;
        for (position, &id) in prompt.tokens.iter().enumerate() {
            let logprob = logprobs.get(position).and_then(Option::as_ref);
            tokens.push(ReportedToken { offset, ..report(&self.tokenizer, id, logprob) });
            offset += decoder.push(id).chars().count();
        }
        let text = prompt.text.clone().unwrap_or_default();
        self.ready.push_back(Piece { choice: index, text, tokens, finish: None });
    }

    fn take_token(&mut self, index: usize, id: u32, logprob: Option<TokenLogprob>) {
        if self.usage.completion_tokens == 0 {
            self.metrics.first_token(self.started.elapsed());
        }
        self.usage.completion_tokens += 1;
        let stops = &self.shape.stops;
        let ends = self.shape.end_tokens.contains(&id);
        let shown = !ends || (stops.text == StopText::Included && stops.tokens.contains(&id));
        let reported = self.shape.reports && (shown || self.shape.end_token == EndToken::Reported);
        let report = reported.then(|| report(&self.tokenizer, id, logprob.as_ref()));
        let sequence = &mut self.sequences[index];
        let text = if shown { sequence.decoder.push(id) } else { String::new() };
        let delta = sequence.text.push(&text, report);
        if delta.stopped {
            self.send(index, delta, Some(FinishReason::Stop));
        } else if !delta.text.is_empty() || !delta.tokens.is_empty() {
            self.send(index, delta, None);
        }
    }

    fn send(&mut self, index: usize, delta: Delta, finish: Option<FinishReason>) {
        if finish.is_some()
            && let Some(running) = self.sequences[index].running.take()
        {
            running.abort();
        }
        self.ready.push_back(Piece { choice: index, text: delta.text, tokens: delta.tokens, finish });
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.metrics.ended(self.usage, self.started.elapsed(), !self.failed && self.is_running());
    }
}

fn report(tokenizer: &Tokenizer, id: u32, logprob: Option<&TokenLogprob>) -> ReportedToken {
    let top = logprob.map(|logprob| logprob.top.as_slice()).unwrap_or_default();
    ReportedToken {
        bytes: tokenizer.token_bytes(id).unwrap_or_default(),
        logprob: logprob.map(|logprob| logprob.logprob),
        top: top.iter().map(|&(id, logprob)| (tokenizer.token_bytes(id).unwrap_or_default(), logprob)).collect(),
        offset: 0,
    }
}
