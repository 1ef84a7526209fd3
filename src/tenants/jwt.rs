//! JSON Web Tokens: from a bearer token to a principal. Which algorithms are allowed is configured, and a key verifies only
//! what its type is for; `none` is no algorithm. Knows nothing of headers and statuses.
//!
//! Texts of errors are for the bearer and repeat nothing of the token.

mod claims;
mod crypto;
mod keys;
mod source;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use moka::sync::Cache;
use serde::Deserialize;
use serde::de::IgnoredAny;
use sha2::{Digest, Sha256};

use claims::Claims;
use keys::NoKey;
use source::KeySource;
pub use source::KeysFrom;

use super::{Principal, TenantError};

/// Longest token that is looked at, bytes.
const MAX_TOKEN: usize = 16 * 1024;
/// Verified tokens that are remembered: 100 µs of elliptic curves each, about 1 KB.
const REMEMBERED: u64 = 16_384;
/// A secret shorter than the hash is easier to guess than the hash (RFC 7518, section 3.2).
pub const MIN_SECRET: usize = 32;

/// An algorithm that tokens may be signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenAlgorithm {
    /// HMAC with SHA-256 and the secret.
    Hs256,
    /// RSA (PKCS #1 v1.5) with SHA-256.
    Rs256,
    /// RSA with SHA-384.
    Rs384,
    /// RSA with SHA-512.
    Rs512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl TokenAlgorithm {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Hs256, Self::Rs256, Self::Rs384, Self::Rs512, Self::Es256, Self::EdDsa];
    /// Those of public keys.
    pub const PUBLIC: [Self; 5] = [Self::Rs256, Self::Rs384, Self::Rs512, Self::Es256, Self::EdDsa];

    /// The name in tokens and in settings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    const fn theirs(self) -> Algorithm {
        match self {
            Self::Hs256 => Algorithm::HS256,
            Self::Rs256 => Algorithm::RS256,
            Self::Rs384 => Algorithm::RS384,
            Self::Rs512 => Algorithm::RS512,
            Self::Es256 => Algorithm::ES256,
            Self::EdDsa => Algorithm::EdDSA,
        }
    }
}

impl FromStr for TokenAlgorithm {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == text).ok_or(())
    }
}

/// Whether a token can carry the scope `admin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AdminTokens {
    /// The scope is not seen.
    #[default]
    Refused,
    /// It is, like the others.
    Accepted,
}

/// How tokens are verified.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// What `iss` must be.
    pub issuer: String,
    /// What `aud` must have one of.
    pub audiences: Vec<String>,
    /// Algorithms that are accepted.
    pub algorithms: Vec<TokenAlgorithm>,
    /// Where the public keys are.
    pub keys: Option<KeysFrom>,
    /// The secret of HS256, at least [`MIN_SECRET`] bytes.
    pub secret: Option<Vec<u8>>,
    /// How far clocks may be apart.
    pub leeway: Duration,
    /// How often an address is asked for its keys.
    pub refresh: Duration,
    /// Claim with the tenant.
    pub tenant_claim: String,
    /// Claim with the scopes.
    pub scope_claim: String,
    /// Claim with the models that may be used.
    pub models_claim: String,
    /// Whether tokens can make admins.
    pub admin: AdminTokens,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("issuer", &self.issuer).field("keys", &self.keys).finish_non_exhaustive()
    }
}

/// Why a token is refused. The texts are for its bearer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token, or one with parts that are not understood.
    #[error("The token is malformed: {0}.")]
    Malformed(&'static str),
    /// Signed in a way that is not accepted, or not by the kind of key that it names.
    #[error("The token's algorithm is not allowed, or it is not an algorithm of the key that the token names.")]
    AlgorithmNotAllowed,
    /// The issuer has no such key.
    #[error("The token is signed with a key that its issuer does not have.")]
    UnknownKey,
    /// The issuer's keys could not be had.
    #[error("The keys that verify tokens are out of reach at the moment.")]
    KeysUnavailable,
    /// The signature is not of that key and content.
    #[error("The token's signature is wrong.")]
    BadSignature,
    /// Its time is over.
    #[error("The token has expired.")]
    Expired,
    /// Its time has not come.
    #[error("The token is not valid yet.")]
    NotYetValid,
    /// Issued by somebody else.
    #[error("The token is from another issuer.")]
    WrongIssuer,
    /// For somebody else.
    #[error("The token is for another audience.")]
    WrongAudience,
    /// A claim is not there.
    #[error("The token has no claim '{0}'.")]
    MissingClaim(String),
    /// A claim is not what it should be.
    #[error("The token's claim '{claim}' cannot be used: {expected} is right.")]
    InvalidClaim {
        /// Its name.
        claim: String,
        /// What would be right.
        expected: &'static str,
    },
    /// There is no such tenant, or not any more.
    #[error("The token's tenant does not exist or is archived.")]
    UnknownTenant,
}

/// Which tenants may call. Asked for every request, so that an archived tenant is out at once.
pub trait ActiveTenants: Send + Sync {
    /// Whether there is such a tenant and it is not archived.
    fn is_active(&self, tenant: &str) -> bool;
}

impl<F: Fn(&str) -> bool + Send + Sync> ActiveTenants for F {
    fn is_active(&self, tenant: &str) -> bool {
        self(tenant)
    }
}

/// A moment, on the calendar and on the clock that is never set back.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Seconds since 1970.
    pub unix: u64,
    /// The steady clock.
    pub steady: Instant,
}

impl Now {
    /// Asks the machine.
    pub fn read() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { unix, steady: Instant::now() }
    }
}

/// Verifies tokens.
pub struct TokenVerifier {
    settings: Settings,
    validations: Vec<(TokenAlgorithm, Validation)>,
    secret: Option<DecodingKey>,
    source: Option<Arc<KeySource>>,
    tenants: Arc<dyn ActiveTenants>,
    verified: Cache<[u8; 32], Verified>,
}

/// A token that was good, by its SHA-256.
#[derive(Clone)]
struct Verified {
    principal: Arc<Principal>,
    until: u64,
    /// The change of the keys that it was verified with: a key that is withdrawn ends its tokens.
    generation: u64,
}

/// The part of a token's header that matters here.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
}

impl TokenVerifier {
    /// Reads the keys for the first time; a file that cannot be read is an error, an address that does not answer is not.
    pub async fn start(settings: Settings, tenants: Arc<dyn ActiveTenants>) -> Result<Self, TenantError> {
        crypto::install();
        let source = match &settings.keys {
            Some(from) => Some(KeySource::start(from, settings.refresh).await.map_err(TenantError::TokenKeys)?),
            None => None,
        };
        let validation = |algorithm: &TokenAlgorithm| {
            let mut validation = Validation::new(algorithm.theirs());
            validation.set_issuer(&[&settings.issuer]);
            validation.set_audience(&settings.audiences);
            // `exp` is checked with the other times: the crate's clock is the machine's, ours is an argument.
            validation.set_required_spec_claims(&["iss", "aud"]);
            validation.validate_exp = false;
            (*algorithm, validation)
        };
        Ok(Self {
            validations: settings.algorithms.iter().map(validation).collect(),
            secret: settings.secret.as_deref().map(DecodingKey::from_secret),
            source,
            tenants,
            verified: Cache::builder().max_capacity(REMEMBERED).time_to_live(Duration::from_secs(3600)).build(),
            settings,
        })
    }

    /// Who bears the token.
    pub async fn verify(&self, token: &str, now: Now) -> Result<Arc<Principal>, TokenError> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let generation = self.generation(now);
        if let Some(known) = self.verified.get(&digest)
            && known.generation == generation
            && now.unix < known.until
        {
            return self.admit(known.principal);
        }
        let (claims, generation) = self.signed_claims(token, now).await?;
        let (principal, until) = claims::principal(&claims, &self.settings, now.unix)?;
        let principal = self.admit(Arc::new(principal))?;
        self.verified.insert(digest, Verified { principal: Arc::clone(&principal), until, generation });
        Ok(principal)
    }

    fn admit(&self, principal: Arc<Principal>) -> Result<Arc<Principal>, TokenError> {
        if self.tenants.is_active(&principal.tenant) { Ok(principal) } else { Err(TokenError::UnknownTenant) }
    }

    /// Changes when the keys do; 0 where there are none.
    fn generation(&self, now: Now) -> u64 {
        let keys = self.source.as_ref().and_then(|source| source.keys(now.steady));
        keys.map_or(0, |(_, generation)| generation)
    }

    /// The claims of a token whose signature, issuer and audience are right, and the generation of the keys that say so.
    async fn signed_claims(&self, token: &str, now: Now) -> Result<(Claims, u64), TokenError> {
        let header = header(token)?;
        let (algorithm, validation) = header
            .alg
            .parse()
            .ok()
            .and_then(|algorithm: TokenAlgorithm| self.validations.iter().find(|(allowed, _)| *allowed == algorithm))
            .ok_or(TokenError::AlgorithmNotAllowed)?;
        if *algorithm == TokenAlgorithm::Hs256 {
            let secret = self.secret.as_ref().ok_or(TokenError::AlgorithmNotAllowed)?;
            return Ok((decode(token, secret, validation)?, self.generation(now)));
        }
        let source = self.source.as_ref().ok_or(TokenError::AlgorithmNotAllowed)?;
        let kid = header.kid.as_deref();
        let missing = |set: &keys::KeySet| matches!(set.find(kid, *algorithm), Err(NoKey::Unknown));
        let mut keys = source.keys(now.steady);
        if keys.as_ref().is_none_or(|(set, _)| missing(set)) {
            source.ask_again(now.steady).await;
            keys = source.keys(now.steady);
        }
        let (set, generation) = keys.ok_or(TokenError::KeysUnavailable)?;
        let key = set.find(kid, *algorithm).map_err(|reason| match reason {
            NoKey::Unknown => TokenError::UnknownKey,
            NoKey::OtherAlgorithm => TokenError::AlgorithmNotAllowed,
            NoKey::Unnamed => TokenError::Malformed("it does not name its key (kid), and its issuer has several"),
        })?;
        Ok((decode(token, key, validation)?, generation))
    }
}

impl fmt::Debug for TokenVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenVerifier").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Whether a bearer credential has the shape of a token: three parts with dots between them.
pub fn looks_like_token(credential: &str) -> bool {
    credential.split('.').count() == 3
}

fn header(token: &str) -> Result<Header, TokenError> {
    if token.len() > MAX_TOKEN {
        return Err(TokenError::Malformed("it is longer than 16 KiB"));
    }
    if !looks_like_token(token) {
        return Err(TokenError::Malformed("three parts with dots between them are right"));
    }
    let (header, _) = token.split_once('.').unwrap_or_default();
    let bytes = URL_SAFE_NO_PAD.decode(header).map_err(|_| TokenError::Malformed("its header is not base64url"))?;
    let header: Header = serde_json::from_slice(&bytes)
        .map_err(|_| TokenError::Malformed("its header is not a JSON object with an algorithm (alg)"))?;
    if header.crit.is_some() {
        // RFC 7515, section 4.1.11: whoever does not understand them must refuse.
        return Err(TokenError::Malformed("its header has critical extensions (crit), and none are understood"));
    }
    Ok(header)
}

fn decode(token: &str, key: &DecodingKey, validation: &Validation) -> Result<Claims, TokenError> {
    let decoded = jsonwebtoken::decode::<Claims>(token, key, validation).map_err(|error| match error.into_kind() {
        ErrorKind::InvalidSignature => TokenError::BadSignature,
        ErrorKind::InvalidIssuer => TokenError::WrongIssuer,
        ErrorKind::InvalidAudience => TokenError::WrongAudience,
        ErrorKind::MissingRequiredClaim(claim) => TokenError::MissingClaim(claim),
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm | ErrorKind::InvalidKeyFormat => {
            TokenError::AlgorithmNotAllowed
        }
        _ => TokenError::Malformed("three parts of base64url with JSON inside are right"),
    })?;
    Ok(decoded.claims)
}
