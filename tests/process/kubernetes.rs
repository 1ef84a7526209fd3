//! Manifests, image, dashboards and alerts beside the real binary: `tests/kubernetes/check.py` reads them and asks a server.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::Home;

/// `SWITCHYARD_TEST_PYTHON`, or the virtual environment that `tests/run` makes; `None` where neither has the packages.
fn python() -> Option<PathBuf> {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    let python = given().unwrap_or(made);
    let has_packages = Command::new(&python)
        .args(["-c", "import kubernetes_validate, yaml"])
        .output()
        .is_ok_and(|output| output.status.success());
    has_packages.then_some(python)
}

fn given() -> Option<PathBuf> {
    std::env::vars_os().find_map(|(name, value)| (name == "SWITCHYARD_TEST_PYTHON").then(|| PathBuf::from(value)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deployed_agrees_with_the_binary() {
    let Some(python) = python() else {
        assert!(given().is_none(), "SWITCHYARD_TEST_PYTHON is set, but that Python has no `kubernetes-validate`");
        eprintln!("SKIPPED: no Python with `kubernetes-validate`; run tests/run, or set SWITCHYARD_TEST_PYTHON");
        return;
    };
    let home = Home::new();
    let server = home.serve_bundled();
    // So that everything is counted that dashboards and alerts look at: answers of the base and of an adapter, and a budget that is
    // spent.
    let ask = |model: &'static str| json!({"model": model, "prompt": "good morning", "max_tokens": 4, "temperature": 0});
    for model in ["switchyard-base", "pirate"] {
        let (status, text) = server.post("/v1/completions", &ask(model)).await;
        assert_eq!(status, 200, "{text}");
    }
    let (status, text) =
        server.post("/admin/prices", &json!({"usd_per_million_tokens": {"input": "1000", "output": "1000"}})).await;
    assert_eq!(status, 200, "{text}");
    let budget =
        json!({"scope": "project", "subject": "proj_default", "period": "day", "enforcement": "hard", "limit_usd": "0.000001"});
    let (status, text) = server.post("/admin/budgets", &budget).await;
    assert_eq!(status, 200, "{text}");
    let budget: Value = serde_json::from_str(&text).unwrap();
    let (status, text) = server.post("/v1/completions", &ask("switchyard-base")).await;
    assert!(status == 429 && text.contains("insufficient_quota"), "{status}: {text}");
    let one = format!("/admin/budgets/{}", budget["id"].as_str().unwrap());
    let (status, text) = server.post(&one, &json!({"limit_usd": "1000000"})).await;
    assert_eq!(status, 200, "{text}");

    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubernetes/check.py"));
    command.args(["--binary", env!("CARGO_BIN_EXE_switchyard"), "--url", &server.url, "--key", &server.key]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("all checks passed"), "{out}\n{err}");
    server.stop();
}
