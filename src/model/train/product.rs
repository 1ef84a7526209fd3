//! Matrix products of training on the compute threads: with weights of the base, and among small f32 matrices.
//!
//! Work is cut into pieces of about a millisecond or less. Before each piece the thread asks whether it may go on; serving takes
//! the processor back there.

use std::sync::Arc;

use super::kernels::{COLS, F32Block, I8Block, ROWS, SCALED, f32_block, i8_block};
use super::panel::{F32_DEPTH, I8_DEPTH, Panel, Way};
use super::rows::{PackedRows, RowBlock, pack};
use crate::model::ModelError;
use crate::model::ops::cpu::Isa;
use crate::model::ops::cpu::packed::Packed;
use crate::model::ops::cpu::pool::{Parts, Pool};

/// Whether work goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Go {
    /// It does.
    On,
    /// Nothing that is computed from here on is wanted: what remains is skipped.
    Stop,
}

/// Asked between two pieces of work; may block for as long as others need the processor.
pub type Between = Arc<dyn Fn() -> Go + Send + Sync>;

/// Type of the products with weights of the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compute {
    /// f32 throughout; agrees with other trainers to rounding.
    F32,
    /// Both sides in 8 bits, scales for each 32 of the depth, as serving has them; everything else in f32.
    Int8,
}

impl Compute {
    /// Whether this processor has fast products in 8 bits.
    pub fn int8_is_fast() -> bool {
        Isa::detect() != Isa::Portable
    }
}

/// The processor's family and the kernels that training has on it: with others sums go in another order.
pub fn kernels() -> String {
    format!("{} {:?}", std::env::consts::ARCH, Isa::detect()).to_lowercase()
}

/// Rows that one piece takes of a product with the base.
const PIECE_ROWS: usize = 1020;
/// Rows that one piece takes of a product of small matrices.
const SMALL_ROWS: usize = 96;
/// Columns that one piece takes of a product over rows (`xᵀ y`).
const GRADIENT_COLS: usize = 256;
/// Rows between which a product over rows goes on to the next columns: they stay in the second-level cache.
const GRADIENT_ROWS: usize = 64;
/// Elements that one piece of an elementwise pass takes.
const PIECE_ELEMENTS: usize = 1 << 16;

/// The compute threads and what they compute in.
pub struct Workers {
    isa: Isa,
    compute: Compute,
    pool: Pool,
    between: Between,
}

thread_local! {
    static PANEL: std::cell::RefCell<Panel> = std::cell::RefCell::default();
}

/// The left side of a product: rows of f32, and the same in 8 bits where products take them.
pub struct Left<'a> {
    /// `rows x width`.
    pub values: &'a [f32],
    /// Values of a row.
    pub width: usize,
    packed: Option<&'a PackedRows>,
}

impl Left<'_> {
    fn rows(&self) -> usize {
        self.values.len() / self.width
    }
}

/// An f32 matrix seen with any strides.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Elements.
    pub values: &'a [f32],
    /// Distance of rows.
    pub row: usize,
    /// Distance of columns.
    pub col: usize,
}

impl<'a> View<'a> {
    /// Row-major, `cols` values in a row.
    pub const fn new(values: &'a [f32], cols: usize) -> Self {
        Self { values, row: cols, col: 1 }
    }
}

/// The low-rank part that a product adds: `left[rows x rank] * right[rank x cols]`.
#[derive(Clone, Copy)]
pub struct LowRank<'a> {
    /// `rows x rank`.
    pub left: &'a [f32],
    /// `rank x cols`.
    pub right: &'a [f32],
    /// Rank, padded.
    pub rank: usize,
}

impl Workers {
    /// Threads for one trainer; the caller's is one of them.
    pub fn new(threads: usize, isa: Isa, compute: Compute, between: Between) -> Result<Self, ModelError> {
        let pool = Pool::new_patient(threads).map_err(|e| ModelError::Device(format!("cannot start training threads: {e}")))?;
        Ok(Self { isa, compute, pool, between })
    }

    /// Type of the products with weights of the base.
    pub const fn compute(&self) -> Compute {
        self.compute
    }

    /// Instruction set in use.
    pub const fn isa(&self) -> Isa {
        self.isa
    }

    /// Whether what was computed since is whole: nothing was skipped.
    pub fn goes_on(&self) -> bool {
        (self.between)() == Go::On
    }

    /// What is asked between two pieces, for those that are long.
    pub fn between(&self) -> Between {
        Arc::clone(&self.between)
    }

    /// Runs numbered pieces on all threads.
    pub fn run(&mut self, pieces: usize, job: impl Fn(usize) + Sync) {
        let between = &self.between;
        self.pool.run(pieces, &|piece| {
            if between() == Go::On {
                job(piece);
            }
        });
    }

    /// Runs `job` for every row of `out`, in pieces.
    pub fn rows(&mut self, out: &mut [f32], width: usize, job: impl Fn(usize, &mut [f32]) + Sync) {
        let rows = out.len() / width;
        let step = (PIECE_ELEMENTS / width).max(1);
        let parts = Parts::new(out);
        self.run(rows.div_ceil(step), |piece| {
            for row in piece * step..rows.min((piece + 1) * step) {
                // SAFETY: pieces differ in rows.
                job(row, unsafe { parts.slice(row * width..(row + 1) * width) });
            }
        });
    }

    /// The left side of products with the base; `room` is kept for reuse.
    pub fn left<'a>(&mut self, values: &'a [f32], width: usize, room: &'a mut PackedRows) -> Left<'a> {
        if self.compute == Compute::F32 {
            return Left { values, width, packed: None };
        }
        let rows = values.len() / width;
        room.shape(rows, width);
        let (isa, lanes) = (self.isa, room.runs * ROWS);
        let (bytes, sums, scales) = (Parts::new(&mut room.bytes), Parts::new(&mut room.sums), Parts::new(&mut room.scales));
        self.run(rows.div_ceil(ROWS), |block| {
            let values = &values[block * ROWS * width..rows.min((block + 1) * ROWS) * width];
            // SAFETY: pieces differ in blocks.
            let out = unsafe {
                RowBlock {
                    bytes: bytes.slice(block * lanes * SCALED..(block + 1) * lanes * SCALED),
                    sums: sums.slice(block * lanes..(block + 1) * lanes),
                    scales: scales.slice(block * lanes..(block + 1) * lanes),
                }
            };
            pack(isa, values, width, out);
        });
        Left { values, width, packed: Some(room) }
    }

    /// `out (+)= left W'`, `W'` being the weight the way it is used, plus a low-rank part.
    pub fn with_base(
        &mut self,
        weight: &Packed,
        way: Way,
        left: &Left<'_>,
        low_rank: Option<LowRank<'_>>,
        out: &mut [f32],
        add: Add,
    ) {
        let (rows, cols, depth, isa) = (left.rows(), way.cols(weight), way.depth(weight), self.isa);
        debug_assert_eq!((left.width, out.len()), (depth, rows * cols));
        let row_pieces = rows.div_ceil(PIECE_ROWS).max(1);
        let (parts, between) = (Parts::new(out), self.between());
        self.run(cols.div_ceil(COLS) * row_pieces, |piece| {
            let (panel, row_piece) = (piece / row_pieces, piece % row_pieces);
            let mine = row_piece * PIECE_ROWS..rows.min((row_piece + 1) * PIECE_ROWS);
            let first = panel * COLS;
            let width = COLS.min(cols - first);
            // Pieces differ in rows or columns; each writes its own alone.
            let c = parts.pointer();
            PANEL.with_borrow_mut(|room| {
                let step = if left.packed.is_some() { I8_DEPTH } else { F32_DEPTH };
                for start in (0..depth).step_by(step) {
                    if start > 0 && between() == Go::Stop {
                        return;
                    }
                    let end = depth.min(start + step);
                    let add = add == Add::To || start > 0;
                    match left.packed {
                        Some(packed) => {
                            let runs = room.fill_i8(isa, weight, way, panel, start..end);
                            for row in mine.clone().step_by(ROWS) {
                                let at = (row / ROWS * packed.runs + start / SCALED) * ROWS;
                                // SAFETY: the packed rows, the panel and `out` cover the block.
                                unsafe {
                                    i8_block(
                                        isa,
                                        &I8Block {
                                            rows: ROWS.min(rows - row),
                                            cols: width,
                                            scaled: runs,
                                            a: packed.bytes.as_ptr().add(at * SCALED),
                                            sums: packed.sums.as_ptr().add(at),
                                            a_scales: packed.scales.as_ptr().add(at),
                                            b: room.bytes.as_ptr(),
                                            b_scales: room.scales.as_ptr(),
                                            c: c.add(row * cols + first),
                                            c_row: cols,
                                            add,
                                        },
                                    );
                                }
                            }
                        }
                        None => {
                            room.fill_f32(isa, weight, way, panel, start..end);
                            // SAFETY: as above.
                            unsafe {
                                f32_block(
                                    isa,
                                    &F32Block {
                                        rows: mine.len(),
                                        cols: width,
                                        depth: end - start,
                                        a: left.values.as_ptr().add(mine.start * depth + start),
                                        a_row: depth,
                                        a_col: 1,
                                        b: room.values.as_ptr(),
                                        b_row: COLS,
                                        c: c.add(mine.start * cols + first),
                                        c_row: cols,
                                        add,
                                    },
                                );
                            }
                        }
                    }
                }
            });
            if let Some(low) = low_rank {
                debug_assert_eq!((low.left.len(), low.right.len()), (rows * low.rank, low.rank * cols));
                // SAFETY: as above.
                unsafe {
                    f32_block(
                        isa,
                        &F32Block {
                            rows: mine.len(),
                            cols: width,
                            depth: low.rank,
                            a: low.left.as_ptr().add(mine.start * low.rank),
                            a_row: low.rank,
                            a_col: 1,
                            b: low.right.as_ptr().add(first),
                            b_row: cols,
                            c: c.add(mine.start * cols + first),
                            c_row: cols,
                            add: true,
                        },
                    );
                }
            }
        });
    }

    /// `out = scale * left right` for a narrow `right` (`depth x cols`, a rank's columns).
    pub fn narrow(&mut self, left: &[f32], depth: usize, right: &[f32], cols: usize, scale: f32, out: &mut [f32]) {
        let (rows, isa) = (left.len() / depth, self.isa);
        debug_assert_eq!((right.len(), out.len()), (depth * cols, rows * cols));
        let parts = Parts::new(out);
        self.run(rows.div_ceil(SMALL_ROWS), |piece| {
            let mine = piece * SMALL_ROWS..rows.min((piece + 1) * SMALL_ROWS);
            // SAFETY: pieces differ in rows.
            let out = unsafe { parts.slice(mine.start * cols..mine.end * cols) };
            for start in (0..depth).step_by(F32_DEPTH) {
                let deep = F32_DEPTH.min(depth - start);
                let left = View { values: &left[mine.start * depth + start..], row: depth, col: 1 };
                product(
                    isa,
                    Size { rows: mine.len(), cols, depth: deep },
                    left,
                    View::new(&right[start * cols..], cols),
                    (out, cols),
                    if start > 0 { Add::To } else { Add::Nothing },
                );
            }
            out.iter_mut().for_each(|v| *v *= scale);
        });
    }

    /// `out = low.left * low.right`, `cols` wide.
    pub fn outer(&mut self, low: LowRank<'_>, cols: usize, out: &mut [f32]) {
        let (rows, isa) = (low.left.len() / low.rank, self.isa);
        let parts = Parts::new(out);
        self.run(rows.div_ceil(SMALL_ROWS), |piece| {
            let mine = piece * SMALL_ROWS..rows.min((piece + 1) * SMALL_ROWS);
            // SAFETY: pieces differ in rows.
            let out = unsafe { parts.slice(mine.start * cols..mine.end * cols) };
            let left = View { values: &low.left[mine.start * low.rank..], row: low.rank, col: 1 };
            let size = Size { rows: mine.len(), cols, depth: low.rank };
            product(isa, size, left, View::new(low.right, cols), (out, cols), Add::Nothing);
        });
    }

    /// `out += leftᵀ right` over rows: `left` is `rows x rank`, `right` `rows x cols`, `out` `rank x cols`.
    pub fn gradient(&mut self, left: &[f32], rank: usize, right: &[f32], cols: usize, out: &mut [f32]) {
        let (rows, isa) = (left.len() / rank, self.isa);
        debug_assert_eq!((right.len(), out.len()), (rows * cols, rank * cols));
        let parts = Parts::new(out);
        self.run(cols.div_ceil(GRADIENT_COLS), |piece| {
            // Pieces differ in columns; each writes its own alone.
            let c = parts.pointer();
            let mine = piece * GRADIENT_COLS..cols.min((piece + 1) * GRADIENT_COLS);
            for row in (0..rows).step_by(GRADIENT_ROWS) {
                for first in mine.clone().step_by(COLS) {
                    // SAFETY: everything named is inside its matrix.
                    unsafe {
                        f32_block(
                            isa,
                            &F32Block {
                                rows: rank,
                                cols: COLS.min(mine.end - first),
                                depth: GRADIENT_ROWS.min(rows - row),
                                a: left.as_ptr().add(row * rank),
                                a_row: 1,
                                a_col: rank,
                                b: right.as_ptr().add(row * cols + first),
                                b_row: cols,
                                c: c.add(first),
                                c_row: cols,
                                add: true,
                            },
                        );
                    }
                }
            }
        });
    }
}

/// What becomes of what is in the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Add {
    /// It is replaced.
    Nothing,
    /// It is added to.
    To,
}

/// Rows, columns and depth of a product.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub rows: usize,
    pub cols: usize,
    pub depth: usize,
}

/// `out (+)= left right` on the calling thread; `out` is its values and the distance of its rows.
///
/// # Panics
/// Where a matrix is smaller than the size says.
pub fn product(isa: Isa, size: Size, left: View<'_>, right: View<'_>, out: (&mut [f32], usize), add: Add) {
    let Size { rows, cols, depth } = size;
    if rows == 0 || cols == 0 {
        return;
    }
    let last = |view: &View<'_>, rows: usize, cols: usize| (rows.max(1) - 1) * view.row + (cols.max(1) - 1) * view.col;
    assert!(depth == 0 || last(&left, rows, depth) < left.values.len(), "the left side is too small: this is a bug");
    assert!(depth == 0 || last(&right, depth, cols) < right.values.len(), "the right side is too small: this is a bug");
    assert!((rows - 1) * out.1 + cols <= out.0.len() && right.col == 1, "the result is too small: this is a bug");
    for first in (0..cols).step_by(COLS) {
        // SAFETY: asserted.
        unsafe {
            f32_block(
                isa,
                &F32Block {
                    rows,
                    cols: COLS.min(cols - first),
                    depth,
                    a: left.values.as_ptr(),
                    a_row: left.row,
                    a_col: left.col,
                    b: right.values.as_ptr().wrapping_add(first),
                    b_row: right.row,
                    c: out.0.as_mut_ptr().add(first),
                    c_row: out.1,
                    add: add == Add::To,
                },
            );
        }
    }
}
