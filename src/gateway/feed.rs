//! The events of one sequence on their way to its answer, with the tokens of an echoed prompt made ready to be shown: the first
//! answer to a prompt has the engine compute their log-probabilities, the others wait for its report and share it.

use std::sync::Arc;

use futures::stream::{Stream, unfold};
use tokio::sync::watch;

use super::GatewayError;
use super::assemble::ReportedToken;
use super::size::{TOKEN_BYTES, by_size};
use crate::backends::{Effort, Event, Generation, TokenLogprob};
use crate::model::tokenizer::{Position, Specials, Tokenizer};

/// The tokens of an echoed prompt; all answers to it share them.
pub(super) type PromptReport = Arc<[ReportedToken]>;

/// What comes.
pub(super) enum Arrival {
    /// The prompt's tokens, before any other.
    Prompt(PromptReport),
    /// An event of the engine, other than the prompt's.
    Event(Event),
    /// The report could not be made.
    Broken(GatewayError),
}

/// How a sequence comes by the report of its prompt's tokens.
pub(super) enum Source {
    /// Nobody asked for one.
    None,
    /// Its own engine sequence computes it.
    Own(Reporter),
    /// Another answer's does.
    Other(watch::Receiver<Option<PromptReport>>),
}

/// Makes a prompt's report from what the engine computed.
pub(super) struct Reporter {
    pub tokenizer: Tokenizer,
    pub tokens: Arc<[u32]>,
    /// The other answers to the prompt listen here.
    pub others: watch::Sender<Option<PromptReport>>,
}

/// Answers to one prompt, in their order: the first has a report made, where one is wanted, the others share it.
pub(super) fn sources(reporter: Option<Reporter>, answers: usize) -> Vec<Source> {
    let Some(reporter) = reporter else { return (0..answers).map(|_| Source::None).collect() };
    let others: Vec<_> = (1..answers).map(|_| Source::Other(reporter.others.subscribe())).collect();
    std::iter::once(Source::Own(reporter)).chain(others).collect()
}

struct Feed {
    generation: Generation,
    source: Source,
}

/// Events with what the sequence has cost so far. Nothing is lost when a wait for the next is given up.
pub(super) fn feed(generation: Generation, source: Source) -> impl Stream<Item = (Arrival, Effort)> + Send {
    unfold(Feed { generation, source }, |mut feed| async move {
        let arrival = feed.next().await?;
        let effort = feed.generation.effort();
        Some(((arrival, effort), feed))
    })
}

impl Feed {
    async fn next(&mut self) -> Option<Arrival> {
        if let Source::Other(report) = &mut self.source {
            let report = report.wait_for(Option::is_some).await.ok().and_then(|report| report.clone());
            self.source = Source::None;
            // Without one the first answer has failed, and all with it.
            if let Some(report) = report {
                return Some(Arrival::Prompt(report));
            }
        }
        let event = self.generation.next().await?;
        let Event::Prompt(logprobs) = event else { return Some(Arrival::Event(event)) };
        let Source::Own(reporter) = std::mem::replace(&mut self.source, Source::None) else {
            return Some(Arrival::Event(Event::Prompt(logprobs)));
        };
        let Reporter { tokenizer, tokens, others } = reporter;
        let entries: usize = logprobs.iter().flatten().map(|logprob| logprob.top.len() + 1).sum();
        let report = by_size(entries * TOKEN_BYTES, move || report_prompt(&tokenizer, &tokens, &logprobs)).await;
        Some(match report {
            Ok(report) => {
                others.send_replace(Some(Arc::clone(&report)));
                Arrival::Prompt(report)
            }
            Err(error) => Arrival::Broken(error),
        })
    }
}

fn report_prompt(tokenizer: &Tokenizer, tokens: &[u32], logprobs: &[Option<TokenLogprob>]) -> PromptReport {
    let mut decoder = tokenizer.stream(Specials::Omit, Position::Start);
    let mut offset = 0;
    let mut one = |(position, &id): (usize, &u32)| {
        let logprob = logprobs.get(position).and_then(Option::as_ref);
        let report = ReportedToken { offset, ..report(tokenizer, id, logprob) };
        offset += decoder.push(id).chars().count();
        report
    };
    tokens.iter().enumerate().map(&mut one).collect()
}

/// A token as it is shown, at offset 0.
pub(super) fn report(tokenizer: &Tokenizer, id: u32, logprob: Option<&TokenLogprob>) -> ReportedToken {
    let bytes = |id| tokenizer.token_bytes(id).unwrap_or_default().to_vec();
    let top = logprob.map(|logprob| logprob.top.as_slice()).unwrap_or_default();
    ReportedToken {
        bytes: bytes(id),
        logprob: logprob.map(|logprob| logprob.logprob),
        top: top.iter().map(|&(id, logprob)| (bytes(id), logprob)).collect(),
        offset: 0,
    }
}
