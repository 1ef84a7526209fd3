//! Configuration: what was typed ([`Given`]) and what it means ([`Config`]). The only room that reads the environment.
//! Command line over variables over file over defaults; every problem is found at once and names its place.

mod capabilities;
mod explain;
mod locate;
mod meaning;
mod raw;
mod replicas;
mod settings;
#[cfg(test)]
mod tests;
mod tokens;
mod upstreams;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use crate::gateway::{CacheConfig, CapabilityConfig, FailoverConfig, UpstreamConfig};
pub use crate::store::Location;
pub use crate::tenants::Sync;
use crate::training::idle::Policy;
pub use locate::{Bundle, bundle};
pub use raw::{Given, Origin, Problem};
pub use settings::{API_KEY_VARIABLE, Arity, SETTINGS, Setting, TEACHER_KEY_VARIABLE};

/// Where the base comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    /// The base that comes with switchyard.
    Bundled(Bundle),
    /// A GGUF file or a Hugging Face directory.
    Path(PathBuf),
    /// A repository of the hub.
    Hub(HubModel),
}

/// A model on the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubModel {
    /// `org/name`.
    pub repository: String,
    /// Branch, tag or commit.
    pub revision: String,
    /// One GGUF file; otherwise configuration, tokenizer and safetensors.
    pub file: Option<String>,
}

/// How the hub is reached; from the usual `HF_*` variables.
#[derive(Clone, PartialEq, Eq)]
pub struct HubConfig {
    /// Directory of downloads (`HF_HUB_CACHE`, or `hub` in `HF_HOME` or `huggingface` of `XDG_CACHE_HOME`).
    pub cache: PathBuf,
    /// Address (`HF_ENDPOINT`).
    pub endpoint: String,
    /// Token (`HF_TOKEN`, or the file `token` in `HF_HOME`).
    pub token: Option<String>,
    /// Only what was downloaded before (`HF_HUB_OFFLINE`).
    pub offline: bool,
}

impl std::fmt::Debug for HubConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubConfig").field("cache", &self.cache).field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// How float weights are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quant {
    /// As the base suggests.
    Auto,
    /// As they are.
    None,
    /// 8 bits, blocks of 32.
    Q8_0,
    /// 6 bits, blocks of 256.
    Q6K,
    /// 4 bits, blocks of 256.
    Q4K,
}

/// Where the base computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// CUDA where this build has it and there is one, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// A CUDA device by index.
    Cuda(usize),
}

/// What generates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendKind {
    /// The base, by our engine.
    Native,
    /// The base, by mistralrs; only in builds that have it.
    Mistralrs,
    /// Nothing: words after a delay, to measure what is around a model.
    Null,
}

/// When the null backend's tokens come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NullConfig {
    /// From a request's submission to its first token.
    pub delay: Duration,
    /// From each token to the next.
    pub token_gap: Duration,
    /// Tokens of an answer whose request leaves the length open.
    pub tokens: usize,
}

/// When fine-tuning jobs compute, and with how much memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainingConfig {
    /// When.
    pub policy: Policy,
    /// Bytes beside the base; `None` is decided when a job begins.
    pub memory: Option<u64>,
    /// Whether this process works on jobs.
    pub here: bool,
}

/// Memory for keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvMemory {
    /// Decided from the base and the memory that is free.
    Auto,
    /// This many bytes.
    Bytes(u64),
}

/// A key that is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The base.
    pub model: ModelSource,
    /// Its public name, where one was given.
    pub model_name: Option<String>,
    /// How the hub is reached.
    pub hub: HubConfig,
    /// How float weights are kept.
    pub quant: Quant,
    /// Where the base computes.
    pub device: Device,
    /// Compute threads.
    pub threads: usize,
    /// Where to serve.
    pub listen: SocketAddr,
    /// Durable state.
    pub data_dir: PathBuf,
    /// Directories that the API may load adapters from; `None` is the default.
    pub adapter_roots: Option<Vec<PathBuf>>,
    /// Adapters that were asked for by name.
    pub adapters: Vec<(String, PathBuf)>,
    /// Memory for keys and values.
    pub kv_memory: KvMemory,
    /// Most bytes of adapters in memory; `None` is no bound.
    pub adapter_memory: Option<u64>,
    /// Most tokens of a sequence, prompt and answer, where that is less than the base was made for.
    pub max_context: Option<usize>,
    /// Most tokens in one step.
    pub max_batch_tokens: usize,
    /// Most running sequences.
    pub max_sequences: usize,
    /// Most waiting requests.
    pub queue_capacity: usize,
    /// Reuse of prompts that begin alike.
    pub prefix_cache: bool,
    /// Most tokens that are guessed for an answer in one step; 0 guesses none.
    pub speculation_tokens: usize,
    /// What generates.
    pub backend: BackendKind,
    /// When it is the null backend.
    pub null: NullConfig,
    /// Largest request body, bytes.
    pub max_body_bytes: usize,
    /// Largest adapter or file that is taken over HTTP, bytes.
    pub max_upload_bytes: u64,
    /// Most bytes of a tenant's files.
    pub max_stored_bytes: u64,
    /// How long answers of silent models are kept.
    pub shadow_retention: Duration,
    /// When fine-tuning jobs compute, and with how much memory.
    pub training: TrainingConfig,
    /// Longest time that a job may train.
    pub training_max_time: Duration,
    /// Time for others to see that no more requests should be sent, after a signal.
    pub drain_delay: Duration,
    /// Time for running answers after that.
    pub drain_deadline: Duration,
    /// JSON Web Tokens, where they are accepted.
    pub jwt: Option<crate::tenants::jwt::Settings>,
    /// Logging.
    pub log: crate::telemetry::LogConfig,
    /// Collector of traces, where they are exported.
    pub otlp_endpoint: Option<crate::outbound::Address>,
    /// Tenants, keys and the ledger.
    pub database: Location,
    /// Where limits and budgets are kept for all replicas together.
    pub shared_limits: Option<crate::tenants::shared::Settings>,
    /// Where replicas keep adapters, files and states of jobs together.
    pub objects: Option<crate::store::objects::ObjectsLocation>,
    /// When rows of the ledger are put on the disk.
    pub ledger_sync: Sync,
    /// The response cache.
    pub cache: CacheConfig,
    /// Most tokens of an answer whose request does not say.
    pub default_max_tokens: usize,
    /// How the base writes calls of functions.
    pub tool_family: crate::gateway::ToolFamily,
    /// What `/convert` asks, and how.
    pub convert: crate::http::ConvertConfig,
    /// How hidden states become an embedding where a request does not say.
    pub embeddings_pooling: crate::gateway::Pooling,
    /// How long responses are kept that are to be.
    pub responses_keep: Duration,
    /// Models that are other servers.
    pub upstreams: Vec<UpstreamConfig>,
    /// Names that several models share.
    pub failovers: Vec<FailoverConfig>,
    /// Admin key given by the operator.
    pub admin_key: Option<Secret>,
    /// Secret key given by the operator.
    pub secret_key: Option<Secret>,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the configuration has {} problem(s)", .0.len())]
pub struct Problems(pub Vec<Problem>);

/// What commands need that touch only the durable state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateConfig {
    /// Durable state.
    pub data_dir: PathBuf,
    /// Logging.
    pub log: crate::telemetry::LogConfig,
    /// Tenants, keys and the ledger.
    pub database: Location,
    /// Admin key given by the operator.
    pub admin_key: Option<Secret>,
    /// Secret key given by the operator.
    pub secret_key: Option<Secret>,
}

impl StateConfig {
    /// Understands only what concerns the durable state: such a command works without a base.
    pub fn resolve(given: &Given) -> Result<Self, Problems> {
        meaning::understand_state(raw::Raw::collect(given), given)
    }
}

impl Config {
    /// Understands what was typed.
    pub fn resolve(given: &Given) -> Result<Self, Problems> {
        meaning::understand(raw::Raw::collect(given), given)
    }

    /// Public name of the base.
    pub fn base_name(&self) -> String {
        self.model_name.clone().unwrap_or_else(|| self.model.public_name())
    }

    /// Directories that the API may load adapters from.
    pub fn roots(&self) -> Vec<PathBuf> {
        if let Some(roots) = &self.adapter_roots {
            return roots.clone();
        }
        let bundled = match &self.model {
            ModelSource::Bundled(bundle) => Some(bundle.adapter_root.clone()).filter(|root| root.is_dir()),
            _ => None,
        };
        [self.own_adapter_root()].into_iter().chain(bundled).collect()
    }

    /// The adapter root in the data directory. The first of the roots where none were named.
    pub fn own_adapter_root(&self) -> PathBuf {
        self.data_dir.join("adapters")
    }

    /// Adapters that nobody asked for and that come with the bundled base, by name. One that was taken out of service stays out.
    pub fn default_adapters(&self) -> impl Iterator<Item = &(String, PathBuf)> {
        let bundled = match &self.model {
            // Into its file mistralrs merges nothing.
            ModelSource::Bundled(bundle) if self.backend != BackendKind::Mistralrs => bundle.adapters.as_slice(),
            _ => &[],
        };
        bundled.iter().filter(|(name, _)| !self.adapters.iter().any(|(taken, _)| taken == name))
    }
}

impl ModelSource {
    /// Name of the base in the API where none was given.
    pub fn public_name(&self) -> String {
        match self {
            Self::Bundled(_) => "switchyard-base".to_owned(),
            Self::Path(path) => typeable(&file_name(path)),
            Self::Hub(model) => typeable(&model.repository),
        }
    }
}

/// `dir/Llama.Q4.gguf` -> `Llama.Q4`; the resolved directory's name for `.` and the like.
fn file_name(path: &Path) -> String {
    let resolved: PathBuf = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = resolved.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.strip_suffix(".gguf").map(str::to_owned).unwrap_or(name)
}

/// A name that can stand in a request: `@` separates versions, spaces are hard to type.
fn typeable(name: &str) -> String {
    let name: String = name.chars().map(|c| if c.is_ascii_graphic() && c != '@' { c } else { '-' }).take(200).collect();
    if name.is_empty() { "base".to_owned() } else { name }
}

/// The variables of this process: the one place where the environment is read.
pub fn environment() -> Vec<(std::ffi::OsString, std::ffi::OsString)> {
    std::env::vars_os().collect()
}
