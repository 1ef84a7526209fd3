//! Adapters that are sent over HTTP: put into service when they are whole and fit, and otherwise gone without a trace.

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::{Value, json};
use switchyard::http::Config;

use crate::support::{BASE, Harness, KEY, Options, Reply, chat_body, merged, request, write_adapter};

const BOUNDARY: &str = "xxBOUNDARYxx";
const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// The files of an adapter for the seeded model.
fn files(seed: u32) -> Vec<(&'static str, Vec<u8>)> {
    let dir = tempfile::tempdir().unwrap();
    write_adapter(dir.path(), seed);
    [CONFIG, WEIGHTS].map(|name| (name, std::fs::read(dir.path().join(name)).unwrap())).to_vec()
}

fn form(parts: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, content) in parts {
        let head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n");
        body.extend([head.as_bytes(), content, b"\r\n"].concat());
    }
    body.extend(format!("--{BOUNDARY}--\r\n").into_bytes());
    body
}

async fn send(server: &Harness, name: &str, body: Vec<u8>) -> Reply {
    let request = Request::post(format!("/admin/adapters/{name}/versions"))
        .header("authorization", format!("Bearer {KEY}"))
        .header("content-type", format!("multipart/form-data; boundary={BOUNDARY}"));
    server.send(request.body(Body::from(body)).unwrap()).await
}

async fn push(server: &Harness, name: &str, parts: &[(&str, Vec<u8>)]) -> Reply {
    send(server, name, form(parts)).await
}

/// What is left of uploads, and the versions that are kept.
fn on_disk(server: &Harness) -> (usize, usize) {
    let count = |name: &str| std::fs::read_dir(server.data.path().join(name)).unwrap().count();
    (count("uploads"), count("versions"))
}

#[tokio::test]
async fn sent_files_are_served_numbered_listed_and_removed() {
    let server = Harness::new().await;
    let first = push(&server, "support", &files(1)).await;
    assert_eq!(first.status.as_u16(), 200, "{}", first.text);
    let sent = first.json();
    assert_eq!((&sent["name"], &sent["version"], &sent["owner"]), (&json!("support"), &json!(1), &Value::Null));
    assert!(first.headers["x-adapter-version"].to_str().unwrap().starts_with("support@1+"));
    server.load("other", 1).await;
    let listed = server.get("/v1/lora_adapters").await.json();
    let same: Vec<&Value> = listed["data"].as_array().unwrap().iter().map(|adapter| &adapter["digest"]).collect();
    assert_eq!(same, [&sent["digest"], &sent["digest"]], "the digest is of the content, however it came");
    let one = server.chat(&json!({"model": "support"})).await;
    assert_eq!(server.chat(&json!({"model": "other"})).await["choices"], one["choices"]);

    let expecting = |seed: u32, version: &str| [files(seed), vec![("expected_version", version.into())]].concat();
    let stale = push(&server, "support", &expecting(2, "7")).await;
    let conflict = (409, "invalid_request_error".to_owned(), json!("version_conflict"), json!("expected_version"));
    assert_eq!(stale.error(), conflict);
    let second = push(&server, "support", &expecting(2, "1")).await.json();
    assert_eq!((&second["version"], &second["replaced"]), (&json!(2), &json!(1)));
    let versions = server.get("/admin/adapters/support/versions").await.json()["data"].clone();
    let seen: Vec<(&Value, &Value)> =
        versions.as_array().unwrap().iter().map(|version| (&version["version"], &version["current"])).collect();
    assert_eq!(seen, [(&json!(1), &json!(false)), (&json!(2), &json!(true))]);
    assert_eq!((&versions[0]["digest"], &versions[0]["loaded_by"]), (&sent["digest"], &json!("api")));
    assert_eq!(on_disk(&server), (0, 2));

    let all = server.get("/admin/adapters").await.json();
    assert_eq!(all["data"].as_array().unwrap().len(), 2);
    let delete = async |path: &str| server.send(request(Method::DELETE, path, Body::empty())).await;
    assert_eq!(delete("/admin/adapters/support?expected_version=1").await.status.as_u16(), 409);
    assert_eq!(delete("/admin/adapters/support?colour=red").await.error().2, json!("unknown_parameter"));
    assert_eq!(delete("/admin/adapters/support?expected_version=2").await.json()["deleted"], true);
    let absent = (404, "invalid_request_error".to_owned(), json!("adapter_not_found"), json!("name"));
    assert_eq!(delete("/admin/adapters/support").await.error(), absent);
    assert_eq!(server.get("/admin/adapters/support/versions").await.error(), absent);
    let gone = server.post("/v1/chat/completions", &merged(chat_body(), &json!({"model": "support"}))).await;
    assert_eq!(gone.status.as_u16(), 404);
}

#[tokio::test]
async fn what_is_wrong_with_an_upload_is_named_and_nothing_of_it_stays() {
    let http = Config { upload_limit: 64 * 1024, ..Config::default() };
    let server = Harness::with(Options { http, ..Options::default() }).await;
    let good = files(1);
    let with = |name: &'static str, content: &[u8]| {
        let others = good.iter().filter(|(other, _)| *other != name).cloned();
        others.chain([(name, content.to_vec())]).collect::<Vec<_>>()
    };
    let misfit = String::from_utf8(good[0].1.clone()).unwrap().replace("q_proj", "k_proj").into_bytes();
    for (name, parts, status, code, param) in [
        (BASE, good.clone(), 400, "invalid_value", json!("name")),
        ("a%2Fb", good.clone(), 400, "invalid_value", json!("name")),
        ("a", vec![good[0].clone()], 400, "missing_required_parameter", json!(WEIGHTS)),
        ("a", vec![good[1].clone()], 400, "missing_required_parameter", json!(CONFIG)),
        ("a", with("colour", b"red"), 400, "unknown_parameter", json!("colour")),
        ("a", [good.clone(), good.clone()].concat(), 400, "duplicate_parameter", json!(CONFIG)),
        ("a", with("tenant", b"proj_nobody"), 400, "invalid_value", json!("tenant")),
        ("a", with("tenant", &[0xff]), 400, "invalid_value", json!("tenant")),
        ("a", with("tenant", &[b'x'; 2000]), 400, "string_above_max_length", json!("tenant")),
        ("a", with("expected_version", b"latest"), 400, "invalid_value", json!("expected_version")),
        ("a", with(CONFIG, b"{}"), 400, "unusable_adapter", Value::Null),
        ("a", with(CONFIG, &misfit), 400, "unusable_adapter", Value::Null),
        ("a", with(WEIGHTS, b"broken"), 400, "unusable_adapter", Value::Null),
        ("a", with(WEIGHTS, &[0; 70_000]), 413, "request_too_large", Value::Null),
    ] {
        let reply = push(&server, name, &parts).await;
        assert_eq!(reply.error(), (status, "invalid_request_error".to_owned(), json!(code), param), "{}", reply.text);
        assert!(!reply.text.contains(server.data.path().to_str().unwrap()), "{}", reply.text);
    }
    // Too large and without a length that says so.
    let request = Request::post("/admin/adapters/a/versions")
        .header("authorization", format!("Bearer {KEY}"))
        .header("content-type", format!("multipart/form-data; boundary={BOUNDARY}"));
    let mut parts = good.clone();
    parts[1].1 = vec![0; 100_000];
    let chunks = form(&parts).chunks(1000).map(<[u8]>::to_vec).map(Ok::<_, std::io::Error>).collect::<Vec<_>>();
    let reply = server.send(request.body(Body::from_stream(futures::stream::iter(chunks))).unwrap()).await;
    assert_eq!(reply.error().2, json!("request_too_large"));
    let mut broken_off = form(&good);
    broken_off.truncate(broken_off.len() - 20);
    assert_eq!(send(&server, "a", broken_off).await.error().2, json!("body_incomplete"));
    let json_body = server.post("/admin/adapters/a/versions", &json!({})).await;
    assert_eq!(json_body.error().2, json!("invalid_content_type"));
    assert_eq!(on_disk(&server), (0, 0));
    assert_eq!(server.get("/admin/adapters").await.json()["data"], json!([]));
}

#[tokio::test]
async fn repetitions_conditions_and_the_audit_log_are_those_of_the_admin_api() {
    let server = Harness::new().await;
    let send = async |seed: u32, header: (&str, &str)| {
        let request = Request::post("/admin/adapters/voice/versions")
            .header("authorization", format!("Bearer {KEY}"))
            .header("content-type", format!("multipart/form-data; boundary={BOUNDARY}"))
            .header(header.0, header.1);
        server.send(request.body(Body::from(form(&files(seed)))).unwrap()).await
    };
    let first = send(1, ("idempotency-key", "once")).await;
    assert_eq!((first.status.as_u16(), first.headers["etag"].to_str().unwrap()), (200, "\"1\""), "{}", first.text);
    assert_eq!(send(2, ("if-match", "\"1\"")).await.json()["version"], 2);
    // The repetition gets the old answer and does not move the name back.
    let again = send(1, ("idempotency-key", "once")).await;
    assert_eq!((again.text, again.headers["idempotent-replayed"].to_str().unwrap()), (first.text, "true"));
    assert_eq!(server.get("/v1/lora_adapters").await.json()["data"][0]["version"], 2);
    assert_eq!(send(3, ("idempotency-key", "once")).await.error().2, json!("idempotency_key_reused"));
    assert_eq!(send(3, ("if-match", "\"1\"")).await.error().0, 412);
    let remove = async |tag: &str| {
        let request = Request::delete("/admin/adapters/voice").header("authorization", format!("Bearer {KEY}"));
        server.send(request.header("if-match", tag).body(Body::empty()).unwrap()).await
    };
    assert_eq!(remove("\"1\"").await.error().0, 412);
    assert_eq!(remove("\"2\"").await.status.as_u16(), 200);
    assert_eq!(remove("*").await.error().0, 412, "nothing is there");
    server.load("other", 4).await;
    assert_eq!(server.post("/v1/unload_lora_adapter", &json!({"lora_name": "other"})).await.status.as_u16(), 200);
    let log = server.get("/v1/organization/audit_logs").await.json();
    let seen: Vec<String> = log["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            let kind = row["type"].as_str().unwrap();
            format!("{kind} {} {} {}", row[kind]["id"], row["before"]["version"], row["after"]["version"])
        })
        .collect();
    let expected = [
        "adapter.unloaded \"other\" 1 null",
        "adapter.loaded \"other\" null 1",
        "adapter.unloaded \"voice\" 2 null",
        "adapter.loaded \"voice\" 1 2",
        "adapter.loaded \"voice\" null 1",
    ];
    assert_eq!(seen, expected, "{log}");
    assert_eq!(log["data"][0]["actor"]["api_key"]["id"], "admin");
}
