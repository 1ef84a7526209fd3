//! What happens to single values and rows between the products: normalisation, rotation, activation, caps. An element's result
//! depends on its own value (a row's on its own row) alone, whatever shares its step.

use super::Isa;

/// Sum of squares in sixteen interleaved sums: one order on every machine, and the compiler vectorises it.
fn sum_of_squares(x: &[f32]) -> f32 {
    let (chunks, tail) = x.as_chunks::<16>();
    let mut sums = [0f32; 16];
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, v)| *sum += v * v);
    }
    tail.iter().map(|v| v * v).sum::<f32>() + sums.iter().sum::<f32>()
}

/// Sum in sixteen interleaved sums.
fn sum(x: &[f32]) -> f32 {
    let (chunks, tail) = x.as_chunks::<16>();
    let mut sums = [0f32; 16];
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, v)| *sum += v);
    }
    tail.iter().sum::<f32>() + sums.iter().sum::<f32>()
}

/// RMS normalisation of a row (Zhang and Sennrich 2019).
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let scale = 1.0 / (sum_of_squares(x) / x.len() as f32 + eps).sqrt();
    out.iter_mut().zip(x).zip(weight).for_each(|((out, x), w)| *out = x * scale * w);
}

/// The same in place.
pub fn rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) {
    let scale = 1.0 / (sum_of_squares(x) / x.len() as f32 + eps).sqrt();
    x.iter_mut().zip(weight).for_each(|(x, w)| *x = *x * scale * w);
}

/// Layer normalisation of a row (Ba et al. 2016).
pub fn layer_norm(x: &[f32], (weight, bias): (&[f32], &[f32]), eps: f32, out: &mut [f32]) {
    let mean = sum(x) / x.len() as f32;
    out.iter_mut().zip(x).for_each(|(out, x)| *out = x - mean);
    let scale = 1.0 / (sum_of_squares(out) / x.len() as f32 + eps).sqrt();
    out.iter_mut().zip(weight).zip(bias).for_each(|((out, w), b)| *out = *out * scale * w + b);
}

/// Rotates the leading values of a row's heads by its angles, half-rotation layout, and scales all of them.
pub fn rotate(row: &mut [f32], head_dim: usize, angles: &[(f32, f32)], scale: f32) {
    for head in row.chunks_exact_mut(head_dim) {
        let (turned, rest) = head.split_at_mut(2 * angles.len());
        let (first, second) = turned.split_at_mut(angles.len());
        for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(angles) {
            (*a, *b) = ((*a * cos - *b * sin) * scale, (*b * cos + *a * sin) * scale);
        }
        rest.iter_mut().for_each(|v| *v *= scale);
    }
}

/// `sqrt(2 / pi)`
const GELU_SCALE: f32 = 0.797_884_6;
/// The cubic term's share.
const GELU_CUBIC: f32 = 0.044_715;

/// `gate = gelu(gate) * up`, or `gelu(gate)`, in the tanh form (Hendrycks and Gimpel 2016), written with an exponential:
/// `x (1 + tanh z) / 2 = x / (1 + e^-2z)`.
pub fn gelu(isa: Isa, gate: &mut [f32], up: Option<&[f32]>) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the instruction set was detected.
        Isa::Avx512 => unsafe { wide::gelu(gate) },
        Isa::Portable => gate.iter_mut().for_each(|x| {
            let z = GELU_SCALE * (*x + GELU_CUBIC * *x * *x * *x);
            *x /= 1.0 + (-2.0 * z).exp();
        }),
    }
    if let Some(up) = up {
        gate.iter_mut().zip(up).for_each(|(g, u)| *g *= u);
    }
}

/// `cap * tanh(value / cap)` of each value.
pub fn soft_cap(isa: Isa, values: &mut [f32], cap: f32) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the instruction set was detected.
        Isa::Avx512 => unsafe { wide::soft_cap(values, cap) },
        Isa::Portable => values.iter_mut().for_each(|v| *v = cap * (*v / cap).tanh()),
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    //! The same for AVX-512. Only called under detected features.

    use std::arch::x86_64::*;

    use super::super::avx512::exp;
    use super::{GELU_CUBIC, GELU_SCALE};

    /// # Safety
    /// The processor has AVX-512F.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn gelu(values: &mut [f32]) {
        let mut i = 0;
        while i < values.len() {
            // SAFETY: masked to the slice's end.
            unsafe {
                let (mask, p) = at(values, i);
                let x = _mm512_maskz_loadu_ps(mask, p);
                let cube = _mm512_mul_ps(_mm512_mul_ps(x, x), x);
                let z = _mm512_fmadd_ps(_mm512_set1_ps(GELU_CUBIC), cube, x);
                let e = exp(_mm512_min_ps(_mm512_mul_ps(_mm512_set1_ps(-2.0 * GELU_SCALE), z), _mm512_set1_ps(88.0)));
                _mm512_mask_storeu_ps(p, mask, _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0), e)));
            }
            i += 16;
        }
    }

    /// `tanh y = 1 - 2 / (e^2y + 1)`
    ///
    /// # Safety
    /// The processor has AVX-512F.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn soft_cap(values: &mut [f32], cap: f32) {
        let mut i = 0;
        while i < values.len() {
            // SAFETY: masked to the slice's end.
            unsafe {
                let (mask, p) = at(values, i);
                let doubled = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, p), _mm512_set1_ps(2.0 / cap));
                // Of a NaN and a number this is the second operand: the NaN stays.
                let e = exp(_mm512_min_ps(_mm512_set1_ps(88.0), doubled));
                let share = _mm512_div_ps(_mm512_set1_ps(-2.0 * cap), _mm512_add_ps(e, _mm512_set1_ps(1.0)));
                _mm512_mask_storeu_ps(p, mask, _mm512_add_ps(share, _mm512_set1_ps(cap)));
            }
            i += 16;
        }
    }

    /// Mask and place of up to sixteen values from `i`.
    #[inline(always)]
    unsafe fn at(values: &mut [f32], i: usize) -> (u16, *mut f32) {
        let left = values.len() - i;
        // SAFETY: `i` lies inside the slice.
        (if left >= 16 { 0xFFFF } else { (1u16 << left) - 1 }, unsafe { values.as_mut_ptr().add(i) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_activations_and_caps_agree_with_plain_ones() {
        let values: Vec<f32> = (-4000..4000).map(|i| i as f32 * 0.037).collect();
        let run = |isa: Isa| {
            let (mut gelus, mut capped) = (values.clone(), values.clone());
            gelu(isa, &mut gelus, Some(&values));
            soft_cap(isa, &mut capped, 30.0);
            (gelus, capped)
        };
        let ((a, c), (b, d)) = (run(Isa::detect()), run(Isa::Portable));
        for ((x, y), scale) in a.iter().zip(&b).zip(&values) {
            assert!((x - y).abs() <= 1e-6 * (1.0 + scale * scale), "{x} {y}");
        }
        for (x, y) in c.iter().zip(&d) {
            assert!((x - y).abs() <= 2e-5, "{x} {y}");
        }
    }

    #[test]
    fn what_is_not_a_number_stays_so() {
        for isa in [Isa::detect(), Isa::Portable] {
            let (mut capped, mut gelus) = ([f32::NAN, 1e6, f32::INFINITY, -1e6], [f32::NAN, 1.0]);
            soft_cap(isa, &mut capped, 30.0);
            gelu(isa, &mut gelus, None);
            assert!(capped[0].is_nan() && gelus[0].is_nan() && !gelus[1].is_nan(), "{capped:?} {gelus:?}");
            assert_eq!(capped[1..], [30.0, 30.0, -30.0]);
        }
    }
}
