//! Downloads against a server of ours that speaks the hub's layout, and breaks connections when told to.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

#[derive(Default)]
struct Content {
    files: BTreeMap<String, Vec<u8>>,
    /// Bodies cut after this many bytes, one entry for each request of that file that is to break.
    cuts: BTreeMap<String, Vec<usize>>,
    /// What every request is answered with, where it is not the usual.
    status: Option<&'static str>,
    /// `path range authorization` of each request.
    requests: Vec<String>,
}

/// A hub on a port of this machine with one repository, `org/tiny`.
struct Hub {
    endpoint: String,
    content: Arc<Mutex<Content>>,
    cache: tempfile::TempDir,
}

impl Hub {
    fn start(files: &[(&str, &[u8])]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
        let content = Arc::new(Mutex::new(Content { files, ..Content::default() }));
        let served = Arc::clone(&content);
        // Ends with the process: the listener has no other owner.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let served = Arc::clone(&served);
                std::thread::spawn(move || answer(stream.unwrap(), &served));
            }
        });
        Self { endpoint, content, cache: tempfile::tempdir().unwrap() }
    }

    fn config(&self) -> HubConfig {
        HubConfig {
            cache: self.cache.path().to_owned(),
            endpoint: self.endpoint.clone(),
            token: Some("hf_test".to_owned()),
            offline: false,
        }
    }

    fn fetch(&self, file: Option<&str>) -> anyhow::Result<PathBuf> {
        fetch(&self.config(), &tiny(file))
    }

    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.content.lock().unwrap().requests)
    }
}

fn tiny(file: Option<&str>) -> HubModel {
    HubModel { repository: "org/tiny".to_owned(), revision: "main".to_owned(), file: file.map(str::to_owned) }
}

/// One request per connection.
fn answer(mut stream: TcpStream, content: &Mutex<Content>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut range, mut authorization) = (String::new(), String::new());
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ").unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "range" => range = value.to_owned(),
            "authorization" => authorization = value.to_owned(),
            _ => {}
        }
    }
    let mut content = content.lock().unwrap();
    content.requests.push(format!("{path} {range} {authorization}"));
    let head = |status: &str, length: usize, more: &str| {
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{more}\r\n")
    };
    if let Some(status) = content.status {
        let _ = stream.write_all(head(status, 0, "").as_bytes());
        return;
    }
    if path.starts_with("/api/models/org/tiny/revision/") {
        let siblings: Vec<_> = content.files.keys().map(|name| serde_json::json!({"rfilename": name})).collect();
        let body = serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string();
        let _ = stream.write_all((head("200 OK", body.len(), "Content-Type: application/json\r\n") + &body).as_bytes());
        return;
    }
    let name = path.strip_prefix(&format!("/org/tiny/resolve/{COMMIT}/")).map(str::to_owned);
    let Some((name, bytes)) = name.and_then(|name| Some((name.clone(), content.files.get(&name)?.clone()))) else {
        let _ = stream.write_all(head("404 Not Found", 0, "").as_bytes());
        return;
    };
    let (from, to) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).unwrap_or(("0", ""));
    let from: usize = from.parse().unwrap();
    let end = to.parse::<usize>().map_or(bytes.len(), |to| to + 1).min(bytes.len());
    if from >= bytes.len() {
        let _ = stream.write_all(head("416 Range Not Satisfiable", 0, "").as_bytes());
        return;
    }
    let body = &bytes[from..end];
    let more = format!(
        "ETag: \"etag-of-{}\"\r\nX-Repo-Commit: {COMMIT}\r\nContent-Range: bytes {from}-{}/{}\r\n",
        name.replace('.', "-"),
        end - 1,
        bytes.len()
    );
    let whole = to.is_empty();
    let cut = content.cuts.get_mut(&name).filter(|cuts| whole && !cuts.is_empty()).map(|cuts| cuts.remove(0));
    let sent = &body[..cut.unwrap_or(body.len()).min(body.len())];
    let _ = stream.write_all(head("206 Partial Content", body.len(), &more).as_bytes());
    let _ = stream.write_all(sent);
}

#[test]
fn only_the_files_that_are_needed_are_downloaded_and_only_once() {
    let hub = Hub::start(&[
        ("config.json", b"{}"),
        ("tokenizer.json", b"tokens"),
        ("model.safetensors", b"weights"),
        ("pytorch_model.bin", b"pickle"),
        ("README.md", b"read me"),
    ]);
    let directory = hub.fetch(None).unwrap();
    let mut names: Vec<_> = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors", "tokenizer.json"]);
    assert_eq!(std::fs::read(directory.join("model.safetensors")).unwrap(), b"weights");
    assert!(hub.requests().iter().all(|request| request.ends_with("Bearer hf_test")));

    assert_eq!(hub.fetch(None).unwrap(), directory);
    let again = hub.requests();
    assert!(again.iter().all(|request| request.contains("bytes=0-0") || request.starts_with("/api/")), "{again:?}");

    let offline = HubConfig { offline: true, endpoint: "http://127.0.0.1:1".to_owned(), ..hub.config() };
    assert_eq!(fetch(&offline, &tiny(None)).unwrap(), directory);
    let other = HubModel { repository: "org/other".to_owned(), ..tiny(None) };
    assert!(fetch(&offline, &other).unwrap_err().to_string().contains("HF_HUB_OFFLINE"));
}

#[test]
fn an_interrupted_download_goes_on_where_it_broke() {
    let weights: Vec<u8> = (0..200_000u32).map(|index| (index % 251) as u8).collect();
    let hub = Hub::start(&[("model-q8_0.gguf", &weights)]);
    hub.content.lock().unwrap().cuts.insert("model-q8_0.gguf".to_owned(), vec![50_000, 0, 70_000]);
    let path = hub.fetch(Some("model-q8_0.gguf")).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), weights);
    let ranges: Vec<String> = hub.requests().iter().filter_map(|request| Some(request.split(' ').nth(1)?.to_owned())).collect();
    let resumed = |from: &str| ranges.iter().any(|range| range == from);
    assert!(resumed("bytes=0-") && resumed("bytes=50000-") && resumed("bytes=120000-"), "{ranges:?}");
}

#[test]
fn shards_are_downloaded_by_their_index_which_cannot_leave_the_directory() {
    let index = br#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}"#;
    let hub =
        Hub::start(&[("config.json", b"{}"), (INDEX, index), ("model-1.safetensors", b"1"), ("model-2.safetensors", b"22")]);
    let directory = hub.fetch(None).unwrap();
    assert_eq!(std::fs::read(directory.join("model-2.safetensors")).unwrap(), b"22");
    for bad in ["../x.safetensors", "/etc/x.safetensors", "x.bin", ".safetensors"] {
        let index = serde_json::json!({"weight_map": {"a": bad}}).to_string();
        assert!(shards(index.as_bytes()).is_err(), "{bad}");
    }
    assert!(check_plain("../x").is_err() && check_plain(COMMIT).is_ok());
}

#[test]
fn a_whole_cache_serves_while_the_hub_is_out_of_reach() {
    let hub = Hub::start(&[("config.json", b"{}"), ("tokenizer.json", b"tokens"), ("model.safetensors", b"weights")]);
    let directory = hub.fetch(None).unwrap();
    let gone = HubConfig { endpoint: "http://127.0.0.1:1".to_owned(), ..hub.config() };
    assert_eq!(fetch(&gone, &tiny(None)).unwrap(), directory);
    let pinned = HubModel { revision: COMMIT.to_owned(), ..tiny(None) };
    assert_eq!(fetch(&gone, &pinned).unwrap(), directory, "a commit by its hash");
    let answering = |status| {
        hub.content.lock().unwrap().status = Some(status);
        hub.fetch(None)
    };
    assert_eq!(answering("503 Service Unavailable").unwrap(), directory);
    for no in ["401 Unauthorized", "404 Not Found"] {
        let error = format!("{:#}", answering(no).unwrap_err());
        assert!(error.contains(&no[..3]), "{error}");
    }
    let missing = fetch(&gone, &tiny(Some("x.gguf"))).unwrap_err().to_string();
    assert!(missing.contains("cannot download org/tiny@main from http://127.0.0.1:1"), "{missing}");
}

#[test]
fn a_cache_that_lacks_a_shard_or_the_tokenizer_is_not_whole() {
    let index = br#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
    let hub = Hub::start(&[
        ("config.json", b"{}"),
        ("tokenizer.json", b"tokens"),
        (INDEX, index),
        ("model-1.safetensors", b"1"),
        ("model-2.safetensors", b"22"),
    ]);
    let directory = hub.fetch(None).unwrap();
    let offline = HubConfig { offline: true, ..hub.config() };
    let gone = HubConfig { endpoint: "http://127.0.0.1:1".to_owned(), ..hub.config() };
    for name in ["model-2.safetensors", "tokenizer.json", INDEX, "config.json"] {
        assert_eq!(fetch(&offline, &tiny(None)).unwrap(), directory);
        let (path, aside) = (directory.join(name), directory.join("aside"));
        std::fs::rename(&path, &aside).unwrap();
        assert!(fetch(&offline, &tiny(None)).unwrap_err().to_string().contains("not whole"), "{name}");
        assert!(fetch(&gone, &tiny(None)).is_err(), "{name}");
        std::fs::rename(&aside, &path).unwrap();
    }
}

#[test]
fn what_is_missing_is_named() {
    let hub = Hub::start(&[("b.gguf", b"b"), ("a.gguf", b"a")]);
    let text = |error: anyhow::Error| format!("{error:#}");
    let error = text(hub.fetch(None).unwrap_err());
    assert!(error.contains("org/tiny:a.gguf") && error.contains("b.gguf"), "{error}");
    assert!(text(hub.fetch(Some("c.gguf")).unwrap_err()).contains("no file c.gguf"));
    let hub = Hub::start(&[("config.json", b"{}")]);
    assert!(text(hub.fetch(None).unwrap_err()).contains("safetensors"));
    let gone = HubConfig { endpoint: "http://127.0.0.1:1".to_owned(), ..hub.config() };
    assert!(text(fetch(&gone, &tiny(None)).unwrap_err()).contains("http://127.0.0.1:1"));
}
