//! Errors of models that are other servers, in OpenAI's envelope. Clients read what they can do; the server's address, its key and its
//! own words about faults go to the log at most.

use std::time::Duration;

use axum::http::StatusCode;

use super::error::ApiError;
use crate::gateway::{GatewayError, Trouble};

/// The error for a client.
pub fn error(error: GatewayError) -> ApiError {
    match error {
        GatewayError::RelayedOnly(model) => {
            let message = format!(
                "The model '{model}' is an upstream; it is for /v1/chat/completions, /v1/completions and /v1/embeddings only."
            );
            ApiError::invalid("model", "model_not_supported", message)
        }
        GatewayError::NotAsked { model, endpoint } => {
            let message = format!("The model '{model}' is not for {endpoint}.");
            ApiError::invalid("model", "model_not_supported", message)
        }
        GatewayError::UpstreamSpent { model, reached } => {
            tracing::warn!(model, %reached, "a request for an upstream is refused");
            let message =
                format!("What may be spent on the model '{model}' is spent. Please use another model, or try again later.");
            ApiError { retry_after: Some(3_600), ..ApiError::unavailable("upstream_spent", message) }
        }
        GatewayError::Upstream { model, trouble } => troubled(&model, trouble),
        other => ApiError::internal(&other),
    }
}

fn troubled(model: &str, trouble: Trouble) -> ApiError {
    tracing::warn!(model, %trouble, "an upstream did not answer");
    let unavailable = |code, wait: Option<Duration>, message: String| ApiError {
        retry_after: Some(wait.map_or(1, whole_seconds)),
        ..ApiError::unavailable(code, message)
    };
    let failed = |status, code, message: String| ApiError::new(status, "server_error", Some(code), message);
    match trouble {
        Trouble::Busy => {
            let message = format!("The model '{model}' has as many requests as it takes. Please try again in a moment.");
            unavailable("overloaded", None, message)
        }
        Trouble::LeftAlone(wait) => {
            let message = format!("The model '{model}' has failed several times and is given a pause. Please try again later.");
            unavailable("upstream_unavailable", Some(wait), message)
        }
        Trouble::Refused { status: 429, retry_after, .. } => {
            let message = format!("The model '{model}' is busy. Please try again later.");
            unavailable("upstream_busy", retry_after, message)
        }
        Trouble::Refused { status: status @ (400 | 409 | 413 | 422), message, param, .. } => {
            let too_long = message.contains("context length") || message.contains("context_length");
            let code = if too_long { "context_length_exceeded" } else { "upstream_refused" };
            let status = if status == 413 { StatusCode::PAYLOAD_TOO_LARGE } else { StatusCode::BAD_REQUEST };
            let error =
                ApiError::new(status, "invalid_request_error", Some(code), format!("The model '{model}' refused: {message}"));
            ApiError { param, ..error }
        }
        Trouble::Late(_) => {
            let message = format!("The model '{model}' took too long. Please try again later.");
            failed(StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", message)
        }
        Trouble::Unconnected(_)
        | Trouble::Unreachable(_)
        | Trouble::Broken(_)
        | Trouble::TooLarge(_)
        | Trouble::Refused { .. } => {
            let message = format!("The model '{model}' could not answer; the server's log says why. Please try again later.");
            failed(StatusCode::BAD_GATEWAY, "upstream_failed", message)
        }
    }
}

/// At least one.
fn whole_seconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn faults_of_the_other_server_are_not_told() {
        let told = |trouble| {
            let error = troubled("big", trouble);
            (error.status.as_u16(), error.code.unwrap(), error.retry_after, error.message)
        };
        let refused = |status, message: &str, retry_after| Trouble::Refused {
            status,
            message: message.to_owned(),
            param: None,
            retry_after,
        };
        let (status, code, _, message) = told(refused(401, "wrong key", None));
        assert_eq!((status, code), (502, "upstream_failed"));
        assert!(!message.contains("key"), "{message}");
        assert_eq!(told(refused(500, "x", None)).0, 502);
        let (status, code, wait, _) = told(refused(429, "x", Some(Duration::from_millis(6_100))));
        assert_eq!((status, code, wait), (503, "upstream_busy", Some(7)));
        let (status, code, _, message) = told(refused(400, "'seed' is not supported", None));
        assert_eq!((status, code), (400, "upstream_refused"));
        assert!(message.contains("'seed' is not supported"), "what the caller can change is told");
        assert_eq!(told(refused(400, "the maximum context length is 8 tokens", None)).1, "context_length_exceeded");
        assert_eq!(told(Trouble::Late("its first event")).0, 504);
        assert_eq!(told(Trouble::LeftAlone(Duration::ZERO)).2, Some(1));
    }
}
