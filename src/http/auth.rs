//! Who is calling: from the `Authorization` header to a principal, and no further without one.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Server;
use super::error::ApiError;
use crate::gateway::Stage;
use crate::tenants::jwt::{Now, looks_like_token};
use crate::tenants::{AuthError, Principal, Reach, Scope, redacted};

/// Lets callers pass who may do what the route asks for.
pub async fn require(State((server, scope)): State<(Server, Scope)>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let authenticated = authenticate(&server, request.headers()).await;
    server.gateway().metrics().stage(Stage::Auth, began.elapsed());
    match authenticated.and_then(|principal| allowed(principal, scope)) {
        Ok(principal) => pass(principal, request, next).await,
        Err(error) => error.into_response(),
    }
}

/// Handlers find the principal in the request, the log line in the response.
async fn pass(principal: Arc<Principal>, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(Arc::clone(&principal));
    let mut response = next.run(request).await;
    response.extensions_mut().insert(principal);
    response
}

/// Looking is allowed to those who may change or use what is looked at, so that `read_only` asks for no more than any scope.
fn allowed(principal: Arc<Principal>, scope: Scope) -> Result<Arc<Principal>, ApiError> {
    let looks = scope == Scope::ReadOnly && !principal.scopes.is_empty();
    if looks || principal.scopes.allow(scope) { Ok(principal) } else { Err(ApiError::missing_scope(scope)) }
}

/// Files and jobs are shown to whoever may make them, or look at everything of their tenant: a key that only generates may not read
/// what others train on.
pub fn may_look_at_training(caller: &Principal) -> Result<(), ApiError> {
    let may = caller.scopes.allow(Scope::FineTuning) || caller.scopes.allow(Scope::ReadOnly);
    if may { Ok(()) } else { Err(ApiError::missing_scope(Scope::FineTuning)) }
}

/// Whether a request carries a key that may look at all tenants; one without any key may not, a wrong key is an error.
pub async fn looks_at_everything(server: &Server, headers: &HeaderMap) -> Result<bool, ApiError> {
    if !headers.contains_key(header::AUTHORIZATION) {
        return Ok(false);
    }
    let caller = authenticate(server, headers).await?;
    Ok(caller.reach == Reach::Organization && caller.scopes.allow(Scope::ReadOnly))
}

async fn authenticate(server: &Server, headers: &HeaderMap) -> Result<Arc<Principal>, ApiError> {
    let missing = "You didn't provide an API key. Send it in the header 'Authorization: Bearer YOUR_KEY'.";
    let value = headers.get(header::AUTHORIZATION).ok_or_else(|| ApiError::unauthorized(missing))?;
    let key = value.to_str().ok().and_then(bearer).ok_or_else(|| ApiError::unauthorized(missing))?;
    if let Some(tokens) = server.tokens()
        && looks_like_token(key)
    {
        return Ok(tokens.verify(key, Now::read()).await?);
    }
    server.tenants().authenticate(key).await.map_err(|error| match error {
        AuthError::Unknown => ApiError::unauthorized(format!("Incorrect API key provided: {}.", redacted(key))),
        AuthError::Expired => ApiError::unauthorized("This API key has expired.").with_code("expired_api_key"),
        AuthError::Archived => ApiError::unauthorized("The project of this API key is archived.").with_code("project_archived"),
        AuthError::Store(error) => ApiError::database_down(&error),
    })
}

/// The scheme's name is not case sensitive (RFC 9110).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, key) = value.split_once(' ')?;
    let key = key.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !key.is_empty()).then_some(key)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;

    #[test]
    fn bearer_keys_are_found_whatever_the_case_of_the_scheme() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer  abc "), Some("abc"));
        for wrong in ["abc", "Basic abc", "Bearer ", "Bearer"] {
            assert_eq!(bearer(wrong), None, "{wrong}");
        }
    }
}
