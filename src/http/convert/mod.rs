//! `POST /convert` and `/api/convert`: what somebody said, as an intent with its task and its time.

mod reply;
mod request;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::future::join_all;
use serde_json::{Value, json};

use super::Server;
use super::body::JsonBody;
use super::convert_corrections::{self, Answered};
use super::error::ApiError;
use super::limits;
use super::openai::reply::{ADAPTER_VERSION, COST};
use super::openai::sender::{Head, Sender, ShowCost};
use super::openai::{repeated, wire};
use crate::convert::{Calibration, Schema, clean, leading};
use crate::gateway::{Meaning, Question, Usage};
use request::{Asked, Input};

/// In the ledger and the metrics.
const ENDPOINT: &str = "convert";

/// `POST /convert`, `POST /api/convert`
pub async fn convert(State(server): State<Server>, Head(sender): Head, JsonBody(body): JsonBody) -> Result<Response, ApiError> {
    let sender = sender?;
    let again = sender.idempotency_key.as_ref().map(|_| body.clone()).unwrap_or_default();
    let answer = async {
        let asked = request::parse(body, server.config())?;
        match &asked.inputs[..] {
            [input] if !asked.is_list => one(&server, &sender, &asked, input).await,
            inputs => many(&server, &sender, &asked, inputs).await,
        }
    };
    repeated::once(&server, &sender, "/convert", &again, answer).await
}

async fn one(server: &Server, sender: &Sender, asked: &Asked, input: &Input) -> Result<Response, ApiError> {
    let meaning = understand(server, sender, asked, (input, &sender.request_id)).await?;
    let body = reply::body(&sender.request_id, input, &meaning, &judged(server, &meaning));
    let mut response = Json(body).into_response();
    let headers = response.headers_mut();
    if let Some(version) = &meaning.version {
        headers.insert(ADAPTER_VERSION, HeaderValue::try_from(version).map_err(|error| ApiError::internal(&error))?);
        limits::write(headers, meaning.rate);
    }
    if sender.show_cost == ShowCost::Shown
        && let Ok(cost) = HeaderValue::try_from(limits::usd(meaning.cost_nanos))
    {
        headers.insert(COST, cost);
    }
    Ok(response)
}

/// Each on its own, side by side: what is refused says so in its place, unless all are.
async fn many(server: &Server, sender: &Sender, asked: &Asked, inputs: &[Input]) -> Result<Response, ApiError> {
    let ids: Vec<String> = (0..inputs.len()).map(|index| format!("{}-{index}", sender.request_id)).collect();
    let meanings = join_all(inputs.iter().zip(&ids).map(|(input, id)| understand(server, sender, asked, (input, id)))).await;
    let mut usage = Usage::default();
    let mut cost = 0i64;
    let mut results = Vec::with_capacity(inputs.len());
    let mut refused = Vec::new();
    for ((input, id), meaning) in inputs.iter().zip(&ids).zip(meanings) {
        match meaning {
            Ok(meaning) => {
                usage.prompt_tokens += meaning.usage.prompt_tokens;
                usage.completion_tokens += meaning.usage.completion_tokens;
                usage.cached_tokens += meaning.usage.cached_tokens;
                cost = cost.saturating_add(meaning.cost_nanos);
                results.push(reply::body(id, input, &meaning, &judged(server, &meaning)));
            }
            Err(error) => {
                results.push(json!({"success": false, "id": id, "object": "convert", "error": error.body()}));
                refused.push(error);
            }
        }
    }
    if refused.len() == results.len()
        && let Some(first) = refused.into_iter().next()
    {
        return Err(first);
    }
    let mut response =
        Json(json!({"success": true, "object": "list", "results": results, "usage": wire::usage(usage)})).into_response();
    if sender.show_cost == ShowCost::Shown
        && let Ok(cost) = HeaderValue::try_from(limits::usd(cost))
    {
        response.headers_mut().insert(COST, cost);
    }
    Ok(response)
}

async fn understand(server: &Server, sender: &Sender, asked: &Asked, (input, id): (&Input, &str)) -> Result<Meaning, ApiError> {
    let mut origin = sender.origin(ENDPOINT, asked.end_user.clone());
    origin.request_id = id.into();
    let cleaned = clean(&input.text);
    let question = Question {
        caller: std::sync::Arc::clone(&sender.caller),
        origin,
        model: input.model.clone(),
        text: leading(&cleaned).to_owned(),
        schema: Schema::built_in(),
    };
    let meaning = server.gateway().understand(question).await;
    if let Ok(meaning) = &meaning
        && !input.is_partial
    {
        let schema = Schema::built_in();
        let unknown = crate::convert::Reading::unknown(&schema);
        let reading = if judged(server, meaning).counts { &meaning.reading } else { &unknown };
        let text = leading(&cleaned);
        let answered = Answered { id, text, reading, schema: &schema, schema_name: None, model: &input.model };
        convert_corrections::keep(server, &sender.caller, &answered);
    }
    meaning.map_err(|error| {
        let error = ApiError::from(error).with_prompt_field("text");
        if error.status == StatusCode::TOO_MANY_REQUESTS {
            server.metrics().refused(error.code.unwrap_or_default());
        }
        error
    })
}

/// What is made of a meaning: how sure it is, and whether that is enough.
pub(super) struct Judged {
    /// 0 to 1.
    pub confidence: f64,
    /// Whether the reading counts; it is `unknown` otherwise.
    pub counts: bool,
}

fn judged(server: &Server, meaning: &Meaning) -> Judged {
    let confidence = Calibration::bundled().confidence(meaning.probability);
    Judged { confidence, counts: confidence >= server.config().convert.unknown_below }
}

impl ApiError {
    /// What stands under `error`.
    fn body(&self) -> Value {
        json!({"message": self.message, "type": self.kind, "param": self.param, "code": self.code})
    }
}
