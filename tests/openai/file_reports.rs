//! `/v1/files/{file_id}/report`.

use axum::http::Method;
use serde_json::Value;

use crate::files::{form, post_form, send_file};
use crate::support::{Harness, KEY, Reply};

fn id(reply: &Reply) -> String {
    assert_eq!(reply.status.as_u16(), 200, "{}", reply.text);
    reply.json()["id"].as_str().unwrap().to_owned()
}

async fn report(server: &Harness, key: &str, path: &str) -> Reply {
    server.call(Method::GET, path, None, key, &[]).await
}

#[tokio::test]
async fn a_file_is_reported_on_to_its_owner() {
    let server = Harness::new().await;
    let rows = b"{\"prompt\": \"a question\", \"completion\": \"an answer\"}\n{\"prompt\": \"another\"}\nnothing\n";
    let file = id(&send_file(&server, KEY, rows).await);
    let path = format!("/v1/files/{file}/report");
    let reply = report(&server, KEY, &path).await;
    assert_eq!(reply.status.as_u16(), 200, "{}", reply.text);
    let told = reply.json();
    assert_eq!((&told["format"], &told["rows"], &told["usable"]), (&"completion".into(), &3.into(), &1.into()));
    let finding = |kind: &str| told["findings"].as_array().unwrap().iter().find(|finding| finding["kind"] == kind).cloned();
    assert_eq!(finding("syntax").unwrap()["lines"], Value::from(vec![3]));
    assert_eq!(finding("missing").unwrap()["lines"], Value::from(vec![2]));
    assert_eq!(report(&server, KEY, &format!("{path}?context=16")).await.json()["tokens"]["context"], 16);

    // Mistakes by name, and nobody else's file.
    for (query, param) in [
        ("format=word", "format"),
        ("map=x", "map"),
        ("least_quality=x", "least_quality"),
        ("y=1", "y"),
        ("context=0", "context"),
    ] {
        let reply = report(&server, KEY, &format!("{path}?{query}")).await;
        assert_eq!((reply.status.as_u16(), &reply.json()["error"]["param"]), (400, &param.into()), "{}", reply.text);
    }
    let (stranger, _) = server.key_for("proj_b", "fine_tuning").await;
    assert_eq!(report(&server, &stranger, &path).await.status.as_u16(), 404);
}

#[tokio::test]
async fn tables_are_known_by_their_names_and_what_is_no_dataset_is_refused() {
    let server = Harness::new().await;
    let body = form(&[("purpose", None, b"fine-tune"), ("file", Some("faq.csv"), b"question,answer\nWhy?,So.\n")]);
    let file = id(&post_form(&server, KEY, "/v1/files", body, &[]).await);
    let told = report(&server, KEY, &format!("/v1/files/{file}/report")).await.json();
    assert_eq!((&told["container"], &told["columns"][0]["column"]), (&"csv".into(), &"question".into()), "{told}");
    let file = id(&send_file(&server, KEY, &[0; 100]).await);
    let reply = report(&server, KEY, &format!("/v1/files/{file}/report")).await;
    assert_eq!(reply.status.as_u16(), 400);
    assert!(reply.text.contains("binary"), "{}", reply.text);
}
