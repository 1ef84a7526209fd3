//! `POST /v1/feedback`: what somebody says of an answer, by its request id.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::Server;
use super::body::JsonBody;
use super::error::ApiError;
use super::fields::{self, Fields};
use crate::experiments::settings::Metric;
use crate::experiments::{Opinion, Saying};
use crate::tenants::Principal;

/// Longest correction, bytes.
const MAX_CORRECTION: usize = 64 * 1024;
/// Longest request id, bytes: no longer one is taken over from callers.
const MAX_REQUEST_ID: usize = 128;
/// What the id of an answer in a list has more: `-63`.
const OF_LIST: usize = 3;
/// Smaller values, either way, are none.
const LEAST: f64 = 1e-100;
/// Beyond it a value would drown all others.
const MOST: f64 = 1e9;

/// `POST /v1/feedback`
pub async fn create(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, ApiError> {
    let mut fields = Fields::body(body)?;
    let request_id = fields.required_string("request_id")?;
    let opinions = opinions(&mut fields)?;
    fields.finish(&[])?;
    let kept: Vec<String> = opinions.iter().map(|opinion| opinion.metric.to_string()).collect();
    let saying = Saying { tenant: &caller.tenant, key_id: &caller.key_id, request_id: &request_id };
    let known = request_id.len() <= MAX_REQUEST_ID + OF_LIST && server.results().recorder().feedback(saying, opinions).await?;
    if !known {
        return Err(unknown(&request_id));
    }
    Ok(Json(json!({"object": "feedback", "request_id": request_id, "kept": kept})))
}

/// The same of what never was and of what other tenants have.
fn unknown(request_id: &str) -> ApiError {
    let shown: String = request_id.chars().take(MAX_REQUEST_ID).collect();
    let message = format!(
        "There is no answer with the request id '{shown}' (x-request-id of a response) in this project. Answers of deployments are \
         found as long as the ledger has them, others for an hour."
    );
    let error = ApiError::new(StatusCode::NOT_FOUND, "invalid_request_error", Some("request_not_found"), message);
    ApiError { param: Some("request_id".to_owned()), ..error }
}

fn opinions(fields: &mut Fields) -> Result<Vec<Opinion>, ApiError> {
    let mut opinions = Vec::new();
    // Squares are added up, by databases that take a square that is too small for an error.
    let plain = |metric, value: f64| Opinion { metric, value: if value.abs() < LEAST { 0.0 } else { value }, text: None };
    if let Some(thumbs) = fields.string("thumbs")? {
        opinions.push(plain(Metric::Thumbs, fields::word("thumbs", &thumbs, &[("up", 1.0), ("down", 0.0)])?));
    }
    if let Some(score) = fields.number("score", 0.0..=1.0)? {
        opinions.push(plain(Metric::Score, score));
    }
    if let Some(text) = fields.string("correction")? {
        if text.is_empty() || text.len() > MAX_CORRECTION {
            let message = format!("Invalid 'correction': {} bytes, where 1 to {MAX_CORRECTION} are right.", text.len());
            return Err(ApiError::invalid("correction", "invalid_value", message));
        }
        opinions.push(Opinion { metric: Metric::Corrections, value: 1.0, text: Some(text) });
    }
    let (metric, value) = (fields.string("metric")?, fields.number("value", -MOST..=MOST)?);
    match (metric, value) {
        (None, None) => {}
        (Some(name), Some(value)) => {
            let metric = format!("feedback:{name}").parse().map_err(|_| {
                let shown: String = name.chars().take(MAX_REQUEST_ID).collect();
                let message = format!(
                    "Invalid 'metric': {shown:?}; 1 to 64 letters, digits, '_', '.' and '-' are right, as in \"resolved\"."
                );
                ApiError::invalid("metric", "invalid_value", message)
            })?;
            opinions.push(plain(metric, value));
        }
        (Some(_), None) => return Err(fields.missing("value")),
        (None, Some(_)) => return Err(fields.missing("metric")),
    }
    if opinions.is_empty() {
        let message =
            "Nothing is said of the answer: one of 'thumbs', 'score', 'correction', or 'metric' with 'value' is needed.";
        return Err(ApiError { param: None, ..ApiError::invalid("", "missing_required_parameter", message) });
    }
    Ok(opinions)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    fn read(body: Value) -> Result<Vec<Opinion>, String> {
        opinions(&mut Fields::body(body).unwrap()).map_err(|error| error.message)
    }

    #[test]
    fn opinions_are_read_and_mistakes_named() {
        let all =
            read(json!({"thumbs": "down", "score": 0.25, "correction": "right", "metric": "resolved", "value": -3})).unwrap();
        let seen: Vec<(String, f64)> = all.iter().map(|opinion| (opinion.metric.to_string(), opinion.value)).collect();
        let expected = [("thumbs", 0.0), ("score", 0.25), ("corrections", 1.0), ("feedback:resolved", -3.0)];
        assert_eq!(seen, expected.map(|(name, value)| (name.to_owned(), value)));
        assert_eq!(all[2].text.as_deref(), Some("right"));
        for (body, word) in [
            (json!({}), "Nothing is said"),
            (json!({"thumbs": "sideways"}), "'up', 'down'"),
            (json!({"score": 1.5}), "'score'"),
            (json!({"correction": ""}), "'correction'"),
            (json!({"metric": "a b", "value": 1}), "\"a b\""),
            (json!({"metric": "a"}), "'value'"),
            (json!({"value": 1}), "'metric'"),
        ] {
            let message = read(body).unwrap_err();
            assert!(message.contains(word), "{message}");
        }
    }
}
