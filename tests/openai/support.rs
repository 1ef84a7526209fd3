//! A whole server over a seeded model, and a small client for it.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, Method, Request, StatusCode};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use switchyard::engine::seeded::SeededModel;
pub use switchyard::engine::seeded::SeededOptions;
use switchyard::engine::{EngineConfig, EngineHandle, LeakCheck, start};
use switchyard::experiments::rollout::{self, Rollouts};
use switchyard::experiments::shadow::Shadows;
use switchyard::experiments::{self, Deployments, Recorder, Results};
use switchyard::gateway::{self, Base, FailoverConfig, Gateway, Metrics, UpstreamConfig, Upstreams};
use switchyard::http::{Config, Parts, Readiness, Server, router};
use switchyard::model::chat_template::ChatTemplate;
use switchyard::model::tokenizer::Tokenizer;
use switchyard::model::{AdapterPreparer, Chunk, Logits, Model, ModelConfig, ModelError};
use switchyard::registry::{Catalog, Setup, Viewer};
use switchyard::store::keys::KeyRow;
use switchyard::store::{DataDir, Database, Location};
use switchyard::tenants::jwt::TokenVerifier;
use switchyard::tenants::{Office, Opening, Sync, Tenants, new_id, new_key};
use switchyard::training::jobs::desk::{Caps, DeskSetup, Jobs};
use switchyard::training::jobs::files::{FileLimits, Files, FilesSetup};
use tempfile::TempDir;
use tower::ServiceExt;

use crate::judged::Judged;
pub use crate::random_adapter::write_random_adapter;

pub const KEY: &str = "sk-test-0123456789abcdef";
pub const BASE: &str = "tiny";
/// Ends an answer.
pub const END: u32 = 256;

pub const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// What a test server is made of.
pub struct Options {
    pub model: SeededOptions,
    pub engine: EngineConfig,
    pub http: Config,
    pub chat_template: Option<&'static str>,
    pub tokens: Option<TokenVerifier>,
    pub files: FileLimits,
    pub upstreams: Vec<UpstreamConfig>,
    pub failovers: Vec<FailoverConfig>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            model: SeededOptions::default(),
            engine: EngineConfig::default(),
            http: Config::default(),
            chat_template: Some(CHATML),
            tokens: None,
            files: FileLimits { file: 1 << 20, tenant: 4 << 20 },
            upstreams: Vec::new(),
            failovers: Vec::new(),
        }
    }
}

/// A server in this process. Dropping it asserts that nothing is held in the engine and in the catalog.
pub struct Harness {
    router: Router,
    pub server: Server,
    pub engine: EngineHandle,
    pub tenants: Tenants,
    pub files: Files,
    pub jobs: Jobs,
    pub catalog: Catalog,
    pub rollouts: Rollouts,
    pub judge: Judged,
    pub readiness: Readiness,
    /// Adapter root.
    pub root: TempDir,
    /// Data directory.
    pub data: TempDir,
    _leaks: LeakCheck,
    _leases: LeaseCheck,
}

/// A file; with `SWITCHYARD_TEST_DATABASE=postgres` a database of its own on the test server.
async fn location(data: &Path) -> Location {
    let postgres = std::env::var("SWITCHYARD_TEST_DATABASE").is_ok_and(|value| value == "postgres");
    let made = if postgres { crate::postgres::new_database().await } else { None };
    assert!(made.is_some() == postgres, "there is no PostgreSQL to test with");
    made.map_or_else(|| Location::File(data.join("switchyard.db")), Location::Postgres)
}

/// Asserts on drop that nobody holds a version of an adapter, neither a served one nor one that drains.
struct LeaseCheck(Catalog);

impl Drop for LeaseCheck {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let began = std::time::Instant::now();
        while self.0.leases() > 0 && began.elapsed() < std::time::Duration::from_secs(10) {
            std::thread::yield_now();
        }
        assert_eq!(self.0.leases(), 0, "leases leaked: {:?}", self.0.list(Viewer::Operator));
        assert!(
            self.0.list(Viewer::Operator).iter().all(|adapter| adapter.draining.is_empty()),
            "versions drain for nobody: {:?}",
            self.0.list(Viewer::Operator)
        );
    }
}

/// A response, read to its end.
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Harness {
    pub async fn new() -> Self {
        Self::with(Options::default()).await
    }

    pub async fn with(options: Options) -> Self {
        let model = SeededModel::new(options.model.clone());
        Self::over(model, options).await
    }

    pub async fn over(model: SeededModel, options: Options) -> Self {
        let base = base_with(options.chat_template);
        Self::of(Box::new(model), base, options).await
    }

    /// Any model, with its own tokenizer and template.
    pub async fn of(model: Box<dyn Model>, base: Base, options: Options) -> Self {
        let config = model.config().clone();
        let preparer = model.adapter_preparer();
        let engine = start(model, options.engine).unwrap();
        let (root, data) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let store = Arc::new(DataDir::open(data.path()).unwrap());
        let database = Database::open(&location(data.path()).await).await.unwrap();
        let office = Office::open(database, data.path(), None).await.unwrap();
        let (tenants, _reached) =
            Tenants::open(Opening { office, data_dir: data.path(), sync: Sync::Never, shared: None }).await.unwrap();
        tenants.ensure_admin(data.path(), Some(KEY)).await.unwrap();
        tokio::spawn(tenants.ledger().clone().drain());
        let files = Files::open(FilesSetup {
            data: Arc::clone(&store),
            database: tenants.database().clone(),
            node: tenants.node().to_owned(),
            objects: None,
            limits: options.files,
        });
        let files = files.await.unwrap();
        let caps = Caps { seconds: 3_600 };
        let jobs = Jobs::new(DeskSetup { files: files.clone(), base: base.name.clone(), caps, untrainable: None });
        let upstreams = Upstreams::open(&options.upstreams, &options.failovers, &tenants).await.unwrap();
        let names: Vec<String> = options.upstreams.iter().map(|upstream| upstream.remote.name.clone()).collect();
        let setup = Setup {
            data: store,
            roots: vec![root.path().to_owned()],
            reserved_names: [base.name.clone()].into_iter().chain(names.clone()).collect(),
            base: config,
            preparer,
            memory: None,
            shared: None,
        };
        let (catalog, _) = Catalog::open(setup).await.unwrap();
        let deployments = Deployments::open(experiments::Setup {
            tenants: tenants.clone(),
            catalog: catalog.clone(),
            base: base.name.clone(),
            upstreams: names,
        });
        let deployments = deployments.await.unwrap();
        let registry = prometheus::Registry::new();
        let base_name = base.name.clone();
        let judge = Judged::default();
        let (copies, waiting) = gateway::shadow::copies();
        let metrics = Metrics::new(&registry).unwrap();
        let recorder = Recorder::new(tenants.database().clone(), tenants.node());
        let gateway = Gateway::new(gateway::Parts {
            base,
            backend: engine.clone().into(),
            catalog: catalog.clone(),
            deployments: deployments.clone(),
            recorder: recorder.clone(),
            copies,
            tenants: tenants.clone(),
            upstreams,
            metrics,
            cache: gateway::CacheConfig { bytes: 1 << 20, ttl: std::time::Duration::from_secs(600) },
            default_max_tokens: 2048,
            tool_family: Default::default(),
        });
        let leases = LeaseCheck(catalog.clone());
        let readiness = Readiness::default();
        let rollouts = Rollouts::new(rollout::Setup {
            deployments: deployments.clone(),
            judge: Arc::new(judge.clone()),
            catalog: catalog.clone(),
            base: base_name.clone(),
        });
        let shadows = Shadows::new(tenants.database().clone(), std::time::Duration::from_secs(604_800));
        tokio::spawn(gateway.clone().answer_in_silence(waiting, shadows.clone()));
        let server = Server::new(Parts {
            rollouts: rollouts.clone(),
            shadows: shadows.clone(),
            gateway,
            catalog: catalog.clone(),
            deployments: deployments.clone(),
            results: Results::new(tenants.database().clone(), recorder),
            tenants: tenants.clone(),
            jobs: jobs.clone(),
            workshop: None,
            tokens: options.tokens.map(Arc::new),
            readiness: readiness.clone(),
            registry,
            config: options.http,
        })
        .unwrap();
        let router = router(server.clone());
        let leaks = LeakCheck::new(engine.clone());
        Self {
            router,
            server,
            engine,
            tenants,
            files,
            jobs,
            catalog,
            rollouts,
            judge,
            readiness,
            root,
            data,
            _leaks: leaks,
            _leases: leases,
        }
    }

    pub async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        Reply { status: parts.status, headers: parts.headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
    }

    /// A response whose body is not read yet.
    pub async fn open(&self, request: Request<Body>) -> axum::http::Response<Body> {
        self.router.clone().oneshot(request).await.unwrap()
    }

    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(request(Method::POST, path, Body::from(body.to_string()))).await
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(request(Method::GET, path, Body::empty())).await
    }

    /// A request with a key and headers of its own.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>, key: &str, headers: &[(&str, &str)]) -> Reply {
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let mut request = Request::builder().method(method).uri(path).header("authorization", format!("Bearer {key}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body).unwrap()).await
    }

    /// [`Harness::post`] with another key and more headers.
    pub async fn post_as(&self, key: &str, path: &str, body: &Value, headers: &[(&str, &str)]) -> Reply {
        let mut request = request(Method::POST, path, Body::from(body.to_string()));
        request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
        for (name, value) in headers {
            request.headers_mut().insert(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        self.send(request).await
    }

    /// A key for inference of a tenant, which is made where it is missing.
    pub async fn key_of(&self, tenant: &str) -> String {
        self.key_for(tenant, "inference").await.0
    }

    /// A key of a tenant with these scopes, and its id.
    pub async fn key_for(&self, tenant: &str, scopes: &str) -> (String, String) {
        let office = self.tenants.office();
        let key = new_key(&office.secrets).unwrap();
        let row = KeyRow {
            id: new_id("key").unwrap(),
            project_id: Some(tenant.to_owned()),
            service_account_id: None,
            name: tenant.to_owned(),
            hash: key.hash,
            redacted: key.redacted,
            scopes: scopes.to_owned(),
            models: None,
            labels: "{}".to_owned(),
            priority: "standard".to_owned(),
            caching: "per_request".to_owned(),
            created_at: 1,
            expires_at: None,
            revoked_at: None,
            last_used_at: None,
            replaces: None,
            version: 1,
            project_active: true,
        };
        let mut transaction = office.database.begin().await.unwrap();
        let project =
            "INSERT INTO projects (id, name, status, created_at, version) VALUES ($1, $1, 'active', 1, 1) ON CONFLICT DO NOTHING";
        sqlx::query(project).bind(tenant.to_owned()).execute(&mut *transaction).await.unwrap();
        switchyard::store::keys::insert(&mut transaction, &row).await.unwrap();
        transaction.commit_policy().await.unwrap();
        self.tenants.refresh().await.unwrap();
        (key.key, row.id)
    }

    /// Changes the policy by a statement.
    pub async fn policy(&self, sql: &'static str) {
        let mut transaction = self.tenants.database().begin().await.unwrap();
        sqlx::query(sql).execute(&mut *transaction).await.unwrap();
        transaction.commit_policy().await.unwrap();
        self.tenants.refresh().await.unwrap();
    }

    /// A successful request's JSON.
    pub async fn ok(&self, path: &str, body: &Value) -> Value {
        let reply = self.post(path, body).await;
        assert_eq!(reply.status, StatusCode::OK, "{path} {body}: {}", reply.text);
        reply.json()
    }

    /// A successful request without JSON in its answer.
    pub async fn ok_text(&self, path: &str, body: &Value) -> String {
        let reply = self.post(path, body).await;
        assert_eq!(reply.status, StatusCode::OK, "{path} {body}: {}", reply.text);
        reply.text
    }

    /// A greedy chat, with more fields.
    pub async fn chat(&self, more: &Value) -> Value {
        self.ok("/v1/chat/completions", &merged(chat_body(), more)).await
    }

    /// A greedy completion, with more fields.
    pub async fn complete(&self, more: &Value) -> Value {
        self.ok("/v1/completions", &merged(completion_body(), more)).await
    }

    /// The events of a stream, `[DONE]` checked and left out.
    pub async fn events(&self, path: &str, body: Value) -> Vec<Value> {
        let reply = self.post(path, &merged(body, &json!({"stream": true}))).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        assert!(reply.headers["content-type"].to_str().unwrap().starts_with("text/event-stream"));
        reply.events()
    }

    /// Runs the server on a port of its own until the handle is dropped.
    pub async fn listen(&self) -> Listening {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = self.server.clone();
        let task = tokio::spawn(async move {
            let stop = async move {
                let _ = stopped.await;
            };
            switchyard::http::serve(listener, server, stop, std::time::Duration::from_secs(5)).await.unwrap()
        });
        Listening { url: format!("http://{address}"), address, stop: Some(stop), task }
    }

    /// Waits until the engine holds nothing.
    pub async fn idle(&self) {
        for _ in 0..10_000 {
            let stats = self.engine.stats();
            if stats.running + stats.waiting == 0 && stats.kv_used == 0 {
                return;
            }
            tokio::task::yield_now().await;
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        panic!("the engine is still busy: {:?}", self.engine.stats());
    }

    /// Writes an adapter for the seeded model; different seeds have different weights.
    pub fn write_adapter(&self, directory: &str, seed: u32) -> String {
        let path = self.root.path().join(directory);
        write_adapter(&path, seed);
        path.to_str().unwrap().to_owned()
    }

    /// Loads an adapter under a name.
    pub async fn load(&self, name: &str, seed: u32) {
        let path = self.write_adapter(&format!("{name}-{seed}"), seed);
        self.load_from(name, &path).await;
    }

    /// Loads what a directory holds under a name.
    pub async fn load_from(&self, name: &str, path: &str) {
        let body = json!({"lora_name": name, "lora_path": path, "load_inplace": true});
        let reply = self.post("/v1/load_lora_adapter", &body).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    }
}

/// The base of the seeded model, with the usual template.
pub fn base() -> Base {
    base_with(Some(CHATML))
}

fn base_with(source: Option<&str>) -> Base {
    let template = |source: &str| ChatTemplate::new(source, None, Some("<|im_end|>".to_owned())).unwrap();
    Base {
        name: BASE.to_owned(),
        tokenizer: tokenizer(),
        chat_template: source.map(template),
        end_tokens: vec![END],
        created: 1_700_000_000,
    }
}

/// A server on a port.
pub struct Listening {
    pub url: String,
    pub address: std::net::SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    pub task: tokio::task::JoinHandle<switchyard::http::Ended>,
}

impl Listening {
    /// Tells the server to stop.
    pub fn stop(&mut self) {
        drop(self.stop.take());
    }
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub fn events(&self) -> Vec<Value> {
        let events = self.text.strip_suffix("data: [DONE]\n\n").unwrap_or_else(|| panic!("no [DONE]: {}", self.text));
        let events = events.split_terminator("\n\n").filter(|event| !event.starts_with(':'));
        events.map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap()).collect()
    }

    /// `(status, type, code, param)` of an error, whose envelope is checked.
    pub fn error(&self) -> (u16, String, Value, Value) {
        let error = self.json()["error"].clone();
        let keys: Vec<&str> = error.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["message", "type", "param", "code"]);
        assert!(!error["message"].as_str().unwrap().is_empty());
        assert!(self.headers.contains_key("x-request-id"));
        (self.status.as_u16(), error["type"].as_str().unwrap().to_owned(), error["code"].clone(), error["param"].clone())
    }

    pub fn message(&self) -> String {
        self.json()["error"]["message"].as_str().unwrap().to_owned()
    }
}

pub fn request(method: Method, path: &str, body: Body) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", format!("Bearer {KEY}"))
        .header("content-type", "application/json")
        .body(body)
        .unwrap()
}

pub fn chat_body() -> Value {
    json!({"model": BASE, "messages": [{"role": "user", "content": "hello"}], "temperature": 0, "max_tokens": 24})
}

pub fn completion_body() -> Value {
    json!({"model": BASE, "prompt": "hello", "temperature": 0, "max_tokens": 24})
}

pub fn merged(mut body: Value, more: &Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

/// Bytes are tokens 0 to 255; four special tokens follow.
pub fn tokenizer() -> Tokenizer {
    let mut vocab = serde_json::Map::new();
    let mut next = 256;
    for byte in 0..=255u8 {
        // GPT-2's alphabet: printable Latin-1 stands for itself, the others follow from U+0100 on.
        let printable = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let code = if printable { u32::from(byte) } else { next };
        next += u32::from(!printable);
        vocab.insert(char::from_u32(code).unwrap().to_string(), json!(byte));
    }
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false})
    };
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [
            special(256, "<|im_end|>"), special(257, "<|im_start|>"), special(258, "<|endoftext|>"), special(259, "<|pad|>"),
        ],
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                  "vocab": vocab, "merges": []},
    });
    Tokenizer::from_json(tokenizer.to_string().as_bytes()).unwrap()
}

/// Rank 2 on the query projection of the seeded model: 16 in, 16 out.
pub fn write_adapter(path: &Path, seed: u32) {
    std::fs::create_dir_all(path).unwrap();
    let config = json!({
        "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "bias": "none",
        "base_model_name_or_path": "tiny", "task_type": "CAUSAL_LM",
    });
    std::fs::write(path.join("adapter_config.json"), config.to_string()).unwrap();
    let values: Vec<u8> = (0..32u16).flat_map(|index| (f32::from(index) * 0.01 + seed as f32).to_le_bytes()).collect();
    let name = |part: &str| format!("base_model.model.model.layers.0.self_attn.q_proj.lora_{part}.weight");
    let tensors = [
        (name("A"), TensorView::new(Dtype::F32, vec![2, 16], &values).unwrap()),
        (name("B"), TensorView::new(Dtype::F32, vec![16, 2], &values).unwrap()),
    ];
    safetensors::serialize_to_file(tensors, None, &path.join("adapter_model.safetensors")).unwrap();
}

/// A model that waits before its first step until the sender is dropped.
pub struct Gated {
    inner: Box<dyn Model>,
    gate: Option<Receiver<()>>,
}

impl Gated {
    pub fn closed(inner: Box<dyn Model>) -> (Box<dyn Model>, Sender<()>) {
        let (opener, gate) = std::sync::mpsc::channel();
        (Box::new(Self { inner, gate: Some(gate) }), opener)
    }
}

impl Model for Gated {
    fn config(&self) -> &ModelConfig {
        self.inner.config()
    }

    fn kv_block_bytes(&self) -> usize {
        self.inner.kv_block_bytes()
    }

    fn allocate_kv(&mut self, blocks: usize) -> Result<(), ModelError> {
        self.inner.allocate_kv(blocks)
    }

    fn weight_bytes(&self) -> usize {
        self.inner.weight_bytes()
    }

    fn forward(&mut self, chunks: &[Chunk<'_>], logits: &mut Logits) -> Result<(), ModelError> {
        if let Some(gate) = self.gate.take() {
            assert!(gate.recv().is_err(), "the gate opens by being dropped");
        }
        self.inner.forward(chunks, logits)
    }

    fn adapter_preparer(&self) -> Arc<dyn AdapterPreparer> {
        self.inner.adapter_preparer()
    }
}
