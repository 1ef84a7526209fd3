//! Tests of the whole engine over the seeded model: what a caller sees of one or a few requests.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod endings;
mod equality;
mod outside;

use std::sync::Arc;

use super::request::{Event, Finish, Pooling, Realm, Request, Sampling, TokenLogprob};
use super::seeded::{Fault, SeededModel, SeededOptions, StepGate, seeded_adapter};
use super::*;
use crate::model::lora::PreparedAdapter;

fn request(prompt: &str, max_tokens: usize) -> Request {
    Request {
        prompt: prompt.bytes().map(u32::from).collect(),
        adapter: None,
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        max_tokens,
        stop_tokens: Arc::new([256]),
        logprobs: None,
        prompt_logprobs: None,
        grammar: None,
        pooling: None,
        realm: Realm::default(),
    }
}

fn with_adapter(adapter: &Arc<PreparedAdapter>, request: Request) -> Request {
    Request { adapter: Some(Arc::clone(adapter)), ..request }
}

fn engine(options: SeededOptions, config: EngineConfig) -> EngineHandle {
    start(Box::new(SeededModel::new(options)), config).unwrap()
}

fn gated(options: SeededOptions, config: EngineConfig) -> (EngineHandle, StepGate) {
    let (model, gate) = SeededModel::gated(options);
    (start(Box::new(model), config).unwrap(), gate)
}

fn collect(mut generation: Generation) -> Vec<Event> {
    std::iter::from_fn(|| generation.blocking_next()).collect()
}

/// The answer on a fresh engine with nothing beside it.
fn alone(options: &SeededOptions, config: &EngineConfig, request: Request) -> Result<Vec<Event>, SubmitError> {
    let config = EngineConfig { prefix_cache: PrefixCache::Off, speculation_tokens: 0, ..config.clone() };
    let engine = engine(SeededOptions { faults: vec![], ..options.clone() }, config);
    engine.submit(request).map(collect)
}

/// Events without the one number that may depend on others.
fn comparable(mut events: Vec<Event>) -> Vec<Event> {
    for event in &mut events {
        if let Event::Done { cached_tokens, .. } = event {
            *cached_tokens = 0;
        }
    }
    events
}

fn tokens(events: &[Event]) -> Vec<u32> {
    events.iter().filter_map(|event| if let Event::Token { id, .. } = event { Some(*id) } else { None }).collect()
}

fn cached(events: &[Event]) -> usize {
    let Some(Event::Done { cached_tokens, .. }) = events.last() else { panic!("no answer: {events:?}") };
    *cached_tokens
}

fn wait_until(engine: &EngineHandle, condition: impl Fn(&Stats) -> bool) -> Stats {
    let began = std::time::Instant::now();
    loop {
        let stats = engine.stats();
        if condition(&stats) {
            return stats;
        }
        assert!(began.elapsed().as_secs() < 20, "it never happens: {stats:?}");
        std::thread::yield_now();
    }
}

#[test]
fn an_answer_ends_at_its_length_and_is_the_same_again() {
    let engine = engine(SeededOptions::default(), EngineConfig::default());
    let _leaks = LeakCheck::new(engine.clone());
    let events = collect(engine.submit(request("hello", 5)).unwrap());
    assert_eq!(events.len(), 6, "{events:?}");
    assert_eq!(events[5], Event::Done { finish: Finish::Length, cached_tokens: 0 });
    assert_eq!(events, collect(engine.submit(request("hello", 5)).unwrap()));
}

#[test]
fn a_stop_token_is_sent_and_ends_the_answer() {
    let engine = engine(SeededOptions::default(), EngineConfig::default());
    let free = tokens(&collect(engine.submit(request("hello", 8)).unwrap()));
    let stop = free[3];
    let first = free.iter().position(|token| *token == stop).unwrap();
    let stopped = collect(engine.submit(Request { stop_tokens: Arc::new([999, stop]), ..request("hello", 8) }).unwrap());
    assert_eq!(tokens(&stopped), free[..=first]);
    assert!(matches!(stopped.last(), Some(Event::Done { finish: Finish::Stop, .. })), "{stopped:?}");
}

#[test]
fn an_answer_ends_where_the_context_does() {
    let engine = engine(SeededOptions { context: 20, ..SeededOptions::default() }, EngineConfig::default());
    let events = collect(engine.submit(request("hello", usize::MAX)).unwrap());
    assert_eq!(tokens(&events).len(), 15);
    assert!(matches!(events.last(), Some(Event::Done { finish: Finish::Length, .. })));
    assert_eq!(tokens(&collect(engine.submit(request(&"x".repeat(19), 9)).unwrap())).len(), 1);
}

#[test]
fn an_embedding_is_one_vector_whatever_was_computed_before() {
    let config = EngineConfig { max_batch_tokens: 16, max_sequences: 4, ..EngineConfig::default() };
    let engine = engine(SeededOptions::default(), config);
    let _leaks = LeakCheck::new(engine.clone());
    let text = "a text of more than one block, and of more than one step";
    let pooled = |pooling| Request { pooling: Some(pooling), ..request(text, 0) };
    let first = collect(engine.submit(pooled(Pooling::Mean)).unwrap());
    let [Event::Embedding(mean), Event::Done { finish: Finish::Stop, cached_tokens: 0 }] = &first[..] else {
        panic!("{first:?}");
    };
    assert!(mean.len() == 16 && mean.iter().any(|value| *value != 0.0));
    collect(engine.submit(request(text, 2)).unwrap());
    assert_eq!(first, collect(engine.submit(pooled(Pooling::Mean)).unwrap()), "every row is wanted, cached or not");
    let last = collect(engine.submit(pooled(Pooling::Last)).unwrap());
    assert!(cached(&last) > 0 && last[0] != first[0], "the last row needs no others: {last:?}");
    let refusal = engine.submit(Request { max_tokens: 3, ..pooled(Pooling::Last) }).unwrap_err();
    assert_eq!(refusal.to_string(), "max_tokens is 3; with an embedding it must be 0");
    let broken = SeededOptions { faults: vec![Fault::NanOn(u32::from(b'x'))], ..SeededOptions::default() };
    let events = collect(
        super::start(Box::new(SeededModel::new(broken)), EngineConfig::default())
            .unwrap()
            .submit(Request { pooling: Some(Pooling::Mean), ..request("ax", 0) })
            .unwrap(),
    );
    assert!(matches!(&events[..], [Event::Failed(reason)] if reason.contains("not finite")), "{events:?}");
}

#[test]
fn embeddings_of_one_tenant_do_not_hold_up_anothers() {
    let (engine, gate) = gated(SeededOptions::default(), EngineConfig { max_sequences: 1, ..EngineConfig::default() });
    let of = |tenant: &str| Request { pooling: Some(Pooling::Mean), realm: Realm::named(tenant), ..request("a text", 0) };
    let many: Vec<Generation> = (0..8).map(|_| engine.submit(of("many")).unwrap()).collect();
    let mut few = engine.submit(of("few")).unwrap();
    // The first may be in its step already, before any other is there; then it counts for nothing, and the next comes first again.
    gate.open(3);
    let waited = async { tokio::time::timeout(std::time::Duration::from_secs(20), few.next()).await };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert!(matches!(runtime.block_on(waited), Ok(Some(Event::Embedding(_)))), "it comes behind two at most, not behind eight");
    drop((many, gate));
}

#[test]
fn requests_that_cannot_be_answered_are_refused_with_the_reason() {
    let config = EngineConfig { kv_blocks: 2, ..EngineConfig::default() };
    let engine = engine(SeededOptions::default(), config);
    assert_eq!(engine.facts().max_context, 32, "all blocks together are shorter than the context");
    let refusal = |request| engine.submit(request).map(|_| ()).unwrap_err();
    assert_eq!(refusal(request(&"x".repeat(32), 1)), SubmitError::PromptTooLong { tokens: 32, limit: 31 });
    assert!(engine.submit(request(&"x".repeat(32), 0)).is_ok(), "without an answer it fits");
    let sampled = |sampling| refusal(Request { sampling, ..request("x", 1) }).to_string();
    assert_eq!(refusal(request("", 1)).to_string(), "prompt is empty; at least one token is needed");
    let outside = Request { prompt: vec![1, 260], ..request("", 1) };
    assert_eq!(refusal(outside).to_string(), "prompt token 1 is 260; the vocabulary has 260 tokens");
    let hot = sampled(Sampling { temperature: f32::NAN, ..Sampling::default() });
    assert_eq!(hot, "temperature is NaN; it must be between 0 and 100");
    let wide = sampled(Sampling { top_p: 1.5, ..Sampling::default() });
    assert_eq!(wide, "top_p is 1.5; it must be between 0 and 1");
    let biased = sampled(Sampling { logit_bias: Arc::new([(260, 1.0)]), ..Sampling::default() });
    assert_eq!(biased, "logit_bias names token 260; the vocabulary has 260 tokens");
}

#[test]
fn settings_that_contradict_each_other_do_not_start() {
    let refusal = |config| start(Box::new(SeededModel::new(SeededOptions::default())), config).unwrap_err().to_string();
    assert!(refusal(EngineConfig { kv_blocks: 0, ..EngineConfig::default() }).starts_with("kv_blocks is 0"));
    let narrow = EngineConfig { max_batch_tokens: 10, max_sequences: 11, ..EngineConfig::default() };
    assert!(refusal(narrow).starts_with("max_batch_tokens is 10; it must be at least max_sequences, 11"));
}

#[test]
fn prompt_log_probabilities_are_those_of_generating_the_same_text() {
    let engine = engine(SeededOptions::default(), EngineConfig { max_batch_tokens: 64, ..EngineConfig::default() });
    // Longer than the bound on rows in one step.
    let prompt: String = "a long prompt ".repeat(12);
    let answer = collect(engine.submit(Request { logprobs: Some(3), ..request(&prompt, 40) }).unwrap());
    let generated: Vec<(u32, TokenLogprob)> = answer
        .iter()
        .filter_map(
            |event| if let Event::Token { id, logprob, .. } = event { Some((*id, logprob.clone().unwrap())) } else { None },
        )
        .collect();
    assert!(generated.iter().all(|(id, logprob)| logprob.top[0] == (*id, logprob.logprob)), "greedy takes the most likely");
    let mut echo = Request { prompt_logprobs: Some(3), ..request(&prompt, 0) };
    echo.prompt.extend(generated.iter().map(|(id, _)| id));
    let length = echo.prompt.len();
    let events = collect(engine.submit(echo).unwrap());
    let [Event::Prompt(entries), Event::Done { finish: Finish::Length, cached_tokens: 0 }] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(entries.len(), length);
    assert_eq!(entries[0], None);
    let tail: Vec<TokenLogprob> = entries[length - 40..].iter().cloned().map(Option::unwrap).collect();
    assert_eq!(tail, generated.into_iter().map(|(_, logprob)| logprob).collect::<Vec<_>>());
}

#[test]
fn a_prompt_of_one_token_has_nothing_to_report_before_it() {
    let engine = engine(SeededOptions::default(), EngineConfig::default());
    let events = collect(engine.submit(Request { prompt_logprobs: Some(1), ..request("x", 2) }).unwrap());
    assert_eq!(events[0], Event::Prompt(vec![None]));
    assert_eq!(tokens(&events).len(), 2);
}

#[test]
fn adapters_answer_differently_and_never_share_a_prefix() {
    let (options, config) = (SeededOptions::default(), EngineConfig::default());
    let engine = engine(options.clone(), config.clone());
    let prompt = "the same sixty-four bytes of prompt for everybody who asks here.";
    let (one, two) = (seeded_adapter(1), seeded_adapter(2));
    let requests = [request(prompt, 9), with_adapter(&one, request(prompt, 9)), with_adapter(&two, request(prompt, 9))];
    let mut answers = Vec::new();
    for request in &requests {
        let first = collect(engine.submit(request.clone()).unwrap());
        assert_eq!(cached(&first), 0);
        assert_eq!(comparable(first.clone()), alone(&options, &config, request.clone()).unwrap());
        answers.push(tokens(&first));
    }
    assert!(answers[0] != answers[1] && answers[1] != answers[2] && answers[0] != answers[2]);
    for (request, answer) in requests.iter().zip(&answers) {
        let again = collect(engine.submit(request.clone()).unwrap());
        assert_eq!((cached(&again), &tokens(&again)), (48, answer), "its own prefix is found");
    }
    // A version that was unloaded and prepared again is the same version.
    let reloaded = collect(engine.submit(with_adapter(&seeded_adapter(1), request(prompt, 9))).unwrap());
    assert_eq!((cached(&reloaded), tokens(&reloaded)), (48, answers[1].clone()));
}

#[test]
fn sixteen_adapters_and_the_base_share_steps() {
    let (options, config) = (SeededOptions::default(), EngineConfig::default());
    let (engine, gate) = gated(options.clone(), config.clone());
    let _leaks = LeakCheck::new(engine.clone());
    let first = engine.submit(request("hold the door", 2)).unwrap();
    wait_until(&engine, |stats| stats.waiting == 0);
    let mut requests = vec![request("a question", 20)];
    requests.extend((1..=16).map(|number| with_adapter(&seeded_adapter(number), request("a question", 20))));
    let running: Vec<_> = requests.iter().map(|request| engine.submit(request.clone()).unwrap()).collect();
    drop(gate);
    collect(first);
    for (request, generation) in requests.into_iter().zip(running) {
        assert_eq!(collect(generation), alone(&options, &config, request).unwrap());
    }
    let stats = engine.stats();
    assert!(stats.sequences_per_step_max >= 17, "{stats:?}");
    assert_eq!(stats.adapters_per_step_max, 16);
    assert!(stats.steps < 30, "together, not one after another: {stats:?}");
}
