//! The operations on candle's tensors: the slow reference beside the CPU kernels, and the CUDA side behind feature `cuda`.
//! Written for clarity: one sequence's attention at a time, adapters by gather and scatter.

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{D, DType as Kind, Device, IndexOp, Module, Tensor};
use std::sync::Arc;

use super::{Norm, Ops, Projection, Rotary, Step};
use crate::model::architecture::Activation as Kernel;
use crate::model::config::{LinearSite, ModelConfig};
use crate::model::loader::{DType, RawTensor};
use crate::model::lora::LoraWeights;
use crate::model::{BLOCK_TOKENS, ModelError};

impl From<candle_core::Error> for ModelError {
    fn from(error: candle_core::Error) -> Self {
        // Where the environment asks for backtraces, candle's messages hold one.
        let text = match error {
            candle_core::Error::WithBacktrace { inner, .. } => inner.to_string(),
            other => other.to_string(),
        };
        Self::Device(text)
    }
}

/// `rows x width` on the device; none before the first step.
#[derive(Default)]
pub struct Activation(Option<Tensor>);

impl Activation {
    fn get(&self) -> Result<&Tensor, ModelError> {
        self.0
            .as_ref()
            .ok_or_else(|| ModelError::Device("an activation was read before it was written: this is a bug".to_owned()))
    }
}

/// A linear layer.
pub struct CandleLinear {
    weight: QMatMul,
    bias: Option<Tensor>,
    bytes: usize,
}

/// `A` transposed `[in, rank]` and `scale * B` transposed `[rank, out]`, by layer and site.
pub struct CandleLora {
    layers: Vec<[Option<(Tensor, Tensor)>; 7]>,
    bytes: usize,
}

/// A device of candle's.
pub struct CandleOps {
    device: Device,
    config: ModelConfig,
    rotary: Vec<Rotary>,
    /// Keys and values of each layer, `[slots, kv_heads, head_dim]`.
    kv: Vec<[Tensor; 2]>,
}

impl CandleOps {
    /// The CPU, as reference.
    pub fn cpu(config: &ModelConfig) -> Result<Self, ModelError> {
        Ok(Self::on(config, Device::Cpu))
    }

    /// A CUDA device.
    pub fn cuda(config: &ModelConfig, index: usize) -> Result<Self, ModelError> {
        if !cfg!(feature = "cuda") {
            let message = format!("device cuda:{index}: this binary was built without the feature `cuda`");
            return Err(ModelError::Invalid(message));
        }
        Ok(Self::on(config, Device::new_cuda(index)?))
    }

    fn on(config: &ModelConfig, device: Device) -> Self {
        Self { device, config: config.clone(), rotary: Rotary::all(config), kv: Vec::new() }
    }

    fn indices(&self, values: &[usize]) -> Result<Tensor, ModelError> {
        let values: Vec<u32> = values.iter().map(|v| *v as u32).collect();
        Ok(Tensor::new(values, &self.device)?)
    }

    /// Rotates the leading values of heads by their rows' angles, half-rotation layout: `[rows, heads, head_dim]`.
    fn rotate(&self, x: &Tensor, positions: &[usize], rotary: &Rotary) -> Result<Tensor, ModelError> {
        let (width, half) = (self.config.rotary_dim(), self.config.rotary_dim() / 2);
        let (cos, sin): (Vec<f32>, Vec<f32>) = positions.iter().flat_map(|position| rotary.angles(*position)).unzip();
        let table = |values: Vec<f32>| Tensor::from_vec(values, (positions.len(), 1, half), &self.device);
        let (cos, sin) = (table(cos)?, table(sin)?);
        let (a, b) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        let rest = self.config.head_dim - width;
        if rest == 0 {
            return Ok(Tensor::cat(&[first, second], D::Minus1)?);
        }
        Ok(Tensor::cat(&[first, second, x.narrow(D::Minus1, width, rest)?], D::Minus1)?)
    }

    /// RMS normalisation over the last dimension.
    fn rms(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor, ModelError> {
        let mean = (x.sqr()?.sum_keepdim(D::Minus1)? / x.dim(D::Minus1)? as f64)?;
        let scaled = x.broadcast_div(&(mean + f64::from(self.config.rms_eps))?.sqrt()?)?;
        Ok(scaled.broadcast_mul(weight)?)
    }
}

/// `cap * tanh(x / cap)`
fn soft_cap(x: Tensor, cap: Option<f32>) -> Result<Tensor, ModelError> {
    let Some(cap) = cap.map(f64::from) else { return Ok(x) };
    Ok(((x / cap)?.tanh()? * cap)?)
}

/// GGML's number of a stored type.
const fn ggml(dtype: DType) -> GgmlDType {
    match dtype {
        DType::F32 => GgmlDType::F32,
        DType::F16 => GgmlDType::F16,
        DType::BF16 => GgmlDType::BF16,
        DType::Q8_0 => GgmlDType::Q8_0,
        DType::Q6K => GgmlDType::Q6K,
        DType::Q5K => GgmlDType::Q5K,
        DType::Q4K => GgmlDType::Q4K,
        DType::Q5_0 => GgmlDType::Q5_0,
        DType::Q4_0 => GgmlDType::Q4_0,
    }
}

impl Ops for CandleOps {
    type Activation = Activation;
    type Linear = CandleLinear;
    type Vector = Tensor;
    type Embedding = Tensor;
    type Lora = CandleLora;
    type LoraPreparer = Box<dyn Fn(&LoraWeights) -> Result<CandleLora, ModelError> + Send + Sync>;

    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn linear(&mut self, weight: &RawTensor, bias: Option<&RawTensor>) -> Result<CandleLinear, ModelError> {
        let shape = (weight.rows, weight.cols);
        let (matmul, bytes) = if weight.dtype.is_float() {
            let values = Tensor::from_vec(weight.dequantize()?, shape, &self.device)?;
            (QMatMul::Tensor(values), weight.rows * weight.cols * 4)
        } else {
            let row_bytes = weight.bytes().len() / weight.rows;
            let row = |row: usize| &weight.bytes()[weight.source_row(row) * row_bytes..][..row_bytes];
            let data: Vec<u8> = (0..weight.rows).flat_map(|r| row(r).iter().copied()).collect();
            let bytes = data.len();
            let storage = QStorage::from_data(data.into(), &self.device, ggml(weight.dtype))?;
            (QMatMul::from_arc(Arc::new(QTensor::new(storage, shape)?))?, bytes)
        };
        let bias = bias.map(|bias| Ok::<_, ModelError>(Tensor::new(bias.dequantize()?, &self.device)?)).transpose()?;
        Ok(CandleLinear { weight: matmul, bias, bytes })
    }

    fn vector(&mut self, tensor: &RawTensor) -> Result<Tensor, ModelError> {
        Ok(Tensor::new(tensor.dequantize()?, &self.device)?)
    }

    fn embedding(&mut self, tensor: &RawTensor) -> Result<Tensor, ModelError> {
        Ok(Tensor::from_vec(tensor.dequantize()?, (tensor.rows, tensor.cols), &self.device)?)
    }

    fn linear_bytes(linear: &CandleLinear) -> usize {
        linear.bytes
    }

    fn embedding_bytes(embedding: &Tensor) -> usize {
        embedding.elem_count() * 4
    }

    fn lora_bytes(lora: &CandleLora) -> usize {
        lora.bytes
    }

    fn lora_preparer(&self) -> Self::LoraPreparer {
        let (device, layers) = (self.device.clone(), self.config.layers);
        Box::new(move |weights| {
            let mut lora = CandleLora { layers: (0..layers).map(|_| Default::default()).collect(), bytes: 0 };
            for m in &weights.modules {
                let (k, n) = (m.a.len() / m.rank, m.b.len() / m.rank);
                let a = Tensor::from_slice(&m.a, (m.rank, k), &device)?.t()?.contiguous()?;
                let b = (Tensor::from_slice(&m.b, (n, m.rank), &device)?.t()?.contiguous()? * f64::from(m.scale))?;
                lora.bytes += 4 * (m.a.len() + m.b.len());
                lora.layers[m.layer][m.site as usize] = Some((a, b));
            }
            Ok(lora)
        })
    }

    fn kv_block_bytes(&self) -> usize {
        2 * self.config.layers * self.config.kv_width() * BLOCK_TOKENS * 4
    }

    fn allocate_kv(&mut self, blocks: usize) -> Result<(), ModelError> {
        let shape = (blocks * BLOCK_TOKENS, self.config.kv_heads, self.config.head_dim);
        self.kv.clear();
        for _ in 0..self.config.layers {
            self.kv.push([Tensor::zeros(shape, Kind::F32, &self.device)?, Tensor::zeros(shape, Kind::F32, &self.device)?]);
        }
        Ok(())
    }

    fn embed(&mut self, step: &Step<'_, CandleLora>, table: &Tensor, out: &mut Activation) -> Result<(), ModelError> {
        let rows = table.index_select(&Tensor::new(step.tokens.as_slice(), &self.device)?, 0)?;
        out.0 = Some((rows * f64::from(self.config.details.embedding_scale.unwrap_or(1.0)))?);
        Ok(())
    }

    fn norm(&mut self, x: &Activation, norm: &Norm<Self>, out: &mut Activation) -> Result<(), ModelError> {
        let x = x.get()?;
        out.0 = Some(match &norm.bias {
            None => self.rms(x, &norm.weight)?,
            Some(bias) => {
                let mean = (x.sum_keepdim(D::Minus1)? / x.dim(D::Minus1)? as f64)?;
                self.rms(&x.broadcast_sub(&mean)?, &norm.weight)?.broadcast_add(bias)?
            }
        });
        Ok(())
    }

    fn norm_heads(&mut self, x: &mut Activation, weight: &Tensor) -> Result<(), ModelError> {
        let rows = x.get()?;
        let (count, width) = rows.dims2()?;
        let dim = self.config.head_dim;
        x.0 = Some(self.rms(&rows.reshape((count, width / dim, dim))?, weight)?.reshape((count, width))?);
        Ok(())
    }

    fn project(
        &mut self,
        step: &Step<'_, CandleLora>,
        layer: usize,
        x: &Activation,
        parts: &mut [Projection<'_, Self>],
    ) -> Result<(), ModelError> {
        let x = x.get()?;
        for part in parts {
            let mut y = part.linear.weight.forward(x)?;
            if let Some(bias) = &part.linear.bias {
                y = y.broadcast_add(bias)?;
            }
            for segment in &step.segments {
                let Some((a, b)) = &segment.adapter.layers[layer][part.site as usize] else { continue };
                let rows = self.indices(&segment.rows)?;
                y = y.index_add(&rows, &x.index_select(&rows, 0)?.matmul(a)?.matmul(b)?, 0)?;
            }
            part.out.0 = Some(y);
        }
        Ok(())
    }

    fn attend(
        &mut self,
        step: &Step<'_, CandleLora>,
        layer: usize,
        [q, k, v]: [&mut Activation; 3],
        out: &mut Activation,
    ) -> Result<(), ModelError> {
        let ModelConfig { heads, kv_heads, head_dim, .. } = self.config;
        let rows = step.tokens.len();
        let rotary = &self.rotary[Rotary::of_layer(&self.config, layer)];
        let q = self.rotate(&q.get()?.reshape((rows, heads, head_dim))?, &step.positions, rotary)?;
        let k = self.rotate(&k.get()?.reshape((rows, kv_heads, head_dim))?, &step.positions, rotary)?;
        let v = v.get()?.reshape((rows, kv_heads, head_dim))?;
        for (storage, new) in self.kv[layer].iter().zip([k, v]) {
            for (row, slot) in step.slots.iter().enumerate() {
                storage.slice_set(&new.i(row..row + 1)?.contiguous()?, 0, *slot)?;
            }
        }
        let mut outputs = Vec::with_capacity(step.spans.len());
        for span in &step.spans {
            let length = span.start + span.rows;
            let slots: Vec<usize> =
                (0..length).map(|p| span.blocks[p / BLOCK_TOKENS] as usize * BLOCK_TOKENS + p % BLOCK_TOKENS).collect();
            let slots = self.indices(&slots)?;
            // [heads, length, head_dim], each key/value head repeated for its group.
            let gather = |storage: &Tensor| -> Result<Tensor, ModelError> {
                let all = storage.index_select(&slots, 0)?.unsqueeze(2)?;
                let all = all.expand((length, kv_heads, heads / kv_heads, head_dim))?;
                Ok(all.reshape((length, heads, head_dim))?.transpose(0, 1)?.contiguous()?)
            };
            let (keys, values) = (gather(&self.kv[layer][0])?, gather(&self.kv[layer][1])?);
            let queries = q.i(span.row..span.row + span.rows)?.transpose(0, 1)?.contiguous()?;
            let scores = (queries.matmul(&keys.t()?.contiguous()?)? * f64::from(self.config.query_scale()))?;
            let scores = soft_cap(scores, self.config.details.attention_cap)?;
            let window = self.config.window(layer).unwrap_or(usize::MAX);
            let mask: Vec<f32> = (span.start..length)
                .flat_map(|row| (0..length).map(move |p| if p > row || row - p >= window { f32::NEG_INFINITY } else { 0.0 }))
                .collect();
            let mask = Tensor::from_vec(mask, (1, span.rows, length), &self.device)?;
            let scores = scores.broadcast_add(&mask)?;
            let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
            let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
            outputs.push(weights.matmul(&values)?.transpose(0, 1)?.reshape((span.rows, heads * head_dim))?);
        }
        out.0 = Some(Tensor::cat(&outputs, 0)?);
        Ok(())
    }

    fn gate(&mut self, gate: &mut Activation, up: Option<&Activation>) -> Result<(), ModelError> {
        let active = match self.config.anatomy().activation {
            Kernel::Silu => gate.get()?.silu()?,
            Kernel::GatedGelu | Kernel::Gelu => gate.get()?.gelu()?,
        };
        gate.0 = Some(match up {
            None => active,
            Some(up) => (active * up.get()?)?,
        });
        Ok(())
    }

    fn add(&mut self, x: &mut Activation, y: &Activation) -> Result<(), ModelError> {
        x.0 = Some((x.get()? + y.get()?)?);
        Ok(())
    }

    fn select(&mut self, step: &Step<'_, CandleLora>, x: &Activation, out: &mut Activation) -> Result<(), ModelError> {
        out.0 = Some(x.get()?.index_select(&self.indices(&step.wanted)?, 0)?);
        Ok(())
    }

    fn rows(&mut self, x: &Activation, rows: &[usize], out: &mut Vec<f32>) -> Result<(), ModelError> {
        *out = x.get()?.index_select(&self.indices(rows)?, 0)?.flatten_all()?.to_vec1()?;
        Ok(())
    }

    fn logits(&mut self, x: &Activation, head: &CandleLinear, out: &mut Vec<f32>) -> Result<(), ModelError> {
        let mut logits = head.weight.forward(x.get()?)?;
        if let Some(bias) = &head.bias {
            logits = logits.broadcast_add(bias)?;
        }
        *out = soft_cap(logits, self.config.details.logit_cap)?.flatten_all()?.to_vec1()?;
        Ok(())
    }
}

/// Sites index an adapter's modules.
const _: () = assert!(LinearSite::ALL.len() == 7);
