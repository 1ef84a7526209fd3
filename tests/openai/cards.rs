//! Cards of versions: what is known, and that the rest is said to be unknown.

use axum::http::Method;
use serde_json::{Value, json};
use switchyard::gateway::FailoverConfig;

use crate::support::{BASE, Harness, KEY, Options};
use crate::upstreams::upstream;

#[tokio::test]
async fn the_card_of_a_version_says_what_is_known_and_what_is_not() {
    let server = Harness::new().await;
    server.load("support", 1).await;
    let card = server.get("/admin/adapters/support/versions/1/card").await;
    assert_eq!(card.status.as_u16(), 200, "{}", card.text);
    let card = card.json();
    let listed = server.get("/admin/adapters/support/versions").await.json()["data"][0].clone();
    assert_eq!((&card["name"], &card["digest"]), (&json!("support@1"), &listed["digest"]));
    assert_eq!((&card["base"]["name"], &card["adapter"]["rank"]), (&json!(BASE), &listed["rank"]));
    assert_eq!((&card["cost"], &card["training"], &card["evaluation"]), (&Value::Null, &Value::Null, &Value::Null));
    let limits = card["known_limits"].to_string();
    assert!(limits.contains("not evaluated") && limits.contains("not trained here"), "{limits}");

    // By its digest, for people, with the price of today.
    let price = json!({"usd_per_million_tokens": {"input": "0.15", "output": "0.6"}});
    server.ok("/admin/prices", &price).await;
    let digest = listed["digest"].as_str().unwrap();
    let text = server.get(&format!("/admin/adapters/support/versions/{}/card?format=markdown", &digest[..8])).await;
    assert_eq!(text.headers["content-type"], "text/markdown; charset=utf-8");
    assert!(text.text.starts_with("# support@1\n"), "{}", text.text);
    assert!(text.text.contains("| cost of 1K tokens | $0.00015 of prompts, $0.0006 of answers |"), "{}", text.text);
}

#[tokio::test]
async fn cards_that_are_not_there_are_not_found_and_tenants_see_none() {
    let server = Harness::new().await;
    server.load("support", 1).await;
    for path in
        ["support/versions/2/card", "support/versions/abc/card", "other/versions/1/card", "support/versions/1/card?tenant=x"]
    {
        assert_eq!(server.get(&format!("/admin/adapters/{path}")).await.status.as_u16(), 404, "{path}");
    }
    let wrong = server.get("/admin/adapters/support/versions/1/card?format=pdf").await;
    assert_eq!(wrong.error().3, json!("format"));
    let key = server.key_of("proj_default").await;
    let path = "/admin/adapters/support/versions/1/card";
    let refused = server.call(axum::http::Method::GET, path, None, &key, &[]).await;
    assert_eq!(refused.status.as_u16(), 403);
}

#[tokio::test]
async fn every_model_has_a_card_and_a_tenant_sees_its_own_part_of_it() {
    let mut big = upstream("http://127.0.0.1:9/v1");
    big.parameters = vec!["top_k".to_owned()];
    let failover = FailoverConfig {
        name: "assistant".to_owned(),
        models: vec![BASE.to_owned(), "big".to_owned()],
        when_waiting: Some(3),
        capability: None,
    };
    let server = Harness::with(Options { upstreams: vec![big], failovers: vec![failover], ..Options::default() }).await;
    server.load("support", 1).await;
    let spec = json!({"name": "desk", "arms": [{"name": "only", "model": "support", "weight": 100}]});
    assert!(server.post("/admin/deployments", &spec).await.status.is_success());
    server.ok("/admin/prices", &json!({"usd_per_million_tokens": {"input": "0.15", "output": "0.6"}})).await;
    let tenant = server.key_of("proj_a").await;
    let card =
        async |key: &str, id: &str| server.call(Method::GET, &format!("/v1/model_cards/{id}"), None, key, &[]).await.json();

    let of_base = card(&tenant, BASE).await;
    assert_eq!((&of_base["kind"], &of_base["usd_per_million_tokens"]["output"]), (&json!("base"), &json!(0.6)));
    assert!(of_base["limits"]["context"].is_u64() && of_base["made_of"]["parameters"].is_u64(), "{of_base}");
    let of_big = card(&tenant, "big").await;
    assert_eq!(
        (&of_big["kind"], &of_big["parameters"], &of_big["limits"]["context"]),
        (&json!("upstream"), &json!(["top_k"]), &json!(8_192))
    );
    assert_eq!(of_big["usd_per_million_tokens"], json!({"input": 1.0, "cached_input": 0.1, "output": 2.0}));
    assert!(!of_big.to_string().contains("their") && !of_big.to_string().contains("127.0.0.1"), "{of_big}");
    let of_assistant = card(&tenant, "assistant").await;
    let made_of = json!({"order": [BASE, "big"], "when_waiting": 3});
    assert_eq!((&of_assistant["kind"], &of_assistant["made_of"]), (&json!("failover"), &made_of));
    assert_eq!(of_assistant["usd_per_million_tokens"], Value::Null, "as the model that answers");

    // What is shared shows its content; how it is made, and what gets which share, is the operator's.
    let (theirs, all) = (card(&tenant, "support@1").await, card(KEY, "support").await);
    assert_eq!(
        (&theirs["kind"], &theirs["made_of"]["version"], &theirs["made_of"]["base"]),
        (&json!("adapter"), &json!(1), &json!(BASE))
    );
    assert_eq!((theirs.get("version_card"), &all["version_card"]["name"]), (None, &json!("support@1")));
    let (theirs, all) = (card(&tenant, "desk").await, card(KEY, "desk").await);
    assert_eq!((&theirs["kind"], theirs.get("made_of")), (&json!("deployment"), None));
    assert_eq!(all["made_of"]["arms"], json!([{"arm": "only", "model": "support@1", "weight": 100}]));

    // All of what may be named, and nothing else.
    let list = server.call(Method::GET, "/v1/model_cards", None, &tenant, &[]).await.json();
    let ids: Vec<&str> = list["data"].as_array().unwrap().iter().map(|card| card["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [BASE, "assistant", "big", "desk", "support", "hash-embedding-256"]);
    for absent in ["support@2", "nothing", "assistant@teachers"] {
        let reply = server.call(Method::GET, &format!("/v1/model_cards/{absent}"), None, &tenant, &[]).await;
        assert_eq!(reply.error().0, 404, "{absent}");
    }
}
