//! Commands that measure and write bases.

use serde_json::Value;

use crate::support::{Home, adapter, tiny};

#[test]
fn bench_measures_a_base_or_random_weights_of_a_shape() {
    let home = Home::new();
    let short =
        ["--batches", "1,2", "--rounds", "1", "--decode-steps", "1", "--prefill-tokens", "8", "--context-tokens", "8", "--json"];
    let base = tiny();
    for what in [["--model", base.to_str().unwrap()], ["--shape", "tiny"]] {
        let arguments: Vec<&str> = ["bench"].into_iter().chain(what).chain(short).collect();
        let finished = home.run(&arguments);
        assert_eq!(finished.code, Some(0), "{finished:?}");
        let report: Value = serde_json::from_str(&finished.out).unwrap();
        for kind in ["prefill", "decode"] {
            let cases = report[kind].as_array().unwrap();
            let named: Vec<_> =
                cases.iter().map(|case| (case["adapters"].as_str().unwrap(), case["batch"].as_u64().unwrap())).collect();
            assert_eq!(named, [("base", 1), ("one", 1), ("base", 2), ("one", 2), ("different", 2)]);
            assert!(cases.iter().all(|case| case["tokens_per_second"].as_f64().unwrap() > 0.0));
        }
        assert!(report["weight_bytes"].as_u64().unwrap() > 0);
    }
    let both = home.run(&["bench", "--shape", "tiny", "--model", "x"]);
    assert_eq!(both.code, Some(64), "one of them would be ignored");
}

#[tokio::test]
async fn a_directory_is_written_as_gguf_and_serves_the_same_answers() {
    let home = Home::new();
    let (from, to) = (tiny(), home.path("base.gguf"));
    let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
    let written = home.run(&["quantize", from, to, "--type", "q8_0"]);
    assert_eq!(written.code, Some(0), "{written:?}");
    assert!(written.out.contains("q8_0"), "{written:?}");

    let again = home.run(&["quantize", from, to, "--type", "q8_0"]);
    assert!(again.code == Some(1) && again.err.contains("--force"), "{again:?}");
    let itself = home.run(&["quantize", to, to, "--type", "q4_k", "--force"]);
    assert!(itself.code == Some(1) && itself.err.contains("another file"), "{itself:?}");
    let unknown = home.run(&["quantize", from, to, "--type", "q3_k"]);
    assert!(unknown.code == Some(64) && unknown.err.contains("q4_k"), "{unknown:?}");
    let nothing = home.run(&["quantize", home.path("none").to_str().unwrap(), home.path("x").to_str().unwrap(), "--type", "f16"]);
    assert!(nothing.code == Some(1) && !home.path("x").exists(), "{nothing:?}");

    let given = format!("support={}", adapter("r4-qv").display());
    let answers = async |model: &str| {
        let own = Home::new();
        let server = own.serve(&["--model-name", "base", "--adapter", &given, "--model", model, "--quant", "q8_0"]);
        (server.completion("base").await, server.completion("support").await)
    };
    let served = answers(to).await;
    assert_eq!(served, answers(from).await);
    assert_ne!(served.0, served.1);
}
