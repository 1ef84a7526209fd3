//! Has mistralrs load models: the base, and the base with an adapter merged into it. All files are local; nothing is fetched.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use mistralrs::core::{
    AdapterPaths, AutoLoaderBuilder, EmbeddingSpecificConfig, GGUFLoaderBuilder, GGUFSpecificConfig, Loader, LocalModelPaths,
    LoraAdapterPaths, MistralRsBuilder, ModelCategory, ModelPaths, MultimodalSpecificConfig, NormalLoaderBuilder,
    NormalSpecificConfig,
};
use mistralrs::{DefaultSchedulerMethod, Device, DeviceMapSetting, IsqType, ModelDType, SchedulerConfig};

use super::lane::Lane;
use super::merge::Adapter;
use super::spelling;
use crate::model::loader::DType;
use crate::model::loader::safetensors_file::SafetensorsFile;
use crate::model::{ModelConfig, ModelError};

/// Where models come from, and how they are loaded.
#[derive(Debug)]
pub(super) struct Shelf {
    pub(super) path: PathBuf,
    pub(super) quant: Option<DType>,
    pub(super) scratch: PathBuf,
    pub(super) model: ModelConfig,
    /// One model is loaded at a time.
    pub(super) turn: Mutex<()>,
}

/// A model in memory, with a thread of mistralrs' own. It ends when this is dropped.
pub(super) struct Instance {
    pub(super) lane: Arc<Lane>,
    /// Bytes of its weights.
    pub(super) bytes: usize,
    /// Most tokens of a sequence.
    pub(super) context: usize,
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance").field("bytes", &self.bytes).field("context", &self.context).finish_non_exhaustive()
    }
}

impl Shelf {
    /// Loads the base; with an adapter merged into it, where one is given. Blocks.
    pub(super) fn load(&self, adapter: Option<&Adapter>) -> Result<Instance, ModelError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = Folder::new(self.scratch.join("loading"))?;
        // It keeps what is being merged, and to what is being quantized, in variables of the thread, and never empties them.
        let loaded = std::thread::scope(|scope| {
            let load = || self.load_here(&folder.0, adapter);
            let work = std::thread::Builder::new().name("mistralrs-load".to_owned()).spawn_scoped(scope, load);
            let joined = work.map(std::thread::ScopedJoinHandle::join);
            joined.map_err(|error| format!("no thread to load it: {error}"))?.unwrap_or_else(|panic| Err(panic_text(&*panic)))
        });
        loaded.map_err(|problem| ModelError::Invalid(format!("mistralrs cannot load {}: {problem}", self.path.display())))
    }

    fn load_here(&self, folder: &Path, adapter: Option<&Adapter>) -> Result<Instance, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let isq = self.quant.map(in_situ).transpose()?;
        let scheduler = SchedulerConfig::DefaultScheduler { method: DefaultSchedulerMethod::Fixed(NonZeroUsize::MIN) };
        let loader = self.loader(adapter)?;
        let paths: Box<dyn ModelPaths> = Box::new(self.paths(folder, adapter)?);
        let (map, device) = (DeviceMapSetting::dummy(), Device::Cpu);
        let pipeline = loader.load_model_from_path(&paths, &ModelDType::F32, &device, true, map, isq, None);
        let pipeline = pipeline.map_err(|error| format!("{error:#}"))?;
        let runner = MistralRsBuilder::new(pipeline, scheduler, false, None)
            .with_no_prefix_cache(true)
            // Our own sampler says where an answer ends.
            .with_disable_eos_stop(true)
            .build();
        let runner = futures::executor::block_on(runner);
        let category = runner.get_model_category(None).map_err(|error| text(&error))?;
        if !matches!(category, ModelCategory::Text | ModelCategory::Multimodal { .. }) {
            return Err("it is no model that generates text".to_owned());
        }
        let context = runner.max_sequence_length(None).ok().flatten().unwrap_or(self.model.context_length);
        Ok(Instance { lane: Arc::new(Lane::new(runner)), bytes: self.bytes()?, context })
    }

    fn loader(&self, adapter: Option<&Adapter>) -> Result<Box<dyn Loader>, String> {
        let path = self.path.to_str().ok_or("its path is not UTF-8")?.to_owned();
        let normal = NormalSpecificConfig::default();
        if adapter.is_some() {
            let loader = NormalLoaderBuilder::new(normal, None, None, Some(path), false, None);
            return loader.with_lora(Vec::new()).build(None).map_err(|error| error.to_string());
        }
        if self.path.is_dir() {
            let (images, vectors) = (MultimodalSpecificConfig::default(), EmbeddingSpecificConfig::default());
            return Ok(AutoLoaderBuilder::new(normal, images, vectors, None, None, path, false, None).build());
        }
        Ok(GGUFLoaderBuilder::new(None, None, path, Vec::new(), GGUFSpecificConfig::default(), false, None).build())
    }

    /// The files of the base, and of the adapter in the folder. (mistralrs itself looks for adapters on a hub.)
    fn paths(&self, folder: &Path, adapter: Option<&Adapter>) -> Result<LocalModelPaths<PathBuf>, String> {
        let at = |name: &str| self.path.join(name);
        let there = |name: &str| Some(at(name)).filter(|path| path.is_file());
        let mut paths = LocalModelPaths {
            tokenizer_filename: at("tokenizer.json"),
            config_filename: at("config.json"),
            template_filename: there("chat_template.jinja").or_else(|| there("tokenizer_config.json")),
            filenames: vec![self.path.clone()],
            adapter_paths: AdapterPaths::None,
            gen_conf: there("generation_config.json"),
            preprocessor_config: there("preprocessor_config.json"),
            processor_config: there("processor_config.json"),
            chat_template_json_filename: there("chat_template.json"),
        };
        if self.path.is_file() {
            // All is in the one file.
            (paths.tokenizer_filename, paths.config_filename) = (PathBuf::new(), PathBuf::new());
            return Ok(paths);
        }
        paths.filenames = weight_files(&self.path)?;
        let config = std::fs::read(&paths.config_filename).map_err(|error| format!("config.json: {error}"))?;
        if let Some(config) = spelling::older(&config)? {
            paths.config_filename = folder.join("config.json");
            std::fs::write(&paths.config_filename, config).map_err(|error| error.to_string())?;
        }
        if let Some(adapter) = adapter {
            let (config, adapter_path) = adapter.write(folder)?;
            let lora_config = serde_json::from_value(config).map_err(|error| error.to_string())?;
            paths.adapter_paths = AdapterPaths::Lora(vec![LoraAdapterPaths { lora_config, adapter_path }]);
        }
        Ok(paths)
    }

    /// Matrices of the base's files, by name without `.weight`: `(out, in)`.
    pub(super) fn matrices(&self) -> Result<BTreeMap<String, [usize; 2]>, ModelError> {
        let mut matrices = BTreeMap::new();
        for file in weight_files(&self.path).map_err(ModelError::Invalid)? {
            for (name, entry) in SafetensorsFile::open(&file)?.tensors {
                if let (Some(name), [out, inner]) = (name.strip_suffix(".weight"), &entry.shape[..]) {
                    matrices.insert(name.to_owned(), [*out, *inner]);
                }
            }
        }
        Ok(matrices)
    }

    /// Bytes of the weights in memory: f32, or what linear layers were quantized to; those of a GGUF file are as in the file.
    fn bytes(&self) -> Result<usize, String> {
        if self.path.is_file() {
            let length = std::fs::metadata(&self.path).map_err(|error| error.to_string())?.len();
            return Ok(usize::try_from(length).unwrap_or(usize::MAX));
        }
        let mut bytes = 0usize;
        for file in weight_files(&self.path)? {
            let file = SafetensorsFile::open(&file).map_err(|error| error.to_string())?;
            for (name, info) in &file.tensors {
                bytes = bytes.saturating_add(self.tensor_bytes(name, &info.shape));
            }
        }
        Ok(bytes)
    }

    fn tensor_bytes(&self, name: &str, shape: &[usize]) -> usize {
        let elements: usize = shape.iter().product();
        let is_linear = shape.len() > 1 && !name.contains("embed");
        let (block, size) = self.quant.filter(|_| is_linear).unwrap_or(DType::F32).block();
        elements.div_ceil(block).saturating_mul(size)
    }
}

/// Its safetensors files, in the order of their names.
fn weight_files(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = std::fs::read_dir(directory).map_err(|error| error.to_string())?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|end| end == "safetensors")).collect();
    files.sort();
    // Some directories have everything twice, in their makers' own form.
    let named = |path: &&PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("model"));
    if files.iter().any(|path| named(&path)) {
        files.retain(|path| named(&path));
    }
    if files.is_empty() { Err("it has no safetensors files".to_owned()) } else { Ok(files) }
}

/// A directory that is removed when this is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(path: PathBuf) -> Result<Self, ModelError> {
        std::fs::create_dir_all(&path).map_err(|source| ModelError::Io { path: path.clone(), source })?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "files that a model was loaded with are not removed");
        }
    }
}

fn in_situ(quant: DType) -> Result<IsqType, String> {
    match quant {
        DType::Q8_0 => Ok(IsqType::Q8_0),
        DType::Q6K => Ok(IsqType::Q6K),
        DType::Q4K => Ok(IsqType::Q4K),
        other => Err(format!("it is not quantized to {other} while it is loaded")),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("it panicked").to_owned()
}
