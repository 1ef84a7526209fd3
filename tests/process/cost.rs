//! `switchyard cost`, as its page shows it.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::Home;

#[test]
fn the_page_shows_what_the_command_prints() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cost.md")).unwrap();
    let home = Home::new();
    let mut shown = 0;
    for block in page.split("```sh\n").skip(1) {
        let (command, rest) = block.split_once("\n```\n").unwrap();
        let arguments: Vec<&str> = command.split_whitespace().skip(1).collect();
        let finished = home.run(&arguments);
        assert_eq!(finished.code, Some(0), "{command}: {}", finished.err);
        let (_, output) = rest.split_once("```text\n").unwrap();
        assert_eq!(output.split_once("```").unwrap().0, finished.out, "{command}");
        shown += 1;
    }
    assert_eq!(shown, 3);
}

#[test]
fn figures_of_bench_are_taken_from_its_files_and_what_is_typed_goes_before_them() {
    let home = Home::new();
    let case = |adapters: &str, batch: u32, speed: f64| json!({"adapters": adapters, "batch": batch, "tokens_per_second": speed});
    let serving = json!({"prefill": [case("base", 1, 1_000.0)], "decode": [case("base", 1, 50.0), case("base", 16, 500.0)]});
    for (name, report) in
        [("serving.json", serving), ("training.json", json!({"tokens_per_second": 250.0})), ("other.json", json!({}))]
    {
        std::fs::write(home.path(name), report.to_string()).unwrap();
    }
    let files = ["cost", "--hourly", "3.6", "--json", "--bench", "serving.json", "--bench", "training.json"];
    let costs = |more: &[&str]| {
        let finished = home.run(&[&files[..], more].concat());
        assert_eq!(finished.code, Some(0), "{}", finished.err);
        let sheet: Value = serde_json::from_str(&finished.out).unwrap();
        let lines = sheet["lines"].as_array().unwrap().clone();
        lines.into_iter().map(|line| line["usd_per_million_tokens"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(costs(&[]), [json!(1.0), json!(2.0), Value::Null, json!(4.0)]);
    assert_eq!(costs(&["--batch", "1", "--cached", "10000"]), [json!(1.0), json!(20.0), json!(0.1), json!(4.0)]);
    assert_eq!(costs(&["--decode", "100"])[1], json!(10.0));
    for (arguments, named) in [
        (&["cost", "--hourly", "1"][..], "no speed"),
        (&["cost", "--hourly", "-1", "--decode", "1"], "hourly"),
        (&["cost", "--hourly", "1", "--busy", "0", "--decode", "1"], "busy"),
        (&["cost", "--hourly", "1", "--bench", "other.json"], "other.json"),
        (&["cost", "--hourly", "1", "--bench", "serving.json", "--batch", "4"], "4 sequences"),
    ] {
        let finished = home.run(arguments);
        assert!(finished.code == Some(1) && finished.err.contains(named), "{arguments:?}: {finished:?}");
    }
}
