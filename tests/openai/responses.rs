//! `/v1/responses`: whole, streamed, kept, gone on from, and what is refused.

use axum::http::Method;
use serde_json::{Value, json};

use crate::support::{BASE, Harness, KEY, Options, Reply, SeededOptions, merged};

const RESPONSES: &str = "/v1/responses";

fn body(more: &Value) -> Value {
    merged(json!({"model": BASE, "input": "hello", "temperature": 0, "max_output_tokens": 24}), more)
}

fn text(response: &Value) -> &str {
    response["output"][0]["content"][0]["text"].as_str().unwrap()
}

async fn respond(server: &Harness, more: Value) -> Value {
    server.ok(RESPONSES, &body(&more)).await
}

/// The events of a stream, their names checked against their data, their numbers against their order.
fn events(reply: &Reply) -> Vec<Value> {
    assert!(reply.headers["content-type"].to_str().unwrap().starts_with("text/event-stream"));
    let events = reply.text.strip_suffix("\n\n").unwrap().split("\n\n").filter(|event| !event.starts_with(':'));
    let one = |(index, event): (usize, &str)| {
        let (name, data) = event.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(data["type"], name.strip_prefix("event: ").unwrap());
        assert_eq!(data["sequence_number"], index);
        data
    };
    events.enumerate().map(one).collect()
}

/// Without what is different each time.
fn comparable(mut response: Value) -> Value {
    for name in ["id", "created_at", "completed_at"] {
        response[name] = Value::Null;
    }
    response["output"][0]["id"] = Value::Null;
    response["usage"]["input_tokens_details"] = Value::Null;
    response
}

#[tokio::test]
async fn a_response_says_what_chat_says() {
    let server = Harness::new().await;
    let chat = server
        .chat(&json!({"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hello"}]}))
        .await;
    let reply = server.post(RESPONSES, &body(&json!({"instructions": "Be kind.", "metadata": {"a": "b"}, "user": "me"}))).await;
    assert_eq!((reply.status.as_u16(), &reply.headers["x-adapter-version"]), (200, &"base".parse().unwrap()), "{}", reply.text);
    let response = reply.json();
    assert_eq!(text(&response), chat["choices"][0]["message"]["content"]);
    assert!(response["id"].as_str().unwrap().starts_with("resp_"));
    assert_eq!(
        (&response["object"], &response["model"], &response["status"]),
        (&json!("response"), &json!(BASE), &json!("incomplete"))
    );
    assert_eq!(response["incomplete_details"], json!({"reason": "max_output_tokens"}));
    assert_eq!(
        (&response["instructions"], &response["metadata"], &response["user"]),
        (&json!("Be kind."), &json!({"a": "b"}), &json!("me"))
    );
    let message = &response["output"][0];
    assert_eq!(
        (&message["type"], &message["role"], &message["status"]),
        (&json!("message"), &json!("assistant"), &json!("incomplete"))
    );
    let usage = &response["usage"];
    assert_eq!((&usage["input_tokens"], &usage["output_tokens"]), (&chat["usage"]["prompt_tokens"], &json!(24)));
    assert_eq!(usage["total_tokens"].as_u64().unwrap(), usage["input_tokens"].as_u64().unwrap() + 24);
    // Items mean what messages mean.
    let items = json!([
        {"role": "developer", "content": "Be kind."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]},
    ]);
    assert_eq!(text(&respond(&server, json!({"input": items})).await), text(&response));
    // And what ends by itself is whole.
    let model = SeededOptions { eos_bias: 30.0, ..SeededOptions::default() };
    let short = Harness::with(Options { model, ..Options::default() }).await;
    let whole = respond(&short, json!({})).await;
    assert_eq!((&whole["status"], &whole["incomplete_details"], text(&whole)), (&json!("completed"), &Value::Null, ""));
    server.idle().await;
}

#[tokio::test]
async fn a_stream_has_openais_events_and_ends_with_the_whole_response() {
    let server = Harness::new().await;
    let whole = respond(&server, json!({})).await;
    let streamed = events(&server.post(RESPONSES, &body(&json!({"stream": true}))).await);
    let names: Vec<&str> = streamed.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let opening = ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"];
    let closing = ["response.output_text.done", "response.content_part.done", "response.output_item.done", "response.incomplete"];
    assert_eq!((&names[..4], &names[names.len() - 4..]), (&opening[..], &closing[..]));
    let deltas = &streamed[4..streamed.len() - 4];
    assert!(deltas.iter().all(|event| event["type"] == "response.output_text.delta"), "{names:?}");
    let joined: String = deltas.iter().map(|event| event["delta"].as_str().unwrap()).collect();
    assert_eq!(joined, text(&whole));
    let last = &streamed[streamed.len() - 1]["response"];
    assert_eq!(comparable(last.clone()), comparable(whole));
    assert_eq!(streamed[0]["response"]["id"], last["id"]);
    assert_eq!((&streamed[0]["response"]["status"], &streamed[0]["response"]["usage"]), (&json!("in_progress"), &Value::Null));
    for event in &streamed[3..streamed.len() - 2] {
        assert_eq!(
            (&event["item_id"], &event["output_index"], &event["content_index"]),
            (&last["output"][0]["id"], &json!(0), &json!(0))
        );
    }
    // It can be read when its last event has come.
    let id = last["id"].as_str().unwrap();
    assert_eq!(server.get(&format!("{RESPONSES}/{id}")).await.json(), *last);
    server.idle().await;
}

#[tokio::test]
async fn tokens_are_reported_where_that_is_asked() {
    let server = Harness::new().await;
    let asked = json!({"include": ["message.output_text.logprobs"], "top_logprobs": 2});
    let response = respond(&server, asked.clone()).await;
    let reports = response["output"][0]["content"][0]["logprobs"].as_array().unwrap();
    let joined: String = reports.iter().map(|report| report["token"].as_str().unwrap()).collect();
    assert_eq!((joined.as_str(), reports[0]["top_logprobs"].as_array().unwrap().len()), (text(&response), 2));
    let streamed = events(&server.post(RESPONSES, &body(&merged(asked, &json!({"stream": true})))).await);
    let deltas = streamed.iter().filter(|event| event["type"] == "response.output_text.delta");
    let tokens: Vec<Value> = deltas.flat_map(|event| event["logprobs"].as_array().unwrap().clone()).collect();
    assert_eq!(&tokens, reports);
}

#[tokio::test]
async fn a_conversation_goes_on_from_a_kept_response() {
    let server = Harness::new().await;
    let first = respond(&server, json!({"instructions": "Be kind."})).await;
    let id = first["id"].as_str().unwrap();
    let second = respond(&server, json!({"previous_response_id": id, "input": "and then?"})).await;
    assert_eq!(second["previous_response_id"], id);
    // The instructions of the first are not the second's.
    let spelled = json!({"input": [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": [{"type": "output_text", "text": text(&first), "annotations": []}]},
        {"role": "user", "content": "and then?"},
    ]});
    let same = respond(&server, spelled).await;
    assert_eq!((text(&same), &same["usage"]["input_tokens"]), (text(&second), &second["usage"]["input_tokens"]));
    // The third has all three turns, also when the first ones are gone.
    let second_id = second["id"].as_str().unwrap();
    let deleted = server.call(Method::DELETE, &format!("{RESPONSES}/{id}"), None, KEY, &[]).await;
    assert_eq!(deleted.json(), json!({"id": id, "object": "response", "deleted": true}));
    let third = respond(&server, json!({"previous_response_id": second_id, "input": "well"})).await;
    let items = server.get(&format!("{RESPONSES}/{}/input_items?order=asc", third["id"].as_str().unwrap())).await.json();
    let said: Vec<&str> =
        items["data"].as_array().unwrap().iter().map(|item| item["content"][0]["text"].as_str().unwrap()).collect();
    assert_eq!(said, ["hello", text(&first), "and then?", text(&second), "well"]);
    // In pages, the last first.
    let page = server.get(&format!("{RESPONSES}/{}/input_items?limit=2", third["id"].as_str().unwrap())).await.json();
    assert_eq!((&page["data"][0]["content"][0]["text"], &page["has_more"]), (&json!("well"), &json!(true)));
    let after = page["last_id"].as_str().unwrap();
    let next = server.get(&format!("{RESPONSES}/{}/input_items?after={after}", third["id"].as_str().unwrap())).await.json();
    assert_eq!((next["data"].as_array().unwrap().len(), &next["has_more"]), (3, &json!(false)));
    for path in [format!("{RESPONSES}/{id}"), format!("{RESPONSES}/{id}/input_items")] {
        assert_eq!(server.get(&path).await.error().0, 404);
    }
    let gone = server.post(RESPONSES, &body(&json!({"previous_response_id": id}))).await;
    assert_eq!(gone.error().2, json!("previous_response_not_found"));
    assert_eq!(server.call(Method::DELETE, &format!("{RESPONSES}/{id}"), None, KEY, &[]).await.error().0, 404);
}

#[tokio::test]
async fn another_tenants_response_is_not_there_and_texts_are_not_readable_in_the_database() {
    let server = Harness::new().await;
    let (acme, _) = server.key_for("acme", "inference").await;
    let (bravo, _) = server.key_for("bravo", "inference").await;
    let made = server.post_as(&acme, RESPONSES, &body(&json!({"input": "a secret of acme"})), &[]).await.json();
    let path = format!("{RESPONSES}/{}", made["id"].as_str().unwrap());
    assert_eq!(server.call(Method::GET, &path, None, &acme, &[]).await.json(), made);
    let absent = format!("{RESPONSES}/resp_{}", "0".repeat(32));
    for (method, end) in [(Method::GET, ""), (Method::GET, "/input_items"), (Method::DELETE, "")] {
        let theirs = server.call(method.clone(), &format!("{path}{end}"), None, &bravo, &[]).await;
        let none = server.call(method, &format!("{absent}{end}"), None, &bravo, &[]).await;
        assert_eq!((theirs.error(), theirs.status.as_u16()), (none.error(), 404));
    }
    let on = server.post_as(&bravo, RESPONSES, &body(&json!({"previous_response_id": made["id"]})), &[]).await;
    assert_eq!(on.error().2, json!("previous_response_not_found"));
    let mut connection = server.tenants.database().connection().await.unwrap();
    let rows: Vec<(String,)> = sqlx::query_as("SELECT sealed FROM responses").fetch_all(&mut *connection).await.unwrap();
    assert!(rows.len() == 1 && !rows[0].0.contains("secret"));
    drop(connection);
    // What is as old as the setting says is gone.
    let responses = server.server.responses();
    let month = 30 * 86_400;
    assert_eq!(responses.forget(switchyard::tenants::unix_now() + month - 60).await.unwrap(), 0);
    assert_eq!(responses.forget(switchyard::tenants::unix_now() + month + 60).await.unwrap(), 1);
    assert_eq!(server.call(Method::GET, &path, None, &acme, &[]).await.status.as_u16(), 404);
}

#[tokio::test]
async fn what_is_not_to_be_kept_is_not() {
    let server = Harness::new().await;
    let response = respond(&server, json!({"store": false})).await;
    assert_eq!(response["store"], false);
    assert_eq!(server.get(&format!("{RESPONSES}/{}", response["id"].as_str().unwrap())).await.status.as_u16(), 404);
    let mut options = Options::default();
    options.http.keep_responses = std::time::Duration::ZERO;
    let server = Harness::with(options).await;
    assert_eq!(respond(&server, json!({})).await["store"], false);
    let refused = server.post(RESPONSES, &body(&json!({"store": true}))).await;
    assert_eq!(refused.error().3, json!("store"));
}

#[tokio::test]
async fn responses_are_metered_repeated_and_cached_like_chat() {
    let server = Harness::new().await;
    let (key, _) = server.key_for("acme", "inference").await;
    let again = [("idempotency-key", "one")];
    for stream in [false, true] {
        let headers = if stream { [("idempotency-key", "two")] } else { again };
        let asked = body(&json!({"stream": stream}));
        let first = server.post_as(&key, RESPONSES, &asked, &headers).await;
        let second = server.post_as(&key, RESPONSES, &asked, &headers).await;
        assert_eq!((first.status.as_u16(), &first.text), (200, &second.text));
        assert_eq!(second.headers["idempotent-replayed"], "true", "stream {stream}");
    }
    let allow = [("x-response-cache", "allow")];
    let miss = server.post_as(&key, RESPONSES, &body(&json!({})), &allow).await;
    let hit = server.post_as(&key, RESPONSES, &body(&json!({})), &allow).await;
    assert_eq!((&miss.headers["x-cache"], &hit.headers["x-cache"]), (&"miss".parse().unwrap(), &"hit".parse().unwrap()));
    assert_eq!(text(&miss.json()), text(&hit.json()));
    assert_ne!(miss.json()["id"], hit.json()["id"]);
    server.tenants.ledger().close(std::time::Duration::from_secs(5)).await;
    let export = server.get("/admin/usage/export?format=jsonl&start_time=0").await.text;
    let rows: Vec<Value> = export.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 4, "{export}");
    assert!(rows.iter().all(|row| row["endpoint"] == "responses" && row["project_id"] == "acme"), "{export}");
}

#[tokio::test]
async fn a_conversation_that_is_too_long_is_refused_or_begins_later() {
    let server = Harness::new().await;
    let turns: Vec<Value> = (0..40)
        .map(|turn| json!({"role": if turn % 2 == 0 { "user" } else { "assistant" }, "content": format!("turn number {turn}")}))
        .chain([json!({"role": "user", "content": "and now?"})])
        .collect();
    let refused = server.post(RESPONSES, &body(&json!({"input": turns}))).await;
    assert_eq!((refused.error().2, refused.error().3), (json!("context_length_exceeded"), json!("input")));
    let cut = respond(&server, json!({"input": turns, "truncation": "auto", "instructions": "Be kind."})).await;
    let used = cut["usage"]["input_tokens"].as_u64().unwrap();
    assert!(used <= 512 - 24 && used > 512 - 24 - 120, "as much as fits: {used}");
    // Without a length there is room for an answer.
    let open = json!({"input": turns, "truncation": "auto", "max_output_tokens": null});
    let used = respond(&server, open).await["usage"]["input_tokens"].as_u64().unwrap();
    assert!(used <= 512 - 128 && used > 512 - 128 - 120, "a quarter of the context is the answer's: {used}");
    // All of it is kept.
    let items = server.get(&format!("{RESPONSES}/{}/input_items?limit=100", cut["id"].as_str().unwrap())).await.json();
    assert_eq!(items["data"].as_array().unwrap().len(), 41);
    let hopeless = json!({"input": "x".repeat(600), "truncation": "auto"});
    assert_eq!(server.post(RESPONSES, &body(&hopeless)).await.error().2, json!("context_length_exceeded"));
}

#[tokio::test]
async fn a_conversation_grows_to_what_one_request_may_say() {
    let mut options = Options::default();
    options.http.body_limit = 2048;
    let server = Harness::with(options).await;
    let mut previous = respond(&server, json!({"truncation": "auto"})).await;
    for turn in 0.. {
        assert!(turn < 10, "it grows without end");
        let more = json!({"previous_response_id": previous["id"], "input": "x".repeat(300), "truncation": "auto"});
        let reply = server.post(RESPONSES, &body(&more)).await;
        if reply.status.as_u16() == 200 {
            previous = reply.json();
            continue;
        }
        assert!(turn > 1, "{}", reply.text);
        let (status, _, code, param) = reply.error();
        assert_eq!((status, code, param), (400, json!("conversation_too_long"), json!("previous_response_id")));
        break;
    }
}

#[tokio::test]
async fn a_key_reads_responses_of_the_models_that_it_may_use() {
    let server = Harness::new().await;
    server.load("support", 1).await;
    let open = server.key_of("acme").await;
    let (narrow, id) = server.key_for("acme", "inference").await;
    let mut transaction = server.tenants.database().begin().await.unwrap();
    let models = format!("[{BASE:?}]");
    sqlx::query("UPDATE keys SET models = $1 WHERE id = $2").bind(models).bind(id).execute(&mut *transaction).await.unwrap();
    transaction.commit_policy().await.unwrap();
    server.tenants.refresh().await.unwrap();
    let make = async |model: &str| {
        let made = server.post_as(&open, RESPONSES, &body(&json!({"model": model})), &[]).await.json();
        made["id"].as_str().unwrap().to_owned()
    };
    let (of_base, of_support) = (make(BASE).await, make("support@1").await);
    let path = |id: &str| format!("{RESPONSES}/{id}");
    assert_eq!(server.call(Method::GET, &path(&of_base), None, &narrow, &[]).await.status.as_u16(), 200);
    for (method, end) in [(Method::GET, ""), (Method::GET, "/input_items"), (Method::DELETE, "")] {
        let refused = server.call(method, &format!("{}{end}", path(&of_support)), None, &narrow, &[]).await;
        assert_eq!(refused.status.as_u16(), 404, "{}", refused.text);
    }
    let on = server.post_as(&narrow, RESPONSES, &body(&json!({"previous_response_id": of_support})), &[]).await;
    assert_eq!(on.error().2, json!("previous_response_not_found"));
    // What was said stays when its adapter has gone.
    let gone = server.post("/v1/unload_lora_adapter", &json!({"lora_name": "support"})).await;
    assert_eq!(gone.status.as_u16(), 200, "{}", gone.text);
    assert_eq!(server.call(Method::GET, &path(&of_support), None, &open, &[]).await.status.as_u16(), 200);
    assert_eq!(server.call(Method::DELETE, &path(&of_support), None, &open, &[]).await.status.as_u16(), 200);
}

#[tokio::test]
async fn a_conversation_goes_on_after_an_answer_that_was_cut_inside_of_a_call() {
    let server = roomy().await;
    let tool = json!({"type": "function", "name": "save", "parameters": person(), "strict": true});
    let cut = respond(&server, json!({"tools": [tool], "tool_choice": "required", "max_output_tokens": 56})).await;
    let call = cut["output"].as_array().unwrap().last().unwrap();
    assert_eq!((&call["type"], &call["status"]), (&json!("function_call"), &json!("incomplete")), "{cut}");
    assert!(serde_json::from_str::<Value>(call["arguments"].as_str().unwrap()).is_err(), "{call}");
    let on = respond(&server, json!({"previous_response_id": cut["id"], "input": "go on"})).await;
    let items = server.get(&format!("{RESPONSES}/{}/input_items?order=asc", on["id"].as_str().unwrap())).await.json();
    let kinds: Vec<&str> = items["data"].as_array().unwrap().iter().map(|item| item["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["message", "message"], "the call was never made");
    let huge = server.post(RESPONSES, &body(&json!({"previous_response_id": "x".repeat(9000)}))).await;
    assert!(huge.error().2 == json!("previous_response_not_found") && huge.message().len() < 300, "{}", huge.text);
}

#[tokio::test]
async fn an_engine_that_fails_ends_the_stream_with_its_own_event() {
    let faults = vec![switchyard::engine::seeded::Fault::ErrorAtStep(3)];
    let model = SeededOptions { faults, ..SeededOptions::default() };
    let server = Harness::with(Options { model, ..Options::default() }).await;
    let streamed = events(&server.post(RESPONSES, &body(&json!({"stream": true}))).await);
    let last = streamed.last().unwrap();
    assert_eq!((&last["type"], &last["response"]["status"]), (&json!("response.failed"), &json!("failed")));
    assert_eq!(last["response"]["error"]["code"], "internal_error");
    let id = last["response"]["id"].as_str().unwrap();
    assert_eq!(server.get(&format!("{RESPONSES}/{id}")).await.status.as_u16(), 404, "what failed is not kept");
}

#[tokio::test]
async fn an_answer_keeps_to_a_schema_and_says_so() {
    let server = Harness::new().await;
    let schema =
        json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": false});
    let format = json!({"type": "json_schema", "name": "x", "strict": true, "schema": schema});
    let made = respond(&server, json!({"text": {"format": format}, "max_output_tokens": 60})).await;
    assert!(serde_json::from_str::<Value>(text(&made)).unwrap()["n"].is_i64(), "{made}");
    assert_eq!((&made["status"], &made["text"]["format"]), (&json!("completed"), &format));
}

#[tokio::test]
async fn what_is_not_there_is_refused_by_name() {
    let server = Harness::new().await;
    for (more, param) in [
        (json!({"input": null}), "input"),
        (json!({"input": []}), "input"),
        (
            json!({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}),
            "input[0].content[0].type",
        ),
        (json!({"max_output_tokens": 0}), "max_output_tokens"),
        (json!({"input": [{"type": "web_search_call"}]}), "input[0].type"),
        (json!({"background": true}), "background"),
        (json!({"conversation": "conv_1"}), "conversation"),
        (json!({"prompt": {"id": "pmpt_1"}}), "prompt"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"reasoning": {"effort": "high"}}), "reasoning"),
        (json!({"text": {"format": {"type": "xml"}}}), "text.format.type"),
        (json!({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"not": {}}}}}), "text.format.schema"),
        (json!({"include": ["file_search_call.results"]}), "include[0]"),
        (json!({"top_logprobs": 2}), "top_logprobs"),
        (json!({"metadata": {"a": 1}}), "metadata.a"),
        (json!({"truncation": "middle"}), "truncation"),
        (json!({"n": 2}), "n"),
        (json!({"colour": "red"}), "colour"),
    ] {
        let reply = server.post(RESPONSES, &body(&more)).await;
        let (status, _, _, named) = reply.error();
        assert_eq!((status, named.as_str()), (400, Some(param)), "{more}: {}", reply.text);
    }
    let made = respond(
        &server,
        json!({"parallel_tool_calls": false, "tools": [], "tool_choice": "auto", "text": {"format": {"type": "text"}}}),
    )
    .await;
    let path = format!("{RESPONSES}/{}", made["id"].as_str().unwrap());
    assert_eq!(server.get(&format!("{path}?stream=true")).await.error().3, json!("stream"));
    assert_eq!(server.get(&format!("{path}/input_items?limit=101")).await.error().3, json!("limit"));
    assert_eq!(server.get(&format!("{path}/input_items?after=msg_x")).await.error().3, json!("after"));
    server.idle().await;
}

/// With room for descriptions of functions.
async fn roomy() -> Harness {
    let model = SeededOptions { context: 4096, ..SeededOptions::default() };
    Harness::with(Options { model, ..Options::default() }).await
}

fn person() -> Value {
    json!({"type": "object", "additionalProperties": false, "required": ["name", "age"], "properties": {
        "name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
    }})
}

#[tokio::test]
async fn answers_keep_to_a_schema() {
    let server = roomy().await;
    let format = json!({"type": "json_schema", "name": "person", "strict": true, "schema": person()});
    let asked = json!({"text": {"format": format}, "temperature": 1, "seed": 3, "max_output_tokens": 120});
    let response = respond(&server, asked.clone()).await;
    let said: Value = serde_json::from_str(text(&response)).unwrap();
    assert!(said["name"].is_string() && said["age"].as_i64().unwrap() <= 150, "{said}");
    assert_eq!((&response["text"]["format"], &response["status"]), (&format, &json!("completed")));
    let streamed = events(&server.post(RESPONSES, &body(&merged(asked, &json!({"stream": true})))).await);
    assert_eq!(text(&streamed.last().unwrap()["response"]), text(&response));
    let object = respond(&server, json!({"text": {"format": {"type": "json_object"}}, "max_output_tokens": 60})).await;
    assert!(serde_json::from_str::<Value>(text(&object)).unwrap().is_object());
    let open = json!({"type": "json_schema", "name": "x", "strict": true, "schema": {"type": "object", "properties": {}}});
    let refused = server.post(RESPONSES, &body(&json!({"text": {"format": open}}))).await;
    assert_eq!((refused.error().2, refused.error().3), (json!("invalid_schema"), json!("text.format.schema")));
    let unknown = server.post(RESPONSES, &body(&json!({"response_format": {"type": "text"}}))).await;
    assert_eq!(unknown.error().3, json!("response_format"));
}

#[tokio::test]
async fn functions_are_called_and_told_what_they_gave() {
    let server = roomy().await;
    let tool =
        json!({"type": "function", "name": "save", "description": "Save a person.", "parameters": person(), "strict": true});
    let asked = json!({
        "tools": [tool], "tool_choice": "required", "parallel_tool_calls": false, "temperature": 1, "seed": 5, "max_output_tokens": 160,
    });
    let response = respond(&server, asked.clone()).await;
    assert_eq!((&response["status"], &response["tools"][0]["name"]), (&json!("completed"), &json!("save")));
    let call = response["output"].as_array().unwrap().last().unwrap();
    assert_eq!((&call["type"], &call["name"], &call["status"]), (&json!("function_call"), &json!("save"), &json!("completed")));
    let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
    assert!(arguments["name"].is_string() && arguments["age"].is_i64(), "{arguments}");
    // The same in pieces.
    let streamed = events(&server.post(RESPONSES, &body(&merged(asked.clone(), &json!({"stream": true})))).await);
    let of = |kind: &str| streamed.iter().filter(|event| event["type"] == kind).collect::<Vec<_>>();
    let deltas = of("response.function_call_arguments.delta");
    let joined: String = deltas.iter().map(|event| event["delta"].as_str().unwrap()).collect();
    assert_eq!(joined, call["arguments"].as_str().unwrap());
    let done = of("response.function_call_arguments.done");
    assert_eq!((done.len(), &done[0]["arguments"], &done[0]["name"]), (1, &call["arguments"], &json!("save")));
    let last = streamed.last().unwrap();
    assert_eq!(last["type"], "response.completed");
    assert_eq!(
        of("response.output_item.done").last().unwrap()["item"],
        *last["response"]["output"].as_array().unwrap().last().unwrap()
    );
    // What the function gave goes on from it, also spelled out.
    let given = json!({"type": "function_call_output", "call_id": call["call_id"], "output": "saved as number 7"});
    let on = respond(&server, json!({"previous_response_id": response["id"], "input": [given], "tools": [tool]})).await;
    let mut items = vec![json!({"role": "user", "content": "hello"})];
    items.extend(response["output"].as_array().unwrap().iter().cloned());
    items.push(given);
    let spelled = respond(&server, json!({"input": items, "tools": [tool]})).await;
    assert_eq!(
        (&on["usage"]["input_tokens"], &on["output"][0]["content"]),
        (&spelled["usage"]["input_tokens"], &spelled["output"][0]["content"])
    );
    let kept = server.get(&format!("{RESPONSES}/{}/input_items?order=asc", on["id"].as_str().unwrap())).await.json();
    let kinds: Vec<&str> = kept["data"].as_array().unwrap().iter().map(|item| item["type"].as_str().unwrap()).collect();
    assert_eq!(kinds.last(), Some(&"function_call_output"));
    for (more, param) in [
        (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
        (json!({"tools": [{"type": "function", "name": "a b"}]}), "tools[0].name"),
        (json!({"tools": [tool], "tool_choice": {"type": "function", "name": "other"}}), "tool_choice"),
        (json!({"tool_choice": "required"}), "tool_choice"),
    ] {
        let reply = server.post(RESPONSES, &body(&more)).await;
        assert_eq!(reply.error().3.as_str(), Some(param), "{more}: {}", reply.text);
    }
    server.idle().await;
}
