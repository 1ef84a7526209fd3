//! `eval`, `dataset generate` and `dataset corrupt`: no server of ours is needed.

use std::path::Path;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Home, Server, client};

/// Requests with their meaning, as a file of conversations.
fn held_out(home: &Home, rows: usize) -> String {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/requests/held_out.jsonl");
    let text = std::fs::read_to_string(source).unwrap();
    let lines = text.lines().take(rows).map(|line| {
        let row: Value = serde_json::from_str(line).unwrap();
        let answer = row["expected"].to_string();
        json!({"messages": [{"role": "user", "content": row["input"]}, {"role": "assistant", "content": answer}]}).to_string()
    });
    let path = home.path("rows.jsonl");
    std::fs::write(&path, lines.collect::<Vec<_>>().join("\n")).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn an_adapter_is_judged_beside_the_base() {
    let home = Home::new();
    let rows = held_out(&home, 12);
    let candidate = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/requests");
    let arguments = ["eval", &rows, "--candidate", candidate.to_str().unwrap(), "--json", "--samples", "3"];
    let finished = home.run(&arguments);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let report: Value = serde_json::from_str(&finished.out).unwrap();
    let models = report["evaluation"]["models"].as_array().unwrap();
    assert_eq!((&models[0]["role"], &models[1]["role"]), (&json!("candidate"), &json!("base")));
    let exact = |model: &Value| model["metrics"]["exact_match"].as_f64().unwrap();
    assert!(exact(&models[0]) > exact(&models[1]) + 0.3, "{report}");
    assert_eq!(models[0]["metrics"]["json_valid"], json!(1.0));
    assert_eq!(report["evaluation"]["samples"].as_array().unwrap().len(), 3);
    assert!(["pass", "review"].contains(&report["gate"]["verdict"].as_str().unwrap()), "{report}");
    // Greedy answers are the same whatever runs beside them.
    let alone = home.run(&[&arguments[..], &["--at-once", "1"]].concat());
    let again: Value = serde_json::from_str(&alone.out).unwrap();
    assert_eq!(again["evaluation"]["models"][0]["metrics"], models[0]["metrics"]);
    assert_eq!(again["evaluation"]["samples"], report["evaluation"]["samples"]);
}

#[test]
fn what_cannot_be_judged_is_said() {
    let home = Home::new();
    std::fs::write(home.path("empty.jsonl"), "").unwrap();
    for file in ["empty.jsonl", "absent.jsonl"] {
        let finished = home.run(&["eval", file]);
        assert!(finished.code == Some(1) && finished.err.contains("error: "), "{finished:?}");
    }
}

#[test]
fn good_rows_get_worse_twins() {
    let home = Home::new();
    let rows = held_out(&home, 40);
    let finished = home.run(&["dataset", "corrupt", &rows, "bad.jsonl", "--pairs", "pairs.jsonl", "--harms", "labels,structure"]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(finished.out.contains("40 twins") && !finished.out.contains("clarity"), "{}", finished.out);
    let read = |name: &str| std::fs::read_to_string(home.path(name)).unwrap();
    let (good, bad, pairs) = (read("rows.jsonl"), read("bad.jsonl"), read("pairs.jsonl"));
    for ((good, bad), pair) in good.lines().zip(bad.lines()).zip(pairs.lines()) {
        let [good, bad, pair] = [good, bad, pair].map(|line| serde_json::from_str::<Value>(line).unwrap());
        assert_eq!(good["messages"][0], bad["messages"][0]);
        assert_ne!(good["messages"][1], bad["messages"][1]);
        assert_eq!(pair["preferred_output"][0]["content"], good["messages"][1]["content"]);
        assert_eq!(pair["non_preferred_output"][0]["content"], bad["messages"][1]["content"]);
    }
    let again = home.run(&["dataset", "corrupt", &rows, "bad.jsonl"]);
    assert!(again.code == Some(1) && again.err.contains("--force"), "{again:?}");
}

#[tokio::test]
async fn a_server_of_ours_is_a_teacher_too() {
    let home = Home::new();
    let server = home.serve(&[]);
    let (url, cassette) = (format!("{}/v1", server.url), home.path("cassette.jsonl"));
    let teacher = ["--teacher", &url, "--teacher-model", "llama3"];
    let task = ["dataset", "generate", "rows.jsonl", "--task", "say something", "--rows", "1", "--max-call-tokens", "16"];
    let model = server.get("/v1/models").await.1["data"][0]["id"].as_str().unwrap().to_owned();
    let teacher = [teacher[0], teacher[1], teacher[2], &model, "--record", cassette.to_str().unwrap()];
    let mut command = home.command(&[&task[..], &teacher[..]].concat());
    let output = command.env("SWITCHYARD_TEACHER_KEY", &server.key).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // A random model writes no JSON; all of it was asked, counted and written down, and it was told when to give up.
    assert!(said.contains("5 calls") && said.contains("5 unreadable answers"), "{output:?}");
    assert_eq!(output.status.code(), Some(1));
    let recorded = std::fs::read_to_string(&cassette).unwrap();
    assert_eq!(recorded.lines().count(), 5);
    assert!(!recorded.contains(&server.key));
    // A wrong key is an error that names no key, and costs nothing.
    let mut command = home.command(&[&task[..2], &["other.jsonl"], &task[3..], &teacher[..4]].concat());
    let output = command.env("SWITCHYARD_TEACHER_KEY", "sk-wrong").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("401") && !said.contains("sk-wrong"), "{said}");
    drop(server);
    // The recording needs no server.
    let replay = ["--teacher-model", &model, "--replay", cassette.to_str().unwrap()];
    let replayed = home.run(&[&task[..2], &["replayed.jsonl"], &task[3..], &replay[..]].concat());
    assert!(replayed.out.contains("5 calls") && replayed.out.contains("5 unreadable answers"), "{replayed:?}");
}

async fn post(server: &Server, path: &str, body: &Value) -> (u16, Value) {
    let (status, text) = server.post(path, body).await;
    (status, serde_json::from_str(&text).unwrap())
}

/// The id of a new file.
async fn upload(server: &Server, rows: Vec<u8>) -> String {
    let part = |name: &str| format!("--xx\r\nContent-Disposition: form-data; name=\"{name}\"");
    let head = format!("{}\r\n\r\nfine-tune\r\n{}; filename=\"rows.jsonl\"\r\n\r\n", part("purpose"), part("file"));
    let body = [head.as_bytes(), &rows, b"\r\n--xx--\r\n"].concat();
    let request = client().post(format!("{}/v1/files", server.url)).bearer_auth(&server.key).body(body);
    let sent = request.header("content-type", "multipart/form-data; boundary=xx").send().await.unwrap();
    let file: Value = serde_json::from_str(&sent.text().await.unwrap()).unwrap();
    file["id"].as_str().unwrap_or_else(|| panic!("{file}")).to_owned()
}

#[tokio::test]
async fn a_plan_is_measured_and_a_trained_version_has_a_card() {
    let home = Home::new();
    let server = home.serve_bundled();
    let rows = std::fs::read(held_out(&home, 40)).unwrap();
    let file = upload(&server, rows).await;
    let asked = json!({"training_file": file, "hyperparameters": {"n_epochs": 40}, "limits": {"hours": 1}});
    let (status, plan) = post(&server, "/admin/training/plan", &asked).await;
    assert_eq!(status, 200, "{plan}");
    assert_eq!((&plan["rows"]["train"], &plan["rows"]["held_out"]), (&json!(32), &json!(8)));
    assert_eq!((&plan["method"]["value"], &plan["adapter"]["value"]), (&json!("supervised"), &json!("qlora")));
    assert_eq!((&plan["hyperparameters"]["epochs"]["value"], &plan["steps"]), (&json!(40), &json!(320)));
    assert!(plan["speed"]["train_tokens_per_second"].as_f64().unwrap() > 0.0, "{plan}");
    assert!(plan["estimate"]["memory_bytes"].as_u64().unwrap() > 1 << 20, "{plan}");
    // Of what takes seconds: less is not worth a line.
    let mut alternatives = plan["alternatives"].as_array().unwrap().iter().map(|other| other["text"].as_str().unwrap());
    assert!(alternatives.any(|text| text.starts_with("20 epochs instead of 40 saves")), "{plan}");
    assert!(plan["text"].as_str().unwrap().contains("measured over"), "{plan}");
    let (status, refused) = post(&server, "/admin/training/plan", &json!({"training_file": "file-none"})).await;
    assert_eq!((status, &refused["error"]["param"]), (400, &json!("training_file")));

    let base = plan["base"]["name"].as_str().unwrap();
    let job = json!({"model": base, "training_file": file, "hyperparameters": {"n_epochs": 1}, "suffix": "convert"});
    let (status, job) = post(&server, "/v1/fine_tuning/jobs", &job).await;
    assert_eq!(status, 200, "{job}");
    let path = format!("/v1/fine_tuning/jobs/{}", job["id"].as_str().unwrap());
    let deadline = Instant::now() + Duration::from_secs(240);
    let model = loop {
        let (_, job) = server.get(&path).await;
        match job["status"].as_str().unwrap() {
            "succeeded" => break job["fine_tuned_model"].as_str().unwrap().to_owned(),
            "failed" | "cancelled" => panic!("{job}"),
            _ => assert!(Instant::now() < deadline, "{job}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let tenant = model.split(':').nth(2).unwrap();
    let (status, card) = server.get(&format!("/admin/adapters/{model}/versions/1/card?tenant={tenant}")).await;
    assert_eq!(status, 200, "{card}");
    assert_eq!((&card["training"]["job"], &card["training"]["rows"]), (&job["id"], &json!(32)));
    assert_eq!((&card["training"]["steps"], &card["evaluation"]["rows"]), (&json!(8), &json!(8)));
    assert_eq!(card["training"]["dataset_digest"].as_str().map(str::len), Some(64));
    assert!(card["evaluation"]["models"][0]["loss"].as_f64().unwrap() > 0.0, "{card}");
    // The job is named after an adapter in service.
    assert_eq!(card["evaluation"]["models"][1]["name"], json!("convert@1"), "{card}");
    assert_ne!(card["gate"]["verdict"], json!("pass"), "eight rows are too few: {card}");
}
