//! From the first start to the last answer.

use serde_json::{Value, json};

use crate::support::{Home, Server, adapter, client, tiny};

fn roots() -> [String; 2] {
    ["--adapter-root".to_owned(), tiny().join("adapters").to_str().unwrap().to_owned()]
}

fn serve_with_root(home: &Home) -> Server {
    let [flag, root] = roots();
    home.serve(&[&flag, &root])
}

#[tokio::test]
async fn the_printed_commands_work_when_pasted() {
    let home = Home::new();
    let given = format!("support={}", adapter("r4-qv").display());
    let server = home.serve(&["--adapter", &given]);
    assert!(server.announced.contains("support@1"), "{}", server.announced);
    let curls = server.curls();
    assert_eq!(curls.len(), 2, "{}", server.announced);
    for (curl, model) in curls.iter().zip(["llama3", "support"]) {
        let reply = pasted(curl);
        assert_eq!(reply["model"], model, "{reply}");
        assert!(reply["choices"][0]["message"]["content"].is_string(), "{reply}");
    }
    assert_eq!(server.get("/ready").await.0, 200);
    server.stop();

    // Later starts do not show the key, and it still opens.
    let later = home.serve(&[]);
    assert!(!later.announced.contains("sk-sy-"), "{}", later.announced);
    assert!(later.curls()[0].contains("$SWITCHYARD_API_KEY"), "{}", later.announced);
    assert!(later.announced.contains("support@1"), "a flag of before is in service until it is unloaded");
}

/// What `curl` prints when a printed command is pasted into a shell.
fn pasted(curl: &str) -> Value {
    let output = std::process::Command::new("sh").args(["-c", curl]).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stdout)))
}

#[tokio::test]
async fn the_first_command_serves_the_bundled_base_and_its_adapters() {
    let home = Home::new();
    let server = home.serve_bundled();
    for name in ["butler@1", "convert@1", "pirate@1", "terse@1"] {
        assert!(server.announced.contains(name), "{}", server.announced);
    }
    let [talk, convert] = &server.curls()[..] else { panic!("{}", server.announced) };
    let answer = pasted(talk);
    assert_eq!(answer["model"], "switchyard-base");
    assert!(answer["choices"][0]["message"]["content"].as_str().unwrap().contains("call mum"), "{answer}");
    let answer = pasted(convert);
    assert_eq!(answer["model"], "convert");
    let meant = &answer["structured_data"];
    assert_eq!((&meant["intent"], &meant["task"]), (&json!("set_reminder"), &json!("call mum")), "{answer}");
    assert_eq!(meant["when"]["text"], "tomorrow at six");
}

#[tokio::test]
async fn what_was_loaded_is_there_again_after_a_stop_and_after_a_kill() {
    let home = Home::new();
    let mut server = serve_with_root(&home);
    let key = server.key.clone();
    assert_eq!(server.load("support", "r4-qv", false).await.0, 200);
    let first = server.completion("support").await;
    assert_eq!(server.load("support", "r8-all-rslora", true).await.0, 200);
    assert_eq!(server.load("gone", "regex", false).await.0, 200);
    assert_eq!(server.post("/v1/unload_lora_adapter", &json!({"lora_name": "gone"})).await.0, 200);
    let second = server.completion("support").await;
    assert_ne!(first, second);
    let listed = server.get("/v1/lora_adapters").await.1;

    for end in [Server::stop as fn(Server), Server::kill] {
        end(server);
        // Without the root: what is served is the copy in the data directory.
        server = home.serve(&[]);
        server.key.clone_from(&key);
        assert_eq!(server.get("/v1/lora_adapters").await.1, listed);
        assert_eq!(server.completion("support").await, second);
        assert_eq!(server.completion("support@1").await, first);
        let models = server.get("/v1/models").await.1.to_string();
        assert!(models.contains("support") && !models.contains("gone"), "{models}");
    }
}

/// The tiny model and two adapters where the bundled ones would be.
fn bundle(home: &Home) {
    let gguf = home.path("models/switchyard-base-q8_0.gguf");
    std::fs::create_dir(home.path("models")).unwrap();
    let made = home.run(&["quantize", tiny().to_str().unwrap(), gguf.to_str().unwrap(), "--type", "q8_0"]);
    assert_eq!(made.code, Some(0), "{made:?}");
    for name in ["r4-qv", "regex"] {
        let to = home.path("adapters").join(name);
        std::fs::create_dir_all(&to).unwrap();
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            std::fs::copy(adapter(name).join(file), to.join(file)).unwrap();
        }
    }
}

#[tokio::test]
async fn a_bundled_adapter_that_was_unloaded_stays_out_until_it_is_named() {
    let home = Home::new();
    bundle(&home);
    let serve = |more: &[&str]| {
        let mut command = home.command(&["serve", "--listen", "127.0.0.1:0", "--threads", "1"]);
        command.args(more);
        Server::start(command)
    };
    let server = serve(&[]);
    assert!(server.announced.contains("adapters  r4-qv@1, regex@1"), "{}", server.announced);
    assert_eq!(server.post("/v1/unload_lora_adapter", &json!({"lora_name": "regex"})).await.0, 200);
    server.stop();
    let later = serve(&[]);
    assert!(later.announced.contains("adapters  r4-qv@1\n"), "{}", later.announced);
    later.stop();
    let removed = home.run(&["adapters", "remove", "r4-qv"]);
    assert_eq!(removed.code, Some(0), "{removed:?}");
    let named = format!("regex={}", adapter("regex").display());
    let explicit = serve(&["--adapter", &named]);
    assert!(explicit.announced.contains("adapters  regex@2\n"), "{}", explicit.announced);
    explicit.stop();
}

/// Starts four streams on a server that can run one sequence at a time, and returns them when all are accepted. Each answers so many
/// prompts, which keeps the server busy for far longer than it takes to send the next request or a signal.
async fn long_streams(server: &Server, prompts: usize) -> Vec<reqwest::Response> {
    let mut streams = Vec::new();
    for _ in 0..4 {
        let body = json!({"model": "llama3", "prompt": vec!["again"; prompts], "max_tokens": 480, "temperature": 0,
            "ignore_eos": true, "stream": true});
        let stream = server.post_open("/v1/completions", &body).await;
        assert_eq!(stream.status(), 200);
        streams.push(stream);
    }
    streams
}

async fn running(server: &Server) -> u64 {
    let reply = client().get(format!("{}/metrics", server.url)).bearer_auth(&server.key).send().await.unwrap();
    let text = reply.text().await.unwrap();
    let value = |name: &str| {
        let line = text.lines().find(|line| line.contains(name) && !line.starts_with('#'));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or_else(|| panic!("{name}\n{text}"))
    };
    (value("running_sequences") + value("waiting_sequences")) as u64
}

#[tokio::test]
async fn sigterm_lets_running_answers_end_and_takes_no_new_ones() {
    let home = Home::new();
    let server = home.serve(&["--max-sequences", "1", "--prefix-cache", "off", "--speculation-tokens", "0"]);
    let streams = long_streams(&server, 16).await;
    assert!(running(&server).await > 0, "answers are still running when the signal comes");
    server.signal(libc::SIGTERM);
    for stream in streams {
        let text = stream.text().await.unwrap();
        assert!(text.trim_end().ends_with("data: [DONE]"), "cut off: ...{}", &text[text.len().saturating_sub(300)..]);
        assert!(text.contains(r#""finish_reason":"length""#));
    }
    let url = server.url.clone();
    let (status, err) = server.wait();
    assert_eq!(status.code(), Some(0), "{err}");
    assert!(client().get(format!("{url}/health")).send().await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn the_drain_deadline_cuts_answers_off_and_the_end_is_still_good() {
    let home = Home::new();
    let server =
        home.serve(&["--max-sequences", "1", "--prefix-cache", "off", "--speculation-tokens", "0", "--drain-deadline", "0"]);
    let streams = long_streams(&server, 60).await;
    server.signal(libc::SIGINT);
    let (status, err) = server.wait();
    assert_eq!(status.code(), Some(0), "{err}");
    assert!(err.contains("cut answers off"), "{err}");
    let mut cut = 0;
    for stream in streams {
        // Some ended before the signal; the others say that they did not. A body may also break off with its connection.
        let text = stream.text().await.unwrap_or_default();
        if text.matches(r#""finish_reason":"length""#).count() < 60 {
            cut += 1;
            assert!(text.is_empty() || text.contains(r#""error""#), "{text}");
        }
    }
    assert!(cut > 0);
}
