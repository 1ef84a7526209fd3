//! A set of public keys (RFC 7517) and which of them may verify a token. A key is bound to the algorithms of its type, so that
//! a token cannot choose another use for it. Knows nothing of where sets come from.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{DecodingKey, DecodingKeyKind};
use serde::Deserialize;
use serde_json::Value;

use super::TokenAlgorithm;

/// Bits of RSA moduli that are taken, as bytes. RFC 7518 asks for 2048 at least.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;
/// An uncompressed point on P-256: 0x04, x, y.
const P256_BYTES: usize = 65;
const ED25519_BYTES: usize = 32;

/// The keys of an issuer that can be used here.
#[derive(Debug, Default)]
pub(super) struct KeySet {
    keys: Vec<Key>,
    /// Keys that cannot be used here, and why.
    pub(super) skipped: Vec<String>,
}

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithms: Vec<TokenAlgorithm>,
    key: DecodingKey,
}

/// Why no key verifies a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoKey {
    /// The set has no key of that id, or none that fits a token without an id.
    Unknown,
    /// The key of that id is for other algorithms.
    OtherAlgorithm,
    /// The token names no key and several would fit.
    Unnamed,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

impl KeySet {
    /// Reads a set. Keys that cannot be used are left out: issuers may have others for other purposes.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let set: Set = serde_json::from_slice(bytes).map_err(|error| format!("it is no JSON Web Key Set: {error}"))?;
        let mut found = Self::default();
        for (index, value) in set.keys.into_iter().enumerate() {
            let name = value.get("kid").and_then(Value::as_str).map_or_else(|| format!("number {index}"), |id| format!("{id:?}"));
            match key(value) {
                Ok(key) => found.keys.push(key),
                Err(reason) => found.skipped.push(format!("key {name}: {reason}")),
            }
        }
        Ok(found)
    }

    /// The key that verifies tokens of this id and algorithm.
    pub(super) fn find(&self, id: Option<&str>, algorithm: TokenAlgorithm) -> Result<&DecodingKey, NoKey> {
        let fits = |key: &&Key| key.algorithms.contains(&algorithm);
        let Some(id) = id else {
            let mut fitting = self.keys.iter().filter(fits);
            let first = fitting.next().ok_or(NoKey::Unknown)?;
            return if fitting.next().is_none() { Ok(&first.key) } else { Err(NoKey::Unnamed) };
        };
        // Ids may repeat among keys of different types (RFC 7517, section 4.5).
        let mut named = self.keys.iter().filter(|key| key.id.as_deref() == Some(id)).peekable();
        if named.peek().is_none() {
            return Err(NoKey::Unknown);
        }
        named.find(fits).map(|key| &key.key).ok_or(NoKey::OtherAlgorithm)
    }
}

fn key(value: Value) -> Result<Key, String> {
    let jwk: Jwk = serde_json::from_value(value).map_err(|error| error.to_string())?;
    if jwk.common.public_key_use.as_ref().is_some_and(|usage| *usage != PublicKeyUse::Signature)
        || jwk.common.key_operations.as_ref().is_some_and(|allowed| !allowed.contains(&KeyOperations::Verify))
    {
        return Err("it is not for signatures".to_owned());
    }
    let mut algorithms = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => vec![TokenAlgorithm::Rs256, TokenAlgorithm::Rs384, TokenAlgorithm::Rs512],
        AlgorithmParameters::EllipticCurve(point) if point.curve == EllipticCurve::P256 => vec![TokenAlgorithm::Es256],
        AlgorithmParameters::OctetKeyPair(point) if point.curve == EllipticCurve::Ed25519 => vec![TokenAlgorithm::EdDsa],
        AlgorithmParameters::OctetKey(_) => {
            return Err("secrets are not taken from key sets (SWITCHYARD_JWT_SECRET is the place)".to_owned());
        }
        _ => return Err("RSA, P-256 and Ed25519 keys are supported".to_owned()),
    };
    if let Some(only) = jwk.common.key_algorithm {
        algorithms.retain(|algorithm| algorithm.name() == only.to_string());
        if algorithms.is_empty() {
            return Err(format!("its algorithm {only} is not supported or does not fit its type"));
        }
    }
    let key = DecodingKey::from_jwk(&jwk).map_err(|error| error.to_string())?;
    let key = match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, e } => {
            // ring wants numbers without leading zeros; some issuers write one before the modulus.
            let (n, e) = (without_zeros(n), without_zeros(e));
            if !RSA_BYTES.contains(&n.len()) {
                return Err("RSA keys of 2048 to 8192 bits are right".to_owned());
            }
            DecodingKey::from_rsa_raw_components(n, e)
        }
        DecodingKeyKind::SecretOrDer(point) => {
            let right = if algorithms.contains(&TokenAlgorithm::Es256) { P256_BYTES } else { ED25519_BYTES };
            if point.len() != right {
                return Err("its coordinates have the wrong length".to_owned());
            }
            key
        }
    };
    Ok(Key { id: jwk.common.key_id, algorithms, key })
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}
