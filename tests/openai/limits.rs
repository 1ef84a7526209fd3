//! Limits, budgets and the bill, as clients meet them.

use futures::future::join_all;
use serde_json::{Value, json};
use switchyard::engine::seeded::{Fault, SeededModel};
use switchyard::tenants::Subject;

use crate::support::{BASE, Harness, Options, Reply, SeededOptions, merged};

const COMPLETIONS: &str = "/v1/completions";

/// Three tokens of prompt and exactly `answer` generated.
fn body(answer: usize) -> Value {
    json!({"model": BASE, "prompt": [65, 66, 67], "max_tokens": answer, "temperature": 0, "ignore_eos": true})
}

async fn hundred_tokens(server: &Harness) -> String {
    let key = server.key_of("acme").await;
    server
        .policy("INSERT INTO limits (scope, subject, model, tokens_per_minute, version) VALUES ('project', 'acme', '*', 100, 1)")
        .await;
    key
}

fn header(reply: &Reply, name: &str) -> Option<String> {
    reply.headers.get(name).map(|value| value.to_str().unwrap().to_owned())
}

fn used(reply: &Reply) -> u64 {
    let usage = match reply.text.starts_with("data:") {
        true => reply.events().last().unwrap()["usage"].clone(),
        false => reply.json()["usage"].clone(),
    };
    usage["total_tokens"].as_u64().unwrap()
}

async fn rows(server: &Harness) -> Vec<(String, i64, i64, i64)> {
    server.tenants.ledger().flush().await;
    let sql = "SELECT outcome, input_tokens, output_tokens, cost_nanos FROM ledger ORDER BY id";
    sqlx::query_as(sql).fetch_all(server.tenants.database().pool()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_never_pass_a_limit_by_one_token() {
    for (requests, stream) in [(5, false), (5, true), (50, false), (50, true)] {
        let server = Harness::new().await;
        let key = hundred_tokens(&server).await;
        // Asks for up to 23 tokens each and ends earlier where a stop string comes.
        let more = json!({"max_tokens": 20, "ignore_eos": false, "n": 1});
        let streamed = json!({"stream": true, "stream_options": {"include_usage": true}});
        let body = if stream { merged(merged(body(20), &more), &streamed) } else { merged(body(20), &more) };
        let replies = join_all((0..requests).map(|_| server.post_as(&key, COMPLETIONS, &body, &[]))).await;
        let (mut sum, mut refused) = (0, 0);
        for reply in &replies {
            match reply.status.as_u16() {
                200 => sum += used(reply),
                429 => {
                    refused += 1;
                    assert_eq!(reply.error(), (429, "tokens".into(), json!("rate_limit_exceeded"), Value::Null));
                    let ms: u64 = header(reply, "retry-after-ms").unwrap().parse().unwrap();
                    assert!((1..=61_000).contains(&ms) && header(reply, "retry-after").is_some());
                }
                other => panic!("{other}: {}", reply.text),
            }
        }
        assert!(sum <= 100, "{sum} tokens");
        assert!(refused > 0 || requests * 23 <= 100 + 23, "{refused} of {requests}");
        let ok: Vec<&Reply> = replies.iter().filter(|reply| reply.status.as_u16() == 200).collect();
        assert_eq!(header(ok[0], "x-ratelimit-limit-tokens").as_deref(), Some("100"));
        assert!(header(ok[0], "x-ratelimit-remaining-tokens").is_some() && header(ok[0], "x-ratelimit-reset-tokens").is_some());
    }
}

#[tokio::test]
async fn what_was_not_used_is_there_at_once() {
    let server = Harness::new().await;
    let key = hundred_tokens(&server).await;
    let stop =
        server.post_as(&key, COMPLETIONS, &body(10), &[]).await.json()["choices"][0]["text"].as_str().unwrap()[2..3].to_owned();
    // 13 are used; this one asks for up to 83 and stops after three.
    let stopped = server.post_as(&key, COMPLETIONS, &merged(body(80), &json!({"stop": stop})), &[]).await;
    let after = 13 + used(&stopped);
    assert!(after <= 13 + 3 + 4, "{after}");
    let left = 100 - after;
    let too_much = server.post_as(&key, COMPLETIONS, &body(usize::try_from(left).unwrap() - 2), &[]).await;
    assert_eq!(too_much.status.as_u16(), 429, "{}", too_much.text);
    let fits = server.post_as(&key, COMPLETIONS, &body(usize::try_from(left).unwrap() - 3), &[]).await;
    assert_eq!(fits.status.as_u16(), 200, "{}", fits.text);
    assert_eq!(header(&fits, "x-ratelimit-remaining-tokens").as_deref(), Some("0"));
}

#[tokio::test]
async fn a_failure_and_a_refusal_give_everything_back() {
    let model = SeededOptions { faults: vec![Fault::ErrorAtStep(2)], ..SeededOptions::default() };
    let server = Harness::with(Options { model, ..Options::default() }).await;
    let key = hundred_tokens(&server).await;
    let failed = server.post_as(&key, COMPLETIONS, &body(97), &[]).await;
    assert_eq!(failed.status.as_u16(), 500);
    // Its prompt and the two tokens that it had are gone.
    let next = server.post_as(&key, COMPLETIONS, &body(92), &[]).await;
    assert_eq!(next.status.as_u16(), 200, "{}", next.text);
    let rows = rows(&server).await;
    assert_eq!(rows[0], ("failed".into(), 3, 2, 0), "what failed costs nothing");
    assert_eq!(rows[1].0, "length");
}

#[tokio::test]
async fn a_stream_whose_client_leaves_is_settled_to_what_it_used() {
    use futures::StreamExt;
    let server = Harness::new().await;
    let key = hundred_tokens(&server).await;
    let listening = server.listen().await;
    let client = switchyard::outbound::client(std::time::Duration::from_secs(60)).unwrap();
    let request = client.post(format!("{}{COMPLETIONS}", listening.url)).bearer_auth(&key);
    let response = request.json(&merged(body(90), &json!({"stream": true}))).send().await.unwrap();
    let mut events = response.bytes_stream();
    events.next().await.unwrap().unwrap();
    drop(events);
    server.idle().await;
    // It may have been faster than its client; then all of it was used.
    let rows = loop {
        let rows = rows(&server).await;
        if !rows.is_empty() {
            break rows;
        }
    };
    let (outcome, input, output, _) = &rows[0];
    assert!(outcome == "cancelled" || (outcome == "length" && *output == 90), "{rows:?}");
    let left = 100 - input - output;
    let fits = server.post_as(&key, COMPLETIONS, &body(usize::try_from(left).unwrap() - 3), &[]).await;
    assert_eq!(fits.status.as_u16(), 200, "{left} are left: {}", fits.text);
}

#[tokio::test]
async fn a_request_that_never_fits_is_told_so() {
    let server = Harness::new().await;
    let key = hundred_tokens(&server).await;
    let reply = server.post_as(&key, COMPLETIONS, &body(98), &[]).await;
    assert_eq!(reply.error(), (429, "tokens".into(), json!("request_exceeds_limit"), Value::Null));
    assert_eq!((header(&reply, "x-should-retry").as_deref(), header(&reply, "retry-after")), (Some("false"), None));
    assert!(reply.message().contains("101") && reply.message().contains("100"), "{}", reply.message());
    // Two answers to each of two prompts: 6 tokens of prompt and 4 times 23.
    let many = merged(body(24), &json!({"prompt": [[65, 66, 67], [68, 69, 70]], "n": 2}));
    assert_eq!(server.post_as(&key, COMPLETIONS, &many, &[]).await.error().2, json!("request_exceeds_limit"));
}

#[tokio::test]
async fn requests_per_minute_are_limited_and_the_limit_changes_while_running() {
    let server = Harness::new().await;
    let key = server.key_of("acme").await;
    server
        .policy("INSERT INTO limits (scope, subject, model, requests_per_minute, burst, version) VALUES ('project', 'acme', 'tiny', 60, 2, 1)")
        .await;
    let first = server.post_as(&key, COMPLETIONS, &body(1), &[]).await;
    assert_eq!(header(&first, "x-ratelimit-limit-requests").as_deref(), Some("60"));
    assert_eq!(header(&first, "x-ratelimit-remaining-requests").as_deref(), Some("1"));
    assert_eq!(server.post_as(&key, COMPLETIONS, &body(1), &[]).await.status.as_u16(), 200);
    let third = server.post_as(&key, COMPLETIONS, &body(1), &[]).await;
    assert_eq!(third.error(), (429, "requests".into(), json!("rate_limit_exceeded"), Value::Null));
    assert!(third.message().contains("'tiny'"), "{}", third.message());
    // Changed while it runs.
    server.policy("UPDATE limits SET requests_per_minute = NULL, burst = NULL, concurrent_requests = 1").await;
    assert_eq!(server.post_as(&key, COMPLETIONS, &body(1), &[]).await.status.as_u16(), 200);
}

#[tokio::test]
async fn requests_at_the_same_time_are_limited() {
    let (model, gate) = SeededModel::gated(SeededOptions::default());
    let server = Harness::over(model, Options::default()).await;
    let key = server.key_of("acme").await;
    server
        .policy(
            "INSERT INTO limits (scope, subject, model, concurrent_requests, version) VALUES ('project', 'acme', 'tiny', 1, 1)",
        )
        .await;
    let first_body = body(2);
    let first = server.post_as(&key, COMPLETIONS, &first_body, &[]);
    let second = async {
        while server.engine.stats().running + server.engine.stats().waiting == 0 {
            tokio::task::yield_now().await;
        }
        let refused = server.post_as(&key, COMPLETIONS, &body(1), &[]).await;
        assert_eq!(refused.status.as_u16(), 429, "{}", refused.text);
        gate.open(1_000);
    };
    let (first, ()) = tokio::join!(first, second);
    assert_eq!(first.status.as_u16(), 200, "{}", first.text);
    assert_eq!(server.post_as(&key, COMPLETIONS, &body(1), &[]).await.status.as_u16(), 200, "given back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hard_budget_holds_to_the_nano_dollar_and_the_bill_adds_up() {
    let server = Harness::new().await;
    let key = server.key_of("acme").await;
    server
        .policy(
            "INSERT INTO prices (id, project_id, model, valid_from, input_nanos, cached_input_nanos, output_nanos, training_nanos, \
             created_at) VALUES ('price_1', '*', '*', 0, 1000000, 1000000, 2000000, 0, 0)",
        )
        .await;
    let shown = server.post_as(&key, COMPLETIONS, &body(10), &[("x-show-cost", "true")]).await;
    assert_eq!(header(&shown, "x-cost-usd").as_deref(), Some("0.000000023"), "3 + 2 * 10 nano-dollars");
    let stream = merged(body(10), &json!({"stream": true, "stream_options": {"include_usage": true}}));
    let streamed = server.post_as(&key, COMPLETIONS, &stream, &[("x-show-cost", "true")]).await;
    assert_eq!(streamed.events().last().unwrap()["usage"]["cost_usd"], "0.000000023");
    assert_eq!(header(&server.post_as(&key, COMPLETIONS, &body(1), &[]).await, "x-cost-usd"), None, "only where it is asked for");
    // 51 are spent; the next ones may cost up to 43 each.
    server
        .policy(
            "INSERT INTO budgets (id, scope, subject, period, limit_nanos, enforcement, thresholds, created_at, version) \
             VALUES ('budget_1', 'project', 'acme', 'month', 200, 'hard', '50,80,100', 0, 1)",
        )
        .await;
    let long = body(20);
    let replies = join_all((0..20).map(|_| server.post_as(&key, COMPLETIONS, &long, &[]))).await;
    let answered = replies.iter().filter(|reply| reply.status.as_u16() == 200).count();
    assert_eq!(answered, 3, "51 + 3 * 43 = 180, and not one more");
    let refused = replies.iter().find(|reply| reply.status.as_u16() == 429).unwrap();
    assert_eq!(refused.error(), (429, "insufficient_quota".into(), json!("insufficient_quota"), Value::Null));
    assert_eq!(header(refused, "x-should-retry").as_deref(), Some("false"));
    let spent: i64 = rows(&server).await.iter().map(|row| row.3).sum();
    assert_eq!(spent, 180);
    assert_eq!(server.tenants.spent(&Subject::Project("acme".into())).total, 180);
    let counted: i64 = sqlx::query_scalar("SELECT CAST(SUM(cost_nanos) AS BIGINT) FROM usage_hours")
        .fetch_one(server.tenants.database().pool())
        .await
        .unwrap();
    assert_eq!(counted, 180);
}

#[tokio::test]
async fn a_row_says_who_asked_for_what_and_what_it_took() {
    let server = Harness::new().await;
    let key = server.key_of("acme").await;
    let more = json!({"safety_identifier": "person-7", "logprobs": 1});
    let reply = server.post_as(&key, COMPLETIONS, &merged(body(5), &more), &[("x-request-id", "mine-1")]).await;
    assert_eq!(reply.status.as_u16(), 200, "{}", reply.text);
    assert!(header(&reply, "x-gateway-overhead-us").unwrap().parse::<u64>().is_ok());
    server.tenants.ledger().flush().await;
    let sql = "SELECT request_id, project_id, end_user, endpoint, model, version, cache, outcome FROM ledger";
    let row: (String, String, String, String, String, String, String, String) =
        sqlx::query_as(sql).fetch_one(server.tenants.database().pool()).await.unwrap();
    let expected = ["mine-1", "acme", "person-7", "completions", BASE, "base", "bypass", "length"];
    assert_eq!([row.0, row.1, row.2, row.3, row.4, row.5, row.6, row.7], expected.map(str::to_owned));
    let sql = "SELECT input_tokens, output_tokens, engine_micros, kv_block_micros, total_micros FROM ledger";
    let (input, output, engine, blocks, total): (i64, i64, i64, i64, i64) =
        sqlx::query_as(sql).fetch_one(server.tenants.database().pool()).await.unwrap();
    assert_eq!((input, output), (3, 5));
    assert!(engine >= 0 && blocks >= 0 && total > 0, "{engine} {blocks} {total}");
}

#[tokio::test]
async fn a_ledger_that_cannot_be_written_answers_nothing() {
    let server = Harness::new().await;
    let key = server.key_of("acme").await;
    assert_eq!(server.post_as(&key, COMPLETIONS, &body(1), &[]).await.status.as_u16(), 200);
    // The journal's next file cannot be made: a part of a line was written to this one.
    let journal = server.data.path().join("journal");
    let gone = server.data.path().join("gone");
    std::fs::rename(&journal, &gone).unwrap();
    let long = merged(body(1), &json!({"user": "x".repeat(512)}));
    let mut statuses = Vec::new();
    for _ in 0..20_000 {
        let reply = server.post_as(&key, COMPLETIONS, &long, &[]).await;
        statuses.push(reply.status.as_u16());
        if statuses.ends_with(&[503, 503]) {
            assert_eq!(reply.error().2, json!("ledger_unavailable"));
            break;
        }
    }
    assert!(statuses.ends_with(&[503, 503]), "{} requests", statuses.len());
    std::fs::rename(&gone, &journal).unwrap();
    assert_eq!(server.post_as(&key, COMPLETIONS, &body(1), &[]).await.status.as_u16(), 200);
}
