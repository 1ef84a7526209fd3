//! The decoder alone, in chunks: prompt rows, then greedy decoding from its own KV blocks.

use std::sync::Arc;

use switchyard::model::config::{ModelConfig, RopeScaling};
use switchyard::model::loader::quantize::quantize_checkpoint;
use switchyard::model::loader::{self, DType};
use switchyard::model::lora::{PreparedAdapter, peft};
use switchyard::model::native::{Device, LoadOptions, load};
use switchyard::model::ops::Quant;
use switchyard::model::{BLOCK_TOKENS, BlockId, Chunk, LogitRows, Logits, Model};

use crate::golden::{Answer, BASES, Case, FILES, MUST_MOVE, TOLERANCE, case};

/// Tokens of a prefill chunk: not a multiple of a block.
const CHUNK: usize = 50;

fn model(case: &Case, config: &ModelConfig, device: Device) -> Box<dyn Model> {
    let options = LoadOptions { quant: Quant::None, threads: 1, device };
    let mut model = load(config, &case.checkpoint.tensors, options).unwrap();
    model.allocate_kv(config.context_length / BLOCK_TOKENS).unwrap();
    model
}

/// One sequence in the model.
struct Sequence<'a> {
    model: &'a mut dyn Model,
    adapter: Option<&'a Arc<PreparedAdapter>>,
    blocks: Vec<BlockId>,
    length: usize,
}

impl<'a> Sequence<'a> {
    fn new(model: &'a mut dyn Model, adapter: Option<&'a Arc<PreparedAdapter>>) -> Self {
        let blocks = (0..model.config().context_length / BLOCK_TOKENS).map(|block| block as BlockId).rev().collect();
        Self { model, adapter, blocks, length: 0 }
    }

    /// Log-probabilities after each of these tokens.
    fn push(&mut self, tokens: &[u32]) -> Vec<Vec<f32>> {
        let needed = (self.length + tokens.len()).div_ceil(BLOCK_TOKENS);
        let chunk =
            Chunk { tokens, start: self.length, blocks: &self.blocks[..needed], adapter: self.adapter, logits: LogitRows::All };
        let mut logits = Logits::default();
        self.model.forward(&[chunk], &mut logits).unwrap();
        self.length += tokens.len();
        (0..logits.rows()).map(|row| log_softmax(logits.row(row))).collect()
    }
}

fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let largest = f64::from(logits.iter().copied().fold(f32::MIN, f32::max));
    let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - largest).exp()).sum();
    logits.iter().map(|logit| (f64::from(*logit) - largest - sum.ln()) as f32).collect()
}

/// Largest difference from the reference over prompt, alternatives and greedy continuation.
fn worst(model: &mut dyn Model, adapter: Option<&Arc<PreparedAdapter>>, answer: &Answer) -> f32 {
    let mut sequence = Sequence::new(model, adapter);
    let rows: Vec<Vec<f32>> = answer.tokens.chunks(CHUNK).flat_map(|chunk| sequence.push(chunk)).collect();
    let mut worst = prompt_difference(&rows, answer);
    let mut row = rows[rows.len() - 1].clone();
    for (id, expected) in answer.greedy.iter().zip(&answer.greedy_logprobs) {
        worst = worst.max((row[*id as usize] - expected).abs());
        row = sequence.push(&[*id]).remove(0);
    }
    worst
}

fn prompt_difference(rows: &[Vec<f32>], answer: &Answer) -> f32 {
    let mut worst = 0f32;
    for (position, row) in rows[..rows.len() - 1].iter().enumerate() {
        let next = position + 1;
        let expected = answer.logprobs[next].unwrap();
        worst = worst.max((row[answer.tokens[next] as usize] - expected).abs());
        for (id, expected) in answer.top[next].iter().flatten() {
            worst = worst.max((row[*id as usize] - expected).abs());
        }
    }
    worst
}

fn prepared(case: &Case, model: &dyn Model, name: &str) -> Arc<PreparedAdapter> {
    let weights = peft::read_dir(&case.adapters.join(name), &case.checkpoint.config).unwrap();
    Arc::new(model.adapter_preparer().prepare(weights).unwrap())
}

#[test]
fn the_decoder_computes_what_transformers_and_peft_compute() {
    for device in [Device::Cpu, Device::Reference] {
        for name in BASES.into_iter().chain(FILES) {
            let case = case(name);
            let mut model = model(&case, &case.checkpoint.config, device);
            let mut largest = 0f32;
            for (adapter, answers) in case.expected.all() {
                let prepared = adapter.map(|adapter| prepared(&case, model.as_ref(), adapter));
                for (prompt, answer) in answers {
                    let difference = worst(model.as_mut(), prepared.as_ref(), answer);
                    assert!(difference <= TOLERANCE, "{device:?} {name} {adapter:?} {prompt}: {difference}");
                    largest = largest.max(difference);
                }
            }
            eprintln!("{device:?} {name}: largest difference {largest:.2e}");
        }
    }
}

/// That the files would notice: the same comparison without a feature fails clearly.
#[test]
fn leaving_out_the_window_or_the_scaling_shows() {
    for name in ["llama3", "llama-linear", "mistral", "llama-mix.gguf", "phi3", "gemma2", "gemma3", "phi3.gguf", "gemma2.gguf"] {
        let case = case(name);
        let mut config = case.checkpoint.config.clone();
        config.sliding_window = None;
        config.rope_scaling = RopeScaling::None;
        let mut model = model(&case, &config, Device::Cpu);
        let difference = worst(model.as_mut(), None, &case.expected.base["harbour"]);
        assert!(difference > MUST_MOVE, "{name}: {difference}");
    }
}

/// Phi-3's divisors up to its original context, which a server has that serves no more than that.
#[test]
fn a_base_that_serves_its_original_context_has_the_short_divisors() {
    let case = case("phi3");
    let mut config = case.checkpoint.config.clone();
    let answer = &case.expected.within_original["short"];
    let whole = worst(model(&case, &config, Device::Cpu).as_mut(), None, answer);
    assert!(whole > MUST_MOVE, "{whole}");
    config.context_length = 64;
    for device in [Device::Cpu, Device::Reference] {
        let difference = worst(model(&case, &config, device).as_mut(), None, answer);
        assert!(difference <= TOLERANCE, "{device:?}: {difference}");
    }
}

/// How many times as far as the file's weights alone move the reference, 8-bit inputs may take it besides.
const EIGHT_BIT_INPUTS: f64 = 3.0;

/// GGUF files as they are served, with 8-bit inputs, against the weights before they were quantized.
#[test]
fn files_in_eight_bits_stay_near_the_unquantized_reference() {
    for name in FILES.into_iter().filter(|name| *name != "llama-mix.gguf") {
        let case = case(name);
        let config = &case.checkpoint.config;
        let options = LoadOptions { quant: Quant::Auto, threads: 1, device: Device::Cpu };
        let mut model = load(config, &case.checkpoint.tensors, options).unwrap();
        model.allocate_kv(config.context_length / BLOCK_TOKENS).unwrap();
        let (answer, weights) = (&case.expected.unquantized["harbour"], &case.expected.base["harbour"]);
        let mut sequence = Sequence::new(model.as_mut(), None);
        let rows: Vec<Vec<f32>> = answer.tokens.chunks(CHUNK).flat_map(|chunk| sequence.push(chunk)).collect();
        let places = 1..answer.tokens.len();
        let rms = |off: &dyn Fn(usize) -> f32| {
            let squares: f64 = places.clone().map(|place| f64::from(off(place) - answer.logprobs[place].unwrap()).powi(2)).sum();
            (squares / places.len() as f64).sqrt()
        };
        let ours = rms(&|place| rows[place - 1][answer.tokens[place] as usize]);
        let own = rms(&|place| weights.logprobs[place].unwrap());
        eprintln!("{name} in 8 bits: {ours:.3} away, its weights alone {own:.3}");
        assert!(ours < EIGHT_BIT_INPUTS * own, "{name}: {ours} against {own}");
    }
}

/// `switchyard quantize --type f32`: interleaved rows, names and rotary divisors in the file mean the same base, for adapters too.
#[test]
fn a_base_written_as_gguf_computes_the_same_with_and_without_adapters() {
    let folder = tempfile::tempdir().unwrap();
    for name in BASES {
        let mut case = case(name);
        let path = folder.path().join("base.gguf");
        quantize_checkpoint(&case.checkpoint, &path, DType::F32).unwrap();
        case.checkpoint = loader::open(&path).unwrap();
        let mut model = model(&case, &case.checkpoint.config, Device::Cpu);
        for (adapter, answers) in case.expected.all() {
            let prepared = adapter.map(|adapter| prepared(&case, model.as_ref(), adapter));
            let difference = worst(model.as_mut(), prepared.as_ref(), &answers["harbour"]);
            assert!(difference <= TOLERANCE, "{name} {adapter:?}: {difference}");
        }
        assert!(case.expected.adapters.len() >= 2, "{name}");
    }
}

/// `serve --quant q4_k` on a directory computes what it computes on the file that `quantize --type q4_k` makes of it.
#[test]
fn quantizing_while_loading_computes_what_the_written_file_computes() {
    let folder = tempfile::tempdir().unwrap();
    // Rows of 256 values in floats, which the golden directories do not have: the types fit, and queries are interleaved.
    let wide = folder.path().join("wide.gguf");
    quantize_checkpoint(&case("llama-mix.gguf").checkpoint, &wide, DType::F32).unwrap();
    let bases = BASES.map(|name| case(name).checkpoint).into_iter().chain([loader::open(&wide).unwrap()]);
    for mut base in bases {
        for dtype in [DType::Q4K, DType::Q6K, DType::Q8_0] {
            let path = folder.path().join("base.gguf");
            quantize_checkpoint(&base, &path, dtype).unwrap();
            let written = loader::open(&path).unwrap();
            // The file has Llama 3's scaling as divisors, which differ in the last bit.
            base.config.rope_scaling = written.config.rope_scaling.clone();
            let rows = |base: &loader::Checkpoint, quant: Quant| {
                let options = LoadOptions { quant, threads: 2, device: Device::Cpu };
                let mut model = load(&base.config, &base.tensors, options).unwrap();
                model.allocate_kv(base.config.context_length / BLOCK_TOKENS).unwrap();
                (model.weight_bytes(), Sequence::new(model.as_mut(), None).push(&[5, 6, 7, 8, 9, 10, 11, 60, 61, 62, 63]))
            };
            assert!(rows(&base, Quant::To(dtype)) == rows(&written, Quant::Auto), "{} as {dtype}", base.name);
        }
    }
}
