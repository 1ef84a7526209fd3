//! What happens around every request: an id, a log line, and an answer even when a handler panics.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use rand::RngCore;
use tracing::Instrument;

use super::Server;
use super::error::ApiError;
use super::trace_context::TraceContext;
use super::traced::traced;
use crate::telemetry::traces;
use crate::tenants::Principal;

/// Names a request in answers and logs.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id that is taken over from a caller.
const MAX_REQUEST_ID: usize = 128;

/// The request's id.
#[derive(Debug, Clone)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// As text.
    pub fn text(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

/// When the request's head was read.
#[derive(Debug, Clone, Copy)]
pub struct Arrived(pub Instant);

/// Takes the caller's `x-request-id` over, or makes one; the response carries it.
pub async fn request_id(mut request: Request, next: Next) -> Response {
    let given = request.headers().get(REQUEST_ID).filter(|id| acceptable(id)).cloned();
    let id = given.unwrap_or_else(|| {
        let id = format!("req_{}", random_hex());
        HeaderValue::try_from(id).unwrap_or_else(|_| HeaderValue::from_static("req_unknown"))
    });
    request.extensions_mut().insert(Arrived(Instant::now()));
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = next.run(request).await;
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

fn acceptable(id: &HeaderValue) -> bool {
    (1..=MAX_REQUEST_ID).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
}

/// 32 random hexadecimal digits.
pub fn random_hex() -> String {
    let mut bytes = [0u8; 16];
    rand::rng().fill_bytes(&mut bytes);
    format!("{:032x}", u128::from_be_bytes(bytes))
}

/// Of a process that ends, each answer asks its client to take another connection, which may lead to another process: nobody then sends
/// a request at the moment in which the connection is closed.
pub async fn send_elsewhere(State(server): State<Server>, request: Request, next: Next) -> Response {
    let one_at_a_time = request.version() < axum::http::Version::HTTP_2;
    let mut response = next.run(request).await;
    if one_at_a_time && server.readiness().is_ending() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Counts and logs each request; what is logged while it is answered carries its id, and the trace that the caller says it belongs to. The line at its end has method, route, status, time to the response's head, id and key; never its content. Where traces are exported, its span ends with the response's last byte.
pub async fn trace(State(server): State<Server>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or("unknown", |path| path.as_str()).to_owned();
    let id = request.extensions().get::<RequestId>().cloned();
    let id = id.as_ref().and_then(|id| id.0.to_str().ok()).unwrap_or("-");
    // At the level of errors, so that no filter that lets an error through leaves its request's id out.
    let given = TraceContext::of(request.headers());
    let parent = given.as_ref().and_then(TraceContext::parent);
    let exported = traces::begin(&traces::Request { method: method.as_str(), route: &route, request_id: id, parent });
    let context = match &exported {
        None => given,
        Some(exported) => Some(TraceContext::exported(given, exported)),
    };
    let span = match &context {
        None => tracing::error_span!(target: "switchyard::http", "answering", request_id = id),
        Some(TraceContext { trace_id, span_id, .. }) => {
            tracing::error_span!(target: "switchyard::http", "answering", request_id = id, trace_id, span_id)
        }
    };
    let response = next.run(request).instrument(span).await;
    let status = response.status();
    server.metrics().answered(&method, &route, status);
    let key = response.extensions().get::<Arc<Principal>>().map_or("-", |principal| &*principal.key_id);
    #[expect(clippy::cast_possible_truncation, reason = "milliseconds of a request")]
    let ms = started.elapsed().as_millis() as u64;
    let status = status.as_u16();
    match &context {
        None => tracing::info!(target: "switchyard::http", %method, route, status, ms, request_id = id, key, "request"),
        Some(TraceContext { trace_id, parent_id, span_id, .. }) => {
            let parent_id = parent_id.as_deref();
            tracing::info!(
                target: "switchyard::http", %method, route, status, ms, request_id = id, key, trace_id, span_id, parent_id, "request"
            );
        }
    }
    match exported {
        None => response,
        Some(span) => traced(response, span),
    }
}

/// Answers 500 when a handler panics.
pub async fn catch_panics(request: Request, next: Next) -> Response {
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(panic) => ApiError::internal(&format!("a handler panicked: {}", panic_text(&*panic))).into_response(),
    }
}

/// Puts errors that no handler wrote (refusals of the framework) into the envelope that clients read.
pub async fn envelope(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    let is_json =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if is_json || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    if status.is_server_error() {
        return ApiError::internal(&format!("a handler answered {status} without a body of ours")).into_response();
    }
    let reason = status.canonical_reason().unwrap_or("the request was refused");
    ApiError::new(status, "invalid_request_error", None, format!("The request cannot be understood: {reason}.")).into_response()
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use axum::http::StatusCode;
    use axum::{Router, body::Body, middleware::from_fn, routing::get};
    use serde_json::{Value, json};
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn errors_of_unknown_origin_are_in_the_envelope() {
        async fn broken() {
            panic!("secret detail");
        }
        let bare = async || (StatusCode::BAD_GATEWAY, "secret detail");
        let router = Router::new()
            .route("/panic", get(broken))
            .route("/bare", get(bare))
            .route("/odd/{id}", get(async |_: axum::extract::Path<u32>| "fine"));
        let router = router.layer(from_fn(envelope)).layer(from_fn(catch_panics)).layer(from_fn(request_id));
        for (path, status, kind, code) in [
            ("/panic", StatusCode::INTERNAL_SERVER_ERROR, "server_error", json!("internal_error")),
            ("/bare", StatusCode::INTERNAL_SERVER_ERROR, "server_error", json!("internal_error")),
            ("/odd/x", StatusCode::BAD_REQUEST, "invalid_request_error", json!(null)),
        ] {
            let request = Request::builder().uri(path).header(REQUEST_ID, "mine-1").body(Body::empty()).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), status, "{path}");
            assert_eq!(response.headers()[REQUEST_ID], "mine-1");
            let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!((&body["error"]["type"], &body["error"]["code"]), (&json!(kind), &code), "{path}");
            assert!(!body.to_string().contains("secret"), "{body}");
        }
        let request = Request::builder().uri("/odd/7").body(Body::empty()).unwrap();
        assert_eq!(router.oneshot(request).await.unwrap().status(), StatusCode::OK);
    }

    #[test]
    fn odd_request_ids_are_replaced() {
        assert!(acceptable(&HeaderValue::from_static("abc-123")));
        assert!(!acceptable(&HeaderValue::from_static("")));
        assert!(!acceptable(&HeaderValue::from_static("a b")));
        assert!(!acceptable(&HeaderValue::from_str(&"a".repeat(129)).unwrap()));
    }
}
