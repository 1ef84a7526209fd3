//! Plans of known numbers.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use proptest::prelude::*;

use super::*;

fn memory(rank: u32, keeping: Keeping) -> u64 {
    let layers = if keeping == Keeping::Inputs { 100 } else { 400 };
    (layers + u64::from(rank)) << 20
}

fn facts(rows: Rows, limits: Limits, wishes: Wishes) -> Facts<'static> {
    Facts {
        rows,
        base: Base { name: "base".to_owned(), parameters: 500_000_000, quantization: Some("Q8_0".to_owned()), context: 1024 },
        speed: Speed { train_tokens_per_second: 100.0, answer_tokens_per_second: Some(50.0), steps: 3 },
        limits,
        wishes,
        memory: &memory,
        cost: &|tokens| Some(tokens * 1_000),
    }
}

fn rows() -> Rows {
    Rows {
        train: 1_000,
        held_out: 200,
        train_tokens: 60_000,
        held_out_tokens: 12_000,
        longest: 90,
        truncated: 0,
        preferences: false,
    }
}

#[test]
fn time_memory_and_money_follow_from_what_was_measured() {
    let plan = plan(&facts(rows(), Limits::default(), Wishes::default()));
    assert_eq!((plan.hyperparameters.epochs.value, plan.hyperparameters.batch_size.value, plan.steps), (3, 16, 188));
    // Three times 60000 tokens and a third of 12000, at 100 a second.
    assert!((plan.estimate.train_seconds - 1_920.0).abs() < 1e-6);
    // 200 rows of 60 tokens by three models, at 50 a second.
    assert_eq!(plan.estimate.evaluate_seconds, Some(720.0));
    assert_eq!((plan.estimate.memory_bytes, plan.estimate.nanos), (416 << 20, Some(180_000_000)));
    assert_eq!((plan.method.value.as_str(), plan.adapter.value.as_str()), ("supervised", "qlora"));
    let first = &plan.alternatives[0];
    assert_eq!(first.text, "2 epochs instead of 3 saves 11 min and saves $0.06000; the rows are learnt a little less well");
    assert!((first.seconds_saved - 640.0).abs() < 1e-6);
    assert!(plan.checklist.iter().all(|check| check.mark == Mark::Good), "{:?}", plan.checklist);
    let text = plan.text();
    assert!(text.contains("32 min") && text.contains("100 tokens/s, measured over 3 steps"), "{text}");
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
}

#[test]
fn little_memory_is_answered_by_computing_again_and_too_little_by_stopping() {
    let with = |mib: u64| plan(&facts(rows(), Limits { memory_bytes: Some(mib << 20), ..Limits::default() }, Wishes::default()));
    let enough = with(416);
    let tight = with(415);
    let none = with(100);
    assert_eq!((enough.keeping.value, tight.keeping.value), (Keeping::Activations, Keeping::Inputs));
    assert!(tight.estimate.train_seconds > enough.estimate.train_seconds);
    let stops = |plan: &Plan| plan.checklist.iter().filter(|check| check.mark == Mark::Stop).count();
    assert_eq!((stops(&enough), stops(&tight), stops(&none)), (0, 0, 1));
}

#[test]
fn caps_and_thin_data_are_on_the_checklist() {
    let rows = Rows {
        train: 40,
        held_out: 5,
        train_tokens: 90_000,
        held_out_tokens: 9_000,
        longest: 3_000,
        truncated: 8,
        preferences: true,
    };
    let limits = Limits { hours: Some(1.0), nanos: Some(1_000), share: Some(0.5), ..Limits::default() };
    let plan = plan(&facts(rows, limits, Wishes { epochs: Some(10), ..Wishes::default() }));
    assert_eq!(plan.method.value, "dpo");
    let marks: Vec<Mark> = plan.checklist.iter().map(|check| check.mark).collect();
    assert_eq!(marks, [Mark::Look, Mark::Look, Mark::Look, Mark::Stop, Mark::Stop], "{:?}", plan.checklist);
}

#[test]
fn wishes_go_before_the_rules() {
    let wishes = Wishes { epochs: Some(7), batch_size: Some(3), learning_rate_multiplier: Some(2.0), rank: Some(64) };
    let (asked, ruled) =
        (plan(&facts(rows(), Limits::default(), wishes)), plan(&facts(rows(), Limits::default(), Wishes::default())));
    let h = &asked.hyperparameters;
    assert_eq!((h.epochs.value, h.batch_size.value, h.rank.value, h.alpha.value), (7, 3, 64, 128.0));
    assert_eq!(h.learning_rate.value, 2.0 * ruled.hyperparameters.learning_rate.value);
    assert_eq!(asked.steps, 7_000u64.div_ceil(3));
}

#[test]
fn people_read_times_and_money() {
    assert_eq!([5.0, 600.0, 7_200.0, 1e6].map(human_time), ["5 s", "10 min", "2.0 h", "11.6 days"]);
    assert_eq!([0, 1_234_567, 2_500_000_000].map(human_money), ["$0.00", "$0.00123", "$2.50"]);
}

proptest! {
    #[test]
    fn fewer_epochs_never_take_longer_or_cost_more(train in 1..100_000u64, tokens in 0..100_000_000u64, epochs in 2..20u32) {
        let rows = Rows { train, train_tokens: tokens, ..rows() };
        let with = |epochs| plan(&facts(rows, Limits::default(), Wishes { epochs: Some(epochs), ..Wishes::default() }));
        let (fewer, more) = (with(epochs - 1), with(epochs));
        prop_assert!(fewer.estimate.train_seconds <= more.estimate.train_seconds && fewer.estimate.nanos <= more.estimate.nanos);
        prop_assert!(more.alternatives.iter().all(|other| other.seconds_saved.is_finite()));
    }
}
