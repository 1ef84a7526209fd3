//! The official `openai` Python package against a server in this process. `tests/run` makes a Python with the package.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::scripted::Script;
use crate::support::{BASE, Harness, KEY, Options, SeededOptions};

/// `SWITCHYARD_TEST_PYTHON`, or the virtual environment that `tests/run` makes; `None` where neither has the package.
fn python() -> Option<PathBuf> {
    let given = given();
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    let python = given.unwrap_or(made);
    let has_package = Command::new(&python).args(["-c", "import openai"]).output().is_ok_and(|output| output.status.success());
    has_package.then_some(python)
}

fn given() -> Option<PathBuf> {
    std::env::var_os("SWITCHYARD_TEST_PYTHON").map(PathBuf::from)
}

/// Runs a script of this directory against a server.
async fn run(script: &str, server: &Harness, arguments: &[&str]) {
    let Some(python) = python() else {
        assert!(given().is_none(), "SWITCHYARD_TEST_PYTHON is set, but that Python has no `openai` package");
        eprintln!("SKIPPED: no Python with the `openai` package; run tests/run, or set SWITCHYARD_TEST_PYTHON");
        return;
    };
    let listening = server.listen().await;
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openai").join(script));
    command.args(["--base-url", &format!("{}/v1", listening.url), "--base", BASE]).args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    assert!(out.contains("all checks passed"), "{out}\n{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_client_is_served() {
    let model = SeededOptions { context: 4096, ..SeededOptions::default() };
    let server = Harness::with(Options { model, ..Options::default() }).await;
    server.load("polite", 1).await;
    run("client.py", &server, &["--api-key", KEY, "--adapter", "polite"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_client_administers() {
    let server = Harness::new().await;
    run("admin_client.py", &server, &["--admin-key", KEY]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_client_fine_tunes() {
    let server = Harness::new().await;
    let driver = server.drive(&Script::new(8)).await;
    run("fine_tuning_client.py", &server, &["--api-key", KEY]).await;
    driver.stop().await;
}
