//! Makes keys, tokens and an issuer for tests. Used by the tests of the HTTP contract, too.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code, reason = "tests")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512,
    RsaKeyPair, RsaPublicKeyComponents,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Made by `openssl genrsa 2048`, for tests only: ring makes no RSA keys.
const RSA_KEY: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/jwt/rsa-2048.pk8"));

pub enum Signer {
    Hs256(Vec<u8>),
    Rsa(Box<RsaKeyPair>, &'static str),
    Es256(EcdsaKeyPair),
    EdDsa(Ed25519KeyPair),
}

pub fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    pub fn rsa(algorithm: &'static str) -> Self {
        Self::Rsa(Box::new(RsaKeyPair::from_pkcs8(RSA_KEY).unwrap()), algorithm)
    }

    pub fn es256() -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        Self::Es256(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap())
    }

    pub fn eddsa() -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::EdDsa(Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap())
    }

    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Hs256(_) => "HS256",
            Self::Rsa(_, algorithm) => algorithm,
            Self::Es256(_) => "ES256",
            Self::EdDsa(_) => "EdDSA",
        }
    }

    /// The public key; of a secret there is none.
    pub fn jwk(&self, kid: &str) -> Value {
        match self {
            Self::Hs256(secret) => json!({"kty": "oct", "kid": kid, "k": encoded(secret)}),
            Self::Rsa(pair, _) => {
                let RsaPublicKeyComponents { n, e } = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public());
                json!({"kty": "RSA", "kid": kid, "n": encoded(n), "e": encoded(e)})
            }
            Self::Es256(pair) => {
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": encoded(&point[1..33]), "y": encoded(&point[33..])})
            }
            Self::EdDsa(pair) => json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": encoded(pair.public_key())}),
        }
    }

    pub fn token(&self, kid: &str, claims: &Value) -> String {
        self.sign(&json!({"typ": "JWT", "alg": self.algorithm(), "kid": kid}), claims)
    }

    /// Any header, also one that does not fit the signature.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encoded(header.to_string()), encoded(claims.to_string()));
        let signature = match self {
            Self::Hs256(secret) => {
                let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
                ring::hmac::sign(&key, message.as_bytes()).as_ref().to_vec()
            }
            Self::Rsa(pair, algorithm) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                let padding = match *algorithm {
                    "RS256" => &RSA_PKCS1_SHA256,
                    "RS384" => &RSA_PKCS1_SHA384,
                    _ => &RSA_PKCS1_SHA512,
                };
                pair.sign(padding, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
                signature
            }
            Self::Es256(pair) => pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap().as_ref().to_vec(),
            Self::EdDsa(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
        };
        format!("{message}.{}", encoded(signature))
    }
}

pub fn key_set(keys: &[Value]) -> String {
    json!({"keys": keys}).to_string()
}

/// An issuer's address on this machine: answers every request with the same text.
pub struct Issuer {
    pub url: String,
    answer: Arc<Mutex<(u16, String)>>,
    asked: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Issuer {
    pub async fn start(body: String) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let (answer, asked) = (Arc::new(Mutex::new((200, body))), Arc::new(AtomicUsize::new(0)));
        let (answers, count) = (Arc::clone(&answer), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0u8; 4096];
                let _ = stream.read(&mut request).await;
                count.fetch_add(1, Ordering::SeqCst);
                let (status, body) = answers.lock().unwrap().clone();
                let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
            }
        });
        Self { url, answer, asked, task }
    }

    pub fn answer(&self, status: u16, body: String) {
        *self.answer.lock().unwrap() = (status, body);
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
