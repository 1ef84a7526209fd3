//! What all changes have in common: who, the body, `If-Match`, `Idempotency-Key`; and the answer, which is kept for a repetition
//! in the same transaction.

use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::query::Parameters;
use crate::http::Server;
use crate::http::body;
use crate::http::error::ApiError;
use crate::http::fields::Fields;
use crate::http::middleware::RequestId;
use crate::tenants::admin::{AdminError, Begun, Change, Claim, Expected, Intent, KeptAnswer};
use crate::tenants::{Office, Principal, Reach, Scope, sha256_hex};

/// Names a change, so that a repetition of the request does it once.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Says that an answer is the one of an earlier request.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// Longest `Idempotency-Key`.
const MAX_KEY: usize = 255;

/// A request that looks at the organization: only keys of the organization may.
pub struct Looking {
    /// The server.
    pub server: Server,
    /// The query string.
    pub query: Parameters,
}

impl FromRequestParts<Server> for Looking {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, server: &Server) -> Result<Self, ApiError> {
        let caller = caller(parts)?;
        if caller.reach != Reach::Organization || !caller.scopes.allow(Scope::ReadOnly) {
            return Err(ApiError::organization_only());
        }
        Ok(Self { server: server.clone(), query: Parameters::of(parts)? })
    }
}

impl Looking {
    /// Where tenants are.
    pub fn office(&self) -> &Office {
        self.server.tenants().office()
    }

    /// Refuses parameters; for a request without any.
    pub fn without_parameters(self) -> Result<Server, ApiError> {
        self.query.finish()?;
        Ok(self.server)
    }
}

/// A request that changes something.
pub struct Changing {
    /// The server.
    pub server: Server,
    body: Value,
    intent: Intent,
}

impl FromRequest<Server> for Changing {
    type Rejection = ApiError;

    async fn from_request(request: Request, server: &Server) -> Result<Self, ApiError> {
        let ChangingAt { query, changing } = ChangingAt::from_request(request, server).await?;
        query.finish()?;
        Ok(changing)
    }
}

/// A request that changes something, with a query string.
pub struct ChangingAt {
    /// The query string.
    pub query: Parameters,
    /// The rest.
    pub changing: Changing,
}

impl FromRequest<Server> for ChangingAt {
    type Rejection = ApiError;

    async fn from_request(request: Request, server: &Server) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let query = Parameters::of(&parts)?;
        let caller = caller(&parts)?;
        let key = idempotency_key(&parts.headers)?;
        let expected = expected(&parts.headers);
        let body = body::optional(&parts.headers, body, server.config().body_limit).await?;
        let claim = key.map(|key| Claim {
            owner: caller.key_id.to_string(),
            key,
            request_hash: sha256_hex(format!("{} {}\n{body}", parts.method, parts.uri).as_bytes()),
        });
        let request_id = parts.extensions.get::<RequestId>().map(|id| id.text().to_owned());
        let intent = Intent { actor: caller.key_id.to_string(), request_id, expected, claim };
        Ok(Self { query, changing: Changing { server: server.clone(), body, intent } })
    }
}

impl Changing {
    /// The body's fields, and the change to begin once they are understood.
    pub fn fields(self) -> Result<(Fields, Planned), ApiError> {
        let fields = Fields::body(self.body)?;
        Ok((fields, Planned { server: self.server, intent: self.intent }))
    }

    /// The change of a request that has nothing in its body.
    pub fn without_fields(self) -> Result<Planned, ApiError> {
        let (fields, planned) = self.fields()?;
        fields.finish(&[])?;
        Ok(planned)
    }
}

/// A change whose request is understood.
pub struct Planned {
    server: Server,
    intent: Intent,
}

impl Planned {
    /// The server.
    pub const fn server(&self) -> &Server {
        &self.server
    }

    /// For changes that another room makes as a whole.
    pub fn apart(self) -> (Server, Intent) {
        (self.server, self.intent)
    }

    /// Begins the change; a repetition ends here with the answer that was given.
    pub async fn begin(self) -> Result<Box<Change>, Halt> {
        match Change::begin(self.server.tenants(), self.intent).await? {
            Begun::Fresh(change) => Ok(change),
            Begun::Done(kept) => Err(Halt::Replay(kept)),
        }
    }
}

/// Why a handler ends early.
pub enum Halt {
    /// Something is wrong.
    Error(ApiError),
    /// It was done before.
    Replay(KeptAnswer),
}

impl From<ApiError> for Halt {
    fn from(error: ApiError) -> Self {
        Self::Error(error)
    }
}

impl From<AdminError> for Halt {
    fn from(error: AdminError) -> Self {
        Self::Error(error.into())
    }
}

impl IntoResponse for Halt {
    fn into_response(self) -> Response {
        match self {
            Self::Error(error) => error.into_response(),
            Self::Replay(kept) => {
                let mut response = respond(&kept);
                response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
                response
            }
        }
    }
}

/// Commits a change and answers with an object and its version.
pub async fn changed(change: Box<Change>, object: &Value, version: i64) -> Result<Response, Halt> {
    finish(change, object, json!({"etag": etag(version)})).await
}

/// Commits a change and answers with what has no version: a list, a removal.
pub async fn done(change: Box<Change>, object: &Value) -> Result<Response, Halt> {
    finish(change, object, json!({})).await
}

/// The answer to a change that another room makes as a whole.
pub fn kept(object: &Value, version: Option<i64>) -> KeptAnswer {
    let headers = version.map_or_else(|| json!({}), |version| json!({"etag": etag(version)}));
    KeptAnswer { headers: headers.to_string(), body: object.to_string() }
}

/// The response of an answer.
pub fn answered(answer: &KeptAnswer) -> Response {
    respond(answer)
}

async fn finish(change: Box<Change>, object: &Value, headers: Value) -> Result<Response, Halt> {
    let answer = KeptAnswer { headers: headers.to_string(), body: object.to_string() };
    change.commit(&answer).await?;
    Ok(respond(&answer))
}

/// An object that was looked up, with its version as `ETag`.
pub fn found(object: &Value, version: i64) -> Response {
    respond(&KeptAnswer { headers: json!({"etag": etag(version)}).to_string(), body: object.to_string() })
}

fn respond(answer: &KeptAnswer) -> Response {
    let mut response = (StatusCode::OK, answer.body.clone()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // Some answers show a secret.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let kept: Map<String, Value> = serde_json::from_str(&answer.headers).unwrap_or_default();
    for (name, value) in &kept {
        let pair = (HeaderName::try_from(name.as_str()), value.as_str().map(HeaderValue::try_from));
        if let (Ok(name), Some(Ok(value))) = pair {
            headers.insert(name, value);
        }
    }
    response
}

fn etag(version: i64) -> String {
    format!("\"{version}\"")
}

/// The principal that the route's guard has found.
pub(super) fn caller(parts: &Parts) -> Result<Arc<Principal>, ApiError> {
    let missing = || ApiError::internal(&"a route of the admin API has no guard");
    parts.extensions.get::<Arc<Principal>>().cloned().ok_or_else(missing)
}

/// Names a request, so that a repetition of it does nothing new.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let key = value.to_str().ok().filter(|key| (1..=MAX_KEY).contains(&key.len()));
    let message = format!("Invalid 'Idempotency-Key': 1 to {MAX_KEY} visible ASCII characters are right.");
    key.map(|key| Some(key.to_owned())).ok_or_else(|| ApiError::invalid("Idempotency-Key", "invalid_value", message))
}

/// What is not an entity tag of ours matches nothing, weak ones too (RFC 9110, 13.1.1).
pub(super) fn expected(headers: &HeaderMap) -> Expected {
    let mut values = headers.get_all(header::IF_MATCH).iter().peekable();
    if values.peek().is_none() {
        return Expected::Anything;
    }
    let tags: Vec<&str> =
        values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim).collect();
    if tags == ["*"] {
        return Expected::Present;
    }
    let version = |tag: &&str| tag.strip_prefix('"')?.strip_suffix('"')?.parse().ok();
    Expected::Versions(tags.iter().filter_map(version).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn if_match_is_read_as_the_standard_says() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::IF_MATCH, HeaderValue::from_static(value));
            }
            expected(&headers)
        };
        assert_eq!(of(&[]), Expected::Anything);
        assert_eq!(of(&["*"]), Expected::Present);
        assert_eq!(of(&["\"3\""]), Expected::Versions(vec![3]));
        assert_eq!(of(&["\"3\", \"4\"", "\"5\""]), Expected::Versions(vec![3, 4, 5]));
        assert_eq!(of(&["W/\"3\""]), Expected::Versions(vec![]));
        assert_eq!(of(&["nonsense"]), Expected::Versions(vec![]));
    }
}
