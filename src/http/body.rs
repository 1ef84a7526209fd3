//! Reads request bodies: bounded, and as JSON whose mistakes are named with line and column.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use futures::StreamExt;
use serde_json::{Map, Value};

use super::Server;
use super::error::ApiError;

/// A body that is too large is read to its end and thrown away, so that clients that send everything before they look get to
/// see the answer; not more of it than this, and not longer.
const DISCARD_BYTES: usize = 256 * 1024 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(10);

/// A JSON body.
pub struct JsonBody(pub Value);

impl FromRequest<Server> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, server: &Server) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let bytes = read(&parts.headers, body, server.config().body_limit).await?;
        Ok(Self(parse(&bytes)?))
    }
}

/// A JSON body where there is one, else an empty object.
pub async fn optional(headers: &HeaderMap, body: Body, limit: usize) -> Result<Value, ApiError> {
    let bytes = read(headers, body, limit).await?;
    if bytes.trim_ascii().is_empty() { Ok(Value::Object(Map::new())) } else { parse(&bytes) }
}

async fn read(headers: &HeaderMap, body: Body, limit: usize) -> Result<Vec<u8>, ApiError> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let mut stream = body.into_data_stream();
    if length.is_some_and(|length| length > limit) {
        // A client that asks first gets its answer at once and sends nothing.
        if !headers.contains_key(header::EXPECT) {
            discard(stream).await;
        }
        return Err(ApiError::body_too_large(limit));
    }
    let mut bytes = Vec::with_capacity(length.unwrap_or(0));
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| ApiError {
            param: None,
            ..ApiError::invalid("", "body_incomplete", format!("The request body broke off: {error}."))
        })?;
        if bytes.len() + chunk.len() > limit {
            drop(bytes);
            discard(stream).await;
            return Err(ApiError::body_too_large(limit));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

async fn discard(mut stream: BodyDataStream) {
    let everything = async {
        let mut seen = 0usize;
        while let Some(Ok(chunk)) = stream.next().await {
            seen += chunk.len();
            if seen > DISCARD_BYTES {
                break;
            }
        }
    };
    // Either way the answer is the same.
    let _ = tokio::time::timeout(DISCARD_TIME, everything).await;
}

fn parse(bytes: &[u8]) -> Result<Value, ApiError> {
    let invalid = |message: String| ApiError { param: None, ..ApiError::invalid("", "invalid_json", message) };
    let text = std::str::from_utf8(bytes).map_err(|error| {
        invalid(format!("The request body is not valid UTF-8: the first wrong byte is at offset {}.", error.valid_up_to()))
    })?;
    if text.trim_ascii().is_empty() {
        return Err(invalid("The request body is empty; expected a JSON object.".to_owned()));
    }
    serde_json::from_str(text).map_err(|error| invalid(format!("The request body is not valid JSON: {error}.")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;

    #[test]
    fn what_is_not_json_is_named_with_its_place() {
        let message = |bytes: &[u8]| parse(bytes).unwrap_err().message;
        assert!(message(b"{\"a\": 1,\n }").contains("line 2 column 2"), "{}", message(b"{\"a\": 1,\n }"));
        assert!(message(b"{\"a\": \"\xff\"}").contains("offset 7"));
        assert!(message(b" ").contains("empty"));
        assert!(message(b"{\"a\": 1e999}").contains("number out of range"));
        assert!(message(b"{\"a\": NaN}").contains("not valid JSON"));
        let deep = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
        assert!(message(&deep).contains("recursion limit"));
    }
}
