//! Rollouts of the real binary: killed in every state and at any moment, and driven by two processes on one database.

use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::postgres::new_database;
use crate::support::{Home, Server, adapter};

const ADMIN: &str = "an-admin-key-for-tests-0123456789";

fn serve(home: &Home, more: &[&str]) -> Server {
    let secret = "5a".repeat(32);
    let arguments = [&["--backend", "null", "--null-delay", "1ms"], more].concat();
    let mut server = home.serve_with(&arguments, &[("SWITCHYARD_ADMIN_KEY", ADMIN), ("SWITCHYARD_SECRET_KEY", &secret)]);
    server.key = ADMIN.to_owned();
    server
}

async fn post(server: &Server, path: &str, body: Value) -> Value {
    let (status, text) = server.post(path, &body).await;
    assert_eq!(status, 200, "{path} {body}: {text}");
    serde_json::from_str(&text).unwrap()
}

/// `support@1` and `support@2`.
async fn load_versions(server: &Server) {
    for name in ["r4-qv", "r8-all-rslora"] {
        let (status, text) = server.load("support", adapter(name).to_str().unwrap(), true).await;
        assert_eq!(status, 200, "{text}");
    }
}

/// A deployment of the first version, and a rollout of the second.
async fn begin(server: &Server, name: &str, plan: Value) -> String {
    let arms = json!([{"name": "stable", "model": "support@1", "weight": 100}]);
    post(server, "/admin/deployments", json!({"name": name, "arms": arms})).await;
    let mut body = json!({"model": "support@2", "min_samples": 0});
    plan.as_object().unwrap().iter().for_each(|(field, value)| body[field] = value.clone());
    let rollout = post(server, &format!("/admin/deployments/{name}/rollouts"), body).await;
    rollout["id"].as_str().unwrap().to_owned()
}

async fn show(server: &Server, id: &str) -> Value {
    let (status, rollout) = server.get(&format!("/admin/rollouts/{id}")).await;
    assert_eq!(status, 200, "{rollout}");
    rollout
}

async fn steer(server: &Server, id: &str, what: &str) -> Value {
    post(server, &format!("/admin/rollouts/{id}/{what}"), json!({})).await
}

/// Waits until a rollout is in a state, and the deployment as that says.
async fn reaches(server: &Server, id: &str, state: &str) -> Value {
    let began = Instant::now();
    loop {
        let rollout = show(server, id).await;
        if rollout["state"] == state && rollout["in_effect"] == true {
            return rollout;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "it does not become {state}: {rollout}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What the revisions of a deployment that its rollout has made were for, the oldest first.
async fn revisions(server: &Server, name: &str) -> Vec<String> {
    let (_, history) = server.get(&format!("/admin/deployments/{name}/history?limit=100")).await;
    let reasons = history["data"].as_array().unwrap().iter().rev().filter_map(|one| one["reason"].as_str());
    reasons
        .filter_map(|reason| reason.split_once(' ')?.1.split_once(' '))
        .map(|(_, what)| what.split(':').next().unwrap().to_owned())
        .collect()
}

/// Hours that are not now.
fn later() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let hour = (now / 3_600 + 3) % 24;
    format!("{hour:02}:00-{:02}:00 UTC", (hour + 1) % 24)
}

#[tokio::test]
async fn every_state_is_exactly_the_same_after_kill_9_and_goes_on() {
    let home = Home::new();
    let server = serve(&home, &[]);
    load_versions(&server).await;
    let long = json!({"steps": [10, 100], "bake_seconds": 3600});
    let short = json!({"steps": [10, 100], "bake_seconds": 0, "min_samples": 5, "deadline_seconds": 3600});
    let pending = begin(&server, "pending", json!({"hours": later()})).await;
    let shadow = begin(&server, "shadow", json!({"shadow": {"percent": 100, "bake_seconds": 3600}})).await;
    let progressing = begin(&server, "progressing", long.clone()).await;
    let baking = begin(&server, "baking", json!({"steps": [100], "bake_seconds": 4})).await;
    let paused = begin(&server, "paused", long.clone()).await;
    let inconclusive = begin(&server, "inconclusive", short.clone()).await;
    let deadline = json!({"steps": [10, 100], "bake_seconds": 0, "min_samples": 5, "deadline_seconds": 4});
    let overdue = begin(&server, "overdue", deadline).await;
    let (promoted, aborted) = (begin(&server, "promoted", long.clone()).await, begin(&server, "aborted", long).await);
    let rolled_back =
        begin(&server, "rolled-back", json!({"steps": [10, 100], "bake_seconds": 0, "min_samples": 5, "deadline_seconds": 0}))
            .await;
    for (id, what) in [(&paused, "pause"), (&promoted, "promote"), (&aborted, "abort")] {
        reaches(&server, id, "progressing").await;
        steer(&server, id, what).await;
    }
    let states = [
        (&pending, "pending"),
        (&shadow, "shadow"),
        (&progressing, "progressing"),
        (&baking, "progressing"),
        (&paused, "paused"),
        (&inconclusive, "inconclusive"),
        (&overdue, "inconclusive"),
        (&promoted, "promoted"),
        (&aborted, "aborted"),
        (&rolled_back, "rolled_back"),
    ];
    let mut before = Vec::new();
    for (id, state) in states {
        before.push(reaches(&server, id, state).await);
    }
    let (_, deployments) = server.get("/admin/deployments").await;
    server.kill();

    let server = serve(&home, &[]);
    for ((id, state), before) in states.into_iter().zip(&before) {
        let after = show(&server, id).await;
        // These two have a time at which they go on, which may be over.
        if [&baking, &overdue].contains(&id) && after["state"] != state {
            continue;
        }
        assert_eq!(after, *before, "{state}");
    }
    assert_eq!(reaches(&server, &baking, "promoted").await["weight"], 100);
    let overdue = reaches(&server, &overdue, "rolled_back").await;
    assert!(overdue["reason"].as_str().unwrap().contains("until its deadline"), "{overdue}");
    let (_, now) = server.get("/admin/deployments").await;
    for (now, before) in now["data"].as_array().unwrap().iter().zip(deployments["data"].as_array().unwrap()) {
        let moved = ["baking", "overdue"].contains(&before["name"].as_str().unwrap());
        assert!(moved || now == before, "{now} {before}");
    }
    // They go on.
    steer(&server, &pending, "promote").await;
    steer(&server, &shadow, "abort").await;
    steer(&server, &progressing, "promote").await;
    steer(&server, &paused, "resume").await;
    steer(&server, &inconclusive, "resume").await;
    reaches(&server, &pending, "promoted").await;
    reaches(&server, &shadow, "aborted").await;
    reaches(&server, &progressing, "promoted").await;
    assert_eq!(reaches(&server, &paused, "progressing").await["weight"], 10);
    let resumed = show(&server, &inconclusive).await;
    assert_eq!((&resumed["step"], &resumed["weight"]), (&json!(2), &json!(100)));
    for name in ["shadow", "aborted", "rolled-back"] {
        let (_, deployment) = server.get(&format!("/admin/deployments/{name}")).await;
        assert_eq!((&deployment["arms"][0]["model"], &deployment["shadow"]), (&json!("support@1"), &Value::Null), "{deployment}");
    }
    for name in ["pending", "progressing", "promoted", "baking"] {
        let (_, deployment) = server.get(&format!("/admin/deployments/{name}")).await;
        assert_eq!(deployment["arms"], json!([{"model": "support@2", "name": "stable", "weight": 100}]), "{deployment}");
    }
    server.stop();
}

/// Twenty steps as fast as they go: nobody sends anything, and the deadline is over at once.
fn fast() -> Value {
    let steps: Vec<u32> = (1..=20).map(|step| step * 5).collect();
    json!({"steps": steps, "bake_seconds": 0, "deadline_seconds": 0, "on_deadline": "advance"})
}

fn steps_and(last: &str) -> Vec<String> {
    (1..=20).map(|step| format!("step {step}")).chain([last.to_owned()]).collect()
}

#[tokio::test]
async fn killed_at_any_moment_each_step_is_made_once_and_in_order() {
    let home = Home::new();
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut server = serve(&home, &[]);
    load_versions(&server).await;
    let mut kills = 0;
    for round in 0..4 {
        let name = format!("ramp-{round}");
        let id = begin(&server, &name, fast()).await;
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(rng.random_range(5..150))).await;
            server.kill();
            kills += 1;
            server = serve(&home, &[]);
        }
        reaches(&server, &id, "promoted").await;
        assert_eq!(revisions(&server, &name).await, steps_and("promoted"), "after {kills} kills");
    }
    server.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_on_one_database_do_not_step_twice() {
    let Some(database) = new_database().await else { return };
    let (home_a, home_b) = (Home::new(), Home::new());
    let (a, b) = (serve(&home_a, &["--database", &database]), serve(&home_b, &["--database", &database]));
    load_versions(&a).await;
    load_versions(&b).await;
    for round in 0..5 {
        let name = format!("ramp-{round}");
        let id = begin(if round % 2 == 0 { &a } else { &b }, &name, fast()).await;
        reaches(&a, &id, "promoted").await;
        assert_eq!(revisions(&b, &name).await, steps_and("promoted"));
    }
    // What one is told, the other does.
    let id = begin(&a, "long", json!({"steps": [10, 100], "bake_seconds": 3600})).await;
    reaches(&b, &id, "progressing").await;
    steer(&b, &id, "abort").await;
    reaches(&a, &id, "aborted").await;
    assert_eq!(revisions(&a, "long").await, ["step 1", "back"]);
    a.stop();
    b.stop();
}
