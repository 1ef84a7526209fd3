//! Rules of the house that the compiler does not hold: which room may use which, file lengths, headers, names, paths.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What each room may use besides itself. A room that is missing here is an error, so that a new one is thought about.
/// `model::lora` and the like would be finer than what is checked: rooms, not modules.
const ROOMS: &[(&str, &[&str])] = &[
    (
        "app",
        &[
            "backends",
            "config",
            "engine",
            "experiments",
            "gateway",
            "http",
            "model",
            "outbound",
            "registry",
            "store",
            "telemetry",
            "tenants",
            "training",
            "ids",
        ],
    ),
    ("backends", &["engine", "ids", "model", "outbound"]),
    ("bench", &["engine", "ids", "model", "training"]),
    (
        "cli",
        &[
            "app",
            "backends",
            "bench",
            "config",
            "ids",
            "model",
            "outbound",
            "registry",
            "store",
            "telemetry",
            "tenants",
            "training",
        ],
    ),
    (
        "config",
        &["engine", "experiments", "gateway", "http", "ids", "outbound", "registry", "store", "telemetry", "tenants", "training"],
    ),
    // Pure: sentences to requests.
    ("convert", &["ids"]),
    ("engine", &["ids", "model"]),
    ("experiments", &["ids", "registry", "store", "tenants"]),
    ("gateway", &["backends", "convert", "experiments", "ids", "model", "registry", "telemetry", "tenants"]),
    ("http", &["convert", "experiments", "gateway", "ids", "registry", "telemetry", "tenants", "training"]),
    ("ids", &[]),
    ("main", &["app", "cli"]),
    ("model", &["ids"]),
    ("outbound", &[]),
    ("registry", &["ids", "model", "store"]),
    ("store", &["ids"]),
    // Traces are sent to a collector.
    ("telemetry", &["outbound"]),
    ("tenants", &["ids", "outbound", "store"]),
    ("training", &["backends", "engine", "ids", "model", "registry", "store"]),
];

/// Longest file, lines.
const MAX_LINES: usize = 600;
const VAGUE_NAMES: [&str; 6] = ["util", "utils", "common", "helper", "helpers", "manager"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file that git would commit, relative to the root.
fn committed_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![root().to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let skipped = ["target", ".git", ".venv", "__pycache__"].contains(&name.as_str());
            if path.is_dir() && !skipped {
                directories.push(path);
            } else if path.is_file() && !skipped {
                files.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    files.sort();
    files
}

fn rust_files() -> Vec<(PathBuf, String)> {
    let rust = committed_files().into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    rust.map(|path| (path.clone(), std::fs::read_to_string(root().join(&path)).unwrap())).collect()
}

/// `src/http/openai/chat.rs` -> `http`, `src/cli.rs` -> `cli`; `None` for lib.rs and files outside src.
fn room(path: &Path) -> Option<String> {
    let first = path.strip_prefix("src").ok()?.components().next()?.as_os_str().to_str()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (name != "lib").then(|| name.to_owned())
}

/// Rooms named after `crate::` in code, also in braces: `use crate::{engine, model::config}`.
fn used_rooms(text: &str) -> Vec<(usize, String)> {
    let mut used = Vec::new();
    let ident = |text: &str| text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>();
    for (at, marker) in text.match_indices("crate::") {
        let line = text[..at].lines().count().max(1);
        let beginning = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        if text[beginning..at].trim_start().starts_with("//") {
            continue;
        }
        let rest = &text[at + marker.len()..];
        match rest.strip_prefix('{') {
            None => used.push((line, ident(rest))),
            Some(group) => {
                let mut depth = 0;
                let mut at_start = true;
                for (index, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => at_start = true,
                        c if at_start && !c.is_whitespace() => {
                            used.push((line, ident(&group[index..])));
                            at_start = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    used.retain(|(_, name)| !name.is_empty());
    used
}

#[track_caller]
fn assert_none(findings: Vec<String>) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn rooms_use_only_what_is_below_them() {
    let allowed: BTreeMap<&str, &[&str]> = ROOMS.iter().copied().collect();
    let mut findings = Vec::new();
    for (path, text) in rust_files() {
        let Some(room) = room(&path) else { continue };
        let Some(below) = allowed.get(room.as_str()) else {
            findings.push(format!("{}: room `{room}` is not in the table of tests/tidy.rs", path.display()));
            continue;
        };
        for (line, used) in used_rooms(&text) {
            if allowed.contains_key(used.as_str()) && used != room && !below.contains(&used.as_str()) {
                findings.push(format!("{}:{line}: `{room}` must not use `{used}`", path.display()));
            }
        }
    }
    assert_none(findings);
}

#[test]
fn the_scanner_sees_groups_and_not_comments() {
    let text = "use crate::engine::x;\n// crate::http\nuse crate::{model::{a, b}, ids};\nfn f() { crate::store::g(); }\n";
    let names: Vec<String> = used_rooms(text).into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["engine", "model", "ids", "store"]);
}

#[test]
fn some_crates_live_in_one_room() {
    // crate -> rooms that may name it
    let owners: &[(&str, &[&str])] = &[
        ("axum::", &["http"]),
        ("tower::", &["http"]),
        ("std::env::var", &["config"]),
        ("env::vars", &["config"]),
        ("candle_core::", &["model", "engine"]),
        ("hf_hub::", &["app"]),
        ("reqwest::", &["outbound"]),
        ("clap::", &["cli"]),
        ("sqlx::", &["store"]),
        ("redis::", &["tenants"]),
        ("opentelemetry", &["telemetry"]),
        ("reqwest::", &["outbound", "tenants"]),
        ("mistralrs::", &["backends"]),
    ];
    let mut findings = Vec::new();
    for (path, text) in rust_files() {
        let Some(room) = room(&path) else { continue };
        // Tests at the end of a file may do more.
        for (number, line) in text.lines().take_while(|line| *line != "#[cfg(test)]").enumerate() {
            for (named, rooms) in owners {
                if line.contains(named) && !line.trim_start().starts_with("//") && !rooms.contains(&room.as_str()) {
                    findings.push(format!("{}:{}: `{named}` belongs to {rooms:?}", path.display(), number + 1));
                }
            }
        }
    }
    assert_none(findings);
}

#[test]
fn files_are_short_and_say_what_they_own() {
    let mut findings = Vec::new();
    for (path, text) in rust_files() {
        let lines = text.lines().count();
        if lines > MAX_LINES {
            findings.push(format!("{}: {lines} lines, {MAX_LINES} is the end", path.display()));
        }
        let headed = text.starts_with("//!") || text.starts_with("#![doc = include_str!");
        if !headed {
            findings.push(format!("{}: does not begin with //! and what it owns", path.display()));
        }
    }
    assert_none(findings);
}

#[test]
fn modules_have_names_that_say_something() {
    let vague = |path: &Path| {
        path.components().any(|part| {
            let name = part.as_os_str().to_string_lossy();
            VAGUE_NAMES.contains(&name.strip_suffix(".rs").unwrap_or(&name))
        })
    };
    assert_none(rust_files().iter().filter(|(path, _)| vague(path)).map(|(path, _)| path.display().to_string()).collect());
}

#[test]
fn no_file_names_a_directory_of_somebodys_machine() {
    // In pieces, so that this file does not find itself.
    let homes = [["/ho", "me/"].concat(), ["/wo", "rk/"].concat(), ["/Us", "ers/"].concat(), ["/ro", "ot/"].concat()];
    let mut findings = Vec::new();
    for path in committed_files() {
        let Ok(text) = std::fs::read_to_string(root().join(&path)) else { continue };
        for (number, line) in text.lines().enumerate() {
            if homes.iter().any(|home| line.contains(home.as_str())) {
                findings.push(format!("{}:{}: {}", path.display(), number + 1, line.chars().take(120).collect::<String>()));
            }
        }
    }
    assert_none(findings);
}

#[test]
fn every_setting_is_documented_and_the_example_is_sound() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let (readme, example) = (read("README.md"), read("config/switchyard.toml"));
    let mut findings = Vec::new();
    for setting in switchyard::config::SETTINGS {
        if !readme.contains(&format!("`--{}`", setting.flag)) {
            findings.push(format!("README.md: --{} is missing", setting.flag));
        }
        let table = format!("[{}]", setting.key);
        if !example.lines().any(|line| line.starts_with(&format!("# {} = ", setting.key)) || line.contains(&table)) {
            findings.push(format!("config/switchyard.toml: {} is missing", setting.key));
        }
    }
    assert_none(findings);
}
