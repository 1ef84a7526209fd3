//! Floats to stored blocks: candle's encoders of GGML's formats. Knows nothing of files.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use super::DType;
use crate::model::ModelError;

/// Encodes whole rows of `cols` values as `dtype`.
///
/// # Errors
/// `cols` is not a multiple of the format's block (32, or 256 for K-quants).
pub fn encode(dtype: DType, values: &[f32], cols: usize) -> Result<Vec<u8>, ModelError> {
    let kind = match dtype {
        DType::F32 => return Ok(values.iter().flat_map(|v| v.to_le_bytes()).collect()),
        DType::F16 => return Ok(values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect()),
        DType::BF16 => return Ok(values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect()),
        DType::Q8_0 => GgmlDType::Q8_0,
        DType::Q6K => GgmlDType::Q6K,
        DType::Q5K => GgmlDType::Q5K,
        DType::Q4K => GgmlDType::Q4K,
        DType::Q5_0 => GgmlDType::Q5_0,
        DType::Q4_0 => GgmlDType::Q4_0,
    };
    let device = |e: candle_core::Error| ModelError::Device(e.to_string());
    let tensor = Tensor::from_slice(values, (values.len() / cols.max(1), cols), &Device::Cpu).map_err(device)?;
    let quantized = QTensor::quantize(&tensor, kind).map_err(device)?;
    Ok(quantized.data().map_err(device)?.into_owned())
}
