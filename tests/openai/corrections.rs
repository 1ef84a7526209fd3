//! Corrections of `/convert`: what would have been right, as rows to train on, and jobs that learn from them.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use crate::bundled::bundled_server;
use crate::files::send_file;
use crate::support::{Harness, KEY};

const TEXT: &str = "remind me to call mum tomorrow at six";

/// The id of an answer.
async fn said(server: &Harness, text: &str) -> String {
    server.ok("/convert", &json!({"text": text})).await["id"].as_str().unwrap().to_owned()
}

async fn rows(server: &Harness) -> Vec<Value> {
    let reply = server.get("/v1/convert/corrections").await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    reply.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn what_would_have_been_right_is_a_row_to_train_on_and_the_last_word_counts() {
    let server = bundled_server().await;
    assert_eq!(rows(&server).await, Vec::<Value>::new());
    let id = said(&server, &format!("um, {TEXT}")).await;
    let right = json!({"intent": "set_reminder", "task": "mum", "when": "tomorrow at six"});
    let first = server.ok(&format!("/convert/{id}/correction"), &right).await;
    assert_eq!((&first["answer_id"], &first["corrections"]), (&json!(id), &json!({"total": 1, "new": 1})));
    assert_eq!((&first["structured_data"], &first["job"]), (&right, &Value::Null));
    assert_eq!(first["was_right"], false);
    // Another word on the same answer takes its place; what it leaves open is as it was answered.
    let second = server.ok(&format!("/api/convert/{id}/correction"), &json!({"intent": "unknown"})).await;
    assert_eq!(second["structured_data"], json!({"intent": "unknown", "task": null, "when": null}));
    assert_eq!((&second["id"], &second["corrections"]["total"]), (&first["id"], &json!(1)));
    let taught = json!({"messages": [
        {"role": "user", "content": format!("{TEXT}\n {TEXT}")},
        {"role": "assistant", "content": r#"{"intent":"unknown","task":null,"when":null}"#},
    ]});
    assert_eq!(rows(&server).await, [taught]);
    let other = said(&server, "what's on today").await;
    let confirmed = server.ok(&format!("/convert/{other}/correction"), &json!({"correct": true})).await;
    assert_eq!((&confirmed["was_right"], &confirmed["corrections"]["total"]), (&json!(true), &json!(2)));
    let path = format!("/v1/convert/corrections/{}", first["id"].as_str().unwrap());
    assert_eq!(server.send(delete(&path)).await.status, StatusCode::OK);
    assert_eq!(server.send(delete(&path)).await.status, StatusCode::NOT_FOUND);
    assert_eq!(rows(&server).await.len(), 1);
}

fn delete(path: &str) -> Request<Body> {
    Request::delete(path).header("authorization", format!("Bearer {KEY}")).body(Body::empty()).unwrap()
}

const POLICY: &str = "/v1/convert/corrections/policy";

#[tokio::test]
async fn enough_corrections_start_a_job_from_a_file_that_has_them_and_the_rows_before_them() {
    let server = bundled_server().await;
    let before = r#"{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"{}"}]}"#;
    let file = send_file(&server, KEY, before.as_bytes()).await.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(server.get(POLICY).await.status, StatusCode::NOT_FOUND);
    let put = async |body: Value| server.call(Method::PUT, POLICY, Some(&body), KEY, &[]).await;
    for (body, param) in [
        (json!({}), "after"),
        (json!({"after": 0}), "after"),
        (json!({"after": 2, "job": {"training_file": "file-none"}}), "job.training_file"),
        (json!({"after": 2, "job": {"sufix": "a"}}), "job.sufix"),
    ] {
        let reply = put(body.clone()).await;
        assert!(reply.status.is_client_error(), "{body} {}", reply.text);
        assert_eq!(reply.json()["error"]["param"], param, "{body}");
    }
    let policy = json!({"after": 2, "job": {"training_file": file, "suffix": "convert"}});
    let reply = put(policy.clone()).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    assert_eq!((&reply.json()["after"], &reply.json()["job"]), (&policy["after"], &policy["job"]));

    let correct = async |text: &str| {
        let id = said(&server, text).await;
        server.ok(&format!("/convert/{id}/correction"), &json!({"intent": "unknown"})).await
    };
    let first = correct("call mum").await;
    assert_eq!((&first["job"], &first["corrections"]["new"]), (&Value::Null, &json!(1)));
    let second = correct("call dad").await;
    let job = second["job"].as_str().unwrap_or_else(|| panic!("{second}")).to_owned();
    let third = correct("call grandma").await;
    assert_eq!((&third["job"], &third["corrections"]), (&Value::Null, &json!({"total": 3, "new": 1})));

    let job = server.get(&format!("/v1/fine_tuning/jobs/{job}")).await.json();
    let content = server.get(&format!("/v1/files/{}/content", job["training_file"].as_str().unwrap())).await.text;
    let lines: Vec<&str> = content.lines().collect();
    assert_eq!((lines.len(), lines[0]), (3, before), "{content}");
    // In no order: they came within a second.
    let has = |text: &str| lines[1..].iter().any(|line| line.contains(text));
    assert!(has("call mum") && has("call dad") && content.ends_with('\n'), "{content}");
    // Asked for by hand, with all of them.
    let job = server.ok("/v1/convert/corrections/jobs", &json!({"suffix": "convert"})).await;
    let content = server.get(&format!("/v1/files/{}/content", job["training_file"].as_str().unwrap())).await.text;
    assert_eq!(content.lines().count(), 3);
    assert_eq!(correct("call uncle joe").await["corrections"], json!({"total": 4, "new": 1}));
    assert_eq!(server.send(delete(POLICY)).await.status, StatusCode::OK);
    assert_eq!(server.send(delete(POLICY)).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_cannot_be_learnt_is_refused_by_its_name() {
    let server = bundled_server().await;
    let id = said(&server, TEXT).await;
    let path = format!("/convert/{id}/correction");
    for (body, param, code) in [
        (json!({}), "intent", "missing_required_parameter"),
        (json!({"correct": false}), "intent", "missing_required_parameter"),
        (json!({"correct": true, "task": "mum"}), "correct", "invalid_parameter_combination"),
        (json!({"intent": "dance"}), "intent", "invalid_value"),
        (json!({"intent": "add_task", "task": "call dad"}), "task", "invalid_value"),
        (json!({"intent": "list_tasks", "task": "call mum"}), "task", "invalid_value"),
        (json!({"when": 6}), "when", "invalid_type"),
        (json!({"whan": "tomorrow"}), "whan", "unknown_parameter"),
    ] {
        let reply = server.post(&path, &body).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{body} {}", reply.text);
        let error = &reply.json()["error"];
        assert_eq!((&error["param"], &error["code"]), (&json!(param), &json!(code)), "{body}");
    }
    for path in ["/convert/req_nobody/correction", "/convert/%F0%9F%99%82/correction"] {
        let reply = server.post(path, &json!({"correct": true})).await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "{}", reply.text);
    }
    // A text that is still growing is not kept.
    let partial = server.ok("/convert", &json!({"text": TEXT, "partial": true})).await;
    let path = format!("/convert/{}/correction", partial["id"].as_str().unwrap());
    assert_eq!(server.post(&path, &json!({"correct": true})).await.status, StatusCode::NOT_FOUND);
    let job = server.post("/v1/convert/corrections/jobs", &json!({})).await;
    assert_eq!(job.status, StatusCode::BAD_REQUEST, "{}", job.text);
    assert_eq!(job.json()["error"]["code"], "no_corrections");
}

#[tokio::test]
async fn one_tenant_corrects_no_answers_of_another() {
    let server = bundled_server().await;
    let id = said(&server, TEXT).await;
    let stranger = server.key_of("stranger").await;
    let request = Request::post(format!("/convert/{id}/correction")).header("authorization", format!("Bearer {stranger}"));
    let reply = server.send(request.body(Body::from(json!({"correct": true}).to_string())).unwrap()).await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND, "{}", reply.text);
    assert!(!reply.text.contains("mum"));
}
