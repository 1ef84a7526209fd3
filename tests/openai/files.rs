//! `/v1/files` and `/v1/uploads`: each tenant's own, streamed to the disk, gone from it with the last row that needs them.

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::{Value, json};
use switchyard::training::jobs::files::FileLimits;

use crate::support::{Harness, KEY, Options, Reply};

const BOUNDARY: &str = "xxBOUNDARYxx";
const ROWS: &[u8] = b"{\"messages\": []}\n";

/// A form: names, file names and values.
pub fn form(parts: &[(&str, Option<&str>, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, filename, content) in parts {
        let filename = filename.map_or(String::new(), |name| format!("; filename=\"{name}\""));
        let head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"{filename}\r\n\r\n");
        body.extend([head.as_bytes(), content, b"\r\n"].concat());
    }
    body.extend(format!("--{BOUNDARY}--\r\n").into_bytes());
    body
}

pub async fn post_form(server: &Harness, key: &str, path: &str, body: Vec<u8>, headers: &[(&str, &str)]) -> Reply {
    let mut request = Request::post(path)
        .header("authorization", format!("Bearer {key}"))
        .header("content-type", format!("multipart/form-data; boundary={BOUNDARY}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    server.send(request.body(Body::from(body)).unwrap()).await
}

/// Sends a file to train on.
pub async fn send_file(server: &Harness, key: &str, content: &[u8]) -> Reply {
    let body = form(&[("purpose", None, b"fine-tune"), ("file", Some("rows.jsonl"), content)]);
    post_form(server, key, "/v1/files", body, &[]).await
}

/// Contents on the disk.
fn on_disk(server: &Harness) -> usize {
    std::fs::read_dir(server.data.path().join("files")).unwrap().count()
}

async fn get(server: &Harness, key: &str, path: &str) -> Reply {
    server.call(Method::GET, path, None, key, &[]).await
}

async fn delete(server: &Harness, key: &str, path: &str) -> Reply {
    server.call(Method::DELETE, path, None, key, &[]).await
}

fn id(reply: &Reply) -> String {
    assert_eq!(reply.status.as_u16(), 200, "{}", reply.text);
    reply.json()["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_file_is_sent_found_listed_read_and_removed() {
    let server = Harness::new().await;
    let (key, _) = server.key_for("proj_a", "fine_tuning").await;
    let sent = send_file(&server, &key, ROWS).await;
    let first = id(&sent);
    let object = sent.json();
    assert!(first.starts_with("file-"));
    assert_eq!(
        (&object["object"], &object["bytes"], &object["filename"], &object["purpose"], &object["status"], &object["expires_at"]),
        (&json!("file"), &json!(17), &json!("rows.jsonl"), &json!("fine-tune"), &json!("processed"), &Value::Null)
    );
    assert_eq!(get(&server, &key, &format!("/v1/files/{first}")).await.json(), object);
    let content = get(&server, &key, &format!("/v1/files/{first}/content")).await;
    assert_eq!((content.text.as_bytes(), content.headers["content-length"].to_str().unwrap()), (ROWS, "17"));
    // The same content again is another file, and the same bytes on the disk.
    let second = id(&send_file(&server, &key, ROWS).await);
    assert_ne!(first, second);
    assert_eq!(on_disk(&server), 1);
    let (one, rest) = (get(&server, &key, "/v1/files?limit=1&order=asc").await.json(), |after: &str| {
        format!("/v1/files?limit=1&order=asc&after={after}&purpose=fine-tune")
    });
    assert_eq!(one["has_more"], true);
    let next = get(&server, &key, &rest(one["data"][0]["id"].as_str().unwrap())).await.json();
    assert_eq!((next["data"].as_array().unwrap().len(), &next["has_more"]), (1, &json!(false)));
    assert_ne!(one["data"][0]["id"], next["data"][0]["id"]);
    let none = get(&server, &key, "/v1/files?purpose=fine-tune-results").await.json();
    assert_eq!(none["data"], json!([]));

    let gone = delete(&server, &key, &format!("/v1/files/{first}")).await.json();
    assert_eq!(gone, json!({"id": first, "object": "file", "deleted": true}));
    assert_eq!(on_disk(&server), 1, "another file needs the content");
    assert_eq!(delete(&server, &key, &format!("/v1/files/{first}")).await.status, 404);
    assert_eq!(get(&server, &key, &format!("/v1/files/{first}")).await.status, 404);
    delete(&server, &key, &format!("/v1/files/{second}")).await;
    assert_eq!(on_disk(&server), 0);
}

#[tokio::test]
async fn another_tenants_file_is_as_if_it_were_not_there() {
    let server = Harness::new().await;
    let (a, _) = server.key_for("proj_a", "fine_tuning").await;
    let (b, _) = server.key_for("proj_b", "fine_tuning").await;
    let theirs = id(&send_file(&server, &a, ROWS).await);
    let absent = "file-AAAAAAAAAAAAAAAAAAAAAAAA";
    for path in ["", "/content"] {
        let of = async |id: &str| get(&server, &b, &format!("/v1/files/{id}{path}")).await;
        let (there, not) = (of(&theirs).await, of(absent).await);
        assert_eq!((there.status.as_u16(), there.text.replace(&theirs, absent)), (404, not.text));
    }
    let (there, not) =
        (delete(&server, &b, &format!("/v1/files/{theirs}")).await, delete(&server, &b, &format!("/v1/files/{absent}")).await);
    assert_eq!((there.status.as_u16(), there.text.replace(&theirs, absent)), (404, not.text));
    let (there, not) = (
        get(&server, &b, &format!("/v1/files?after={theirs}")).await,
        get(&server, &b, &format!("/v1/files?after={absent}")).await,
    );
    assert_eq!((there.status.as_u16(), there.text.replace(&theirs, absent)), (400, not.text));
    assert_eq!(get(&server, &b, "/v1/files").await.json()["data"], json!([]));
    assert_eq!(get(&server, &a, &format!("/v1/files/{theirs}")).await.status, 200);

    // A key that only generates reads no training data; one that only looks does, and changes nothing.
    let generates = server.key_of("proj_a").await;
    let (looks, _) = server.key_for("proj_a", "read_only").await;
    assert_eq!(get(&server, &generates, &format!("/v1/files/{theirs}/content")).await.error().0, 403);
    assert_eq!(get(&server, &generates, "/v1/files").await.error().0, 403);
    assert_eq!(send_file(&server, &generates, ROWS).await.error().0, 403);
    assert_eq!(get(&server, &looks, &format!("/v1/files/{theirs}/content")).await.status, 200);
    assert_eq!(delete(&server, &looks, &format!("/v1/files/{theirs}")).await.error().0, 403);
}

#[tokio::test]
async fn what_cannot_be_taken_is_refused_by_name_and_leaves_nothing() {
    let server = Harness::new().await;
    let refused = async |parts: &[(&str, Option<&str>, &[u8])]| {
        let reply = post_form(&server, KEY, "/v1/files", form(parts), &[]).await;
        let error = reply.error();
        (error.0, error.2.as_str().unwrap_or("").to_owned(), error.3.as_str().unwrap_or("").to_owned())
    };
    let file = ("file", Some("rows.jsonl"), ROWS);
    let expect = |status: u16, code: &str, param: &str| (status, code.to_owned(), param.to_owned());
    assert_eq!(refused(&[file]).await, expect(400, "missing_required_parameter", "purpose"));
    assert_eq!(refused(&[("purpose", None, b"fine-tune")]).await, expect(400, "missing_required_parameter", "file"));
    assert_eq!(refused(&[("purpose", None, b"batch"), file]).await, expect(400, "unsupported_purpose", ""));
    assert_eq!(refused(&[("purpose", None, b"fun"), file]).await, expect(400, "invalid_value", "purpose"));
    assert_eq!(refused(&[("purpose", None, b"fine-tune"), ("x", None, b"1"), file]).await, expect(400, "unknown_parameter", "x"));
    let empty = ("file", Some("rows.jsonl"), b"".as_slice());
    assert_eq!(refused(&[("purpose", None, b"fine-tune"), empty]).await, expect(400, "empty_file", "file"));
    let after = ("expires_after[seconds]", None, b"60".as_slice());
    let anchored = ("expires_after[anchor]", None, b"created_at".as_slice());
    assert_eq!(
        refused(&[("purpose", None, b"fine-tune"), file, anchored, after]).await,
        expect(400, "value_out_of_range", "expires_after[seconds]")
    );
    let large = vec![b'x'; (1 << 20) + 1];
    assert_eq!(
        refused(&[("purpose", None, b"fine-tune"), ("file", Some("a"), &large)]).await,
        expect(413, "request_too_large", "")
    );
    let reply = server.post("/v1/files", &json!({"purpose": "fine-tune"})).await;
    assert_eq!(reply.error().2, json!("invalid_content_type"));
    assert_eq!(on_disk(&server), 0);
}

#[tokio::test]
async fn a_tenant_keeps_no_more_than_it_may() {
    let files = FileLimits { file: 1 << 20, tenant: 40 };
    let server = Harness::with(Options { files, ..Options::default() }).await;
    let (a, _) = server.key_for("proj_a", "fine_tuning").await;
    let (b, _) = server.key_for("proj_b", "fine_tuning").await;
    let first = id(&send_file(&server, &a, ROWS).await);
    id(&send_file(&server, &a, ROWS).await);
    let full = send_file(&server, &a, b"{\"one\": \"more\"}").await.error();
    assert_eq!((full.0, full.2), (403, json!("storage_limit_exceeded")));
    id(&send_file(&server, &b, ROWS).await);
    delete(&server, &a, &format!("/v1/files/{first}")).await;
    id(&send_file(&server, &a, b"{\"one\": \"more\"}").await);
}

#[tokio::test]
async fn the_same_request_makes_one_file() {
    let server = Harness::new().await;
    let body = || form(&[("purpose", None, b"fine-tune"), ("file", Some("rows.jsonl"), ROWS)]);
    let first = post_form(&server, KEY, "/v1/files", body(), &[("idempotency-key", "k")]).await;
    let again = post_form(&server, KEY, "/v1/files", body(), &[("idempotency-key", "k")]).await;
    assert_eq!((id(&first), again.headers["idempotent-replayed"].to_str().unwrap()), (id(&again), "true"));
    let other = form(&[("purpose", None, b"fine-tune"), ("file", Some("other.jsonl"), ROWS)]);
    assert_eq!(post_form(&server, KEY, "/v1/files", other, &[("idempotency-key", "k")]).await.error().0, 409);
}

#[tokio::test]
async fn files_expire() {
    let server = Harness::new().await;
    let body = form(&[
        ("purpose", None, b"fine-tune"),
        ("expires_after[anchor]", None, b"created_at"),
        ("expires_after[seconds]", None, b"3600"),
        ("file", Some("rows.jsonl"), ROWS),
    ]);
    let sent = post_form(&server, KEY, "/v1/files", body, &[]).await.json();
    let expires = sent["expires_at"].as_i64().unwrap();
    assert_eq!(expires - sent["created_at"].as_i64().unwrap(), 3600);
    server.files.expire(expires - 1).await.unwrap();
    assert_eq!(on_disk(&server), 1);
    server.files.expire(expires).await.unwrap();
    assert_eq!(on_disk(&server), 0);
    assert_eq!(get(&server, KEY, &format!("/v1/files/{}", sent["id"].as_str().unwrap())).await.status, 404);
}

#[tokio::test]
async fn a_file_comes_in_parts() {
    let server = Harness::new().await;
    let (key, _) = server.key_for("proj_a", "fine_tuning").await;
    let (other, _) = server.key_for("proj_b", "fine_tuning").await;
    let begin = async |bytes: usize| {
        let body = json!({"bytes": bytes, "filename": "rows.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune"});
        server.post_as(&key, "/v1/uploads", &body, &[]).await
    };
    let upload = begin(7).await.json();
    assert_eq!((&upload["object"], &upload["status"], &upload["file"]), (&json!("upload"), &json!("pending"), &Value::Null));
    let path = format!("/v1/uploads/{}", upload["id"].as_str().unwrap());
    let part = async |key: &str, content: &[u8]| {
        post_form(&server, key, &format!("{path}/parts"), form(&[("data", Some("part"), content)]), &[]).await
    };
    let (second, first) = (id(&part(&key, b"efg").await), id(&part(&key, b"abcd").await));
    assert_eq!(part(&other, b"abc").await.status, 404);
    assert_eq!(part(&key, b"longer than the file").await.error().0, 413);
    let complete = async |key: &str, body: Value| server.post_as(key, &format!("{path}/complete"), &body, &[]).await;
    assert_eq!(complete(&other, json!({"part_ids": [first, second]})).await.status, 404);
    assert_eq!(complete(&key, json!({"part_ids": [first]})).await.error().2, json!("upload_size_mismatch"));
    assert_eq!(complete(&key, json!({"part_ids": [first, first]})).await.error().3, json!("part_ids"));
    assert_eq!(complete(&key, json!({"part_ids": [first, second], "md5": "00"})).await.error().3, json!("md5"));
    // Of RFC 1321's algorithm over "abcdefg".
    let body = json!({"part_ids": [first, second], "md5": "7ac66c0f148de9519b8bd264312c4d64"});
    let done = complete(&key, body).await.json();
    assert_eq!(
        (&done["status"], &done["file"]["bytes"], &done["file"]["object"]),
        (&json!("completed"), &json!(7), &json!("file"))
    );
    let file = done["file"]["id"].as_str().unwrap();
    assert_eq!(get(&server, &key, &format!("/v1/files/{file}/content")).await.text, "abcdefg");
    assert_eq!(on_disk(&server), 1, "the parts are gone");
    assert_eq!(part(&key, b"abc").await.error().2, json!("upload_not_pending"));

    let upload = id(&begin(3).await);
    let path = format!("/v1/uploads/{upload}");
    id(&post_form(&server, &key, &format!("{path}/parts"), form(&[("data", Some("part"), b"xyz")]), &[]).await);
    assert_eq!(on_disk(&server), 2);
    let cancelled = server.post_as(&key, &format!("{path}/cancel"), &json!({}), &[]).await.json();
    assert_eq!((&cancelled["status"], on_disk(&server)), (&json!("cancelled"), 1));

    let late = begin(3).await.json();
    let path = format!("/v1/uploads/{}", late["id"].as_str().unwrap());
    id(&post_form(&server, &key, &format!("{path}/parts"), form(&[("data", Some("part"), b"xyz")]), &[]).await);
    server.files.expire(late["expires_at"].as_i64().unwrap()).await.unwrap();
    assert_eq!(on_disk(&server), 1);
    let refused = server.post_as(&key, &format!("{path}/complete"), &json!({"part_ids": []}), &[]).await;
    assert_eq!(refused.error().2, json!("upload_not_pending"));
}
