//! Whole runs on small random bases.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use proptest::prelude::*;

use super::*;
use crate::model::config::{LinearSite, ModelConfig};
use crate::model::loader::DType;
use crate::model::native::{Device, LoadOptions, load};
use crate::model::ops::Quant;
use crate::model::random::{self, Mix};
use crate::training::dataset::render::{Pair, Sample};

fn base(dtype: DType) -> TrainingBase {
    let config = ModelConfig {
        vocab_size: 60,
        hidden_size: 64,
        intermediate_size: 96,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        ..random::shape("tiny").unwrap()
    };
    let tensors = random::tensors(&config, Mix::Uniform(dtype), 3).unwrap();
    let options = LoadOptions { quant: Quant::Auto, threads: 1, device: Device::Cpu };
    load(&config, &tensors, options).unwrap().training_base().unwrap()
}

/// `prompt, prompt + 1` is answered by the prompt again, and an end.
fn sample(prompt: u32, answer: u32) -> Sample {
    Sample { tokens: vec![1, prompt, prompt + 1, answer, 2], weights: vec![0.0, 0.0, 0.0, 1.0, 0.5], among: Vec::new() }
}

fn supervised() -> Data {
    let rows = |numbers: std::ops::Range<u32>| Rendered::Supervised(numbers.map(|i| sample(3 + i % 20, 3 + i % 20)).collect());
    Data { train: rows(0..40), held_out: rows(5..15) }
}

fn preferences() -> Data {
    let pair = |i: u32| Pair { chosen: sample(3 + i % 20, 40), rejected: sample(3 + i % 20, 50) };
    let rows = |numbers: std::ops::Range<u32>| Rendered::Preference(numbers.map(pair).collect());
    Data { train: rows(0..20), held_out: rows(20..26) }
}

fn settings() -> Settings {
    Settings {
        rank: 4,
        alpha: 8.0,
        epochs: 4,
        batch_size: 3,
        accumulation: 2,
        learning_rate: 5e-3,
        context: 64,
        ..Settings::default()
    }
}

fn start(settings: &Settings, data: &Data, gate: Arc<Gate>) -> Start {
    let (base, data, settings) = (base(DType::Q8_0), data.clone(), settings.clone());
    Start { base, data, settings, gate, origin: Origin::Fresh, threads: 2, memory: None }
}

fn run(settings: &Settings, data: &Data, resume: Option<&Path>) -> Run {
    Run::start(start(settings, data, Gate::open()), resume).unwrap()
}

#[test]
fn a_run_learns_what_its_rows_show() {
    for compute in [ComputeType::F32, ComputeType::Int8] {
        let settings = Settings { compute, epochs: 16, ..settings() };
        let mut run = run(&settings, &supervised(), None);
        let before = run.score(Scored::Base).unwrap();
        assert_eq!(before, run.evaluate().unwrap(), "a fresh adapter changes nothing");
        let first = run.step().unwrap();
        while run.step_number() < run.steps() {
            run.step().unwrap();
        }
        let after = run.evaluate().unwrap();
        assert!(first.loss > 2.0 && after.loss < 0.3 && after.accuracy > 0.9, "{first:?} {before:?} {after:?}");
        assert_eq!(run.best().unwrap().step, run.steps());
    }
}

#[test]
fn preferences_are_learnt_and_begin_at_the_logarithm_of_two() {
    let settings = Settings { method: Method::Dpo { beta: 0.5 }, warmup_ratio: 0.0, ..settings() };
    let mut run = run(&settings, &preferences(), None);
    let first = run.step().unwrap();
    assert!((first.loss - std::f64::consts::LN_2).abs() < 1e-6, "{first:?}");
    while run.step_number() < run.steps() {
        run.step().unwrap();
    }
    let after = run.evaluate().unwrap();
    assert!(after.loss < 0.2 && after.accuracy > 0.99, "{after:?}");
}

#[test]
fn what_was_written_is_an_adapter_with_the_same_weights() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = run(&Settings { targets: vec![LinearSite::Q, LinearSite::Down], ..settings() }, &supervised(), None);
    run.step().unwrap();
    run.step().unwrap();
    run.export(dir.path(), &Lineage { base: "tiny".into(), ..Lineage::default() }).unwrap();
    let read = crate::model::lora::peft::read_dir(dir.path(), run.learner.config()).unwrap();
    for (one, other) in read.modules.iter().zip(run.pairs()) {
        assert_eq!((&one.a, &one.b, one.scale), (&other.a, &other.b, other.scale));
        assert!(one.b.iter().any(|value| *value != 0.0));
    }
    assert_eq!(read.modules.len(), 4);
    let lineage: Lineage = serde_json::from_slice(&std::fs::read(dir.path().join(LINEAGE_FILE)).unwrap()).unwrap();
    assert_eq!((lineage.base.as_str(), lineage.step), ("tiny", 2));
}

#[test]
fn a_state_of_other_settings_or_rows_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = run(&settings(), &supervised(), Some(dir.path()));
    first.step().unwrap();
    first.save(dir.path()).unwrap();
    assert_eq!(run(&settings(), &supervised(), Some(dir.path())).step_number(), 1);
    let other = Settings { learning_rate: 1e-3, ..settings() };
    assert!(matches!(Run::start(start(&other, &supervised(), Gate::open()), Some(dir.path())), Err(TrainError::OtherRun)));
    let mut data = supervised();
    data.held_out = data.train.clone();
    assert!(matches!(Run::start(start(&settings(), &data, Gate::open()), Some(dir.path())), Err(TrainError::OtherRun)));
}

#[test]
fn a_run_goes_on_as_it_began_whatever_memory_is_free_now() {
    let dir = tempfile::tempdir().unwrap();
    let whole = run(&settings(), &supervised(), None);
    let tight = Start { memory: Some(whole.memory() - 1), ..start(&settings(), &supervised(), Gate::open()) };
    let mut first = Run::start(tight, Some(dir.path())).unwrap();
    assert!(first.settings().batch_size < settings().batch_size && !first.changes().is_empty());
    first.step().unwrap();
    first.save(dir.path()).unwrap();
    let again = run(&settings(), &supervised(), Some(dir.path()));
    assert_eq!((again.step_number(), again.settings()), (1, first.settings()));
}

#[test]
fn what_cannot_be_learnt_is_refused_in_words() {
    let refused = |settings: &Settings, data: &Data| {
        Run::start(start(settings, data, Gate::open()), None).err().map(|error| error.to_string()).unwrap_or_default()
    };
    let empty = Data { train: Rendered::Supervised(Vec::new()), held_out: Rendered::Supervised(Vec::new()) };
    assert!(refused(&settings(), &empty).contains("no rows"));
    assert!(refused(&settings(), &preferences()).contains("method's kind"));
    let mute = Sample { tokens: vec![1, 2], weights: vec![0.0, 0.0], among: Vec::new() };
    let mute = Data { train: Rendered::Supervised(vec![mute]), ..empty };
    assert!(
        refused(&settings(), &mute).contains("nothing to learn") || refused(&settings(), &mute).contains("anything to learn")
    );
    let small = Start { memory: Some(1 << 20), ..start(&settings(), &supervised(), Gate::open()) };
    assert!(matches!(Run::start(small, None), Err(TrainError::Memory { .. })));
}

#[test]
fn a_run_that_explodes_is_named_with_a_smaller_learning_rate() {
    let pairs = run(&settings(), &supervised(), None).pairs();
    let huge = pairs.into_iter().map(|pair| LoraModule { a: vec![1e38; pair.a.len()], b: vec![1e38; pair.b.len()], ..pair });
    let origin = Origin::Adapter(huge.collect());
    let mut run = Run::start(Start { origin, ..start(&settings(), &supervised(), Gate::open()) }, None).unwrap();
    let error = run.step().unwrap_err().to_string();
    assert!(error.contains("diverged") && error.contains("1.6666") && error.contains("5e-3"), "{error}");
}

#[test]
fn a_stopped_run_says_so_at_once() {
    let gate = Gate::open();
    let mut run = Run::start(start(&settings(), &supervised(), Arc::clone(&gate)), None).unwrap();
    gate.stop();
    assert!(matches!(run.step(), Err(TrainError::Stopped)));
    assert_eq!(run.step_number(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn an_interrupted_run_ends_with_the_same_bits(
        saved in prop::collection::vec(0u64..14, 0..4),
        lost in 0u64..4,
        packing: bool,
        checkpointing: bool,
        dpo: bool,
    ) {
        let method = if dpo { Method::Dpo { beta: 0.2 } } else { Method::Supervised };
        let settings = Settings { packing, checkpointing, method, dropout: 0.1, max_steps: Some(14), weight_decay: 0.01, ..settings() };
        let data = if dpo { preferences() } else { supervised() };
        let mut whole = run(&settings, &data, None);
        while whole.step_number() < whole.steps() {
            whole.step().unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        let mut saved = saved;
        saved.sort_unstable();
        for stop in saved {
            let mut part = run(&settings, &data, Some(dir.path()));
            while part.step_number() < stop {
                part.step().unwrap();
            }
            part.save(dir.path()).unwrap();
            // Steps after the state was saved are lost with the process.
            for _ in 0..lost.min(part.steps() - part.step_number()) {
                part.step().unwrap();
            }
        }
        let mut last = run(&settings, &data, Some(dir.path()));
        while last.step_number() < last.steps() {
            last.step().unwrap();
        }
        prop_assert!(last.values == whole.values);
        prop_assert!(last.optimizer == whole.optimizer);
    }
}
