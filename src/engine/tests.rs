//! Tests of the whole engine over the seeded model.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use super::request::{Event, Finish, Request, Sampling};
use super::seeded::{SeededModel, SeededOptions};
use super::*;

fn request(prompt: &str, max_tokens: usize) -> Request {
    Request {
        prompt: prompt.bytes().map(u32::from).collect(),
        adapter: None,
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        max_tokens,
        stop_tokens: vec![256],
        logprobs: None,
        prompt_logprobs: None,
    }
}

fn collect(mut generation: Generation) -> Vec<Event> {
    std::iter::from_fn(|| generation.blocking_next()).collect()
}

#[test]
fn a_request_is_answered() {
    let engine = start(Box::new(SeededModel::new(SeededOptions::default())), EngineConfig::default()).unwrap();
    let _leaks = LeakCheck::new(engine.clone());
    let events = collect(engine.submit(request("hello", 5)).unwrap());
    assert_eq!(events.len(), 6, "{events:?}");
    assert_eq!(events[5], Event::Done { finish: Finish::Length, cached_tokens: 0 });
    assert_eq!(events, collect(engine.submit(request("hello", 5)).unwrap()));
}
