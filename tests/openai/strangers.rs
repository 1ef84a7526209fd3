//! What tenants can find out about each other: nothing. Names, versions, digests, lists, caches, errors and metrics are tried as a
//! stranger would.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};

use crate::support::{BASE, Harness, Reply, chat_body, completion_body, merged, request};

const CHAT: &str = "/v1/chat/completions";
/// Of the same length, so that even that cannot make a difference.
const SECRET: &str = "secret";
const HASH: &str = "hash-embedding-256";
const ABSENT: &str = "absent";

struct Town {
    server: Harness,
    acme: String,
    bravo: String,
    /// Digests of acme's versions.
    digests: Vec<String>,
}

impl Town {
    /// Acme has two versions of `secret` and one of `support`; bravo another `support`; `common` is everybody's.
    async fn new() -> Self {
        let server = Harness::new().await;
        let (acme, bravo) = (server.key_of("acme").await, server.key_of("bravo").await);
        let load = async |tenant: Option<&str>, name: &str, seed: u32| {
            let path = server.write_adapter(&format!("{name}-{seed}"), seed);
            let body = json!({"lora_name": name, "lora_path": path, "load_inplace": true, "tenant": tenant});
            let reply = server.post("/v1/load_lora_adapter", &body).await;
            assert_eq!(reply.status.as_u16(), 200, "{}", reply.text);
        };
        load(Some("acme"), SECRET, 1).await;
        load(Some("acme"), SECRET, 2).await;
        load(Some("acme"), "support", 3).await;
        load(Some("acme"), "support", 4).await;
        load(Some("bravo"), "support", 5).await;
        load(None, "common", 6).await;
        let mut digests = Vec::new();
        for name in [SECRET, "support"] {
            let versions = server.get(&format!("/admin/adapters/{name}/versions?tenant=acme")).await.json();
            let listed = versions["data"].as_array().unwrap().iter();
            digests.extend(listed.map(|version| version["digest"].as_str().unwrap().to_owned()));
        }
        assert_eq!(digests.len(), 4);
        Self { server, acme, bravo, digests }
    }

    async fn get(&self, key: &str, path: &str) -> Reply {
        let mut request = request(Method::GET, path, Body::empty());
        request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
        self.server.send(request).await
    }

    async fn post(&self, key: &str, path: &str, body: &Value) -> Reply {
        self.server.post_as(key, path, body, &[]).await
    }

    /// A reply without what differs from request to request, the echoed name replaced.
    fn seen(reply: &Reply, name: &str) -> (u16, String, BTreeMap<String, String>) {
        let own = ["x-request-id", "date", "x-gateway-overhead-us"];
        let headers = reply.headers.iter().filter(|(name, _)| !own.contains(&name.as_str()));
        let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
        (reply.status.as_u16(), reply.text.replace(name, "NAME"), headers.collect())
    }

    fn ids(list: &Value) -> Vec<String> {
        let mut ids: Vec<String> = list["data"].as_array().unwrap().iter().map(|model| model["id"].to_string()).collect();
        ids.sort();
        ids
    }
}

#[tokio::test]
async fn somebody_elses_adapter_is_answered_like_one_that_does_not_exist() {
    let town = Town::new().await;
    let versions = ["", "@1", "@2", "@3"].map(str::to_owned).into_iter();
    let digests = town.digests.iter().flat_map(|digest| [format!("@{digest}"), format!("@{}", &digest[..12])]);
    for version in versions.chain(digests) {
        let replies = async |name: &str| {
            let model = format!("{name}{version}");
            let mut seen = Vec::new();
            for (path, body) in [
                (CHAT, chat_body()),
                (CHAT, merged(chat_body(), &json!({"stream": true}))),
                ("/v1/completions", completion_body()),
                ("/tokenize", json!({"prompt": "x"})),
                ("/detokenize", json!({"tokens": [65]})),
            ] {
                let reply = town.post(&town.bravo, path, &merged(body, &json!({"model": model}))).await;
                assert_eq!(reply.error().0, 404, "{path} {model}: {}", reply.text);
                seen.push(Town::seen(&reply, &model));
            }
            let card = town.get(&town.bravo, &format!("/v1/models/{model}")).await;
            assert_eq!(card.error().0, 404, "{}", card.text);
            seen.push(Town::seen(&card, &model));
            seen
        };
        assert_eq!(replies(SECRET).await, replies(ABSENT).await, "{version}");
    }
    for model in ["secret", "secret@1", "secret@2"] {
        let reply = town.post(&town.acme, CHAT, &merged(chat_body(), &json!({"model": model}))).await;
        assert_eq!(reply.status.as_u16(), 200, "its owner has it: {}", reply.text);
    }
}

#[tokio::test]
async fn equal_names_mean_each_tenants_own() {
    let town = Town::new().await;
    let ask = async |key: &str, model: &str| {
        let reply = town.post(key, CHAT, &merged(chat_body(), &json!({"model": model}))).await;
        let version = reply.headers.get("x-adapter-version").map(|version| version.to_str().unwrap().to_owned());
        (reply.status.as_u16(), version.unwrap_or_default(), reply.json()["choices"].clone())
    };
    let (acme, bravo) = (ask(&town.acme, "support").await, ask(&town.bravo, "support").await);
    assert!(acme.1.starts_with("support@2+") && bravo.1.starts_with("support@1+"), "{acme:?} {bravo:?}");
    assert_ne!(acme.2, bravo.2);
    // Bravo's only version is its first, and acme's digests name nothing of bravo's.
    assert_eq!(ask(&town.bravo, "support@2").await.0, 404);
    for digest in &town.digests {
        assert_eq!(ask(&town.bravo, &format!("support@{digest}")).await.0, 404);
        assert_eq!(ask(&town.bravo, &format!("common@{digest}")).await.0, 404);
    }
    let (a, b) = (ask(&town.acme, "common").await, ask(&town.bravo, "common").await);
    assert_eq!(a, b, "what is shared is the same for both");
}

#[tokio::test]
async fn lists_hold_what_is_the_tenants_own_and_what_is_shared() {
    let town = Town::new().await;
    let quoted = |names: &[&str]| names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>();
    let models = town.get(&town.bravo, "/v1/models").await;
    assert_eq!(Town::ids(&models.json()), quoted(&["common", HASH, "support", BASE]));
    assert_eq!(Town::ids(&town.get(&town.acme, "/v1/models").await.json()), quoted(&["common", HASH, SECRET, "support", BASE]));
    // Acme is busy with its own and with the shared adapter while bravo looks.
    let held = merged(chat_body(), &json!({"model": "common", "max_tokens": 200, "ignore_eos": true}));
    let (adapters, busy) = tokio::join!(town.get(&town.bravo, "/v1/lora_adapters"), town.post(&town.acme, CHAT, &held));
    assert_eq!(busy.status.as_u16(), 200, "{}", busy.text);
    let listed = adapters.json();
    let seen: Vec<(&Value, &Value, bool)> = listed["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|adapter| (&adapter["name"], &adapter["owner"], adapter.get("leases").is_some()))
        .collect();
    let (common, support) = (json!("common"), json!("support"));
    assert_eq!(seen, [(&common, &Value::Null, false), (&support, &json!("bravo"), true)], "who uses a shared one is not told");
    for reply in [&models, &adapters, &town.get(&town.bravo, "/metrics").await] {
        for trace in [SECRET, "acme"].into_iter().chain(town.digests.iter().map(|digest| &digest[..12])) {
            assert!(!reply.text.contains(trace), "{trace} in {}", reply.text);
        }
    }
    // What operators look at is not for tenants, whether what is asked for exists or not.
    for name in [SECRET, ABSENT] {
        let path = format!("/admin/adapters/{name}/versions?tenant=acme");
        assert_eq!(town.get(&town.bravo, &path).await.error().0, 403);
        assert_eq!(town.get(&town.acme, &path).await.error().0, 403);
    }
}

#[tokio::test]
async fn neither_answers_nor_computed_prefixes_are_found_by_another_tenant() {
    let town = Town::new().await;
    let prompt = "a long beginning that both of them send ".repeat(4);
    let body = merged(completion_body(), &json!({"prompt": prompt, "max_tokens": 4}));
    let ask = async |key: &str, headers: &[(&str, &str)]| {
        let reply = town.server.post_as(key, "/v1/completions", &body, headers).await;
        assert_eq!(reply.status.as_u16(), 200, "{}", reply.text);
        let reused = reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
        (reply.headers["x-cache"].to_str().unwrap().to_owned(), reused)
    };
    let allow = [("x-response-cache", "allow")];
    assert_eq!(ask(&town.acme, &[]).await.1, 0);
    assert!(ask(&town.acme, &[]).await.1 >= 128, "its own prefix is found");
    assert_eq!(ask(&town.bravo, &[]).await.1, 0, "another tenant's is not");
    assert_eq!(ask(&town.acme, &allow).await.0, "miss");
    assert_eq!(ask(&town.acme, &allow).await.0, "hit");
    assert_eq!(ask(&town.bravo, &allow).await.0, "miss", "an answer of another tenant is not found");

    // Bravo's answers of its own `support` stay when acme replaces and removes an adapter of that name.
    let support = merged(chat_body(), &json!({"model": "support"}));
    let kept = async || {
        let reply = town.server.post_as(&town.bravo, CHAT, &support, &allow).await;
        reply.headers["x-cache"].to_str().unwrap().to_owned()
    };
    assert_eq!((kept().await.as_str(), kept().await.as_str()), ("miss", "hit"));
    let path = town.server.write_adapter("support-9", 9);
    let load = json!({"lora_name": "support", "lora_path": path, "load_inplace": true, "tenant": "acme"});
    assert_eq!(town.server.post("/v1/load_lora_adapter", &load).await.status.as_u16(), 200);
    assert_eq!(kept().await, "hit");
    let unload = json!({"lora_name": "support", "tenant": "acme"});
    assert_eq!(town.server.post("/v1/unload_lora_adapter", &unload).await.status.as_u16(), 200);
    assert_eq!(kept().await, "hit");
}
