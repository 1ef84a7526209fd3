//! What was used: in buckets, by project, key, model and user, as money, and row by row.

use axum::http::Method;
use serde_json::{Value, json};
use switchyard::store::ledger::{LedgerRow, append};
use switchyard::tenants::admin::usage::verify;

use crate::support::{BASE, Harness, KEY};

const ORG: &str = "/v1/organization";
/// A midnight, seconds since 1970.
const DAY: i64 = 1_790_000_000 / 86_400 * 86_400;

fn row(index: usize, at: i64, project: &str, key: &str, model: &str) -> LedgerRow {
    LedgerRow {
        id: format!("n1-{index}"),
        node: "n1".to_owned(),
        at_micros: at * 1_000_000 + 7,
        request_id: format!("req_{index}"),
        project_id: project.to_owned(),
        key_id: key.to_owned(),
        end_user: (index % 2 == 1).then(|| "ann, \"the\" boss".to_owned()),
        endpoint: "completions".to_owned(),
        model: model.to_owned(),
        version: model.to_owned(),
        input_tokens: 10,
        cached_tokens: 4,
        output_tokens: 3,
        cost_nanos: 1_500_000,
        cache: "miss".to_owned(),
        outcome: "stop".to_owned(),
        ..LedgerRow::default()
    }
}

async fn with_history() -> Harness {
    let server = Harness::new().await;
    let rows = [
        row(0, DAY, "proj_a", "key_1", "tiny"),
        row(1, DAY + 59, "proj_a", "key_1", "polite"),
        row(2, DAY + 3_599, "proj_b", "key_2", "tiny"),
        row(3, DAY + 3_600, "proj_a", "key_3", "tiny"),
        row(4, DAY + 86_400, "proj_a", "key_1", "tiny"),
        row(5, DAY + 3 * 86_400 + 5, "proj_b", "key_2", "tiny"),
    ];
    append(server.tenants.database(), &rows).await.unwrap();
    server
}

impl Harness {
    /// Start, requests and the named fields of each result, bucket by bucket.
    async fn used(&self, query: &str, fields: &[&str]) -> Vec<(i64, Vec<Value>)> {
        let page = self.done(Method::GET, &format!("{ORG}/usage/completions?{query}"), Value::Null).await;
        let result = |result: &Value| fields.iter().map(|field| result[*field].clone()).collect::<Vec<_>>().into();
        let bucket = |bucket: &Value| {
            (bucket["start_time"].as_i64().unwrap(), bucket["results"].as_array().unwrap().iter().map(result).collect())
        };
        page["data"].as_array().unwrap().iter().map(bucket).collect()
    }
}

#[tokio::test]
async fn use_is_summed_in_days_hours_and_minutes() {
    let server = with_history().await;
    let end = DAY + 4 * 86_400;
    let days = server
        .used(
            &format!("start_time={DAY}&end_time={end}"),
            &["num_model_requests", "input_tokens", "input_cached_tokens", "output_tokens"],
        )
        .await;
    let sums = |count: i64| vec![json!([count, 10 * count, 4 * count, 3 * count])];
    assert_eq!(days, [(DAY, sums(4)), (DAY + 86_400, sums(1)), (DAY + 172_800, vec![]), (DAY + 259_200, sums(1))]);
    let hours = server.used(&format!("start_time={DAY}&end_time={}&bucket_width=1h", DAY + 7_200), &["num_model_requests"]).await;
    assert_eq!(hours, [(DAY, vec![json!([3])]), (DAY + 3_600, vec![json!([1])])]);
    let minutes = server.used(&format!("start_time={DAY}&bucket_width=1m&limit=60"), &["num_model_requests"]).await;
    assert_eq!(
        (minutes.len(), &minutes[0].1, &minutes[1].1, &minutes[59].1),
        (60, &vec![json!([2])], &vec![], &vec![json!([1])])
    );
    // A question may begin and end anywhere.
    let cut = server.used(&format!("start_time={}&end_time={}", DAY + 1, DAY + 86_401), &["num_model_requests"]).await;
    assert_eq!(cut, [(DAY + 1, vec![json!([3])]), (DAY + 86_400, vec![json!([1])])]);

    let by = |field: &str| format!("start_time={DAY}&end_time={}&group_by[]={field}", DAY + 86_400);
    let requests = async |query: String, field: &str| server.used(&query, &[field, "num_model_requests"]).await.remove(0).1;
    assert_eq!(requests(by("project_id"), "project_id").await, [json!(["proj_a", 3]), json!(["proj_b", 1])]);
    assert_eq!(requests(by("model"), "model").await, [json!(["polite", 1]), json!(["tiny", 3])]);
    assert_eq!(requests(by("api_key_id"), "api_key_id").await, [json!(["key_1", 2]), json!(["key_2", 1]), json!(["key_3", 1])]);
    assert_eq!(requests(by("user_id"), "user_id").await, [json!([null, 2]), json!(["ann, \"the\" boss", 2])]);
    let two =
        server.used(&format!("{}&group_by[]=model", by("project_id")), &["project_id", "model", "num_model_requests"]).await;
    assert_eq!(two[0].1, [json!(["proj_a", "polite", 1]), json!(["proj_a", "tiny", 2]), json!(["proj_b", "tiny", 1])]);
    for (filter, count) in
        [("project_ids[]=proj_b", 1), ("models[]=polite", 1), ("api_key_ids[]=key_1&api_key_ids[]=key_3", 3), ("batch=false", 4)]
    {
        let query = format!("start_time={DAY}&end_time={}&{filter}", DAY + 86_400);
        assert_eq!(server.used(&query, &["num_model_requests"]).await[0].1, [json!([count])], "{filter}");
    }
}

#[tokio::test]
async fn pages_of_buckets_follow_each_other() {
    let server = with_history().await;
    let (mut page, mut starts) = (String::new(), Vec::new());
    loop {
        let path = format!("{ORG}/usage/completions?start_time={}&end_time={}&limit=2{page}", DAY + 10, DAY + 4 * 86_400 + 1);
        let answer = server.done(Method::GET, &path, Value::Null).await;
        starts.extend(answer["data"].as_array().unwrap().iter().map(|bucket| bucket["start_time"].as_i64().unwrap()));
        if answer["has_more"] == false {
            assert_eq!(answer["next_page"], Value::Null);
            break;
        }
        page = format!("&page={}", answer["next_page"].as_str().unwrap());
    }
    assert_eq!(starts, [DAY + 10, DAY + 86_400, DAY + 172_800, DAY + 259_200, DAY + 345_600]);
    // Without an end: until now.
    let answer = server.done(Method::GET, &format!("{ORG}/costs?start_time={DAY}&limit=1"), Value::Null).await;
    assert_eq!(answer["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_answer_is_in_use_and_costs_at_once() {
    let server = Harness::new().await;
    let (project, _, key_id, key) = server.tenant("Acme").await;
    let usd = json!({"input": "2", "output": "8"});
    server.done(Method::POST, "/admin/prices", json!({"usd_per_million_tokens": usd})).await;
    let body = json!({"model": BASE, "prompt": "hello", "max_tokens": 4, "temperature": 0, "ignore_eos": true});
    let answer = server.call(Method::POST, "/v1/completions", Some(&body), &key, &[]).await.json();
    let (input, output) =
        (answer["usage"]["prompt_tokens"].as_i64().unwrap(), answer["usage"]["completion_tokens"].as_i64().unwrap());
    let start = switchyard::tenants::unix_now() - 60;
    let read = async |path: &str| server.call(Method::GET, path, None, &key, &[]).await.json();
    let usage =
        read(&format!("{ORG}/usage/completions?start_time={start}&bucket_width=1d&group_by[]=api_key_id&group_by[]=model")).await;
    let results: Vec<&Value> =
        usage["data"].as_array().unwrap().iter().flat_map(|bucket| bucket["results"].as_array().unwrap()).collect();
    let [used] = results.as_slice() else { panic!("{usage}") };
    assert_eq!((&used["api_key_id"], &used["model"], &used["num_model_requests"]), (&json!(key_id), &json!(BASE), &json!(1)));
    assert_eq!((&used["input_tokens"], &used["output_tokens"]), (&json!(input), &json!(output)));
    let costs = read(&format!("{ORG}/costs?start_time={start}&group_by[]=line_item&group_by[]=project_id")).await;
    let results: Vec<&Value> =
        costs["data"].as_array().unwrap().iter().flat_map(|bucket| bucket["results"].as_array().unwrap()).collect();
    let [cost] = results.as_slice() else { panic!("{costs}") };
    let nanos = 2_000 * input + 8_000 * output;
    assert_eq!(cost["amount"], json!({"value": nanos as f64 / 1e9, "currency": "usd", "nanos": nanos}));
    assert_eq!(
        (&cost["line_item"], &cost["quantity"], &cost["project_id"]),
        (&json!(BASE), &json!(input + output), &json!(project))
    );
    let verdict = verify(server.tenants.office()).await.unwrap();
    assert_eq!((verdict.totals[0], verdict.totals[4], verdict.differences.len()), (1, nanos, 0));
}

#[tokio::test]
async fn the_ledger_is_exported_as_csv_and_json_lines() {
    let server = with_history().await;
    let many: Vec<LedgerRow> = (10..2_510).map(|index| row(index, DAY + 500, "proj_c", "key_9", "tiny")).collect();
    append(server.tenants.database(), &many).await.unwrap();
    let export = async |query: &str, key: &str| {
        let path = format!("/admin/usage/export?start_time={DAY}{query}");
        server.call(Method::GET, &path, None, key, &[]).await
    };
    let csv = export("", KEY).await;
    assert!(csv.headers["content-type"].to_str().unwrap().starts_with("text/csv"));
    let lines: Vec<&str> = csv.text.lines().collect();
    assert_eq!(lines.len(), 1 + 2_506, "{}", lines.len());
    assert!(lines[0].starts_with("id,node,at_micros,request_id,project_id"), "{}", lines[0]);
    assert_eq!(lines.iter().filter(|line| line.starts_with("id,")).count(), 1);
    assert!(csv.text.contains("\"ann, \"\"the\"\" boss\""), "{}", lines[2]);
    let jsonl = export("&format=jsonl&project_ids[]=proj_a", KEY).await.text;
    let rows: Vec<Value> = jsonl.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ids: Vec<&str> = rows.iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["n1-0", "n1-1", "n1-3", "n1-4"]);
    let part = export(&format!("&format=jsonl&project_ids[]=proj_c&end_time={}", DAY + 501), KEY).await.text;
    let distinct: std::collections::BTreeSet<&str> = part.lines().collect();
    assert_eq!((part.lines().count(), distinct.len()), (2_500, 2_500), "each row once, over all pages");
    let (_, _, _, tenant) = server.tenant("Acme").await;
    assert_eq!(export("&format=jsonl", &tenant).await.text, "");
    assert_eq!(export("", &tenant).await.text.lines().count(), 1, "names only");
    assert_eq!(export("&project_ids[]=proj_a", &tenant).await.status.as_u16(), 403);
    assert_eq!(export("&format=xml", KEY).await.error().3, "format");
}

#[tokio::test]
async fn a_ledger_that_was_changed_by_hand_is_found_out() {
    let server = with_history().await;
    let office = server.tenants.office();
    assert!(verify(office).await.unwrap().differences.is_empty());
    let change = async |sql: &'static str| sqlx::query(sql).execute(office.database.pool()).await.unwrap();
    change("UPDATE ledger SET cost_nanos = cost_nanos + 1 WHERE id = 'n1-4'").await;
    change("DELETE FROM usage_hours WHERE project_id = 'proj_b' AND hour = (SELECT MAX(hour) FROM usage_hours)").await;
    let verdict = verify(office).await.unwrap();
    assert_eq!(verdict.hours().into_iter().collect::<Vec<_>>(), [DAY / 3_600 + 24, DAY / 3_600 + 72]);
    assert_eq!(verdict.differences.len(), 3, "{:?}", verdict.differences);
}
