//! The decoder against its slow reference, and its promises: batching, chunking and company never change a row.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::ids::VersionId;
use crate::model::config::{Architecture, Details, RopeScaling};
use crate::model::lora::LoraModule;
use crate::model::random::{self, Mix};

/// Largest difference of a logit between our kernels and candle's f32 ones; logits are about 1.
const REFERENCE_TOLERANCE: f32 = 2e-4;
/// The same between our kernels and a GPU's, which sum in an order of their own.
#[cfg(feature = "cuda")]
const GPU_TOLERANCE: f32 = 1e-3;
/// The same where inputs are rounded to 8 bits in blocks of 32 (ours) or 256 (candle's, K-quants).
const EIGHT_BIT_TOLERANCE: f32 = 0.15;

fn lora(config: &ModelConfig, rank: usize, sites: &[LinearSite], seed: u64) -> LoraWeights {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut noise = |len: usize| (0..len).map(|_| (rng.random::<f32>() - 0.5) * 0.4).collect::<Vec<f32>>();
    let mut modules = Vec::new();
    for layer in 0..config.layers {
        for site in sites {
            let (n, k) = config.linear_shape(*site);
            modules.push(LoraModule { layer, site: *site, rank, scale: 0.7, a: noise(rank * k), b: noise(n * rank) });
        }
    }
    LoraWeights { id: VersionId::new([seed as u8; 32]), modules, foreign: Vec::new(), max_rank: rank }
}

fn model(config: &ModelConfig, mix: Mix, quant: Quant, device: Device) -> Box<dyn Model> {
    let tensors = random::tensors(config, mix, 9).unwrap();
    let mut model = load(config, &tensors, LoadOptions { quant, threads: 2, device }).unwrap();
    model.allocate_kv(64).unwrap();
    model
}

/// One sequence: its tokens, adapter and block table.
struct Sequence {
    tokens: Vec<u32>,
    adapter: Option<Arc<PreparedAdapter>>,
    blocks: Vec<BlockId>,
}
use crate::model::BlockId;

fn sequences(model: &dyn Model, lengths: &[usize]) -> Vec<Sequence> {
    let config = model.config().clone();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let adapters: Vec<Option<Arc<PreparedAdapter>>> = (0..lengths.len())
        .map(|i| {
            let sites = if i % 2 == 0 { &LinearSite::ALL[..] } else { &[LinearSite::Q, LinearSite::V, LinearSite::Down] };
            (i > 0).then(|| Arc::new(model.adapter_preparer().prepare(lora(&config, 3 * i, sites, i as u64)).unwrap()))
        })
        .collect();
    // Blocks of the sequences are interleaved, so that a wrong table is seen.
    let count = lengths.len() as u32;
    lengths
        .iter()
        .zip(adapters)
        .enumerate()
        .map(|(i, (length, adapter))| Sequence {
            tokens: (0..*length).map(|_| rng.random_range(0..config.vocab_size as u32)).collect(),
            adapter,
            blocks: (0..length.div_ceil(BLOCK_TOKENS) as u32).map(|b| b * count + i as u32).collect(),
        })
        .collect()
}

/// Logits of every row of every sequence, computed in steps of at most `chunk` tokens a sequence, all sequences together or each alone.
fn all_logits(model: &mut dyn Model, sequences: &[Sequence], chunk: usize, together: bool) -> Vec<Vec<f32>> {
    let mut out = vec![Vec::new(); sequences.len()];
    let groups: Vec<Vec<usize>> =
        if together { vec![(0..sequences.len()).collect()] } else { (0..sequences.len()).map(|i| vec![i]).collect() };
    for group in groups {
        for start in (0..).map(|step| step * chunk).take_while(|s| group.iter().any(|i| *s < sequences[*i].tokens.len())) {
            let active: Vec<usize> = group.iter().copied().filter(|i| start < sequences[*i].tokens.len()).collect();
            let chunks: Vec<Chunk<'_>> = active
                .iter()
                .map(|i| {
                    let s = &sequences[*i];
                    Chunk {
                        tokens: &s.tokens[start..s.tokens.len().min(start + chunk)],
                        start,
                        blocks: &s.blocks,
                        adapter: s.adapter.as_ref(),
                        logits: LogitRows::All,
                    }
                })
                .collect();
            let mut logits = Logits::default();
            model.forward(&chunks, &mut logits).unwrap();
            let mut row = 0;
            for (i, chunk) in active.iter().zip(&chunks) {
                for _ in chunk.tokens {
                    out[*i].extend_from_slice(logits.row(row));
                    row += 1;
                }
            }
            assert_eq!(row, logits.rows());
        }
    }
    out
}

fn shapes() -> Vec<ModelConfig> {
    let tiny = random::shape("tiny").unwrap();
    let mistral = ModelConfig { sliding_window: Some(21), kv_heads: 4, ..tiny.clone() };
    let qwen = ModelConfig { architecture: Architecture::Qwen2, kv_heads: 1, ..tiny.clone() };
    let narrow = ModelConfig { head_dim: 24, tied_embeddings: false, ..tiny.clone() };
    let of = |architecture: Architecture, details: Details| ModelConfig { architecture, details, ..tiny.clone() };
    let qwen3 = of(Architecture::Qwen3, Details::default());
    let phi2 = of(Architecture::Phi2, Details { rotary_dim: Some(24), ..Details::default() });
    let divisors = |step: f32| (0..24).map(|i| 1.0 + step * i as f32).collect();
    let scaling =
        RopeScaling::LongRope { short: divisors(0.1), long: divisors(0.3), original_context: 64, attention_factor: 1.19 };
    let phi3 =
        ModelConfig { rope_scaling: scaling, ..of(Architecture::Phi3, Details { rotary_dim: Some(48), ..Details::default() }) };
    let gemma = Details {
        global_every: Some(2),
        attention_cap: Some(3.0),
        logit_cap: Some(2.0),
        embedding_scale: Some(1.5),
        query_scale: Some(0.3),
        ..Details::default()
    };
    let gemma3 = Details { local_theta: Some(500.0), attention_cap: None, global_every: Some(3), ..gemma.clone() };
    let windowed = |config: ModelConfig| ModelConfig { sliding_window: Some(19), ..config };
    let (gemma2, gemma3) = (of(Architecture::Gemma2, gemma), of(Architecture::Gemma3, gemma3));
    vec![tiny, mistral, qwen, narrow, qwen3, phi2, phi3, windowed(gemma2), windowed(gemma3)]
}

fn worst(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn logits_equal_the_reference_with_and_without_adapters() {
    for config in shapes() {
        let mut fast = model(&config, Mix::Uniform(DType::F32), Quant::None, Device::Cpu);
        let mut slow = model(&config, Mix::Uniform(DType::F32), Quant::None, Device::Reference);
        let (ours, theirs) = (sequences(&*fast, &[50, 33, 40]), sequences(&*slow, &[50, 33, 40]));
        let got = all_logits(&mut *fast, &ours, 64, true);
        let want = all_logits(&mut *slow, &theirs, 64, true);
        assert!(worst(&got, &want) < REFERENCE_TOLERANCE, "{config:?}: {}", worst(&got, &want));
        let bases: Vec<Sequence> = ours.into_iter().map(|s| Sequence { adapter: None, ..s }).collect();
        let base = all_logits(&mut *fast, &bases, 64, true);
        assert_eq!(base[0], got[0], "the first sequence has no adapter");
        assert!(worst(&base[1..], &got[1..]) > 0.1, "adapters change nothing");
    }
}

/// The same on a GPU: needs the feature and a device, and says so where there is none.
#[cfg(feature = "cuda")]
#[test]
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn logits_on_a_gpu_equal_ours_with_and_without_adapters() {
    // The largest difference is with quantized weights, which candle's CUDA kernels multiply with 8-bit inputs as well.
    let kinds = [
        (Mix::Uniform(DType::F32), Quant::None, GPU_TOLERANCE),
        (Mix::Uniform(DType::Q8_0), Quant::Auto, EIGHT_BIT_TOLERANCE),
        (Mix::Q4KM, Quant::Auto, EIGHT_BIT_TOLERANCE),
    ];
    for (mix, quant, tolerance) in kinds {
        for config in shapes().into_iter().filter(|config| mix != Mix::Q4KM || config.head_dim == 64) {
            let tensors = random::tensors(&config, mix, 9).unwrap();
            let options = LoadOptions { quant, threads: 2, device: Device::Cuda(0) };
            let mut gpu = match load(&config, &tensors, options) {
                Ok(gpu) => gpu,
                Err(error) => return eprintln!("skipped: no CUDA device opens: {error}"),
            };
            gpu.allocate_kv(64).unwrap();
            let mut cpu = model(&config, mix, quant, Device::Cpu);
            let (ours, theirs) = (sequences(&*cpu, &[50, 33, 40]), sequences(&*gpu, &[50, 33, 40]));
            let want = all_logits(&mut *cpu, &ours, 64, true);
            for chunk in [64, 7] {
                let got = all_logits(&mut *gpu, &theirs, chunk, true);
                assert!(worst(&got, &want) < tolerance, "{mix:?} {config:?}: {}", worst(&got, &want));
            }
        }
    }
}

#[test]
fn quantized_logits_follow_the_reference() {
    let config = random::shape("tiny").unwrap();
    for mix in [Mix::Q4KM, Mix::Uniform(DType::Q8_0), Mix::Uniform(DType::Q5K), Mix::Uniform(DType::Q4_0)] {
        let mut fast = model(&config, mix, Quant::Auto, Device::Cpu);
        let mut exact = model(&config, mix, Quant::None, Device::Reference);
        let (ours, theirs) = (sequences(&*fast, &[30, 20]), sequences(&*exact, &[30, 20]));
        let difference = worst(&all_logits(&mut *fast, &ours, 64, true), &all_logits(&mut *exact, &theirs, 64, true));
        assert!(difference < EIGHT_BIT_TOLERANCE, "{mix:?}: {difference}");
    }
}

#[test]
fn rows_are_bit_identical_whatever_shares_their_step() {
    for config in shapes() {
        let quantized = config.head_dim == 64;
        for (mix, quant) in
            [(Mix::Uniform(DType::F32), Quant::None), (Mix::Q4KM, Quant::Auto), (Mix::Uniform(DType::Q8_0), Quant::Auto)]
        {
            if !quantized && mix == Mix::Q4KM {
                continue;
            }
            let mut model = model(&config, mix, quant, Device::Cpu);
            let sequences = sequences(&*model, &[61, 17, 40, 1, 35]);
            let together = all_logits(&mut *model, &sequences, 64, true);
            for (chunk, company) in [(64, false), (7, true), (1, true), (16, false), (1, false)] {
                let other = all_logits(&mut *model, &sequences, chunk, company);
                assert!(together == other, "{mix:?}: chunks of {chunk}, together: {company}");
            }
        }
    }
}

/// Root mean square of the differences of log-probabilities that keeping float weights in a type may make. On noise, which is
/// harder than trained weights: no value predicts its neighbour, and logits are about 1.
const KEPT_TOLERANCE: [(DType, f32); 4] = [(DType::F32, 0.0), (DType::Q8_0, 0.04), (DType::Q6K, 0.1), (DType::Q4K, 0.4)];

fn root_mean_square(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    let squares = a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| f64::from(a - b).powi(2));
    let (sum, count) = squares.fold((0.0, 0), |(sum, count), square| (sum + square, count + 1));
    (sum / f64::from(count)).sqrt() as f32
}

fn log_probabilities(logits: &[Vec<f32>], vocab: usize) -> Vec<Vec<f32>> {
    let normalise = |row: &[f32]| {
        let sum: f64 = row.iter().map(|logit| f64::from(*logit).exp()).sum();
        row.iter().map(|logit| (f64::from(*logit) - sum.ln()) as f32).collect::<Vec<f32>>()
    };
    logits.iter().map(|sequence| sequence.chunks_exact(vocab).flat_map(normalise).collect()).collect()
}

#[test]
fn float_weights_are_kept_in_the_wanted_type_and_still_mean_the_same() {
    let tied = random::shape("tiny").unwrap();
    for config in [ModelConfig { tied_embeddings: false, ..tied.clone() }, tied] {
        let tensors = random::tensors(&config, Mix::Uniform(DType::F32), 9).unwrap();
        let values: usize = tensors.values().filter(|tensor| tensor.rows > 1).map(|tensor| tensor.rows * tensor.cols).sum();
        let mut exact = model(&config, Mix::Uniform(DType::F32), Quant::None, Device::Cpu);
        // The first sequence of several is the one without an adapter.
        let sequences = sequences(&*exact, &[60]);
        let expected = log_probabilities(&all_logits(&mut *exact, &sequences, 64, true), config.vocab_size);
        for (dtype, tolerance) in KEPT_TOLERANCE {
            let quant = if dtype == DType::F32 { Quant::None } else { Quant::To(dtype) };
            let source = Source { tensors: &tensors, quant, tied: config.tied_embeddings, threads: 2 };
            for name in tensors.keys().filter(|name| !name.ends_with("norm.weight")) {
                let head = name == "lm_head.weight" || (config.tied_embeddings && name == "model.embed_tokens.weight");
                let wanted = if head && dtype == DType::Q4K { DType::Q6K } else { dtype };
                assert_eq!(source.matrix(name).unwrap().1.dtype, wanted, "{name}");
            }
            let mut model = model(&config, Mix::Uniform(DType::F32), quant, Device::Cpu);
            // A tied table is there twice: packed as the head, and in rows. Q4_K is its 4.6 bits a value, and a head of Q6_K.
            let tied = if config.tied_embeddings { config.vocab_size * config.hidden_size } else { 0 };
            let bits = 8.0 * model.weight_bytes() as f64 / (values + tied) as f64;
            let (block, bytes) = dtype.block();
            let least = 8.0 * bytes as f64 / block as f64;
            assert!((least..least + 1.0).contains(&bits), "{dtype}: {bits} bits a value");
            let got = log_probabilities(&all_logits(&mut *model, &sequences, 64, true), config.vocab_size);
            let difference = root_mean_square(&got, &expected);
            assert!(difference <= tolerance, "{dtype}: {difference}");
            assert!(difference >= tolerance / 3.0, "{dtype}: {difference}: is it kept as something finer?");
        }
    }
}

#[test]
fn an_adapter_whose_scale_overflows_is_refused_by_name_and_large_weights_are_not() {
    let config = random::shape("tiny").unwrap();
    let quantized = model(&config, Mix::Uniform(DType::F32), Quant::Auto, Device::Cpu);
    let exact = model(&config, Mix::Uniform(DType::F32), Quant::None, Device::Cpu);
    let prepare = |model: &dyn Model, change: &dyn Fn(&mut LoraModule)| {
        let mut weights = lora(&config, 4, &[LinearSite::Q, LinearSite::Down], 1);
        change(&mut weights.modules[3]);
        model.adapter_preparer().prepare(weights).map(|_| ()).map_err(|error| error.to_string())
    };
    type Change<'a> = &'a dyn Fn(&mut LoraModule);
    // Weights that f16 could not hold: 8 bits with a scale can, as f32 can.
    let large: [Change<'_>; 3] = [&|m| m.a[17] = 70_000.0, &|m| m.b[17] = -70_000.0, &|m| m.a[17] = 1e30];
    for change in large {
        prepare(&*quantized, change).unwrap();
        prepare(&*exact, change).unwrap();
    }
    let scales: [Change<'_>; 2] = [&|m| m.scale = f32::INFINITY, &|m| (m.scale, m.b[0]) = (1e36, 1e3)];
    for change in scales {
        for model in [&*quantized, &*exact] {
            let error = prepare(model, change).unwrap_err();
            assert!(error.contains("model.layers.1.mlp.down_proj") && error.contains("lora_alpha"), "{error}");
        }
    }
}

#[test]
fn a_token_outside_the_vocabulary_is_an_error() {
    let config = random::shape("tiny").unwrap();
    let mut model = model(&config, Mix::Uniform(DType::Q8_0), Quant::Auto, Device::Cpu);
    let chunk = Chunk { tokens: &[288], start: 0, blocks: &[0], adapter: None, logits: LogitRows::Last };
    let error = model.forward(&[chunk], &mut Logits::default()).unwrap_err();
    assert!(error.to_string().contains("288"), "{error}");
}
