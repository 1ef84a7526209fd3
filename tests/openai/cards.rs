//! Cards of versions: what is known, and that the rest is said to be unknown.

use serde_json::{Value, json};

use crate::support::{BASE, Harness};

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
