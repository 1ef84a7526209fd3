//! From the configuration to what generates: the engine on a loaded base, or the null backend on a base whose weights stay on disk.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};

use super::{base, device, memory};
use crate::backends::null::{NullConfig, Pace};
use crate::backends::{Backend, NullBackend};
#[cfg(feature = "mistralrs")]
use crate::backends::{MistralBackend, MistralConfig};
#[cfg(feature = "mistralrs")]
use crate::config::Device;
use crate::config::{BackendKind, Config, KvMemory, Quant};
use crate::engine::{self, EngineConfig, PrefixCache};
use crate::gateway;
use crate::model::loader::{Checkpoint, DType, RawTensor};
use crate::model::{BLOCK_TOKENS, Model, ModelConfig, native, ops};

/// What generates, and the base that it speaks for.
pub(crate) struct Loaded {
    pub(crate) base: gateway::Base,
    pub(crate) backend: Backend,
    /// The base's tensors as they are stored: mapped, hardly in memory.
    pub(crate) tensors: BTreeMap<String, RawTensor>,
}

/// A base that is ready to compute.
pub(crate) struct LoadedBase {
    pub(crate) name: String,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) model: Box<dyn Model>,
    pub(crate) device: native::Device,
}

/// Reads and packs the base. Blocks for as long as that takes.
pub(crate) fn load_base(config: &Config) -> anyhow::Result<LoadedBase> {
    let base::Base { name, checkpoint } = base::open(config)?;
    let options = load_options(config, &checkpoint.config);
    let device = options.device;
    let model =
        native::load(&checkpoint.config, &checkpoint.tensors, options).with_context(|| format!("cannot load the base {name}"))?;
    Ok(LoadedBase { name, checkpoint, model, device })
}

/// How the configuration wants a base to be kept and computed.
pub(crate) fn load_options(config: &Config, model: &ModelConfig) -> native::LoadOptions {
    let device = device::choose(config.device, model);
    native::LoadOptions { quant: quant(config.quant), threads: config.threads, device }
}

/// Starts what generates. Blocks for as long as loading takes.
pub(crate) fn start(config: &Config) -> anyhow::Result<Loaded> {
    match config.backend {
        BackendKind::Native => start_native(config),
        BackendKind::Mistralrs => start_mistralrs(config),
        BackendKind::Null => start_null(config),
    }
}

#[cfg(feature = "mistralrs")]
fn start_mistralrs(config: &Config) -> anyhow::Result<Loaded> {
    let (base::Base { name, checkpoint }, path) = base::describe(config)?;
    if matches!(config.device, Device::Cuda(_)) {
        return Err(anyhow!("the backend mistralrs computes on the CPU in this build; --device cpu is right"));
    }
    let quantized = path.is_file();
    let quant = match config.quant {
        Quant::Auto | Quant::None => None,
        _ if quantized => {
            return Err(anyhow!("a GGUF file is quantized already, and mistralrs takes it as it is; --quant auto is right"));
        }
        Quant::Q8_0 => Some(DType::Q8_0),
        Quant::Q6K => Some(DType::Q6K),
        Quant::Q4K => Some(DType::Q4K),
    };
    let backend = MistralBackend::start(MistralConfig {
        path,
        quant,
        model: checkpoint.config.clone(),
        queue_capacity: config.queue_capacity,
        scratch: config.data_dir.join("mistralrs"),
    });
    let backend = backend.with_context(|| format!("cannot load the base {name}"))?;
    tracing::info!(base = name, "mistralrs computes the base");
    Ok(Loaded { base: served(name, checkpoint), backend: Backend::Mistralrs(backend), tensors: BTreeMap::new() })
}

/// The configuration refuses it before this.
#[cfg(not(feature = "mistralrs"))]
fn start_mistralrs(_: &Config) -> anyhow::Result<Loaded> {
    Err(anyhow!("this build does not have the backend mistralrs"))
}

fn start_native(config: &Config) -> anyhow::Result<Loaded> {
    let LoadedBase { name, checkpoint, model, device } = load_base(config)?;
    let bytes = memory::kv_bytes(config.kv_memory, device);
    let kv_blocks =
        memory::kv_blocks(bytes, model.config(), model.kv_block_bytes(), config.max_sequences).map_err(|text| anyhow!(text))?;
    if config.kv_memory == KvMemory::Auto {
        let tokens = kv_blocks * BLOCK_TOKENS;
        tracing::debug!(tokens, ?device, "keys and values sized automatically");
    }
    let engine = engine::start(
        model,
        EngineConfig {
            kv_blocks,
            max_batch_tokens: config.max_batch_tokens,
            max_sequences: config.max_sequences,
            queue_capacity: config.queue_capacity,
            speculation_tokens: config.speculation_tokens,
            prefix_cache: if config.prefix_cache { PrefixCache::On } else { PrefixCache::Off },
        },
    )?;
    let tensors = checkpoint.tensors.clone();
    Ok(Loaded { base: served(name, checkpoint), backend: Backend::Native(engine), tensors })
}

fn start_null(config: &Config) -> anyhow::Result<Loaded> {
    // Its tensors are mapped and never read.
    let base::Base { name, checkpoint } = base::open(config)?;
    let null = NullConfig {
        model: checkpoint.config.clone(),
        pace: Pace { delay: config.null.delay, gap: config.null.token_gap },
        open_length: config.null.tokens,
        queue_capacity: config.queue_capacity,
    };
    let null = NullBackend::start(null, &checkpoint.tokenizer).context("cannot start the null backend's thread")?;
    tracing::warn!("the null backend answers: words after a delay, no model");
    Ok(Loaded { base: served(name, checkpoint), backend: Backend::Null(null), tensors: BTreeMap::new() })
}

fn served(name: String, checkpoint: Checkpoint) -> gateway::Base {
    gateway::Base {
        name,
        tokenizer: checkpoint.tokenizer,
        chat_template: checkpoint.chat_template,
        end_tokens: checkpoint.generation.eos,
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
    }
}

fn quant(quant: Quant) -> ops::Quant {
    match quant {
        Quant::Auto => ops::Quant::Auto,
        Quant::None => ops::Quant::None,
        Quant::Q8_0 => ops::Quant::To(DType::Q8_0),
        Quant::Q6K => ops::Quant::To(DType::Q6K),
        Quant::Q4K => ops::Quant::To(DType::Q4K),
    }
}
