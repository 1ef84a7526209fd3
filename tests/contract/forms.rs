//! Forms of answers: schemas and functions.

use serde_json::{Value, json};

use crate::subject::Subject;

const CHAT: &str = "/v1/chat/completions";

fn schema() -> Value {
    json!({"type": "object", "additionalProperties": false, "required": ["city", "days"],
        "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}}})
}

fn check(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let fields: Vec<&String> = value.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["city", "days"], "{text}");
    assert!(["Oslo", "Rome"].contains(&value["city"].as_str().unwrap()), "{text}");
    assert!((1..=9).contains(&value["days"].as_u64().unwrap()), "{text}");
}

pub async fn an_answer_keeps_to_its_schema(subject: &Subject) {
    let form = json!({"type": "json_schema", "json_schema": {"name": "trip", "schema": schema(), "strict": true}});
    for (temperature, seed) in [(0, 1), (1, 2), (1, 3)] {
        let body =
            subject.chat_body(&json!({"response_format": form, "temperature": temperature, "seed": seed, "max_tokens": 120}));
        let whole = subject.ok(CHAT, &body).await;
        let content = whole["choices"][0]["message"]["content"].as_str().unwrap();
        check(content);
        assert_eq!(whole["choices"][0]["finish_reason"], "stop", "{whole}");
        let events = subject.events(CHAT, &body).await;
        let said: String = events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!(said, content);
    }
    let object = subject.chat(&json!({"response_format": {"type": "json_object"}, "max_tokens": 120})).await;
    let object = object["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    assert!(serde_json::from_str::<Value>(&object).unwrap().is_object(), "{object}");
    let wrong = json!({"type": "json_schema", "json_schema": {"name": "trip", "schema": {"type": "nothing"}, "strict": true}});
    let (status, _, param) = subject.refusal(CHAT, &subject.chat_body(&json!({"response_format": wrong}))).await;
    assert_eq!(status, 400);
    assert!(param.as_str().is_some_and(|param| param.starts_with("response_format")), "{param}");
}

fn tools() -> Value {
    json!([{"type": "function", "function": {"name": "weather", "strict": true, "parameters": schema()}}])
}

pub async fn a_function_that_must_be_called_is_called(subject: &Subject) {
    let named = json!({"type": "function", "function": {"name": "weather"}});
    for choice in [json!("required"), named] {
        let body =
            subject.chat_body(&json!({"tools": tools(), "tool_choice": choice, "max_tokens": 100, "parallel_tool_calls": false}));
        let whole = subject.ok(CHAT, &body).await;
        let answer = &whole["choices"][0];
        assert_eq!((&answer["finish_reason"], &answer["message"]["content"]), (&json!("tool_calls"), &Value::Null), "{whole}");
        let call = &answer["message"]["tool_calls"][0];
        assert_eq!((&call["type"], &call["function"]["name"]), (&json!("function"), &json!("weather")));
        let arguments = call["function"]["arguments"].as_str().unwrap();
        check(arguments);
        let events = subject.events(CHAT, &body).await;
        let pieces = events.iter().map(|event| &event["choices"][0]["delta"]["tool_calls"][0]["function"]);
        let (mut name, mut said) = (String::new(), String::new());
        for piece in pieces {
            name.push_str(piece["name"].as_str().unwrap_or_default());
            said.push_str(piece["arguments"].as_str().unwrap_or_default());
        }
        assert_eq!((name.as_str(), said.as_str()), ("weather", arguments));
    }
}

pub async fn a_function_that_may_be_called_need_not_be(subject: &Subject) {
    let reply = subject.chat(&json!({"tools": tools(), "tool_choice": "none"})).await;
    let message = &reply["choices"][0]["message"];
    assert!(message["content"].is_string() && message.get("tool_calls").is_none_or(Value::is_null), "{reply}");
    let unknown = json!({"type": "function", "function": {"name": "tides"}});
    let (status, ..) = subject.refusal(CHAT, &subject.chat_body(&json!({"tools": tools(), "tool_choice": unknown}))).await;
    assert_eq!(status, 400);
}
