//! `switchyard train --repeat`: what a record says is enough to make the same adapter again, and what differs from it is refused.

use serde_json::{Value, json};

use crate::support::{Finished, Home, adapter, tiny};
use crate::training::{begin_with, digests, get, rows, watch};

fn read(path: &std::path::Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn train(home: &Home, arguments: &[&str]) -> Finished {
    let model = tiny();
    home.run(&[&["train", "--model", model.to_str().unwrap()], arguments].concat())
}

#[test]
fn a_training_is_repeated_to_the_same_digest_and_other_files_are_refused() {
    let home = Home::new();
    std::fs::write(home.path("rows.jsonl"), rows()).unwrap();
    let patterns = adapter("r4-qv");
    let from = patterns.to_str().unwrap();
    let settings = ["--set", "epochs=2", "--set", "seed=5", "--set", "dropout=0.1", "--threads", "1"];
    let trained = train(&home, &[&["rows.jsonl", "--out", "first", "--from", from], &settings[..]].concat());
    assert_eq!(trained.code, Some(0), "{trained:?}");
    let record = read(&home.path("first/run.json"));
    assert_eq!((&record["schema"], &record["outcome"], &record["job"]), (&json!(1), &json!("succeeded"), &Value::Null));
    assert_eq!(record["asked"], json!({"epochs": 2, "seed": 5, "dropout": 0.1}));
    let made = &record["made"];
    assert_eq!((&made["settings"]["epochs"], &made["settings"]["seed"], &made["threads"]), (&json!(2), &json!(5), &json!(1)));
    assert!(made["settings"]["learning_rate"].is_f64() && made["program"]["version"].is_string(), "{made}");
    assert_eq!([&made["base"]["digest"], &made["from"]].map(|digest| digest.as_str().map(str::len)), [Some(64); 2]);
    assert_eq!(record["data"]["rows"].as_u64().unwrap() + record["data"]["held_out_rows"].as_u64().unwrap(), 50);
    assert_eq!(record["measured"].as_array().unwrap().len(), 3, "the base, and two epochs: {}", record["measured"]);
    assert_eq!((&record["measured"][0]["step"], &record["steps_done"]), (&json!(0), &made["steps"]));

    // The file has another name now, and the machine other threads.
    std::fs::rename(home.path("rows.jsonl"), home.path("moved.jsonl")).unwrap();
    let repeat = |more: &[&str]| train(&home, &[&["--repeat", "first/run.json"], more].concat());
    let lost = repeat(&["--from", from]);
    assert!(lost.code == Some(1) && lost.err.contains("rows.jsonl with the digest"), "{lost:?}");
    let again = repeat(&["moved.jsonl", "--from", from, "--threads", "2"]);
    let digest = record["result"]["version"].as_str().unwrap();
    assert!(
        again.code == Some(0) && again.out.contains(&format!("the same adapter came of it: best/ has the digest {digest}")),
        "{again:?}"
    );
    assert_eq!(read(&home.path("repeat/run.json"))["result"], record["result"]);
    let twice = repeat(&["moved.jsonl", "--from", from]);
    assert!(twice.code == Some(1) && twice.err.contains("holds a run already"), "{twice:?}");

    // What differs is named.
    std::fs::write(home.path("other.jsonl"), rows().replace("count to 7\"", "count to 8\"")).unwrap();
    let refused = |more: &[&str], expected: &[&str]| {
        let refused = repeat(&[more, &["--out", "another"]].concat());
        assert_eq!(refused.code, Some(1), "{refused:?}");
        expected.iter().for_each(|part| assert!(refused.err.contains(part), "{part}\n---\n{}", refused.err));
        assert!(!home.path("another").exists());
    };
    let sha256 = record["data"]["training"]["sha256"].as_str().unwrap();
    let other = switchyard::tenants::sha256_hex(&std::fs::read(home.path("other.jsonl")).unwrap());
    refused(&["other.jsonl", "--from", from], &["the data differs", &other, sha256]);
    refused(&["moved.jsonl"], &["went on from the adapter", made["from"].as_str().unwrap(), "--from"]);
    let wrong = adapter("patterns");
    refused(&["moved.jsonl", "--from", wrong.to_str().unwrap()], &["--from", made["from"].as_str().unwrap()]);
    refused(&["moved.jsonl", "--from", from, "--quant", "none"], &["not quantized", "--quant"]);
    let text = std::fs::read_to_string(home.path("first/run.json")).unwrap();
    let base = made["base"]["digest"].as_str().unwrap();
    std::fs::write(home.path("first/run.json"), text.replace(base, &"0".repeat(64))).unwrap();
    refused(&["moved.jsonl", "--from", from], &["the base differs", base, &"0".repeat(64)]);
    let set = repeat(&["moved.jsonl", "--set", "epochs=3"]);
    assert!(set.code == Some(64) && set.err.contains("--set"), "{set:?}");
}

#[tokio::test]
async fn a_job_is_repeated_by_the_command_line_from_the_files_of_the_server() {
    let home = Home::new();
    let server = home.serve(&[]);
    let id = begin_with(&server, &server.key, json!({"n_epochs": 3, "batch_size": 12})).await;
    let (job, _) = watch(&server, &server.key, &id, usize::MAX).await;
    let digest = digests(&server, &server.key, &job).await.remove(0).trim().to_owned();
    let record = get(&server, &server.key, &format!("/v1/fine_tuning/jobs/{id}/run")).await;
    assert_eq!(record["result"]["version"].as_str(), Some(digest.as_str()), "{record}");
    assert!(record["evaluation"]["rows"].is_u64() && record["gate"]["verdict"].is_string(), "{record}");
    assert!(record["evaluation"].get("samples").is_none() && !record.to_string().contains("count to"), "numbers, no rows");
    std::fs::write(home.path("run.json"), record.to_string()).unwrap();
    let repeated = train(&home, &["--repeat", "run.json", "--json", "--threads", "2"]);
    assert_eq!(repeated.code, Some(0), "{repeated:?}");
    let last: Value = serde_json::from_str(repeated.out.lines().last().unwrap()).unwrap();
    assert_eq!(last, json!({"event": "repeated", "kept": "last", "version": digest, "recorded": digest, "equal": true}));
    server.stop();
}
