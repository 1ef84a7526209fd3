//! Segment LoRA: each adapter's low-rank update over its own rows (Chen et al. 2023, "Punica"; Sheng et al. 2023, "S-LoRA").
//!
//! Rows of other adapters, and of the base, are not touched; ranks need no padding. An adapter is one piece of memory in the order in
//! which it is read: `A` by columns of sixteen inputs, `B` by stripes of [`STRIPE`] outputs, all of the rank for each. A row's sums have
//! one order whatever shares its segment.

use std::marker::PhantomData;

use half::f16;
use memmap2::MmapMut;

use super::Isa;
use super::element::Element;
use super::pool::Parts;
use crate::model::ModelError;
use crate::model::config::LinearSite;
use crate::model::lora::{LoraModule, LoraWeights};

/// Inputs that lie together.
const COLUMN: usize = 16;
/// Outputs that lie together.
pub const STRIPE: usize = 64;

/// Where one linear's update lies.
pub struct Module {
    rank: usize,
    k: usize,
    n: usize,
    scale: f32,
    /// First element of `A`: `[k / COLUMN][rank][COLUMN]`, inputs beyond `k` zero.
    a: usize,
    /// First element of `B`: `[n / STRIPE][rank][STRIPE]`, outputs beyond `n` zero.
    b: usize,
}

impl Module {
    fn a_len(rank: usize, k: usize) -> usize {
        k.next_multiple_of(COLUMN) * rank
    }

    fn b_len(rank: usize, n: usize) -> usize {
        n.next_multiple_of(STRIPE) * rank
    }
}

/// An adapter's weights.
pub struct Adapter<E> {
    layers: Vec<[Option<Module>; 7]>,
    data: MmapMut,
    element: PhantomData<E>,
}

/// An adapter's modules by layer and site.
pub enum CpuLora {
    /// Kept exactly: beside a base that is not quantized.
    F32(Adapter<f32>),
    /// Half the memory to read: beside a quantized base.
    F16(Adapter<f16>),
}

/// One linear's update.
pub struct Update<'a, E> {
    rank: usize,
    k: usize,
    n: usize,
    scale: f32,
    a: &'a [E],
    b: &'a [E],
}

/// Gives `$update` (an [`Update`] of either element) to an expression, if the adapter targets the site.
macro_rules! with_update {
    ($lora:expr, $layer:expr, $site:expr, $update:ident => $body:expr) => {
        match $lora {
            CpuLora::F32(adapter) => adapter.update($layer, $site).map(|$update| $body),
            CpuLora::F16(adapter) => adapter.update($layer, $site).map(|$update| $body),
        }
    };
}

impl CpuLora {
    /// Packs checked weights for a model of `layers` layers.
    ///
    /// # Errors
    /// A weight is finite, but not in the type that it is kept in; there is no memory.
    pub fn new(weights: &LoraWeights, layers: usize, exact: bool) -> Result<Self, ModelError> {
        Ok(if exact { Self::F32(Adapter::new(weights, layers)?) } else { Self::F16(Adapter::new(weights, layers)?) })
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        match self {
            Self::F32(adapter) => adapter.data.len(),
            Self::F16(adapter) => adapter.data.len(),
        }
    }

    /// Rank of the update of a linear; `None` where it has none.
    pub fn rank(&self, layer: usize, site: LinearSite) -> Option<usize> {
        with_update!(self, layer, site, update => update.rank)
    }

    /// `t[i] = scale * A x[rows[i]]`; `x` is a whole step's input, `t` is `rows x rank`.
    pub fn down(&self, isa: Isa, layer: usize, site: LinearSite, x: &[f32], rows: &[usize], t: &mut [f32]) {
        with_update!(self, layer, site, update => update.down(isa, x, rows, t));
    }

    /// `out[rows[i]][outputs] += B t[i]`; `out` is a whole step's output of `n` values a row, `outputs` begin with a stripe.
    ///
    /// # Safety
    /// No other thread touches these outputs of these rows.
    pub unsafe fn up(&self, isa: Isa, at: Target, t: &[f32], rows: &[usize], outputs: std::ops::Range<usize>, out: &Parts<f32>) {
        // SAFETY: the caller's contract.
        with_update!(self, at.layer, at.site, update => unsafe { update.up(isa, t, rows, outputs, out) });
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

impl<E: Element> Adapter<E> {
    fn new(weights: &LoraWeights, layers: usize) -> Result<Self, ModelError> {
        let mut places: Vec<[Option<Module>; 7]> = (0..layers).map(|_| Default::default()).collect();
        let mut len = 0;
        let mut take = |elements| {
            len += elements;
            len - elements
        };
        // Layer by layer, in the order of the sites: as a step reads them.
        let mut modules: Vec<&LoraModule> = weights.modules.iter().collect();
        modules.sort_by_key(|module| (module.layer, module.site as usize));
        for module in &modules {
            let (rank, k, n) = (module.rank, module.a.len() / module.rank, module.b.len() / module.rank);
            let (a, b) = (take(Module::a_len(rank, k)), take(Module::b_len(rank, n)));
            places[module.layer][module.site as usize] = Some(Module { rank, k, n, scale: module.scale, a, b });
        }
        let no_memory = |error| ModelError::Device(format!("cannot allocate an adapter: {error}"));
        let mut data = MmapMut::map_anon((len * size_of::<E>()).max(1)).map_err(no_memory)?;
        #[cfg(target_os = "linux")]
        drop(data.advise(memmap2::Advice::HugePage));
        // SAFETY: the mapping has room for `len` elements and begins at a page; elements are floats, for which all bits zero is a value.
        let elements = unsafe { std::slice::from_raw_parts_mut(data.as_mut_ptr().cast::<E>(), len) };
        for module in &modules {
            let Some(place) = &places[module.layer][module.site as usize] else { continue };
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
            let Module { rank, k, .. } = *place;
            for (r, row) in module.a.chunks_exact(k).enumerate() {
                for (i, value) in row.iter().enumerate() {
                    elements[place.a + (i / COLUMN * rank + r) * COLUMN + i % COLUMN] = store("lora_A", *value)?;
                }
            }
            for (o, row) in module.b.chunks_exact(rank).enumerate() {
                for (r, value) in row.iter().enumerate() {
                    elements[place.b + (o / STRIPE * rank + r) * STRIPE + o % STRIPE] = store("lora_B", *value)?;
                }
            }
        }
        Ok(Self { layers: places, data, element: PhantomData })
    }

    /// The update of a linear; `None` where it has none.
    pub fn update(&self, layer: usize, site: LinearSite) -> Option<Update<'_, E>> {
        let Module { rank, k, n, scale, a, b } = *self.layers[layer][site as usize].as_ref()?;
        // SAFETY: the mapping begins at a page and holds whole elements, written when it was made.
        let elements = unsafe { std::slice::from_raw_parts(self.data.as_ptr().cast::<E>(), self.data.len() / size_of::<E>()) };
        let (a, b) = (&elements[a..a + Module::a_len(rank, k)], &elements[b..b + Module::b_len(rank, n)]);
        Some(Update { rank, k, n, scale, a, b })
    }
}

impl<E: Element> Update<'_, E> {
    fn a(&self, r: usize, input: usize) -> f32 {
        self.a[(input / COLUMN * self.rank + r) * COLUMN + input % COLUMN].load()
    }

    fn b(&self, r: usize, output: usize) -> f32 {
        self.b[(output / STRIPE * self.rank + r) * STRIPE + output % STRIPE].load()
    }

    /// One output of the update, in f64: the slow reference.
    #[cfg(test)]
    pub fn reference(&self, x: &[f32], output: usize) -> f32 {
        let low = |r| x.iter().enumerate().map(|(i, x)| f64::from(self.a(r, i) * x)).sum::<f64>();
        let sum: f64 = (0..self.rank).map(|r| low(r) * f64::from(self.b(r, output))).sum();
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
                    for (r, t) in t.iter_mut().enumerate() {
                        *t = self.scale * x.iter().enumerate().map(|(i, x)| self.a(r, i) * x).sum::<f32>();
                    }
                }
            }
        }
    }

    unsafe fn up(&self, isa: Isa, t: &[f32], rows: &[usize], outputs: std::ops::Range<usize>, out: &Parts<f32>) {
        assert!(
            (outputs.start.is_multiple_of(STRIPE) || outputs.is_empty())
                && outputs.end <= self.n
                && t.len() == rows.len() * self.rank,
            "outputs outside the layer: this is a bug"
        );
        match isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the instruction set was detected; the caller's contract.
            Isa::Avx512 => unsafe { avx512::up(self, t, rows, outputs, out) },
            Isa::Portable => {
                for (row, t) in rows.iter().zip(t.chunks_exact(self.rank)) {
                    // SAFETY: the caller's contract.
                    let out = unsafe { out.slice(row * self.n + outputs.start..row * self.n + outputs.end) };
                    for (i, out) in out.iter_mut().enumerate() {
                        *out += t.iter().enumerate().map(|(r, t)| self.b(r, outputs.start + i) * t).sum::<f32>();
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

    use super::{COLUMN, Element, Parts, STRIPE, Update};
    use crate::model::ops::cpu::avx512::{AHEAD, fetch, unroll};

    /// The lanes of `left` values.
    fn mask(left: usize) -> u16 {
        if left >= 16 { 0xFFFF } else { (1u16 << left) - 1 }
    }

    /// `R` rows with `J` rows of `A` from `j`. Alone on its way through `A` it fetches ahead.
    #[inline(always)]
    unsafe fn dots<E: Element, const R: usize, const J: usize>(
        m: &Update<'_, E>,
        x: &[f32],
        rows: &[usize],
        j: usize,
        t: &mut [f32],
    ) {
        // SAFETY: rows lie in `x`, `j + J <= rank`, tails are masked.
        unsafe {
            let mut acc = [[_mm512_setzero_ps(); J]; R];
            let mut column = m.a.as_ptr().add(j * COLUMN);
            for i in (0..m.k).step_by(COLUMN) {
                if R == 1 {
                    fetch(column.cast::<u8>().wrapping_add(AHEAD), J * COLUMN * size_of::<E>());
                }
                let mask = mask(m.k - i);
                let mut a = [_mm512_setzero_ps(); J];
                if R > 1 {
                    unroll!(c < J, {
                        a[c] = E::load16(column.add(c * COLUMN));
                    });
                }
                unroll!(r < R, {
                    let x = _mm512_maskz_loadu_ps(mask, x.as_ptr().add(rows[r] * m.k + i));
                    unroll!(c < J, {
                        let a = if R > 1 { a[c] } else { E::load16(column.add(c * COLUMN)) };
                        acc[r][c] = _mm512_fmadd_ps(a, x, acc[r][c]);
                    });
                });
                column = column.add(m.rank * COLUMN);
            }
            unroll!(r < R, {
                unroll!(c < J, {
                    t[r * m.rank + j + c] = m.scale * _mm512_reduce_add_ps(acc[r][c]);
                });
            });
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,f16c,fma")]
    pub unsafe fn down<E: Element>(m: &Update<'_, E>, x: &[f32], rows: &[usize], t: &mut [f32]) {
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
                        (false, 16..) => {
                            dots::<E, 1, 16>(m, x, rows, j, t);
                            16
                        }
                        (false, 8..) => {
                            dots::<E, 1, 8>(m, x, rows, j, t);
                            8
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

    /// Adds a stripe's update to `R` rows, whose outputs there are at `out`. The first of a stripe's rows fetch ahead.
    #[inline(always)]
    unsafe fn stripe<E: Element, const R: usize>(
        m: &Update<'_, E>,
        mut b: *const E,
        t: *const f32,
        out: [*mut f32; R],
        (left, first): (usize, bool),
    ) {
        const T: usize = STRIPE / 16;
        // SAFETY: `b` covers a stripe, `t` `R` rows, `out` the masked outputs.
        unsafe {
            let mut acc = [[_mm512_setzero_ps(); T]; R];
            for j in 0..m.rank {
                if first {
                    fetch(b.cast::<u8>().wrapping_add(AHEAD), STRIPE * size_of::<E>());
                }
                let mut values = [_mm512_setzero_ps(); T];
                unroll!(c < T, {
                    values[c] = E::load16(b.add(16 * c));
                });
                unroll!(r < R, {
                    let t = _mm512_set1_ps(*t.add(r * m.rank + j));
                    unroll!(c < T, {
                        acc[r][c] = _mm512_fmadd_ps(values[c], t, acc[r][c]);
                    });
                });
                b = b.add(STRIPE);
            }
            unroll!(r < R, {
                unroll!(c < T, {
                    let (p, mask) = (out[r].wrapping_add(16 * c), mask(left.saturating_sub(16 * c)));
                    _mm512_mask_storeu_ps(p, mask, _mm512_add_ps(_mm512_maskz_loadu_ps(mask, p), acc[r][c]));
                });
            });
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,f16c,fma")]
    pub unsafe fn up<E: Element>(
        m: &Update<'_, E>,
        t: &[f32],
        rows: &[usize],
        outputs: std::ops::Range<usize>,
        out: &Parts<f32>,
    ) {
        for first in outputs.clone().step_by(STRIPE) {
            let left = (outputs.end - first).min(STRIPE);
            let b = m.b[first * m.rank..][..STRIPE * m.rank].as_ptr();
            // SAFETY: these outputs of these rows are the caller's alone, and nobody holds two of them at once.
            let at = |row: usize| unsafe { out.slice(rows[row] * m.n + first..rows[row] * m.n + first + left) }.as_mut_ptr();
            let mut row = 0;
            // SAFETY: in bounds by `up`'s assertion and the slices.
            unsafe {
                while rows.len() - row >= 4 {
                    let out = [at(row), at(row + 1), at(row + 2), at(row + 3)];
                    stripe::<E, 4>(m, b, t[row * m.rank..].as_ptr(), out, (left, row == 0));
                    row += 4;
                }
                while row < rows.len() {
                    stripe::<E, 1>(m, b, t[row * m.rank..].as_ptr(), [at(row)], (left, row == 0));
                    row += 1;
                }
            }
        }
    }
}
