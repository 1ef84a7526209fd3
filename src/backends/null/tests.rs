//! The null backend as the gateway sees it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use super::*;
use crate::backends::{Realm, Sampling};
use crate::model::config::{Architecture, RopeScaling};

const LONG: Duration = Duration::from_secs(3600);

fn tokenizer() -> Tokenizer {
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [{"id": 5, "content": "<end>", "special": true, "single_word": false, "lstrip": false,
                          "rstrip": false, "normalized": false}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                  "vocab": {"a": 0, "Ġthe": 1, "Ġtwo": 2, "Ġsix": 3, "Ġ1": 4}, "merges": []},
    });
    Tokenizer::from_json(json.to_string().as_bytes()).unwrap()
}

fn backend(delay: Duration, gap: Duration) -> NullBackend {
    let model = ModelConfig {
        architecture: Architecture::Llama,
        vocab_size: 6,
        hidden_size: 8,
        intermediate_size: 12,
        layers: 1,
        heads: 2,
        kv_heads: 1,
        head_dim: 4,
        rms_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        context_length: 64,
        sliding_window: None,
        tied_embeddings: false,
        details: crate::model::config::Details::default(),
    };
    let config = NullConfig { model, pace: Pace { delay, gap }, open_length: 5, queue_capacity: 3 };
    NullBackend::start(config, &tokenizer()).unwrap()
}

fn request(max_tokens: usize) -> Request {
    Request {
        prompt: vec![1, 2, 3],
        adapter: None,
        sampling: Sampling::default(),
        max_tokens,
        stop_tokens: Arc::default(),
        logprobs: None,
        prompt_logprobs: None,
        grammar: None,
        pooling: None,
        realm: Realm::default(),
    }
}

fn submit(backend: &NullBackend, request: Request) -> Generation {
    let mut places = backend.reserve(1, usize::MAX).unwrap();
    backend.submit_at(&mut places, request).unwrap()
}

async fn next(generation: &mut Generation) -> Option<Event> {
    std::future::poll_fn(|context| generation.poll_next(context)).await
}

/// Token ids, and the last event.
async fn read(mut generation: Generation) -> (Vec<u32>, Event) {
    let mut ids = Vec::new();
    loop {
        match next(&mut generation).await.expect("a last event") {
            Event::Token { id, .. } => ids.push(id),
            Event::Prompt(_) | Event::Embedding(_) => {}
            last => {
                assert_eq!(next(&mut generation).await, None);
                return (ids, last);
            }
        }
    }
}

fn held(backend: &NullBackend) -> (usize, usize) {
    let stats = backend.stats();
    (stats.waiting, stats.running)
}

#[tokio::test]
async fn an_answer_is_so_many_words_after_the_delay_and_ends_by_its_length() {
    let backend = backend(Duration::from_millis(2), Duration::from_micros(100));
    let began = Instant::now();
    let (ids, last) = read(submit(&backend, request(16))).await;
    assert!(began.elapsed() >= Duration::from_micros(3500), "{:?}", began.elapsed());
    assert_eq!(ids.len(), 16);
    assert!(ids.iter().all(|id| (1..=3).contains(id)), "words only: {ids:?}");
    assert_eq!(last, Event::Done { finish: Finish::Length, cached_tokens: 0 });
    let stats = backend.stats();
    assert_eq!((stats.generated_tokens, stats.prompt_tokens, stats.completed), (16, 3, 1));
    assert_eq!(held(&backend), (0, 0));
}

#[tokio::test]
async fn the_same_request_has_the_same_answer_and_another_one_has_another() {
    let backend = backend(Duration::ZERO, Duration::ZERO);
    let seeded = |seed, temperature| {
        let sampling = Sampling { seed, temperature, ..Sampling::default() };
        Request { sampling, ..request(40) }
    };
    let mut answers = Vec::new();
    for request in [seeded(1, 1.0), seeded(1, 1.0), seeded(2, 1.0), seeded(1, 0.0), seeded(2, 0.0)] {
        answers.push(read(submit(&backend, request)).await.0);
    }
    assert_eq!(answers[0], answers[1]);
    assert_ne!(answers[0], answers[2]);
    assert_eq!(answers[3], answers[4], "a greedy answer does not depend on its seed");
    let other = Request { prompt: vec![1, 2, 2], ..seeded(1, 0.0) };
    assert_ne!(read(submit(&backend, other)).await.0, answers[3]);
}

#[tokio::test]
async fn lengths_and_stop_tokens_are_honoured() {
    let backend = backend(Duration::ZERO, Duration::ZERO);
    let (open, _) = read(submit(&backend, request(61))).await;
    assert_eq!(open.len(), 5, "who asks for all the room gets the usual length");
    assert_eq!(read(submit(&backend, request(60))).await.0.len(), 60);
    assert_eq!(read(submit(&backend, request(0))).await.0.len(), 0);
    let stopping = Request { stop_tokens: vec![1, 2, 3].into(), ..request(16) };
    let (ids, last) = read(submit(&backend, stopping)).await;
    assert_eq!((ids.len(), last), (1, Event::Done { finish: Finish::Stop, cached_tokens: 0 }));
    let mut places = backend.reserve(1, usize::MAX).unwrap();
    let long = Request { prompt: vec![1; 64], ..request(1) };
    let refused = backend.submit_at(&mut places, long).unwrap_err();
    assert_eq!(refused, SubmitError::PromptTooLong { tokens: 64, limit: 63 });
    drop(places);
    assert_eq!(held(&backend), (0, 0));
}

#[tokio::test]
async fn reports_have_the_shape_of_a_models() {
    let backend = backend(Duration::ZERO, Duration::ZERO);
    let asked = Request { logprobs: Some(2), prompt_logprobs: Some(2), ..request(1) };
    let mut generation = submit(&backend, asked);
    let Some(Event::Prompt(report)) = next(&mut generation).await else { panic!("the prompt comes first") };
    assert_eq!(report.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true, true]);
    let Some(Event::Token { id, logprob: Some(logprob), .. }) = next(&mut generation).await else { panic!("a token") };
    assert_eq!(logprob, TokenLogprob { logprob: 0.0, top: vec![(id, 0.0)] });
}

#[tokio::test]
async fn the_queue_is_bounded_and_who_leaves_gives_back_at_once() {
    let backend = backend(LONG, Duration::ZERO);
    let mut places = backend.reserve(2, usize::MAX).unwrap();
    assert_eq!(backend.reserve(2, usize::MAX).unwrap_err(), SubmitError::Overloaded { waiting: 2 });
    let one = backend.submit_at(&mut places, request(16)).unwrap();
    let two = backend.submit_at(&mut places, request(16)).unwrap();
    drop(places);
    assert_eq!(held(&backend), (2, 0));
    drop(one);
    assert_eq!(held(&backend), (1, 0));
    drop((two, backend.reserve(2, usize::MAX).unwrap()));
    assert_eq!(held(&backend), (0, 0));
    assert_eq!(backend.stats().cancelled, 2);
}

#[tokio::test]
async fn the_end_of_a_shutdown_cuts_off_and_nothing_is_taken_after_it() {
    let backend = backend(LONG, Duration::ZERO);
    let waiting = submit(&backend, request(16));
    backend.shutdown(Duration::ZERO).await;
    assert_eq!(*backend.health().borrow(), Health::Stopped);
    assert_eq!(backend.reserve(1, usize::MAX).unwrap_err(), SubmitError::Stopping);
    assert_eq!(read(waiting).await, (vec![], Event::CutOff));
    assert_eq!(held(&backend), (0, 0));
}

#[tokio::test]
async fn a_shutdown_lets_answers_finish_within_its_deadline() {
    let backend = backend(Duration::from_millis(5), Duration::ZERO);
    let waiting = submit(&backend, request(16));
    backend.shutdown(LONG).await;
    assert_eq!(read(waiting).await.0.len(), 16);
}
