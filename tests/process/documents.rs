//! The examples of documents that need no model, pasted into a shell one after the other.

use std::path::Path;
use std::process::Command;

use crate::support::{Home, Server};

/// The shell blocks of a document, as one script.
fn script(document: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(document);
    let text = std::fs::read_to_string(path).unwrap();
    let blocks = text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    // A failure in a pipe or in the middle is a failure; commands are shown as they run.
    format!("set -euxo pipefail\n{}", blocks.collect::<Vec<_>>().join("\n"))
}

/// What the examples of a document print, on a server over the tiny base.
fn pasted(document: &str) -> String {
    let home = Home::new();
    let server = home.serve(&["--backend", "null", "--null-delay", "1ms"]);
    pasted_to(document, &home, server)
}

/// What the examples of a document print, on this server.
fn pasted_to(document: &str, home: &Home, server: Server) -> String {
    // The binary under its name.
    let bin = home.path("bin");
    std::fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_switchyard"), bin.join("switchyard")).unwrap();
    let path = std::env::vars().find_map(|(name, value)| (name == "PATH").then_some(value)).unwrap();
    let output = Command::new("bash")
        .args(["-c", &script(document)])
        // What tests are told is none of the commands' business.
        .env_clear()
        .env("HOME", home.dir.path())
        .env("PATH", format!("{}:{path}", bin.display()))
        .env("url", &server.url)
        .env("SWITCHYARD_API_KEY", &server.key)
        .env("SWITCHYARD_DATA_DIR", home.data())
        .current_dir(home.dir.path())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && !out.contains("\"error\":{"), "{out}\n{err}");
    server.stop();
    out.into_owned()
}

#[test]
fn the_examples_of_the_administration_work_when_pasted() {
    let out = pasted("admin.md");
    assert!(out.contains("the counters agree"), "{out}");
}

#[test]
fn the_examples_of_deployments_work_when_pasted() {
    let out = pasted("deployments.md");
    assert!(out.contains("x-experiment-arm: canary") && out.contains("\"action\":\"rolled_back\""), "{out}");
    let last = out.lines().rfind(|line| line.starts_with('{')).unwrap();
    assert!(last.contains("\"action\":\"deleted\""), "{out}");
}

#[test]
fn the_examples_of_rollouts_work_when_pasted() {
    let home = Home::new();
    let server = Server::start(home.command(&["serve", "--listen", "127.0.0.1:0", "--backend", "null", "--null-delay", "1ms"]));
    let out = pasted_to("rollouts.md", &home, server);
    assert!(out.contains("\"state\":\"promoted\"") && out.contains("\"shadow_text\""), "{out}");
}
