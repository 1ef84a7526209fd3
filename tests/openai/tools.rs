//! Functions that answers call.

use serde_json::{Value, json};
use switchyard::engine::seeded::SeededModel;
use switchyard::gateway::Base;
use switchyard::model::chat_template::ChatTemplate;
use switchyard::model::tokenizer::Tokenizer;

use crate::support::{BASE, CHATML, END, Harness, Options, SeededOptions, chat_body, merged, tokenizer};

const CHAT: &str = "/v1/chat/completions";

async fn server() -> Harness {
    let model = SeededOptions { context: 4096, ..SeededOptions::default() };
    Harness::with(Options { model, ..Options::default() }).await
}

fn tools() -> Value {
    let function = |name: &str| {
        json!({"type": "function", "function": {"name": name, "description": "A function.", "strict": true, "parameters": {
            "type": "object", "additionalProperties": false, "required": ["city", "days"],
            "properties": {"city": {"type": "string", "maxLength": 20}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        }}})
    };
    json!([function("weather"), function("tides")])
}

/// Names and arguments.
fn calls(message: &Value) -> Vec<(String, String)> {
    let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    calls.iter().map(|call| (text(&call["function"]["name"]), text(&call["function"]["arguments"]))).collect()
}

fn check_arguments(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert!(value["city"].is_string() && (1..=9).contains(&value["days"].as_i64().unwrap()), "{text}");
}

#[tokio::test]
async fn a_function_that_must_be_called_is_called_whole_and_streamed() {
    let server = server().await;
    let named = json!({"type": "function", "function": {"name": "tides"}});
    for (choice, seed) in [(json!("required"), 1), (json!("required"), 2), (named.clone(), 3), (named, 4)] {
        let more =
            json!({"tools": tools(), "tool_choice": choice, "temperature": 1, "seed": seed, "max_tokens": 400, "logprobs": true});
        let body = merged(chat_body(), &more);
        let whole = server.ok(CHAT, &body).await;
        let answer = &whole["choices"][0];
        assert_eq!((&answer["finish_reason"], &answer["message"]["content"]), (&json!("tool_calls"), &Value::Null), "{whole}");
        let whole_calls = calls(&answer["message"]);
        assert!(!whole_calls.is_empty());
        whole_calls.iter().for_each(|(_, arguments)| check_arguments(arguments));
        if choice.is_object() {
            assert!(matches!(whole_calls.as_slice(), [(name, _)] if name == "tides"), "{whole_calls:?}");
        }
        let ids = answer["message"]["tool_calls"].as_array().unwrap();
        assert!(ids.iter().all(|call| call["id"].as_str().unwrap().len() == 9 && call["type"] == "function"));
        // Streamed: names first, then arguments piece by piece.
        let mut streamed: Vec<(String, String)> = Vec::new();
        let (mut finish, mut pieces) = (Value::Null, 0);
        for event in server.events(CHAT, body).await {
            let choice = &event["choices"][0];
            assert!(choice["delta"]["content"].as_str().unwrap_or_default().is_empty(), "{event}");
            for call in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
                let index = usize::try_from(call["index"].as_u64().unwrap()).unwrap();
                if index == streamed.len() {
                    assert!(call["id"].is_string() && call["type"] == "function", "{call}");
                    streamed.push((call["function"]["name"].as_str().unwrap().to_owned(), String::new()));
                }
                streamed[index].1.push_str(call["function"]["arguments"].as_str().unwrap());
                pieces += 1;
            }
            if !choice["finish_reason"].is_null() {
                finish = choice["finish_reason"].clone();
            }
        }
        assert_eq!((streamed, finish), (whole_calls, json!("tool_calls")));
        assert!(pieces > 3, "{pieces}");
    }
}

#[tokio::test]
async fn a_model_may_call_or_not() {
    let server = server().await;
    let more = json!({"tools": tools(), "temperature": 1, "seed": 1, "max_tokens": 40});
    let free = server.chat(&more).await;
    assert_eq!(free["choices"][0]["message"]["content"].as_str().unwrap().len(), 40, "a random model says nothing that calls");
    // With a form for answers that do not call, either is kept to.
    let form = json!({"response_format": {"type": "json_object"}, "max_tokens": 300});
    let answer = server.chat(&merged(more.clone(), &form)).await;
    let message = &answer["choices"][0]["message"];
    match message["content"].as_str() {
        Some(text) => assert!(serde_json::from_str::<Value>(text).unwrap().is_object()),
        None => calls(message).iter().for_each(|(_, arguments)| check_arguments(arguments)),
    }
    let none = server.chat(&merged(more, &json!({"tool_choice": "none"}))).await;
    let plain = server.chat(&json!({"temperature": 1, "seed": 1, "max_tokens": 40})).await;
    assert_eq!(none["choices"], plain["choices"], "functions that may not be called are not told");
}

#[tokio::test]
async fn one_call_at_most_where_that_is_asked_and_several_answers_each_with_its_own() {
    let server = server().await;
    let more = json!({
        "tools": tools(), "tool_choice": "required", "parallel_tool_calls": false, "temperature": 1, "seed": 5, "n": 3, "max_tokens": 300,
    });
    let answer = server.chat(&more).await;
    for choice in answer["choices"].as_array().unwrap() {
        assert_eq!((calls(&choice["message"]).len(), &choice["finish_reason"]), (1, &json!("tool_calls")), "{choice}");
    }
    let ids: Vec<&Value> =
        answer["choices"].as_array().unwrap().iter().map(|choice| &choice["message"]["tool_calls"][0]["id"]).collect();
    assert!(ids[0] != ids[1] && ids[1] != ids[2]);
}

#[tokio::test]
async fn what_was_called_and_answered_is_a_part_of_the_conversation() {
    let server = server().await;
    let call = json!({"id": "call00001", "type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"Graz\", \"days\": 1}"}});
    let messages = json!([
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call00001", "content": "21 degrees"},
    ]);
    let tokens = server.ok("/tokenize", &json!({"messages": messages})).await["tokens"].clone();
    let prompt = server.ok("/detokenize", &json!({"tokens": tokens})).await["prompt"].as_str().unwrap().to_owned();
    assert!(
        prompt.contains("<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\":\"Graz\",\"days\":1}}\n</tool_call>"),
        "{prompt}"
    );
    assert!(prompt.contains("<|im_start|>user\n<tool_response>\n21 degrees\n</tool_response>"), "{prompt}");
    server.chat(&json!({"messages": messages, "tools": tools()})).await;
    let wrong = |arguments: &str| {
        let mut messages = messages.clone();
        messages[1]["tool_calls"][0]["function"]["arguments"] = arguments.into();
        json!({"messages": messages})
    };
    let reply = server.post(CHAT, &merged(chat_body(), &wrong("[1]"))).await;
    assert_eq!(reply.error().3, "messages[1].tool_calls[0].function.arguments", "{}", reply.text);
}

#[tokio::test]
async fn an_answer_that_calls_comes_from_the_cache_as_it_was() {
    let server = server().await;
    let more = json!({"tools": tools(), "tool_choice": "required", "temperature": 0, "max_tokens": 300});
    let body = merged(chat_body(), &more);
    let headers = [("x-response-cache", "allow")];
    let first = server.post_as(crate::support::KEY, CHAT, &body, &headers).await;
    let second = server.post_as(crate::support::KEY, CHAT, &body, &headers).await;
    assert_eq!(second.headers["x-cache"], "hit");
    assert_eq!(first.json()["choices"], second.json()["choices"]);
    let other = merged(body, &json!({"tool_choice": {"type": "function", "function": {"name": "tides"}}}));
    assert_eq!(server.post_as(crate::support::KEY, CHAT, &other, &headers).await.headers["x-cache"], "miss");
}

#[tokio::test]
async fn a_cue_that_is_a_special_token_can_be_said_where_a_form_may_be() {
    let model = SeededOptions { context: 4096, ..SeededOptions::default() };
    // Token 259.
    let tokenizer = tokenizer().to_json().unwrap().replace("<|pad|>", "[TOOL_CALLS]");
    let template = format!("{{# [TOOL_CALLS] #}}{CHATML}");
    let base = Base {
        name: BASE.to_owned(),
        tokenizer: Tokenizer::from_json(tokenizer.as_bytes()).unwrap(),
        chat_template: Some(ChatTemplate::new(&template, None, None).unwrap()),
        end_tokens: vec![END],
        created: 1,
    };
    let server = Harness::of(Box::new(SeededModel::new(model)), base, Options::default()).await;
    let form =
        json!({"tools": tools(), "response_format": {"type": "json_object"}, "temperature": 1, "seed": 1, "max_tokens": 400});
    let asked = merged(form.clone(), &json!({"logit_bias": {"259": 100}}));
    let answer = server.chat(&asked).await;
    let choice = &answer["choices"][0];
    assert_eq!((&choice["finish_reason"], &choice["message"]["content"]), (&json!("tool_calls"), &Value::Null), "{choice}");
    calls(&choice["message"]).iter().for_each(|(_, arguments)| check_arguments(arguments));
    // And whoever does not say it keeps to the form.
    let answer = server.chat(&merged(form, &json!({"logit_bias": {"259": -100}}))).await;
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(serde_json::from_str::<Value>(text).unwrap().is_object(), "{text}");
}

#[tokio::test]
async fn a_template_that_refuses_a_system_gets_functions_from_the_user() {
    const TEMPLATE: &str = "{% for message in messages %}{% if message['role'] == 'system' %}{{ raise_exception('No system') }}\
        {% endif %}{{ message['content'] }}\n{% endfor %}";
    let model = SeededOptions { context: 4096, ..SeededOptions::default() };
    let server = Harness::with(Options { model, chat_template: Some(TEMPLATE), ..Options::default() }).await;
    let plain = server.chat(&json!({})).await["usage"]["prompt_tokens"].as_u64().unwrap();
    let told = server.chat(&json!({"tools": tools()})).await["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(told > plain + 200, "{told} and {plain}");
}
