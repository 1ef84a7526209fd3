//! Tenants, keys, prices and usage from the command line, beside a running server.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Home, Server};

fn done(home: &Home, arguments: &[&str]) -> String {
    let finished = home.run(arguments);
    assert_eq!(finished.code, Some(0), "{arguments:?}: {finished:?}");
    finished.out
}

fn key_in(text: &str) -> String {
    text.split_whitespace().find(|word| word.starts_with("sk-sy-")).unwrap_or_else(|| panic!("{text}")).to_owned()
}

/// Waits until a key is accepted or not.
async fn until(server: &mut Server, key: &str, status: u16) {
    let admin = std::mem::replace(&mut server.key, key.to_owned());
    let began = Instant::now();
    while server.get("/v1/models").await.0 != status {
        assert!(began.elapsed() < Duration::from_secs(5), "it does not become {status}");
    }
    server.key = admin;
}

#[tokio::test]
async fn tenants_and_keys_are_made_and_ended_beside_a_server() {
    let home = Home::new();
    let mut server = home.serve(&["--backend", "null", "--null-delay", "1ms"]);
    let tenant = done(&home, &["tenants", "create", "Acme"]).trim().to_owned();
    assert!(tenant.starts_with("proj_") && done(&home, &["tenants", "list"]).contains(&tenant));
    done(&home, &["prices", "set", "--input", "2", "--output", "8"]);
    assert!(done(&home, &["prices", "list"]).contains(" 8 "));
    let made = done(&home, &["keys", "create", "worker", "--tenant", &tenant, "--label", "team=a"]);
    let (id, key) = (made.split_whitespace().next().unwrap(), key_in(&made));
    until(&mut server, &key, 200).await;
    let listed = done(&home, &["keys", "list", "--tenant", &tenant]);
    assert!(listed.contains(id) && !listed.contains(&key), "{listed}");

    server.key = key.clone();
    let body = json!({"model": "llama3", "prompt": "one two three", "max_tokens": 4});
    for _ in 0..3 {
        let (status, text) = server.post("/v1/completions", &body).await;
        assert_eq!(status, 200, "{text}");
    }
    let (_, usage) = server.get("/v1/organization/usage/completions?start_time=0&limit=1").await;
    assert_eq!(usage["object"], "page", "{usage}");
    let shown = done(&home, &["usage", "show", "--by", "tenant", "--by", "key"]);
    let line = shown.lines().find(|line| line.contains(id)).unwrap_or_else(|| panic!("{shown}"));
    assert!(line.contains(&tenant) && line.split_whitespace().any(|word| word == "3"), "{line}");
    let rows = done(&home, &["usage", "export", "--format", "jsonl", "--tenant", &tenant]);
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((rows.len(), &rows[0]["key_id"]), (3, &json!(id)));
    assert!(done(&home, &["usage", "verify"]).contains("the counters agree"));

    let rotated = done(&home, &["keys", "rotate", id, "--overlap", "600"]);
    let new = key_in(&rotated);
    until(&mut server, &new, 200).await;
    until(&mut server, &key, 200).await;
    done(&home, &["keys", "revoke", id]);
    until(&mut server, &key, 401).await;
    done(&home, &["tenants", "archive", &tenant]);
    until(&mut server, &new, 401).await;
    assert!(!done(&home, &["tenants", "list"]).contains(&tenant));
    assert!(done(&home, &["tenants", "list", "--all"]).contains(&tenant));
    server.stop();
}

#[test]
fn mistakes_are_named() {
    let home = Home::new();
    for (arguments, named) in [
        (&["keys", "create", "x", "--tenant", "proj_nobody"][..], "proj_nobody"),
        (&["keys", "create", "x", "--scope", "root"], "root"),
        (&["keys", "create", "x", "--scope", "admin"], "admin"),
        (&["keys", "create", "x", "--label", "a"], "NAME=VALUE"),
        (&["keys", "create", "x", "--priority", "urgent"], "urgent"),
        (&["keys", "revoke", "key_nobody"], "key_nobody"),
        (&["tenants", "archive", "proj_default"], "default project"),
        (&["prices", "set", "--input", "-", "--output", "1"], "--input"),
        (&["prices", "set", "--input", "1", "--output", "0.0000000001"], "--output"),
    ] {
        let finished = home.run(arguments);
        assert!(finished.code == Some(1) && finished.err.contains(named), "{arguments:?}: {finished:?}");
    }
    assert_eq!(home.run(&["usage", "show", "--from", "yesterday"]).code, Some(64));
}

#[tokio::test]
async fn verify_fails_where_the_counters_were_changed() {
    use sqlx::Connection;
    let home = Home::new();
    let server = home.serve(&["--backend", "null", "--null-delay", "1ms"]);
    let (status, _) = server.post("/v1/completions", &json!({"model": "llama3", "prompt": "x", "max_tokens": 2})).await;
    assert_eq!(status, 200);
    server.stop();
    assert!(done(&home, &["usage", "verify"]).contains("1 requests"));
    sqlx::any::install_default_drivers();
    let url = format!("sqlite://{}", home.data().join("switchyard.db").display());
    let mut connection = sqlx::AnyConnection::connect(&url).await.unwrap();
    sqlx::query("UPDATE usage_hours SET output_tokens = 5").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let finished = home.run(&["usage", "verify"]);
    assert!(
        finished.code == Some(1) && finished.out.contains("counters") && finished.err.contains("differ in 1 hours"),
        "{finished:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_calls_a_webhook_at_its_thresholds() {
    let home = Home::new();
    let server = home.serve(&["--backend", "null", "--null-delay", "1ms"]);
    let (got, mut events) = tokio::sync::mpsc::unbounded_channel::<Value>();
    let take = async move |body: axum::Json<Value>| _ = got.send(body.0);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(take)).await });
    let post = async |path: &str, body: Value| {
        let (status, text) = server.post(path, &body).await;
        assert_eq!(status, 200, "{path}: {text}");
    };
    post("/admin/webhooks", json!({"url": url})).await;
    post("/admin/prices", json!({"usd_per_million_tokens": {"input": "0", "output": "1"}})).await;
    let budget =
        json!({"scope": "project", "subject": "proj_default", "period": "day", "enforcement": "soft", "limit_usd": "0.00001"});
    post("/admin/budgets", budget).await;
    // A millionth of a dollar each.
    for _ in 0..12 {
        post("/v1/completions", json!({"model": "llama3", "prompt": "x", "max_tokens": 1})).await;
    }
    let mut thresholds = Vec::new();
    while thresholds.len() < 3 {
        let event = tokio::time::timeout(Duration::from_secs(10), events.recv()).await.expect("an event").unwrap();
        assert_eq!(event["type"], "budget.threshold_reached");
        thresholds.push(event["data"]["threshold_percent"].as_i64().unwrap());
    }
    thresholds.sort_unstable();
    assert_eq!(thresholds, [50, 80, 100]);
    server.stop();
}
