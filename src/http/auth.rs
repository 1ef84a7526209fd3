//! Who is calling: from the `Authorization` header to a principal, and no further without one.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Server;
use super::error::ApiError;
use crate::tenants::Principal;
use crate::tenants::jwt::{Now, looks_like_token};

/// Lets holders of any key pass.
pub async fn require_key(State(server): State<Server>, request: Request, next: Next) -> Response {
    match authenticate(&server, request.headers()).await {
        Ok(principal) => pass(principal, request, next).await,
        Err(error) => error.into_response(),
    }
}

/// Lets holders of an admin key pass.
pub async fn require_admin(State(server): State<Server>, request: Request, next: Next) -> Response {
    match authenticate(&server, request.headers()).await.and_then(admin) {
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

fn admin(principal: Arc<Principal>) -> Result<Arc<Principal>, ApiError> {
    if principal.is_admin() { Ok(principal) } else { Err(ApiError::unauthorized("This needs an admin key.")) }
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
    let incorrect = || ApiError::unauthorized(format!("Incorrect API key provided: {}.", masked(key)));
    server.keys().authenticate(key).map(Arc::new).ok_or_else(incorrect)
}

/// The scheme's name is not case sensitive (RFC 9110).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, key) = value.split_once(' ')?;
    let key = key.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !key.is_empty()).then_some(key)
}

/// Enough of a key to recognise one's own, too little to use.
fn masked(key: &str) -> String {
    let count = key.chars().count();
    if count < 16 {
        return "*".repeat(count.min(8));
    }
    let first: String = key.chars().take(6).collect();
    let last: String = key.chars().skip(count - 4).collect();
    format!("{first}***{last}")
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

    #[test]
    fn a_wrong_key_is_never_repeated_whole() {
        assert_eq!(masked("short"), "*****");
        assert_eq!(masked("sk-sy-0123456789abcdef"), "sk-sy-***cdef");
        assert!(!masked("ключ-ключ-ключ-ключ").contains("ключ-ключ-ключ"));
    }
}
