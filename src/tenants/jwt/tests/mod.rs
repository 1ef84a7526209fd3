//! Tokens that are good, and every way in which they are not.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod forge;

use std::sync::atomic::{AtomicBool, Ordering};

use forge::{Issuer, Signer, encoded, key_set};
use serde_json::{Value, json};

use super::*;
use crate::tenants::{ModelAccess, Scope};

const SECRET: &[u8] = b"a secret of the tests, 32 bytes or more";
const NOW: u64 = 1_800_000_000;

fn settings(keys: Option<KeysFrom>) -> Settings {
    Settings {
        issuer: "https://issuer.example".to_owned(),
        audiences: vec!["switchyard".to_owned(), "other".to_owned()],
        algorithms: TokenAlgorithm::ALL.to_vec(),
        keys,
        secret: Some(SECRET.to_vec()),
        leeway: Duration::from_secs(30),
        refresh: Duration::from_secs(300),
        tenant_claim: "tenant".to_owned(),
        scope_claim: "scope".to_owned(),
        models_claim: "models".to_owned(),
        admin: AdminTokens::Refused,
    }
}

fn secret() -> Signer {
    Signer::Hs256(SECRET.to_vec())
}

fn claims() -> Value {
    json!({"iss": "https://issuer.example", "aud": "switchyard", "exp": NOW + 60, "sub": "ann", "tenant": "proj_a",
           "scope": "openid inference fine_tuning"})
}

fn with(more: &Value) -> Value {
    let mut claims = claims();
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn everybody() -> Arc<dyn ActiveTenants> {
    Arc::new(|_: &str| true)
}

async fn verifier(settings: Settings) -> TokenVerifier {
    TokenVerifier::start(settings, everybody()).await.unwrap()
}

/// A verifier over a file with these keys.
async fn over(keys: &[Value]) -> (TokenVerifier, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.json");
    std::fs::write(&path, key_set(keys)).unwrap();
    (verifier(settings(Some(KeysFrom::File(path)))).await, dir)
}

fn at(unix: u64) -> Now {
    Now { unix, steady: Instant::now() }
}

async fn refused(verifier: &TokenVerifier, token: &str) -> TokenError {
    let error = verifier.verify(token, at(NOW)).await.unwrap_err();
    let text = error.to_string();
    assert!(token.split('.').filter(|part| part.len() > 8).all(|part| !text.contains(part)), "{text}");
    error
}

#[tokio::test]
async fn every_allowed_algorithm_is_verified() {
    let signers = [Signer::rsa("RS256"), Signer::rsa("RS384"), Signer::rsa("RS512"), Signer::es256(), Signer::eddsa(), secret()];
    let ids = ["r", "r", "r", "e", "d", "h"];
    let keys: Vec<Value> = [0, 3, 4].iter().map(|&index| signers[index].jwk(ids[index])).collect();
    let (verifier, _dir) = over(&keys).await;
    for (signer, id) in signers.iter().zip(ids) {
        let token = signer.token(id, &claims());
        for _ in 0..2 {
            let principal = verifier.verify(&token, at(NOW)).await.unwrap();
            assert_eq!((&*principal.tenant, &*principal.key_id), ("proj_a", "jwt:ann"), "{}", signer.algorithm());
        }
        let (message, signature) = token.rsplit_once('.').unwrap();
        let flipped = format!("{}{}", if signature.starts_with('A') { 'B' } else { 'A' }, &signature[1..]);
        assert_eq!(refused(&verifier, &format!("{message}.{flipped}")).await, TokenError::BadSignature);
        let other = encoded(with(&json!({"tenant": "proj_b"})).to_string());
        let moved = format!("{}.{other}.{signature}", message.split_once('.').unwrap().0);
        assert_eq!(refused(&verifier, &moved).await, TokenError::BadSignature);
    }
}

#[tokio::test]
async fn none_and_other_algorithms_are_refused() {
    let (verifier, _dir) = over(&[Signer::es256().jwk("e")]).await;
    for name in ["none", "None", "NONE", "nOnE", "HS384", "PS256", "ES384", "", "hs256"] {
        let header = json!({"alg": name, "kid": "e"});
        let unsigned = format!("{}.{}.", encoded(header.to_string()), encoded(claims().to_string()));
        assert_eq!(refused(&verifier, &unsigned).await, TokenError::AlgorithmNotAllowed, "{name}");
        assert_eq!(refused(&verifier, &secret().sign(&header, &claims())).await, TokenError::AlgorithmNotAllowed, "{name}");
    }
    let only = Settings { algorithms: vec![TokenAlgorithm::Es256], ..settings(None) };
    let verifier = TokenVerifier::start(only, everybody()).await.unwrap();
    assert_eq!(refused(&verifier, &secret().token("h", &claims())).await, TokenError::AlgorithmNotAllowed);
}

/// The classic confusion: whoever knows the public key signs with its bytes as a secret.
#[tokio::test]
async fn a_public_key_is_never_a_secret_and_no_key_verifies_another_types_algorithm() {
    let (rsa, elliptic, edwards) = (Signer::rsa("RS256"), Signer::es256(), Signer::eddsa());
    let sets = [
        vec![rsa.jwk("k"), elliptic.jwk("e"), edwards.jwk("d")],
        // Said by the key, too.
        vec![with_algorithm(rsa.jwk("k"), "RS256"), with_algorithm(elliptic.jwk("e"), "ES256")],
        // A set that wants it: secrets do not come from sets.
        vec![Signer::Hs256(b"published".repeat(8)).jwk("k"), with_algorithm(rsa.jwk("k"), "HS256")],
    ];
    for set in sets {
        let (verifier, _dir) = over(&set).await;
        let text = set[0].to_string();
        let jwk_bytes = |field: &str| {
            use base64::Engine;
            URL_SAFE_NO_PAD.decode(set[0][field].as_str().unwrap_or("")).unwrap()
        };
        for stolen in [text.clone().into_bytes(), jwk_bytes("n"), jwk_bytes("k"), set[0]["n"].to_string().into_bytes()] {
            let forged = Signer::Hs256(stolen).sign(&json!({"alg": "HS256", "kid": "k"}), &claims());
            assert_eq!(refused(&verifier, &forged).await, TokenError::BadSignature);
        }
    }
    // Without a secret HS256 verifies nothing, even where it is listed.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.json");
    std::fs::write(&path, key_set(&[rsa.jwk("k"), elliptic.jwk("e"), edwards.jwk("d")])).unwrap();
    let verifier = verifier(Settings { secret: None, ..settings(Some(KeysFrom::File(path))) }).await;
    let forged = Signer::Hs256(rsa.jwk("k")["n"].to_string().into_bytes()).sign(&json!({"alg": "HS256", "kid": "k"}), &claims());
    assert_eq!(refused(&verifier, &forged).await, TokenError::AlgorithmNotAllowed);
    for (signer, kid, alg) in [(&rsa, "k", "ES256"), (&rsa, "k", "EdDSA"), (&elliptic, "e", "EdDSA"), (&edwards, "d", "RS256")] {
        let crossed = signer.sign(&json!({"alg": alg, "kid": kid}), &claims());
        assert_eq!(refused(&verifier, &crossed).await, TokenError::AlgorithmNotAllowed, "{alg} with {kid}");
    }
}

fn with_algorithm(mut key: Value, name: &str) -> Value {
    key["alg"] = json!(name);
    key
}

#[tokio::test]
async fn times_issuers_audiences_and_tenants_are_checked() {
    let verifier = verifier(settings(None)).await;
    let error = async |more: Value| refused(&verifier, &secret().token("h", &with(&more))).await;
    let missing = |claim: &str| TokenError::MissingClaim(claim.to_owned());
    assert_eq!(error(json!({"exp": NOW - 30})).await, TokenError::Expired);
    assert_eq!(error(json!({"exp": null})).await, missing("exp"));
    assert!(matches!(error(json!({"exp": "tomorrow"})).await, TokenError::InvalidClaim { .. }));
    assert!(matches!(error(json!({"exp": -1})).await, TokenError::InvalidClaim { .. }));
    assert_eq!(error(json!({"nbf": NOW + 31})).await, TokenError::NotYetValid);
    assert_eq!(error(json!({"iss": "https://else.example"})).await, TokenError::WrongIssuer);
    assert_eq!(error(json!({"iss": null})).await, missing("iss"));
    assert_eq!(error(json!({"aud": "somebody"})).await, TokenError::WrongAudience);
    assert_eq!(error(json!({"aud": []})).await, TokenError::WrongAudience);
    assert_eq!(error(json!({"aud": null})).await, missing("aud"));
    for tenant in [json!(null), json!("")] {
        assert_eq!(error(json!({"tenant": tenant})).await, missing("tenant"));
    }
    for (claim, value) in [
        ("tenant", json!(7)),
        ("tenant", json!("a\nb")),
        ("sub", json!("x".repeat(300))),
        ("scope", json!(7)),
        ("scope", json!([7])),
        ("models", json!("convert")),
        ("models", json!([null])),
    ] {
        let error = error(json!({claim: value})).await;
        assert!(matches!(&error, TokenError::InvalidClaim { claim: named, .. } if named == claim), "{claim}: {error:?}");
    }
    for good in [
        json!({"exp": NOW - 29}),
        json!({"exp": NOW as f64 + 0.5}),
        json!({"nbf": NOW + 30}),
        json!({"aud": ["somebody", "other"]}),
        json!({"exp": u64::MAX}),
    ] {
        verifier.verify(&secret().token("h", &with(&good)), at(NOW)).await.unwrap();
    }
    // A token that was good ends with its time, remembered or not.
    let token = secret().token("h", &claims());
    verifier.verify(&token, at(NOW + 89)).await.unwrap();
    assert_eq!(verifier.verify(&token, at(NOW + 90)).await, Err(TokenError::Expired));
}

#[tokio::test]
async fn claims_become_a_principal() {
    let verifier = verifier(settings(None)).await;
    let principal = async |more: Value| verifier.verify(&secret().token("h", &with(&more)), at(NOW)).await.unwrap();
    let usual = principal(json!({})).await;
    assert_eq!((usual.scopes.to_string().as_str(), usual.end_user.as_deref()), ("inference,fine_tuning", Some("ann")));
    assert_eq!(usual.models, ModelAccess::All);
    assert_eq!(principal(json!({"scope": ["read_only", "email"]})).await.scopes.to_string(), "read_only");
    assert_eq!(principal(json!({"scope": null})).await.scopes.to_string(), "inference");
    assert!(principal(json!({"scope": "openid"})).await.scopes.is_empty());
    assert!(!principal(json!({"scope": "inference admin"})).await.is_admin());
    let only = principal(json!({"models": ["convert"]})).await;
    assert!(only.models.allows("convert") && !only.models.allows("base"));
    assert_eq!(&*principal(json!({"sub": null})).await.key_id, "jwt");
    let mapped = Settings {
        tenant_claim: "https://example.com/project".to_owned(),
        scope_claim: "permissions".to_owned(),
        admin: AdminTokens::Accepted,
        ..settings(None)
    };
    let verifier = TokenVerifier::start(mapped, everybody()).await.unwrap();
    let token = secret().token("h", &with(&json!({"https://example.com/project": "proj_b", "permissions": "admin"})));
    let principal = verifier.verify(&token, at(NOW)).await.unwrap();
    assert_eq!((&*principal.tenant, principal.scopes.allow(Scope::Admin)), ("proj_b", true));
}

#[tokio::test]
async fn an_archived_tenant_is_out_at_once() {
    let active = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&active);
    let tenants: Arc<dyn ActiveTenants> = Arc::new(move |name: &str| name == "proj_a" && asked.load(Ordering::SeqCst));
    let verifier = TokenVerifier::start(settings(None), tenants).await.unwrap();
    let token = secret().token("h", &claims());
    verifier.verify(&token, at(NOW)).await.unwrap();
    active.store(false, Ordering::SeqCst);
    assert_eq!(refused(&verifier, &token).await, TokenError::UnknownTenant);
    let elsewhere = secret().token("h", &with(&json!({"tenant": "proj_x"})));
    assert_eq!(refused(&verifier, &elsewhere).await, TokenError::UnknownTenant);
}

#[tokio::test]
async fn malformed_tokens_are_told_apart() {
    let (verifier, _dir) = over(&[Signer::es256().jwk("a"), Signer::es256().jwk("b")]).await;
    let claims = claims();
    for bad in [
        "a.b",
        "a.b.c.d",
        "..",
        "not base64!.x.y",
        &format!("{}.x.y", encoded("[]")),
        &format!("{}.x.y", encoded("{\"alg\": 7}")),
        &secret().sign(&json!({"alg": "HS256", "crit": ["b64"], "b64": false}), &claims),
        &format!("{}.{}", encoded(json!({"alg": "HS256"}).to_string()), "x".repeat(20_000) + ".y"),
        // Two keys fit and the token does not say which.
        &Signer::es256().sign(&json!({"alg": "ES256"}), &claims),
    ] {
        let error = refused(&verifier, bad).await;
        assert!(matches!(error, TokenError::Malformed(_)), "{bad:.60}: {error:?}");
    }
}

#[tokio::test]
async fn a_file_of_keys_is_read_again_and_withdrawn_keys_end_their_tokens() {
    let (old, new) = (Signer::es256(), Signer::eddsa());
    let (verifier, dir) = over(&[old.jwk("old")]).await;
    let path = dir.path().join("keys.json");
    let (before, after) = (old.token("old", &claims()), new.token("new", &claims()));
    verifier.verify(&before, at(NOW)).await.unwrap();
    std::fs::write(&path, key_set(&[old.jwk("old"), new.jwk("new")])).unwrap();
    verifier.verify(&after, at(NOW)).await.unwrap();
    verifier.verify(&before, at(NOW)).await.unwrap();
    std::fs::write(&path, key_set(&[new.jwk("new")])).unwrap();
    let source = verifier.source.as_ref().unwrap();
    assert_eq!(source.read_now(Instant::now()).await, None);
    assert_eq!(refused(&verifier, &before).await, TokenError::UnknownKey);
    verifier.verify(&after, at(NOW)).await.unwrap();
    // A broken file keeps what was there, for a while.
    std::fs::write(&path, "{\"keys\": ").unwrap();
    assert!(source.read_now(Instant::now()).await.unwrap().contains("keys.json"));
    verifier.verify(&after, at(NOW)).await.unwrap();
    let much_later = Now { unix: NOW, steady: Instant::now() + Duration::from_secs(3700) };
    assert_eq!(verifier.verify(&after, much_later).await, Err(TokenError::KeysUnavailable));
    std::fs::write(&path, key_set(&[])).unwrap();
    assert_eq!(source.read_now(Instant::now()).await, None, "a set without keys is a set");
    assert_eq!(refused(&verifier, &after).await, TokenError::UnknownKey);
    let missing = settings(Some(KeysFrom::File(dir.path().join("absent.json"))));
    let error = TokenVerifier::start(missing, everybody()).await.unwrap_err().to_string();
    assert!(error.contains("absent.json"), "{error}");
}

#[tokio::test]
async fn an_issuers_rotation_is_followed_and_invented_key_ids_do_not_hammer_it() {
    let (old, new, third) = (Signer::rsa("RS256"), Signer::es256(), Signer::es256());
    let issuer = Issuer::start(key_set(&[old.jwk("old")])).await;
    let verifier = verifier(settings(Some(KeysFrom::Url(issuer.url.parse().unwrap())))).await;
    verifier.verify(&old.token("old", &claims()), at(NOW)).await.unwrap();
    assert_eq!(issuer.asked(), 1);
    issuer.answer(200, key_set(&[new.jwk("new")]));
    let start = Instant::now();
    let after = |seconds| Now { unix: NOW, steady: start + Duration::from_secs(seconds) };
    verifier.verify(&new.token("new", &claims()), after(0)).await.unwrap();
    assert_eq!(verifier.verify(&old.token("old", &claims()), after(1)).await, Err(TokenError::UnknownKey));
    assert_eq!(issuer.asked(), 2);
    issuer.answer(200, key_set(&[new.jwk("new"), third.jwk("third")]));
    for invented in 0..20 {
        let token = new.token(&format!("invented-{invented}"), &claims());
        assert_eq!(verifier.verify(&token, after(9)).await, Err(TokenError::UnknownKey));
    }
    assert_eq!(issuer.asked(), 2, "asked too often");
    verifier.verify(&third.token("third", &claims()), after(10)).await.unwrap();
    assert_eq!(issuer.asked(), 3);
    // An issuer that is out of reach: its keys stay, for a while.
    issuer.answer(500, String::new());
    assert_eq!(verifier.verify(&old.token("x", &claims()), after(20)).await, Err(TokenError::UnknownKey));
    verifier.verify(&third.token("third", &with(&json!({"sub": "bob"}))), after(21)).await.unwrap();
    assert_eq!(
        verifier.verify(&third.token("third", &with(&json!({"sub": "cy"}))), after(4000)).await,
        Err(TokenError::KeysUnavailable)
    );
    issuer.answer(200, "x".repeat(600 * 1024));
    assert!(verifier.source.as_ref().unwrap().read_now(Instant::now()).await.unwrap().contains("larger than"));
}

#[tokio::test]
async fn an_issuer_that_is_there_later_than_the_server_is_found() {
    let signer = Signer::es256();
    let issuer = Issuer::start(String::new()).await;
    let verifier = verifier(settings(Some(KeysFrom::Url(issuer.url.parse().unwrap())))).await;
    let token = signer.token("k", &claims());
    let start = Instant::now();
    let after = |seconds| Now { unix: NOW, steady: start + Duration::from_secs(seconds) };
    assert_eq!(verifier.verify(&token, after(0)).await, Err(TokenError::KeysUnavailable));
    issuer.answer(200, key_set(&[signer.jwk("k")]));
    verifier.verify(&token, after(10)).await.unwrap();
}

#[test]
fn keys_that_cannot_be_used_are_left_out_with_a_reason() {
    let rsa = Signer::rsa("RS256").jwk("k");
    let changed = |field: &str, value: Value| {
        let mut key = rsa.clone();
        key[field] = value;
        key
    };
    let padded = changed("n", json!(encoded([vec![0], URL_SAFE_NO_PAD.decode(rsa["n"].as_str().unwrap()).unwrap()].concat())));
    let good = [rsa.clone(), padded, changed("use", json!("sig")), changed("alg", json!("RS512"))];
    let bad = [
        changed("use", json!("enc")),
        changed("key_ops", json!(["encrypt"])),
        changed("alg", json!("RSA-OAEP")),
        changed("alg", json!("ES256")),
        changed("n", json!(encoded([7; 128]))),
        changed("n", json!("*")),
        changed("kty", json!("PQC")),
        json!({"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA"}),
        json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}),
        json!({"kty": "OKP", "crv": "Ed25519", "x": "AA"}),
        json!({"kty": "oct", "k": encoded(SECRET)}),
        json!("text"),
    ];
    let set = keys::KeySet::parse(key_set(&[&good[..], &bad[..]].concat()).as_bytes()).unwrap();
    assert_eq!(set.skipped.len(), bad.len(), "{:?}", set.skipped);
    assert!(!format!("{set:?} {:?}", set.skipped).contains(&encoded(SECRET)));
    for wrong in ["", "[]", "{}", "{\"keys\": 3}"] {
        assert!(keys::KeySet::parse(wrong.as_bytes()).is_err(), "{wrong}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 512, ..proptest::test_runner::Config::default() })]

    /// Whatever is changed in a token, it is refused, without a panic.
    #[test]
    fn no_changed_token_is_good(at_byte in 0usize..4096, put in proptest::char::range('!', '~'), cut in 0usize..4096, who in 0usize..3) {
        static SIGNERS: std::sync::LazyLock<[Signer; 3]> = std::sync::LazyLock::new(|| [Signer::es256(), Signer::eddsa(), secret()]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (verifier, _dir) = over(&[SIGNERS[0].jwk("e"), SIGNERS[1].jwk("d")]).await;
            let token = SIGNERS[who].token(["e", "d", "h"][who], &claims());
            verifier.verify(&token, at(NOW)).await.unwrap();
            let mut changed: Vec<char> = token.chars().collect();
            let place = at_byte % changed.len();
            changed[place] = put;
            let changed: String = changed.into_iter().collect();
            if changed != token {
                assert!(verifier.verify(&changed, at(NOW)).await.is_err(), "{changed}");
            }
            assert!(verifier.verify(&token[..cut % token.len()], at(NOW)).await.is_err());
        });
    }
}
