//! Many adapters at once: shared steps, and versions that are replaced while answers run.

use std::collections::{HashMap, HashSet};

use futures::future::join_all;
use serde_json::{Value, json};
use switchyard::engine::seeded::SeededModel;
use switchyard::gateway::Base;
use switchyard::model::chat_template::ChatTemplate;
use switchyard::model::config::{LinearSite, ModelConfig};
use switchyard::model::native::{self, Device, LoadOptions};
use switchyard::model::ops::Quant;
use switchyard::model::random::{self, Mix};

use crate::support::{
    BASE, CHATML, END, Gated, Harness, Options, SeededOptions, chat_body, merged, tokenizer, write_random_adapter,
};

const CHAT: &str = "/v1/chat/completions";

pub fn adapter(index: usize) -> String {
    format!("adapter-{index}")
}

fn body(model: &str) -> Value {
    // Long enough that the first still answers when the last has begun: beside answers, prompts come in a few at a time.
    let long = json!({"model": model, "logprobs": true, "top_logprobs": 2, "max_tokens": 64, "ignore_eos": true});
    merged(chat_body(), &long)
}

/// Asks the base and its sixteen adapters at once behind a closed gate, then each alone: the same tokens, the same numbers.
pub async fn together_as_alone(server: &Harness, base: &str, gate: impl Sized) {
    let name = |index: usize| if index == 0 { base.to_owned() } else { adapter(index) };
    let ask = async |index: usize| server.ok(CHAT, &body(&name(index))).await;
    let requests = join_all((0..=16).map(&ask));
    let everybody_waits = async {
        while server.engine.stats().waiting + server.engine.stats().running < 17 {
            tokio::task::yield_now().await;
        }
        drop(gate);
    };
    let (together, ()) = tokio::join!(requests, everybody_waits);
    let stats = server.engine.stats();
    assert_eq!((stats.sequences_per_step_max, stats.adapters_per_step_max), (17, 16));
    for (index, shared) in together.iter().enumerate() {
        let alone = ask(index).await;
        assert_eq!(alone["choices"], shared["choices"], "{}", name(index));
    }
    let texts: HashSet<String> = together.iter().map(|answer| answer["choices"][0]["logprobs"].to_string()).collect();
    assert_eq!(texts.len(), 17, "every adapter answers differently");
}

#[tokio::test]
async fn sixteen_adapters_and_the_base_share_steps_and_answer_as_alone() {
    let (model, gate) = SeededModel::gated(SeededOptions::default());
    let server = Harness::over(model, Options::default()).await;
    for index in 1..=16u32 {
        server.load(&adapter(index as usize), index).await;
    }
    together_as_alone(&server, BASE, gate).await;
}

/// Ranks and targets of the random adapters, by turns.
const RANKS: [usize; 5] = [1, 4, 16, 7, 32];

pub async fn load_random(server: &Harness, config: &ModelConfig, indices: std::ops::RangeInclusive<usize>) {
    for index in indices {
        let sites = match index % 3 {
            0 => &LinearSite::ALL[..],
            1 => &LinearSite::ALL[..3],
            _ => &LinearSite::ALL[4..],
        };
        let path = server.root.path().join(adapter(index));
        write_random_adapter(&path, config, sites, RANKS[index % RANKS.len()], index as u64);
        server.load_from(&adapter(index), path.to_str().unwrap()).await;
    }
}

/// Rows of Q4_K and Q6_K super-blocks through the real decoder.
#[tokio::test]
async fn sixteen_adapters_and_a_q4_k_m_base_share_steps_and_answer_as_alone() {
    let mut config = random::shape("tiny").unwrap();
    config.vocab_size = 260;
    let tensors = random::tensors(&config, Mix::Q4KM, 11).unwrap();
    let options = LoadOptions { quant: Quant::Auto, threads: 2, device: Device::Cpu };
    let (model, gate) = Gated::closed(native::load(&config, &tensors, options).unwrap());
    let base = Base {
        name: BASE.to_owned(),
        tokenizer: tokenizer(),
        chat_template: Some(ChatTemplate::new(CHATML, None, None).unwrap()),
        end_tokens: vec![END],
        created: 0,
    };
    let server = Harness::of(model, base, Options::default()).await;
    load_random(&server, &config, 1..=16).await;
    together_as_alone(&server, BASE, gate).await;
}

/// Digest in the header, and what the whole stream said: text and the numbers of every token.
async fn stream(server: &Harness) -> (String, String) {
    let reply = server.post(CHAT, &merged(body("swapped"), &json!({"stream": true}))).await;
    assert_eq!(reply.status.as_u16(), 200, "{}", reply.text);
    let version = reply.headers["x-adapter-version"].to_str().unwrap().to_owned();
    let mut said = String::new();
    for event in reply.events() {
        assert_eq!(event["error"], Value::Null, "{event}");
        let Some(choice) = event["choices"].get(0) else { continue };
        said.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
        for token in choice["logprobs"]["content"].as_array().into_iter().flatten() {
            said.push_str(&token.to_string());
        }
    }
    assert!(said.contains("logprob"), "{}", reply.text);
    (version.split_once('+').unwrap().1.to_owned(), said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_of_the_one_version_in_its_header_while_versions_are_replaced() {
    const STREAMS: usize = 8;
    const REPLACEMENTS: usize = 200;
    let server = Harness::new().await;
    let versions = [1, 2];
    let mut expected = HashMap::new();
    for seed in versions {
        server.load("swapped", seed).await;
        let (digest, said) = stream(&server).await;
        expected.insert(digest, said);
    }
    let done = std::sync::atomic::AtomicBool::new(false);
    let swap = async {
        for turn in 0..REPLACEMENTS {
            server.load("swapped", versions[turn % 2]).await;
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
    };
    let listen = async || {
        let mut seen = Vec::new();
        while !done.load(std::sync::atomic::Ordering::SeqCst) {
            let (digest, said) = stream(&server).await;
            assert!(expected[&digest] == said, "{digest}: {said}");
            seen.push(digest);
        }
        seen
    };
    let (streams, ()) = tokio::join!(join_all((0..STREAMS).map(|_| listen())), swap);
    assert!(streams.iter().all(|seen| !seen.is_empty()), "every stream was answered while versions moved");
    let seen: HashSet<String> = streams.into_iter().flatten().collect();
    assert_eq!(seen.len(), 2, "both versions answered");
    server.idle().await;
    let listed = server.get("/v1/lora_adapters").await.json()["data"][0].clone();
    assert_eq!((&listed["leases"], &listed["draining"]), (&json!(0), &json!([])));
}
