//! The one place where errors of all rooms become statuses and OpenAI's error envelope. What a client reads and what an
//! operator reads are different texts; the second goes to the log only.

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::experiments::ExperimentError;
use crate::gateway::GatewayError;
use crate::registry::RegistryError;
use crate::tenants::admin::AdminError;
use crate::tenants::jwt::TokenError;
use crate::tenants::{Scope, TenantError};
use crate::training::jobs::JobsError;

/// An error on its way to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// Status of the response.
    pub status: StatusCode,
    /// OpenAI's `type`.
    pub kind: &'static str,
    /// OpenAI's `code`.
    pub code: Option<&'static str>,
    /// The field at fault.
    pub param: Option<String>,
    /// For the client.
    pub message: String,
    /// Seconds after which trying again makes sense.
    pub retry_after: Option<u32>,
    /// Further headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Sent as a number in `code`: vLLM's adapter routes put the status there, and their clients read it.
    pub numeric_code: bool,
}

impl ApiError {
    /// An error without a field.
    pub fn new(status: StatusCode, kind: &'static str, code: Option<&'static str>, message: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            code,
            param: None,
            message: message.into(),
            retry_after: None,
            headers: Vec::new(),
            numeric_code: false,
        }
    }

    /// 400: the caller's mistake in `param`.
    pub fn invalid(param: impl Into<String>, code: &'static str, message: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", Some(code), message);
        Self { param: Some(param.into()), ..error }
    }

    /// 500: our mistake; the cause is for the log.
    pub fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, "request failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "server_error",
            Some("internal_error"),
            "The server had an error while processing your request; its log has the details under this response's x-request-id.",
        )
    }

    /// 404 in OpenAI's words.
    pub fn model_not_found(name: &str) -> Self {
        let message = format!("The model '{name}' does not exist or you do not have access to it.");
        let error = Self::new(StatusCode::NOT_FOUND, "invalid_request_error", Some("model_not_found"), message);
        Self { param: Some("model".to_owned()), ..error }
    }

    /// 413.
    pub fn body_too_large(limit: usize) -> Self {
        let message = format!("The request body is larger than the {limit} bytes that this server accepts.");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", Some("request_too_large"), message)
    }

    /// 401.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "invalid_request_error", Some("invalid_api_key"), message)
    }

    /// The same error with another `code`.
    pub fn with_code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// 403: the key may do other things.
    pub fn missing_scope(scope: Scope) -> Self {
        let message = format!("This API key does not have the scope '{}', which this request needs.", scope.name());
        Self::new(StatusCode::FORBIDDEN, "invalid_request_error", Some("insufficient_permissions"), message)
    }

    /// 403: the key belongs to a tenant.
    pub fn organization_only() -> Self {
        let message = "This request needs a key of the organization (with the scope 'admin', or 'read_only' to look).";
        Self::new(StatusCode::FORBIDDEN, "invalid_request_error", Some("insufficient_permissions"), message)
    }

    /// 404 of anything but models.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", Some("not_found"), message)
    }

    /// 501: OpenAI has it, this server has not.
    pub fn not_supported(feature: &str) -> Self {
        let message = format!("This server has no '{feature}'. /openapi.json lists what there is.");
        Self::new(StatusCode::NOT_IMPLEMENTED, "invalid_request_error", Some("not_supported"), message)
    }

    /// 503: what is asked for is in the database.
    pub fn database_down(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, "the database cannot be asked");
        let message = "The server cannot reach its database. Please try again in a moment.";
        Self { retry_after: Some(1), ..Self::unavailable("database_unavailable", message) }
    }

    /// 503.
    pub fn unavailable(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", Some(code), message)
    }

    /// The same error; where it is about the prompt, which has different names, with the field's name.
    pub fn with_prompt_field(self, name: &str) -> Self {
        let about_prompt = matches!(self.code, Some("context_length_exceeded" | "empty_prompt"))
            || matches!(self.param.as_deref(), Some("prompt" | "messages"));
        if about_prompt { Self { param: Some(name.to_owned()), ..self } } else { self }
    }

    /// The same error as vLLM's adapter routes send it: its types, the status as `code`.
    pub fn in_vllm_words(self, kind: &'static str) -> Self {
        Self { kind, numeric_code: true, ..self }
    }

    /// The body.
    pub fn envelope(&self) -> serde_json::Value {
        let code = if self.numeric_code { json!(self.status.as_u16()) } else { json!(self.code) };
        json!({"error": {"message": self.message, "type": self.kind, "param": self.param, "code": code}})
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.envelope())).into_response();
        let headers = response.headers_mut();
        headers.extend(self.headers);
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.status == StatusCode::PAYLOAD_TOO_LARGE {
            // What is left of the body would be read as the next request.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl From<GatewayError> for ApiError {
    fn from(error: GatewayError) -> Self {
        match error {
            GatewayError::UnknownModel(name) => Self::model_not_found(&name),
            GatewayError::EmbeddingsOnly(name) => {
                let message = format!("The model '{name}' makes embeddings only; it is for /v1/embeddings.");
                Self::invalid("model", "model_not_supported", message)
            }
            GatewayError::RelayedOnly(_)
            | GatewayError::NotAsked { .. }
            | GatewayError::Upstream { .. }
            | GatewayError::UpstreamSpent { .. } => super::error_upstream::error(error),
            GatewayError::Dimensions { asked, most } => {
                let message =
                    format!("Invalid 'dimensions': value above maximum. Expected a value <= {most}, but got {asked} instead.");
                Self::invalid("dimensions", "value_out_of_range", message)
            }
            GatewayError::NoVocabulary(model) => {
                let message =
                    format!("Invalid 'input': the model '{model}' has no vocabulary. Expected text instead of token ids.");
                Self::invalid("input", "invalid_type", message)
            }
            GatewayError::Registry(error) => Self::from(error),
            GatewayError::NoDeployment(model) => {
                let message =
                    format!("Invalid header 'x-experiment-arm': the model '{model}' is not a deployment and has no arms.");
                Self::invalid("x-experiment-arm", "unknown_arm", message)
            }
            GatewayError::Deployment(error) => Self::from(error),
            GatewayError::ArmUnavailable { deployment, .. } => {
                let message =
                    format!("No arm of the deployment '{deployment}' can answer at the moment. Please try again later.");
                Self { retry_after: Some(5), ..Self::unavailable("arm_unavailable", message) }
            }
            GatewayError::ContextTooLong { limit, prompt, answer } => {
                let asked = match answer {
                    Some(answer) => {
                        let all = prompt.saturating_add(answer);
                        format!("you requested {all} tokens ({prompt} in the prompt, {answer} in the completion)")
                    }
                    None => format!("your prompt has {prompt} tokens and leaves no room for a completion"),
                };
                let message = format!(
                    "This model's maximum context length is {limit} tokens. However, {asked}. Please shorten the prompt or the completion."
                );
                Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", Some("context_length_exceeded"), message)
            }
            GatewayError::TooManyLogprobs { asked, limit } => {
                let message = format!(
                    "Invalid 'logprobs': with 'echo' this request asks for {asked} log-probabilities of prompt tokens (all prompts, \
                     answers and alternatives); expected at most {limit}. Send fewer or shorter prompts, or lower 'logprobs' or 'n'."
                );
                Self::invalid("logprobs", "value_out_of_range", message)
            }
            GatewayError::EmptyPrompt => {
                let message = "The prompt has no tokens; expected at least one.";
                Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", Some("empty_prompt"), message)
            }
            GatewayError::NoChatTemplate => {
                let message = "The base model has no chat template; /v1/completions takes plain text.";
                Self::invalid("messages", "no_chat_template", message)
            }
            GatewayError::Template(reason) => {
                Self::invalid("messages", "invalid_messages", format!("Invalid 'messages': {reason}."))
            }
            GatewayError::Overloaded => Self {
                retry_after: Some(1),
                ..Self::unavailable("overloaded", "The server has as many requests as it takes. Please try again in a moment.")
            },
            GatewayError::Stopping => {
                Self { retry_after: Some(5), ..Self::unavailable("shutting_down", "The server is shutting down.") }
            }
            GatewayError::OverLimit(refusal) => super::limits::refusal(&refusal),
            GatewayError::Ledger(error) => {
                tracing::error!(%error, "a request is refused: it could not be billed");
                let message =
                    "The server cannot record usage at the moment and therefore answers nothing. Please try again later.";
                Self { retry_after: Some(5), ..Self::unavailable("ledger_unavailable", message) }
            }
            GatewayError::Unable { field, what } => {
                let message = format!("Unsupported: the backend that serves this model cannot give {what} ('{field}').");
                Self::invalid(field, "unsupported_by_backend", message)
            }
            GatewayError::Invalid { field, problem } => {
                Self::invalid(field, "invalid_value", format!("Invalid '{field}': {field} {problem}."))
            }
            GatewayError::Form { field, problem } => {
                Self::invalid(field, "invalid_schema", format!("Invalid '{field}': {problem}."))
            }
            GatewayError::Tokenizer(_) | GatewayError::Engine(_) => Self::internal(&error),
        }
    }
}

impl From<AdminError> for ApiError {
    fn from(error: AdminError) -> Self {
        let message = error.to_string();
        let of = |status, code| Self::new(status, "invalid_request_error", Some(code), message.clone());
        match error {
            AdminError::NotFound { .. } => of(StatusCode::NOT_FOUND, "not_found"),
            AdminError::Invalid { field, .. } => Self::invalid(field, "invalid_value", message),
            AdminError::Refused { code, .. } => of(StatusCode::BAD_REQUEST, code),
            AdminError::Changed => of(StatusCode::CONFLICT, "conflict"),
            AdminError::Outdated { .. } => of(StatusCode::PRECONDITION_FAILED, "precondition_failed"),
            AdminError::KeyReused => of(StatusCode::CONFLICT, "idempotency_key_reused"),
            AdminError::Tenant(TenantError::Store(error)) if error.is_outage() => Self::database_down(&error),
            AdminError::Tenant(error) => Self::internal(&error),
        }
    }
}

impl From<ExperimentError> for ApiError {
    fn from(error: ExperimentError) -> Self {
        let message = error.to_string();
        match error {
            ExperimentError::NotFound { .. } => Self { param: Some("name".to_owned()), ..Self::not_found(message) },
            ExperimentError::Exists { .. } => Self::invalid("name", "deployment_exists", message),
            ExperimentError::Invalid { field, problem } => {
                let message = format!("Invalid '{field}': {problem}.");
                Self::invalid(field, "invalid_value", message)
            }
            ExperimentError::Model { field, source } => {
                let message = format!("Invalid '{field}': {source}");
                let cause = Self::from(source);
                // A model that is not there is a mistake in this request, not a missing page.
                let status = if cause.status == StatusCode::NOT_FOUND { StatusCode::BAD_REQUEST } else { cause.status };
                let message = if status.is_server_error() { cause.message.clone() } else { message };
                Self { status, param: Some(field), message, ..cause }
            }
            ExperimentError::UnknownArm { .. } => Self::invalid("x-experiment-arm", "unknown_arm", message),
            ExperimentError::NothingBefore { .. } => Self::invalid("to_revision", "nothing_before", message),
            ExperimentError::NoRevision { .. } => Self::invalid("to_revision", "unknown_revision", message),
            ExperimentError::VersionGone { .. } => Self::invalid("to_revision", "version_gone", message),
            ExperimentError::Admin(error) => Self::from(error),
            ExperimentError::Store(error) => Self::from(AdminError::from(error)),
            ExperimentError::Damaged { .. } | ExperimentError::DamagedRollout { .. } | ExperimentError::Interrupted => {
                Self::internal(&error)
            }
        }
    }
}

impl From<JobsError> for ApiError {
    fn from(error: JobsError) -> Self {
        let message = error.to_string();
        match error {
            JobsError::NotFound { .. } => Self { param: Some("id".to_owned()), ..Self::not_found(message) },
            JobsError::Invalid { field, .. } => Self::invalid(field, "invalid_value", message),
            JobsError::Refused { code, .. } => Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", Some(code), message),
            JobsError::TooLarge { limit } => Self::body_too_large(usize::try_from(limit).unwrap_or(usize::MAX)),
            JobsError::OutOfRoom { .. } => {
                Self::new(StatusCode::FORBIDDEN, "invalid_request_error", Some("storage_limit_exceeded"), message)
            }
            JobsError::DiskFull => {
                tracing::error!("a file is refused: the disk is full");
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "server_error", Some("storage_full"), message)
            }
            JobsError::TooManyUploads => {
                let message = "As many uploads as this server takes are under way. Please try again in a moment.";
                Self { retry_after: Some(10), ..Self::unavailable("overloaded", message) }
            }
            JobsError::Elsewhere { .. } => Self::unavailable("content_elsewhere", message),
            JobsError::Store(error) if error.is_outage() => Self::database_down(&error),
            JobsError::Store(error) => Self::internal(&error),
        }
    }
}

impl From<TokenError> for ApiError {
    fn from(error: TokenError) -> Self {
        let code = match &error {
            TokenError::Malformed(_) => "token_malformed",
            TokenError::AlgorithmNotAllowed => "token_algorithm_not_allowed",
            TokenError::UnknownKey => "token_key_unknown",
            TokenError::BadSignature => "token_signature_invalid",
            TokenError::Expired => "token_expired",
            TokenError::NotYetValid => "token_not_yet_valid",
            TokenError::WrongIssuer => "token_issuer_invalid",
            TokenError::WrongAudience => "token_audience_invalid",
            TokenError::MissingClaim(_) => "token_claim_missing",
            TokenError::InvalidClaim { .. } => "token_claim_invalid",
            TokenError::UnknownTenant => "token_tenant_unknown",
            TokenError::KeysUnavailable => {
                return Self { retry_after: Some(10), ..Self::unavailable("token_keys_unavailable", error.to_string()) };
            }
        };
        Self { code: Some(code), ..Self::unauthorized(error.to_string()) }
    }
}

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> Self {
        let message = error.to_string();
        match error {
            RegistryError::InvalidName { .. } => Self::invalid("lora_name", "invalid_value", message),
            RegistryError::InvalidExpected { .. } => Self::invalid("expected_version", "invalid_value", message),
            RegistryError::AlreadyLoaded { .. } => Self::invalid("lora_name", "already_loaded", message),
            RegistryError::PathRefused { .. } => Self::invalid("lora_path", "path_refused", message),
            RegistryError::Unusable(_) => Self::invalid("lora_path", "unusable_adapter", message),
            RegistryError::NotFound { .. } | RegistryError::Unavailable { .. } => {
                let error = Self::new(StatusCode::NOT_FOUND, "invalid_request_error", Some("model_not_found"), message);
                Self { param: Some("model".to_owned()), ..error }
            }
            RegistryError::NotReleased { .. } => Self::invalid("model", "gate_not_passed", message),
            RegistryError::TooManyUploads => {
                let message = "As many uploads as this server takes are under way. Please try again in a moment.";
                Self { retry_after: Some(10), ..Self::unavailable("overloaded", message) }
            }
            RegistryError::PathNotFound { .. } => {
                let error = Self::new(StatusCode::NOT_FOUND, "invalid_request_error", Some("path_not_found"), message);
                Self { param: Some("lora_path".to_owned()), ..error }
            }
            RegistryError::Conflict { .. } => {
                let error = Self::new(StatusCode::CONFLICT, "invalid_request_error", Some("version_conflict"), message);
                Self { param: Some("expected_version".to_owned()), ..error }
            }
            RegistryError::Root { .. }
            | RegistryError::Prepare(_)
            | RegistryError::Lost { .. }
            | RegistryError::Storage(_)
            | RegistryError::KeptTogether
            | RegistryError::Interrupted => Self::internal(&error),
        }
    }
}
