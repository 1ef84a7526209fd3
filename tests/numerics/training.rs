//! Training against peft and torch in float32: every step's loss, and the adapter at the end; over f32 and over Q8_0 bases.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use switchyard::model::loader::{self, DType};
use switchyard::model::lora::LoraModule;
use switchyard::model::lora::peft::read_dir;
use switchyard::model::native::{Device, LoadOptions, load};
use switchyard::model::ops::Quant;
use switchyard::training::dataset::render::{Rendered, Sample};
use switchyard::training::idle::Gate;
use switchyard::training::trainer::{ComputeType, Data, Lineage, Origin, Run, Settings, Start};

/// Largest relative difference of a step's loss over a float base.
const LOSS_TOLERANCE: f64 = 1e-4;
/// The same over a Q8_0 base, whose reference is computed on the dequantized weights.
const Q8_0_LOSS_TOLERANCE: f64 = 2e-3;
/// Largest relative difference (Frobenius) of an update `B A` at the end.
const UPDATE_TOLERANCE: f64 = 1e-3;
/// What the loss must fall to, of what it began with.
const FALL: f64 = 0.7;

#[derive(Deserialize)]
struct Row {
    tokens: Vec<u32>,
    weights: Vec<f32>,
}

#[derive(Deserialize)]
struct Expected {
    settings: Settings,
    rows: Vec<Row>,
    losses: Vec<f64>,
    losses_q8_0: Vec<f64>,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/training").join(name)
}

fn train(name: &str, expected: &Expected, quant: Quant) -> (Vec<f64>, Run) {
    let checkpoint = loader::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models").join(name)).unwrap();
    let options = LoadOptions { quant, threads: 2, device: Device::Cpu };
    let base = load(&checkpoint.config, &checkpoint.tensors, options).unwrap().training_base().unwrap();
    let rows =
        expected.rows.iter().map(|row| Sample { tokens: row.tokens.clone(), weights: row.weights.clone(), among: Vec::new() });
    let data = Data { train: Rendered::Supervised(rows.collect()), held_out: Rendered::Supervised(Vec::new()) };
    let settings = Settings { compute: ComputeType::F32, ..expected.settings.clone() };
    let origin = Origin::Adapter(read_dir(&folder(name).join("initial"), &checkpoint.config).unwrap().modules);
    let start = Start { base, data, settings, gate: Gate::open(), origin, threads: 2, memory: None };
    let mut run = Run::start(start, None).unwrap();
    let losses = (0..run.steps()).map(|_| run.step().unwrap().loss).collect();
    (losses, run)
}

/// Largest relative difference of two runs' losses; both have to fall.
fn furthest(ours: &[f64], theirs: &[f64]) -> f64 {
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert_eq!(ours.len(), theirs.len());
    assert!(mean(&ours[ours.len() - 3..]) < FALL * mean(&ours[..3]), "the loss does not fall: {ours:?}");
    ours.iter().zip(theirs).map(|(a, b)| (a - b).abs() / b.abs()).fold(0.0, f64::max)
}

fn update(pair: &LoraModule) -> Vec<f64> {
    let k = pair.a.len() / pair.rank;
    let entry = |i: usize| {
        let (output, input) = (i / k, i % k);
        (0..pair.rank).map(|r| f64::from(pair.b[output * pair.rank + r]) * f64::from(pair.a[r * k + input])).sum()
    };
    (0..pair.b.len() / pair.rank * k).map(entry).collect()
}

#[test]
fn fifty_steps_agree_with_peft_and_the_adapter_does_at_the_end() {
    for name in ["llama3", "mistral", "qwen2", "qwen3"] {
        let expected: Expected = serde_json::from_slice(&std::fs::read(folder(name).join("expected.json")).unwrap()).unwrap();
        let (losses, run) = train(name, &expected, Quant::None);
        let off = furthest(&losses, &expected.losses);
        assert!(off < LOSS_TOLERANCE, "{name}: a loss is off by {off:e}");

        let written = tempfile::tempdir().unwrap();
        run.export(written.path(), &Lineage::default()).unwrap();
        let checkpoint = loader::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models").join(name)).unwrap();
        let ours = read_dir(written.path(), &checkpoint.config).unwrap().modules;
        let theirs = read_dir(&folder(name).join("final"), &checkpoint.config).unwrap().modules;
        let mut worst = 0f64;
        for (one, other) in ours.iter().zip(&theirs) {
            assert_eq!((one.path(), one.scale), (other.path(), other.scale));
            let (one, other) = (update(one), update(other));
            let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
            worst = worst.max(norm(&mut one.iter().zip(&other).map(|(a, b)| a - b)) / norm(&mut other.iter().copied()));
        }
        assert!(worst < UPDATE_TOLERANCE, "{name}: an update is off by {worst:e}");

        let (losses, _) = train(name, &expected, Quant::To(DType::Q8_0));
        let quantized = furthest(&losses, &expected.losses_q8_0);
        assert!(quantized < Q8_0_LOSS_TOLERANCE, "{name} over Q8_0: a loss is off by {quantized:e}");
        eprintln!("{name}: losses within {off:.1e}, updates within {worst:.1e}, over Q8_0 within {quantized:.1e}");
    }
}
