//! Products of one input: the base's matrices over all rows, each adapter's update over its own, and what is fetched meanwhile.

use std::ops::Range;

use super::activation::{GROUP, Matrix};
#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::lora::{self, CpuLora, Input, Update};
use super::packed::{BLOCK, Packed};
use super::pool::Parts;
use super::{CpuLinear, CpuOps, Isa, OutRows, RowPointers, portable};
use crate::model::config::LinearSite;
use crate::model::ops::Segment;

/// Rows between which a pass over a part's weights is repeated: their activations stay in the second-level cache. Whole groups.
const ROWS_PER_PASS: usize = 4 * GROUP;
/// Bytes that memory gives at once.
const LINE: usize = 64;
/// Bytes of weights that one chunk of a matrix product reads, about.
const CHUNK_BYTES: usize = 256 << 10;

/// What a kernel fetches for those who read after it, a few lines with each block of a tile: a product of many rows leaves the memory
/// idle.
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "the plain kernels leave that to the processor"))]
pub struct Aside<'a> {
    pieces: &'a [&'a [u8]],
    /// How far the first of them is fetched.
    at: usize,
    /// Bytes with each block.
    bytes: usize,
}

impl<'a> Aside<'a> {
    /// These pieces, in the course of `blocks` blocks.
    fn new(pieces: &'a [&'a [u8]], blocks: usize) -> Self {
        let lines: usize = pieces.iter().map(|piece| piece.len().div_ceil(LINE)).sum();
        Self { pieces, at: 0, bytes: lines.div_ceil(blocks) * LINE }
    }

    /// Fetches the next lines.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub fn fetch(&mut self) {
        let mut left = self.bytes;
        while left > 0
            && let [piece, rest @ ..] = self.pieces
        {
            if self.at < piece.len() {
                avx512::fetch_later(piece.as_ptr().wrapping_add(self.at));
                self.at += LINE;
                left -= LINE;
            } else {
                (self.pieces, self.at) = (rest, 0);
            }
        }
    }
}

impl CpuOps {
    /// All products of one input: the adapters' first halves, then base matmuls, each piece of which takes the adapters' second halves
    /// along while its results are in the cache.
    pub(super) fn products(
        &mut self,
        segments: &[Segment<'_, CpuLora>],
        layer: usize,
        x: &Matrix,
        parts: &mut [(LinearSite, &CpuLinear, &mut Matrix)],
    ) {
        let rows = x.rows();
        let updates = Updates::new(segments, layer, rows, parts.iter().map(|(site, ..)| *site));
        if parts.iter().any(|(_, linear, _)| linear.weight.format.is_quantized()) || updates.read_quantized() {
            self.quantize(x);
        }
        for (_, linear, out) in parts.iter_mut() {
            out.shape(rows, linear.weight.n);
        }
        self.low_rank.resize(updates.words, 0);
        let (isa, both) = (self.isa, Input { values: &x.values, quantized: &self.quantized });
        let low_rank = Parts::new(&mut self.low_rank);
        // Those of one adapter lie one after the other.
        self.pool.run(updates.list.len(), &|i| {
            for (update, t) in updates.list[i].parts.iter().flatten() {
                // SAFETY: updates have ranges of their own.
                update.down(isa, both, updates.list[i].rows, unsafe { low_rank.slice(t.clone()) });
            }
        });
        let mut chunks: Vec<(usize, Range<usize>)> = Vec::new();
        for (index, (_, linear, _)) in parts.iter().enumerate() {
            let tiles = linear.weight.tiles();
            let bytes = linear.weight.bytes() / tiles;
            let step = (CHUNK_BYTES / bytes).clamp(1, tiles.div_ceil(2 * self.pool.threads()));
            chunks.extend((0..tiles).step_by(step).map(|t| (index, t..(t + step).min(tiles))));
        }
        let (input, low_rank) = (RowPointers::new(&self.quantized), &self.low_rank);
        let outs: Vec<(OutRows, Parts<f32>)> = parts
            .iter_mut()
            .map(|(_, linear, out)| {
                let bias = linear.bias.as_ref().map_or(std::ptr::null(), |bias| bias.as_ptr());
                let parts = Parts::new(&mut out.values);
                (OutRows { values: parts.pointer(), bias }, parts)
            })
            .collect();
        let linears: Vec<&Packed> = parts.iter().map(|(_, linear, _)| &linear.weight).collect();
        self.pool.run(chunks.len(), &|i| {
            let (part, tiles) = &chunks[i];
            let (weight, (out, whole)) = (linears[*part], &outs[*part]);
            for (pass, first) in (0..rows).step_by(ROWS_PER_PASS).enumerate() {
                let count = ROWS_PER_PASS.min(rows - first);
                let (out, own) = (out.row(first, weight.n), updates.of(pass));
                // SAFETY: chunks differ in tiles or parts; input and output cover `rows` rows.
                unsafe {
                    if !weight.format.is_quantized() {
                        matmul_dense(isa, weight, tiles.clone(), count, x.values.as_ptr().add(first * x.width), out);
                    } else if own.is_empty() || rows > ROWS_PER_PASS {
                        matmul_quantized(isa, weight, tiles.clone(), count, input.from(first), (out, &mut Aside::new(&[], 1)));
                    } else {
                        // What is read once for a row or two is on its way before it is wanted.
                        let mut pieces = [&[][..]; 2 * ROWS_PER_PASS];
                        let pieces = updates.wanted_soon(*part, tiles, (i, chunks.len()), &mut pieces);
                        let mut aside = Aside::new(pieces, tiles.len() * weight.k / BLOCK);
                        matmul_quantized(isa, weight, tiles.clone(), count, input.from(first), (out, &mut aside));
                    }
                    for u in own {
                        if let Some((update, t)) = &u.parts[*part] {
                            update.up(isa, &low_rank[t.clone()], u.rows, tiles.clone(), whole);
                        }
                    }
                }
            }
        });
    }
}

/// Most linears that read one input.
const MOST_PARTS: usize = 3;

/// One adapter's updates of linears on one input, over some rows of a pass.
struct RowsUpdate<'a> {
    /// Each with its range of the low-rank scratch.
    parts: [Option<(Update<'a>, Range<usize>)>; MOST_PARTS],
    rows: &'a [usize],
}

/// The adapters' updates of linears on one input.
struct Updates<'a> {
    list: Vec<RowsUpdate<'a>>,
    /// Those of a pass.
    passes: Vec<Range<usize>>,
    /// Of the low-rank scratch.
    words: usize,
}

impl<'a> Updates<'a> {
    fn new(
        segments: &'a [Segment<'_, CpuLora>],
        layer: usize,
        rows: usize,
        sites: impl ExactSizeIterator<Item = LinearSite> + Clone,
    ) -> Self {
        let mut updates = Self { list: Vec::new(), passes: Vec::new(), words: 0 };
        for first in (0..rows).step_by(ROWS_PER_PASS) {
            let start = updates.list.len();
            for segment in segments {
                let of = |row| segment.rows.partition_point(|own| *own < row);
                for rows in segment.rows[of(first)..of(first + ROWS_PER_PASS)].chunks(lora::ROWS) {
                    let mut parts = [const { None }; MOST_PARTS];
                    for (part, site) in parts.iter_mut().zip(sites.clone()) {
                        let Some(update) = segment.adapter.update(layer, site) else { continue };
                        let t = updates.words..updates.words + rows.len() * update.words();
                        updates.words = t.end;
                        *part = Some((update, t));
                    }
                    if parts.iter().any(Option::is_some) {
                        updates.list.push(RowsUpdate { parts, rows });
                    }
                }
            }
            updates.passes.push(start..updates.list.len());
        }
        updates
    }

    fn read_quantized(&self) -> bool {
        self.list.iter().flat_map(|u| u.parts.iter().flatten()).any(|(update, _)| update.reads_quantized())
    }

    fn of(&self, pass: usize) -> &[RowsUpdate<'a>] {
        &self.list[self.passes[pass].clone()]
    }

    /// What is read after a chunk, one of so many: the adapters' second halves of its tiles, and its share of what follows.
    fn wanted_soon<'p>(
        &self,
        part: usize,
        tiles: &Range<usize>,
        (chunk, chunks): (usize, usize),
        pieces: &'p mut [&'a [u8]],
    ) -> &'p [&'a [u8]] {
        let share = |bytes: &'a [u8]| {
            let step = bytes.len().div_ceil(LINE).div_ceil(chunks) * LINE;
            &bytes[(chunk * step).min(bytes.len())..((chunk + 1) * step).min(bytes.len())]
        };
        let second = self.list.iter().filter_map(|u| u.parts[part].as_ref()).map(|(u, _)| u.second_half(tiles.clone()));
        let first = self.list.iter().filter_map(|u| u.parts.iter().flatten().next()).map(|(u, _)| share(u.what_follows()));
        let mut count = 0;
        for (piece, wanted) in pieces.iter_mut().zip(second.chain(first)) {
            *piece = wanted;
            count += 1;
        }
        &pieces[..count]
    }
}

/// # Safety
/// As the kernels'.
unsafe fn matmul_quantized(
    isa: Isa,
    w: &Packed,
    tiles: Range<usize>,
    rows: usize,
    x: RowPointers,
    (out, aside): (OutRows, &mut Aside<'_>),
) {
    // SAFETY: the caller's contract; the instruction set was detected.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::matmul_quantized(w, tiles, rows, x, (out, aside)),
            Isa::Portable => portable::matmul_quantized(w, tiles, rows, x, out),
        }
    }
}

/// # Safety
/// As the kernels'.
unsafe fn matmul_dense(isa: Isa, w: &Packed, tiles: Range<usize>, rows: usize, x: *const f32, out: OutRows) {
    // SAFETY: the caller's contract; the instruction set was detected.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::matmul_dense(w, tiles, rows, x, out),
            Isa::Portable => portable::matmul_dense(w, tiles, rows, x, out),
        }
    }
}
