//! Kernels against their slow references, and the promise that a row does not depend on its company.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::model::config::{Architecture, RopeScaling};
use crate::model::loader::encode::encode;
use crate::model::loader::{DType, Origin};

const FORMATS: [DType; 9] =
    [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q6K, DType::Q5K, DType::Q4K, DType::Q5_0, DType::Q4_0];

/// Largest difference between two ways to sum the same products, relative to the sum of their magnitudes.
const SUM_TOLERANCE: f32 = 2e-6;

pub(super) fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random::<f32>() * 2.0 - 1.0).collect()
}

pub(super) fn raw(dtype: DType, rows: usize, cols: usize, seed: u64) -> RawTensor {
    use std::io::Write;
    let bytes = encode(dtype, &noise(rows * cols, seed), cols).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    // SAFETY: nobody else has the file.
    let file = Arc::new(unsafe { memmap2::Mmap::map(&file).unwrap() });
    RawTensor { dtype, rows, cols, file, origin: Origin::File, range: 0..bytes.len(), interleaved_head_dim: None }
}

pub(super) fn config(k: usize) -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Llama,
        vocab_size: 64,
        hidden_size: k,
        intermediate_size: k,
        layers: 1,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        rms_eps: 1e-5,
        rope_theta: 1e4,
        rope_scaling: RopeScaling::None,
        context_length: 512,
        sliding_window: None,
        tied_embeddings: true,
        details: crate::model::config::Details::default(),
    }
}

fn product(isa: Isa, dtype: DType, weight: &RawTensor, x: &[f32], threads: usize) -> Vec<f32> {
    let mut ops = CpuOps::new(&config(weight.cols), threads, true, isa).unwrap();
    let linear = ops.linear(weight, None).unwrap();
    assert_eq!(linear.weight.format, Format::of(dtype));
    let mut out = Vec::new();
    ops.logits(&Matrix { values: x.to_vec(), width: weight.cols }, &linear, &mut out).unwrap();
    out
}
use activation::Field;
use packed::Format;

/// Products of the dequantized weights with the inputs as the kernel sees them, and the sums of their magnitudes.
fn reference(weight: &RawTensor, x: &[f32], quantized: bool) -> Vec<(f64, f64)> {
    let (k, w) = (weight.cols, weight.dequantize().unwrap());
    let seen: Vec<f32> = if quantized {
        let blocks = x.as_chunks::<{ packed::BLOCK }>().0.iter().map(activation::quantize_block);
        blocks.flat_map(|block| block.q.map(|q| f32::from(q) * block.scale)).collect()
    } else {
        x.to_vec()
    };
    let pairs = seen.chunks_exact(k).flat_map(|x| w.chunks_exact(k).map(move |w| (x, w)));
    pairs
        .map(|(x, w)| {
            let terms = || x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
            (terms().sum(), terms().map(f64::abs).sum())
        })
        .collect()
}

#[test]
fn products_equal_those_of_the_dequantized_weights() {
    for (i, dtype) in FORMATS.into_iter().enumerate() {
        for (rows, k, inputs) in [(40, 256, 11), (16, 512, 1), (7, 256, 3)] {
            let weight = raw(dtype, rows, k, i as u64);
            let x = noise(inputs * k, 77);
            let quantized = Format::of(dtype).is_quantized();
            let expected = reference(&weight, &x, quantized);
            for isa in [Isa::detect(), Isa::Portable] {
                for (got, (want, magnitude)) in product(isa, dtype, &weight, &x, 2).iter().zip(&expected) {
                    let error = (f64::from(*got) - want).abs();
                    assert!(error <= f64::from(SUM_TOLERANCE) * magnitude, "{dtype:?} {isa:?}: {got} is not {want}");
                }
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_its_company_or_the_threads() {
    for dtype in FORMATS {
        let (weight, x) = (raw(dtype, 72, 256, 5), noise(37 * 256, 6));
        for isa in [Isa::detect(), Isa::Portable] {
            let together = product(isa, dtype, &weight, &x, 2);
            for (row, x) in x.chunks_exact(256).enumerate() {
                let alone = product(isa, dtype, &weight, x, 1);
                assert_eq!(alone, together[row * 72..(row + 1) * 72], "{dtype:?} {isa:?} row {row}");
            }
        }
    }
}

#[test]
fn eight_bit_inputs_are_within_half_a_step() {
    let (k, rows) = (64, 37);
    let x = noise(rows * k, 3);
    let mut quantized = Quantized::default();
    quantized.shape(rows, k);
    let writer = quantized.writer();
    // SAFETY: one thread.
    x.chunks_exact(k).enumerate().for_each(|(row, x)| unsafe { quantize(Isa::detect(), &writer, row, 0, x) });
    let mut seen = vec![false; quantized.words().len()];
    for (row, x) in x.chunks_exact(k).enumerate() {
        let place = activation::place(rows, k / 32, row);
        for (b, x) in x.chunks_exact(32).enumerate() {
            let word = |field| quantized.words()[place.field(b, field)];
            let scale = f32::from_bits(word(Field::Scale));
            let q: Vec<i8> = place.values(b).flat_map(|at| quantized.words()[at].to_le_bytes()).map(u8::cast_signed).collect();
            for (x, q) in x.iter().zip(&q) {
                assert!((x - scale * f32::from(*q)).abs() <= scale * 0.501);
            }
            let sum = |range: std::ops::Range<usize>| -q[range].iter().map(|q| i32::from(*q)).sum::<i32>();
            let sums = [Field::LowSum, Field::HighSum, Field::Sum].map(|field| word(field).cast_signed());
            assert_eq!(sums, [sum(0..16), sum(16..32), sum(0..32)]);
            assert_eq!(f32::from_bits(word(Field::ScaledSum)), -(sums[2] as f32) * scale);
            let fields = [Field::Scale, Field::ScaledSum, Field::Sum, Field::LowSum, Field::HighSum];
            for at in place.values(b).chain(fields.map(|field| place.field(b, field))) {
                assert!(!std::mem::replace(&mut seen[at], true), "two values at {at}");
            }
        }
    }
    assert!(seen.iter().all(|seen| *seen));
}

#[test]
fn vector_exponential_is_accurate() {
    #[cfg(target_arch = "x86_64")]
    if Isa::detect() == Isa::Avx512 {
        let mut gate: Vec<f32> = (-2000..2000).map(|i| i as f32 * 0.05).collect();
        let (mut plain, up) = (gate.clone(), vec![1.0; gate.len()]);
        // SAFETY: the instruction set was detected.
        unsafe { avx512::silu_mul(&mut gate, &up) };
        portable::silu_mul(&mut plain, &up);
        for (fast, slow) in gate.iter().zip(&plain) {
            assert!((fast - slow).abs() <= 1e-6 * slow.abs().max(1e-20), "{fast} is not {slow}");
        }
    }
}
