//! What is mistralrs' own: the same base says the same as on our engine, families that our engine does not cover, quantization while it
//! is loaded, adapters as models that come and go.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{Home, Server, adapter, tiny};

fn serve(home: &Home, model: &Path, more: &[&str]) -> Server {
    let model = ["--model", model.to_str().unwrap()];
    home.serve(&[&model[..], more].concat())
}

fn mistralrs(home: &Home, model: &Path, more: &[&str]) -> Server {
    serve(home, model, &[&["--backend", "mistralrs"], more].concat())
}

fn golden(family: &str) -> PathBuf {
    tiny().with_file_name(family)
}

/// What a base says of a chat and of a longer text: its tokens' log-probabilities are in it.
async fn said(server: &Server, model: &str) -> Vec<(String, f64)> {
    let prompt = "The harbour master wrote the names of the boats in a book, one line for every boat that came in.";
    said_of(server, model, json!(prompt)).await
}

async fn said_of(server: &Server, model: &str, prompt: Value) -> Vec<(String, f64)> {
    let body = json!({"model": model, "prompt": prompt, "temperature": 0, "max_tokens": 12, "logprobs": 1, "ignore_eos": true});
    let (status, text) = server.post("/v1/completions", &body).await;
    assert_eq!(status, 200, "{text}");
    let reply: Value = serde_json::from_str(&text).unwrap();
    let report = &reply["choices"][0]["logprobs"];
    let tokens = report["tokens"].as_array().unwrap().iter().map(|token| token.as_str().unwrap().to_owned());
    tokens.zip(report["token_logprobs"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap())).collect()
}

fn assert_close(ours: &[(String, f64)], theirs: &[(String, f64)], what: &str) {
    let words = |all: &[(String, f64)]| all.iter().map(|(token, _)| token.clone()).collect::<Vec<_>>();
    assert_eq!(words(ours), words(theirs), "{what}");
    for ((token, ours), (_, theirs)) in ours.iter().zip(theirs) {
        assert!((ours - theirs).abs() < 0.02, "{what}: {token:?} has {ours} here and {theirs} there");
    }
}

#[tokio::test]
async fn the_same_base_says_the_same_on_both_engines() {
    for family in ["llama3", "llama-linear", "qwen2", "qwen3"] {
        let (here, there) = (Home::new(), Home::new());
        let ours = serve(&here, &golden(family), &["--quant", "none"]);
        let theirs = mistralrs(&there, &golden(family), &[]);
        assert_close(&said(&ours, family).await, &said(&theirs, family).await, family);
    }
}

#[tokio::test]
async fn what_it_computes_otherwise_is_not_served() {
    for family in ["phi2", "phi3", "gemma3"] {
        let home = Home::new();
        let base = golden(family);
        let refused =
            home.run(&["serve", "--listen", "127.0.0.1:0", "--backend", "mistralrs", "--model", base.to_str().unwrap()]);
        assert!(refused.code == Some(1) && refused.err.contains("--backend native"), "{family}: {}", refused.err);
    }
    // Within their windows, of 24 tokens, these are right.
    for family in ["mistral", "gemma2"] {
        let (here, there) = (Home::new(), Home::new());
        let ours = serve(&here, &golden(family), &["--quant", "none"]);
        let theirs = mistralrs(&there, &golden(family), &[]);
        let within = async |server: &Server| said_of(server, family, json!([40, 41, 42, 43])).await;
        assert_close(&within(&ours).await, &within(&theirs).await, family);
        let body = json!({"model": family, "prompt": vec![40; 24], "max_tokens": 1});
        let (status, text) = theirs.post("/v1/completions", &body).await;
        assert!(status == 400 && text.contains("maximum context length is 24"), "{text}");
    }
}

#[tokio::test]
async fn an_adapter_is_merged_as_our_engine_applies_it() {
    for (family, name) in
        [("llama3", "r4-qv"), ("llama3", "r8-all-rslora"), ("llama3", "patterns"), ("llama3", "regex"), ("qwen3", "r6-all")]
    {
        let path = golden(family).join("adapters").join(name);
        let tuned = format!("tuned={}", path.display());
        let (here, there) = (Home::new(), Home::new());
        let ours = serve(&here, &golden(family), &["--quant", "none", "--adapter", &tuned]);
        let theirs = mistralrs(&there, &golden(family), &["--adapter", &tuned]);
        let answer = said(&theirs, "tuned").await;
        assert_close(&said(&ours, "tuned").await, &answer, name);
        assert_ne!(said(&theirs, family).await, answer, "{name}: the base is without it");
    }
}

#[tokio::test]
async fn a_family_that_our_engine_does_not_cover_is_served() {
    let home = Home::new();
    let base = home.path("smollm3");
    std::fs::create_dir(&base).unwrap();
    for file in ["model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"]
    {
        std::fs::copy(tiny().join(file), base.join(file)).unwrap();
    }
    let mut config: Value = serde_json::from_slice(&std::fs::read(tiny().join("config.json")).unwrap()).unwrap();
    config["architectures"] = json!(["SmolLM3ForCausalLM"]);
    config["model_type"] = json!("smollm3");
    config["no_rope_layers"] = json!([1, 1, 0]);
    config["no_rope_layer_interval"] = json!(3);
    std::fs::write(base.join("config.json"), config.to_string()).unwrap();
    let refused = home.run(&["serve", "--model", base.to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    assert!(refused.code == Some(1) && refused.err.contains("SmolLM3ForCausalLM"), "{}", refused.err);
    let server = mistralrs(&home, &base, &["--adapter-root", tiny().parent().unwrap().to_str().unwrap()]);
    let body = json!({"model": "smollm3", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8, "temperature": 0,
        "logprobs": true});
    let (status, text) = server.post("/v1/chat/completions", &body).await;
    assert_eq!(status, 200, "{text}");
    let reply: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(reply["usage"]["completion_tokens"], 8);
    let schema =
        json!({"type": "object", "additionalProperties": false, "required": ["a"], "properties": {"a": {"enum": ["x", "y"]}}});
    let mut formed = body.clone();
    formed["max_tokens"] = json!(40);
    formed["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "s", "strict": true, "schema": schema}});
    let (_, text) = server.post("/v1/chat/completions", &formed).await;
    let reply: Value = serde_json::from_str(&text).unwrap();
    let said_in_form = reply["choices"][0]["message"]["content"].as_str().unwrap_or_else(|| panic!("{text}"));
    let formed: Value = serde_json::from_str(said_in_form).unwrap();
    assert!(["x", "y"].contains(&formed["a"].as_str().unwrap()), "{text}");
    // Nothing here knows the parts of such a family: adapters are held against its files.
    let base = said(&server, "smollm3").await;
    let (status, text) = server.load("tuned", adapter("r4-qv").to_str().unwrap(), false).await;
    assert_eq!(status, 200, "{text}");
    assert_ne!(said(&server, "tuned").await, base);
    let (status, text) = server.load("other", golden("qwen3").join("adapters/r6-all").to_str().unwrap(), false).await;
    assert!(status == 400 && text.contains("in this base it is"), "{status} {text}");
    server.stop();
}

#[tokio::test]
async fn weights_are_quantized_while_they_are_loaded() {
    let (plain, small) = (Home::new(), Home::new());
    let exact = mistralrs(&plain, &tiny(), &[]);
    let quantized = mistralrs(&small, &tiny(), &["--quant", "q8_0"]);
    let (many, few) = (said(&exact, "llama3").await, said(&quantized, "llama3").await);
    assert_ne!(many, few, "8 bits are not 32");
    assert!((many[0].1 - few[0].1).abs() < 0.5, "and not far from them: {many:?} {few:?}");
    let home = Home::new();
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/switchyard-base-q8_0.gguf");
    let refused = home.run(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--backend",
        "mistralrs",
        "--quant",
        "q4_k",
        "--model",
        bundled.to_str().unwrap(),
    ]);
    assert!(refused.code == Some(1) && refused.err.contains("--quant auto is right"), "{}", refused.err);
}

#[tokio::test]
async fn the_bundled_base_is_served_from_its_file() {
    let home = Home::new();
    let server = Server::start(home.command(&["serve", "--listen", "127.0.0.1:0", "--backend", "mistralrs"]));
    let body = json!({"model": "switchyard-base", "messages": [{"role": "user", "content": "remind me to call mum"}],
        "max_tokens": 12, "temperature": 0});
    let (status, text) = server.post("/v1/chat/completions", &body).await;
    assert_eq!(status, 200, "{text}");
    let theirs: Value = serde_json::from_str(&text).unwrap();
    let other = Home::new();
    let server_of_ours = other.serve_bundled();
    let (_, text) = server_of_ours.post("/v1/chat/completions", &body).await;
    let ours: Value = serde_json::from_str(&text).unwrap();
    drop(server_of_ours);
    assert_eq!(theirs["choices"][0]["message"], ours["choices"][0]["message"]);
    // The bundled adapters are not served with it, and why is said of one that is asked for.
    let convert = Path::new(env!("CARGO_MANIFEST_DIR")).join("adapters/convert");
    let asked = format!("convert={}", convert.display());
    let refused = other.run(&["serve", "--listen", "127.0.0.1:0", "--backend", "mistralrs", "--adapter", &asked]);
    assert!(refused.code == Some(1) && refused.err.contains("this base is a GGUF file"), "{}", refused.err);
    server.stop();
}

#[tokio::test]
async fn adapters_are_models_that_come_and_go() {
    let home = Home::new();
    // Room for one beside the base: about 650 kB each in floats.
    let names = ["r4-qv", "regex"].map(|name| format!("{name}={}", adapter(name).display()));
    let server = mistralrs(&home, &tiny(), &["--adapter", &names[0], "--adapter", &names[1], "--adapter-memory", "1000000"]);
    let first = (said(&server, "r4-qv").await, said(&server, "regex").await);
    assert_ne!(first.0, first.1);
    for _ in 0..2 {
        assert_eq!(said(&server, "r4-qv").await, first.0);
        assert_eq!(said(&server, "regex").await, first.1);
    }
    let (_, text) = server.post("/v1/completions", &json!({"model": "llama3", "prompt": "one", "max_tokens": 2})).await;
    assert!(text.contains("choices"), "{text}");
    let metrics = crate::support::client().get(format!("{}/metrics", server.url)).send().await.unwrap().text().await.unwrap();
    let number = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    assert!(number("switchyard_adapter_evictions_total") >= 3.0, "each had to go for the other");
    assert!(number("switchyard_adapter_memory_bytes") <= 1e6);
    server.stop();
}

#[tokio::test]
async fn answers_side_by_side_are_those_that_come_alone() {
    let home = Home::new();
    let server = mistralrs(&home, &tiny(), &[]);
    let body = |index: usize| {
        json!({"model": "llama3", "prompt": format!("{} boats", "many ".repeat(index)), "temperature": 1, "seed": index,
            "max_tokens": 10 + index, "ignore_eos": true})
    };
    let text_of = |reply: (u16, String)| {
        assert_eq!(reply.0, 200, "{}", reply.1);
        serde_json::from_str::<Value>(&reply.1).unwrap()["choices"][0]["text"].clone()
    };
    let bodies: Vec<Value> = (1..10).map(body).collect();
    let together = futures::future::join_all(bodies.iter().map(|body| server.post("/v1/completions", body))).await;
    for (body, together) in bodies.iter().zip(together) {
        assert_eq!(text_of(server.post("/v1/completions", body).await), text_of(together), "{body}");
    }
    // Who leaves is noticed, and others are answered.
    for _ in 0..3 {
        let open = server
            .post_open(
                "/v1/completions",
                &json!({"model": "llama3", "prompt": "one", "max_tokens": 400, "stream": true,
            "ignore_eos": true}),
            )
            .await;
        drop(open);
    }
    assert!(text_of(server.post("/v1/completions", &bodies[0]).await).is_string());
    server.stop();
}
