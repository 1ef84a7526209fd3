//! The best entries of a row without sorting it. Equal values rank by index, lowest first.

use std::cmp::Ordering;

use super::SampleError;

/// Lanes of the maximum; wide enough for the compiler to use vector registers.
const LANES: usize = 16;

/// The highest logit and its first index.
pub(super) fn best(row: &[f32]) -> Result<(f32, u32), SampleError> {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut nan = false;
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
            nan |= value.is_nan();
        }
    }
    let max = lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |max, &value| if value > max { value } else { max });
    if nan || rest.iter().any(|value| value.is_nan()) {
        return Err(SampleError::NotANumber);
    }
    if !max.is_finite() {
        return Err(SampleError::NotFinite);
    }
    let index = row.iter().position(|&value| value == max).ok_or(SampleError::NotFinite)?;
    Ok((max, index as u32))
}

fn rank(a: &(f32, u32), b: &(f32, u32)) -> Ordering {
    b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal).then(a.1.cmp(&b.1))
}

/// Fills `out` with the `count` best entries `(value, index)`, best first. The row holds no NaN.
pub(super) fn select_best(row: &[f32], count: usize, out: &mut Vec<(f32, u32)>) {
    out.clear();
    if count == 0 {
        return;
    }
    // Values up to this one cannot get in any more: `count` entries with lower indices are at least as good.
    let mut floor = None;
    for (&value, index) in row.iter().zip(0..) {
        if floor.is_some_and(|floor| value <= floor) {
            continue;
        }
        out.push((value, index));
        if out.len() >= count.saturating_mul(2) {
            out.select_nth_unstable_by(count - 1, rank);
            out.truncate(count);
            floor = out.last().map(|&(value, _)| value);
        }
    }
    if out.len() > count {
        out.select_nth_unstable_by(count - 1, rank);
        out.truncate(count);
    }
    out.sort_unstable_by(rank);
}

/// Segments up to this length are sorted instead of split.
const SORTED_SEGMENT: usize = 64;

/// Rearranges `entries` so that the shortest front in rank order whose summed weights satisfy `reached` comes first (with its lowest
/// rank last), and returns its length; all of them when none does. `reached` must not turn false again for greater sums.
/// Linear on average: halves are split off by selection, and only the half that holds the border is looked into.
pub(super) fn shortest_front(entries: &mut [(f32, u32)], weight: impl Fn(f32) -> f64, reached: impl Fn(f64) -> bool) -> usize {
    let (mut low, mut high, mut before) = (0, entries.len(), 0.0);
    while high - low > SORTED_SEGMENT {
        let half = (high - low) / 2;
        entries[low..high].select_nth_unstable_by(half, rank);
        let with_half = before + entries[low..low + half].iter().map(|&(value, _)| weight(value)).sum::<f64>();
        if reached(with_half) {
            high = low + half;
        } else {
            (low, before) = (low + half, with_half);
        }
    }
    entries[low..high].sort_unstable_by(rank);
    let border = entries[low..high].iter().position(|&(value, _)| {
        before += weight(value);
        reached(before)
    });
    border.map_or(high, |index| low + index + 1)
}
