//! `Idempotency-Key` on requests for answers: the same request gets the answer that it got before, unbilled; another request with
//! the same key is refused.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use futures::stream::unfold;
use serde_json::{Map, Value, json};

use super::sender::Sender;
use crate::gateway::GatewayError;
use crate::http::Server;
use crate::http::error::ApiError;
use crate::tenants::{Kept, Pending, Repeated, sha256_hex};

/// Says that an answer is the one of an earlier request.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// Headers that are kept with an answer.
const KEPT_HEADERS: [&str; 5] = ["content-type", "x-adapter-version", "x-deployment", "x-experiment-arm", "x-cost-usd"];
/// Larger answers are not kept, bytes.
const MOST_BYTES: usize = 4 << 20;
/// Ends a stream.
const DONE: &[u8] = b"data: [DONE]\n\n";
/// Begin the last event of a response's stream, unless it failed.
const LAST_EVENTS: [&[u8]; 2] = [b"event: response.completed\n", b"event: response.incomplete\n"];
/// Begins the event of a failure.
const FAILURE: &[u8] = b"data: {\"error\":";

/// Answers a JSON body by `answer`, unless the same was answered before.
pub async fn body_once<F>(
    server: &Server,
    sender: &Sender,
    path: &'static str,
    body: Value,
    answer: impl FnOnce(Value) -> F,
) -> Result<Response, ApiError>
where
    F: Future<Output = Result<Response, ApiError>>,
{
    let again = sender.idempotency_key.as_ref().map(|_| body.clone()).unwrap_or_default();
    // It is large, and would be in here twice.
    once(server, sender, path, &again, Box::pin(answer(body))).await
}

/// Answers by `answer`, unless the same was answered before.
pub async fn once<F>(server: &Server, sender: &Sender, path: &'static str, body: &Value, answer: F) -> Result<Response, ApiError>
where
    F: Future<Output = Result<Response, ApiError>>,
{
    let Some(key) = &sender.idempotency_key else { return answer.await };
    if let Some(model) = body.get("model").and_then(Value::as_str) {
        // An answer that was given to another key of the tenant is only for those who may use its model. Whether it can do what the
        // route is for is the route's to say.
        match server.gateway().check_model(&sender.caller, model) {
            Ok(_) | Err(GatewayError::EmbeddingsOnly(_) | GatewayError::RelayedOnly(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let hash = sha256_hex(format!("{path}\n{body}").as_bytes());
    let repeated = server.tenants().office().repeated(&sender.caller.tenant, key, hash).await;
    let conflict = |code, message: &str| {
        let error = ApiError::new(StatusCode::CONFLICT, "invalid_request_error", Some(code), message);
        Err(ApiError { param: Some("Idempotency-Key".to_owned()), ..error })
    };
    match repeated.map_err(|error| ApiError::database_down(&error))? {
        Repeated::No(pending) => keep(answer.await?, *pending).await,
        Repeated::Answered(kept) => Ok(replay(kept)),
        Repeated::Underway => {
            conflict("idempotency_key_in_use", "The first request with this Idempotency-Key is still being answered.")
        }
        Repeated::AnotherRequest => conflict(
            "idempotency_key_reused",
            "This Idempotency-Key came with another request before; a new request needs a new key.",
        ),
    }
}

async fn keep(response: Response, pending: Pending) -> Result<Response, ApiError> {
    let (parts, body) = response.into_parts();
    let headers = kept_headers(&parts.headers);
    let streamed = parts.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    let body = if streamed {
        record(body, headers, pending)
    } else {
        let bytes = axum::body::to_bytes(body, usize::MAX).await.map_err(|error| ApiError::internal(&error))?;
        stored(pending, headers, bytes.to_vec()).await;
        Body::from(bytes)
    };
    Ok(Response::from_parts(parts, body))
}

/// Passes a stream on and keeps it before its last piece leaves.
fn record(body: Body, headers: String, pending: Pending) -> Body {
    let state = (body.into_data_stream(), Vec::new(), Some((pending, headers)));
    Body::from_stream(unfold(state, |(mut stream, mut seen, mut left)| async move {
        let chunk: Bytes = stream.next().await?.ok()?;
        if left.is_some() {
            seen.extend_from_slice(&chunk);
            if seen.len() > MOST_BYTES {
                left = None;
                seen = Vec::new();
            } else if is_over(&seen)
                && let Some((pending, headers)) = left.take()
            {
                let failed = seen.windows(FAILURE.len()).any(|window| window == FAILURE);
                if !failed {
                    stored(pending, headers, std::mem::take(&mut seen)).await;
                }
            }
        }
        Some((Ok::<_, Infallible>(chunk), (stream, seen, left)))
    }))
}

/// Whether a stream has had its last event.
fn is_over(seen: &[u8]) -> bool {
    let Some(events) = seen.strip_suffix(b"\n\n") else { return false };
    let last = events.windows(2).rposition(|two| two == b"\n\n").map_or(events, |at| &events[at + 2..]);
    seen.ends_with(DONE) || LAST_EVENTS.iter().any(|name| last.starts_with(name))
}

/// Keeps an answer that is billed, also when its client leaves just now: that is what a repetition is for.
async fn stored(pending: Pending, headers: String, bytes: Vec<u8>) {
    // It fails only when the process ends.
    let _ = tokio::spawn(async move { store(pending, headers, &bytes).await }).await;
}

async fn store(pending: Pending, headers: String, bytes: &[u8]) {
    let Ok(body) = std::str::from_utf8(bytes) else { return };
    if bytes.len() > MOST_BYTES {
        return;
    }
    // The answer is billed and given all the same; a repetition would be answered anew.
    if let Err(error) = pending.keep(&Kept { headers, body: body.to_owned() }).await {
        tracing::warn!(%error, "an answer is not kept for its Idempotency-Key");
    }
}

fn kept_headers(headers: &HeaderMap) -> String {
    let pair = |name: &str| Some((name.to_owned(), json!(headers.get(name)?.to_str().ok()?)));
    Value::Object(KEPT_HEADERS.iter().filter_map(|name| pair(name)).collect()).to_string()
}

fn replay(kept: Kept) -> Response {
    let mut response = (StatusCode::OK, kept.body).into_response();
    let headers: Map<String, Value> = serde_json::from_str(&kept.headers).unwrap_or_default();
    for (name, value) in &headers {
        let pair = (HeaderName::try_from(name.as_str()), value.as_str().map(HeaderValue::try_from));
        if let (Ok(name), Some(Ok(value))) = pair {
            response.headers_mut().insert(name, value);
        }
    }
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response
}
