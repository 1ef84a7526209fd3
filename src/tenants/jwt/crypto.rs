//! The cryptography of `jsonwebtoken`, on `ring`: the binary has one crypto library. Verifies only; nothing here signs.

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind};
use ring::hmac;
use ring::signature::{self as ring_signature, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey};
use signature::Verifier;

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
    verifier_factory: verifier,
    key_utils: KeyUtils {
        rsa_pub_components_from_private_key: |_| Err(ErrorKind::UnsupportedAlgorithm.into()),
        rsa_pub_components_from_public_key: |_| Err(ErrorKind::UnsupportedAlgorithm.into()),
        ec_pub_components_from_private_key: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
        ed_pub_components_from_private_key: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
        compute_digest: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
    },
};

/// Makes `jsonwebtoken` verify with `ring`. Again is as good as once.
pub(super) fn install() {
    // The error is the provider that is there already, and nobody else installs one.
    let _ = PROVIDER.install_default();
}

/// How a key's bytes are used. Chosen from the key's kind and the algorithm together, so that a public key's bytes can never
/// become an HMAC secret.
enum Check {
    Hmac(hmac::Key),
    Rsa(&'static RsaParameters, RsaPublicKeyComponents<Vec<u8>>),
    Other(UnparsedPublicKey<Vec<u8>>),
}

struct RingVerifier {
    algorithm: Algorithm,
    check: Check,
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    let check = match (algorithm, key.family(), key.kind()) {
        (Algorithm::HS256, AlgorithmFamily::Hmac, DecodingKeyKind::SecretOrDer(secret)) => {
            Check::Hmac(hmac::Key::new(hmac::HMAC_SHA256, secret))
        }
        (Algorithm::RS256 | Algorithm::RS384 | Algorithm::RS512, AlgorithmFamily::Rsa, kind) => {
            let DecodingKeyKind::RsaModulusExponent { n, e } = kind else { return Err(ErrorKind::InvalidKeyFormat.into()) };
            let parameters = match algorithm {
                Algorithm::RS256 => &ring_signature::RSA_PKCS1_2048_8192_SHA256,
                Algorithm::RS384 => &ring_signature::RSA_PKCS1_2048_8192_SHA384,
                _ => &ring_signature::RSA_PKCS1_2048_8192_SHA512,
            };
            Check::Rsa(parameters, RsaPublicKeyComponents { n: n.clone(), e: e.clone() })
        }
        (Algorithm::ES256, AlgorithmFamily::Ec, DecodingKeyKind::SecretOrDer(point)) => {
            Check::Other(UnparsedPublicKey::new(&ring_signature::ECDSA_P256_SHA256_FIXED, point.clone()))
        }
        (Algorithm::EdDSA, AlgorithmFamily::Ed, DecodingKeyKind::SecretOrDer(point)) => {
            Check::Other(UnparsedPublicKey::new(&ring_signature::ED25519, point.clone()))
        }
        _ => return Err(ErrorKind::InvalidAlgorithm.into()),
    };
    Ok(Box::new(RingVerifier { algorithm: *algorithm, check }))
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let outcome = match &self.check {
            Check::Hmac(key) => hmac::verify(key, message, signature),
            Check::Rsa(parameters, key) => key.verify(parameters, message, signature),
            Check::Other(key) => key.verify(message, signature),
        };
        outcome.map_err(|ring::error::Unspecified| signature::Error::new())
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
