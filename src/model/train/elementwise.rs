//! Row by row: normalisation, rotation, gating, softmax, and narrow copies; forward beside backward. Written so that the compiler
//! finds its vectors; the same text runs everywhere.

use half::bf16;

use crate::model::ops::cpu::Isa;

/// Compiles a function twice: for AVX-512, and for any processor.
macro_rules! twice {
    ($(#[$doc:meta])* $name:ident, $plain:ident, ($($arg:ident: $type:ty),*) $(-> $out:ty)?) => {
        $(#[$doc])*
        pub fn $name(isa: Isa, $($arg: $type),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
            unsafe fn wide($($arg: $type),*) $(-> $out)? {
                $plain($($arg),*)
            }
            match isa {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the instruction set was detected.
                Isa::Avx512 => unsafe { wide($($arg),*) },
                Isa::Portable => $plain($($arg),*),
            }
        }
    };
}

/// Adding this rounds to the nearest integer and leaves it in the low bits.
const ROUND: f32 = 12_582_912.0;

/// `e^x` for `x` in -87 to 88 (clamped), relative error under 2e-7: Cody and Waite's reduction, a polynomial of degree 6.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4;
    let r = r + n * 2.121_944_4e-4;
    let mut p = 1.0 / 720.0;
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + c;
    }
    let power = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    p * f32::from_bits(power)
}

/// Sum in sixteen interleaved sums: one order on every machine, and the compiler vectorises it.
#[inline(always)]
fn sum_by(len: usize, value: impl Fn(usize) -> f32) -> f32 {
    let mut sums = [0f32; 16];
    let whole = len / 16 * 16;
    for at in (0..whole).step_by(16) {
        sums.iter_mut().enumerate().for_each(|(lane, sum)| *sum += value(at + lane));
    }
    (whole..len).map(value).sum::<f32>() + sums.iter().sum::<f32>()
}

#[inline(always)]
fn largest(values: &[f32]) -> f32 {
    let (chunks, tail) = values.as_chunks::<16>();
    let mut lanes = [f32::NEG_INFINITY; 16];
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, v)| *lane = if *v > *lane { *v } else { *lane });
    }
    lanes.iter().chain(tail).fold(f32::NEG_INFINITY, |a, b| if *b > a { *b } else { a })
}

#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum_by(x.len(), |i| x[i] * x[i]) / x.len() as f32 + eps).sqrt()
}

#[inline(always)]
fn norm_plain(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let scale = inverse_rms(x, eps);
    out.iter_mut().zip(x).zip(weight).for_each(|((out, x), w)| *out = x * scale * w);
}
twice!(
    /// `out = x / rms(x) * weight` (Zhang and Sennrich 2019).
    norm, norm_plain, (x: &[f32], weight: &[f32], eps: f32, out: &mut [f32])
);

#[inline(always)]
fn norm_back_plain(dy: &[f32], x: &[f32], weight: &[f32], eps: f32, dx: &mut [f32]) {
    let scale = inverse_rms(x, eps);
    let n = x.len();
    let (dy, weight, dx) = (&dy[..n], &weight[..n], &mut dx[..n]);
    let mean = sum_by(n, |i| dy[i] * weight[i] * x[i]) * scale / n as f32;
    for i in 0..n {
        dx[i] += scale * (dy[i] * weight[i] - x[i] * scale * mean);
    }
}
twice!(
    /// Adds to `dx` the gradient of [`norm`]'s input from that of its output.
    norm_back, norm_back_plain, (dy: &[f32], x: &[f32], weight: &[f32], eps: f32, dx: &mut [f32])
);

/// Which way heads are rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Forward (Su et al. 2021).
    Forward,
    /// The gradient's way, back.
    Back,
}

/// Rotates a row's heads by its angles (cosine, sine), half-rotation layout.
pub fn rotate(row: &mut [f32], angles: &[(f32, f32)], turn: Turn) {
    let sign = if turn == Turn::Forward { 1.0 } else { -1.0 };
    for head in row.chunks_exact_mut(2 * angles.len()) {
        let (first, second) = head.split_at_mut(angles.len());
        for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(angles) {
            let sin = sign * sin;
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

#[inline(always)]
fn gate_plain(gate: &[f32], up: &[f32], out: &mut [f32]) {
    out.iter_mut().zip(gate).zip(up).for_each(|((out, g), u)| *out = g / (1.0 + exp(-g)) * u);
}
twice!(
    /// `out = silu(gate) * up` (Shazeer 2020).
    gate, gate_plain, (gate: &[f32], up: &[f32], out: &mut [f32])
);

#[inline(always)]
fn gate_back_plain(gate: &mut [f32], up: &mut [f32], grad: &[f32]) {
    for ((g, u), d) in gate.iter_mut().zip(up).zip(grad) {
        let sigmoid = 1.0 / (1.0 + exp(-*g));
        let silu = *g * sigmoid;
        let slope = sigmoid + silu * (1.0 - sigmoid);
        (*g, *u) = (d * *u * slope, d * silu);
    }
}
twice!(
    /// Replaces [`gate`]'s inputs by their gradients.
    gate_back, gate_back_plain, (gate: &mut [f32], up: &mut [f32], grad: &[f32])
);

#[inline(always)]
fn softmax_plain(values: &mut [f32], scale: f32) -> f32 {
    let top = largest(values) * scale;
    values.iter_mut().for_each(|v| *v = exp(*v * scale - top));
    let sum = sum_by(values.len(), |i| values[i]);
    let inverse = 1.0 / sum;
    values.iter_mut().for_each(|v| *v *= inverse);
    top + sum.ln()
}
twice!(
    /// Softmax of `scale * values` in place; returns the logarithm of the sum of exponentials. `scale` is positive.
    softmax, softmax_plain, (values: &mut [f32], scale: f32) -> f32
);

#[inline(always)]
fn shifted_exp_plain(values: &mut [f32], scale: f32, log_sum: f32) {
    values.iter_mut().for_each(|v| *v = exp(*v * scale - log_sum));
}
twice!(
    /// The same softmax from what was returned.
    shifted_exp, shifted_exp_plain, (values: &mut [f32], scale: f32, log_sum: f32)
);

#[inline(always)]
fn softmax_back_plain(p: &[f32], dp: &mut [f32], mean: f32, scale: f32) {
    dp.iter_mut().zip(p).for_each(|(dp, p)| *dp = p * (*dp - mean) * scale);
}
twice!(
    /// Gradient of [`softmax`]'s input in place of that of its output; `mean` is the sum of `p * dp`.
    softmax_back, softmax_back_plain, (p: &[f32], dp: &mut [f32], mean: f32, scale: f32)
);

#[inline(always)]
fn dot_plain(x: &[f32], y: &[f32]) -> f32 {
    let y = &y[..x.len()];
    sum_by(x.len(), |i| x[i] * y[i])
}
twice!(
    /// Sum of products.
    dot, dot_plain, (x: &[f32], y: &[f32]) -> f32
);

/// What a row of logits says of its target.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Outcome {
    /// Natural logarithm of the target's probability.
    pub log_prob: f32,
    /// Whether the target is the likeliest token.
    pub correct: bool,
}

#[inline(always)]
fn judge_plain(logits: &mut [f32], target: usize, slope: Option<f32>) -> Outcome {
    let top = largest(logits);
    let sum = {
        let logits = &*logits;
        // Two levels: a vocabulary's sum in one f32 would lose its last digits.
        let parts = logits.chunks(4096).map(|part| f64::from(sum_by(part.len(), |i| exp(part[i] - top))));
        parts.sum::<f64>()
    };
    let log_sum = top + sum.ln() as f32;
    let outcome = Outcome { log_prob: logits[target] - log_sum, correct: logits[target] >= top };
    if let Some(slope) = slope {
        // d log p(target) / d logit = [target] - p
        logits.iter_mut().for_each(|v| *v = -slope * exp(*v - log_sum));
        logits[target] += slope;
    }
    outcome
}
twice!(
    /// Log-probability of the target; with the loss's slope by it, logits are replaced by the loss's gradient by them.
    judge, judge_plain, (logits: &mut [f32], target: usize, slope: Option<f32>) -> Outcome
);

#[inline(always)]
fn narrow_plain(values: &[f32], out: &mut [bf16]) {
    for (value, out) in values.iter().zip(out) {
        let bits = value.to_bits();
        // To nearest, ties to even. A NaN may become an infinity here; either is found in the gradient's norm.
        *out = bf16::from_bits((bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16) as u16);
    }
}
twice!(
    /// Rounds to bf16.
    narrow, narrow_plain, (values: &[f32], out: &mut [bf16])
);

#[inline(always)]
fn widen_plain(values: &[bf16], out: &mut [f32]) {
    values.iter().zip(out).for_each(|(v, out)| *out = f32::from_bits(u32::from(v.to_bits()) << 16));
}
twice!(
    /// From bf16.
    widen, widen_plain, (values: &[bf16], out: &mut [f32])
);
