//! Activations: f32 rows, and the 8-bit form that quantized kernels multiply with.

use super::packed::BLOCK;
use super::pool::Parts;

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

/// Rows that a kernel multiplies together, as many as leave room for their sums in registers; what is left over is taken in halves
/// of it.
pub const GROUP: usize = 16;
/// 32-bit words of one row's block: 32 values, then one word each of [`Field`].
pub const WORDS: usize = BLOCK / 4 + Field::COUNT;

/// What stands behind a block's values. The sums are negative: what a stored offset is multiplied with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// Scale, f32: `x = scale * q`.
    Scale,
    /// Scale times the sum of the values, f32: what a stored minimum is multiplied with.
    ScaledSum,
    /// Minus the sum of the values, i32.
    Sum,
    /// Of the first half of the block.
    LowSum,
    /// Of the second half.
    HighSum,
}

impl Field {
    /// How many there are.
    pub const COUNT: usize = 5;
}

/// One row's block of 32 values, symmetric: `x = scale * q`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Block {
    /// Values.
    pub q: [i8; BLOCK],
    /// Scale.
    pub scale: f32,
    /// Sums of the values of each half.
    pub sums: [i32; 2],
}

/// Rows quantized to 8 bits in blocks of 32 with a scale each, laid out as the kernels read them: rows in groups of [`GROUP`] (the last
/// ones of 8, 4, 2 and 1), a group block by block, of a block first all rows' values, then each [`Field`] of all rows.
#[derive(Debug, Default)]
pub struct Quantized {
    rows: usize,
    blocks: usize,
    words: Vec<u32>,
}

/// Where a row stands.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// First word of its group.
    start: usize,
    /// Rows of the group.
    size: usize,
    /// Which of them.
    index: usize,
}

impl Place {
    /// The words of a block's values.
    pub const fn values(self, block: usize) -> std::ops::Range<usize> {
        let first = self.start + block * WORDS * self.size + BLOCK / 4 * self.index;
        first..first + BLOCK / 4
    }

    /// The word of one of a block's fields.
    pub const fn field(self, block: usize, field: Field) -> usize {
        self.start + (block * WORDS + BLOCK / 4 + field as usize) * self.size + self.index
    }
}

/// Where a row of `rows` rows of `blocks` blocks stands.
pub const fn place(rows: usize, blocks: usize, row: usize) -> Place {
    let (mut first, mut size) = (row / GROUP * GROUP, GROUP);
    let whole = rows / GROUP * GROUP;
    if row >= whole {
        first = whole;
        let rest = rows - whole;
        size = GROUP / 2;
        while rest & size == 0 || row >= first + size {
            first += rest & size;
            size /= 2;
        }
    }
    Place { start: first * blocks * WORDS, size, index: row - first }
}

impl Quantized {
    /// Takes the shape of `rows` rows of `k` values; `k` is a multiple of 32.
    pub fn shape(&mut self, rows: usize, k: usize) {
        (self.rows, self.blocks) = (rows, k / BLOCK);
        self.words.resize(rows * self.blocks * WORDS, 0);
    }

    /// Row length.
    pub const fn width(&self) -> usize {
        self.blocks * BLOCK
    }

    /// The words.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// A row, for those who read single ones.
    pub fn row(&self, row: usize) -> Row<'_> {
        assert!(row < self.rows, "row outside the matrix: this is a bug");
        Row { words: &self.words, place: place(self.rows, self.blocks, row) }
    }

    /// For writing rows from several threads.
    pub fn writer(&mut self) -> Writer {
        Writer { rows: self.rows, blocks: self.blocks, words: Parts::new(&mut self.words) }
    }
}

/// One row.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    words: &'a [u32],
    place: Place,
}

impl<'a> Row<'a> {
    /// A block's values, four a word.
    pub fn values(self, block: usize) -> &'a [u32] {
        &self.words[self.place.values(block)]
    }

    /// One of a block's fields.
    pub fn field(self, block: usize, field: Field) -> u32 {
        self.words[self.place.field(block, field)]
    }

    /// The first block's values, its fields, the words from field to field, and those from block to block.
    pub fn pointers(self) -> (*const u32, *const u32, usize, usize) {
        let place = self.place;
        let fields = &self.words[place.field(0, Field::Scale)..];
        (self.values(0).as_ptr(), fields.as_ptr(), place.size, WORDS * place.size)
    }
}

/// Rows to be written, each block by one thread.
pub struct Writer {
    rows: usize,
    blocks: usize,
    words: Parts<u32>,
}

impl Writer {
    /// Quantizes a row's values from block `first` on, each block by `quantize`.
    ///
    /// # Safety
    /// No other thread writes these blocks of this row.
    #[inline(always)]
    pub unsafe fn blocks(&self, row: usize, first: usize, x: &[f32], quantize: impl Fn(&[f32; BLOCK]) -> Block) {
        assert!(row < self.rows && x.len() / BLOCK <= self.blocks - first, "row of the wrong size: this is a bug");
        let (place, words) = (place(self.rows, self.blocks, row), self.words.pointer());
        for (index, x) in (first..).zip(x.as_chunks::<BLOCK>().0) {
            let block = quantize(x);
            let [low, high] = block.sums;
            let put = |field, word| {
                // SAFETY: the row is one of the matrix, as asserted, and this thread's alone by the caller's contract.
                unsafe { words.add(place.field(index, field)).write(word) };
            };
            // SAFETY: the same.
            unsafe { words.add(place.values(index).start).cast::<[i8; BLOCK]>().write(block.q) };
            put(Field::Scale, block.scale.to_bits());
            put(Field::ScaledSum, (block.scale * (low + high) as f32).to_bits());
            put(Field::Sum, (-(low + high)).cast_unsigned());
            put(Field::LowSum, (-low).cast_unsigned());
            put(Field::HighSum, (-high).cast_unsigned());
        }
    }
}

/// Quantizes one block; a value that is not a number makes the scale one that is not.
#[inline(always)]
pub fn quantize_block(x: &[f32; BLOCK]) -> Block {
    // Of the magnitudes' bits, of which those of a NaN are the largest.
    let peak = f32::from_bits(x.iter().fold(0u32, |peak, v| peak.max(v.to_bits() & 0x7FFF_FFFF)));
    let inverse = if peak > 0.0 { 127.0 / peak } else { 0.0 };
    let mut block = Block { q: [0; BLOCK], scale: peak / 127.0, sums: [0; 2] };
    for (half, (x, q)) in x.as_chunks::<16>().0.iter().zip(block.q.as_chunks_mut::<16>().0).enumerate() {
        for (x, q) in x.iter().zip(q) {
            // Adding 1.5 * 2^23 leaves the nearest integer (ties to even) in the low mantissa bits.
            let rounded = (x * inverse + 12_582_912.0).to_bits().cast_signed().wrapping_sub(0x4B40_0000);
            *q = rounded as i8;
            block.sums[half] += i32::from(*q);
        }
    }
    block
}
