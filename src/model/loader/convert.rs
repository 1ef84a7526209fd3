//! A tensor in another type, in memory: how weights are quantized, or expanded, while loading. Knows nothing of kernels.

use std::sync::Arc;

use memmap2::MmapMut;

use super::encode::encode;
use super::{DType, Origin, RawTensor};
use crate::model::ModelError;

/// Elements that a thread encodes at a time: 256 KiB of f32.
const PIECE: usize = 1 << 16;

/// The tensor as `dtype`, rows in Hugging Face's order; itself, not copied, where it has that type.
///
/// # Errors
/// Rows are not whole blocks of `dtype`.
pub fn convert(tensor: &RawTensor, dtype: DType, threads: usize) -> Result<RawTensor, ModelError> {
    if tensor.dtype == dtype {
        return Ok(tensor.clone());
    }
    let (rows, cols) = (tensor.rows, tensor.cols);
    let sizes = dtype.row_bytes(cols).and_then(|row| Some((row, row.checked_mul(rows).filter(|bytes| *bytes > 0)?)));
    let (row_bytes, bytes) =
        sizes.ok_or_else(|| ModelError::Invalid(format!("{rows} rows of {cols} values cannot be kept as {dtype}")))?;
    let memory = |error: std::io::Error| ModelError::Device(format!("cannot allocate weights: {error}"));
    let mut map = MmapMut::map_anon(bytes).map_err(memory)?;
    let rows_per_thread = rows.div_ceil(threads.max(1));
    let fill = |first: usize, out: &mut [u8]| -> Result<(), ModelError> {
        let mut values = Vec::new();
        for (index, out) in out.chunks_mut(row_bytes * (PIECE / cols).max(1)).enumerate() {
            let first = first + index * (PIECE / cols).max(1);
            values.resize(out.len() / row_bytes * cols, 0.0);
            for (row, values) in values.chunks_exact_mut(cols).enumerate() {
                tensor.dequantize_row(first + row, values)?;
            }
            out.copy_from_slice(&encode(dtype, &values, cols)?);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let parts = map.chunks_mut(rows_per_thread * row_bytes).enumerate();
        let workers: Vec<_> = parts.map(|(index, part)| scope.spawn(move || fill(index * rows_per_thread, part))).collect();
        let panicked = || ModelError::Device("an encoding thread panicked".to_owned());
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| Err(panicked())))
    })?;
    let file = Arc::new(map.make_read_only().map_err(memory)?);
    Ok(RawTensor { dtype, rows, cols, file, origin: Origin::Memory, range: 0..bytes, interleaved_head_dim: None })
}
