//! Many adapters at once: shared steps, and versions that are replaced while answers run.

use std::collections::HashMap;

use futures::future::join_all;
use serde_json::{Value, json};
use switchyard::engine::seeded::SeededModel;

use crate::support::{BASE, Harness, Options, SeededOptions, chat_body, merged};

const CHAT: &str = "/v1/chat/completions";

fn adapter(index: usize) -> String {
    if index == 0 { BASE.to_owned() } else { format!("adapter-{index}") }
}

fn body(model: &str) -> Value {
    merged(chat_body(), &json!({"model": model, "logprobs": true, "top_logprobs": 2, "max_tokens": 20}))
}

#[tokio::test]
async fn sixteen_adapters_and_the_base_share_steps_and_answer_as_alone() {
    let (model, gate) = SeededModel::gated(SeededOptions::default());
    let server = Harness::over(model, Options::default()).await;
    for index in 1..=16u32 {
        server.load(&adapter(index as usize), index).await;
    }
    let ask = async |index: usize| server.ok(CHAT, &body(&adapter(index))).await;
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
        assert_eq!(alone["choices"], shared["choices"], "{}", adapter(index));
    }
    let texts: std::collections::HashSet<String> =
        together.iter().map(|answer| answer["choices"][0]["message"]["content"].to_string()).collect();
    assert_eq!(texts.len(), 17, "every adapter answers differently");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_of_the_one_version_in_its_header_while_versions_are_replaced() {
    let server = Harness::new().await;
    let versions = [1, 2];
    let mut expected = HashMap::new();
    for seed in versions {
        server.load("swapped", seed).await;
        let reply = server.post(CHAT, &body("swapped")).await;
        let version = reply.headers["x-adapter-version"].to_str().unwrap().to_owned();
        let digest = version.split_once("+").unwrap().1.to_owned();
        expected.insert(digest, reply.json()["choices"].clone());
    }
    let done = std::sync::atomic::AtomicBool::new(false);
    let swap = async {
        for turn in 0..100 {
            server.load("swapped", versions[turn % 2]).await;
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
    };
    let ask = async || {
        let mut seen = Vec::new();
        while !done.load(std::sync::atomic::Ordering::SeqCst) {
            let reply = server.post(CHAT, &body("swapped")).await;
            assert_eq!(reply.status.as_u16(), 200, "{}", reply.text);
            let version = reply.headers["x-adapter-version"].to_str().unwrap().to_owned();
            let digest = version.split_once("+").unwrap().1.to_owned();
            assert_eq!(reply.json()["choices"], expected[&digest], "{version}");
            seen.push(digest);
        }
        seen
    };
    let (streams, ()) = tokio::join!(join_all((0..8).map(|_| ask())), swap);
    let seen: std::collections::HashSet<String> = streams.into_iter().flatten().collect();
    assert_eq!(seen.len(), 2, "both versions answered");
    server.idle().await;
    let listed = server.get("/v1/lora_adapters").await.json()["data"][0].clone();
    assert_eq!((&listed["leases"], &listed["draining"]), (&json!(0), &json!([])));
}
