//! A checkpoint written as a GGUF file in another type: what `switchyard quantize` does.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use super::encode::encode;
use super::gguf_names::{ROPE_FACTORS, ROPE_LONG, ROPE_SHORT, to_gguf};
use super::kept_type::{Fallback, Kept, is_vector, kept_type};
use super::write::{MetadataWriter, PlannedTensor, WriteError, write_file};
use super::{Checkpoint, DType, RawTensor, gguf_tokens_out};
use crate::model::ModelError;
use crate::model::architecture::NormKind;
use crate::model::config::{Architecture, ModelConfig, RopeScaling};

/// Elements that are quantized at a time: 4 MiB of f32.
const PIECE: usize = 1 << 20;

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Size of the file, bytes.
    pub bytes: u64,
    /// Bytes of tensors by type.
    pub types: BTreeMap<&'static str, u64>,
    /// Tensors that could not have the wanted type.
    pub fallbacks: Vec<Fallback>,
    /// What other programs that read the file should know.
    pub notes: Vec<String>,
}

/// Where a tensor's content comes from.
enum Source<'a> {
    /// The checkpoint; rows of queries and keys go out interleaved when the head width is given.
    Tensor(&'a RawTensor, Option<usize>),
    /// Numbers that follow from the configuration.
    Numbers(Vec<f32>),
}

/// Writes `checkpoint` to `out` with its matrices in `dtype`. Vectors are f32; the output matrix keeps at least q6_k.
pub fn quantize_checkpoint(checkpoint: &Checkpoint, out: &Path, dtype: DType) -> Result<Report, ModelError> {
    let mut report = Report { bytes: 0, types: BTreeMap::new(), fallbacks: Vec::new(), notes: Vec::new() };
    let metadata = metadata(checkpoint, dtype, &mut report.notes)?;
    let mut plan = Vec::new();
    let mut sources = Vec::new();
    for (name, factors) in rope_factors(&checkpoint.config) {
        plan.push(planned(name.to_owned(), &[factors.len()], DType::F32)?);
        sources.push(Source::Numbers(factors));
    }
    for (name, tensor) in &checkpoint.tensors {
        let gguf = to_gguf(checkpoint.config.anatomy(), name)
            .ok_or_else(|| ModelError::Invalid(format!("tensor {name} has no name in GGUF")))?;
        let Kept { used, wanted } = kept_type(name, tensor, dtype, checkpoint.config.tied_embeddings);
        if used != wanted {
            report.fallbacks.push(Fallback { tensor: name.clone(), cols: tensor.cols, used });
        }
        let dims = if is_vector(name) { vec![tensor.cols] } else { vec![tensor.cols, tensor.rows] };
        let entry = planned(gguf, &dims, used)?;
        *report.types.entry(used.name()).or_default() += entry.size;
        plan.push(entry);
        sources.push(Source::Tensor(tensor, interleaved(name, &checkpoint.config)));
    }
    report.bytes = write_file(out, &metadata, &plan, |index, writer| match (&sources[index], plan[index].dtype) {
        (Source::Numbers(numbers), dtype) => Ok(writer.write_all(&encode(dtype, numbers, numbers.len())?)?),
        (Source::Tensor(tensor, head_dim), dtype) => write_tensor(tensor, *head_dim, dtype, writer),
    })?;
    Ok(report)
}

fn planned(name: String, dims: &[usize], dtype: DType) -> Result<PlannedTensor, ModelError> {
    let rows: usize = dims[1..].iter().product();
    let size = dtype.row_bytes(dims[0]).and_then(|row| row.checked_mul(rows));
    let size = size.ok_or_else(|| ModelError::Invalid(format!("tensor {name} does not fit type {dtype}")))?;
    Ok(PlannedTensor { name, dims: dims.to_vec(), dtype, size: size as u64 })
}

/// Head width when GGUF stores this projection for interleaved rotary pairs.
fn interleaved(name: &str, config: &ModelConfig) -> Option<usize> {
    let rotary = name.contains(".self_attn.q_proj.") || name.contains(".self_attn.k_proj.");
    (rotary && config.anatomy().interleaved).then_some(config.head_dim)
}

/// Row (or element of a bias) in Hugging Face's order that is stored at `stored`: the inverse of [`RawTensor::source_row`].
fn stored_row(stored: usize, head_dim: Option<usize>) -> usize {
    match head_dim {
        None => stored,
        Some(dim) => {
            let (head, within) = (stored / dim, stored % dim);
            head * dim + within % 2 * (dim / 2) + within / 2
        }
    }
}

fn write_tensor(tensor: &RawTensor, head_dim: Option<usize>, dtype: DType, writer: &mut dyn Write) -> Result<(), WriteError> {
    let cols = tensor.cols;
    if tensor.rows == 1 {
        let mut values = vec![0.0; cols];
        tensor.dequantize_row(0, &mut values)?;
        let stored: Vec<f32> = (0..cols).map(|index| values[stored_row(index, head_dim)]).collect();
        return Ok(writer.write_all(&encode(dtype, &stored, cols)?)?);
    }
    if dtype == tensor.dtype {
        // Bit for bit: quantizing again would move values.
        for row in 0..tensor.rows {
            writer.write_all(tensor.row_bytes(stored_row(row, head_dim))?)?;
        }
        return Ok(());
    }
    let rows_at_once = (PIECE / cols.max(1)).clamp(1, tensor.rows);
    for start in (0..tensor.rows).step_by(rows_at_once) {
        let rows = rows_at_once.min(tensor.rows - start);
        let mut values = vec![0.0; rows * cols];
        for (row, out) in values.chunks_exact_mut(cols).enumerate() {
            tensor.dequantize_row(stored_row(start + row, head_dim), out)?;
        }
        writer.write_all(&encode(dtype, &values, cols)?)?;
    }
    Ok(())
}

/// Divisors of the rotary frequencies, where GGUF carries the scaling as such.
/// Llama 3.1: long wavelengths are divided by `factor`, short ones kept, those between interpolated.
fn rope_factors(config: &ModelConfig) -> Vec<(&'static str, Vec<f32>)> {
    match &config.rope_scaling {
        RopeScaling::None | RopeScaling::Linear { .. } => Vec::new(),
        RopeScaling::Factors(factors) => vec![(ROPE_FACTORS, factors.clone())],
        RopeScaling::LongRope { short, long, .. } => vec![(ROPE_LONG, long.clone()), (ROPE_SHORT, short.clone())],
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let (factor, low, high) = (f64::from(*factor), f64::from(*low_freq_factor), f64::from(*high_freq_factor));
            let context = *original_context as f64;
            let divisor = |index: usize| {
                let exponent = 2.0 * index as f64 / config.head_dim as f64;
                let wavelength = 2.0 * std::f64::consts::PI * f64::from(config.rope_theta).powf(exponent);
                let share = ((context / wavelength - low) / (high - low)).clamp(0.0, 1.0);
                (1.0 / ((1.0 - share) / factor + share)) as f32
            };
            vec![(ROPE_FACTORS, (0..config.head_dim / 2).map(divisor).collect())]
        }
    }
}

/// Metadata: shape, then text.
fn metadata(checkpoint: &Checkpoint, dtype: DType, notes: &mut Vec<String>) -> Result<MetadataWriter, ModelError> {
    let config = &checkpoint.config;
    let arch = config.anatomy().gguf;
    let key = |name: &str| format!("{arch}.{name}");
    let mut metadata = MetadataWriter::default();
    metadata.text("general.architecture", arch);
    metadata.text("general.name", &checkpoint.name);
    metadata.number("general.quantization_version", 2)?;
    metadata.number("general.file_type", file_type(dtype))?;
    for (name, value) in [
        ("context_length", config.context_length),
        ("embedding_length", config.hidden_size),
        ("block_count", config.layers),
        ("feed_forward_length", config.intermediate_size),
        ("attention.head_count", config.heads),
        ("attention.head_count_kv", config.kv_heads),
        ("attention.key_length", config.head_dim),
        ("attention.value_length", config.head_dim),
        ("rope.dimension_count", config.rotary_dim()),
        ("vocab_size", config.vocab_size),
    ] {
        metadata.number(&key(name), value)?;
    }
    if let Some(window) = config.sliding_window {
        metadata.number(&key("attention.sliding_window"), window)?;
    }
    let epsilon = match config.anatomy().norms.kind {
        NormKind::Rms => "attention.layer_norm_rms_epsilon",
        NormKind::Layer => "attention.layer_norm_epsilon",
    };
    metadata.float(&key(epsilon), config.rms_eps);
    metadata.float(&key("rope.freq_base"), config.rope_theta);
    if let RopeScaling::Linear { factor } = config.rope_scaling {
        metadata.text(&key("rope.scaling.type"), "linear");
        metadata.float(&key("rope.scaling.factor"), factor);
    }
    if let RopeScaling::LongRope { original_context, attention_factor, .. } = config.rope_scaling {
        metadata.number(&key("rope.scaling.original_context_length"), original_context)?;
        metadata.float(&key("rope.scaling.attn_factor"), attention_factor);
    }
    if matches!(config.architecture, Architecture::Gemma2 | Architecture::Gemma3) {
        gemma(config, arch, &mut metadata)?;
    }
    gguf_tokens_out::write(checkpoint, &mut metadata, notes)?;
    Ok(metadata)
}

/// Keys of Gemma's details; 0 is none.
fn gemma(config: &ModelConfig, arch: &str, metadata: &mut MetadataWriter) -> Result<(), ModelError> {
    let (key, details) = (|name: &str| format!("{arch}.{name}"), &config.details);
    metadata.number(&key("attention.sliding_window_pattern"), details.global_every.unwrap_or(0))?;
    metadata.float(&key("attn_logit_softcapping"), details.attention_cap.unwrap_or(0.0));
    metadata.float(&key("final_logit_softcapping"), details.logit_cap.unwrap_or(0.0));
    metadata.float(&key("attention.scale"), config.query_scale());
    if let Some(theta) = details.local_theta {
        metadata.float(&key("rope.freq_base_swa"), theta);
    }
    Ok(())
}

/// `general.file_type`, as llama.cpp numbers its mixes.
const fn file_type(dtype: DType) -> usize {
    match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::Q4_0 => 2,
        DType::Q8_0 => 7,
        DType::Q5_0 => 8,
        DType::Q4K => 14,
        DType::Q5K => 16,
        DType::Q6K => 18,
        DType::BF16 => 32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_out_and_come_back() {
        for row in 0..96 {
            let (dim, half) = (32, 16);
            let (head, within) = (row / dim, row % dim);
            let source_row = head * dim + 2 * (within % half) + within / half;
            assert_eq!(stored_row(source_row, Some(dim)), row);
        }
    }
}
