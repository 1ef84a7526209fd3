//! One decoder layer: forward, and its gradient below it.
//!
//! Shapes: `rows` tokens of all spans, hidden width `h`, query width `hq`, key/value width `hkv`, feed-forward width `f`.

use std::ops::Range;

use super::adapter::Layout;
use super::attention::{self, Attended, Grads, Heads, Qkv};
use super::dropout::Dropout;
use super::elementwise::{Turn, gate, gate_back, norm, norm_back, rotate};
use super::kept::KeptLayer;
use super::panel::Way;
use super::product::{Add, LowRank, Workers};
use super::rows::PackedRows;
use crate::model::config::{LinearSite, ModelConfig};
use crate::model::ops::cpu::CpuLinear;
use crate::model::ops::cpu::pool::Parts;

/// A layer of the resident base.
#[derive(Clone, Copy)]
pub struct LayerWeights<'a> {
    /// `[h]`
    pub attention_norm: &'a [f32],
    /// In the order of [`LinearSite`].
    pub linears: &'a [CpuLinear],
    /// `[h]`
    pub mlp_norm: &'a [f32],
    /// Of queries' and keys' heads, `[head_dim]` each, where the architecture normalises them.
    pub head_norms: Option<[&'a [f32]; 2]>,
}

/// An adapter's parameters in use.
#[derive(Clone, Copy)]
pub struct Adapter<'a> {
    /// Where what lies.
    pub layout: &'a Layout,
    /// Parameters.
    pub values: &'a [f32],
}

/// What all layers of a pass share.
pub struct Pass<'a> {
    /// Shape of the base.
    pub config: &'a ModelConfig,
    /// Rows of each example.
    pub spans: &'a [Range<usize>],
    /// Cosine and sine, `rows x head_dim / 2`.
    pub angles: &'a [(f32, f32)],
    /// The adapter, unless the base alone is asked.
    pub adapter: Option<Adapter<'a>>,
    /// Dropout of the adapter's inputs.
    pub dropout: Option<Dropout>,
}

/// Matrices that a pass computes in, kept from pass to pass.
#[derive(Debug, Default)]
pub struct Work {
    /// The residual stream going forward, its gradient going back: `rows x h`.
    pub x: Vec<f32>,
    pub normed: Vec<f32>,
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub attended: Vec<f32>,
    pub log_sums: Vec<f32>,
    pub gate: Vec<f32>,
    pub up: Vec<f32>,
    pub inner: Vec<f32>,
    pub d_normed: Vec<f32>,
    pub dq: Vec<f32>,
    pub dk: Vec<f32>,
    pub dv: Vec<f32>,
    d_inner: Vec<f32>,
    d_attended: Vec<f32>,
    /// Queries and keys before their heads are normalised, and room for a gradient.
    raw_q: Vec<f32>,
    raw_k: Vec<f32>,
    d_heads: Vec<f32>,
    low: Vec<f32>,
    turned: Vec<f32>,
    dropped: Vec<f32>,
    packed: PackedRows,
}

fn fit(values: &mut Vec<f32>, len: usize) {
    values.resize(len, 0.0);
}

/// RMS-normalises every head of `x` (`rows x width`); `raw` receives what was there.
fn norm_heads(workers: &mut Workers, (weight, eps): (&[f32], f32), width: usize, x: &mut Vec<f32>, raw: &mut Vec<f32>) {
    std::mem::swap(x, raw);
    fit(x, raw.len());
    let (isa, dim) = (workers.isa(), weight.len());
    workers.rows(x, width, |row, out| {
        let raw = &raw[row * width..(row + 1) * width];
        out.chunks_exact_mut(dim).zip(raw.chunks_exact(dim)).for_each(|(out, raw)| norm(isa, raw, weight, eps, out));
    });
}

/// Takes the gradient in `d` from normalised heads to `raw` ones; `room` is overwritten.
fn norm_heads_back(
    workers: &mut Workers,
    (weight, eps): (&[f32], f32),
    raw: (&[f32], usize),
    d: &mut Vec<f32>,
    room: &mut Vec<f32>,
) {
    let ((raw, width), isa, dim) = (raw, workers.isa(), weight.len());
    std::mem::swap(d, room);
    fit(d, raw.len());
    d.fill(0.0);
    let normed = &room[..];
    workers.rows(d, width, |row, dx| {
        for (head, dx) in dx.chunks_exact_mut(dim).enumerate() {
            let at = row * width + head * dim..row * width + (head + 1) * dim;
            norm_back(isa, &normed[at.clone()], &raw[at], weight, eps, dx);
        }
    });
}

/// `[rows][cols]` to `[cols][rows]`.
fn transpose(values: &[f32], cols: usize, out: &mut Vec<f32>) {
    let rows = values.len() / cols;
    out.resize(values.len(), 0.0);
    for (r, row) in values.chunks_exact(cols).enumerate() {
        row.iter().enumerate().for_each(|(c, v)| out[c * rows + r] = *v);
    }
}

/// A linear and its place.
#[derive(Clone, Copy)]
struct Linear<'a> {
    linear: &'a CpuLinear,
    layer: usize,
    site: LinearSite,
}

/// Rooms of [`project`] and [`pull`], apart from what they read and write.
struct Rooms<'a> {
    low: &'a mut Vec<f32>,
    turned: &'a mut Vec<f32>,
    dropped: &'a mut Vec<f32>,
    packed: &'a mut PackedRows,
}

/// `out (+)= W x (+ bias) + s B A x` for several linears with one input; `low[site]` receives `s A x`.
fn project(
    workers: &mut Workers,
    pass: &Pass<'_>,
    x: (&[f32], usize),
    parts: &mut [(Linear<'_>, &mut Vec<f32>, Add)],
    low: Option<&mut [Vec<f32>; 7]>,
    rooms: Rooms<'_>,
) {
    let (x, width) = x;
    let rows = x.len() / width;
    let mut spare: [Vec<f32>; 7] = Default::default();
    let keep = low.is_some();
    let low = low.unwrap_or(&mut spare);
    let left = workers.left(x, width, rooms.packed);
    for (Linear { linear, layer, site }, out, add) in parts {
        let weight = linear.weight();
        fit(out, rows * weight.n);
        let low = if keep { &mut low[*site as usize] } else { &mut *rooms.low };
        let part = pass.adapter.and_then(|adapter| {
            let (module, rank) = (adapter.layout.module(*layer, *site)?, adapter.layout.padded);
            transpose(&adapter.values[module.a.clone()], module.k, rooms.turned);
            fit(low, rows * rank);
            let input = match pass.dropout {
                None => x,
                Some(dropout) => {
                    fit(rooms.dropped, x.len());
                    workers.rows(rooms.dropped, width, |row, out| {
                        dropout.apply((*layer, *site), row, &x[row * width..(row + 1) * width], out);
                    });
                    &rooms.dropped[..]
                }
            };
            workers.narrow(input, width, rooms.turned, rank, adapter.layout.scale, low);
            Some(LowRank { left: low, right: &adapter.values[module.b.clone()], rank })
        });
        workers.with_base(weight, Way::Forward, &left, part, out, *add);
        if let Some(bias) = linear.bias() {
            let n = weight.n;
            workers.rows(out, n, |_, row| row.iter_mut().zip(bias).for_each(|(v, b)| *v += b));
        }
    }
}

/// What a linear's gradient needs: the gradient of its output, its input, and `s A x` from the forward pass.
struct Pulled<'a> {
    at: Linear<'a>,
    dy: &'a [f32],
    x: &'a [f32],
    low: &'a [f32],
}

/// The gradient of one linear: adds to the adapter's gradients, and to (or into) `dx` where it is wanted.
fn pull(
    workers: &mut Workers,
    pass: &Pass<'_>,
    linear: Pulled<'_>,
    grads: &mut [f32],
    dx: Option<(&mut Vec<f32>, Add)>,
    rooms: Rooms<'_>,
) {
    let Pulled { at: Linear { linear, layer, site }, dy, x, low } = linear;
    let weight = linear.weight();
    let rows = dy.len() / weight.n;
    let mut dt = None;
    if let Some((adapter, module)) = pass.adapter.and_then(|a| Some((a, a.layout.module(layer, site)?))) {
        let rank = adapter.layout.padded;
        workers.gradient(low, rank, dy, weight.n, &mut grads[module.b.clone()]);
        transpose(&adapter.values[module.b.clone()], module.n, rooms.turned);
        fit(rooms.low, rows * rank);
        workers.narrow(dy, weight.n, rooms.turned, rank, adapter.layout.scale, rooms.low);
        let input = match pass.dropout {
            None => x,
            Some(dropout) => {
                fit(rooms.dropped, x.len());
                let width = weight.k;
                workers.rows(rooms.dropped, width, |row, out| {
                    dropout.apply((layer, site), row, &x[row * width..(row + 1) * width], out);
                });
                &rooms.dropped[..]
            }
        };
        workers.gradient(rooms.low, rank, input, weight.k, &mut grads[module.a.clone()]);
        dt = Some(LowRank { left: &rooms.low[..], right: &adapter.values[module.a.clone()], rank });
    }
    let Some((dx, add)) = dx else { return };
    fit(dx, rows * weight.k);
    let left = workers.left(dy, weight.n, rooms.packed);
    match (pass.dropout, dt) {
        (Some(dropout), Some(dt)) => {
            workers.with_base(weight, Way::Backward, &left, None, dx, add);
            let width = weight.k;
            fit(rooms.dropped, dx.len());
            workers.outer(dt, width, rooms.dropped);
            let part = &rooms.dropped[..];
            workers.rows(dx, width, |row, dx| {
                dropout.add((layer, site), row, &part[row * width..(row + 1) * width], dx);
            });
        }
        _ => workers.with_base(weight, Way::Backward, &left, dt, dx, add),
    }
}

macro_rules! rooms {
    ($work:ident) => {
        Rooms { low: &mut $work.low, turned: &mut $work.turned, dropped: &mut $work.dropped, packed: &mut $work.packed }
    };
}

/// Runs layer `index` over `work.x`; with `kept`, leaves there what [`backward`] needs.
pub fn forward(
    workers: &mut Workers,
    pass: &Pass<'_>,
    index: usize,
    weights: LayerWeights<'_>,
    work: &mut Work,
    kept: Option<&mut KeptLayer>,
) {
    use LinearSite::{Down, Gate, K, O, Q, Up, V};
    let (config, isa, eps) = (pass.config, workers.isa(), pass.config.rms_eps);
    let (h, hq, hkv, half) = (config.hidden_size, config.q_width(), config.kv_width(), config.head_dim / 2);
    let rows = work.x.len() / h;
    let linear = |site: LinearSite| Linear { linear: &weights.linears[site as usize], layer: index, site };
    let mut spare = None;
    let keeping = kept.is_some();
    let kept = kept.unwrap_or_else(|| spare.insert(KeptLayer::default()));
    if keeping {
        kept.x.clone_from(&work.x);
    }

    fit(&mut work.normed, rows * h);
    let x = &work.x;
    workers.rows(&mut work.normed, h, |row, out| norm(isa, &x[row * h..(row + 1) * h], weights.attention_norm, eps, out));
    let mut parts =
        [(linear(Q), &mut work.q, Add::Nothing), (linear(K), &mut work.k, Add::Nothing), (linear(V), &mut work.v, Add::Nothing)];
    project(workers, pass, (&work.normed, h), &mut parts, keeping.then_some(&mut kept.low), rooms!(work));
    let angles = |row: usize| &pass.angles[row * half..(row + 1) * half];
    if let Some([q, k]) = weights.head_norms {
        norm_heads(workers, (q, eps), hq, &mut work.q, &mut work.raw_q);
        norm_heads(workers, (k, eps), hkv, &mut work.k, &mut work.raw_k);
    }
    workers.rows(&mut work.q, hq, |row, q| rotate(q, angles(row), Turn::Forward));
    workers.rows(&mut work.k, hkv, |row, k| rotate(k, angles(row), Turn::Forward));
    fit(&mut work.attended, rows * hq);
    fit(&mut work.log_sums, rows * config.heads);
    let qkv = Qkv { q: &work.q, k: &work.k, v: &work.v };
    attention::forward(workers, Heads::new(config), pass.spans, qkv, &mut work.attended, &mut work.log_sums);
    let mut parts = [(linear(O), &mut work.x, Add::To)];
    project(workers, pass, (&work.attended, hq), &mut parts, keeping.then_some(&mut kept.low), rooms!(work));
    if keeping {
        // Heads that are normalised are kept as they were before: rotated ones follow from them.
        let raw = weights.head_norms.is_some();
        kept.q.put(workers, if raw { &mut work.raw_q } else { &mut work.q });
        kept.k.put(workers, if raw { &mut work.raw_k } else { &mut work.k });
        kept.v.put(workers, &mut work.v);
        kept.attended.put(workers, &mut work.attended);
        std::mem::swap(&mut kept.log_sums, &mut work.log_sums);
        kept.middle.clone_from(&work.x);
    }

    let x = &work.x;
    workers.rows(&mut work.normed, h, |row, out| norm(isa, &x[row * h..(row + 1) * h], weights.mlp_norm, eps, out));
    let mut parts = [(linear(Gate), &mut work.gate, Add::Nothing), (linear(Up), &mut work.up, Add::Nothing)];
    project(workers, pass, (&work.normed, h), &mut parts, keeping.then_some(&mut kept.low), rooms!(work));
    gated(workers, config, &work.gate, &work.up, &mut work.inner);
    let mut parts = [(linear(Down), &mut work.x, Add::To)];
    project(workers, pass, (&work.inner, config.intermediate_size), &mut parts, keeping.then_some(&mut kept.low), rooms!(work));
    if keeping {
        kept.gate.put(workers, &mut work.gate);
        kept.up.put(workers, &mut work.up);
    }
}

fn gated(workers: &mut Workers, config: &ModelConfig, gates: &[f32], ups: &[f32], out: &mut Vec<f32>) {
    let (isa, f) = (workers.isa(), config.intermediate_size);
    fit(out, gates.len());
    workers.rows(out, f, |row, out| gate(isa, &gates[row * f..(row + 1) * f], &ups[row * f..(row + 1) * f], out));
}

/// Takes the gradient in `work.x` from the layer's output to its input, and adds the adapter's gradients to `grads`.
pub fn backward(
    workers: &mut Workers,
    pass: &Pass<'_>,
    index: usize,
    weights: LayerWeights<'_>,
    work: &mut Work,
    kept: &mut KeptLayer,
    grads: &mut [f32],
) {
    use LinearSite::{Down, Gate, K, O, Q, Up, V};
    let (config, isa, eps) = (pass.config, workers.isa(), pass.config.rms_eps);
    let (h, hq, hkv, f, half) =
        (config.hidden_size, config.q_width(), config.kv_width(), config.intermediate_size, config.head_dim / 2);
    let rows = work.x.len() / h;
    let linear = |site: LinearSite| Linear { linear: &weights.linears[site as usize], layer: index, site };

    kept.gate.take(workers, &mut work.gate);
    kept.up.take(workers, &mut work.up);
    gated(workers, config, &work.gate, &work.up, &mut work.inner);
    let pulled = Pulled { at: linear(Down), dy: &work.x, x: &work.inner, low: &kept.low[Down as usize] };
    let mut inner = std::mem::take(&mut work.d_inner);
    pull(workers, pass, pulled, grads, Some((&mut inner, Add::Nothing)), rooms!(work));
    {
        let (ups, grad) = (Parts::new(&mut work.up), &inner);
        workers.rows(&mut work.gate, f, |row, gate| {
            // SAFETY: pieces differ in rows.
            let up = unsafe { ups.slice(row * f..(row + 1) * f) };
            gate_back(isa, gate, up, &grad[row * f..(row + 1) * f]);
        });
    }
    work.d_inner = inner;
    let middle = &kept.middle;
    fit(&mut work.normed, rows * h);
    workers.rows(&mut work.normed, h, |row, out| norm(isa, &middle[row * h..(row + 1) * h], weights.mlp_norm, eps, out));
    let mut d_normed = std::mem::take(&mut work.d_normed);
    let pulled = Pulled { at: linear(Gate), dy: &work.gate, x: &work.normed, low: &kept.low[Gate as usize] };
    pull(workers, pass, pulled, grads, Some((&mut d_normed, Add::Nothing)), rooms!(work));
    let pulled = Pulled { at: linear(Up), dy: &work.up, x: &work.normed, low: &kept.low[Up as usize] };
    pull(workers, pass, pulled, grads, Some((&mut d_normed, Add::To)), rooms!(work));
    workers.rows(&mut work.x, h, |row, dx| {
        let range = row * h..(row + 1) * h;
        norm_back(isa, &d_normed[range.clone()], &middle[range], weights.mlp_norm, eps, dx);
    });

    kept.attended.take(workers, &mut work.attended);
    kept.q.take(workers, &mut work.q);
    kept.k.take(workers, &mut work.k);
    kept.v.take(workers, &mut work.v);
    let angles = |row: usize| &pass.angles[row * half..(row + 1) * half];
    if let Some([q, k]) = weights.head_norms {
        norm_heads(workers, (q, eps), hq, &mut work.q, &mut work.raw_q);
        norm_heads(workers, (k, eps), hkv, &mut work.k, &mut work.raw_k);
        workers.rows(&mut work.q, hq, |row, q| rotate(q, angles(row), Turn::Forward));
        workers.rows(&mut work.k, hkv, |row, k| rotate(k, angles(row), Turn::Forward));
    }
    let mut d_attended = std::mem::take(&mut work.d_attended);
    let pulled = Pulled { at: linear(O), dy: &work.x, x: &work.attended, low: &kept.low[O as usize] };
    pull(workers, pass, pulled, grads, Some((&mut d_attended, Add::Nothing)), rooms!(work));
    fit(&mut work.dq, rows * hq);
    fit(&mut work.dk, rows * hkv);
    fit(&mut work.dv, rows * hkv);
    let done = Attended { out: &work.attended, log_sums: &kept.log_sums, grad: &d_attended };
    let out = Grads { q: &mut work.dq, k: &mut work.dk, v: &mut work.dv };
    attention::backward(workers, Heads::new(config), pass.spans, Qkv { q: &work.q, k: &work.k, v: &work.v }, done, out);
    work.d_attended = d_attended;
    workers.rows(&mut work.dq, hq, |row, q| rotate(q, angles(row), Turn::Back));
    workers.rows(&mut work.dk, hkv, |row, k| rotate(k, angles(row), Turn::Back));
    if let Some([q, k]) = weights.head_norms {
        norm_heads_back(workers, (q, eps), (&work.raw_q, hq), &mut work.dq, &mut work.d_heads);
        norm_heads_back(workers, (k, eps), (&work.raw_k, hkv), &mut work.dk, &mut work.d_heads);
    }
    let x = &kept.x;
    workers.rows(&mut work.normed, h, |row, out| norm(isa, &x[row * h..(row + 1) * h], weights.attention_norm, eps, out));
    // Below the first layer there is nothing to train.
    let wanted = index > 0;
    for (site, dy, add) in [(Q, &work.dq, Add::Nothing), (K, &work.dk, Add::To), (V, &work.dv, Add::To)] {
        let pulled = Pulled { at: linear(site), dy, x: &work.normed, low: &kept.low[site as usize] };
        let rooms = Rooms { low: &mut work.low, turned: &mut work.turned, dropped: &mut work.dropped, packed: &mut work.packed };
        pull(workers, pass, pulled, grads, wanted.then_some((&mut d_normed, add)), rooms);
    }
    if wanted {
        workers.rows(&mut work.x, h, |row, dx| {
            let range = row * h..(row + 1) * h;
            norm_back(isa, &d_normed[range.clone()], &x[range], weights.attention_norm, eps, dx);
        });
    }
    work.d_normed = d_normed;
}
