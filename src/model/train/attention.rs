//! Causal attention over the spans of a batch, and its gradient. A span attends to itself alone, up to each row's own position:
//! packed examples never see one another.
//!
//! Probabilities are not kept: the backward pass computes them again from each row's log-sum (Dao et al. 2022).

use std::cell::RefCell;
use std::ops::Range;

use super::elementwise::{dot, shifted_exp, softmax, softmax_back};
use super::kernels::{COLS, F32Block, f32_block};
use super::product::{Go, Workers};
use crate::model::config::ModelConfig;
use crate::model::ops::cpu::Isa;
use crate::model::ops::cpu::pool::Parts;

/// Query rows that meet the keys together.
const QUERIES: usize = 48;
/// Query rows of a forward piece.
const PIECE: usize = 4 * QUERIES;

/// Heads, widths and window.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    group: usize,
    kv_heads: usize,
    dim: usize,
    window: usize,
    scale: f32,
}

impl Heads {
    /// Of a model.
    pub fn new(config: &ModelConfig) -> Self {
        Self {
            group: config.heads / config.kv_heads,
            kv_heads: config.kv_heads,
            dim: config.head_dim,
            window: config.sliding_window.unwrap_or(usize::MAX),
            scale: 1.0 / (config.head_dim as f32).sqrt(),
        }
    }

    const fn heads(self) -> usize {
        self.group * self.kv_heads
    }

    const fn q_width(self) -> usize {
        self.heads() * self.dim
    }

    const fn kv_width(self) -> usize {
        self.kv_heads * self.dim
    }

    /// First key that row `row` of a span sees.
    const fn first_key(self, row: usize) -> usize {
        (row + 1).saturating_sub(self.window)
    }
}

/// Rotated queries and keys, and values: `rows x width`.
#[derive(Clone, Copy)]
pub struct Qkv<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
}

#[derive(Default)]
struct Room {
    keys: Vec<f32>,
    values: Vec<f32>,
    scores: Vec<f32>,
    slopes: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

thread_local! {
    static ROOM: RefCell<Room> = RefCell::default();
}

/// `C (+)= A B` between strided matrices.
///
/// # Safety
/// As [`f32_block`], for any number of columns.
unsafe fn matmul(isa: Isa, block: &F32Block) {
    for first in (0..block.cols).step_by(COLS) {
        // SAFETY: the caller's contract.
        unsafe {
            f32_block(
                isa,
                &F32Block { cols: COLS.min(block.cols - first), b: block.b.add(first), c: block.c.add(first), ..*block },
            );
        }
    }
}

/// Columns of one head, rows `rows`, as `[dim][row]`.
fn transpose(from: &[f32], width: usize, column: usize, rows: Range<usize>, dim: usize, out: &mut Vec<f32>) {
    let count = rows.len();
    out.resize(dim * count, 0.0);
    for (i, row) in rows.enumerate() {
        let from = &from[row * width + column..row * width + column + dim];
        from.iter().enumerate().for_each(|(d, v)| out[d * count + i] = *v);
    }
}

/// Attends; `out` is `rows x q_width`, `log_sums` `rows x heads`.
pub fn forward(workers: &mut Workers, heads: Heads, spans: &[Range<usize>], x: Qkv<'_>, out: &mut [f32], log_sums: &mut [f32]) {
    let mut pieces = Vec::new();
    for span in spans {
        for first in (0..span.len()).step_by(PIECE) {
            pieces.extend((0..heads.kv_heads).map(|head| (span.clone(), first..span.len().min(first + PIECE), head)));
        }
    }
    let (isa, between) = (workers.isa(), workers.between());
    let (out, log_sums) = (Parts::new(out), Parts::new(log_sums));
    let (q_width, kv_width, dim) = (heads.q_width(), heads.kv_width(), heads.dim);
    workers.run(pieces.len(), |piece| {
        let (span, rows, kv_head) = &pieces[piece];
        ROOM.with_borrow_mut(|room| {
            let seen = heads.first_key(rows.start)..rows.end;
            transpose(x.k, kv_width, kv_head * dim, span.start + seen.start..span.start + seen.end, dim, &mut room.keys);
            for first in rows.clone().step_by(QUERIES) {
                let count = QUERIES.min(rows.end - first);
                let keys = heads.first_key(first)..first + count;
                room.scores.resize(count * keys.len(), 0.0);
                for head in kv_head * heads.group..(kv_head + 1) * heads.group {
                    if between() == Go::Stop {
                        return;
                    }
                    let row = span.start + first;
                    // SAFETY: rows and columns are inside; pieces differ in rows or heads.
                    unsafe {
                        matmul(
                            isa,
                            &F32Block {
                                rows: count,
                                cols: keys.len(),
                                depth: dim,
                                a: x.q.as_ptr().add(row * q_width + head * dim),
                                a_row: q_width,
                                a_col: 1,
                                b: room.keys.as_ptr().add(keys.start - seen.start),
                                b_row: seen.len(),
                                c: room.scores.as_mut_ptr(),
                                c_row: keys.len(),
                                add: false,
                            },
                        );
                    }
                    for (i, scores) in room.scores.chunks_exact_mut(keys.len()).enumerate() {
                        let valid = heads.first_key(first + i) - keys.start..first + i + 1 - keys.start;
                        scores[..valid.start].fill(0.0);
                        scores[valid.end..].fill(0.0);
                        let log_sum = softmax(isa, &mut scores[valid], heads.scale);
                        let at = (row + i) * heads.heads() + head;
                        // SAFETY: pieces differ in rows or heads.
                        unsafe { log_sums.slice(at..at + 1)[0] = log_sum };
                    }
                    // SAFETY: as above.
                    unsafe {
                        matmul(
                            isa,
                            &F32Block {
                                rows: count,
                                cols: dim,
                                depth: keys.len(),
                                a: room.scores.as_ptr(),
                                a_row: keys.len(),
                                a_col: 1,
                                b: x.v.as_ptr().add((span.start + keys.start) * kv_width + kv_head * dim),
                                b_row: kv_width,
                                c: out.pointer().add(row * q_width + head * dim),
                                c_row: q_width,
                                add: false,
                            },
                        );
                    }
                }
            }
        });
    });
}

/// What the forward pass left, and the gradient of its result.
#[derive(Clone, Copy)]
pub struct Attended<'a> {
    pub out: &'a [f32],
    pub log_sums: &'a [f32],
    pub grad: &'a [f32],
}

/// Gradients of rotated queries and keys and of values; each is replaced.
pub struct Grads<'a> {
    /// `rows x q_width`
    pub q: &'a mut [f32],
    /// `rows x kv_width`
    pub k: &'a mut [f32],
    /// `rows x kv_width`
    pub v: &'a mut [f32],
}

/// The gradient of [`forward`].
pub fn backward(workers: &mut Workers, heads: Heads, spans: &[Range<usize>], x: Qkv<'_>, done: Attended<'_>, grads: Grads<'_>) {
    let (isa, between) = (workers.isa(), workers.between());
    let (dq, dk, dv) = (Parts::new(grads.q), Parts::new(grads.k), Parts::new(grads.v));
    let (q_width, kv_width, dim) = (heads.q_width(), heads.kv_width(), heads.dim);
    workers.run(spans.len() * heads.kv_heads, |piece| {
        let (span, kv_head) = (&spans[piece / heads.kv_heads], piece % heads.kv_heads);
        let len = span.len();
        ROOM.with_borrow_mut(|room| {
            transpose(x.k, kv_width, kv_head * dim, span.clone(), dim, &mut room.keys);
            transpose(x.v, kv_width, kv_head * dim, span.clone(), dim, &mut room.values);
            room.dk.clear();
            room.dk.resize(len * dim, 0.0);
            room.dv.clear();
            room.dv.resize(len * dim, 0.0);
            for first in (0..len).step_by(QUERIES) {
                let count = QUERIES.min(len - first);
                let keys = heads.first_key(first)..first + count;
                room.scores.resize(count * keys.len(), 0.0);
                room.slopes.resize(count * keys.len(), 0.0);
                let row = span.start + first;
                for head in kv_head * heads.group..(kv_head + 1) * heads.group {
                    if between() == Go::Stop {
                        return;
                    }
                    let from_rows = |a: &[f32], b: &[f32], c: &mut [f32]| F32Block {
                        rows: count,
                        cols: keys.len(),
                        depth: dim,
                        a: a[row * q_width + head * dim..].as_ptr(),
                        a_row: q_width,
                        a_col: 1,
                        b: b[keys.start..].as_ptr(),
                        b_row: len,
                        c: c.as_mut_ptr(),
                        c_row: keys.len(),
                        add: false,
                    };
                    // SAFETY: rows and columns are inside; pieces differ in spans or heads.
                    unsafe {
                        matmul(isa, &from_rows(x.q, &room.keys, &mut room.scores));
                        matmul(isa, &from_rows(done.grad, &room.values, &mut room.slopes));
                    }
                    let lines = room.scores.chunks_exact_mut(keys.len()).zip(room.slopes.chunks_exact_mut(keys.len()));
                    for (i, (p, dp)) in lines.enumerate() {
                        let valid = heads.first_key(first + i) - keys.start..first + i + 1 - keys.start;
                        for line in [&mut *p, &mut *dp] {
                            line[..valid.start].fill(0.0);
                            line[valid.end..].fill(0.0);
                        }
                        shifted_exp(isa, &mut p[valid.clone()], heads.scale, done.log_sums[(row + i) * heads.heads() + head]);
                        let at = (row + i) * q_width + head * dim;
                        let mean = dot(isa, &done.grad[at..at + dim], &done.out[at..at + dim]);
                        softmax_back(isa, &p[valid.clone()], &mut dp[valid], mean, heads.scale);
                    }
                    let to_keys = |a: &[f32], b: &[f32], c: &mut [f32]| F32Block {
                        rows: keys.len(),
                        cols: dim,
                        depth: count,
                        a: a.as_ptr(),
                        a_row: 1,
                        a_col: keys.len(),
                        b: b[row * q_width + head * dim..].as_ptr(),
                        b_row: q_width,
                        c: c[keys.start * dim..].as_mut_ptr(),
                        c_row: dim,
                        add: true,
                    };
                    // SAFETY: as above.
                    unsafe {
                        matmul(isa, &to_keys(&room.scores, done.grad, &mut room.dv));
                        matmul(isa, &to_keys(&room.slopes, x.q, &mut room.dk));
                        matmul(
                            isa,
                            &F32Block {
                                rows: count,
                                cols: dim,
                                depth: keys.len(),
                                a: room.slopes.as_ptr(),
                                a_row: keys.len(),
                                a_col: 1,
                                b: x.k.as_ptr().add((span.start + keys.start) * kv_width + kv_head * dim),
                                b_row: kv_width,
                                c: dq.pointer().add(row * q_width + head * dim),
                                c_row: q_width,
                                add: false,
                            },
                        );
                    }
                }
            }
            for (i, (key, value)) in room.dk.chunks_exact(dim).zip(room.dv.chunks_exact(dim)).enumerate() {
                let at = (span.start + i) * kv_width + kv_head * dim;
                // SAFETY: pieces differ in spans or heads.
                unsafe {
                    dk.slice(at..at + dim).copy_from_slice(key);
                    dv.slice(at..at + dim).copy_from_slice(value);
                }
            }
        });
    });
}
