//! `POST /convert` and `/api/convert`: what somebody said, as an intent with its task and its time.

mod reply;
mod request;
pub(super) mod schemas;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serde_json::{Value, json};

use super::Server;
use super::body::JsonBody;
use super::convert_corrections::{self, Answered};
use super::error::ApiError;
use super::limits;
use super::openai::reply::{COST, write_served};
use super::openai::sender::{Head, Sender, ShowCost};
use super::openai::{repeated, wire};
use crate::convert::{Reading, Schema, clean, leading};
use crate::gateway::{Extent, Meaning, Question, Usage};
pub use request::is_time_zone;
use request::{Asked, Input};

/// In the ledger and the metrics.
const ENDPOINT: &str = "convert";
/// Texts of a list whose grammars exist at the same time.
const AT_ONCE: usize = 8;

/// The probability of the model's choices, as it is before calibration.
const PROBABILITY: HeaderName = HeaderName::from_static("x-convert-probability");

/// `POST /convert`, `POST /api/convert`
pub async fn convert(State(server): State<Server>, Head(sender): Head, JsonBody(body): JsonBody) -> Result<Response, ApiError> {
    let sender = sender?;
    let (server, sender) = (&server, &sender);
    let answer = |body| async move {
        let asked = request::parse(body, server.config())?;
        match &asked.inputs[..] {
            [input] if !asked.is_list => one(server, sender, &asked, input).await,
            inputs => many(server, sender, &asked, inputs).await,
        }
    };
    repeated::body_once(server, sender, "/convert", body, answer).await
}

async fn one(server: &Server, sender: &Sender, asked: &Asked, input: &Input) -> Result<Response, ApiError> {
    let understood = understand(server, sender, asked, (input, &sender.request_id)).await?;
    let body = reply::body(&sender.request_id, input, &understood);
    let Understood { meaning, .. } = understood;
    let mut response = Json(body).into_response();
    let headers = response.headers_mut();
    if let Ok(probability) = HeaderValue::try_from(format!("{:.6}", meaning.probability)) {
        headers.insert(PROBABILITY, probability);
    }
    if let Some(served) = &meaning.served {
        write_served(headers, served)?;
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
    let meanings: Vec<_> = inputs.iter().zip(&ids).map(|(input, id)| understand(server, sender, asked, (input, id))).collect();
    // A grammar is many times the size of its text, and a body has many texts.
    let meanings: Vec<_> = futures::stream::iter(meanings).buffered(AT_ONCE).collect().await;
    let mut usage = Usage::default();
    let mut cost = 0i64;
    let mut results = Vec::with_capacity(inputs.len());
    let mut refused = Vec::new();
    for ((input, id), meaning) in inputs.iter().zip(&ids).zip(meanings) {
        match meaning {
            Ok(understood) => {
                let meaning = &understood.meaning;
                usage.prompt_tokens += meaning.usage.prompt_tokens;
                usage.completion_tokens += meaning.usage.completion_tokens;
                usage.cached_tokens += meaning.usage.cached_tokens;
                cost = cost.saturating_add(meaning.cost_nanos);
                results.push(reply::body(id, input, &understood));
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

async fn understand(
    server: &Server,
    sender: &Sender,
    asked: &Asked,
    (input, id): (&Input, &str),
) -> Result<Understood, ApiError> {
    let mut origin = sender.origin(ENDPOINT, asked.end_user.clone());
    origin.request_id = id.into();
    let spec = input.schema.as_ref().map(|(path, name)| schemas::named(server, &sender.caller, path, name)).transpose()?;
    let (schema, model) = match spec {
        None => (Schema::built_in(), None),
        Some(spec) => (Arc::new(spec.schema), spec.model),
    };
    let model = input.model.clone().or(model);
    let is_default = model.is_none();
    let model = model.unwrap_or_else(|| server.config().convert.model.clone());
    let cleaned = clean(&input.text);
    let question = Question {
        caller: Arc::clone(&sender.caller),
        origin,
        model: model.clone(),
        text: leading(&cleaned).to_owned(),
        schema: Arc::clone(&schema),
        steering: sender.steering.clone(),
        unknown_below: server.config().convert.unknown_below,
        extent: if input.is_partial { Extent::Beginning } else { Extent::Whole },
    };
    let meaning = server.gateway().understand(question).await;
    let meaning = meaning.map_err(|error| {
        let mut error = ApiError::from(error).with_prompt_field("text");
        if is_default && error.code == Some("model_not_found") {
            error
                .message
                .push_str(" It is what the setting convert_model says; name another 'model', or load an adapter of that name.");
        }
        if error.status == StatusCode::TOO_MANY_REQUESTS {
            server.metrics().refused(error.code.unwrap_or_default());
        }
        error
    })?;
    let understood = Understood { schema, model, meaning };
    if !input.is_partial {
        let (schema, unknown) = (&understood.schema, Reading::unknown(&understood.schema));
        let reading = if understood.meaning.counts { &understood.meaning.reading } else { &unknown };
        let (text, model) = (leading(&cleaned), understood.model.as_str());
        let schema_name = input.schema.as_ref().map_or("", |(_, name)| name);
        convert_corrections::keep(server, &sender.caller, &Answered { id, text, reading, schema, schema_name, model });
    }
    Ok(understood)
}

/// What a text means, and what is made of that.
struct Understood {
    /// What could be meant.
    schema: Arc<Schema>,
    /// What was asked.
    model: String,
    /// What was said.
    meaning: Meaning,
}

impl ApiError {
    /// What stands under `error`.
    fn body(&self) -> Value {
        json!({"message": self.message, "type": self.kind, "param": self.param, "code": self.code})
    }
}
