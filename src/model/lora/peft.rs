//! Reads PEFT adapter directories: `adapter_config.json` and `adapter_model.safetensors` into checked [`LoraWeights`].
//! Knows the file format of Hugging Face's PEFT; knows nothing of where adapters come from or how they are computed with.
//!
//! What is read is untrusted. Nothing is allocated from a number that a file states before that number was checked, every
//! tensor has to be one that the configuration asks for, with the base's shape, and every weight has to be finite.

mod config;
mod foreign;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use sha2::{Digest, Sha256};

use self::config::AdapterConfig;
use crate::ids::VersionId;
use crate::model::ModelError;
use crate::model::architecture::{Architecture, Module};
use crate::model::config::ModelConfig;
use crate::model::lora::{LoraModule, LoraWeights};

/// Name of the configuration file in an adapter directory.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// Name of the tensor file in an adapter directory.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// Largest configuration that is read, bytes; real ones are about 1 KB.
const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// Largest tensor file that is read, bytes. Rank 256 on every linear layer of a 70B base in bf16 is 3.3 GB.
const MAX_WEIGHTS_BYTES: u64 = 4 << 30;

/// The two files of an adapter, as bytes: what was checked is what is kept.
pub struct AdapterFiles {
    /// Content of `adapter_config.json`.
    pub config: Vec<u8>,
    /// Content of `adapter_model.safetensors`.
    pub weights: Vec<u8>,
}

/// Name of the file that says where an adapter comes from. It is no part of the adapter: its digest does not know it.
pub const LINEAGE_FILE: &str = "lineage.json";

/// Reads an adapter directory against the shape of its base.
pub fn read_dir(dir: &Path, base: &ModelConfig) -> Result<LoraWeights, ModelError> {
    AdapterFiles::read(dir)?.parse(base)
}

impl AdapterFiles {
    /// Reads both files of a directory, whole. Errors name the file, not where it is: they may be shown to clients.
    pub fn read(dir: &Path) -> Result<Self, ModelError> {
        let read = |name: &'static str, limit: u64| read_file(dir, name, limit);
        Ok(Self { config: read(CONFIG_FILE, MAX_CONFIG_BYTES)?, weights: read(WEIGHTS_FILE, MAX_WEIGHTS_BYTES)? })
    }

    /// Bytes of both files.
    pub fn len(&self) -> usize {
        self.config.len() + self.weights.len()
    }

    /// Neither file holds anything.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Content digest: the settings of the configuration that change what is computed, in a canonical form, and the bytes of
    /// the tensor file. The same adapter has the same digest whatever base it is loaded on.
    pub fn digest(&self) -> Result<VersionId, ModelError> {
        Ok(self.digest_with(&AdapterConfig::parse(&self.config)?))
    }

    fn digest_with(&self, config: &AdapterConfig) -> VersionId {
        let settings = config.canonical();
        let hash = Sha256::new()
            .chain_update(b"switchyard adapter 1\n")
            .chain_update((settings.len() as u64).to_le_bytes())
            .chain_update(settings.as_bytes())
            .chain_update((self.weights.len() as u64).to_le_bytes())
            .chain_update(&self.weights);
        VersionId::new(hash.finalize().into())
    }

    /// Checks an adapter that comes against its base.
    pub fn parse(&self, base: &ModelConfig) -> Result<LoraWeights, ModelError> {
        self.weights(base, |problem| Err(invalid(problem)))
    }

    /// Checks an adapter that was accepted once, by this version or an earlier one: a name in `target_modules` that is nothing's changes
    /// nothing of what it computes, and is no reason to take it out of service.
    pub fn parse_accepted(&self, base: &ModelConfig) -> Result<LoraWeights, ModelError> {
        self.weights(base, |problem| {
            tracing::warn!("a stored adapter's {problem}");
            Ok(())
        })
    }

    /// `lacks` hears of a target that the base does not have.
    fn weights(
        &self,
        base: &ModelConfig,
        lacks: impl FnOnce(String) -> Result<(), ModelError>,
    ) -> Result<LoraWeights, ModelError> {
        let config = AdapterConfig::parse(&self.config)?;
        let tensors = SafeTensors::deserialize(&self.weights)
            .map_err(|error| invalid(format!("{WEIGHTS_FILE} is damaged or not a safetensors file: {error}")))?;
        if base.architecture == Architecture::Foreign {
            let foreign = foreign::modules(&config, &tensors)?;
            let max_rank = foreign.iter().map(|module| module.rank).max().unwrap_or(0);
            return Ok(LoraWeights { id: self.digest_with(&config), modules: Vec::new(), foreign, max_rank });
        }
        let mut found = index(&tensors, base)?;
        let linears = || (0..base.layers).flat_map(|layer| base.anatomy().modules.iter().map(move |module| (layer, module)));
        let path = |(layer, module): (usize, &Module)| format!("model.layers.{layer}.{}", module.path);
        let paths: Vec<String> = linears().map(path).collect();
        if let Some(target) = config.lacking(&paths) {
            let known: Vec<&str> = base.anatomy().targets().collect();
            lacks(format!(
                "{CONFIG_FILE}: target_modules names {target:?}, which is no linear layer of this {} base; it has {}",
                base.anatomy().name,
                known.join(", ")
            ))?;
        }
        let mut modules = Vec::new();
        for ((layer, module), path) in linears().zip(&paths) {
            let Some((rank, scale)) = config.rank_and_scale(path)? else { continue };
            let (out, inner) = base.module_shape(module);
            let mut take = |half: Half, shape: [usize; 2]| {
                let stored = found.remove(&(layer, module.path, half)).ok_or_else(|| {
                    invalid(format!("{WEIGHTS_FILE} lacks {path}.{}.weight, which {CONFIG_FILE} asks for", half.name()))
                })?;
                values(&stored, shape, half)
            };
            let a = take(Half::A, [rank, inner])?;
            let b = take(Half::B, [out, rank])?;
            // Where linears are stored together, all of them read the same `A`, and `B` has their rows one after the other.
            let mut row = 0;
            for site in module.sites {
                let rows = base.linear_shape(*site).0;
                let b = b[row * rank..(row + rows) * rank].to_vec();
                modules.push(LoraModule { layer, site: *site, rank, scale, a: a.clone(), b });
                row += rows;
            }
        }
        if let Some(stored) = found.values().next() {
            return Err(invalid(format!(
                "{WEIGHTS_FILE} holds {}, which {CONFIG_FILE} does not target (target_modules)",
                stored.name
            )));
        }
        let Some(max_rank) = modules.iter().map(|module| module.rank).max() else {
            return Err(invalid(format!("{CONFIG_FILE}: target_modules matches no linear layer of this base")));
        };
        Ok(LoraWeights { id: self.digest_with(&config), modules, foreign: Vec::new(), max_rank })
    }
}

/// `A` or `B` of a low-rank pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Half {
    A,
    B,
}

impl Half {
    const fn name(self) -> &'static str {
        match self {
            Self::A => "lora_A",
            Self::B => "lora_B",
        }
    }
}

struct Stored<'data> {
    name: String,
    view: TensorView<'data>,
}

/// Sorts the tensors of the file by what they belong to; a name that belongs to nothing is an error.
fn index<'data>(
    tensors: &SafeTensors<'data>,
    base: &ModelConfig,
) -> Result<BTreeMap<(usize, &'static str, Half), Stored<'data>>, ModelError> {
    let mut named = tensors.tensors();
    // The library's order is that of a hash map; errors should not change from run to run.
    named.sort_by(|(left, _), (right, _)| left.cmp(right));
    let mut found = BTreeMap::new();
    for (name, view) in named {
        let key = place(&name, base).ok_or_else(|| refused_tensor(&name, base))?;
        if key.0 >= base.layers {
            return Err(invalid(format!(
                "this adapter was made for another base: tensor {name} is of layer {}, the base has {} layers",
                key.0, base.layers
            )));
        }
        if let Some(twice) = found.insert(key, Stored { name, view }) {
            return Err(invalid(format!("{WEIGHTS_FILE} holds {} twice, with and without adapter name", twice.name)));
        }
    }
    Ok(found)
}

/// `base_model.model.model.layers.3.self_attn.q_proj.lora_A[.default].weight` -> (3, `self_attn.q_proj`, A).
fn place(name: &str, base: &ModelConfig) -> Option<(usize, &'static str, Half)> {
    let rest = name.strip_prefix("base_model.model.model.layers.")?;
    let (layer, rest) = rest.split_once('.')?;
    // Only plain decimals, written as PEFT writes them: `+3` or `03` would be a second name for the same layer.
    let number: usize = layer.parse().ok()?;
    if number.to_string() != layer {
        return None;
    }
    let rest = rest.strip_suffix(".weight")?;
    let rest = rest.strip_suffix(".default").unwrap_or(rest);
    let (path, half) = match rest.strip_suffix(".lora_A") {
        Some(path) => (path, Half::A),
        None => (rest.strip_suffix(".lora_B")?, Half::B),
    };
    let module = base.anatomy().modules.iter().find(|module| module.path == path)?;
    Some((number, module.path, half))
}

fn refused_tensor(name: &str, base: &ModelConfig) -> ModelError {
    let what = if name.contains("lora_magnitude_vector") {
        "DoRA is not supported"
    } else if name.contains("lora_embedding_") || name.contains("embed_tokens") || name.contains("lm_head") {
        "adapters on embeddings or the output layer are not supported"
    } else if name.contains("modules_to_save") {
        "modules_to_save is not supported"
    } else if name.ends_with(".bias") {
        "biases are not supported"
    } else {
        let known: Vec<&str> = base.anatomy().targets().collect();
        let what = format!("it is no low-rank half of a linear layer of this base, which has {}", known.join(", "));
        return invalid(format!("{WEIGHTS_FILE} holds {name}: {what}"));
    };
    invalid(format!("{WEIGHTS_FILE} holds {name}: {what}"))
}

/// The values of one half as f32, after its shape and every value were checked.
fn values(stored: &Stored<'_>, want: [usize; 2], half: Half) -> Result<Vec<f32>, ModelError> {
    let Stored { name, view } = stored;
    let shape = view.shape();
    if shape != want {
        // The side that the rank decides disagrees with the configuration, the other one with the base.
        let (of_base, of_rank) = if half == Half::A { (1, 0) } else { (0, 1) };
        return Err(invalid(if shape.len() == 2 && shape[of_base] == want[of_base] {
            format!("{CONFIG_FILE} says rank {} where tensor {name} is {shape:?}: rank {}", want[of_rank], shape[of_rank])
        } else {
            format!("this adapter was made for another base: tensor {name} is {shape:?}, the base needs {want:?}")
        }));
    }
    let data = view.data();
    let values: Vec<f32> = match view.dtype() {
        Dtype::F32 => data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        Dtype::F16 => data.as_chunks::<2>().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect(),
        Dtype::BF16 => data.as_chunks::<2>().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect(),
        other => return Err(invalid(format!("tensor {name} is stored as {other:?}; F32, F16 and BF16 are supported"))),
    };
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(values),
        Some(at) => Err(invalid(format!("tensor {name} holds {} at index {at}: weights must be finite", values[at]))),
    }
}

fn read_file(dir: &Path, name: &'static str, limit: u64) -> Result<Vec<u8>, ModelError> {
    use std::io::Read;

    let io = |source| ModelError::Io { path: name.into(), source };
    let path = dir.join(name);
    let metadata = std::fs::metadata(&path).map_err(io)?;
    // Asked before opening: opening a pipe would wait for its writer.
    if !metadata.is_file() {
        return Err(invalid(format!("{name} is not a regular file")));
    }
    let too_large = || invalid(format!("{name} is larger than the limit of {limit} bytes"));
    if metadata.len() > limit {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(usize::try_from(metadata.len()).unwrap_or(0))
        .map_err(|_| invalid(format!("{name}: no memory for {} bytes", metadata.len())))?;
    std::fs::File::open(&path).map_err(io)?.take(limit + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > limit {
        return Err(too_large());
    }
    Ok(bytes)
}

fn invalid(text: impl Into<String>) -> ModelError {
    ModelError::Invalid(text.into())
}
