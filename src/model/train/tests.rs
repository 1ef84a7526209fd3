//! The learner against the serving decoder, against finite differences, and against itself with other settings.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::ids::VersionId;
use crate::model::config::{Architecture, LinearSite, ModelConfig};
use crate::model::loader::DType;
use crate::model::lora::LoraWeights;
use crate::model::native::{Device, LoadOptions, load};
use crate::model::ops::Quant;
use crate::model::ops::cpu::Isa;
use crate::model::random::{self, Mix};
use crate::model::{Chunk, LogitRows, Logits, Model};

/// Largest difference of a log-probability between training and serving, both in f32; sums differ in their order.
const SERVING_TOLERANCE: f32 = 2e-4;
/// Largest relative difference between a directional derivative and the gradient along it, in f32.
const DIFFERENCE_TOLERANCE: f64 = 0.01;
/// Largest relative difference (Frobenius) of gradients in 8 bits from those in f32 over the same weights.
const EIGHT_BIT_TOLERANCE: f64 = 0.06;

fn config(architecture: Architecture) -> ModelConfig {
    ModelConfig {
        architecture,
        vocab_size: 75,
        hidden_size: 64,
        intermediate_size: 96,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        sliding_window: (architecture == Architecture::Mistral).then_some(5),
        tied_embeddings: architecture == Architecture::Qwen2,
        ..random::shape("tiny").unwrap()
    }
}

struct Fixture {
    model: Box<dyn Model>,
    layout: Layout,
    values: Vec<f32>,
    batch: Batch,
}

fn fixture(config: &ModelConfig, mix: Mix, quant: Quant) -> Fixture {
    let tensors = random::tensors(config, mix, 9).unwrap();
    let mut model = load(config, &tensors, LoadOptions { quant, threads: 2, device: Device::Cpu }).unwrap();
    model.allocate_kv(16).unwrap();
    let layout = Layout::new(config, &LinearSite::ALL, 3, 0.7);
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let mut values = vec![0f32; layout.len];
    for module in &layout.modules {
        for (range, width) in [(&module.a, module.k), (&module.b, module.n)] {
            values[range.start..range.start + 3 * width].iter_mut().for_each(|v| *v = rng.random_range(-0.2..0.2));
        }
    }
    let lengths = [13usize, 1, 21];
    let total = lengths.iter().sum();
    let tokens: Vec<u32> = (0..total).map(|_| rng.random_range(0..config.vocab_size as u32)).collect();
    let (mut spans, mut targets, mut start) = (Vec::new(), Vec::new(), 0);
    for length in lengths {
        targets.extend((start..start + length - 1).filter(|row| row % 3 != 1).map(|row| (row, tokens[row + 1])));
        spans.push(start..start + length);
        start += length;
    }
    Fixture { model, layout, values, batch: Batch { tokens, spans, targets, among: Vec::new() } }
}

fn learner(fixture: &Fixture, compute: Compute, keep: Keep) -> Learner {
    let settings = Settings { threads: 2, compute, keep, between: Arc::new(|| Go::On) };
    Learner::new(fixture.model.training_base().unwrap(), settings).unwrap()
}

/// Loss `-sum(slope * log p)` with uneven slopes, and its gradient.
fn gradient(fixture: &Fixture, learner: &mut Learner, dropout: Option<Dropout>, values: &[f32]) -> (f64, Vec<f32>) {
    let slopes: Vec<f32> = (0..fixture.batch.targets.len()).map(|i| -0.1 - 0.05 * (i % 4) as f32).collect();
    let adapter = (&fixture.layout, values);
    learner.forward(&fixture.batch, Some(adapter), dropout, Passing::Kept).unwrap();
    let outcomes = learner.targets(&fixture.batch, Slopes::Known(&slopes));
    let mut grads = vec![0f32; fixture.layout.len];
    learner.back(&fixture.batch, adapter, dropout, &mut grads);
    let loss = outcomes.iter().zip(&slopes).map(|(o, s)| f64::from(o.log_prob) * f64::from(*s)).sum();
    (loss, grads)
}

const ARCHITECTURES: [Architecture; 4] = [Architecture::Llama, Architecture::Mistral, Architecture::Qwen2, Architecture::Qwen3];

#[test]
fn log_probabilities_are_those_of_serving() {
    for architecture in ARCHITECTURES {
        let config = config(architecture);
        let mut fixture = fixture(&config, Mix::Uniform(DType::F32), Quant::None);
        let mut learner = learner(&fixture, Compute::F32, Keep::Activations);
        learner.forward(&fixture.batch, Some((&fixture.layout, &fixture.values)), None, Passing::Through).unwrap();
        let outcomes = learner.targets(&fixture.batch, Slopes::None);
        let modules = fixture.layout.pairs(&fixture.values);
        let weights = LoraWeights { id: VersionId::new([1; 32]), modules, foreign: Vec::new(), max_rank: 3 };
        let adapter = Arc::new(fixture.model.adapter_preparer().prepare(weights).unwrap());
        for span in &fixture.batch.spans {
            let chunk = Chunk {
                tokens: &fixture.batch.tokens[span.clone()],
                start: 0,
                blocks: &[0, 1, 2],
                adapter: Some(&adapter),
                logits: LogitRows::All,
            };
            let mut logits = Logits::default();
            fixture.model.forward(&[chunk], &mut logits).unwrap();
            for ((row, target), outcome) in fixture.batch.targets.iter().zip(&outcomes).filter(|((row, _), _)| span.contains(row))
            {
                let row = logits.row(row - span.start);
                let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let wanted = row[*target as usize] - top - row.iter().map(|v| (v - top).exp()).sum::<f32>().ln();
                assert!((wanted - outcome.log_prob).abs() < SERVING_TOLERANCE, "{architecture:?}: {wanted} {outcome:?}");
            }
        }
    }
}

#[test]
fn gradients_agree_with_finite_differences_in_every_pair() {
    for architecture in ARCHITECTURES {
        let config = config(architecture);
        let mut fixture = fixture(&config, Mix::Uniform(DType::F32), Quant::None);
        // Every other target competes with a few tokens only.
        let few = |token: u32| (0..5).map(|i| (token + 7 * i) % config.vocab_size as u32).collect();
        let targets = fixture.batch.targets.iter().enumerate().filter(|(at, _)| at % 2 == 1);
        fixture.batch.among = targets.map(|(at, (_, token))| (at, few(*token))).collect();
        let mut learner = learner(&fixture, Compute::F32, Keep::Activations);
        for dropout in [None, Some(Dropout { rate: 0.3, key: 5 })] {
            let (_, grads) = gradient(&fixture, &mut learner, dropout, &fixture.values);
            for module in &fixture.layout.modules {
                for range in [module.a.clone(), module.b.clone()] {
                    // Along its own gradient a half's derivative is largest, and rounding matters least.
                    let norm = grads[range.clone()].iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
                    assert!(norm > 1e-6, "{architecture:?} {module:?}: no gradient");
                    let at = |step: f64| {
                        let mut moved = fixture.values.clone();
                        for i in range.clone() {
                            moved[i] = (f64::from(moved[i]) + step * f64::from(grads[i]) / norm) as f32;
                        }
                        moved
                    };
                    let step = 0.02;
                    let up = gradient(&fixture, &mut learner, dropout, &at(step)).0;
                    let down = gradient(&fixture, &mut learner, dropout, &at(-step)).0;
                    let slope = (up - down) / (2.0 * step);
                    let off = (slope - norm).abs() / norm;
                    assert!(
                        off < DIFFERENCE_TOLERANCE + 1e-5 / norm,
                        "{architecture:?} {dropout:?} {module:?}: {slope} by differences, {norm} by gradient"
                    );
                }
            }
        }
    }
}

#[test]
fn a_target_competes_with_what_is_allowed_alone() {
    let mut fixture = fixture(&config(Architecture::Llama), Mix::Uniform(DType::F32), Quant::None);
    let mut learner = learner(&fixture, Compute::F32, Keep::Activations);
    let adapter = Some((&fixture.layout, &fixture.values[..]));
    learner.forward(&fixture.batch, adapter, None, Passing::Through).unwrap();
    let all = learner.targets(&fixture.batch, Slopes::None);
    let (alone, two) = (fixture.batch.targets[0].1, fixture.batch.targets[1].1);
    let other = if two == 0 { 1 } else { 0 };
    fixture.batch.among = vec![(0, [alone].into()), (1, [other, two].into())];
    let allowed = learner.targets(&fixture.batch, Slopes::None);
    assert!(allowed[0].log_prob.abs() < 1e-6 && allowed[0].correct, "{:?}", allowed[0]);
    fixture.batch.targets[1].1 = other;
    let rest = learner.targets(&fixture.batch, Slopes::None);
    let sum = allowed[1].log_prob.exp() + rest[1].log_prob.exp();
    assert!((sum - 1.0).abs() < 1e-5, "{sum}");
    assert_eq!(allowed[2..], all[2..]);
}

#[test]
fn keeping_inputs_alone_gives_the_same_gradients() {
    for compute in [Compute::F32, Compute::Int8] {
        let fixture = fixture(&config(Architecture::Qwen2), Mix::Uniform(DType::Q8_0), Quant::Auto);
        let dropout = Some(Dropout { rate: 0.1, key: 5 });
        let whole = gradient(&fixture, &mut learner(&fixture, compute, Keep::Activations), dropout, &fixture.values);
        let mut again = learner(&fixture, compute, Keep::Inputs);
        assert!(whole == gradient(&fixture, &mut again, dropout, &fixture.values), "{compute:?}");
        // And a second time with rooms in use.
        assert!(whole == gradient(&fixture, &mut again, dropout, &fixture.values), "{compute:?}");
    }
}

#[test]
fn an_example_has_the_same_numbers_in_any_company() {
    let fixture = fixture(&config(Architecture::Mistral), Mix::Uniform(DType::Q8_0), Quant::Auto);
    for compute in [Compute::F32, Compute::Int8] {
        let mut learner = learner(&fixture, compute, Keep::Activations);
        let adapter = Some((&fixture.layout, &fixture.values[..]));
        learner.forward(&fixture.batch, adapter, None, Passing::Through).unwrap();
        let together = learner.targets(&fixture.batch, Slopes::None);
        let span = fixture.batch.spans[2].clone();
        let alone = Batch {
            tokens: fixture.batch.tokens[span.clone()].to_vec(),
            spans: std::iter::once(0..span.len()).collect(),
            targets: fixture
                .batch
                .targets
                .iter()
                .filter(|t| span.contains(&t.0))
                .map(|(row, t)| (row - span.start, *t))
                .collect(),
            among: Vec::new(),
        };
        learner.forward(&alone, adapter, None, Passing::Through).unwrap();
        let alone = learner.targets(&alone, Slopes::None);
        assert_eq!(together[together.len() - alone.len()..], alone);
    }
}

#[test]
fn eight_bits_are_close_to_f32_over_every_format() {
    let config = ModelConfig { hidden_size: 256, intermediate_size: 512, head_dim: 64, ..config(Architecture::Llama) };
    for dtype in [DType::Q8_0, DType::Q6K, DType::Q5K, DType::Q4K, DType::Q5_0, DType::Q4_0] {
        let fixture = fixture(&config, Mix::Uniform(dtype), Quant::Auto);
        let (loss, exact) = gradient(&fixture, &mut learner(&fixture, Compute::F32, Keep::Activations), None, &fixture.values);
        let (near, rounded) = gradient(&fixture, &mut learner(&fixture, Compute::Int8, Keep::Activations), None, &fixture.values);
        let size = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let off = size(&mut exact.iter().zip(&rounded).map(|(a, b)| a - b)) / size(&mut exact.iter().copied());
        assert!(off < EIGHT_BIT_TOLERANCE && (loss - near).abs() < 0.01 * loss.abs(), "{dtype:?}: {off}, {loss} {near}");
    }
}

#[test]
fn the_fast_kernels_agree_with_the_plain_ones() {
    use super::kernels::{F32Block, I8Block, f32_block, i8_block};
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let isa = Isa::detect();
    for (rows, cols, depth) in [(1, 1, 1), (5, 17, 9), (12, 32, 256), (29, 31, 70), (16, 32, 64)] {
        let mut noise = |len: usize| (0..len).map(|_| rng.random_range(-1.0..1.0f32)).collect::<Vec<f32>>();
        let (a, b, start) = (noise(rows * depth), noise(depth * cols), noise(rows * cols));
        let run = |isa: Isa, add: bool| {
            let mut c = start.clone();
            let block = F32Block {
                rows,
                cols,
                depth,
                a: a.as_ptr(),
                a_row: depth,
                a_col: 1,
                b: b.as_ptr(),
                b_row: cols,
                c: c.as_mut_ptr(),
                c_row: cols,
                add,
            };
            // SAFETY: the matrices have these sizes.
            unsafe { f32_block(isa, &block) };
            c
        };
        for add in [true, false] {
            let near = run(isa, add).iter().zip(run(Isa::Portable, add)).all(|(x, y)| (x - y).abs() < 1e-4);
            assert!(near, "{rows} {cols} {depth} {add}");
        }
    }
    for rows in 1..=12usize {
        let (a, b) = (
            (0..256 * 12).map(|_| rng.random::<i8>()).collect::<Vec<_>>(),
            (0..256 * 32).map(|_| rng.random::<u8>()).collect::<Vec<_>>(),
        );
        let sums: Vec<i32> = (0..24).map(|_| rng.random_range(-9999..9999)).collect();
        let scales: Vec<f32> = (0..64).map(|_| rng.random_range(0.0..0.01)).collect();
        let run = |isa: Isa| {
            let mut c = vec![0f32; rows * 29];
            let block = I8Block {
                rows,
                cols: 29,
                scaled: 2,
                a: a.as_ptr(),
                sums: sums.as_ptr(),
                a_scales: scales.as_ptr(),
                b: b.as_ptr(),
                b_scales: scales.as_ptr(),
                c: c.as_mut_ptr(),
                c_row: 29,
                add: false,
            };
            // SAFETY: the matrices have these sizes.
            unsafe { i8_block(isa, &block) };
            c
        };
        assert!(run(isa).iter().zip(run(Isa::Portable)).all(|(x, y)| (x - y).abs() <= 1e-4 * y.abs().max(1.0)), "{rows}");
    }
}
