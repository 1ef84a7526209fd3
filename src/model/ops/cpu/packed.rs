//! Weights in the layout that the kernels read: tiles of 16 output rows, built once from the stored blocks.
//!
//! A quantized tile holds, for each block of 32 inputs, 8 groups of 64 bytes: group `g` has inputs `4g..4g+4` of row 0, of
//! row 1, ... of row 15, the order in which `vpdpbusd` consumes them. Nibbles of group `g` and `g + 4` share a byte; bits
//! five and six of a value lie in planes behind them. A super-block begins with its scales, in their stored precision, so that a Q4_K
//! weight costs 4.63 bits and a matrix is read from its first byte to its last. A dense tile holds 16 rows' elements for each input in turn.
//! Block formats: GGML's `ggml-quants`, as documented by its reference dequantization.

use half::{bf16, f16};

use super::ModelError;
use super::memory::{Arena, Piece};
use crate::model::loader::{DType, RawTensor};

/// Output rows of a tile: the 32-bit lanes of a 512-bit register.
pub const TILE: usize = 16;
/// Inputs that share an activation scale.
pub const BLOCK: usize = 32;

/// How a tile's weights are coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "GGML's own names say it")]
pub enum Format {
    F32,
    F16,
    BF16,
    Q8_0,
    Q5_0,
    Q4_0,
    Q6K,
    Q5K,
    Q4K,
}

impl Format {
    /// The format that keeps a stored type as it is.
    pub const fn of(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Self::F32,
            DType::F16 => Self::F16,
            DType::BF16 => Self::BF16,
            DType::Q8_0 => Self::Q8_0,
            DType::Q5_0 => Self::Q5_0,
            DType::Q4_0 => Self::Q4_0,
            DType::Q6K => Self::Q6K,
            DType::Q5K => Self::Q5K,
            DType::Q4K => Self::Q4K,
        }
    }

    /// Whether inputs are quantized to 8 bits for it.
    pub const fn is_quantized(self) -> bool {
        !matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// Bytes of one block's quants (16 rows x 32 inputs), or of a dense tile's 32 inputs.
    pub const fn quant_bytes(self) -> usize {
        match self {
            Self::F32 => TILE * BLOCK * 4,
            Self::F16 | Self::BF16 => TILE * BLOCK * 2,
            Self::Q8_0 => 512,
            Self::Q6K => 384,
            Self::Q5_0 | Self::Q5K => 320,
            Self::Q4_0 | Self::Q4K => 256,
        }
    }

    /// Blocks of 32 that share a super-block.
    pub const fn blocks_per_super(self) -> usize {
        match self {
            Self::Q6K | Self::Q5K | Self::Q4K => 8,
            _ => 1,
        }
    }

    /// Bytes of one super-block's scales, 16 rows.
    pub const fn scale_bytes(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 0,
            Self::Q8_0 | Self::Q5_0 | Self::Q4_0 => 2 * TILE,
            // Sixteen 8-bit scales and an f16.
            Self::Q6K => 16 * TILE + 2 * TILE,
            // Eight 6-bit scales and minima, a byte each, and two f16.
            Self::Q5K | Self::Q4K => 2 * 8 * TILE + 4 * TILE,
        }
    }

    /// Inputs of a super-block.
    pub const fn super_inputs(self) -> usize {
        BLOCK * self.blocks_per_super()
    }

    /// Bytes of a super-block, 16 rows: its scales, then its blocks' quants.
    pub const fn super_bytes(self) -> usize {
        self.blocks_per_super() * self.quant_bytes() + self.scale_bytes()
    }

    /// What is subtracted from a stored value.
    pub const fn offset(self) -> i32 {
        match self {
            Self::Q8_0 => 128,
            Self::Q6K => 32,
            Self::Q5_0 => 16,
            Self::Q4_0 => 8,
            _ => 0,
        }
    }
}

/// A weight matrix in tiles.
pub struct Packed {
    /// Coding.
    pub format: Format,
    /// Output rows.
    pub n: usize,
    /// Inputs.
    pub k: usize,
    tile_bytes: usize,
    data: Piece,
}

/// One row's super-block, decoded to what the tile stores.
struct RowBlock {
    q: [u8; 256],
    scales: [u8; 16],
    mins: [u8; 8],
    d: [u8; 2],
    dmin: [u8; 2],
}

impl Packed {
    /// Packs a stored tensor, rows in Hugging Face's order.
    pub fn new(tensor: &RawTensor, arena: &mut Arena, threads: usize) -> Result<Self, ModelError> {
        let format = Format::of(tensor.dtype);
        let row_bytes = tensor.bytes().len() / tensor.rows.max(1);
        let bytes = tensor.bytes();
        Self::from_rows(format, (tensor.rows, tensor.cols), arena, threads, |row| {
            let start = tensor.source_row(row) * row_bytes;
            &bytes[start..start + row_bytes]
        })
    }

    /// Packs rows of stored blocks given by index.
    fn from_rows<'a>(
        format: Format,
        (n, k): (usize, usize),
        arena: &mut Arena,
        threads: usize,
        row: impl Fn(usize) -> &'a [u8] + Sync,
    ) -> Result<Self, ModelError> {
        let unit = if format.is_quantized() { format.super_inputs() } else { 1 };
        if n == 0 || k == 0 || !k.is_multiple_of(unit) {
            return Err(ModelError::Invalid(format!(
                "a {format:?} matrix of {n} x {k}: the inputs must be a multiple of {unit}"
            )));
        }
        let bytes = if format.is_quantized() { k / unit * format.super_bytes() } else { k * format.quant_bytes() / BLOCK };
        let tile_bytes = bytes.next_multiple_of(64);
        let tiles = n.div_ceil(TILE);
        let mut data = arena.take(tile_bytes * tiles).map_err(|e| ModelError::Device(format!("cannot allocate weights: {e}")))?;
        let per_thread = tiles.div_ceil(threads.max(1)) * tile_bytes;
        std::thread::scope(|scope| {
            for (index, part) in data.chunks_mut(per_thread).enumerate() {
                let row = &row;
                scope.spawn(move || {
                    for (tile, bytes) in part.chunks_exact_mut(tile_bytes).enumerate() {
                        let first = (index * per_thread / tile_bytes + tile) * TILE;
                        for lane in 0..TILE.min(n - first) {
                            pack_row(format, k, lane, row(first + lane), bytes);
                        }
                    }
                });
            }
        });
        Ok(Self { format, n, k, tile_bytes, data })
    }

    /// Number of tiles.
    pub fn tiles(&self) -> usize {
        self.n.div_ceil(TILE)
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// All bytes of a tile.
    pub fn tile(&self, tile: usize) -> &[u8] {
        &self.data[tile * self.tile_bytes..(tile + 1) * self.tile_bytes]
    }

    /// Quants of a quantized tile's block, and the scales of its super-block.
    pub fn block(&self, tile: usize, block: usize) -> (&[u8], &[u8]) {
        let (format, per) = (self.format, self.format.blocks_per_super());
        let whole = &self.tile(tile)[block / per * format.super_bytes()..][..format.super_bytes()];
        let (scales, quants) = whole.split_at(format.scale_bytes());
        (&quants[block % per * format.quant_bytes()..][..format.quant_bytes()], scales)
    }
}

fn pack_row(format: Format, k: usize, lane: usize, row: &[u8], tile: &mut [u8]) {
    if !format.is_quantized() {
        let size = format.quant_bytes() / (TILE * BLOCK);
        for (i, element) in row.chunks_exact(size).enumerate() {
            let at = (i * TILE + lane) * size;
            tile[at..at + size].copy_from_slice(element);
        }
        return;
    }
    let stored = row.len() / (k / format.super_inputs());
    let mut block = RowBlock { q: [0; 256], scales: [0; 16], mins: [0; 8], d: [0; 2], dmin: [0; 2] };
    for (bytes, tile) in row.chunks_exact(stored).zip(tile.chunks_exact_mut(format.super_bytes())) {
        decode(format, bytes, &mut block);
        let (out, quants) = tile.split_at_mut(format.scale_bytes());
        for (values, quants) in block.q.chunks_exact(BLOCK).zip(quants.chunks_exact_mut(format.quant_bytes())) {
            place(format, values, lane, quants);
        }
        let halves = match format {
            Format::Q6K => {
                (0..16).for_each(|i| out[i * TILE + lane] = block.scales[i]);
                16 * TILE
            }
            Format::Q4K | Format::Q5K => {
                for i in 0..8 {
                    out[i * TILE + lane] = block.scales[i];
                    out[(8 + i) * TILE + lane] = block.mins[i];
                }
                let at = 16 * TILE + 2 * TILE + 2 * lane;
                out[at..at + 2].copy_from_slice(&block.dmin);
                16 * TILE
            }
            _ => 0,
        };
        out[halves + 2 * lane..halves + 2 * lane + 2].copy_from_slice(&block.d);
    }
}

/// Puts 32 values of one row into a block's groups, four at a time.
fn place(format: Format, values: &[u8], lane: usize, out: &mut [u8]) {
    let (planes, at) = (out.as_chunks_mut::<4>().0, lane);
    for (group, values) in values.as_chunks::<4>().0.iter().enumerate() {
        let values = u32::from_le_bytes(*values);
        let mut merge = |offset: usize, bits: u32| {
            let word = &mut planes[offset / 4 + at];
            *word = (u32::from_le_bytes(*word) | bits).to_le_bytes();
        };
        if format == Format::Q8_0 {
            merge(64 * group, values);
            continue;
        }
        merge(64 * (group % 4), (values & 0x0F0F_0F0F) << (4 * (group / 4)));
        let high = values >> 4 & 0x0F0F_0F0F;
        match format {
            Format::Q5_0 | Format::Q5K => merge(256, high << group),
            Format::Q6K => merge(256 + 64 * (group / 4), high << (2 * (group % 4))),
            _ => {}
        }
    }
}

/// Decodes one stored (super-)block of a row to unsigned values and scales.
fn decode(format: Format, bytes: &[u8], out: &mut RowBlock) {
    match format {
        Format::Q8_0 => {
            out.d.copy_from_slice(&bytes[..2]);
            out.q.iter_mut().zip(&bytes[2..34]).for_each(|(q, b)| *q = b.wrapping_add(128));
        }
        Format::Q4_0 => {
            out.d.copy_from_slice(&bytes[..2]);
            nibbles(&bytes[2..18], &mut out.q[..32]);
        }
        Format::Q5_0 => {
            out.d.copy_from_slice(&bytes[..2]);
            nibbles(&bytes[6..22], &mut out.q[..32]);
            let high = u32::from_le_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]);
            out.q[..32].iter_mut().enumerate().for_each(|(i, q)| *q |= ((high >> i & 1) as u8) << 4);
        }
        Format::Q4K | Format::Q5K => {
            out.d.copy_from_slice(&bytes[..2]);
            out.dmin.copy_from_slice(&bytes[2..4]);
            let packed = &bytes[4..16];
            for j in 0..4 {
                out.scales[j] = packed[j] & 63;
                out.mins[j] = packed[j + 4] & 63;
                out.scales[j + 4] = packed[j + 8] & 0x0F | (packed[j] >> 6) << 4;
                out.mins[j + 4] = packed[j + 8] >> 4 | (packed[j + 4] >> 6) << 4;
            }
            let quants = if format == Format::Q4K { &bytes[16..144] } else { &bytes[48..176] };
            for (pair, chunk) in quants.chunks_exact(32).enumerate() {
                nibbles(chunk, &mut out.q[64 * pair..64 * (pair + 1)]);
            }
            if format == Format::Q5K {
                let high = &bytes[16..48];
                out.q.iter_mut().enumerate().for_each(|(i, q)| *q |= (high[i % 32] >> (i / 32) & 1) << 4);
            }
        }
        Format::Q6K => {
            out.d.copy_from_slice(&bytes[208..210]);
            out.scales.copy_from_slice(&bytes[192..208]);
            let (low, high) = (&bytes[..128], &bytes[128..192]);
            for (i, q) in out.q.iter_mut().enumerate() {
                let (half, quarter, l) = (i / 128, i % 128 / 32, i % 32);
                let nibble = low[64 * half + 32 * (quarter % 2) + l] >> (4 * (quarter / 2)) & 0x0F;
                *q = nibble | (high[32 * half + l] >> (2 * quarter) & 3) << 4;
            }
        }
        Format::F32 | Format::F16 | Format::BF16 => {}
    }
}

/// Low nibbles of all bytes, then high nibbles.
fn nibbles(bytes: &[u8], out: &mut [u8]) {
    let (low, high) = out.split_at_mut(bytes.len());
    for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
        (*low, *high) = (byte & 0x0F, byte >> 4);
    }
}

/// A block's values for all rows, plain: `out[(4g..4g+4) of row j] = [g][j][..]`. The kernels' slow reference.
pub fn unpack_block(format: Format, quants: &[u8], out: &mut [u8; 512]) {
    for (index, value) in out.iter_mut().enumerate() {
        let (group, at) = (index / 64, index % 64);
        if format == Format::Q8_0 {
            *value = quants[index];
            continue;
        }
        *value = quants[(group % 4) * 64 + at] >> (4 * (group / 4)) & 0x0F;
        match format {
            Format::Q5_0 | Format::Q5K => *value |= (quants[256 + at] >> group & 1) << 4,
            Format::Q6K => *value |= (quants[256 + 64 * (group / 4) + at] >> (2 * (group % 4)) & 3) << 4,
            _ => {}
        }
    }
}

/// Scales of a block's two halves and its minimum, for one row.
pub fn unpack_scales(format: Format, scales: &[u8], sub: usize, lane: usize) -> (f32, f32, f32) {
    let half = |at: usize| f16::from_le_bytes([scales[at + 2 * lane], scales[at + 2 * lane + 1]]).to_f32();
    match format {
        Format::Q6K => {
            let d = half(16 * TILE);
            let scale = |i: usize| d * f32::from(scales[i * TILE + lane].cast_signed());
            (scale(2 * sub), scale(2 * sub + 1), 0.0)
        }
        Format::Q4K | Format::Q5K => {
            let scale = half(16 * TILE) * f32::from(scales[sub * TILE + lane]);
            (scale, scale, half(18 * TILE) * f32::from(scales[(8 + sub) * TILE + lane]))
        }
        _ => (half(0), half(0), 0.0),
    }
}

/// A dense tile's element.
pub fn dense_element(format: Format, tile: &[u8], input: usize, lane: usize) -> f32 {
    let at = input * TILE + lane;
    match format {
        Format::F16 => f16::from_le_bytes([tile[2 * at], tile[2 * at + 1]]).to_f32(),
        Format::BF16 => bf16::from_le_bytes([tile[2 * at], tile[2 * at + 1]]).to_f32(),
        _ => f32::from_le_bytes([tile[4 * at], tile[4 * at + 1], tile[4 * at + 2], tile[4 * at + 3]]),
    }
}
