//! The organization API and what it lacks: tenants, keys, limits, budgets, prices, webhooks.

use axum::http::Method;
use serde_json::{Value, json};

use crate::support::{BASE, Harness, KEY, Reply};

const ORG: &str = "/v1/organization";

impl Harness {
    /// A request with the admin key, and its status.
    pub async fn admin(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let body = (!body.is_null()).then_some(&body);
        let reply = self.call(method, path, body, KEY, &[]).await;
        (reply.status.as_u16(), reply.json())
    }

    /// A request with the admin key that must succeed.
    pub async fn done(&self, method: Method, path: &str, body: Value) -> Value {
        let (status, answer) = self.admin(method.clone(), path, body.clone()).await;
        assert_eq!(status, 200, "{method} {path} {body}: {answer}");
        answer
    }

    /// A tenant with a service account and its key: ids of tenant, account, key, and the key.
    pub async fn tenant(&self, name: &str) -> (String, String, String, String) {
        let project = self.done(Method::POST, &format!("{ORG}/projects"), json!({"name": name})).await;
        let path = format!("{ORG}/projects/{}/service_accounts", project["id"].as_str().unwrap());
        let account = self.done(Method::POST, &path, json!({"name": "worker"})).await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let key = &account["api_key"];
        (text(&project["id"]), text(&account["id"]), text(&key["id"]), text(&key["value"]))
    }

    /// Status of a small completion with a key.
    pub async fn generates(&self, key: &str) -> u16 {
        let body = json!({"model": BASE, "prompt": "hi", "max_tokens": 1});
        self.call(Method::POST, "/v1/completions", Some(&body), key, &[]).await.status.as_u16()
    }
}

fn code(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["error"]["code"].as_str().unwrap_or_else(|| panic!("{}", answer.1)))
}

#[tokio::test]
async fn a_project_is_made_renamed_and_archived_and_its_keys_end_with_it() {
    let server = Harness::new().await;
    let (project, account, key_id, key) = server.tenant("Acme").await;
    assert_eq!(server.generates(&key).await, 200);
    let path = format!("{ORG}/projects/{project}");
    let found = server.done(Method::GET, &path, Value::Null).await;
    assert_eq!(
        (&found["object"], &found["name"], &found["status"]),
        (&json!("organization.project"), &json!("Acme"), &json!("active"))
    );
    let renamed = server.done(Method::POST, &path, json!({"name": " Acme Ltd "})).await;
    assert_eq!(renamed["name"], "Acme Ltd");
    let listed = server.done(Method::GET, &format!("{path}/api_keys"), Value::Null).await;
    assert_eq!(
        (&listed["data"][0]["id"], &listed["data"][0]["owner"]["service_account"]["id"]),
        (&json!(key_id), &json!(account))
    );
    assert!(!listed.to_string().contains(&key), "a key is shown once");

    let archived = server.done(Method::POST, &format!("{path}/archive"), Value::Null).await;
    assert!(archived["archived_at"].is_i64() && archived["status"] == "archived");
    assert_eq!(server.generates(&key).await, 401);
    let count = |list: Value| list["data"].as_array().unwrap().len();
    assert_eq!(count(server.done(Method::GET, &format!("{ORG}/projects"), Value::Null).await), 1);
    assert_eq!(count(server.done(Method::GET, &format!("{ORG}/projects?include_archived=true"), Value::Null).await), 2);
    let late = server.admin(Method::POST, &format!("{path}/service_accounts"), json!({"name": "x"})).await;
    assert_eq!(code(&late), (400, "project_archived"));
    let default = server.admin(Method::POST, &format!("{ORG}/projects/proj_default/archive"), Value::Null).await;
    assert_eq!(code(&default), (400, "default_project"));
    assert_eq!(code(&server.admin(Method::GET, &format!("{ORG}/projects/proj_nobody"), Value::Null).await), (404, "not_found"));
}

#[tokio::test]
async fn lists_come_in_pages_and_mistakes_are_named() {
    let server = Harness::new().await;
    for index in 0..5 {
        server.done(Method::POST, &format!("{ORG}/projects"), json!({"name": format!("p{index}")})).await;
    }
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let page = server.done(Method::GET, &format!("{ORG}/projects?limit=2{after}"), Value::Null).await;
        seen.extend(page["data"].as_array().unwrap().iter().map(|project| project["id"].as_str().unwrap().to_owned()));
        assert_eq!(page["last_id"].as_str(), seen.last().map(String::as_str));
        if page["has_more"] == false {
            break;
        }
        after = format!("&after={}", page["last_id"].as_str().unwrap());
    }
    let distinct: std::collections::BTreeSet<&String> = seen.iter().collect();
    assert_eq!((seen.len(), distinct.len()), (6, 6));
    for (path, param) in [
        ("projects?limit=0", "limit"),
        ("projects?after=proj_nobody", "after"),
        ("projects?include_archived=yes", "include_archived"),
        ("projects?colour=red", "colour"),
        ("usage/completions", "start_time"),
        ("usage/completions?start_time=0&group_by=batch", "group_by"),
        ("usage/completions?start_time=0&page=x", "page"),
        ("usage/completions?start_time=5&end_time=5", "end_time"),
        ("audit_logs?actor_emails[]=a@b", "actor_emails"),
    ] {
        let (status, answer) = server.admin(Method::GET, &format!("{ORG}/{path}"), Value::Null).await;
        assert_eq!((status, answer["error"]["param"].as_str()), (400, Some(param)), "{path}: {answer}");
    }
    for (body, param) in [
        (json!({}), "name"),
        (json!({"name": " "}), "name"),
        (json!({"name": 5}), "name"),
        (json!({"name": "x", "geography": "EU"}), "geography"),
        (json!({"name": "x", "colour": "red"}), "colour"),
    ] {
        let (status, answer) = server.admin(Method::POST, &format!("{ORG}/projects"), body).await;
        assert_eq!((status, answer["error"]["param"].as_str()), (400, Some(param)), "{answer}");
    }
}

#[tokio::test]
async fn what_openai_has_and_we_have_not_is_refused_by_name() {
    let server = Harness::new().await;
    for path in [
        "users",
        "invites",
        "projects/proj_default/users",
        "certificates",
        "usage/embeddings",
        "projects/x/service_tier_settings",
    ] {
        let answer = server.admin(Method::GET, &format!("{ORG}/{path}"), Value::Null).await;
        assert_eq!(code(&answer), (501, "not_supported"), "{path}");
        assert!(answer.1["error"]["message"].as_str().unwrap().contains(path.rsplit('/').next().unwrap()), "{}", answer.1);
    }
    assert_eq!(code(&server.admin(Method::GET, &format!("{ORG}/nothing"), Value::Null).await), (404, "unknown_url"));
}

#[tokio::test]
async fn service_accounts_and_their_keys_come_and_go() {
    let server = Harness::new().await;
    let (project, account, _, first) = server.tenant("Acme").await;
    let accounts = format!("{ORG}/projects/{project}/service_accounts");
    let bare = server.done(Method::POST, &accounts, json!({"name": "bare", "create_service_account_only": true})).await;
    assert_eq!((&bare["api_key"], &bare["role"]), (&Value::Null, &json!("none")));
    let (status, _) = server
        .admin(Method::POST, &accounts, json!({"name": "x", "create_service_account_only": true, "expires_in_seconds": 5}))
        .await;
    assert_eq!(status, 400);
    let one = format!("{accounts}/{account}");
    let second =
        server.done(Method::POST, &format!("{one}/api_keys"), json!({"name": "second", "expires_in_seconds": 600})).await;
    let second_key = second["value"].as_str().unwrap();
    assert!(second["expires_at"].as_i64().unwrap() - second["created_at"].as_i64().unwrap() == 600);
    assert_eq!(server.generates(second_key).await, 200);

    // Reading only, and all again.
    let path = format!("{ORG}/projects/{project}/api_keys/{}", second["id"].as_str().unwrap());
    server.done(Method::POST, &path, json!({"scopes": ["api.all.read"]})).await;
    assert_eq!(server.generates(second_key).await, 403);
    server.done(Method::POST, &path, json!({"scopes": []})).await;
    assert_eq!(server.generates(second_key).await, 200);
    let admin = server.admin(Method::POST, &path, json!({"scopes": ["admin"]})).await;
    assert_eq!((admin.0, &admin.1["error"]["param"]), (400, &json!("scopes")));

    assert_eq!(server.done(Method::POST, &one, json!({"role": "owner", "name": "boss"})).await["role"], "owner");
    let gone = server.done(Method::DELETE, &one, Value::Null).await;
    assert_eq!(gone, json!({"id": account, "object": "organization.project.service_account.deleted", "deleted": true}));
    assert_eq!((server.generates(&first).await, server.generates(second_key).await), (401, 401));
    assert_eq!(server.admin(Method::GET, &one, Value::Null).await.0, 404);
    let other = server.done(Method::POST, &format!("{ORG}/projects"), json!({"name": "Other"})).await;
    let foreign = format!("{ORG}/projects/{}/service_accounts/{}", other["id"].as_str().unwrap(), bare["id"].as_str().unwrap());
    assert_eq!(server.admin(Method::GET, &foreign, Value::Null).await.0, 404, "another tenant's");
}

#[tokio::test]
async fn admin_keys_are_made_and_revoked_but_the_last_one_stays() {
    let server = Harness::new().await;
    let path = format!("{ORG}/admin_api_keys");
    let made = server.done(Method::POST, &path, json!({"name": "second"})).await;
    let second = made["value"].as_str().unwrap();
    assert_eq!((made["object"].as_str(), made["owner"]["role"].as_str()), (Some("organization.admin_api_key"), Some("owner")));
    let listed: Reply = server.call(Method::GET, &path, None, second, &[]).await;
    assert_eq!(listed.json()["data"].as_array().unwrap().len(), 2);
    assert!(!listed.text.contains(second));
    let one = format!("{path}/{}", made["id"].as_str().unwrap());
    assert_eq!(server.done(Method::GET, &one, Value::Null).await["redacted_value"], made["redacted_value"]);
    assert_eq!(server.done(Method::DELETE, &format!("{path}/admin"), Value::Null).await["deleted"], true);
    assert_eq!(server.call(Method::GET, &path, None, KEY, &[]).await.status.as_u16(), 401, "revoked at once");
    let last = server.call(Method::DELETE, &one, None, second, &[]).await;
    assert_eq!((last.status.as_u16(), last.json()["error"]["code"].as_str()), (400, Some("last_admin_key")));
}

#[tokio::test]
async fn keys_have_all_that_keys_can_have_and_rotate_with_an_overlap() {
    let server = Harness::new().await;
    let (project, ..) = server.tenant("Acme").await;
    let wanted = json!({
        "project_id": project, "name": "batch", "scopes": ["inference", "read_only"], "models": [BASE], "labels": {"team": "a"},
        "priority": "batch", "caching": "always", "expires_in_seconds": 3600,
    });
    let made = server.done(Method::POST, "/admin/keys", wanted.clone()).await;
    for field in ["project_id", "name", "scopes", "models", "labels", "priority", "caching"] {
        assert_eq!(made[field], wanted[field], "{field}");
    }
    let (id, old) = (made["id"].as_str().unwrap(), made["value"].as_str().unwrap());
    let limit = json!({"requests_per_minute": 600, "burst": 50, "tokens_per_minute": null, "concurrent_requests": 5});
    let placed = server.done(Method::PUT, &format!("/admin/limits/key/{id}/*"), limit.clone()).await;
    assert_eq!((&placed["burst"], &placed["id"]), (&json!(50), &json!(format!("key/{id}/*"))));

    let rotated = server.done(Method::POST, &format!("/admin/keys/{id}/rotate"), json!({"overlap_seconds": 60})).await;
    let new = rotated["value"].as_str().unwrap();
    assert_eq!(
        (&rotated["replaces"], &rotated["models"], &rotated["expires_at"]),
        (&json!(id), &made["models"], &made["expires_at"])
    );
    assert!(rotated["replaced"]["expires_at"].as_i64() < made["expires_at"].as_i64());
    assert_eq!((server.generates(old).await, server.generates(new).await), (200, 200));
    let copied = server
        .done(Method::GET, &format!("/admin/limits?scope=key&subject={}", rotated["id"].as_str().unwrap()), Value::Null)
        .await;
    assert_eq!(copied["data"][0]["concurrent_requests"], 5, "limits go along");
    let again = format!("/admin/keys/{}/rotate", rotated["id"].as_str().unwrap());
    let third = server.done(Method::POST, &again, json!({})).await;
    assert_eq!(server.generates(new).await, 401, "without an overlap it ends at once");
    let id = third["id"].as_str().unwrap();

    let changed = server
        .done(Method::POST, &format!("/admin/keys/{id}"), json!({"models": null, "expires_at": null, "priority": "high"}))
        .await;
    assert_eq!((&changed["models"], &changed["expires_at"], &changed["priority"]), (&Value::Null, &Value::Null, &json!("high")));
    let (status, answer) = server.admin(Method::POST, "/admin/keys", json!({"name": "whose?"})).await;
    assert_eq!((status, &answer["error"]["param"]), (400, &json!("scopes")), "nobody gets an admin key by mistake");
    for (body, param) in [
        (json!({"priority": "urgent"}), "priority"),
        (json!({"models": []}), "models"),
        (json!({"models": ["a@1"]}), "models"),
        (json!({"labels": {"a": 1}}), "labels.a"),
        (json!({"scopes": ["root"]}), "scopes"),
        (json!({"expires_at": 5}), "expires_at"),
        (json!({"expires_at": 5_000_000_000_i64, "expires_in_seconds": 5}), "expires_at"),
    ] {
        let (status, answer) = server.admin(Method::POST, &format!("/admin/keys/{id}"), body.clone()).await;
        assert_eq!((status, answer["error"]["param"].as_str()), (400, Some(param)), "{body}: {answer}");
    }
    assert_eq!(server.done(Method::DELETE, &format!("/admin/keys/{id}"), Value::Null).await["deleted"], true);
    assert_eq!(server.generates(third["value"].as_str().unwrap()).await, 401);
    assert_eq!(server.admin(Method::GET, &format!("/admin/keys/{id}"), Value::Null).await.0, 404);
}

#[tokio::test]
async fn rate_limits_show_what_is_in_force_on_each_model() {
    let server = Harness::new().await;
    server.load("polite", 1).await;
    let (project, ..) = server.tenant("Acme").await;
    let path = format!("{ORG}/projects/{project}/rate_limits");
    let none = (1i64 << 53) - 1;
    let limits = async || {
        let list = server.done(Method::GET, &path, Value::Null).await;
        let one = |row: &Value| {
            let number = |name: &str| row[name].as_i64().unwrap();
            (row["id"].as_str().unwrap().to_owned(), number("max_requests_per_1_minute"), number("max_tokens_per_1_minute"))
        };
        list["data"].as_array().unwrap().iter().map(one).collect::<Vec<_>>()
    };
    let row = |id: &str, requests, tokens| (id.to_owned(), requests, tokens);
    assert_eq!(limits().await, [row("rl-*", none, none), row("rl-tiny", none, none), row("rl-polite", none, none)]);
    server.done(Method::PUT, "/admin/limits/default/*/*", json!({"requests_per_minute": 100, "tokens_per_minute": 5000})).await;
    let set = server.done(Method::POST, &format!("{path}/rl-polite"), json!({"max_tokens_per_1_minute": 70})).await;
    assert_eq!((&set["model"], &set["max_tokens_per_1_minute"]), (&json!("polite"), &json!(70)));
    server.done(Method::POST, &format!("{path}/rl-*"), json!({"max_requests_per_1_minute": 7})).await;
    assert_eq!(limits().await, [row("rl-*", 7, 5000), row("rl-tiny", none, none), row("rl-polite", none, 70)]);
    server.done(Method::POST, &format!("{path}/rl-polite"), json!({"max_tokens_per_1_minute": none})).await;
    assert_eq!(limits().await[2], row("rl-polite", none, none));
    let page = server.done(Method::GET, &format!("{path}?limit=1&after=rl-*"), Value::Null).await;
    assert_eq!((&page["data"][0]["id"], &page["has_more"]), (&json!("rl-tiny"), &json!(true)));
    for (id, body, status) in [
        ("rl-nobody", json!({}), 404),
        ("tiny", json!({}), 404),
        ("rl-tiny", json!({"max_images_per_1_minute": 5}), 400),
        ("rl-tiny", json!({"max_tokens_per_1_minute": -1}), 400),
    ] {
        assert_eq!(server.admin(Method::POST, &format!("{path}/{id}"), body).await.0, status, "{id}");
    }
    let bad = server.admin(Method::PUT, &format!("/admin/limits/project/{project}/tiny"), json!({"burst": 5})).await;
    assert_eq!((bad.0, &bad.1["error"]["param"]), (400, &json!("burst")));
    server.done(Method::DELETE, &format!("/admin/limits/project/{project}/*"), Value::Null).await;
    assert_eq!(limits().await[0], row("rl-*", 100, 5000), "the default again");

    let permissions = format!("{ORG}/projects/{project}/model_permissions");
    assert_eq!(server.admin(Method::GET, &permissions, Value::Null).await.0, 404);
    server.done(Method::POST, &permissions, json!({"mode": "allow_list", "model_ids": ["polite"]})).await;
    assert!(!server.tenants.policy().may_use(&project, "tiny") && server.tenants.policy().may_use(&project, "polite"));
    assert_eq!(server.done(Method::GET, &permissions, Value::Null).await["model_ids"], json!(["polite"]));
    server.done(Method::DELETE, &permissions, Value::Null).await;
    assert!(server.tenants.policy().may_use(&project, "tiny"));
}

#[tokio::test]
async fn money_is_limited_told_and_priced() {
    let server = Harness::new().await;
    let (project, _, key, _) = server.tenant("Acme").await;
    let month = |cents: i64| json!({"currency": "USD", "interval": "month", "threshold_amount": cents});
    for path in [format!("{ORG}/spend_limit"), format!("{ORG}/projects/{project}/spend_limit")] {
        assert_eq!(server.admin(Method::GET, &path, Value::Null).await.0, 404);
        let set = server.done(Method::POST, &path, month(1250)).await;
        assert_eq!((&set["threshold_amount"], &set["enforcement"]["status"]), (&json!(1250), &json!("inactive")));
        assert_eq!(server.done(Method::POST, &path, month(900)).await["threshold_amount"], 900);
        assert_eq!(server.done(Method::GET, &path, Value::Null).await["threshold_amount"], 900);
    }
    let hard: Vec<i64> = server.tenants.policy().budgets.iter().map(|budget| budget.limit).collect();
    assert_eq!(hard, [9_000_000_000, 9_000_000_000], "in force at once");
    let twice = json!({"scope": "project", "subject": project, "period": "month", "enforcement": "hard", "limit_usd": "1"});
    assert_eq!(code(&server.admin(Method::POST, "/admin/budgets", twice).await), (400, "budget_exists"));
    assert_eq!(server.done(Method::DELETE, &format!("{ORG}/spend_limit"), Value::Null).await["deleted"], true);

    let alerts = format!("{ORG}/projects/{project}/spend_alerts");
    let mut body = month(500);
    body["notification_channel"] = json!({"type": "email", "recipients": ["a@example.com"]});
    let alert = server.done(Method::POST, &alerts, body.clone()).await;
    assert_eq!(alert["notification_channel"]["recipients"], json!(["a@example.com"]));
    body["threshold_amount"] = json!(600);
    let one = format!("{alerts}/{}", alert["id"].as_str().unwrap());
    assert_eq!(server.done(Method::POST, &one, body.clone()).await["threshold_amount"], 600);
    assert_eq!(server.admin(Method::GET, &one.replace(&format!("projects/{project}/"), ""), Value::Null).await.0, 404);
    body["notification_channel"]["type"] = json!("pager");
    let (status, answer) = server.admin(Method::POST, &alerts, body).await;
    assert_eq!((status, &answer["error"]["param"]), (400, &json!("notification_channel.type")));
    assert_eq!(server.done(Method::GET, &alerts, Value::Null).await["data"].as_array().unwrap().len(), 1);
    server.done(Method::DELETE, &one, Value::Null).await;

    let budget = json!({"scope": "key", "subject": key, "period": "day", "enforcement": "soft", "limit_usd": "0.000000001"});
    let budget = server.done(Method::POST, "/admin/budgets", budget).await;
    assert_eq!((&budget["limit_usd"], &budget["thresholds"]), (&json!("0.000000001"), &json!([50, 80, 100])));
    let one = format!("/admin/budgets/{}", budget["id"].as_str().unwrap());
    let changed = server.done(Method::POST, &one, json!({"limit_usd": 0.15, "thresholds": [100, 90, 90]})).await;
    assert_eq!((&changed["limit_usd"], &changed["thresholds"]), (&json!("0.15"), &json!([90, 100])));
    assert_eq!(server.done(Method::GET, &one, Value::Null).await["spent_usd"], "0");
    assert_eq!(server.admin(Method::POST, &one, json!({"limit_usd": "-1"})).await.0, 400);
    server.done(Method::DELETE, &one, Value::Null).await;

    let usd = json!({"input": "0.15", "cached_input": 0.075, "output": "0.60"});
    let price = server.done(Method::POST, "/admin/prices", json!({"model": BASE, "usd_per_million_tokens": usd})).await;
    assert_eq!(
        price["usd_per_million_tokens"],
        json!({"input": "0.15", "cached_input": "0.075", "output": "0.6", "training": "0"})
    );
    assert_eq!(server.tenants.policy().prices.of(&project, BASE)[0].input, 150_000_000);
    let now = price["valid_from"].as_i64().unwrap();
    let same = json!({"model": BASE, "valid_from": now, "usd_per_million_tokens": usd});
    assert_eq!(code(&server.admin(Method::POST, "/admin/prices", same).await), (400, "price_exists"));
    let past = json!({"valid_from": now - 4000, "usd_per_million_tokens": usd});
    assert_eq!(server.admin(Method::POST, "/admin/prices", past).await.1["error"]["param"], "valid_from");
    let one = |price: &Value| format!("/admin/prices/{}", price["id"].as_str().unwrap());
    assert_eq!(code(&server.admin(Method::DELETE, &one(&price), Value::Null).await), (400, "price_in_force"));
    let future =
        server.done(Method::POST, "/admin/prices", json!({"valid_from": now + 4000, "usd_per_million_tokens": usd})).await;
    server.done(Method::DELETE, &one(&future), Value::Null).await;
    assert_eq!(server.done(Method::GET, "/admin/prices", Value::Null).await["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn webhooks_show_their_secret_once_and_call_only_sound_addresses() {
    let server = Harness::new().await;
    let made = server.done(Method::POST, "/admin/webhooks", json!({"url": "https://example.com/hook"})).await;
    let secret = made["secret"].as_str().unwrap();
    assert!(secret.starts_with("whsec_"));
    let one = format!("/admin/webhooks/{}", made["id"].as_str().unwrap());
    let changed = server.done(Method::POST, &one, json!({"url": "http://127.0.0.1:9/x"})).await;
    assert_eq!(changed["url"], "http://127.0.0.1:9/x");
    for path in ["/admin/webhooks", one.as_str(), "/v1/organization/audit_logs"] {
        assert!(!server.done(Method::GET, path, Value::Null).await.to_string().contains(&secret[6..]), "{path}");
    }
    assert_eq!(server.done(Method::GET, &format!("{one}/deliveries"), Value::Null).await["data"], json!([]));
    let bad = server.admin(Method::POST, "/admin/webhooks", json!({"url": "http://example.com"})).await;
    assert_eq!((bad.0, &bad.1["error"]["param"]), (400, &json!("url")));
    server.done(Method::DELETE, &one, Value::Null).await;
    assert_eq!(server.admin(Method::GET, &one, Value::Null).await.0, 404);
}
