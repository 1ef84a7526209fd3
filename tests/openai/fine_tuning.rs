//! The life of a job as its owner sees it, over a workshop that learns nothing.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};
use switchyard::registry::Gate;

use crate::files::send_file;
use crate::scripted::Script;
use crate::support::{BASE, Harness, KEY, Reply, chat_body, merged};

/// Rows that the script counts.
const ROWS: &[u8] = b"{\"messages\": []}\n{\"messages\": []}\n{\"messages\": []}\n{\"messages\": []}\n";

pub async fn call(server: &Harness, key: &str, method: Method, path: &str, body: Option<Value>) -> Reply {
    server.call(method, path, body.as_ref(), key, &[("content-type", "application/json")]).await
}

pub async fn get(server: &Harness, key: &str, path: &str) -> Value {
    let reply = call(server, key, Method::GET, path, None).await;
    assert_eq!(reply.status, StatusCode::OK, "{path}: {}", reply.text);
    reply.json()
}

/// A file to train on.
pub async fn rows(server: &Harness, key: &str) -> String {
    let reply = send_file(server, key, ROWS).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    reply.json()["id"].as_str().unwrap().to_owned()
}

/// Asks for a job with more fields.
pub async fn begin(server: &Harness, key: &str, file: &str, more: &Value) -> String {
    let body = merged(json!({"model": BASE, "training_file": file}), more);
    let reply = call(server, key, Method::POST, "/v1/fine_tuning/jobs", Some(body)).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    let job = reply.json();
    assert_eq!(
        (&job["status"], &job["fine_tuned_model"], &job["finished_at"]),
        (&json!("validating_files"), &Value::Null, &Value::Null)
    );
    job["id"].as_str().unwrap().to_owned()
}

pub async fn act(server: &Harness, key: &str, id: &str, what: &str) -> Reply {
    call(server, key, Method::POST, &format!("/v1/fine_tuning/jobs/{id}/{what}"), None).await
}

/// Messages of a job's events, the oldest first.
pub async fn messages(server: &Harness, key: &str, id: &str) -> Vec<String> {
    let events = get(server, key, &format!("/v1/fine_tuning/jobs/{id}/events?limit=100")).await;
    let text = |event: &Value| event["message"].as_str().unwrap().to_owned();
    events["data"].as_array().unwrap().iter().rev().map(text).collect()
}

/// Waits until the third step of a job is written down.
async fn three_steps(server: &Harness, key: &str, id: &str) {
    server.job_when(key, id, |job| job["estimated_finish"].is_i64()).await;
    while !messages(server, key, id).await.iter().any(|text| text.starts_with("Step 3/")) {
        tokio::task::yield_now().await;
    }
}

async fn answers(server: &Harness, key: &str, model: &str) -> u16 {
    let body = merged(chat_body(), &json!({"model": model, "max_tokens": 2}));
    server.post_as(key, "/v1/chat/completions", &body, &[]).await.status.as_u16()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_runs_to_a_model_that_can_be_called_before_and_after_its_end() {
    let server = Harness::new().await;
    let (key, _) = server.key_for("proj_a", "fine_tuning,inference").await;
    let (other, _) = server.key_for("proj_b", "fine_tuning,inference").await;
    let script = Script::new(8);
    script.allow(5);
    let driver = server.drive(&script).await;
    let file = rows(&server, &key).await;
    let more = json!({"suffix": "mine", "seed": 7, "metadata": {"a": "b"}, "hyperparameters": {"n_epochs": 2}});
    let id = begin(&server, &key, &file, &more).await;
    let path = format!("/v1/fine_tuning/jobs/{id}");

    let held = server.job_when(&key, &id, |job| job["status"] == "running" && job["estimated_finish"].is_i64()).await;
    assert_eq!((&held["seed"], &held["metadata"], &held["trained_tokens"]), (&json!(7), &json!({"a": "b"}), &Value::Null));
    assert_eq!(held["method"]["supervised"]["hyperparameters"]["n_epochs"], 2);
    assert!(held["hyperparameters"]["batch_size"].is_i64(), "auto is resolved: {held}");
    let checkpoint = loop {
        let list = get(&server, &key, &format!("{path}/checkpoints")).await;
        if list["data"].as_array().unwrap().len() == 2 {
            break list["data"][0].clone();
        }
        tokio::task::yield_now().await;
    };
    assert_eq!((&checkpoint["step_number"], &checkpoint["metrics"]["train_loss"]), (&json!(4), &json!(0.25)));
    let name = checkpoint["fine_tuned_model_checkpoint"].as_str().unwrap();
    assert!(name.starts_with("ft:tiny:proj_a:mine:") && name.ends_with(":ckpt-step-4"), "{name}");
    assert_eq!(answers(&server, &key, name).await, 200, "also while the job runs");
    assert_eq!(answers(&server, &other, name).await, 404, "its owner only");

    script.allow(8);
    let job = server.job_over(&key, &id).await;
    assert_eq!((&job["status"], &job["state"], &job["error"]), (&json!("succeeded"), &json!("completed"), &Value::Null));
    assert_eq!((&job["trained_tokens"], &job["estimated_finish"]), (&json!(800), &Value::Null));
    let model = job["fine_tuned_model"].as_str().unwrap();
    assert_eq!(answers(&server, &key, model).await, 200);
    assert_eq!(answers(&server, &key, &format!("{model}@1")).await, 200);
    let versions = std::fs::read_dir(server.data.path().join("versions")).unwrap();
    assert!(versions.flatten().all(|version| version.path().join("lineage.json").exists()), "where it comes from is kept");
    for absent in [model, "ft:tiny:proj_a:mine:00000000"] {
        assert_eq!(answers(&server, &other, absent).await, 404);
    }
    let models = |list: Value| -> Vec<String> {
        list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(models(get(&server, &key, "/v1/models").await).len(), 7, "the base, the model, four checkpoints, the hash");
    assert_eq!(models(get(&server, &other, "/v1/models").await), [BASE, "hash-embedding-256"]);

    let result = job["result_files"][0].as_str().unwrap();
    let table = call(&server, &key, Method::GET, &format!("/v1/files/{result}/content"), None).await.text;
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines[0], "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy");
    assert_eq!((lines.len(), lines[1], lines[2], lines[8]), (9, "1,1,0.5,,", "2,0.5,0.5,1,0.25", "8,0.125,0.5,0.25,0.25"));
    let said = messages(&server, &key, &id).await;
    let order =
        ["Created", "Files validated", "started", "Step 1/8", "Step 8/8", "New fine-tuned model", "successfully completed"];
    let places: Vec<usize> = order.iter().map(|text| said.iter().position(|message| message.contains(text)).unwrap()).collect();
    assert!(places.is_sorted(), "{said:?}");

    // The record of its training: what was asked and read, and, as this workshop learns nothing, not what it was made with.
    let run = get(&server, &key, &format!("{path}/run")).await;
    assert_eq!((&run["schema"], &run["job"], &run["outcome"]), (&json!(1), &json!(id), &json!("succeeded")));
    assert_eq!((&run["asked"]["method"]["n_epochs"], &run["asked"]["method"]["batch_size"]), (&json!(2), &json!("auto")));
    let (read, file) = (&run["data"], get(&server, &key, &format!("/v1/files/{file}")).await);
    assert_eq!(
        (&read["rows"], &read["training"]["name"], &read["training"]["bytes"]),
        (&json!(4), &file["filename"], &file["bytes"])
    );
    assert_eq!((&read["held_out_share"], read["training"]["sha256"].as_str().map(str::len)), (&json!(0.2), Some(64)));
    assert_eq!(run["measured"].as_array().unwrap().last().unwrap()["held_out_loss"], 0.25);
    let adapters = get(&server, &key, "/v1/lora_adapters").await;
    let made = adapters["data"].as_array().unwrap().iter().find(|adapter| adapter["name"] == model).unwrap();
    assert_eq!((&run["result"]["version"], &run["result"]["model"]), (&made["digest"], &json!(model)));
    assert_eq!((&run["gate"], &run["made"]), (&Value::Null, &Value::Null));
    assert_eq!(server.get(&format!("/admin/training/jobs/{id}/run")).await.json(), run);
    let operators = call(&server, &key, Method::GET, &format!("/admin/training/jobs/{id}/run"), None).await;
    assert_eq!(operators.status, StatusCode::FORBIDDEN);

    // Pages, the newest first.
    let page = get(&server, &key, &format!("{path}/events?limit=3")).await;
    let last = page["data"][2]["id"].as_str().unwrap();
    let next = get(&server, &key, &format!("{path}/events?limit=3&after={last}")).await;
    assert_eq!((&page["has_more"], next["data"][0]["id"] != page["data"][2]["id"]), (&json!(true), true));
    let streamed = call(&server, &key, Method::GET, &format!("{path}/events?stream=true"), None).await.events();
    assert_eq!(streamed.len(), said.len());

    // A model goes; its checkpoints stay until they are deleted, too.
    let delete = async |key: &str, model: &str| call(&server, key, Method::DELETE, &format!("/v1/models/{model}"), None).await;
    assert_eq!(delete(&other, model).await.status, 404);
    assert_eq!(delete(&key, BASE).await.error().2, json!("model_not_deletable"));
    assert_eq!(delete(&key, model).await.json(), json!({"id": model, "object": "model", "deleted": true}));
    assert_eq!(answers(&server, &key, model).await, 404);
    assert_eq!(answers(&server, &key, name).await, 200);
    driver.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_of_others_are_as_if_they_were_not_there() {
    let server = Harness::new().await;
    let (a, _) = server.key_for("proj_a", "fine_tuning").await;
    let (b, _) = server.key_for("proj_b", "fine_tuning").await;
    let generates = server.key_of("proj_a").await;
    let file = rows(&server, &a).await;
    let theirs = begin(&server, &a, &file, &json!({})).await;
    let absent = "ftjob-AAAAAAAAAAAAAAAAAAAAAAAA";
    let same = async |method: Method, path: &str| {
        let of = async |id: &str| call(&server, &b, method.clone(), &path.replace("JOB", id), None).await;
        let (there, not) = (of(&theirs).await, of(absent).await);
        assert_eq!((there.status, there.text.replace(&theirs, absent)), (not.status, not.text), "{path}");
        assert!([400, 404].contains(&there.status.as_u16()));
    };
    same(Method::GET, "/v1/fine_tuning/jobs/JOB").await;
    same(Method::GET, "/v1/fine_tuning/jobs/JOB/events").await;
    same(Method::GET, "/v1/fine_tuning/jobs/JOB/events?stream=true").await;
    same(Method::GET, "/v1/fine_tuning/jobs/JOB/checkpoints").await;
    same(Method::GET, "/v1/fine_tuning/jobs/JOB/run").await;
    same(Method::GET, "/v1/fine_tuning/jobs?after=JOB").await;
    for what in ["cancel", "pause", "resume"] {
        same(Method::POST, &format!("/v1/fine_tuning/jobs/JOB/{what}")).await;
    }
    assert_eq!(get(&server, &b, "/v1/fine_tuning/jobs").await["data"], json!([]));
    // Nor can their files be trained on.
    let body = |file: &str| json!({"model": BASE, "training_file": file});
    let of = async |file: &str| call(&server, &b, Method::POST, "/v1/fine_tuning/jobs", Some(body(file))).await;
    let (there, not) = (of(&file).await, of("file-A").await);
    assert_eq!((there.error().3, there.text.replace(&file, "file-A")), (json!("training_file"), not.text));
    assert_eq!(call(&server, &generates, Method::GET, "/v1/fine_tuning/jobs", None).await.error().0, 403);
    assert_eq!(call(&server, &generates, Method::POST, "/v1/fine_tuning/jobs", Some(body(&file))).await.error().0, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_paused_resumed_and_cancelled() {
    let server = Harness::new().await;
    let (key, _) = server.key_for("proj_a", "fine_tuning").await;
    let script = Script::new(8);
    script.allow(3);
    let driver = server.drive(&script).await;
    let file = rows(&server, &key).await;
    let id = begin(&server, &key, &file, &json!({})).await;
    three_steps(&server, &key, &id).await;
    assert_eq!(act(&server, &key, &id, "resume").await.error().2, json!("invalid_status"));
    let paused = act(&server, &key, &id, "pause").await.json();
    assert_eq!((&paused["status"], &paused["estimated_finish"]), (&json!("paused"), &Value::Null));
    // Another one has its turn meanwhile: it has begun when the first one has stopped.
    let second = begin(&server, &key, &file, &json!({})).await;
    server.job_when(&key, &second, |job| job["state"] == "training").await;
    script.allow(u64::MAX);
    assert_eq!(server.job_over(&key, &second).await["status"], "succeeded");
    assert_eq!(get(&server, &key, &format!("/v1/fine_tuning/jobs/{id}")).await["status"], "paused");
    assert_eq!(act(&server, &key, &id, "resume").await.json()["status"], "queued");
    assert_eq!(server.job_over(&key, &id).await["status"], "succeeded");
    let began = script.began_at();
    assert_eq!(began, [0, 0, 3], "it goes on where it was paused");
    assert_eq!(act(&server, &key, &id, "cancel").await.error().2, json!("invalid_status"));

    script.allow(1);
    let id = begin(&server, &key, &file, &json!({})).await;
    server.job_when(&key, &id, |job| job["state"] == "training").await;
    let waiting = begin(&server, &key, &file, &json!({})).await;
    let cancelled = act(&server, &key, &waiting, "cancel").await.json();
    assert_eq!((&cancelled["status"], &cancelled["error"]), (&json!("cancelled"), &Value::Null));
    let cancelled = act(&server, &key, &id, "cancel").await.json();
    assert_eq!((&cancelled["status"], cancelled["finished_at"].is_i64()), (&json!("cancelled"), true));
    driver.stop().await;
    assert_eq!(std::fs::read_dir(server.data.path().join("training")).unwrap().count(), 0, "nothing of it is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_paused_and_resumed_again_and_again_keeps_what_it_has_learnt() {
    let server = Harness::new().await;
    let (key, _) = server.key_for("proj_a", "fine_tuning").await;
    let script = Script::new(8);
    script.allow(3);
    let driver = server.drive(&script).await;
    let file = rows(&server, &key).await;
    let id = begin(&server, &key, &file, &json!({})).await;
    three_steps(&server, &key, &id).await;
    // Resumed while the worker looks for others and clears up after those that are over.
    for _ in 0..40 {
        act(&server, &key, &id, "pause").await.json();
        tokio::task::yield_now().await;
        assert_eq!(act(&server, &key, &id, "resume").await.json()["status"], "queued");
        server.job_when(&key, &id, |job| job["state"] == "training").await;
    }
    script.allow(u64::MAX);
    assert_eq!(server.job_over(&key, &id).await["status"], "succeeded");
    let began = script.began_at();
    assert!(began.len() > 1 && began[1..].iter().all(|step| *step == 3), "{began:?}");
    driver.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_go_on_after_a_restart() {
    let server = Harness::new().await;
    let (key, _) = server.key_for("proj_a", "fine_tuning").await;
    let script = Script::new(8);
    script.allow(5);
    let driver = server.drive(&script).await;
    let file = rows(&server, &key).await;
    let id = begin(&server, &key, &file, &json!({})).await;
    // Of two that come within a second either may be the first.
    server.job_when(&key, &id, |job| job["estimated_finish"].is_i64()).await;
    let queued = begin(&server, &key, &file, &json!({})).await;
    server.job_when(&key, &queued, |job| job["status"] == "queued").await;
    driver.stop().await;
    assert_eq!(get(&server, &key, &format!("/v1/fine_tuning/jobs/{id}")).await["status"], "running");
    script.allow(u64::MAX);
    let driver = server.drive(&script).await;
    for job in [&id, &queued] {
        assert_eq!(server.job_over(&key, job).await["status"], "succeeded");
    }
    let began = script.began_at();
    assert!(began.len() == 3 && began[1] >= 1 && began[2] == 0, "{began:?}");
    let said = messages(&server, &key, &id).await;
    for step in 1..=8 {
        assert_eq!(said.iter().filter(|message| message.starts_with(&format!("Step {step}/8"))).count(), 1, "{said:?}");
    }
    driver.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_take_turns() {
    let server = Harness::new().await;
    let (a, _) = server.key_for("proj_a", "fine_tuning").await;
    let (b, _) = server.key_for("proj_b", "fine_tuning").await;
    let script = Script::new(40);
    script.allow(5);
    let driver = server.drive(&script).await;
    let (of_a, of_b) = (rows(&server, &a).await, rows(&server, &b).await);
    let epochs = |count: u32| json!({"hyperparameters": {"n_epochs": count}});
    let long = begin(&server, &a, &of_a, &epochs(2)).await;
    server.job_when(&a, &long, |job| job["estimated_finish"].is_i64()).await;
    let second = begin(&server, &a, &of_a, &epochs(3)).await;
    let other = begin(&server, &b, &of_b, &epochs(4)).await;
    server.job_when(&a, &second, |job| job["status"] == "queued").await;
    server.job_when(&b, &other, |job| job["status"] == "queued").await;
    script.allow(u64::MAX);
    for (key, job) in [(&a, &long), (&b, &other), (&a, &second)] {
        assert_eq!(server.job_over(key, job).await["status"], "succeeded");
    }
    let said = messages(&server, &a, &long).await;
    assert!(said.iter().any(|text| text.starts_with("Another project's job has its turn")), "{said:?}");
    assert_eq!(script.order(), [2, 4, 3], "the other tenant's job has its turn before the second one of this tenant");
    driver.stop().await;
}

#[tokio::test]
async fn who_may_not_use_the_base_may_not_train_it() {
    let server = Harness::new().await;
    let (key, _) = server.key_for("proj_a", "fine_tuning").await;
    let file = rows(&server, &key).await;
    let permissions = "/v1/organization/projects/proj_a/model_permissions";
    server.done(Method::POST, permissions, json!({"mode": "allow_list", "model_ids": ["polite"]})).await;
    let body = json!({"model": BASE, "training_file": file});
    let refused = call(&server, &key, Method::POST, "/v1/fine_tuning/jobs", Some(body)).await.error();
    assert_eq!((refused.0, refused.2), (404, json!("model_not_found")));
    server.done(Method::DELETE, permissions, Value::Null).await;
    begin(&server, &key, &file, &json!({})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_filter_and_repetitions_make_one_job() {
    let server = Harness::new().await;
    let (key, _) = server.key_for("proj_a", "fine_tuning").await;
    let file = rows(&server, &key).await;
    let first = begin(&server, &key, &file, &json!({"metadata": {"team": "x"}})).await;
    let second = begin(&server, &key, &file, &json!({})).await;
    let ids = async |query: &str| -> Vec<String> {
        let list = get(&server, &key, &format!("/v1/fine_tuning/jobs?{query}")).await;
        list["data"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids("").await.len(), 2);
    assert_eq!(ids("metadata[team]=x").await, [first.as_str()]);
    assert_eq!(ids("metadata=null").await, [second.as_str()]);
    assert_eq!(ids("metadata[team]=y").await, [""; 0]);
    assert_eq!(ids("limit=1").await.len(), 1);
    let body = json!({"model": BASE, "training_file": file});
    let post = async || server.post_as(&key, "/v1/fine_tuning/jobs", &body, &[("idempotency-key", "once")]).await;
    assert_eq!(post().await.json()["id"], post().await.json()["id"]);
    assert_eq!(ids("").await.len(), 3);
    let wrong = json!({"model": "gpt-4o-mini", "training_file": file});
    let refused = server.post_as(&key, "/v1/fine_tuning/jobs", &wrong, &[]).await;
    assert_eq!(refused.error().3, json!("model"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_passed_its_gate_is_put_behind_a_name_unless_somebody_gives_theirs() {
    let server = Harness::new().await;
    let (key, _) = server.key_for("proj_a", "fine_tuning,inference").await;
    let script = Script::new(4);
    let driver = server.drive(&script).await;
    let file = rows(&server, &key).await;
    let mut models = Vec::new();
    for verdict in [Ok(Gate::Pass), Ok(Gate::Review), Ok(Gate::Fail), Err("the engine is busy".to_owned())] {
        let unknown = verdict.is_err();
        script.judge(verdict);
        let id = begin(&server, &key, &file, &json!({})).await;
        let job = server.job_over(&key, &id).await;
        assert_eq!(job["status"], "succeeded", "its owner can call it whatever the verdict is");
        models.push(job["fine_tuned_model"].as_str().unwrap().to_owned());
        let said = messages(&server, &key, &id).await;
        assert!(said.iter().any(|text| text.starts_with(if unknown { "The model could not be evaluated" } else { "Gate:" })));
    }
    let promote = async |model: &str, more: Value| {
        let body = merged(json!({"model": model, "from_tenant": "proj_a"}), &more);
        server.post("/admin/adapters/support/promotions", &body).await
    };
    let refused = |reply: Reply| assert_eq!((reply.status.as_u16(), reply.error().2), (400, json!("gate_not_passed")));
    let [passed, reviewed, failed, pending] = &models[..] else { panic!("{models:?}") };
    for model in [reviewed, failed, pending] {
        refused(promote(model, json!({})).await);
        assert_eq!(answers(&server, &key, model).await, 200);
    }
    refused(promote(failed, json!({"approved_by": "Ada"})).await);
    assert_eq!(promote("ft:tiny:proj_a::00000000", json!({})).await.status, 404);
    assert_eq!(promote(passed, json!({"expected_version": "3"})).await.status, 409);
    // The same rule for arms of a deployment.
    let deploy = async |model: &str, place: &str, more: Value| {
        let arm = merged(json!({"name": "only", "model": model, "weight": 100}), &more);
        server.call(Method::PUT, &format!("/admin/deployments/{place}"), Some(&json!({"arms": [arm]})), KEY, &[]).await
    };
    let of_a = json!({"from_tenant": "proj_a"});
    for model in [reviewed, failed, pending] {
        let reply = deploy(model, "front", of_a.clone()).await;
        assert_eq!(reply.error(), (400, "invalid_request_error".into(), json!("gate_not_passed"), json!("arms[0].model")));
    }
    assert_eq!(deploy(failed, "front", merged(of_a.clone(), &json!({"approved_by": "Ada"}))).await.error().2, "gate_not_passed");
    assert_eq!(deploy(passed, "front", json!({})).await.error().3, "arms[0].model", "nobody's but its owner's");
    let front = deploy(passed, "front", of_a.clone()).await;
    assert_eq!((front.status.as_u16(), &front.json()["arms"][0]["from_tenant"]), (200, &json!("proj_a")), "{}", front.text);
    let waived = deploy(failed, "front", merged(of_a.clone(), &json!({"waived_by": "Grace"}))).await.json();
    assert_eq!((&waived["arms"][0]["waived_by"], &waived["revision"]), (&json!("Grace"), &json!(2)));
    assert_eq!(deploy(failed, "front", of_a.clone()).await.status.as_u16(), 200, "nobody is asked twice about one version");
    assert_eq!(answers(&server, &server.key_of("proj_b").await, "front").await, 200);
    let own = deploy(passed, "front?tenant=proj_a", json!({})).await;
    assert_eq!((own.status.as_u16(), &own.json()["tenant"]), (200, &json!("proj_a")), "{}", own.text);
    server.key_of("proj_b").await;
    assert_eq!(deploy(passed, "front?tenant=proj_b", of_a).await.error().3, "arms[0].from_tenant");
    let first = promote(passed, json!({})).await;
    assert_eq!((first.status.as_u16(), &first.json()["release"]), (200, &json!({"by": "gate"})), "{}", first.text);
    let approved = promote(reviewed, json!({"approved_by": "Ada"})).await.json();
    assert_eq!(approved["release"], json!({"by": "approved", "name": "Ada"}));
    let waived = promote(failed, json!({"waived_by": "Grace"})).await.json();
    assert_eq!(waived["release"], json!({"by": "waived", "name": "Grace"}));
    let other = server.key_of("proj_b").await;
    assert_eq!(answers(&server, &other, "support").await, 200, "everybody's now");
    assert_eq!(answers(&server, &other, failed).await, 404, "its own name is its owner's still");
    let listed = server.get("/v1/lora_adapters").await.json();
    let support = listed["data"].as_array().unwrap().iter().find(|adapter| adapter["name"] == "support").unwrap().clone();
    assert_eq!((&support["loaded_by"], &support["gate"]["verdict"]), (&json!("training"), &json!("fail")));
    driver.stop().await;
}
