//! What all changes have in common: scopes, versions, repetitions, the audit log.

use axum::http::Method;
use serde_json::{Value, json};

use crate::support::{Harness, KEY};

const ORG: &str = "/v1/organization";

#[tokio::test]
async fn only_admins_change_and_only_the_organization_looks() {
    let server = Harness::new().await;
    let (project, _, _, tenant_key) = server.tenant("Acme").await;
    let reader = server.done(Method::POST, "/admin/keys", json!({"name": "auditor", "scopes": ["read_only"]})).await;
    let reader = reader["value"].as_str().unwrap();
    let paths = ["projects", "admin_api_keys", "audit_logs", "spend_alerts"].map(|path| format!("{ORG}/{path}"));
    let own = ["keys", "limits", "budgets", "prices", "webhooks"].map(|path| format!("/admin/{path}"));
    for path in paths.iter().chain(&own) {
        let status = async |key: &str| server.call(Method::GET, path, None, key, &[]).await.status.as_u16();
        assert_eq!(
            (status(KEY).await, status(reader).await, status(&tenant_key).await, status("x").await),
            (200, 200, 403, 401),
            "{path}"
        );
    }
    for (method, path) in [
        (Method::POST, format!("{ORG}/projects")),
        (Method::DELETE, format!("{ORG}/admin_api_keys/admin")),
        (Method::POST, "/admin/keys".to_owned()),
        (Method::PUT, "/admin/limits/default/*/*".to_owned()),
    ] {
        for key in [reader, &tenant_key] {
            let reply = server.call(method.clone(), &path, Some(&json!({"name": "x"})), key, &[]).await;
            assert_eq!(reply.error().2, "insufficient_permissions", "{method} {path}");
        }
    }
    let usage = async |key: &str, more: &str| {
        let path = format!("{ORG}/usage/completions?start_time=0&limit=1{more}");
        server.call(Method::GET, &path, None, key, &[]).await.status.as_u16()
    };
    assert_eq!(usage(&tenant_key, "").await, 200);
    assert_eq!(usage(&tenant_key, &format!("&project_ids={project}")).await, 200);
    assert_eq!(usage(&tenant_key, "&project_ids=proj_default").await, 403);
    assert_eq!(usage(&tenant_key, "&project_ids=proj_nobody").await, 403, "no way to find out which ones there are");
    assert_eq!(usage(reader, "&project_ids=proj_default").await, 200);
}

#[tokio::test]
async fn a_change_can_depend_on_the_version_that_was_seen() {
    let server = Harness::new().await;
    let (project, ..) = server.tenant("Acme").await;
    let path = format!("{ORG}/projects/{project}");
    let seen = server.call(Method::GET, &path, None, KEY, &[]).await.headers["etag"].to_str().unwrap().to_owned();
    let rename =
        async |etag: &str| server.call(Method::POST, &path, Some(&json!({"name": "New"})), KEY, &[("if-match", etag)]).await;
    let first = rename(&seen).await;
    assert_eq!(first.status.as_u16(), 200);
    assert_ne!(first.headers["etag"].to_str().unwrap(), seen);
    let second = rename(&seen).await;
    assert_eq!((second.status.as_u16(), second.json()["error"]["code"].as_str()), (412, Some("precondition_failed")));
    assert_eq!(rename("*").await.status.as_u16(), 200);
    assert_eq!(rename("\"other\"").await.status.as_u16(), 412);
    // What is not there has version 0.
    let limit = format!("/admin/limits/project/{project}/*");
    let set = async |etag: &str| {
        server
            .call(Method::PUT, &limit, Some(&json!({"requests_per_minute": 5})), KEY, &[("if-match", etag)])
            .await
            .status
            .as_u16()
    };
    assert_eq!((set("*").await, set("\"0\"").await, set("\"0\"").await, set("*").await), (412, 200, 412, 200));
}

#[tokio::test]
async fn a_repeated_change_is_done_once_and_answered_alike() {
    let server = Harness::new().await;
    let (path, body) = (format!("{ORG}/admin_api_keys"), json!({"name": "once"}));
    let send =
        async |key: &str, body: &Value| server.call(Method::POST, &path, Some(body), KEY, &[("idempotency-key", key)]).await;
    let (first, again) = tokio::join!(send("k1", &body), send("k1", &body));
    assert_eq!((first.status.as_u16(), again.status.as_u16()), (200, 200), "{} {}", first.text, again.text);
    assert_eq!(first.text, again.text, "the key that is shown once is shown to the repetition, too");
    let replays = [&first, &again].into_iter().filter(|reply| reply.headers.contains_key("idempotent-replayed")).count();
    assert_eq!(replays, 1);
    assert_eq!(first.headers["etag"], again.headers["etag"]);
    let other = send("k1", &json!({"name": "other"})).await;
    assert_eq!((other.status.as_u16(), other.json()["error"]["code"].as_str()), (409, Some("idempotency_key_reused")));
    assert_ne!(send("k2", &body).await.text, first.text);
    // What failed may be tried again.
    assert_eq!(send("k3", &json!({"name": ""})).await.status.as_u16(), 400);
    assert_eq!(send("k3", &body).await.status.as_u16(), 200);
    let listed = server.done(Method::GET, &path, Value::Null).await;
    assert_eq!(listed["data"].as_array().unwrap().len(), 4);
    // Keys of others are others.
    let second = first.json()["value"].as_str().unwrap().to_owned();
    let theirs = server.call(Method::POST, &path, Some(&body), &second, &[("idempotency-key", "k1")]).await;
    assert_ne!(theirs.text, first.text);
    server.tenants.database().close().await;
    for file in std::fs::read_dir(server.data.path()).unwrap() {
        let Ok(bytes) = std::fs::read(file.unwrap().path()) else { continue };
        assert!(!String::from_utf8_lossy(&bytes).contains(&second[6..]), "the kept answer is in clear");
    }
}

#[tokio::test]
async fn every_change_is_in_the_audit_log_without_secrets() {
    let server = Harness::new().await;
    let (project, account, key_id, key) = server.tenant("Acme").await;
    let renamed = server
        .call(
            Method::POST,
            &format!("{ORG}/projects/{project}"),
            Some(&json!({"name": "New"})),
            KEY,
            &[("x-request-id", "mine-1")],
        )
        .await;
    assert_eq!(renamed.status.as_u16(), 200);
    // Refused: not in the log.
    server.admin(Method::POST, &format!("{ORG}/projects/{project}"), json!({"name": ""})).await;
    let log = server.done(Method::GET, &format!("{ORG}/audit_logs"), Value::Null).await;
    let types: Vec<&str> = log["data"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["project.updated", "api_key.created", "service_account.created", "project.created"], "the newest first");
    let event = &log["data"][0];
    assert_eq!(event["actor"]["api_key"]["id"], "admin");
    assert_eq!((&event["project"]["id"], &event["request_id"]), (&json!(project), &json!("mine-1")));
    assert_eq!((&event["before"]["name"], &event["after"]["name"]), (&json!("Acme"), &json!("New")));
    assert_eq!(event["project.updated"], json!({"id": project, "changes_requested": {"name": "New"}}));
    assert_eq!(log["data"][1]["api_key.created"]["data"]["scopes"], json!(["inference", "fine_tuning"]));
    assert!(!log.to_string().contains(&key[6..]) && !log.to_string().contains("hash"), "{log}");
    let filtered = async |query: &str| {
        let log = server.done(Method::GET, &format!("{ORG}/audit_logs?{query}"), Value::Null).await;
        log["data"].as_array().unwrap().len()
    };
    assert_eq!(filtered("event_types[]=project.created&event_types[]=project.updated").await, 2);
    assert_eq!(filtered(&format!("resource_ids[]={account}")).await, 1);
    assert_eq!(filtered(&format!("resource_ids[]={key_id}")).await, 1);
    assert_eq!(filtered("actor_ids[]=nobody").await, 0);
    assert_eq!(filtered("effective_at[gt]=0&effective_at[lt]=10000000000").await, 4);
    assert_eq!(filtered("effective_at[lt]=5").await, 0);
    let first = server.done(Method::GET, &format!("{ORG}/audit_logs?limit=3"), Value::Null).await;
    let rest =
        server.done(Method::GET, &format!("{ORG}/audit_logs?after={}", first["last_id"].as_str().unwrap()), Value::Null).await;
    assert_eq!((rest["data"].as_array().unwrap().len(), &rest["data"][0]["type"]), (1, &json!("project.created")));
    let before = format!("{ORG}/audit_logs?before={}", rest["first_id"].as_str().unwrap());
    assert_eq!(server.done(Method::GET, &before, Value::Null).await["data"], first["data"]);
}
