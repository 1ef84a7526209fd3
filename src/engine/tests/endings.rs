//! How sequences and the engine end: cancels, failures, overload, shutdown.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;

fn failure(events: &[Event]) -> &str {
    let Some(Event::Failed(why)) = events.last() else { panic!("no failure: {events:?}") };
    why
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn a_client_that_leaves_frees_its_blocks_within_a_step() {
    let (model, gate) = SeededModel::gated(SeededOptions::default());
    let begun = model.step_counter();
    let engine = start(Box::new(model), EngineConfig::default()).unwrap();
    let _leaks = LeakCheck::new(engine.clone());
    let lets_run = |steps: u64| {
        gate.open(1);
        // The next step is planned and waits at the gate.
        wait_until(&engine, |_| begun.load(Ordering::SeqCst) == steps + 1)
    };
    let lease = seeded_adapter(1);
    let stays = engine.submit(request("stays", 500)).unwrap();
    lets_run(1);
    let leaves = engine.submit(with_adapter(&lease, request(&"leaves ".repeat(9), 400))).unwrap();
    let before = lets_run(2);
    // Beside a running answer a prompt begins with a chunk of two blocks.
    assert_eq!((before.running, before.kv_used), (2, 1 + 2));
    drop(leaves);
    let after = lets_run(3);
    assert_eq!((after.running, after.kv_used, after.cancelled), (1, 1, 1));
    assert_eq!(Arc::strong_count(&lease), 1, "the lease is given back, too");
    drop((stays, gate));
}

#[test]
fn who_received_the_end_finds_nothing_held() {
    let engine = engine(SeededOptions::default(), EngineConfig::default());
    let lease = seeded_adapter(3);
    for _ in 0..50 {
        collect(engine.submit(with_adapter(&lease, request("short", 3))).unwrap());
        let stats = engine.stats();
        assert_eq!((stats.running, stats.waiting, stats.kv_used), (0, 0, 0));
        assert_eq!(Arc::strong_count(&lease), 1);
    }
}

#[test]
fn a_request_whose_client_left_in_the_queue_is_never_computed() {
    let config = EngineConfig { max_sequences: 1, ..EngineConfig::default() };
    let (engine, gate) = gated(SeededOptions::default(), config);
    let first = engine.submit(request("first", 3)).unwrap();
    wait_until(&engine, |stats| stats.waiting == 0);
    drop(engine.submit(request("never", 3)).unwrap());
    drop(gate);
    assert_eq!(tokens(&collect(first)).len(), 3);
    let stats = wait_until(&engine, |stats| stats.cancelled == 1);
    assert_eq!(stats.prompt_tokens, 5, "only the first prompt was computed");
}

#[test]
fn overload_is_refused_at_once_and_passes() {
    let config = EngineConfig { max_sequences: 1, queue_capacity: 2, ..EngineConfig::default() };
    let (engine, gate) = gated(SeededOptions::default(), config);
    let _leaks = LeakCheck::new(engine.clone());
    let mut accepted = vec![engine.submit(request("runs", 3)).unwrap()];
    wait_until(&engine, |stats| stats.waiting == 0);
    accepted.extend((0..2).map(|_| engine.submit(request("waits", 3)).unwrap()));
    assert_eq!(engine.stats().waiting, 2);
    let refusal = engine.submit(request("too many", 3)).unwrap_err();
    assert_eq!(refusal, SubmitError::Overloaded { waiting: 2 });
    drop(gate);
    for generation in accepted {
        assert_eq!(tokens(&collect(generation)).len(), 3);
    }
    assert_eq!(tokens(&collect(engine.submit(request("too many", 3)).unwrap())).len(), 3);
}

#[test]
fn places_are_reserved_together_or_not_at_all_and_given_back() {
    let config = EngineConfig { queue_capacity: 4, ..EngineConfig::default() };
    let engine = engine(SeededOptions::default(), config);
    let _leaks = LeakCheck::new(engine.clone());
    let mut places = engine.reserve(3, usize::MAX).unwrap();
    assert_eq!(engine.reserve(2, usize::MAX).unwrap_err(), SubmitError::Overloaded { waiting: 3 });
    assert_eq!(engine.stats().waiting, 3, "a refusal takes nothing");
    assert_eq!(tokens(&collect(engine.submit_at(&mut places, request("uses one", 3)).unwrap())).len(), 3);
    assert_eq!(engine.stats().waiting, 2);
    drop(places);
    assert_eq!(engine.stats().waiting, 0);
    assert!(engine.reserve(5, usize::MAX).is_err() && engine.reserve(4, usize::MAX).is_ok());
}

#[test]
fn an_error_in_a_step_fails_its_sequences_and_no_others() {
    let options = SeededOptions { faults: vec![Fault::ErrorAtStep(1)], ..SeededOptions::default() };
    let config = EngineConfig { max_sequences: 1, ..EngineConfig::default() };
    let engine = engine(options.clone(), config.clone());
    let _leaks = LeakCheck::new(engine.clone());
    let hit = engine.submit(request("a prompt of more than one block", 9)).unwrap();
    let spared = engine.submit(request("a prompt of more than one block", 9)).unwrap();
    let hit = collect(hit);
    assert_eq!(tokens(&hit).len(), 1);
    assert_eq!(failure(&hit), "a step failed: device: planned failure of step 1");
    let expected = alone(&options, &config, request("a prompt of more than one block", 9)).unwrap();
    assert_eq!(comparable(collect(spared)), expected);
    assert_eq!((engine.stats().failed_steps, engine.stats().failed, engine.stats().completed), (1, 1, 1));
}

#[test]
fn logits_that_are_no_numbers_fail_their_own_sequence_only() {
    let options = SeededOptions { faults: vec![Fault::NanOn(u32::from(b'!'))], ..SeededOptions::default() };
    let (engine, gate) = gated(options.clone(), EngineConfig::default());
    let hold = engine.submit(request("hold", 1)).unwrap();
    wait_until(&engine, |stats| stats.waiting == 0);
    let broken = engine.submit(request("broken!", 9)).unwrap();
    let whole = engine.submit(Request {
        sampling: Sampling { logit_bias: Arc::new([(33, -100.0)]), ..Sampling::default() },
        ..request("whole", 9)
    });
    drop(gate);
    collect(hold);
    assert_eq!(failure(&collect(broken)), "the model gave a logit that is not a number");
    assert_eq!(tokens(&collect(whole.unwrap())).len(), 9);
    assert!(engine.stats().sequences_per_step_max >= 2, "they shared a step");
}

#[test]
fn a_panic_fails_everything_and_shows_in_the_health() {
    let options = SeededOptions { faults: vec![Fault::PanicAtStep(2)], ..SeededOptions::default() };
    let (engine, gate) = gated(options, EngineConfig { max_sequences: 1, ..EngineConfig::default() });
    let running = engine.submit(request("runs", 9)).unwrap();
    let waiting = engine.submit(request("waits", 9)).unwrap();
    drop(gate);
    let events = collect(running);
    assert_eq!(failure(&events), "the engine broke: planned panic in step 2");
    assert_eq!(failure(&collect(waiting)), "the engine broke: planned panic in step 2");
    assert_eq!(*engine.health().borrow(), Health::Failed("the engine broke: planned panic in step 2".to_owned()));
    assert!(matches!(engine.submit(request("late", 1)), Err(SubmitError::Unhealthy(_))));
    drop(LeakCheck::new(engine.clone()));
    runtime().block_on(engine.shutdown(Duration::MAX));
}

#[test]
fn shutdown_lets_accepted_requests_finish() {
    let config = EngineConfig { max_sequences: 1, ..EngineConfig::default() };
    let (engine, gate) = gated(SeededOptions::default(), config);
    let accepted = [engine.submit(request("runs", 9)).unwrap(), engine.submit(request("waits", 9)).unwrap()];
    runtime().block_on(async {
        let open_later = async {
            tokio::task::yield_now().await;
            assert_eq!(engine.submit(request("late", 1)).unwrap_err(), SubmitError::Stopping);
            drop(gate);
        };
        tokio::join!(engine.shutdown(Duration::MAX), open_later);
    });
    assert_eq!(*engine.health().borrow(), Health::Stopped);
    for generation in accepted {
        assert_eq!(tokens(&collect(generation)).len(), 9);
    }
    assert_eq!(engine.stats().kv_used, 0);
}

#[test]
fn shutdown_ends_the_rest_at_the_deadline() {
    let config = EngineConfig { max_sequences: 1, ..EngineConfig::default() };
    let (engine, gate) = gated(SeededOptions::default(), config);
    let _leaks = LeakCheck::new(engine.clone());
    let cut = engine.submit(request("runs", 400)).unwrap();
    wait_until(&engine, |stats| stats.waiting == 0);
    let never = engine.submit(request("waits", 9)).unwrap();
    runtime().block_on(async {
        // Polled first, so the deadline is over when the step that waits at the gate ends.
        tokio::join!(engine.shutdown(Duration::ZERO), async { gate.open(1) });
    });
    let cut = collect(cut);
    assert_eq!((tokens(&cut).len(), cut.last()), (1, Some(&Event::CutOff)));
    assert_eq!(collect(never), [Event::CutOff]);
}

#[test]
fn without_handles_the_thread_finishes_what_it_has() {
    let model = SeededModel::new(SeededOptions::default());
    let engine = start(Box::new(model), EngineConfig::default()).unwrap();
    let generation = engine.submit(request("last", 30)).unwrap();
    let mut health = engine.health();
    drop(engine);
    assert_eq!(tokens(&collect(generation)).len(), 30);
    runtime().block_on(async { health.wait_for(Health::is_over).await.unwrap().clone() });
}
