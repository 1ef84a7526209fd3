//! Activations: f32 rows, and the 8-bit form that quantized kernels multiply with.

use super::packed::BLOCK;

/// Row-major f32 matrix whose buffer is reused from step to step.
#[derive(Debug, Default)]
pub struct Matrix {
    /// Values, `rows * width`.
    pub values: Vec<f32>,
    /// Row length.
    pub width: usize,
}

impl Matrix {
    /// Gives the matrix a shape; the content is unspecified until written.
    pub fn shape(&mut self, rows: usize, width: usize) {
        self.width = width;
        self.values.resize(rows * width, 0.0);
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.values.len().checked_div(self.width).unwrap_or(0)
    }

    /// A row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.width..(row + 1) * self.width]
    }
}

/// Rows quantized to 8 bits in blocks of 32 with a scale each, symmetric: `x = d * q`.
#[derive(Debug, Default)]
pub struct Quantized {
    /// Row length.
    pub k: usize,
    /// Values, `rows * k`.
    pub q: Vec<i8>,
    /// Scales, `rows * k / 32`.
    pub d: Vec<f32>,
    /// Sums of each half block's values, `rows * k / 16`: what a stored offset is multiplied with.
    pub sums: Vec<i32>,
    /// Scale times sum of each block, `rows * k / 32`: what a stored minimum is multiplied with.
    pub dsums: Vec<f32>,
}

impl Quantized {
    /// Takes the shape of `rows` rows of `k` values; `k` is a multiple of 32.
    pub fn shape(&mut self, rows: usize, k: usize) {
        self.k = k;
        self.q.resize(rows * k, 0);
        self.d.resize(rows * k / BLOCK, 0.0);
        self.sums.resize(rows * k / (BLOCK / 2), 0);
        self.dsums.resize(rows * k / BLOCK, 0.0);
    }
}

/// Destination of one row's quantization.
pub struct QuantizedRow<'a> {
    /// `k` values.
    pub q: &'a mut [i8],
    /// `k / 32` scales.
    pub d: &'a mut [f32],
    /// `k / 16` sums.
    pub sums: &'a mut [i32],
    /// `k / 32` scaled sums.
    pub dsums: &'a mut [f32],
}

/// Quantizes one row.
#[inline(always)]
pub fn quantize_row(x: &[f32], out: QuantizedRow<'_>) {
    let blocks = x.as_chunks::<BLOCK>().0;
    let (q, sums) = (out.q.as_chunks_mut::<BLOCK>().0, out.sums.as_chunks_mut::<2>().0);
    for ((((x, q), d), sums), dsum) in blocks.iter().zip(q).zip(out.d).zip(sums).zip(out.dsums) {
        // Integer comparison of the magnitudes' bits vectorises where a float maximum does not; NaN wins it and shows up in d.
        let peak = f32::from_bits(x.iter().fold(0u32, |peak, v| peak.max(v.to_bits() & 0x7FFF_FFFF)));
        let scale = peak / 127.0;
        let inverse = if peak > 0.0 { 127.0 / peak } else { 0.0 };
        let mut halves = [0i32; 2];
        for (half, (x, q)) in x.as_chunks::<16>().0.iter().zip(q.as_chunks_mut::<16>().0).enumerate() {
            for (x, q) in x.iter().zip(q) {
                // Adding 1.5 * 2^23 leaves the nearest integer (ties to even) in the low mantissa bits.
                let rounded = (x * inverse + 12_582_912.0).to_bits().cast_signed().wrapping_sub(0x4B40_0000);
                *q = rounded as i8;
                halves[half] += i32::from(*q);
            }
        }
        (*d, *sums, *dsum) = (scale, halves, scale * (halves[0] + halves[1]) as f32);
    }
}
