//! Composition root: configuration in, a running server out. Wires the rooms in the order of what needs what, names the parts that
//! run for long, and takes them down in order when one ends or a signal comes. Knows no rule of any room.

pub(crate) mod announce;
mod backend;
pub(crate) mod base;
mod device;
mod hardware;
mod hub;
pub(crate) mod memory;
mod training;

pub(crate) use backend::{Loaded, LoadedBase, load_base, load_options, start as start_backend};
pub(crate) use training::base_digest;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use futures::FutureExt;
use futures::future::FusedFuture;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;

use crate::backends::{Backend, Health};
use crate::config::{BackendKind, Config, Location, Secret};
use crate::experiments::rollout::{self, Rollouts};
use crate::experiments::shadow::Shadows;
use crate::experiments::{self, Deployments, Recorder, Results};
use crate::gateway::shadow::{self, Waiting};
use crate::gateway::{self, Gateway, Upstreams};
use crate::http::{self, Ended, Readiness, Server};
use crate::model::BLOCK_TOKENS;
use crate::model::loader::RawTensor;
use crate::registry::{Catalog, IfLoaded, LoadRequest, LoadedBy, Owner, Setup, Shared, Source, Viewer};
use crate::store::objects::Objects;
use crate::store::{DataDir, Database};
use crate::tenants::jwt::TokenVerifier;
use crate::tenants::responses::Responses;
use crate::tenants::webhooks::Deliveries;
use crate::tenants::{DEFAULT_TENANT, Office, Opening, Tenants};
use crate::training::jobs::desk::Jobs;
use training::Training;

/// Time for the last rows of the ledger to reach the database; what does not stays in the journal.
const LAST_ROWS: Duration = Duration::from_secs(5);
/// Time for the last events of answers that were cut off to reach their clients.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Serves until a signal; an error where a part could not start or ended by itself.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    // The cheap things that can fail come first, so that a taken port is reported before a large base is read.
    let data = Arc::new(DataDir::open(&config.data_dir)?);
    let listener = bind(&config)?;
    let office = open_office(&config.database, data.path(), config.secret_key.as_ref()).await?;
    let (tenants, reached) =
        Tenants::open(Opening { office, data_dir: data.path(), sync: config.ledger_sync, shared: config.shared_limits.clone() })
            .await?;
    let tokens = token_verifier(&config, &tenants).await?;
    let built = tokio::select! {
        built = build(&config, &data, &tenants) => built?,
        signal = signals.next() => {
            tracing::info!(signal, "stopped before the base was loaded");
            return Ok(());
        }
    };
    // The admin key comes last: a new one is shown once, and only by a server that could start.
    let new_key = tenants.ensure_admin(data.path(), config.admin_key.as_ref().map(|key| key.0.as_str())).await?;
    let mut upkeep = tokio::spawn(tenants.clone().keep_up());
    let mut adapters = tokio::spawn(built.catalog.clone().keep_up());
    let mut deployments = tokio::spawn(built.deployments.clone().keep_up());
    let mut measuring = tokio::spawn(built.results.recorder().clone().keep_up());
    let mut ledger = tokio::spawn(tenants.ledger().clone().drain());
    let mut webhooks = tokio::spawn(Deliveries::new(tenants.office().clone()).run(reached));
    let Training { jobs, mut driver, workshop } = training::start(&config, &data, &tenants, &built).await?;
    let rollouts = Rollouts::new(rollout::Setup {
        deployments: built.deployments.clone(),
        catalog: built.catalog.clone(),
        base: built.base_name.clone(),
        judge: Arc::new(built.results.clone()),
    });
    let mut ramp = tokio::spawn(rollouts.clone().run());
    tokio::spawn(rollout_when_trained(rollouts.clone(), jobs.clone()));
    let shadows = Shadows::new(tenants.database().clone(), config.shadow_retention);
    let mut forgetting = tokio::spawn(shadows.clone().keep_up());
    let mut silent = tokio::spawn(built.gateway.clone().answer_in_silence(built.waiting, shadows.clone()));
    let mut expiry = tokio::spawn(jobs.files().clone().keep_up());
    let mut corrections = tokio::spawn(jobs.corrections().clone().keep_up());
    let mut responses = tokio::spawn(Responses::new(tenants.office().clone(), config.responses_keep).keep_up());
    let address = listener.local_addr().context("the address of the listening socket")?;
    let readiness = Readiness::default();
    let starting = readiness.latch("start");
    let server = Server::new(http::Parts {
        gateway: built.gateway.clone(),
        catalog: built.catalog.clone(),
        deployments: built.deployments.clone(),
        results: built.results.clone(),
        rollouts,
        shadows: shadows.clone(),
        tenants: tenants.clone(),
        jobs: jobs.clone(),
        workshop,
        tokens,
        readiness: readiness.clone(),
        registry: built.metrics.clone(),
        config: http::Config {
            body_limit: config.max_body_bytes,
            upload_limit: config.max_upload_bytes,
            convert: config.convert.clone(),
            pooling: config.embeddings_pooling,
            keep_responses: config.responses_keep,
            hardware: hardware::of(&config, &built.backend.facts().model),
            ..http::Config::default()
        },
    })
    .context("metrics")?;

    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async move {
        // A dropped sender means the same: nobody is left to serve for.
        let _ = stopped.await;
    };
    let mut serving = tokio::spawn(http::serve(listener, server, stopped, config.drain_deadline)).fuse();
    drop(starting);
    let facts = built.backend.facts();
    announce::Announcement {
        address,
        base: &built.base_name,
        without_model: (config.backend == BackendKind::Null).then_some(config.null.delay),
        has_chat_template: built.has_chat_template,
        architecture: format!("{:?}", facts.model.architecture).to_lowercase(),
        weight_bytes: facts.weight_bytes as u64,
        kv_tokens: facts.config.kv_blocks * BLOCK_TOKENS,
        kv_bytes: (facts.config.kv_blocks * facts.kv_block_bytes) as u64,
        resident_bytes: memory::resident_bytes(),
        context: facts.max_context,
        adapters: built
            .catalog
            .list(Viewer::Tenant(DEFAULT_TENANT))
            .iter()
            // Of jobs there may be many, and only their owners call them.
            .filter(|adapter| !matches!(adapter.loaded_by, LoadedBy::Trained { release: None, .. }))
            .map(|adapter| format!("{}@{}", adapter.name, adapter.number))
            .collect(),
        new_key: new_key.as_deref(),
    }
    .print();

    let mut health = built.backend.health();
    let outcome = tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, deadline_s = config.drain_deadline.as_secs_f64(), "draining");
            Ok(())
        }
        ended = &mut serving => Err(anyhow!("the HTTP server ended by itself: {ended:?}")),
        ended = &mut upkeep => Err(anyhow!("what keeps up with other processes ended by itself: {ended:?}")),
        ended = &mut adapters => Err(anyhow!("what keeps up with changes of adapters ended by itself: {ended:?}")),
        ended = &mut deployments => Err(anyhow!("what keeps up with changes of deployments ended by itself: {ended:?}")),
        ended = &mut measuring => Err(anyhow!("what adds outcomes up ended by itself: {ended:?}")),
        ended = &mut ramp => Err(anyhow!("what drives rollouts ended by itself: {ended:?}")),
        ended = &mut forgetting => Err(anyhow!("what forgets shadow answers ended by itself: {ended:?}")),
        ended = &mut silent => Err(anyhow!("what answers in silence ended by itself: {ended:?}")),
        ended = &mut ledger => Err(anyhow!("what moves the ledger into the database ended by itself: {ended:?}")),
        ended = &mut webhooks => Err(anyhow!("what calls webhooks ended by itself: {ended:?}")),
        ended = &mut expiry => Err(anyhow!("what removes files that have expired ended by itself: {ended:?}")),
        ended = &mut corrections => Err(anyhow!("what keeps texts of /convert ended by itself: {ended:?}")),
        ended = &mut responses => Err(anyhow!("what forgets responses ended by itself: {ended:?}")),
        () = training::ended(&mut driver) => Err(anyhow!("what trains ended by itself")),
        _ = health.wait_for(Health::is_over) => Err(anyhow!("the engine ended by itself")),
    };
    if let Err(error) = &outcome {
        let health = built.backend.health().borrow().clone();
        tracing::error!(%error, ?health, "stopping");
    }
    let _not_ready = readiness.end();
    // Serving has the machine for itself now, and what was learnt is saved.
    jobs.close();
    let saving = tokio::spawn(async move {
        if let Some(driver) = driver {
            driver.stop().await;
        }
    });
    if outcome.is_ok() && !config.drain_delay.is_zero() {
        // Whoever sends requests here sees that it is not ready, and sends them elsewhere.
        tokio::select! {
            () = tokio::time::sleep(config.drain_delay) => {}
            _ = &mut serving => {}
            signal = signals.next() => tracing::warn!(signal, "a second signal"),
        }
    }
    // The receiver is gone when serving has ended by itself.
    let _ = stop.send(());
    let mut cut_off = false;
    if !serving.is_terminated() {
        tokio::select! {
            ended = &mut serving => match ended {
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
    if let Err(error) = saving.await {
        tracing::error!(%error, "stopping what trains");
    }
    // Whatever still runs has had its time.
    built.backend.shutdown(Duration::ZERO).await;
    if cut_off {
        tracing::warn!("the end of the drain cut answers off");
        tokio::time::sleep(LAST_WORDS).await;
    }
    tenants.given_back().await;
    tenants.ledger().close(LAST_ROWS).await;
    if let Err(error) = jobs.corrections().flush().await {
        tracing::warn!(%error, "the last texts of /convert are not kept");
    }
    if let Err(error) = built.results.recorder().flush().await {
        tracing::warn!(%error, "the last outcomes were not added up");
    }
    if let Err(error) = shadows.flush().await {
        tracing::warn!(%error, "the last shadow answers are not kept");
    }
    // Those who look at the database again and again need not complain of its end.
    for looking in [&upkeep, &adapters, &deployments, &ramp, &webhooks, &forgetting, &expiry, &corrections, &responses] {
        looking.abort();
    }
    tenants.database().close().await;
    outcome
}

/// Opens the database.
pub(crate) async fn open_office(database: &Location, data_dir: &Path, secret_key: Option<&Secret>) -> anyhow::Result<Office> {
    let database = Database::open(database).await.context("the database (--database)")?;
    Ok(Office::open(database, data_dir, secret_key.map(|key| key.0.as_str())).await?)
}

/// A job that has ended may ask for a rollout.
async fn rollout_when_trained(rollouts: Rollouts, jobs: Jobs) {
    let mut changes = jobs.changes();
    while changes.changed().await.is_ok() {
        rollouts.wake();
    }
}

struct Built {
    base_name: String,
    has_chat_template: bool,
    backend: Backend,
    catalog: Catalog,
    deployments: Deployments,
    results: Results,
    gateway: Gateway,
    /// Requests that a silent model is to answer.
    waiting: Waiting,
    metrics: prometheus::Registry,
    /// What replicas share.
    objects: Option<Objects>,
    tensors: BTreeMap<String, RawTensor>,
}

/// Connections that wait to be accepted: more than come at one moment. (The library's 128 are few: who finds no place tries again
/// after a second.) The system's own limit is below it on most machines.
const BACKLOG: u32 = 4096;

fn bind(config: &Config) -> anyhow::Result<TcpListener> {
    let address = config.listen;
    let listen = || -> std::io::Result<TcpListener> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A restart does not wait for connections of the life before. (Elsewhere the option means that anybody may take the port.)
        #[cfg(unix)]
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().with_context(|| format!("cannot listen on {address} (--listen)"))
}

async fn build(config: &Config, data: &Arc<DataDir>, tenants: &Tenants) -> anyhow::Result<Built> {
    let for_loading = config.clone();
    let loaded = tokio::task::spawn_blocking(move || backend::start(&for_loading)).await.context("loading the base")??;
    let (backend, tensors) = (loaded.backend, loaded.tensors);
    let upstreams: Vec<String> = config.upstreams.iter().map(|upstream| upstream.remote.name.clone()).collect();
    let failovers = config.failovers.iter().map(|failover| failover.name.clone());
    let reserved_names = [loaded.base.name.clone()].into_iter().chain(upstreams.clone()).chain(failovers).collect();
    let objects = open_objects(config, tenants.database()).await?;
    let (catalog, skipped) = Catalog::open(Setup {
        shared: objects.clone().map(|objects| Shared::new(tenants.database().clone(), objects)),
        data: Arc::clone(data),
        roots: adapter_roots(config)?,
        reserved_names,
        base: backend.facts().model.clone(),
        preparer: backend.adapter_preparer(),
        memory: config.adapter_memory.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
    })
    .await?;
    for adapter in skipped {
        tracing::warn!(name = adapter.name, reason = adapter.reason, "an adapter of an earlier start is not served on this base");
    }
    // Before anything is put into service: what deployments may have to go back to is not forgotten for it.
    let setup =
        experiments::Setup { tenants: tenants.clone(), catalog: catalog.clone(), base: loaded.base.name.clone(), upstreams };
    let deployments = Deployments::open(setup).await?;
    for (name, path) in &config.adapters {
        put_into_service(&catalog, name, path.clone()).await?;
    }
    for (name, path) in config.default_adapters() {
        // Nobody asked for it at this start, and somebody took it out before.
        if catalog.was_unloaded(&Owner::Shared, name) {
            tracing::info!(adapter = name, "a bundled adapter stays out of service; name it with --adapter to have it back");
            continue;
        }
        put_into_service(&catalog, name, path.clone()).await?;
    }
    let recorder = Recorder::new(tenants.database().clone(), tenants.node());
    let results = Results::new(tenants.database().clone(), recorder);
    let (copies, waiting) = shadow::copies();
    let metrics = prometheus::Registry::new();
    let base_name = loaded.base.name.clone();
    let has_chat_template = loaded.base.chat_template.is_some();
    let counters = gateway::Metrics::new(&metrics).context("metrics")?;
    let gateway = Gateway::new(gateway::Parts {
        base: loaded.base,
        backend: backend.clone(),
        catalog: catalog.clone(),
        deployments: deployments.clone(),
        recorder: results.recorder().clone(),
        copies,
        tenants: tenants.clone(),
        upstreams: Upstreams::open(&config.upstreams, &config.failovers, tenants).await?,
        metrics: counters,
        cache: config.cache,
        default_max_tokens: config.default_max_tokens,
        tool_family: config.tool_family.clone(),
    });
    Ok(Built {
        base_name,
        has_chat_template,
        backend,
        catalog,
        deployments,
        results,
        gateway,
        waiting,
        metrics,
        objects,
        tensors,
    })
}

/// Opens what replicas share.
async fn open_objects(config: &Config, database: &Database) -> anyhow::Result<Option<Objects>> {
    let Some(location) = &config.objects else { return Ok(None) };
    crate::outbound::install_tls();
    // Those who share the database share this.
    let installation = database.settle_fact("objects_of", &crate::ids::hex(&rand::random::<[u8; 16]>())).await?;
    Ok(Some(Objects::open(location, &installation).await.context("the object store (--objects)")?))
}

async fn token_verifier(config: &Config, tenants: &Tenants) -> anyhow::Result<Option<Arc<TokenVerifier>>> {
    let Some(settings) = config.jwt.clone() else { return Ok(None) };
    let tenants = tenants.clone();
    let active = Arc::new(move |tenant: &str| tenants.policy().is_active(tenant));
    Ok(Some(Arc::new(TokenVerifier::start(settings, active).await?)))
}

async fn put_into_service(catalog: &Catalog, name: &str, path: PathBuf) -> anyhow::Result<()> {
    let request = LoadRequest {
        owner: Owner::Shared,
        name: name.to_owned(),
        from: Source::Directory(path.clone()),
        if_loaded: IfLoaded::ReplaceIfNew,
        expected_version: None,
        by: LoadedBy::Operator,
    };
    let loaded =
        catalog.load(request).await.with_context(|| format!("cannot serve the adapter {name} from {}", path.display()))?;
    tracing::info!(adapter = %loaded.name, version = loaded.number, id = %loaded.id.short(), "adapter in service");
    Ok(())
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
