//! Adapters over HTTP: loading in vLLM's format, swapping, naming versions, unloading.

use serde_json::{Value, json};

use crate::support::{BASE, Harness, chat_body, merged};

const LOAD: &str = "/v1/load_lora_adapter";
const UNLOAD: &str = "/v1/unload_lora_adapter";

fn content(answer: &Value) -> String {
    answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn loading_and_unloading_speak_vllms_format() {
    let server = Harness::new().await;
    let path = server.write_adapter("a", 1);
    let body = json!({"lora_name": "support", "lora_path": path});
    let loaded = server.post(LOAD, &body).await;
    assert_eq!((loaded.status.as_u16(), loaded.text.as_str()), (200, "Success: LoRA adapter 'support' added successfully."));
    assert!(loaded.headers["content-type"].to_str().unwrap().starts_with("text/plain"));
    assert!(loaded.headers["x-adapter-version"].to_str().unwrap().starts_with("support@1+"));

    let again = server.post(LOAD, &body).await;
    assert_eq!(
        again.json(),
        json!({"error": {
            "message": "The lora adapter 'support' has already been loaded. If you want to load the adapter in place, \
                        set 'load_inplace' to True.",
            "type": "InvalidUserInput", "param": "lora_name", "code": 400,
        }})
    );
    assert_eq!(again.status.as_u16(), 400);
    let gone = server.post(UNLOAD, &json!({"lora_name": "support", "lora_int_id": 7})).await;
    assert_eq!((gone.status.as_u16(), gone.text.as_str()), (200, "Success: LoRA adapter 'support' removed successfully."));
    let missing = server.post(UNLOAD, &json!({"lora_name": "support"})).await;
    assert_eq!(missing.error(), (404, "NotFoundError".to_owned(), json!(404), json!("model")));
    assert_eq!(missing.message(), "The lora adapter 'support' cannot be found.");

    for (path, body, status, kind) in [
        (LOAD, json!({"lora_name": "x"}), 400, "InvalidUserInput"),
        (LOAD, json!({"lora_name": "", "lora_path": path}), 400, "InvalidUserInput"),
        (LOAD, json!({"lora_name": "x", "lora_path": "nowhere"}), 404, "NotFoundError"),
        (LOAD, json!({"lora_name": "x", "lora_path": "../../etc"}), 400, "InvalidUserInput"),
        (LOAD, json!({"lora_name": "x", "lora_path": "/etc"}), 400, "InvalidUserInput"),
        (LOAD, json!({"lora_name": BASE, "lora_path": path}), 400, "InvalidUserInput"),
        (LOAD, json!({"lora_name": "a/../b", "lora_path": path}), 400, "InvalidUserInput"),
        (LOAD, json!({"lora_name": "x", "lora_path": path, "rank": 3}), 400, "InvalidUserInput"),
        (LOAD, json!({"lora_name": "x", "lora_path": path, "load_inplace": "yes"}), 400, "InvalidUserInput"),
        (LOAD, json!([]), 400, "InvalidUserInput"),
        (UNLOAD, json!({}), 400, "InvalidUserInput"),
    ] {
        let reply = server.post(path, &body).await;
        let (got, got_kind, code, _) = reply.error();
        assert_eq!((got, got_kind.as_str(), code), (status, kind, json!(status)), "{body}: {}", reply.text);
    }
    std::fs::write(server.root.path().join("a").join("adapter_model.safetensors"), b"broken").unwrap();
    let broken = server.post(LOAD, &body).await;
    assert_eq!(broken.error(), (400, "BadRequestError".to_owned(), json!(400), json!("lora_path")));
}

/// The bodies that controllers in use send, with every field that they send.
#[tokio::test]
async fn the_loads_and_unloads_of_cluster_controllers_are_understood() {
    let server = Harness::new().await;
    let path = server.write_adapter("a", 1);
    // kubernetes-sigs/gateway-api-inference-extension, tools/dynamic-lora-sidecar
    for base in [json!(BASE), json!("meta-llama/Llama-3.1-8B"), json!(""), Value::Null] {
        let load = json!({"lora_name": "sidecar", "lora_path": path, "base_model_name": base});
        let reply = server.post(LOAD, &load).await;
        assert_eq!(reply.status.as_u16(), 200, "{load}: {}", reply.text);
        let ids = server.get("/v1/models").await.json()["data"].clone();
        assert!(ids.as_array().unwrap().iter().any(|model| model["id"] == "sidecar"), "{ids}");
        assert_eq!(server.post(UNLOAD, &json!({"lora_name": "sidecar"})).await.status.as_u16(), 200);
    }
    // vllm-project/production-stack, operator
    assert_eq!(server.post(LOAD, &json!({"lora_name": "stack", "lora_path": path})).await.status.as_u16(), 200);
    assert_eq!(server.post(UNLOAD, &json!({"lora_name": "stack"})).await.status.as_u16(), 200);
}

#[tokio::test]
async fn a_model_name_means_the_base_an_adapter_or_one_of_its_versions() {
    let server = Harness::new().await;
    server.load("support", 1).await;
    let base = content(&server.chat(&json!({})).await);
    let ask = async |model: &str| {
        let reply = server.post("/v1/chat/completions", &merged(chat_body(), &json!({"model": model}))).await;
        assert_eq!(reply.status.as_u16(), 200, "{}", reply.text);
        assert_eq!(reply.json()["model"], model, "the name as it was asked");
        (reply.headers["x-adapter-version"].to_str().unwrap().to_owned(), content(&reply.json()))
    };
    let (first, text) = ask("support").await;
    assert_ne!(text, base);
    assert_eq!(first.split_once('+').unwrap().0, "support@1");
    server.load("support", 2).await;
    let (second, swapped) = ask("support").await;
    assert_eq!(second.split_once('+').unwrap().0, "support@2");
    assert_ne!(swapped, text);
    assert_eq!(ask("support@1").await, (first.clone(), text.clone()), "an old version answers as it did");
    assert_eq!(ask(&format!("support@{}", first.split_once('+').unwrap().1)).await, (first, text));

    for unknown in ["nobody", "support@9", "support@", "@", "../support", "tiny@1"] {
        let reply = server.post("/v1/chat/completions", &merged(chat_body(), &json!({"model": unknown}))).await;
        let expected = (404, "invalid_request_error".to_owned(), json!("model_not_found"), json!("model"));
        assert_eq!(reply.error(), expected, "{unknown}");
        assert!(reply.message().contains(unknown));
    }
}

#[tokio::test]
async fn names_move_by_compare_and_set() {
    let server = Harness::new().await;
    let load = async |seed: u32, expected: Value| {
        let path = server.write_adapter(&format!("v{seed}"), seed);
        let body = json!({"lora_name": "a", "lora_path": path, "load_inplace": true, "expected_version": expected});
        server.post(LOAD, &body).await
    };
    assert_eq!(load(1, json!("0")).await.status.as_u16(), 200);
    assert_eq!(load(2, json!(1)).await.status.as_u16(), 200);
    let stale = load(3, json!(1)).await;
    assert_eq!(stale.error(), (409, "ConflictError".to_owned(), json!(409), json!("expected_version")));
    assert!(stale.message().contains("a@2"), "{}", stale.message());
    assert_eq!(load(3, json!(true)).await.status.as_u16(), 400);
    let refused = server.post(UNLOAD, &json!({"lora_name": "a", "expected_version": 1})).await;
    assert_eq!(refused.status.as_u16(), 409);
    assert_eq!(server.post(UNLOAD, &json!({"lora_name": "a", "expected_version": 2})).await.status.as_u16(), 200);
}

#[tokio::test]
async fn models_and_adapters_are_listed_without_paths() {
    let server = Harness::new().await;
    server.load("b", 2).await;
    server.load("a", 1).await;
    let models = server.get("/v1/models").await;
    let list = models.json();
    let seen: Vec<(&str, &Value)> =
        list["data"].as_array().unwrap().iter().map(|model| (model["id"].as_str().unwrap(), &model["parent"])).collect();
    assert_eq!(seen, [(BASE, &Value::Null), ("a", &json!(BASE)), ("b", &json!(BASE)), ("hash-embedding-256", &Value::Null)]);
    assert_eq!(list["data"][0]["max_model_len"], 512);
    let adapters = server.get("/v1/lora_adapters").await;
    let first = adapters.json()["data"][0].clone();
    assert_eq!((&first["name"], &first["version"], &first["rank"]), (&json!("a"), &json!(1), &json!(2)));
    assert_eq!(first["digest"].as_str().unwrap().len(), 64);
    for reply in [&models, &adapters] {
        assert!(!reply.text.contains(server.root.path().to_str().unwrap()), "{}", reply.text);
        assert!(!reply.text.contains("/tmp"), "{}", reply.text);
    }
    assert_eq!(server.get("/v1/models/a").await.json()["parent"], BASE);
    assert_eq!(server.get("/v1/models/a@1").await.json()["id"], "a@1");
    assert_eq!(server.get(&format!("/v1/models/{BASE}")).await.json()["parent"], Value::Null);
    let missing = server.get("/v1/models/some%2Fother").await;
    assert_eq!(missing.error().0, 404);
    assert!(missing.message().contains("'some/other'"));
}

/// Whoever names a version that was taken in once has made no mistake when its files are gone.
#[tokio::test]
async fn lost_files_of_a_version_are_the_servers_fault_and_their_place_stays_secret() {
    let server = Harness::new().await;
    server.load("support", 1).await;
    server.load("support", 2).await;
    let versions = server.data.path().join("versions");
    for entry in std::fs::read_dir(&versions).unwrap() {
        std::fs::remove_file(entry.unwrap().path().join("adapter_model.safetensors")).unwrap();
    }
    let old = server.post("/v1/chat/completions", &merged(chat_body(), &json!({"model": "support@1"}))).await;
    assert_eq!(old.error(), (500, "server_error".to_owned(), json!("internal_error"), Value::Null));
    assert!(!old.text.contains(server.data.path().to_str().unwrap()), "{}", old.text);
    assert_eq!(server.get("/v1/models/support@1").await.status.as_u16(), 200, "its name is known");
    let tokenized = server.post("/tokenize", &json!({"model": "support@1", "prompt": "x"})).await;
    assert_eq!(tokenized.status.as_u16(), 200, "no weights are needed");
    assert_eq!(content(&server.chat(&json!({"model": "support"})).await).len(), 24, "the current version is in memory");
}
