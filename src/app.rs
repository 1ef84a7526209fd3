//! Composition root: configuration in, a running server out. Wires the rooms in the order of what needs what, names the parts that
//! run for long, and takes them down in order when one ends or a signal comes. Knows no rule of any room.

pub(crate) mod announce;
pub(crate) mod base;
mod device;
mod hub;
pub(crate) mod memory;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::config::{Config, KvMemory, Quant};
use crate::engine::{self, EngineConfig, EngineHandle, Health, PrefixCache};
use crate::gateway::{self, Gateway};
use crate::http::{self, Ended, Readiness, Server};
use crate::model::loader::{Checkpoint, DType};
use crate::model::{BLOCK_TOKENS, Model, ModelConfig, native, ops};
use crate::registry::{Catalog, IfLoaded, LoadRequest, LoadedBy, Setup};
use crate::store::DataDir;
use crate::tenants::jwt::TokenVerifier;
use crate::tenants::{DEFAULT_TENANT, Keys};

/// Time for the last events of answers that were cut off to reach their clients.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Serves until a signal; an error where a part could not start or ended by itself.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    // The cheap things that can fail come first, so that a taken port is reported before a large base is read.
    let data = Arc::new(DataDir::open(&config.data_dir)?);
    let listener = bind(&config).await?;
    let built = tokio::select! {
        built = build(&config, &data) => built?,
        signal = signals.next() => {
            tracing::info!(signal, "stopped before the base was loaded");
            return Ok(());
        }
    };
    // Keys come last: a new one is shown once, and only by a server that could start.
    let keys = Keys::open(&data, config.admin_key.as_ref().map(|key| key.0.as_str()))?;
    let tokens = token_verifier(&config).await?;
    let address = listener.local_addr().context("the address of the listening socket")?;
    let readiness = Readiness::default();
    let starting = readiness.latch("start");
    let server = Server::new(http::Parts {
        gateway: built.gateway,
        catalog: built.catalog.clone(),
        keys: Arc::new(keys.keys),
        tokens,
        readiness: readiness.clone(),
        registry: built.metrics,
        config: http::Config { body_limit: config.max_body_bytes, ..http::Config::default() },
    })
    .context("metrics")?;

    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async move {
        // A dropped sender means the same: nobody is left to serve for.
        let _ = stopped.await;
    };
    let mut serving = tokio::spawn(http::serve(listener, server, stopped, config.drain_deadline));
    drop(starting);
    let facts = built.engine.facts();
    announce::Announcement {
        address,
        base: &built.base_name,
        has_chat_template: built.has_chat_template,
        architecture: format!("{:?}", facts.model.architecture).to_lowercase(),
        weight_bytes: facts.weight_bytes as u64,
        kv_tokens: facts.config.kv_blocks * BLOCK_TOKENS,
        kv_bytes: (facts.config.kv_blocks * facts.kv_block_bytes) as u64,
        resident_bytes: memory::resident_bytes(),
        context: facts.max_context,
        adapters: built.catalog.list().iter().map(|adapter| format!("{}@{}", adapter.name, adapter.number)).collect(),
        new_key: keys.new_key.as_deref(),
    }
    .print();

    let mut health = built.engine.health();
    let outcome = tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, deadline_s = config.drain_deadline.as_secs_f64(), "draining");
            Ok(())
        }
        ended = &mut serving => Err(anyhow!("the HTTP server ended by itself: {ended:?}")),
        _ = health.wait_for(Health::is_over) => Err(anyhow!("the engine ended by itself")),
    };
    if let Err(error) = &outcome {
        let health = built.engine.health().borrow().clone();
        tracing::error!(%error, ?health, "stopping");
    }
    let _not_ready = readiness.latch("shutdown");
    // The receiver is gone when serving has ended by itself.
    let _ = stop.send(());
    let mut cut_off = false;
    if !serving.is_finished() {
        tokio::select! {
            ended = serving => match ended {
                Ok(Ok(Ended::Drained)) => tracing::info!("drained"),
                Ok(Ok(Ended::CutOff)) => cut_off = true,
                Ok(Err(error)) => tracing::error!(%error, "serving"),
                Err(error) => tracing::error!(%error, "serving"),
            },
            signal = signals.next() => {
                tracing::warn!(signal, "a second signal");
                cut_off = true;
            }
        }
    }
    // Whatever still runs has had its time.
    built.engine.shutdown(Duration::ZERO).await;
    if cut_off {
        tracing::warn!("the end of the drain cut answers off");
        tokio::time::sleep(LAST_WORDS).await;
    }
    outcome
}

struct Built {
    base_name: String,
    has_chat_template: bool,
    engine: EngineHandle,
    catalog: Catalog,
    gateway: Gateway,
    metrics: prometheus::Registry,
}

async fn bind(config: &Config) -> anyhow::Result<TcpListener> {
    TcpListener::bind(config.listen).await.with_context(|| format!("cannot listen on {} (--listen)", config.listen))
}

async fn build(config: &Config, data: &Arc<DataDir>) -> anyhow::Result<Built> {
    let for_loading = config.clone();
    let loaded = tokio::task::spawn_blocking(move || load(&for_loading)).await.context("loading the base")??;
    let engine = loaded.engine;
    let reserved_names = vec![loaded.base.name.clone()];
    let (catalog, skipped) = Catalog::open(Setup {
        data: Arc::clone(data),
        roots: adapter_roots(config)?,
        reserved_names,
        base: engine.facts().model.clone(),
        preparer: engine.adapter_preparer(),
    })
    .await?;
    for adapter in skipped {
        tracing::warn!(name = adapter.name, reason = adapter.reason, "an adapter of an earlier start is not served on this base");
    }
    for (name, path) in &config.adapters {
        put_into_service(&catalog, name, path.clone()).await?;
    }
    for (name, path) in config.default_adapters() {
        // Nobody asked for it at this start, and somebody took it out before.
        if catalog.was_unloaded(name) {
            tracing::info!(adapter = name, "a bundled adapter stays out of service; name it with --adapter to have it back");
            continue;
        }
        put_into_service(&catalog, name, path.clone()).await?;
    }
    let metrics = prometheus::Registry::new();
    let base_name = loaded.base.name.clone();
    let has_chat_template = loaded.base.chat_template.is_some();
    let counters = gateway::Metrics::new(&metrics).context("metrics")?;
    let gateway = Gateway::new(loaded.base, engine.clone(), catalog.clone(), counters);
    Ok(Built { base_name, has_chat_template, engine, catalog, gateway, metrics })
}

async fn token_verifier(config: &Config) -> anyhow::Result<Option<Arc<TokenVerifier>>> {
    let Some(settings) = config.jwt.clone() else { return Ok(None) };
    // There is one tenant so far.
    let verifier = TokenVerifier::start(settings, Arc::new(|tenant: &str| tenant == DEFAULT_TENANT)).await?;
    Ok(Some(Arc::new(verifier)))
}

async fn put_into_service(catalog: &Catalog, name: &str, path: PathBuf) -> anyhow::Result<()> {
    let request = LoadRequest {
        name: name.to_owned(),
        path: path.clone(),
        if_loaded: IfLoaded::ReplaceIfNew,
        expected_version: None,
        by: LoadedBy::Operator,
    };
    let loaded =
        catalog.load(request).await.with_context(|| format!("cannot serve the adapter {name} from {}", path.display()))?;
    tracing::info!(adapter = %loaded.name, version = loaded.number, id = %loaded.id.short(), "adapter in service");
    Ok(())
}

struct Loaded {
    base: gateway::Base,
    engine: EngineHandle,
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

/// Loads the base and starts the engine with it.
fn load(config: &Config) -> anyhow::Result<Loaded> {
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
            prefix_cache: if config.prefix_cache { PrefixCache::On } else { PrefixCache::Off },
        },
    )?;
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let base = gateway::Base {
        name,
        tokenizer: checkpoint.tokenizer,
        chat_template: checkpoint.chat_template,
        end_tokens: checkpoint.generation.eos,
        created,
    };
    Ok(Loaded { base, engine })
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

/// The roots in force; the one in the data directory is made where it is used.
pub(crate) fn adapter_roots(config: &Config) -> anyhow::Result<Vec<PathBuf>> {
    if config.adapter_roots.is_none() {
        let own = config.own_adapter_root();
        std::fs::create_dir_all(&own).with_context(|| format!("cannot create {}", own.display()))?;
    }
    Ok(config.roots())
}

/// Signals that end the server.
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    #[cfg(unix)]
    fn listen() -> anyhow::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    #[cfg(not(unix))]
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {})
    }

    #[cfg(unix)]
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    #[cfg(not(unix))]
    async fn next(&mut self) -> &'static str {
        match tokio::signal::ctrl_c().await {
            Ok(()) => "Ctrl-C",
            Err(_) => std::future::pending().await,
        }
    }
}
