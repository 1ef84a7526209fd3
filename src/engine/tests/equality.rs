//! The main promise: company never changes an answer. Random requests, arrivals and cancels over tiny KV memory, each answer
//! compared with that of the same request alone on a fresh engine without a prefix cache and without guesses.

use futures::FutureExt;
use proptest::prelude::*;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

const EOS: u32 = 15;

/// A small vocabulary repeats itself, so prefixes are shared and penalties matter.
fn options() -> SeededOptions {
    SeededOptions { vocab: 16, context: 120, eos: EOS, eos_bias: 0.5, text_bias: 0.0, ..SeededOptions::default() }
}

/// What happens between steps.
#[derive(Debug, Clone)]
enum Move {
    Submit(Box<Request>),
    Steps(usize),
    /// Drops the request with this number, modulo those submitted.
    Leave(usize),
}

prop_compose! {
    fn samplings()(
        temperature in prop_oneof![Just(0.0f32), 0.2f32..1.5],
        top_p in prop_oneof![Just(1.0f32), 0.3f32..1.0],
        top_k in prop_oneof![Just(0usize), 1usize..10],
        min_p in prop_oneof![Just(0.0f32), 0.0f32..0.3],
        penalties in prop_oneof![Just((0.0f32, 0.0f32, 1.0f32)), (0.0f32..1.0, 0.0f32..1.0, 0.8f32..1.5)],
        logit_bias in prop_oneof![Just(vec![]), Just(vec![(3, 2.0f32)])],
        seed in any::<u64>(),
    ) -> Sampling {
        let (presence_penalty, frequency_penalty, repetition_penalty) = penalties;
        Sampling { temperature, top_p, top_k, min_p, presence_penalty, frequency_penalty, repetition_penalty, logit_bias: logit_bias.into(), seed }
    }
}

prop_compose! {
    fn requests()(
        // A known beginning (of one of two kinds) and a short end of its own.
        kind in 0u32..2,
        shared in 0usize..70,
        own in prop::collection::vec(0u32..16, 1..8),
        adapter in prop_oneof![Just(None), (1u64..4).prop_map(Some)],
        sampling in samplings(),
        max_tokens in 0usize..50,
        stops in any::<bool>(),
        logprobs in prop::option::of(0usize..3),
        prompt_logprobs in prop_oneof![4 => Just(None), 1 => Just(Some(2usize))],
    ) -> Request {
        let mut prompt: Vec<u32> = (0..shared as u32).map(|position| (position / 3 + kind) % 15).collect();
        prompt.extend(own);
        let stop_tokens = if stops { Arc::new([EOS]) as Arc<[u32]> } else { Arc::default() };
        Request { realm: Realm::default(), prompt, adapter: adapter.map(seeded_adapter), sampling, max_tokens, stop_tokens, logprobs, prompt_logprobs, grammar: None, pooling: None }
    }
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        4 => requests().prop_map(|request| Move::Submit(Box::new(request))),
        3 => (1usize..12).prop_map(Move::Steps),
        1 => (0usize..100).prop_map(Move::Leave),
    ];
    prop::collection::vec(one, 1..40)
}

prop_compose! {
    fn configs()(
        kv_blocks in 3usize..14,
        max_sequences in 1usize..8,
        extra in 0usize..40,
        cache in any::<bool>(),
        speculation_tokens in prop_oneof![Just(0usize), 1usize..16],
    ) -> EngineConfig {
        let prefix_cache = if cache { PrefixCache::On } else { PrefixCache::Off };
        EngineConfig {
            kv_blocks,
            max_sequences,
            max_batch_tokens: max_sequences + extra,
            prefix_cache,
            speculation_tokens,
            ..EngineConfig::default()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn company_never_changes_an_answer(moves in moves(), config in configs()) {
        let (engine, gate) = gated(options(), config.clone());
        let _leaks = LeakCheck::new(engine.clone());
        let mut submitted: Vec<(Request, Option<Result<Generation, SubmitError>>)> = Vec::new();
        for one in moves {
            match one {
                Move::Submit(request) => submitted.push((Request::clone(&request), Some(engine.submit(*request)))),
                Move::Steps(steps) => gate.open(steps),
                Move::Leave(number) if submitted.is_empty() => gate.open(number),
                Move::Leave(number) => {
                    let number = number % submitted.len();
                    submitted[number].1 = None;
                }
            }
        }
        drop(gate);
        for (request, outcome) in submitted {
            let Some(outcome) = outcome else { continue };
            let together = outcome.map(collect).map(comparable);
            prop_assert_eq!(together, alone(&options(), &config, request));
        }
    }
}

/// The next event, letting one step at a time run until it is there.
fn next_event(engine: &EngineHandle, gate: &StepGate, generation: &mut Generation) -> Option<Event> {
    let mut opened_after = None;
    loop {
        if let Some(event) = generation.next().now_or_never() {
            return event;
        }
        let steps = engine.stats().steps;
        if opened_after != Some(steps) {
            gate.open(1);
            opened_after = Some(steps);
        }
        std::thread::yield_now();
    }
}

#[test]
fn two_thousand_requests_with_random_cancels_and_stops_hold_nothing_at_the_end() {
    let config = EngineConfig { kv_blocks: 16, max_sequences: 12, max_batch_tokens: 48, ..EngineConfig::default() };
    let (engine, gate) = gated(options(), config.clone());
    let _leaks = LeakCheck::new(engine.clone());
    let mut random = ChaCha8Rng::seed_from_u64(2000);
    let adapters: Vec<_> = (1..5).map(seeded_adapter).collect();
    let mut open: Vec<(Request, Generation)> = Vec::new();
    let (mut answered, mut left) = (0, 0);
    let mut compare = |request, events: Vec<Event>| {
        let expected = alone(&options(), &config, request).unwrap();
        assert_eq!(comparable(events.clone()), expected[..events.len()]);
        if events.len() == expected.len() {
            answered += 1;
        } else {
            left += 1;
        }
    };
    for number in 0..2000 {
        let kind = random.random_range(0..3);
        let mut prompt: Vec<u32> = (0..random.random_range(0..60)).map(|position| (position / 2 + kind) % 15).collect();
        prompt.push(random.random_range(0..16));
        let mut request = Request {
            realm: Realm::default(),
            prompt,
            adapter: random.random_bool(0.6).then(|| Arc::clone(adapters.choose(&mut random).unwrap())),
            sampling: Sampling { seed: number, ..Sampling::default() },
            max_tokens: random.random_range(0..50),
            stop_tokens: Arc::new([EOS]),
            logprobs: random.random_bool(0.2).then_some(1),
            prompt_logprobs: random.random_bool(0.1).then_some(1),
            grammar: None,
            pooling: None,
        };
        if random.random_bool(0.15) {
            let pooling = if random.random_bool(0.5) { Pooling::Mean } else { Pooling::Last };
            request = Request { max_tokens: 0, prompt_logprobs: None, pooling: Some(pooling), ..request };
        }
        open.push((request.clone(), engine.submit(request).unwrap()));
        gate.open(1);
        if random.random_bool(0.4) {
            // Somebody leaves with what there is.
            let (request, mut generation) = open.swap_remove(random.random_range(0..open.len()));
            let events = std::iter::from_fn(|| generation.next().now_or_never().flatten()).collect();
            drop(generation);
            compare(request, events);
        }
        let patience = if number == 1999 { 0 } else { 40 };
        while open.len() > patience {
            let (request, mut generation) = open.swap_remove(random.random_range(0..open.len()));
            let events = std::iter::from_fn(|| next_event(&engine, &gate, &mut generation)).collect();
            compare(request, events);
        }
    }
    drop(gate);
    let stats = wait_until(&engine, |stats| stats.running + stats.waiting == 0);
    assert_eq!(answered + left, 2000);
    assert_eq!((stats.failed, stats.kv_used), (0, 0));
    // The test means something only when all of this happened (in practice some hundred times each).
    assert!(stats.preemptions > 10 && stats.prefix_hit_tokens > 1000 && stats.cancelled > 20 && left > 20, "{stats:?}");
    assert!(stats.guessed_tokens > 1000 && stats.right_guesses > 20, "{stats:?}");
    assert!(stats.sequences_per_step_max >= 4 && stats.adapters_per_step_max >= 2, "{stats:?}");
}
