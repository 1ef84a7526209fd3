//! The same numbers through the HTTP API at `--quant none`: `/v1/completions` with `echo` and `logprobs`.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use switchyard::engine::{EngineConfig, LeakCheck, start};
use switchyard::experiments::rollout::{self, Rollouts};
use switchyard::experiments::shadow::Shadows;
use switchyard::experiments::{self, Deployments, Recorder, Results};
use switchyard::gateway::{self, Base, Gateway, Metrics};
use switchyard::http::{Config, Parts, Readiness, Server, router};
use switchyard::model::native::{Device, LoadOptions, load};
use switchyard::model::ops::Quant;
use switchyard::registry::{Catalog, Setup};
use switchyard::store::{DataDir, Database, Location};
use switchyard::tenants::{Office, Opening, Sync, Tenants};
use switchyard::training::jobs::desk::{Caps, DeskSetup, Jobs};
use switchyard::training::jobs::files::{FileLimits, Files, FilesSetup};
use tempfile::TempDir;
use tower::ServiceExt;

use crate::golden::{Answer, BASES, Case, FILES, TOLERANCE, case};

const KEY: &str = "sk-numerics-0123456789";

/// A server over a golden base; dropping it asserts that nothing is held in the engine.
struct Served {
    router: Router,
    name: String,
    _leaks: LeakCheck,
    _data: TempDir,
}

impl Served {
    async fn new(case: &Case) -> Self {
        let base = &case.checkpoint;
        let options = LoadOptions { quant: Quant::None, threads: 1, device: Device::Cpu };
        let model = load(&base.config, &base.tensors, options).unwrap();
        let preparer = model.adapter_preparer();
        let engine = start(model, EngineConfig::default()).unwrap();
        let data = TempDir::new().unwrap();
        let store = Arc::new(DataDir::open(data.path()).unwrap());
        let database = Database::open(&Location::File(data.path().join("switchyard.db"))).await.unwrap();
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
            limits: FileLimits { file: 0, tenant: 0 },
        });
        let files = files.await.unwrap();
        let roots = if case.adapters.exists() { vec![case.adapters.clone()] } else { Vec::new() };
        let setup = Setup {
            data: store,
            roots,
            reserved_names: vec![base.name.clone()],
            base: base.config.clone(),
            preparer,
            memory: None,
            shared: None,
        };
        let (catalog, _) = Catalog::open(setup).await.unwrap();
        let registry = prometheus::Registry::new();
        let served = Base {
            name: base.name.clone(),
            tokenizer: base.tokenizer.clone(),
            chat_template: base.chat_template.clone(),
            end_tokens: base.generation.eos.clone(),
            created: 1_700_000_000,
        };
        let setup = experiments::Setup {
            tenants: tenants.clone(),
            catalog: catalog.clone(),
            base: base.name.clone(),
            upstreams: Vec::new(),
        };
        let deployments = Deployments::open(setup).await.unwrap();
        let base_name = base.name.clone();
        let metrics = Metrics::new(&registry).unwrap();
        let gateway = Gateway::new(gateway::Parts {
            base: served,
            backend: engine.clone().into(),
            catalog: catalog.clone(),
            deployments: deployments.clone(),
            recorder: Recorder::default(),
            copies: gateway::shadow::Copies::default(),
            tenants: tenants.clone(),
            upstreams: Default::default(),
            metrics,
            cache: gateway::CacheConfig { bytes: 1 << 20, ttl: std::time::Duration::from_secs(600) },
            default_max_tokens: 2048,
            tool_family: Default::default(),
        });
        let rollouts = Rollouts::new(rollout::Setup {
            deployments: deployments.clone(),
            judge: Arc::new(rollout::Nothing),
            catalog: catalog.clone(),
            base: base_name.clone(),
        });
        let shadows = Shadows::new(tenants.database().clone(), std::time::Duration::from_secs(604_800));
        let server = Server::new(Parts {
            rollouts: rollouts.clone(),
            shadows: shadows.clone(),
            gateway,
            catalog,
            deployments,
            results: Results::new(tenants.database().clone(), Recorder::default()),
            tenants,
            jobs: Jobs::new(DeskSetup { files, base: base.name.clone(), caps: Caps { seconds: 0 }, untrainable: None }),
            workshop: None,
            tokens: None,
            readiness: Readiness::default(),
            registry,
            config: Config::default(),
        })
        .unwrap();
        Self { router: router(server), name: base.name.clone(), _leaks: LeakCheck::new(engine), _data: data }
    }

    async fn post(&self, path: &str, body: &Value) -> String {
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header("authorization", format!("Bearer {KEY}"))
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .unwrap();
        let (parts, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        assert_eq!(parts.status, StatusCode::OK, "{path}: {text}");
        text
    }

    /// Largest difference from the reference over prompt and greedy continuation.
    async fn worst(&self, model: &str, answer: &Answer) -> f32 {
        let body = json!({
            "model": model, "prompt": answer.text, "max_tokens": answer.greedy.len(), "temperature": 0, "echo": true, "logprobs": 5,
            "ignore_eos": true,
        });
        let reply: Value = serde_json::from_str(&self.post("/v1/completions", &body).await).unwrap();
        assert_eq!(reply["usage"]["prompt_tokens"], answer.tokens.len());
        assert_eq!(reply["usage"]["completion_tokens"], answer.greedy.len());
        let logprobs = &reply["choices"][0]["logprobs"];
        let values: Vec<Option<f32>> = serde_json::from_value(logprobs["token_logprobs"].clone()).unwrap();
        let greedy = answer.greedy_logprobs.iter().copied().map(Some);
        let expected: Vec<Option<f32>> = answer.logprobs.iter().copied().chain(greedy).collect();
        assert_eq!(values.len(), expected.len());
        assert_eq!((values[0], expected[0]), (None, None));
        let differences =
            values.iter().zip(&expected).skip(1).map(|(value, expected)| (value.unwrap() - expected.unwrap()).abs());
        let mut worst = differences.fold(0f32, f32::max);
        for (place, best) in answer.top.iter().enumerate() {
            let Some(best) = best else { continue };
            let reported = logprobs["top_logprobs"][place].as_object().unwrap().values();
            let mut values: Vec<f32> = reported.map(|value| value.as_f64().unwrap() as f32).collect();
            values.sort_by(|a, b| b.total_cmp(a));
            assert!(values.len() >= best.len());
            worst = values.iter().zip(best).map(|(value, (_, expected))| (value - expected).abs()).fold(worst, f32::max);
        }
        worst
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_probabilities_over_http_equal_the_references() {
    for name in BASES.into_iter().chain(FILES) {
        let case = case(name);
        let served = Served::new(&case).await;
        let mut largest = 0f32;
        for (adapter, answers) in case.expected.all() {
            if let Some(adapter) = adapter {
                let body = json!({"lora_name": adapter, "lora_path": case.adapters.join(adapter)});
                served.post("/v1/load_lora_adapter", &body).await;
            }
            for (prompt, answer) in answers {
                let difference = served.worst(adapter.unwrap_or(&served.name), answer).await;
                assert!(difference <= TOLERANCE, "{name} {adapter:?} {prompt}: {difference}");
                largest = largest.max(difference);
            }
        }
        eprintln!("http {name}: largest difference {largest:.2e}");
    }
}

/// Embeddings of length 1 against transformers' and peft's last hidden states: values within 1e-4.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embeddings_over_http_equal_the_references() {
    #[derive(serde::Deserialize)]
    struct Expected {
        text: String,
        tokens: usize,
        mean: Vec<f32>,
        last: Vec<f32>,
    }
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/embeddings/expected.json");
    let golden: std::collections::BTreeMap<String, std::collections::BTreeMap<String, Vec<Expected>>> =
        serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    assert_eq!(golden.len(), BASES.len());
    for (base, models) in &golden {
        let case = case(base);
        let served = Served::new(&case).await;
        let mut largest = 0f32;
        for (model, expected) in models {
            let model = if model == "base" {
                served.name.clone()
            } else {
                let body = json!({"lora_name": model, "lora_path": case.adapters.join(model)});
                served.post("/v1/load_lora_adapter", &body).await;
                model.clone()
            };
            let texts: Vec<&str> = expected.iter().map(|expected| expected.text.as_str()).collect();
            for pooling in ["mean", "last"] {
                let body = json!({"model": model, "input": texts, "pooling": pooling});
                let reply: Value = serde_json::from_str(&served.post("/v1/embeddings", &body).await).unwrap();
                let tokens: usize = expected.iter().map(|expected| expected.tokens).sum();
                assert_eq!(reply["usage"]["prompt_tokens"], tokens);
                for (index, expected) in expected.iter().enumerate() {
                    let vector: Vec<f32> = serde_json::from_value(reply["data"][index]["embedding"].clone()).unwrap();
                    let reference = if pooling == "mean" { &expected.mean } else { &expected.last };
                    assert_eq!(vector.len(), reference.len());
                    let difference = vector.iter().zip(reference).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
                    assert!(difference < 1e-4, "{base} {model} {pooling} {index}: {difference}");
                    largest = largest.max(difference);
                }
            }
        }
        eprintln!("embeddings {base}: largest difference {largest:.2e}");
    }
}
