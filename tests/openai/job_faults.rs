//! What can go wrong around a job: each fault ends in a clear error of the job or in a repetition, and no job is lost.

use axum::http::Method;
use serde_json::{Value, json};
use switchyard::tenants::webhooks::Deliveries;
use switchyard::training::jobs::desk::{Caps, DeskSetup, Jobs};
use switchyard::training::jobs::work::Failure;

use crate::files::send_file;
use crate::fine_tuning::{act, begin, call, get, messages, rows};
use crate::scripted::{Fault, Script};
use crate::support::{BASE, Harness, KEY};
use crate::webhooks::Receiver;

const TENANT: &str = "proj_a";

async fn server() -> (Harness, String, String) {
    let server = Harness::new().await;
    let (key, id) = server.key_for(TENANT, "fine_tuning,inference").await;
    (server, key, id)
}

/// A failed job's code and field.
fn error(job: &Value) -> (&str, &Value) {
    assert_eq!((&job["status"], &job["state"]), (&json!("failed"), &json!("failed")), "{job}");
    assert!(!job["error"]["message"].as_str().unwrap().is_empty());
    (job["error"]["code"].as_str().unwrap(), &job["error"]["param"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_cannot_be_learnt_from_are_told_by_line() {
    let (server, key, _) = server().await;
    let driver = server.drive(&Script::new(2)).await;
    let bad = send_file(&server, &key, b"{}\nnot json\n").await.json()["id"].as_str().unwrap().to_owned();
    let job = server.job_over(&key, &begin(&server, &key, &bad, &json!({})).await).await;
    assert_eq!(error(&job), ("invalid_training_file", &json!("training_file")));
    assert!(job["error"]["message"].as_str().unwrap().contains("line 2"));
    driver.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_file_ends_a_job_that_has_not_read_it_and_no_other() {
    let (server, key, _) = server().await;
    let (early, late) = (rows(&server, &key).await, rows(&server, &key).await);
    let unread = begin(&server, &key, &early, &json!({})).await;
    call(&server, &key, Method::DELETE, &format!("/v1/files/{early}"), None).await;
    let script = Script::new(4);
    script.allow(2);
    let driver = server.drive(&script).await;
    assert_eq!(error(&server.job_over(&key, &unread).await), ("file_not_found", &json!("training_file")));
    let read = begin(&server, &key, &late, &json!({})).await;
    server.job_when(&key, &read, |job| job["estimated_finish"].is_i64()).await;
    call(&server, &key, Method::DELETE, &format!("/v1/files/{late}"), None).await;
    script.allow(4);
    assert_eq!(server.job_over(&key, &read).await["status"], "succeeded");
    driver.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_waited_for_and_then_told() {
    let (server, key, _) = server().await;
    let file = rows(&server, &key).await;
    let script = Script::new(4);
    let driver = server.drive(&script).await;
    // A checkpoint may be left out, and what a restart goes on from; the model waits for room.
    [Fault::Export(Failure::DiskFull), Fault::Save(Failure::DiskFull)].into_iter().for_each(|fault| script.fault(fault));
    let id = begin(&server, &key, &file, &json!({})).await;
    assert_eq!(server.job_over(&key, &id).await["status"], "succeeded");
    let said = messages(&server, &key, &id).await;
    assert!(said.iter().any(|message| message.contains("disk is full: the checkpoint at step 1")), "{said:?}");
    assert!(said.iter().any(|message| message.contains("could not be saved")), "{said:?}");
    assert_eq!(get(&server, &key, &format!("/v1/fine_tuning/jobs/{id}/checkpoints")).await["data"].as_array().unwrap().len(), 3);

    script.allow(3);
    let id = begin(&server, &key, &file, &json!({})).await;
    server.job_when(&key, &id, |job| job["estimated_finish"].is_i64()).await;
    let before = script.exports();
    loop {
        let checkpoints = get(&server, &key, &format!("/v1/fine_tuning/jobs/{id}/checkpoints")).await;
        if checkpoints["data"].as_array().unwrap().len() == 3 {
            break;
        }
        tokio::task::yield_now().await;
    }
    (0..3).for_each(|_| script.fault(Fault::Export(Failure::DiskFull)));
    script.allow(4);
    assert_eq!(server.job_over(&key, &id).await["status"], "succeeded");
    assert!(script.exports() >= before + 4);

    (0..20).for_each(|_| script.fault(Fault::Export(Failure::DiskFull)));
    let id = begin(&server, &key, &file, &json!({})).await;
    assert_eq!(error(&server.job_over(&key, &id).await), ("storage_full", &Value::Null));
    driver.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_key_ends_its_jobs_and_a_rotated_one_does_not() {
    let (server, key, key_id) = server().await;
    let (other, _) = server.key_for(TENANT, "fine_tuning").await;
    let file = rows(&server, &key).await;
    let script = Script::new(8);
    script.allow(2);
    let driver = server.drive(&script).await;
    let id = begin(&server, &key, &file, &json!({})).await;
    server.job_when(&key, &id, |job| job["estimated_finish"].is_i64()).await;
    server.done(Method::DELETE, &format!("/admin/keys/{key_id}"), Value::Null).await;
    let unread = begin(&server, &other, &file, &json!({})).await;
    script.allow(8);
    assert_eq!(error(&server.job_over(&other, &id).await), ("key_revoked", &Value::Null));
    assert_eq!(server.job_over(&other, &unread).await["status"], "succeeded");
    // Another key in its place is no withdrawal of trust.
    let (rotated, rotated_id) = server.key_for(TENANT, "fine_tuning").await;
    script.allow(2);
    let kept = begin(&server, &rotated, &file, &json!({})).await;
    server.job_when(&other, &kept, |job| job["estimated_finish"].is_i64()).await;
    server.done(Method::POST, &format!("/admin/keys/{rotated_id}/rotate"), json!({})).await;
    server.done(Method::DELETE, &format!("/admin/keys/{rotated_id}"), Value::Null).await;
    script.allow(8);
    assert_eq!(server.job_over(&other, &kept).await["status"], "succeeded");
    driver.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workers_failure_and_a_panic_are_the_jobs_and_the_next_one_runs() {
    let (server, key, _) = server().await;
    let file = rows(&server, &key).await;
    let script = Script::new(4);
    script.fault(Fault::Step(Failure::job("training_diverged", "The loss is not a number; a lower learning rate may do.")));
    script.fault(Fault::Panic);
    let driver = server.drive(&script).await;
    let mut codes = Vec::new();
    for _ in 0..2 {
        let job = server.job_over(&key, &begin(&server, &key, &file, &json!({})).await).await;
        codes.push(error(&job).0.to_owned());
    }
    assert_eq!(codes, ["training_diverged", "server_error"]);
    let last = begin(&server, &key, &file, &json!({})).await;
    assert_eq!(server.job_over(&key, &last).await["status"], "succeeded");
    driver.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caps_on_time_and_money_hold() {
    let (server, key, _) = server().await;
    let file = rows(&server, &key).await;
    let driver = server.drive(&Script::new(50)).await;
    // A million tokens cost a dollar here; the job has 5000.
    let dear = begin(&server, &key, &file, &json!({"limits": {"usd": 0.001}})).await;
    assert_eq!(error(&server.job_over(&key, &dear).await).0, "cost_limit_reached");
    let long = begin(&server, &key, &file, &json!({"limits": {"hours": 0}})).await;
    assert_eq!(error(&server.job_over(&key, &long).await).0, "time_limit_reached");
    let fits = begin(&server, &key, &file, &json!({"limits": {"usd": 0.01, "hours": 1}})).await;
    assert_eq!(server.job_over(&key, &fits).await["status"], "succeeded");
    driver.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_in_which_a_job_is_held_is_not_its_own() {
    let (server, key, _) = server().await;
    let file = rows(&server, &key).await;
    let script = Script::new(4);
    script.hold(1);
    let driver = server.drive(&script).await;
    let id = begin(&server, &key, &file, &json!({"limits": {"hours": 0}})).await;
    assert_eq!(server.job_over(&key, &id).await["status"], "succeeded");
    driver.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_pass_is_tried_again_and_no_checkpoint_is_lost() {
    let (server, key, _) = server().await;
    let file = rows(&server, &key).await;
    let script = Script::new(4);
    let passing = || Failure::Later("/a/path: input/output error".to_owned());
    let faults = [Fault::Step(passing()), Fault::Evaluate(Failure::Stopped), Fault::Export(passing())];
    faults.into_iter().for_each(|fault| script.fault(fault));
    let driver = server.drive(&script).await;
    let id = begin(&server, &key, &file, &json!({})).await;
    assert_eq!(server.job_over(&key, &id).await["status"], "succeeded");
    assert_eq!(script.began_at(), [0, 0, 1, 1], "it goes on from what it had");
    let checkpoints = get(&server, &key, &format!("/v1/fine_tuning/jobs/{id}/checkpoints")).await;
    assert_eq!(checkpoints["data"].as_array().unwrap().len(), 4);
    assert!(!messages(&server, &key, &id).await.iter().any(|text| text.contains("/a/path")));

    (0..20).for_each(|_| script.fault(Fault::Step(passing())));
    let id = begin(&server, &key, &file, &json!({})).await;
    assert_eq!(error(&server.job_over(&key, &id).await), ("server_error", &Value::Null));
    driver.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_cancelled_while_it_is_examined_leaves_no_model() {
    let (server, key, _) = server().await;
    let file = rows(&server, &key).await;
    let script = Script::new(2);
    script.fault(Fault::Examine);
    let driver = server.drive(&script).await;
    let id = begin(&server, &key, &file, &json!({})).await;
    while script.examinations() == 0 {
        tokio::task::yield_now().await;
    }
    let checkpoints = get(&server, &key, &format!("/v1/fine_tuning/jobs/{id}/checkpoints")).await;
    let name = checkpoints["data"][0]["fine_tuned_model_checkpoint"].as_str().unwrap();
    let model = name.split(":ckpt").next().unwrap();
    assert_eq!(call(&server, &key, Method::GET, &format!("/v1/models/{model}"), None).await.status, 200);
    assert_eq!(act(&server, &key, &id, "cancel").await.json()["status"], "cancelled");
    driver.stop().await;
    assert_eq!(call(&server, &key, Method::GET, &format!("/v1/models/{model}"), None).await.status, 404);
    assert_eq!(call(&server, &key, Method::GET, &format!("/v1/models/{name}"), None).await.status, 200, "it was announced");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_for_another_base_or_for_none_ends() {
    let (server, key, _) = server().await;
    let file = rows(&server, &key).await;
    let id = begin(&server, &key, &file, &json!({})).await;
    let desk = |base: &str| {
        let files = server.jobs.files().clone();
        Jobs::new(DeskSetup { files, base: base.to_owned(), caps: Caps { seconds: 60 }, untrainable: None })
    };
    let driver = server.drive_for(desk("other"), &Script::new(2)).await;
    // The harness's desk hears nothing of the other one's changes.
    let over = async |id: &str| loop {
        let job = get(&server, &key, &format!("/v1/fine_tuning/jobs/{id}")).await;
        if job["status"] == "failed" {
            return job;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(error(&over(&id).await), ("base_changed", &json!("model")));
    driver.stop().await;
    let id = begin(&server, &key, &file, &json!({})).await;
    desk(BASE).end_unfinished("it runs without a model").await.unwrap();
    assert_eq!(error(&over(&id).await), ("training_unavailable", &Value::Null));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_state_is_told_once_and_a_dead_receiver_holds_nothing_up() {
    let (server, key, _) = server().await;
    let (receiver, url) = Receiver::start().await;
    let hook = server.done(Method::POST, "/admin/webhooks", json!({"url": url, "project_id": TENANT})).await;
    server.done(Method::POST, "/admin/webhooks", json!({"url": "http://127.0.0.1:9/dead", "project_id": TENANT})).await;
    let script = Script::new(4);
    let driver = server.drive(&script).await;
    let file = rows(&server, &key).await;
    let id = begin(&server, &key, &file, &json!({})).await;
    assert_eq!(server.job_over(&key, &id).await["status"], "succeeded");
    script.fault(Fault::Step(Failure::job("training_diverged", "It diverged.")));
    let failed = begin(&server, &key, &file, &json!({})).await;
    server.job_over(&key, &failed).await;
    let gone = begin(&server, &key, &file, &json!({})).await;
    act(&server, &key, &gone, "cancel").await;
    driver.stop().await;

    let deliveries = Deliveries::new(server.tenants.office().clone());
    let now = switchyard::tenants::unix_now() + 1;
    while deliveries.send_due(now).await.unwrap() > 0 {}
    let got = receiver.got();
    let secret = hook["secret"].as_str().unwrap();
    let states = |job: &str| -> Vec<String> {
        let bodies = got.iter().map(|(_, body)| serde_json::from_str::<Value>(body).unwrap());
        let mut states: Vec<String> = bodies
            .filter(|body| body["data"]["id"] == job)
            .map(|body| body["data"]["state"].as_str().unwrap().to_owned())
            .collect();
        states.sort();
        states
    };
    assert_eq!(states(&id), ["completed", "evaluating", "model_loaded", "preprocessing", "queued", "training"]);
    assert_eq!(states(&failed), ["failed", "model_loaded", "preprocessing", "queued", "training"]);
    assert!(states(&gone).contains(&"cancelled".to_owned()));
    for (headers, body) in &got {
        let tag = ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes()), body.as_bytes());
        let digits: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(headers["x-webhook-signature"].to_str().unwrap(), format!("sha256={digits}"));
        assert_eq!(headers["x-webhook-timestamp"], headers["webhook-timestamp"]);
    }
    assert_eq!(call(&server, KEY, Method::GET, "/v1/models", None).await.json()["data"][0]["id"], BASE);
}
