//! JSON Web Tokens instead of keys, over HTTP.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::{Value, json};
use switchyard::tenants::jwt::{ActiveTenants, AdminTokens, KeysFrom, Settings, TokenAlgorithm, TokenVerifier};

use crate::support::{Harness, KEY, Options, Reply, chat_body};

#[path = "../../src/tenants/jwt/tests/forge.rs"]
mod forge;

use forge::{Issuer, Signer, encoded, key_set};

const SECRET: &[u8] = b"a secret of the tests, 32 bytes or more";

async fn server(keys: KeysFrom) -> Harness {
    let settings = Settings {
        issuer: "https://issuer.example".to_owned(),
        audiences: vec!["switchyard".to_owned()],
        algorithms: TokenAlgorithm::ALL.to_vec(),
        keys: Some(keys),
        secret: Some(SECRET.to_vec()),
        leeway: Duration::ZERO,
        refresh: Duration::from_secs(300),
        tenant_claim: "tenant".to_owned(),
        scope_claim: "scope".to_owned(),
        models_claim: "models".to_owned(),
        admin: AdminTokens::Refused,
    };
    let tenants: Arc<dyn ActiveTenants> = Arc::new(|tenant: &str| tenant == "proj_default");
    let tokens = Some(TokenVerifier::start(settings, tenants).await.unwrap());
    Harness::with(Options { tokens, ..Options::default() }).await
}

fn claims(more: &Value) -> Value {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let mut claims = json!({"iss": "https://issuer.example", "aud": "switchyard", "exp": now + 600, "tenant": "proj_default",
                            "sub": "ann", "scope": "inference"});
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

async fn get(server: &Harness, path: &str, bearer: &str) -> Reply {
    let request = Request::get(path).header("authorization", format!("Bearer {bearer}"));
    server.send(request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn each_way_of_being_wrong_has_its_own_code_and_the_token_is_not_repeated() {
    let (rsa, elliptic) = (Signer::rsa("RS256"), Signer::es256());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.json");
    std::fs::write(&path, key_set(&[rsa.jwk("r"), elliptic.jwk("e")])).unwrap();
    let server = server(KeysFrom::File(path)).await;
    let good = claims(&json!({}));
    let hmac = Signer::Hs256(SECRET.to_vec());
    for token in [rsa.token("r", &good), elliptic.token("e", &good), hmac.token("h", &good)] {
        assert_eq!(get(&server, "/v1/models", &token).await.status, StatusCode::OK);
    }
    let unsigned = format!("{}.{}.", encoded(r#"{"alg":"none"}"#), encoded(good.to_string()));
    // The public key's own bytes as a secret, as whoever fetches the key set could do it.
    let confused = Signer::Hs256(rsa.jwk("r").to_string().into_bytes()).sign(&json!({"alg": "HS256", "kid": "r"}), &good);
    let tampered = elliptic.token("e", &good).replace('.', ".e");
    for (token, status, code) in [
        (unsigned, 401, "token_algorithm_not_allowed"),
        (Signer::Hs256(SECRET.to_vec()).sign(&json!({"alg": "HS512"}), &good), 401, "token_algorithm_not_allowed"),
        (elliptic.sign(&json!({"alg": "ES256", "kid": "r"}), &good), 401, "token_algorithm_not_allowed"),
        (confused, 401, "token_signature_invalid"),
        (Signer::es256().token("e", &good), 401, "token_signature_invalid"),
        (rsa.token("r", &claims(&json!({"exp": 1_000_000_000}))), 401, "token_expired"),
        (rsa.token("r", &claims(&json!({"nbf": 4_000_000_000u64, "exp": 5_000_000_000u64}))), 401, "token_not_yet_valid"),
        (rsa.token("r", &claims(&json!({"aud": "other"}))), 401, "token_audience_invalid"),
        (rsa.token("r", &claims(&json!({"iss": "other"}))), 401, "token_issuer_invalid"),
        (rsa.token("unknown", &good), 401, "token_key_unknown"),
        (rsa.token("r", &claims(&json!({"tenant": null}))), 401, "token_claim_missing"),
        (rsa.token("r", &claims(&json!({"models": 7}))), 401, "token_claim_invalid"),
        (rsa.token("r", &claims(&json!({"tenant": "proj_other"}))), 401, "token_tenant_unknown"),
        (tampered, 401, "token_signature_invalid"),
        ("a.b.c".to_owned(), 401, "token_malformed"),
    ] {
        let reply = get(&server, "/v1/models", &token).await;
        assert_eq!(reply.error(), (status, "invalid_request_error".to_owned(), json!(code), Value::Null), "{}", reply.text);
        assert_eq!(reply.headers["www-authenticate"], "Bearer");
        assert!(token.split('.').filter(|part| part.len() > 8).all(|part| !reply.text.contains(part)), "{}", reply.text);
    }
    // Keys go on working beside tokens, and a token's `admin` is nothing unless that is configured.
    assert_eq!(get(&server, "/v1/models", KEY).await.status, StatusCode::OK);
    let would_be_admin = hmac.token("h", &claims(&json!({"scope": "inference admin"})));
    let refused = server.send(
        Request::post("/v1/unload_lora_adapter")
            .header("authorization", format!("Bearer {would_be_admin}"))
            .body(Body::from(r#"{"lora_name": "x"}"#))
            .unwrap(),
    );
    assert_eq!(refused.await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_rotated_key_set_of_a_real_address_is_followed_without_a_restart() {
    let (old, new) = (Signer::es256(), Signer::eddsa());
    let issuer = Issuer::start(key_set(&[old.jwk("old")])).await;
    let server = server(KeysFrom::Url(issuer.url.parse().unwrap())).await;
    let (before, after) = (old.token("old", &claims(&json!({}))), new.token("new", &claims(&json!({}))));
    let chat = Request::post("/v1/chat/completions").header("authorization", format!("Bearer {before}"));
    let answered = server.send(chat.body(Body::from(chat_body().to_string())).unwrap()).await;
    assert_eq!(answered.status, StatusCode::OK, "{}", answered.text);
    issuer.answer(200, key_set(&[new.jwk("new")]));
    assert_eq!(get(&server, "/v1/models", &after).await.status, StatusCode::OK);
    assert_eq!(get(&server, "/v1/models", &before).await.error().2, json!("token_key_unknown"));
    let asked = issuer.asked();
    for invented in 0..10 {
        let token = new.token(&format!("k{invented}"), &claims(&json!({})));
        assert_eq!(get(&server, "/v1/models", &token).await.error().2, json!("token_key_unknown"));
    }
    assert_eq!(issuer.asked(), asked, "invented key ids reach the issuer");
}
