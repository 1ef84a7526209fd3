//! The CPU side of the operations: our kernels over packed weights.
//!
//! Why not candle's: a row's logits must be bit-identical whatever shares its step, weights are kept once in the layout
//! that the kernels read, inputs need only be a multiple of 32, and one pool serves every operation.

pub mod activation;
pub mod attention;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
pub mod element;
pub mod elementwise;
pub mod lora;
pub mod memory;
pub mod packed;
pub mod pool;
pub mod portable;
pub mod products;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::sync::Arc;

use activation::{GROUP, Matrix, Quantized, WORDS, Writer};
use attention::{Item, Kv, Scratch, Shape};
use half::f16;
use lora::CpuLora;
use memory::Arena;
use packed::{BLOCK, Packed, TILE};
use pool::{Parts, Pool};
use products::Aside;

use super::{Norm, Ops, Projection, Rotary, Step};
use crate::model::architecture::Activation;
use crate::model::config::ModelConfig;
use crate::model::loader::RawTensor;
use crate::model::lora::LoraWeights;
use crate::model::native::Weights;
use crate::model::train::TrainingBase;
use crate::model::{BLOCK_TOKENS, ModelError};

/// Instruction set in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512 with VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// Whatever the compiler makes of plain Rust.
    Portable,
}

impl Isa {
    /// The best that the processor has.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if ["avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni", "f16c", "fma"].iter().all(|f| has(f)) {
            return Self::Avx512;
        }
        Self::Portable
    }
}

#[cfg(target_arch = "x86_64")]
fn has(feature: &str) -> bool {
    match feature {
        "avx512f" => is_x86_feature_detected!("avx512f"),
        "avx512bw" => is_x86_feature_detected!("avx512bw"),
        "avx512vl" => is_x86_feature_detected!("avx512vl"),
        "avx512dq" => is_x86_feature_detected!("avx512dq"),
        "avx512vnni" => is_x86_feature_detected!("avx512vnni"),
        "f16c" => is_x86_feature_detected!("f16c"),
        _ => is_x86_feature_detected!("fma"),
    }
}

/// Rows of quantized activations that a kernel reads, from the first of a group on.
#[derive(Clone, Copy)]
pub struct RowPointers {
    words: *const u32,
    /// Of one row.
    row_words: usize,
}

// SAFETY: read-only pointers into a matrix that outlives the kernel's run.
unsafe impl Sync for RowPointers {}

impl RowPointers {
    fn new(x: &Quantized) -> Self {
        Self { words: x.words().as_ptr(), row_words: x.width() / BLOCK * WORDS }
    }

    /// The words of the group that begins with this row.
    #[inline(always)]
    fn group(self, row: usize) -> *const u32 {
        // SAFETY: rows are inside the matrix by the kernels' contract.
        unsafe { self.words.add(row * self.row_words) }
    }

    /// The rows from this one on, which is the first of a group.
    #[inline(always)]
    fn from(self, row: usize) -> Self {
        Self { words: self.group(row), ..self }
    }
}

/// Rows of results that a kernel writes, and the bias to add (null for none).
#[derive(Clone, Copy)]
pub struct OutRows {
    values: *mut f32,
    bias: *const f32,
}

// SAFETY: kernels write disjoint tiles.
unsafe impl Sync for OutRows {}

impl OutRows {
    #[inline(always)]
    fn row(self, row: usize, n: usize) -> Self {
        // SAFETY: rows are inside the matrix by the kernels' contract.
        Self { values: unsafe { self.values.add(row * n) }, ..self }
    }
}

/// A linear layer.
pub struct CpuLinear {
    weight: Packed,
    /// Padded to whole tiles.
    bias: Option<Vec<f32>>,
}

impl CpuLinear {
    /// The packed matrix.
    pub const fn weight(&self) -> &Packed {
        &self.weight
    }

    /// The bias, padded to whole tiles.
    pub fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }
}

enum KvStorage {
    F32(Kv<f32>),
    F16(Kv<f16>),
}

enum KvWriter {
    F32(attention::Writer<f32>),
    F16(attention::Writer<f16>),
}

/// The CPU.
pub struct CpuOps {
    isa: Isa,
    pool: Pool,
    /// Of the weights.
    arena: Arena,
    config: ModelConfig,
    exact: bool,
    /// Rotary embeddings, and of each the cosine and sine of each row's angles in the current step, `rows x rotary_dim / 2`.
    rotary: Vec<(Rotary, Vec<(f32, f32)>)>,
    kv: KvStorage,
    quantized: Quantized,
    low_rank: Vec<u32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Rows that one chunk of an elementwise operation takes.
const ROWS_PER_CHUNK: usize = 8;
/// Blocks that one chunk of quantizing takes, of all its rows together, about.
const BLOCKS_PER_CHUNK: usize = 256;
/// Logits that one chunk of capping takes: whole registers.
const LOGITS_PER_CHUNK: usize = 1 << 14;
/// Rows of a prefill chunk that one attention item takes.
const ROWS_PER_ITEM: usize = 8;

impl CpuOps {
    /// Operations for a model, on `threads` threads. `exact` keeps KV and adapters in f32 (beside unquantized weights).
    pub fn new(config: &ModelConfig, threads: usize, exact: bool, isa: Isa) -> Result<Self, ModelError> {
        let pool = Pool::new(threads).map_err(|e| ModelError::Device(format!("cannot start compute threads: {e}")))?;
        Ok(Self {
            isa,
            pool,
            arena: Arena::default(),
            config: config.clone(),
            exact,
            rotary: Rotary::all(config).into_iter().map(|rotary| (rotary, Vec::new())).collect(),
            kv: KvStorage::F32(Kv::new(shape(config), 0)?),
            quantized: Quantized::default(),
            low_rank: Vec::new(),
        })
    }

    fn quantize(&mut self, x: &Matrix) {
        let (rows, k) = (x.rows(), x.width);
        self.quantized.shape(rows, k);
        let (isa, writer) = (self.isa, self.quantized.writer());
        // A group's rows share lines of memory, which two threads had better not write by turns.
        let blocks = k / BLOCK;
        let pieces = (blocks * rows.min(GROUP)).div_ceil(BLOCKS_PER_CHUNK).min(blocks);
        let step = blocks.div_ceil(pieces.max(1));
        self.pool.run(rows.div_ceil(GROUP) * pieces, &|chunk| {
            let (group, first) = (chunk / pieces * GROUP, (chunk % pieces * step).min(blocks));
            let values = first * BLOCK..(first + step).min(blocks) * BLOCK;
            for row in group..rows.min(group + GROUP) {
                // SAFETY: chunks differ in rows or blocks.
                unsafe { quantize(isa, &writer, row, first, &x.row(row)[values.clone()]) };
            }
        });
    }
}

fn shape(config: &ModelConfig) -> Shape {
    Shape {
        layers: config.layers,
        group: config.heads / config.kv_heads,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        cap: config.details.attention_cap,
    }
}

/// # Safety
/// No other thread writes these blocks of this row.
unsafe fn quantize(isa: Isa, out: &Writer, row: usize, first: usize, x: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn wide(out: &Writer, row: usize, first: usize, x: &[f32]) {
        // SAFETY: the caller's contract.
        unsafe { out.blocks(row, first, x, |x| avx512::quantize_block(x)) }
    }
    // SAFETY: the caller's contract; the instruction set was detected.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => wide(out, row, first, x),
            Isa::Portable => out.blocks(row, first, x, activation::quantize_block),
        }
    }
}

/// Splits rows over the pool; `f` gets a row's index and its slice of `out`.
fn for_rows(pool: &mut Pool, out: &mut Matrix, f: impl Fn(usize, &mut [f32]) + Sync) {
    let (rows, width) = (out.rows(), out.width);
    let parts = Parts::new(&mut out.values);
    pool.run(rows.div_ceil(ROWS_PER_CHUNK), &|chunk| {
        for row in chunk * ROWS_PER_CHUNK..rows.min((chunk + 1) * ROWS_PER_CHUNK) {
            // SAFETY: chunks differ in rows.
            f(row, unsafe { parts.slice(row * width..(row + 1) * width) });
        }
    });
}

impl Ops for CpuOps {
    type Activation = Matrix;
    type Linear = CpuLinear;
    type Vector = Vec<f32>;
    type Embedding = RawTensor;
    type Lora = CpuLora;
    type LoraPreparer = Box<dyn Fn(&LoraWeights) -> Result<CpuLora, ModelError> + Send + Sync>;

    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn linear(&mut self, weight: &RawTensor, bias: Option<&RawTensor>) -> Result<CpuLinear, ModelError> {
        let packed = Packed::new(weight, &mut self.arena, self.pool.threads())?;
        let bias = bias
            .map(|bias| {
                let mut values = bias.dequantize()?;
                values.resize(values.len().next_multiple_of(TILE), 0.0);
                Ok::<_, ModelError>(values)
            })
            .transpose()?;
        Ok(CpuLinear { weight: packed, bias })
    }

    fn vector(&mut self, tensor: &RawTensor) -> Result<Vec<f32>, ModelError> {
        tensor.dequantize()
    }

    fn embedding(&mut self, tensor: &RawTensor) -> Result<RawTensor, ModelError> {
        Ok(tensor.clone())
    }

    fn linear_bytes(linear: &CpuLinear) -> usize {
        linear.weight.bytes() + linear.bias.as_ref().map_or(0, |bias| bias.len() * 4)
    }

    fn embedding_bytes(embedding: &RawTensor) -> usize {
        embedding.bytes().len()
    }

    fn lora_bytes(lora: &CpuLora) -> usize {
        lora.bytes()
    }

    fn lora_preparer(&self) -> Self::LoraPreparer {
        let (layers, exact) = (self.config.layers, self.exact);
        Box::new(move |weights| CpuLora::new(weights, layers, exact))
    }

    fn training_base(config: &ModelConfig, weights: &Arc<Weights<Self>>) -> Option<TrainingBase> {
        config.anatomy().untrainable.is_none().then(|| TrainingBase::new(config.clone(), Arc::clone(weights)))
    }

    fn kv_block_bytes(&self) -> usize {
        let element = if self.exact { 4 } else { 2 };
        2 * self.config.layers * self.config.kv_width() * BLOCK_TOKENS * element
    }

    fn allocate_kv(&mut self, blocks: usize) -> Result<(), ModelError> {
        let shape = shape(&self.config);
        self.kv = if self.exact { KvStorage::F32(Kv::new(shape, blocks)?) } else { KvStorage::F16(Kv::new(shape, blocks)?) };
        Ok(())
    }

    fn embed(&mut self, step: &Step<'_, CpuLora>, table: &RawTensor, out: &mut Matrix) -> Result<(), ModelError> {
        out.shape(step.tokens.len(), table.cols);
        for (token, row) in step.tokens.iter().zip(out.values.chunks_exact_mut(table.cols)) {
            table.dequantize_row(*token as usize, row)?;
        }
        if let Some(scale) = self.config.details.embedding_scale {
            out.values.iter_mut().for_each(|v| *v *= scale);
        }
        for (rotary, angles) in &mut self.rotary {
            angles.clear();
            step.positions.iter().for_each(|position| angles.extend(rotary.angles(*position)));
        }
        Ok(())
    }

    fn norm(&mut self, x: &Matrix, norm: &Norm<Self>, out: &mut Matrix) -> Result<(), ModelError> {
        out.shape(x.rows(), x.width);
        let eps = self.config.rms_eps;
        for_rows(&mut self.pool, out, |row, out| match &norm.bias {
            None => elementwise::rms_norm(x.row(row), &norm.weight, eps, out),
            Some(bias) => elementwise::layer_norm(x.row(row), (&norm.weight, bias), eps, out),
        });
        Ok(())
    }

    fn norm_heads(&mut self, x: &mut Matrix, weight: &Vec<f32>) -> Result<(), ModelError> {
        let eps = self.config.rms_eps;
        for_rows(&mut self.pool, x, |_, row| {
            row.chunks_exact_mut(weight.len()).for_each(|head| elementwise::rms_norm_in_place(head, weight, eps));
        });
        Ok(())
    }

    fn project(
        &mut self,
        step: &Step<'_, CpuLora>,
        layer: usize,
        x: &Matrix,
        parts: &mut [Projection<'_, Self>],
    ) -> Result<(), ModelError> {
        let mut parts: Vec<_> = parts.iter_mut().map(|p| (p.site, p.linear, &mut *p.out)).collect();
        self.products(&step.segments, layer, x, &mut parts);
        Ok(())
    }

    fn attend(
        &mut self,
        step: &Step<'_, CpuLora>,
        layer: usize,
        [q, k, v]: [&mut Matrix; 3],
        out: &mut Matrix,
    ) -> Result<(), ModelError> {
        let (dim, half) = (self.config.head_dim, self.config.rotary_dim() / 2);
        let (angles, scale) = (&self.rotary[Rotary::of_layer(&self.config, layer)].1, self.config.query_scale());
        let angles = |row: usize| &angles[row * half..(row + 1) * half];
        let store = match &mut self.kv {
            KvStorage::F32(kv) => KvWriter::F32(kv.writer()),
            KvStorage::F16(kv) => KvWriter::F16(kv.writer()),
        };
        let (queries, keys) = (Parts::new(&mut q.values), Parts::new(&mut k.values));
        let (q_width, k_width) = (q.width, k.width);
        // Neighbours share lines of their block.
        let share = step.slots.len().div_ceil(4 * self.pool.threads()).max(ROWS_PER_CHUNK);
        self.pool.run(step.slots.len().div_ceil(share), &|chunk| {
            for (row, slot) in step.slots.iter().enumerate().skip(chunk * share).take(share) {
                // SAFETY: chunks differ in rows, and rows in slots.
                unsafe {
                    elementwise::rotate(queries.slice(row * q_width..(row + 1) * q_width), dim, angles(row), scale);
                    let key = keys.slice(row * k_width..(row + 1) * k_width);
                    elementwise::rotate(key, dim, angles(row), 1.0);
                    match &store {
                        KvWriter::F32(kv) => kv.write(layer, *slot, key, v.row(row)),
                        KvWriter::F16(kv) => kv.write(layer, *slot, key, v.row(row)),
                    }
                }
            }
        });
        out.shape(q.rows(), q.width);
        let window = self.config.window(layer).unwrap_or(usize::MAX);
        let mut items = Vec::new();
        for span in &step.spans {
            for first in (0..span.rows).step_by(ROWS_PER_ITEM) {
                items.extend((0..self.config.kv_heads).map(|head| Item {
                    row: span.row + first,
                    rows: ROWS_PER_ITEM.min(span.rows - first),
                    position: span.start + first,
                    blocks: span.blocks,
                    head,
                    window,
                }));
            }
        }
        let (out, isa, kv) = (Parts::new(&mut out.values), self.isa, &self.kv);
        self.pool.run(items.len(), &|i| {
            SCRATCH.with_borrow_mut(|scratch| match kv {
                KvStorage::F32(kv) => kv.attend(isa, layer, &items[i], &q.values, &out, scratch),
                KvStorage::F16(kv) => kv.attend(isa, layer, &items[i], &q.values, &out, scratch),
            });
        });
        Ok(())
    }

    fn gate(&mut self, gate: &mut Matrix, up: Option<&Matrix>) -> Result<(), ModelError> {
        let (isa, activation) = (self.isa, self.config.anatomy().activation);
        for_rows(&mut self.pool, gate, |row, gate| match (activation, up, isa) {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the instruction set was detected.
            (Activation::Silu, Some(up), Isa::Avx512) => unsafe { avx512::silu_mul(gate, up.row(row)) },
            (Activation::Silu, Some(up), Isa::Portable) => portable::silu_mul(gate, up.row(row)),
            (_, up, isa) => elementwise::gelu(isa, gate, up.map(|up| up.row(row))),
        });
        Ok(())
    }

    fn add(&mut self, x: &mut Matrix, y: &Matrix) -> Result<(), ModelError> {
        for_rows(&mut self.pool, x, |row, x| x.iter_mut().zip(y.row(row)).for_each(|(x, y)| *x += y));
        Ok(())
    }

    fn select(&mut self, step: &Step<'_, CpuLora>, x: &Matrix, out: &mut Matrix) -> Result<(), ModelError> {
        out.shape(step.wanted.len(), x.width);
        for (out, row) in out.values.chunks_exact_mut(x.width).zip(&step.wanted) {
            out.copy_from_slice(x.row(*row));
        }
        Ok(())
    }

    fn rows(&mut self, x: &Matrix, rows: &[usize], out: &mut Vec<f32>) -> Result<(), ModelError> {
        out.clear();
        rows.iter().for_each(|row| out.extend_from_slice(x.row(*row)));
        Ok(())
    }

    fn logits(&mut self, x: &Matrix, head: &CpuLinear, out: &mut Vec<f32>) -> Result<(), ModelError> {
        let mut values = Matrix { values: std::mem::take(out), width: head.weight.n };
        self.products(&[], 0, x, &mut [(crate::model::config::LinearSite::Q, head, &mut values)]);
        *out = values.values;
        if let Some(cap) = self.config.details.logit_cap {
            let (isa, len, parts) = (self.isa, out.len(), Parts::new(out));
            self.pool.run(len.div_ceil(LOGITS_PER_CHUNK), &|chunk| {
                let range = chunk * LOGITS_PER_CHUNK..len.min((chunk + 1) * LOGITS_PER_CHUNK);
                // SAFETY: chunks differ in logits.
                elementwise::soft_cap(isa, unsafe { parts.slice(range) }, cap);
            });
        }
        Ok(())
    }
}
