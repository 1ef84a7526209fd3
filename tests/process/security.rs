//! What a stranger may find out: secrets in logs, and requests that were made up from the description of the API.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Home, Server, assert_no_secret};

const ADMIN: &str = "an-admin-key-for-tests-0123456789";

fn serve(home: &Home, level: &str) -> Server {
    let mut command =
        home.command(&["serve", "--listen", "127.0.0.1:0", "--backend", "null", "--null-delay", "1ms", "--log-level", level]);
    command.env("SWITCHYARD_ADMIN_KEY", ADMIN);
    let mut server = Server::start(command);
    server.key = ADMIN.to_owned();
    server
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_else(|| panic!("{path} is not in {value}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_the_log_at_any_level() {
    let home = Home::new();
    let mut server = serve(&home, "trace,h2=off");
    let post = async |server: &Server, path: &str, body: Value| -> Value {
        let (status, reply) = server.post(path, &body).await;
        assert_eq!(status, 200, "{path}: {reply}");
        serde_json::from_str(&reply).unwrap()
    };
    let mut secrets = vec![ADMIN.to_owned()];
    let project = post(&server, "/v1/organization/projects", json!({"name": "acme"})).await;
    let id = text(&project, "/id");
    let account = post(&server, &format!("/v1/organization/projects/{id}/service_accounts"), json!({"name": "app"})).await;
    secrets.push(text(&account, "/api_key/value").to_owned());
    secrets.push(text(&post(&server, "/v1/organization/admin_api_keys", json!({"name": "second"})).await, "/value").to_owned());
    let webhook = post(&server, "/admin/webhooks", json!({"url": "https://127.0.0.1:9/hook"})).await;
    let secret = webhook.as_object().unwrap().iter().find(|(name, _)| name.contains("secret")).unwrap().1;
    secrets.push(secret.as_str().unwrap().to_owned());
    let chat =
        json!({"model": "switchyard-base", "max_tokens": 2, "messages": [{"role": "user", "content": "a-private-matter"}]});
    for key in secrets[..3].iter().map(String::as_str).chain([
        "sk-sy-wrong-0123456789012345678901234567890123456",
        "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhYmNkZWZnaGlqa2xtbm9wcXJzdHV2In0.",
    ]) {
        server.key = key.to_owned();
        server.post("/v1/chat/completions", &chat).await;
    }
    server.signal(libc::SIGTERM);
    let (_, log) = server.wait();
    assert!(log.len() > 1_000, "{log}");
    assert_no_secret(&log);
    for secret in &secrets {
        assert!(!log.contains(secret.as_str()), "{}... is in the log", &secret[..8]);
    }
    assert!(!log.contains("a-private-matter"), "what people say is in the log");
}

/// (One worker: CPython 3.11 loses count in `ast.parse` when two threads use it.) Requests that schemathesis makes up from `/openapi.json`, sound and broken ones: whatever they are, they are not our mistake.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_that_the_description_allows_or_forbids_is_a_server_error() {
    let Some(python) = std::env::vars_os().find_map(|(name, value)| (name == "SWITCHYARD_TEST_PYTHON").then_some(value)) else {
        eprintln!("SKIPPED: tests/run installs schemathesis and names it in SWITCHYARD_TEST_PYTHON");
        return;
    };
    let home = Home::new();
    let server = serve(&home, "error");
    let program = Path::new(&python).with_file_name("schemathesis");
    let url = format!("{}/openapi.json", server.url);
    let key = format!("Authorization: Bearer {ADMIN}");
    // Those that can take the caller's own key away come last.
    let own_key = "^/(admin/keys|v1/organization/admin_api_keys)/";
    for which in ["--exclude-path-regex", "--include-path-regex"] {
        let output = Command::new(&program)
            .args(["run", &url, "--header", &key, "--checks", "not_a_server_error", "--phases", "coverage,fuzzing"])
            .args(["--max-examples", "6", "--seed", "1", "--workers", "1", "--continue-on-failure", "--no-color", which, own_key])
            .args(["--suppress-health-check", "all", "--request-timeout", "60"])
            .current_dir(home.dir.path())
            .output()
            .unwrap();
        let report = String::from_utf8_lossy(&output.stdout);
        let tail: String = report.lines().rev().take(150).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n");
        assert!(output.status.success(), "{tail}\n{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(server.get("/health").await.0, 200);
    let (_, log) = {
        server.signal(libc::SIGTERM);
        server.wait()
    };
    assert!(!log.contains("panicked"), "{log}");
}
