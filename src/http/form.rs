//! Reads forms (multipart/form-data) piece by piece, so that files go to the disk as they come. Knows no endpoint.

use std::time::Duration;

use axum::extract::multipart::{Field, Multipart, MultipartError};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};

use super::Server;
use super::error::ApiError;

/// A client that sends nothing for so long has gone.
const SILENCE: Duration = Duration::from_secs(60);
/// Longest value of a field that is not a file, bytes.
const MAX_TEXT: usize = 1024;
/// What stands around the files of a form, bytes at most.
const AROUND: u64 = 64 * 1024;

/// The form of a request; `what` says what it should hold.
pub async fn form(server: &Server, request: Request, what: &str) -> Result<Multipart, ApiError> {
    Multipart::from_request(request, server).await.map_err(|_| {
        let message = format!("The request body must be multipart/form-data with a boundary, with {what}.");
        ApiError { param: None, ..ApiError::invalid("", "invalid_content_type", message) }
    })
}

/// Refuses a body that says itself that it is longer than files of `limit` bytes need.
pub fn check_length(headers: &HeaderMap, limit: u64) -> Result<(), ApiError> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > limit.saturating_add(AROUND)) { Err(too_large(limit)) } else { Ok(()) }
}

/// The value of a field that is not a file.
pub async fn text(mut field: Field<'_>, name: &str) -> Result<String, ApiError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = in_time(field.chunk()).await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MAX_TEXT {
            return Err(ApiError::invalid(name, "string_above_max_length", format!("'{name}' is longer than {MAX_TEXT} bytes.")));
        }
    }
    String::from_utf8(bytes).map_err(|_| ApiError::invalid(name, "invalid_value", format!("'{name}' is not UTF-8.")))
}

/// The error for a field that nobody knows.
pub fn unknown(name: &str) -> ApiError {
    let name: String = name.chars().take(64).collect();
    ApiError::invalid(name.clone(), "unknown_parameter", format!("Unknown parameter: '{name}'."))
}

/// The error for a field that comes again.
pub fn twice(name: &str) -> ApiError {
    let name: String = name.chars().take(64).collect();
    ApiError::invalid(name.clone(), "duplicate_parameter", format!("'{name}' is there twice."))
}

/// The error for a file that must be there.
pub fn missing_file(name: &str) -> ApiError {
    let message = format!("Missing required parameter: the file '{name}'.");
    ApiError::invalid(name, "missing_required_parameter", message)
}

/// The next piece of a body, if it comes.
pub async fn in_time<T>(piece: impl Future<Output = Result<T, MultipartError>>) -> Result<T, ApiError> {
    let incomplete = |reason: String| ApiError {
        param: None,
        ..ApiError::invalid("", "body_incomplete", format!("The request body broke off or is not multipart/form-data: {reason}."))
    };
    match tokio::time::timeout(SILENCE, piece).await {
        Ok(Ok(piece)) => Ok(piece),
        Ok(Err(error)) => Err(incomplete(error.body_text())),
        Err(_) => Err(incomplete(format!("nothing came for {} seconds", SILENCE.as_secs()))),
    }
}

/// The error for files that are longer than `limit` bytes together.
pub fn too_large(limit: u64) -> ApiError {
    ApiError::body_too_large(usize::try_from(limit).unwrap_or(usize::MAX))
}
