//! What the claims of a verified token say about its bearer. Pure functions of (claims, settings, now).

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{AdminTokens, Settings, TokenError};
use crate::tenants::{CacheConsent, ModelAccess, Principal, Priority, Reach, Scope, Scopes};

/// Longest subject and tenant, bytes: both come back in records and logs.
const MAX_NAME: usize = 256;
/// Most models in a token.
const MAX_MODELS: usize = 1000;

/// Claims by name.
pub(super) type Claims = Map<String, Value>;

/// The bearer, and the second since 1970 at which the token ends.
pub(super) fn principal(claims: &Claims, settings: &Settings, now: u64) -> Result<(Principal, u64), TokenError> {
    let until = lifetime(claims, settings, now)?;
    let tenant = name(claims, &settings.tenant_claim)?.ok_or_else(|| TokenError::MissingClaim(settings.tenant_claim.clone()))?;
    let subject = name(claims, "sub")?;
    let key_id = match subject {
        Some(subject) => format!("jwt:{subject}"),
        None => "jwt".to_owned(),
    };
    let scopes = scopes(claims, settings)?;
    let principal = Principal {
        key_id: key_id.into(),
        tenant: tenant.into(),
        // Only organization keys are admins among keys; a token that is let be one is of the organization, too.
        reach: if scopes.allow(Scope::Admin) { Reach::Organization } else { Reach::Tenant },
        scopes,
        models: models(claims, settings)?,
        end_user: subject.map(Arc::from),
        priority: Priority::Standard,
        cached: CacheConsent::PerRequest,
    };
    Ok((principal, until))
}

/// The last second at which the token is good, with leeway; an error outside of its time.
fn lifetime(claims: &Claims, settings: &Settings, now: u64) -> Result<u64, TokenError> {
    let leeway = settings.leeway.as_secs();
    let until = seconds(claims, "exp")?.ok_or_else(|| TokenError::MissingClaim("exp".to_owned()))?.saturating_add(leeway);
    if now >= until {
        return Err(TokenError::Expired);
    }
    if seconds(claims, "nbf")?.is_some_and(|from| now.saturating_add(leeway) < from) {
        return Err(TokenError::NotYetValid);
    }
    Ok(until)
}

fn seconds(claims: &Claims, claim: &str) -> Result<Option<u64>, TokenError> {
    let invalid = || TokenError::InvalidClaim { claim: claim.to_owned(), expected: "a number of seconds since 1970" };
    match claims.get(claim) {
        None | Some(Value::Null) => Ok(None),
        // Fractions are allowed (RFC 7519, NumericDate). The cast is exact enough, and saturates.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be a number >= 0")]
        Some(value) => match (value.as_u64(), value.as_f64()) {
            (Some(seconds), _) => Ok(Some(seconds)),
            (None, Some(seconds)) if seconds >= 0.0 => Ok(Some(seconds as u64)),
            _ => Err(invalid()),
        },
    }
}

/// A text that can stand in a record and in a line of a log.
fn name<'claims>(claims: &'claims Claims, claim: &str) -> Result<Option<&'claims str>, TokenError> {
    match claims.get(claim) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) if text.len() <= MAX_NAME && !text.chars().any(char::is_control) => Ok(Some(text)),
        Some(_) => Err(TokenError::InvalidClaim {
            claim: claim.to_owned(),
            expected: "a text of at most 256 bytes without control characters",
        }),
    }
}

/// Scopes of ours among those of the token; others are for other services. A token that says nothing of scopes may generate.
fn scopes(claims: &Claims, settings: &Settings) -> Result<Scopes, TokenError> {
    let invalid = || TokenError::InvalidClaim {
        claim: settings.scope_claim.clone(),
        expected: "a text of scopes with spaces between them, or an array of texts",
    };
    let known = |text: &str| {
        let scope = text.parse::<Scope>().ok()?;
        (scope != Scope::Admin || settings.admin == AdminTokens::Accepted).then_some(scope)
    };
    match claims.get(&settings.scope_claim) {
        None | Some(Value::Null) => Ok([Scope::Inference].into_iter().collect()),
        Some(Value::String(text)) => Ok(text.split_ascii_whitespace().filter_map(known).collect()),
        Some(Value::Array(texts)) => {
            let texts = texts.iter().map(|text| text.as_str().ok_or_else(invalid));
            texts.filter_map(|text| text.map(known).transpose()).collect()
        }
        Some(_) => Err(invalid()),
    }
}

fn models(claims: &Claims, settings: &Settings) -> Result<ModelAccess, TokenError> {
    let invalid = || TokenError::InvalidClaim {
        claim: settings.models_claim.clone(),
        expected: "an array of at most 1000 names of models",
    };
    match claims.get(&settings.models_claim) {
        None | Some(Value::Null) => Ok(ModelAccess::All),
        Some(Value::Array(names)) if names.len() <= MAX_MODELS => {
            let names = names.iter().map(|name| name.as_str().map(str::to_owned).ok_or_else(invalid));
            Ok(ModelAccess::Only(names.collect::<Result<_, _>>()?))
        }
        Some(_) => Err(invalid()),
    }
}
