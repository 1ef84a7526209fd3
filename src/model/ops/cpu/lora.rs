//! Segment LoRA: each adapter's low-rank update over its own rows (Chen et al. 2023, "Punica"; Sheng et al. 2023, "S-LoRA").
//!
//! Rows of other adapters, and of the base, are not touched; ranks need no padding: `A` is read row by row of its rank, `B`
//! is kept transposed and read the same way. A row's sums have one order whatever shares its segment.

use half::f16;

use super::Isa;
use super::element::Element;
use super::pool::Parts;
use crate::model::ModelError;
use crate::model::config::LinearSite;
use crate::model::lora::LoraWeights;

/// Weights of one linear's update.
pub struct Module<E> {
    /// Rank.
    pub rank: usize,
    /// Inputs.
    pub k: usize,
    /// Outputs.
    pub n: usize,
    scale: f32,
    /// `[rank, k]`
    a: Vec<E>,
    /// `[rank, n]`
    b: Vec<E>,
}

type Layer<E> = [Option<Module<E>>; 7];

/// An adapter's modules by layer and site.
pub enum CpuLora {
    /// Kept exactly: beside a base that is not quantized.
    F32(Vec<Layer<f32>>),
    /// Half the memory to read: beside a quantized base.
    F16(Vec<Layer<f16>>),
}

/// Gives `$module` (a generic [`Module`]) to an expression, if the adapter targets the site.
macro_rules! with_module {
    ($lora:expr, $layer:expr, $site:expr, $module:ident => $body:expr) => {
        match $lora {
            CpuLora::F32(layers) => layers[$layer][$site as usize].as_ref().map(|$module| $body),
            CpuLora::F16(layers) => layers[$layer][$site as usize].as_ref().map(|$module| $body),
        }
    };
}

impl CpuLora {
    /// Packs checked weights for a model of `layers` layers.
    ///
    /// # Errors
    /// A weight is finite, but not in the type that it is kept in.
    pub fn new(weights: &LoraWeights, layers: usize, exact: bool) -> Result<Self, ModelError> {
        Ok(if exact { Self::F32(pack(weights, layers)?) } else { Self::F16(pack(weights, layers)?) })
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        fn sum<E>(layers: &[Layer<E>]) -> usize {
            layers.iter().flatten().flatten().map(|m| (m.a.len() + m.b.len()) * size_of::<E>()).sum()
        }
        match self {
            Self::F32(layers) => sum(layers),
            Self::F16(layers) => sum(layers),
        }
    }

    /// Rank of the update of a linear; `None` where it has none.
    pub fn rank(&self, layer: usize, site: LinearSite) -> Option<usize> {
        with_module!(self, layer, site, module => module.rank)
    }

    /// `t[i] = scale * A x[rows[i]]`; `x` is a whole step's input, `t` is `rows x rank`.
    pub fn down(&self, isa: Isa, layer: usize, site: LinearSite, x: &[f32], rows: &[usize], t: &mut [f32]) {
        with_module!(self, layer, site, module => module.down(isa, x, rows, t));
    }

    /// `out[rows[i]][outputs] += B t[i]`; `out` is a whole step's output of `n` values a row.
    ///
    /// # Safety
    /// No other thread touches these outputs of these rows.
    pub unsafe fn up(&self, isa: Isa, at: Target, t: &[f32], rows: &[usize], outputs: std::ops::Range<usize>, out: &Parts<f32>) {
        // SAFETY: the caller's contract.
        with_module!(self, at.layer, at.site, module => unsafe { module.up(isa, t, rows, outputs, out) });
    }
}

/// Which linear of the model.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Layer.
    pub layer: usize,
    /// Site.
    pub site: LinearSite,
}

fn pack<E: Element>(weights: &LoraWeights, layers: usize) -> Result<Vec<Layer<E>>, ModelError> {
    let mut out: Vec<Layer<E>> = (0..layers).map(|_| Default::default()).collect();
    for module in &weights.modules {
        let (rank, k, n) = (module.rank, module.a.len() / module.rank, module.b.len() / module.rank);
        let store = |half: &str, value: f32| {
            let stored = E::store(value);
            if stored.load().is_finite() {
                return Ok(stored);
            }
            let (path, name) = (module.path(), E::NAME);
            Err(ModelError::Invalid(format!(
                "{path}.{half}.weight holds {value}, which {name}, the type it is kept in, cannot hold"
            )))
        };
        let a = module.a.iter().map(|v| store("lora_A", *v)).collect::<Result<_, _>>()?;
        let transposed = (0..rank).flat_map(|r| (0..n).map(move |o| o * rank + r));
        let b = transposed.map(|at| store("lora_B", module.b[at])).collect::<Result<_, _>>()?;
        out[module.layer][module.site as usize] = Some(Module { rank, k, n, scale: module.scale, a, b });
    }
    Ok(out)
}

impl<E: Element> Module<E> {
    /// One output of the update, in f64: the slow reference.
    #[cfg(test)]
    pub fn reference(&self, x: &[f32], output: usize) -> f32 {
        let low = self.a.chunks_exact(self.k).map(|a| a.iter().zip(x).map(|(a, x)| f64::from(a.load() * x)).sum::<f64>());
        let sum: f64 = low.enumerate().map(|(r, t)| t * f64::from(self.b[r * self.n + output].load())).sum();
        (sum * f64::from(self.scale)) as f32
    }

    fn down(&self, isa: Isa, x: &[f32], rows: &[usize], t: &mut [f32]) {
        assert_eq!(t.len(), rows.len() * self.rank, "scratch of the wrong size: this is a bug");
        match isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the instruction set was detected.
            Isa::Avx512 => unsafe { avx512::down(self, x, rows, t) },
            Isa::Portable => {
                for (row, t) in rows.iter().zip(t.chunks_exact_mut(self.rank)) {
                    let x = &x[row * self.k..(row + 1) * self.k];
                    for (a, t) in self.a.chunks_exact(self.k).zip(t) {
                        *t = self.scale * a.iter().zip(x).map(|(a, x)| a.load() * x).sum::<f32>();
                    }
                }
            }
        }
    }

    unsafe fn up(&self, isa: Isa, t: &[f32], rows: &[usize], outputs: std::ops::Range<usize>, out: &Parts<f32>) {
        for (row, t) in rows.iter().zip(t.chunks_exact(self.rank)) {
            // SAFETY: the caller's contract.
            let out = unsafe { out.slice(row * self.n + outputs.start..row * self.n + outputs.end) };
            match isa {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the instruction set was detected.
                Isa::Avx512 => unsafe { avx512::up(self, t, outputs.start, out) },
                Isa::Portable => {
                    for (i, out) in out.iter_mut().enumerate() {
                        let b = self.b[outputs.start + i..].iter().step_by(self.n);
                        *out += b.zip(t).map(|(b, t)| b.load() * t).sum::<f32>();
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    //! The same for AVX-512. Only called under detected features.

    use std::arch::x86_64::*;

    use super::{Element, Module};
    use crate::model::ops::cpu::avx512::unroll;

    /// `R` rows with `J` rows of `A` from `j`.
    #[inline(always)]
    unsafe fn dots<E: Element, const R: usize, const J: usize>(
        m: &Module<E>,
        x: &[f32],
        rows: &[usize],
        j: usize,
        t: &mut [f32],
    ) {
        // SAFETY: rows lie in `x`, `j + J <= rank`, tails are masked.
        unsafe {
            let mut acc = [[_mm512_setzero_ps(); J]; R];
            let mut i = 0;
            while i < m.k {
                let mask = if m.k - i >= 16 { 0xFFFF } else { (1u16 << (m.k - i)) - 1 };
                let mut a = [_mm512_setzero_ps(); J];
                unroll!(c < J, {
                    a[c] = E::load_masked(m.a.as_ptr().add((j + c) * m.k + i), mask);
                });
                unroll!(r < R, {
                    let x = _mm512_maskz_loadu_ps(mask, x.as_ptr().add(rows[r] * m.k + i));
                    unroll!(c < J, {
                        acc[r][c] = _mm512_fmadd_ps(a[c], x, acc[r][c]);
                    });
                });
                i += 16;
            }
            unroll!(r < R, {
                unroll!(c < J, {
                    t[r * m.rank + j + c] = m.scale * _mm512_reduce_add_ps(acc[r][c]);
                });
            });
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,f16c,fma")]
    pub unsafe fn down<E: Element>(m: &Module<E>, x: &[f32], rows: &[usize], t: &mut [f32]) {
        assert!(rows.iter().all(|row| (row + 1) * m.k <= x.len()), "row outside the step: this is a bug");
        let mut first = 0;
        while first < rows.len() {
            let four = rows.len() - first >= 4;
            let count = if four { 4 } else { 1 };
            let (rows, t) = (&rows[first..first + count], &mut t[first * m.rank..(first + count) * m.rank]);
            let mut j = 0;
            while j < m.rank {
                // SAFETY: bounds as asserted and just computed.
                unsafe {
                    j += match (four, m.rank - j) {
                        (true, 4..) => {
                            dots::<E, 4, 4>(m, x, rows, j, t);
                            4
                        }
                        (true, _) => {
                            dots::<E, 4, 1>(m, x, rows, j, t);
                            1
                        }
                        (false, 4..) => {
                            dots::<E, 1, 4>(m, x, rows, j, t);
                            4
                        }
                        (false, _) => {
                            dots::<E, 1, 1>(m, x, rows, j, t);
                            1
                        }
                    };
                }
            }
            first += count;
        }
    }

    #[inline(always)]
    unsafe fn columns<E: Element, const T: usize>(m: &Module<E>, t: &[f32], first: usize, out: *mut f32, mask: u16) {
        // SAFETY: `T` registers of outputs from `first` exist up to the mask.
        unsafe {
            let mut acc = [_mm512_setzero_ps(); T];
            for (r, t) in t.iter().enumerate() {
                let (b, t) = (m.b.as_ptr().add(r * m.n + first), _mm512_set1_ps(*t));
                unroll!(c < T, {
                    acc[c] = _mm512_fmadd_ps(E::load_masked(b.add(16 * c), mask), t, acc[c]);
                });
            }
            unroll!(c < T, {
                let p = out.add(16 * c);
                _mm512_mask_storeu_ps(p, mask, _mm512_add_ps(_mm512_maskz_loadu_ps(mask, p), acc[c]));
            });
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,f16c,fma")]
    pub unsafe fn up<E: Element>(m: &Module<E>, t: &[f32], first: usize, out: &mut [f32]) {
        assert!(t.len() == m.rank && first + out.len() <= m.n, "outputs outside the layer: this is a bug");
        let mut i = 0;
        while i < out.len() {
            let left = out.len() - i;
            // SAFETY: in bounds by the assertion and the mask.
            unsafe {
                let p = out.as_mut_ptr().add(i);
                i += match left {
                    64.. => {
                        columns::<E, 4>(m, t, first + i, p, 0xFFFF);
                        64
                    }
                    16.. => {
                        columns::<E, 1>(m, t, first + i, p, 0xFFFF);
                        16
                    }
                    _ => {
                        columns::<E, 1>(m, t, first + i, p, (1u16 << left) - 1);
                        left
                    }
                };
            }
        }
    }
}
