//! Two processes on one PostgreSQL: what is changed through one holds in the other, and what both used adds up.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::postgres::new_database;
use crate::support::{Home, Server};

const ADMIN: &str = "an-admin-key-for-tests-0123456789";

fn serve(home: &Home, database: &str) -> Server {
    let arguments = ["--backend", "null", "--null-delay", "1ms", "--database", database];
    let secret = "5a".repeat(32);
    let mut server = home.serve_with(&arguments, &[("SWITCHYARD_ADMIN_KEY", ADMIN), ("SWITCHYARD_SECRET_KEY", &secret)]);
    server.key = ADMIN.to_owned();
    server
}

async fn post(server: &Server, path: &str, body: Value) -> Value {
    let (status, text) = server.post(path, &body).await;
    assert_eq!(status, 200, "{path} {body}: {text}");
    serde_json::from_str(&text).unwrap()
}

/// Status of a completion with a key.
async fn generates(server: &Server, key: &str) -> u16 {
    let body = json!({"model": "llama3", "prompt": "one two", "max_tokens": 3});
    let request = crate::support::client().post(format!("{}/v1/completions", server.url)).bearer_auth(key).json(&body);
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    // To its end: what was answered in full is in the ledger.
    response.text().await.unwrap();
    status
}

/// Seconds until a key is refused, and how many answers it still got; at most five seconds are waited.
async fn until_refused(server: &Server, key: &str) -> (f64, i64) {
    let (began, mut answers) = (Instant::now(), 0);
    while generates(server, key).await == 200 {
        answers += 1;
        assert!(began.elapsed() < Duration::from_secs(5), "it is not refused");
    }
    (began.elapsed().as_secs_f64(), answers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_usage_are_shared() {
    let Some(database) = new_database().await else { return };
    let (home_a, home_b) = (Home::new(), Home::new());
    let a = serve(&home_a, &database);
    let b = serve(&home_b, &database);
    let project = post(&a, "/v1/organization/projects", json!({"name": "Acme"})).await;
    let accounts = format!("/v1/organization/projects/{}/service_accounts", project["id"].as_str().unwrap());
    let account = post(&a, &accounts, json!({"name": "worker"})).await;
    let key = account["api_key"]["value"].as_str().unwrap();
    assert_eq!((generates(&a, key).await, generates(&b, key).await), (200, 200), "made on one, used on both");
    for _ in 0..20 {
        let (on_a, on_b) = tokio::join!(generates(&a, key), generates(&b, key));
        assert_eq!((on_a, on_b), (200, 200));
    }

    // Revoked through the one that did not make it; both know the key by heart.
    let path = format!("/admin/keys/{}", account["api_key"]["id"].as_str().unwrap());
    let revoked = crate::support::client().delete(format!("{}{path}", b.url)).bearer_auth(ADMIN).send().await.unwrap();
    assert_eq!(revoked.status().as_u16(), 200);
    assert_eq!(generates(&b, key).await, 401, "at once where it was revoked");
    let (seconds, late) = until_refused(&a, key).await;
    assert_eq!(generates(&a, key).await, 401);
    eprintln!("revoked on the other process after {seconds:.3} s");
    assert!(seconds < 1.0, "the other one took {seconds} s");

    // Both see what both used.
    let all = 42 + late;
    let path = "/v1/organization/usage/completions?start_time=0&limit=31&bucket_width=1d&group_by[]=project_id";
    for server in [&a, &b] {
        let began = Instant::now();
        let used = loop {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
            let path = path.replace("start_time=0", &format!("start_time={}", now - 86_400));
            let (_, page) = server.get(&path).await;
            let results = page["data"].as_array().unwrap().iter().flat_map(|bucket| bucket["results"].as_array().unwrap());
            let used: i64 = results.map(|result| result["num_model_requests"].as_i64().unwrap()).sum();
            if used >= all || began.elapsed() > Duration::from_secs(5) {
                break used;
            }
        };
        assert_eq!(used, all);
    }
    a.stop();
    let secret = "5a".repeat(32);
    let verify =
        home_b.command(&["usage", "verify", "--database", &database]).env("SWITCHYARD_SECRET_KEY", &secret).output().unwrap();
    let out = String::from_utf8(verify.stdout).unwrap();
    assert!(verify.status.success() && out.contains(&format!("{all} requests")), "{out}");
    // Another secret key would let nobody in, and says so.
    let stranger = home_a.command(&["tenants", "list", "--database", &database]).output().unwrap();
    let err = String::from_utf8(stranger.stderr).unwrap();
    assert!(stranger.status.code() == Some(1) && err.contains("SWITCHYARD_SECRET_KEY") && !err.contains("postgres://"), "{err}");
    b.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_that_is_changed_on_one_is_changed_on_the_other() {
    let Some(database) = new_database().await else { return };
    let (home_a, home_b) = (Home::new(), Home::new());
    let (a, b) = (serve(&home_a, &database), serve(&home_b, &database));
    let arms = json!([{"name": "one", "model": "llama3", "weight": 100}, {"name": "two", "model": "llama3", "weight": 0}]);
    post(&a, "/admin/deployments", json!({"name": "front", "arms": arms})).await;
    for (from, body, arm) in [
        ("weights", json!({"weights": {"two": 100}}), "two"),
        ("rollback", json!({}), "one"),
        ("weights", json!({"weights": {"two": 100}}), "two"),
    ] {
        post(&a, &format!("/admin/deployments/front/{from}"), body).await;
        let began = Instant::now();
        let answered = async |server: &Server| {
            let body = json!({"model": "front", "prompt": "one two", "max_tokens": 3});
            let request = crate::support::client().post(format!("{}/v1/completions", server.url)).bearer_auth(ADMIN).json(&body);
            let response = request.send().await.unwrap();
            response.headers().get("x-experiment-arm").map(|arm| arm.to_str().unwrap().to_owned())
        };
        assert_eq!(answered(&a).await.as_deref(), Some(arm), "at once where it was changed");
        while answered(&b).await.as_deref() != Some(arm) {
            assert!(began.elapsed() < Duration::from_secs(1), "the other one does not know of it");
        }
    }
    a.stop();
    b.stop();
}
