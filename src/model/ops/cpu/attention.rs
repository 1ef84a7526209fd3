//! Attention over paged keys and values (Kwon et al. 2023), for decodes and prefill chunks alike.
//!
//! A block stores, for each key/value head, keys as `[head_dim][16]` and values as `[16][head_dim]`: the scores of a
//! block's 16 positions are then one register, and nothing is gathered or copied. Two passes: all scores, then softmax and
//! the weighted values, each summed from the first position to the last, so a row's result does not depend on its chunk.

use super::Isa;
use super::element::Element;
use super::elementwise::soft_cap;
use super::pool::Parts;
use crate::model::{BLOCK_TOKENS, ModelError};

/// Shape of attention.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Layers.
    pub layers: usize,
    /// Query heads per key/value head.
    pub group: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Scores `s` become `cap * tanh(s / cap)`.
    pub cap: Option<f32>,
}

impl Shape {
    /// First element of a block's head, of so many blocks.
    const fn at(&self, blocks: usize, layer: usize, block: usize, head: usize) -> usize {
        ((layer * blocks + block) * self.kv_heads + head) * self.head_dim * BLOCK_TOKENS
    }
}

/// Keys and values of all layers.
pub struct Kv<E> {
    shape: Shape,
    blocks: usize,
    keys: Vec<E>,
    values: Vec<E>,
}

/// `len` zeros; `None` instead of an abort where the system has no memory for them.
fn zeroed<E: Element>(len: usize) -> Option<Vec<E>> {
    if len == 0 {
        return Some(Vec::new());
    }
    let layout = std::alloc::Layout::array::<E>(len).ok()?;
    // SAFETY: the layout is not empty, and of `len` elements; elements are floats, for which all bits zero is a value.
    unsafe {
        let start = std::alloc::alloc_zeroed(layout).cast::<E>();
        (!start.is_null()).then(|| Vec::from_raw_parts(start, len, len))
    }
}

/// One unit of work: some rows of one sequence, one key/value head.
pub struct Item<'a> {
    /// First row of the step.
    pub row: usize,
    /// Rows.
    pub rows: usize,
    /// Position of the first row.
    pub position: usize,
    /// Block table.
    pub blocks: &'a [u32],
    /// Key/value head.
    pub head: usize,
    /// Positions that a query of this layer sees, itself included.
    pub window: usize,
}

/// Scratch of one item.
#[derive(Default)]
pub struct Scratch {
    queries: Vec<f32>,
    scores: Vec<f32>,
    /// One over the sum of each query's weights.
    inverse: Vec<f32>,
    acc: Vec<f32>,
}

impl<E: Element> Kv<E> {
    /// Storage for `blocks` blocks, which becomes resident as it is written; an error where the system refuses it.
    pub fn new(shape: Shape, blocks: usize) -> Result<Self, ModelError> {
        let len = [shape.layers, shape.kv_heads, shape.head_dim, BLOCK_TOKENS].into_iter().try_fold(blocks, usize::checked_mul);
        let zeros = || zeroed(len?);
        let (Some(keys), Some(values)) = (zeros(), zeros()) else {
            return Err(ModelError::Device(format!("there is no memory for {blocks} blocks of keys and values")));
        };
        Ok(Self { shape, blocks, keys, values })
    }

    /// Blocks.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// For writing rows from several threads.
    pub fn writer(&mut self) -> Writer<E> {
        let (shape, blocks) = (self.shape, self.blocks);
        Writer { shape, blocks, keys: Parts::new(&mut self.keys), values: Parts::new(&mut self.values) }
    }

    /// First element of a block's head.
    fn at(&self, layer: usize, block: usize, head: usize) -> usize {
        self.shape.at(self.blocks, layer, block, head)
    }

    /// Attends for one item. `q` holds rotated and scaled queries, `rows x heads x head_dim`; `out` has the same shape.
    pub fn attend(&self, isa: Isa, layer: usize, item: &Item<'_>, q: &[f32], out: &Parts<f32>, scratch: &mut Scratch) {
        match isa {
            // SAFETY: the instruction set was detected.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 if self.shape.head_dim.is_multiple_of(16) => unsafe { self.attend_avx512(layer, item, q, out, scratch) },
            _ => self.attend_with(layer, item, q, out, scratch, &Plain),
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,f16c,fma")]
    unsafe fn attend_avx512(&self, layer: usize, item: &Item<'_>, q: &[f32], out: &Parts<f32>, scratch: &mut Scratch) {
        self.attend_with(layer, item, q, out, scratch, &avx512::Vector);
    }

    #[inline(always)]
    fn attend_with<I: Inner>(
        &self,
        layer: usize,
        item: &Item<'_>,
        q: &[f32],
        out: &Parts<f32>,
        scratch: &mut Scratch,
        inner: &I,
    ) {
        let Shape { group, kv_heads, head_dim: dim, cap, .. } = self.shape;
        let window = item.window;
        let width = group * kv_heads * dim;
        let last = item.position + item.rows - 1;
        let first_block = (item.position + 1).saturating_sub(window) / BLOCK_TOKENS;
        let blocks = last / BLOCK_TOKENS + 1 - first_block;
        let stride = blocks * BLOCK_TOKENS;
        // All rows' queries of the head, one after the other.
        let all = item.rows * group;
        scratch.queries.clear();
        for row in 0..item.rows {
            let at = (item.row + row) * width + item.head * group * dim;
            scratch.queries.extend_from_slice(&q[at..at + group * dim]);
        }
        scratch.scores.resize(all * stride, 0.0);
        scratch.acc.clear();
        scratch.acc.resize(all * dim, 0.0);
        // Positions of block `index` that `row` sees, relative to the block.
        let visible = |row: usize, index: usize| {
            let (block, position) = ((first_block + index) * BLOCK_TOKENS, item.position + row);
            let low = (position + 1).saturating_sub(window).saturating_sub(block).min(BLOCK_TOKENS);
            low..(position + 1).saturating_sub(block).min(BLOCK_TOKENS)
        };
        // Those that a row does not see are scored with the others, and nobody looks.
        for index in 0..blocks {
            let at = self.at(layer, item.blocks[first_block + index] as usize, item.head);
            let keys = &self.keys[at..at + dim * BLOCK_TOKENS];
            if let Some(next) = item.blocks.get(first_block + index + 1) {
                inner.fetch(&self.keys[self.at(layer, *next as usize, item.head)..][..dim * BLOCK_TOKENS]);
            }
            inner.scores(&scratch.queries, keys, all, &mut scratch.scores[index * BLOCK_TOKENS..], stride);
        }
        scratch.inverse.clear();
        for row in 0..item.rows {
            let position = item.position + row;
            let low = (position + 1).saturating_sub(window) - first_block * BLOCK_TOKENS;
            let high = position + 1 - first_block * BLOCK_TOKENS;
            for g in 0..group {
                let scores = &mut scratch.scores[(row * group + g) * stride..(row * group + g + 1) * stride];
                if let Some(cap) = cap {
                    inner.cap(&mut scores[low..high], cap);
                }
                scratch.inverse.push(inner.weights(scores, low..high));
            }
        }
        for index in 0..blocks {
            let at = self.at(layer, item.blocks[first_block + index] as usize, item.head);
            let values = &self.values[at..at + dim * BLOCK_TOKENS];
            if let Some(next) = item.blocks.get(first_block + index + 1) {
                inner.fetch(&self.values[self.at(layer, *next as usize, item.head)..][..dim * BLOCK_TOKENS]);
            }
            let whole = 0..BLOCK_TOKENS;
            if visible(0, index) == whole && visible(item.rows - 1, index) == whole {
                let probabilities = &scratch.scores[index * BLOCK_TOKENS..];
                inner.accumulate(probabilities, stride, values, whole, &mut scratch.acc, dim);
                continue;
            }
            for row in 0..item.rows {
                let visible = visible(row, index);
                if visible.is_empty() {
                    continue;
                }
                let probabilities = &scratch.scores[row * group * stride..(row + 1) * group * stride];
                let acc = &mut scratch.acc[row * group * dim..(row + 1) * group * dim];
                inner.accumulate(&probabilities[index * BLOCK_TOKENS..], stride, values, visible, acc, dim);
            }
        }
        for row in 0..item.rows {
            let at = (item.row + row) * width + item.head * group * dim;
            // SAFETY: items differ in row or head, so their output ranges are disjoint.
            let out = unsafe { out.slice(at..at + group * dim) };
            let acc = scratch.acc[row * group * dim..].chunks_exact(dim).zip(&scratch.inverse[row * group..]);
            for (out, (acc, inverse)) in out.chunks_exact_mut(dim).zip(acc) {
                out.iter_mut().zip(acc).for_each(|(out, acc)| *out = acc * inverse);
            }
        }
    }
}

/// Keys and values to be written, each slot by one thread.
pub struct Writer<E> {
    shape: Shape,
    blocks: usize,
    keys: Parts<E>,
    values: Parts<E>,
}

impl<E: Element> Writer<E> {
    /// Stores a row's key and value, all heads, in `slot`.
    ///
    /// # Safety
    /// Nobody else touches the slot.
    pub unsafe fn write(&self, layer: usize, slot: usize, key: &[f32], value: &[f32]) {
        let (block, offset, dim) = (slot / BLOCK_TOKENS, slot % BLOCK_TOKENS, self.shape.head_dim);
        assert!(layer < self.shape.layers && block < self.blocks, "slot outside the storage: this is a bug");
        for (head, (key, value)) in key.chunks_exact(dim).zip(value.chunks_exact(dim)).enumerate().take(self.shape.kv_heads) {
            let at = self.shape.at(self.blocks, layer, block, head);
            for (d, key) in key.iter().enumerate() {
                // SAFETY: inside the block's head, which is inside the storage as asserted; the caller's contract.
                unsafe { self.keys.pointer().add(at + d * BLOCK_TOKENS + offset).write(E::store(*key)) };
            }
            // SAFETY: a slot's values lie together, and are the caller's alone.
            let values = unsafe { self.values.slice(at + offset * dim..at + (offset + 1) * dim) };
            values.iter_mut().zip(value).for_each(|(out, value)| *out = E::store(*value));
        }
    }
}

/// The inner loops.
trait Inner {
    /// Scores of a block's positions for each of so many queries: `scores[g * stride..][..16]`.
    fn scores<E: Element>(&self, queries: &[f32], keys: &[E], group: usize, scores: &mut [f32], stride: usize);
    /// `cap * tanh(score / cap)`, in place.
    fn cap(&self, scores: &mut [f32], cap: f32);
    /// What softmax over `visible` weights positions with, in place, and one over their sum, which is left to be multiplied with.
    fn weights(&self, scores: &mut [f32], visible: std::ops::Range<usize>) -> f32;
    /// Says that this will be read soon.
    fn fetch<E: Element>(&self, block: &[E]);
    /// Adds a block's visible values, weighted: `acc[g][d] += p[g * stride + t] * values[t][d]`.
    fn accumulate<E: Element>(
        &self,
        p: &[f32],
        stride: usize,
        values: &[E],
        visible: std::ops::Range<usize>,
        acc: &mut [f32],
        dim: usize,
    );
}

struct Plain;

impl Inner for Plain {
    #[inline(always)]
    fn scores<E: Element>(&self, queries: &[f32], keys: &[E], group: usize, scores: &mut [f32], stride: usize) {
        let dim = queries.len() / group;
        for (g, query) in queries.chunks_exact(dim).enumerate() {
            let mut sums = [0f32; BLOCK_TOKENS];
            for (q, keys) in query.iter().zip(keys.as_chunks::<BLOCK_TOKENS>().0) {
                sums.iter_mut().zip(keys).for_each(|(sum, key)| *sum += q * key.load());
            }
            scores[g * stride..g * stride + BLOCK_TOKENS].copy_from_slice(&sums);
        }
    }

    #[inline(always)]
    fn cap(&self, scores: &mut [f32], cap: f32) {
        soft_cap(Isa::Portable, scores, cap);
    }

    #[inline(always)]
    fn weights(&self, scores: &mut [f32], visible: std::ops::Range<usize>) -> f32 {
        let scores = &mut scores[visible];
        let peak = scores.iter().fold(f32::NEG_INFINITY, |peak, s| peak.max(*s));
        let mut sum = 0.0;
        for score in scores.iter_mut() {
            *score = (*score - peak).exp();
            sum += *score;
        }
        1.0 / sum
    }

    #[inline(always)]
    fn fetch<E: Element>(&self, _block: &[E]) {}

    #[inline(always)]
    fn accumulate<E: Element>(
        &self,
        p: &[f32],
        stride: usize,
        values: &[E],
        visible: std::ops::Range<usize>,
        acc: &mut [f32],
        dim: usize,
    ) {
        for (g, acc) in acc.chunks_exact_mut(dim).enumerate() {
            for t in visible.clone() {
                let p = p[g * stride + t];
                acc.iter_mut().zip(&values[t * dim..(t + 1) * dim]).for_each(|(acc, v)| *acc += p * v.load());
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    //! The inner loops for AVX-512; `head_dim` is a multiple of 16. Only called under detected features.

    use std::arch::x86_64::*;

    use super::{Element, Inner, Isa, soft_cap};
    use crate::model::BLOCK_TOKENS;
    use crate::model::ops::cpu::avx512::{exp, unroll};

    pub struct Vector;

    /// Scores for `G` queries, each in two sums (even and odd inputs) to halve the latency.
    #[inline(always)]
    unsafe fn scores<E: Element, const G: usize>(queries: *const f32, dim: usize, keys: *const E, out: *mut f32, stride: usize) {
        // SAFETY: queries cover `G * dim`, keys `dim * 16`, outputs `(G - 1) * stride + 16`.
        unsafe {
            let (mut even, mut odd) = ([_mm512_setzero_ps(); G], [_mm512_setzero_ps(); G]);
            for d in (0..dim).step_by(2) {
                let (first, second) = (E::load16(keys.add(d * 16)), E::load16(keys.add(d * 16 + 16)));
                unroll!(g < G, {
                    even[g] = _mm512_fmadd_ps(first, _mm512_set1_ps(*queries.add(g * dim + d)), even[g]);
                    odd[g] = _mm512_fmadd_ps(second, _mm512_set1_ps(*queries.add(g * dim + d + 1)), odd[g]);
                });
            }
            unroll!(g < G, {
                _mm512_storeu_ps(out.add(g * stride), _mm512_add_ps(even[g], odd[g]));
            });
        }
    }

    /// Adds weighted values for `G` queries over `D` registers of the head.
    #[inline(always)]
    unsafe fn accumulate<E: Element, const G: usize, const D: usize>(
        p: *const f32,
        stride: usize,
        values: *const E,
        visible: std::ops::Range<usize>,
        acc: *mut f32,
        dim: usize,
    ) {
        // SAFETY: the pointers cover what `Inner::accumulate` is given.
        unsafe {
            let mut sums = [[_mm512_setzero_ps(); D]; G];
            unroll!(g < G, {
                unroll!(d < D, {
                    sums[g][d] = _mm512_loadu_ps(acc.add(g * dim + 16 * d));
                });
            });
            for t in visible {
                unroll!(d < D, {
                    let v = E::load16(values.add(t * dim + 16 * d));
                    unroll!(g < G, {
                        sums[g][d] = _mm512_fmadd_ps(_mm512_set1_ps(*p.add(g * stride + t)), v, sums[g][d]);
                    });
                });
            }
            unroll!(g < G, {
                unroll!(d < D, {
                    _mm512_storeu_ps(acc.add(g * dim + 16 * d), sums[g][d]);
                });
            });
        }
    }

    /// All registers of the head for `G` queries.
    #[inline(always)]
    unsafe fn accumulate_head<E: Element, const G: usize>(
        p: *const f32,
        stride: usize,
        values: *const E,
        visible: std::ops::Range<usize>,
        acc: *mut f32,
        dim: usize,
    ) {
        let mut d = 0;
        // SAFETY: as the caller's.
        unsafe {
            while dim - d >= 64 {
                accumulate::<E, G, 4>(p, stride, values.add(d), visible.clone(), acc.add(d), dim);
                d += 64;
            }
            while d < dim {
                accumulate::<E, G, 1>(p, stride, values.add(d), visible.clone(), acc.add(d), dim);
                d += 16;
            }
        }
    }

    impl Inner for Vector {
        #[inline(always)]
        fn scores<E: Element>(&self, queries: &[f32], keys: &[E], group: usize, out: &mut [f32], stride: usize) {
            let dim = queries.len() / group;
            assert!(keys.len() >= dim * BLOCK_TOKENS && out.len() >= (group - 1) * stride + BLOCK_TOKENS);
            let (q, k, out) = (queries.as_ptr(), keys.as_ptr(), out.as_mut_ptr());
            let mut g = 0;
            // SAFETY: in bounds by the assertion.
            unsafe {
                while group - g >= 8 {
                    scores::<E, 8>(q.add(g * dim), dim, k, out.add(g * stride), stride);
                    g += 8;
                }
                while group - g >= 4 {
                    scores::<E, 4>(q.add(g * dim), dim, k, out.add(g * stride), stride);
                    g += 4;
                }
                match group - g {
                    3 => scores::<E, 3>(q.add(g * dim), dim, k, out.add(g * stride), stride),
                    2 => scores::<E, 2>(q.add(g * dim), dim, k, out.add(g * stride), stride),
                    1 => scores::<E, 1>(q.add(g * dim), dim, k, out.add(g * stride), stride),
                    _ => {}
                }
            }
        }

        #[inline(always)]
        fn cap(&self, scores: &mut [f32], cap: f32) {
            soft_cap(Isa::Avx512, scores, cap);
        }

        #[inline(always)]
        fn weights(&self, scores: &mut [f32], visible: std::ops::Range<usize>) -> f32 {
            assert!(scores.len() >= visible.end && scores.len().is_multiple_of(16));
            let registers = visible.start / 16..visible.end.div_ceil(16);
            // SAFETY: whole registers lie inside the slice.
            unsafe {
                let mask = |register: usize| {
                    let (low, high) = (visible.start.saturating_sub(16 * register), (visible.end - 16 * register).min(16));
                    (((1u32 << high) - 1) & !((1u32 << low) - 1)) as u16
                };
                let p = scores.as_mut_ptr();
                let mut peak = _mm512_set1_ps(f32::NEG_INFINITY);
                for i in registers.clone() {
                    peak = _mm512_mask_max_ps(peak, mask(i), peak, _mm512_loadu_ps(p.add(16 * i)));
                }
                let peak = _mm512_set1_ps(_mm512_reduce_max_ps(peak));
                let mut sum = _mm512_setzero_ps();
                for i in registers {
                    // A row's lanes are its positions modulo 16 whatever its chunk: the order of this sum is fixed.
                    let e = exp(_mm512_sub_ps(_mm512_loadu_ps(p.add(16 * i)), peak));
                    let e = _mm512_maskz_mov_ps(mask(i), e);
                    sum = _mm512_add_ps(sum, e);
                    _mm512_storeu_ps(p.add(16 * i), e);
                }
                1.0 / _mm512_reduce_add_ps(sum)
            }
        }

        #[inline(always)]
        fn fetch<E: Element>(&self, block: &[E]) {
            crate::model::ops::cpu::avx512::fetch(block.as_ptr().cast(), size_of_val(block));
        }

        #[inline(always)]
        fn accumulate<E: Element>(
            &self,
            p: &[f32],
            stride: usize,
            values: &[E],
            visible: std::ops::Range<usize>,
            acc: &mut [f32],
            dim: usize,
        ) {
            let group = acc.len() / dim;
            assert!(visible.end <= 16 && values.len() >= 16 * dim && p.len() >= (group - 1) * stride + visible.end);
            let (p, v, acc) = (p.as_ptr(), values.as_ptr(), acc.as_mut_ptr());
            let mut g = 0;
            // SAFETY: in bounds by the assertion.
            unsafe {
                while group - g >= 6 {
                    accumulate_head::<E, 6>(p.add(g * stride), stride, v, visible.clone(), acc.add(g * dim), dim);
                    g += 6;
                }
                while group - g >= 4 {
                    accumulate_head::<E, 4>(p.add(g * stride), stride, v, visible.clone(), acc.add(g * dim), dim);
                    g += 4;
                }
                match group - g {
                    3 => accumulate_head::<E, 3>(p.add(g * stride), stride, v, visible, acc.add(g * dim), dim),
                    2 => accumulate_head::<E, 2>(p.add(g * stride), stride, v, visible, acc.add(g * dim), dim),
                    1 => accumulate_head::<E, 1>(p.add(g * stride), stride, v, visible, acc.add(g * dim), dim),
                    _ => {}
                }
            }
        }
    }
}
