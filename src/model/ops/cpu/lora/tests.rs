//! Updates against their slow reference, and the promise that a row does not depend on its company.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeMap;

use super::*;
use crate::ids::VersionId;
use crate::model::loader::DType;
use crate::model::ops::Ops;
use crate::model::ops::Segment;
use crate::model::ops::cpu::activation::quantize_block;
use crate::model::ops::cpu::tests::{config, noise, raw};
use crate::model::ops::cpu::{CpuOps, Matrix};

/// Magnitudes that f16 has no room for, and those of an adapter that has hardly begun to learn.
const MAGNITUDES: [f32; 3] = [1.0, 1e9, 1e-12];

fn module(rank: usize, k: usize, n: usize, seed: u64, magnitude: f32) -> LoraModule {
    let scaled = |len, seed| noise(len, seed).into_iter().map(|w| w * magnitude).collect();
    // One half small, the other large, so that the update stays near one.
    let (a, b) = (scaled(rank * k, seed), noise(n * rank, seed + 1).into_iter().map(|w| w / magnitude).collect());
    LoraModule { layer: 0, site: LinearSite::Q, rank, scale: 0.5, a, b }
}

fn adapter(module: &LoraModule, exact: bool) -> CpuLora {
    let (id, max_rank) = (VersionId::new([module.rank as u8; 32]), module.rank);
    CpuLora::new(&LoraWeights { id, modules: vec![module.clone()], foreign: Vec::new(), max_rank }, 1, exact).unwrap()
}

/// An output of the update, and how far from it a kernel may be.
fn reference(module: &LoraModule, exact: bool, x: &[f32], output: usize) -> (f64, f64) {
    let (kept, rank) = (adapter(module, exact), module.rank);
    let update = kept.update(0, LinearSite::Q).unwrap();
    let x: Vec<f32> = if exact {
        x.to_vec()
    } else {
        x.as_chunks::<BLOCK>().0.iter().map(quantize_block).flat_map(|b| b.q.map(|q| f32::from(q) * b.scale)).collect()
    };
    let a = |r, i| if exact { exact::a(update, r, i) } else { eight_bit::a(update, r, i) };
    let b = |o, r| if exact { exact::b(update, o, r) } else { eight_bit::b(update, o, r) };
    let low: Vec<f64> = (0..rank)
        .map(|r| x.iter().enumerate().map(|(i, x)| f64::from(*x) * f64::from(a(r, i))).sum::<f64>() * f64::from(module.scale))
        .collect();
    let sum = low.iter().enumerate().map(|(r, low)| low * f64::from(b(output, r))).sum();
    // Half a step of the low ranks in 8 bits, and the rounding of sums.
    let error: f64 = low
        .chunks(BLOCK)
        .enumerate()
        .map(|(block, low)| {
            let peak = low.iter().fold(0f64, |peak, low| peak.max(low.abs()));
            let weights = (0..low.len()).map(|r| f64::from(b(output, block * BLOCK + r)).abs()).sum::<f64>();
            weights * peak * if exact { 1e-5 } else { 0.501 / 127.0 + 1e-5 }
        })
        .sum();
    (sum, error)
}

#[test]
fn segments_of_mixed_ranks_touch_their_rows_alone() {
    for (exact, k) in [(true, 96), (true, 70), (false, 96), (false, 70)] {
        let (n, rows) = (70, 141);
        let weight = raw(DType::F32, n, k, 1);
        let x = noise(rows * k, 2);
        let ranks = [1usize, 3, 6, 8, 16, 21, 40, 64];
        let modules: Vec<LoraModule> =
            ranks.iter().enumerate().map(|(i, r)| module(*r, k, n, 10 * *r as u64, MAGNITUDES[i % 3])).collect();
        let adapters: Vec<CpuLora> = modules.iter().map(|module| adapter(module, exact)).collect();
        // Of ten rows two are the base's, and the first adapter has many in a row.
        let of = |row: usize| if row < 30 { 1 } else { row % 10 };
        let segments: Vec<Segment<'_, CpuLora>> = adapters
            .iter()
            .enumerate()
            .map(|(i, adapter)| Segment { adapter, rows: (0..rows).filter(|row| of(*row) == i + 1).collect() })
            .collect();
        let run = |isa: Isa, segments: &[Segment<'_, CpuLora>]| {
            let mut ops = CpuOps::new(&config(k), 2, exact, isa).unwrap();
            let linear = ops.linear(&weight, None).unwrap();
            let mut out = Matrix::default();
            let input = Matrix { values: x.clone(), width: k };
            ops.products(segments, 0, &input, &mut [(LinearSite::Q, &linear, &mut out)]);
            out.values
        };
        for isa in [Isa::detect(), Isa::Portable] {
            let (base, mixed) = (run(isa, &[]), run(isa, &segments));
            let mut alone = BTreeMap::new();
            for row in 0..rows {
                let (base, mixed) = (&base[row * n..(row + 1) * n], &mixed[row * n..(row + 1) * n]);
                let Some(index) = segments.iter().position(|s| s.rows.contains(&row)) else {
                    assert_eq!(base, mixed, "row {row} has no adapter");
                    continue;
                };
                // Each of the first rows by itself, then the last of each adapter.
                if row < 20 || row + 10 >= rows {
                    let own = run(isa, &[Segment { adapter: segments[index].adapter, rows: vec![row] }]);
                    alone.insert(row, own[row * n..(row + 1) * n].to_vec());
                    assert_eq!(alone[&row], mixed, "row {row} alone");
                }
                for o in [0, 1, 15, 16, 63, 69] {
                    let exactly = exact || !k.is_multiple_of(BLOCK);
                    let (want, error) = reference(&modules[index], exactly, &x[row * k..(row + 1) * k], o);
                    let got = f64::from(mixed[o] - base[o]);
                    // The difference of two f32 near a hundred is no better than this.
                    assert!((got - want).abs() <= error + 2e-5, "{isa:?} rank {} row {row}: {got} is not {want}", ranks[index]);
                }
            }
        }
    }
}

#[test]
fn eight_bits_keep_a_weight_within_half_a_step_of_its_block() {
    for magnitude in MAGNITUDES {
        for rank in [1, 4, 5, 8, 9, 16, 17, 33, 64] {
            let (k, n) = (64, 40);
            let mut module = module(rank, k, n, 7, magnitude);
            // A block that is much smaller than others, and one of zeros.
            module.a[..32].iter_mut().for_each(|w| *w *= 1e-3);
            module.b[..rank].fill(0.0);
            let kept = adapter(&module, false);
            let update = kept.update(0, LinearSite::Q).unwrap();
            assert!(update.reads_quantized());
            let step = |block: &[f32]| block.iter().fold(0f32, |peak, w| peak.max(w.abs())) / 127.0 * 0.51;
            for (r, row) in module.a.chunks(k).enumerate() {
                for (i, w) in row.iter().enumerate() {
                    let got = eight_bit::a(update, r, i);
                    assert!((got - w).abs() <= step(&row[i / 32 * 32..][..32]), "A[{r}][{i}] of rank {rank}: {got} is not {w}");
                }
            }
            for (o, row) in module.b.chunks(rank).enumerate() {
                for (r, w) in row.iter().enumerate() {
                    let (got, block) = (eight_bit::b(update, o, r), &row[r / 32 * 32..rank.min((r / 32 + 1) * 32)]);
                    assert!((got - w).abs() <= step(block), "B[{o}][{r}] of rank {rank}: {got} is not {w}");
                }
            }
        }
    }
}
