//! Replicas with one PostgreSQL and one S3: an adapter that one takes is everybody's, and so are files and training jobs.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::objects::{BUCKET, S3};
use crate::postgres::new_database;
use crate::support::{Home, Server, adapter, client};
use crate::training::{begin, digests, watch};

const ADMIN: &str = "an-admin-key-for-tests-0123456789";

/// What replicas share.
struct Common {
    database: String,
    objects: S3,
}

impl Common {
    async fn start() -> Option<Self> {
        Some(Self { database: new_database().await?, objects: S3::start().await? })
    }

    fn serve(&self, home: &Home, arguments: &[&str]) -> Server {
        let url = format!("s3://{BUCKET}/a/prefix");
        let golden = adapter("").display().to_string();
        let mut all = vec!["--database", &self.database, "--objects", &url, "--adapter-root", &golden];
        all.extend_from_slice(arguments);
        let secret = "5a".repeat(32);
        let mut variables = vec![("SWITCHYARD_ADMIN_KEY", ADMIN), ("SWITCHYARD_SECRET_KEY", &secret)];
        let given = self.objects.variables();
        variables.extend(given.iter().map(|(name, value)| (*name, value.as_str())));
        let mut server = home.serve_with(&all, &variables);
        server.key = ADMIN.to_owned();
        server
    }
}

/// Asks again until it is so; half a minute is for a slow machine.
async fn eventually(what: &str, so: impl AsyncFn() -> bool) {
    let began = Instant::now();
    while !so().await {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}: it never was");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// `None` where the model cannot be called.
async fn says(server: &Server, model: &str) -> Option<String> {
    let body = json!({"model": model, "prompt": "one two three", "max_tokens": 16, "temperature": 0, "ignore_eos": true});
    let (status, text) = server.post("/v1/completions", &body).await;
    assert!([200, 404].contains(&status), "{text}");
    let reply: Value = serde_json::from_str(&text).unwrap();
    (status == 200).then(|| reply["choices"][0]["text"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adapter_that_one_takes_is_served_by_all() {
    let Some(common) = Common::start().await else { return };
    let homes = [Home::new(), Home::new(), Home::new()];
    let [a, b, c] = homes.each_ref().map(|home| common.serve(home, &[]));

    // Loaded on one, served by all, under the same number.
    assert_eq!(a.load("mine", "r4-qv", false).await.0, 200);
    let first = says(&a, "mine").await.unwrap();
    for other in [&b, &c] {
        eventually("served", async || says(other, "mine").await.as_ref() == Some(&first)).await;
        assert_eq!(says(other, "mine@1").await.as_ref(), Some(&first));
    }

    // Swapped on another one; the earlier version can be called everywhere.
    let swapped = b.load("mine", "regex", true).await;
    assert_eq!(swapped.0, 200, "{}", swapped.1);
    let second = says(&b, "mine").await.unwrap();
    assert_ne!(first, second);
    for other in [&a, &c] {
        eventually("swapped", async || says(other, "mine").await.as_ref() == Some(&second)).await;
        assert_eq!(says(other, "mine@1").await.as_ref(), Some(&first));
        assert_eq!(says(other, "mine@2").await.as_ref(), Some(&second));
    }

    // Two at the same moment: each gets a number of its own, and all agree on what the name means.
    let (on_a, on_b) = tokio::join!(a.load("mine", "r4-qv", true), b.load("mine", "regex", true));
    assert_eq!((on_a.0, on_b.0), (200, 200));
    eventually("agreed", async || {
        let all = [says(&a, "mine").await, says(&b, "mine").await, says(&c, "mine").await];
        all[0] == all[1] && all[1] == all[2]
    })
    .await;

    // Out of service on one, out of service on all.
    let (status, text) = c.post("/v1/unload_lora_adapter", &json!({"lora_name": "mine"})).await;
    assert_eq!(status, 200, "{text}");
    for other in [&a, &b] {
        eventually("unloaded", async || says(other, "mine").await.is_none()).await;
    }

    // One that starts later, without anything on its disk, has what the others have.
    assert_eq!(b.load("theirs", "r4-qv", false).await.0, 200);
    let late = Home::new();
    let late = common.serve(&late, &[]);
    assert_eq!(says(&late, "theirs").await.as_ref(), Some(&first));
    assert!(says(&late, "mine").await.is_none());
    for server in [a, b, c, late] {
        server.stop();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_copy_is_fetched_again_and_the_copies_stay_in_their_budget() {
    let Some(common) = Common::start().await else { return };
    let (home_a, home_b) = (Home::new(), Home::new());
    let a = common.serve(&home_a, &[]);
    assert_eq!(a.load("mine", "r4-qv", false).await.0, 200);
    let said = says(&a, "mine").await.unwrap();
    // Room for less than two: one is here, the other is fetched when it is asked for.
    let small = ["--objects-cache", "1", "--adapter-memory", "1"];
    let b = common.serve(&home_b, &small);
    assert_eq!(says(&b, "mine").await.as_ref(), Some(&said));
    assert_eq!(a.load("other", "regex", false).await.0, 200);
    eventually("served", async || says(&b, "other").await.is_some()).await;
    assert_eq!(says(&b, "mine").await.as_ref(), Some(&said));
    let copies = || std::fs::read_dir(home_b.data().join("versions")).unwrap().flatten().collect::<Vec<_>>();
    assert_eq!(copies().len(), 1, "{:?}", copies());
    b.stop();
    for copy in copies() {
        std::fs::write(copy.path().join("adapter_model.safetensors"), b"damaged").unwrap();
    }
    let b = common.serve(&home_b, &small);
    assert_eq!((says(&b, "mine").await.as_ref(), says(&b, "other").await.is_some()), (Some(&said), true));
    a.stop();
    b.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_had_by_itself_is_everybodys_when_it_joins() {
    let Some(common) = Common::start().await else { return };
    let home = Home::new();
    let golden = adapter("").display().to_string();
    let alone = home.serve(&["--adapter-root", &golden]);
    assert_eq!(alone.load("mine", "r4-qv", false).await.0, 200);
    let said = says(&alone, "mine").await.unwrap();
    alone.stop();
    let joined = common.serve(&home, &[]);
    let (other_home, late_home) = (Home::new(), Home::new());
    let other = common.serve(&other_home, &[]);
    for server in [&joined, &other] {
        assert_eq!(says(server, "mine").await.as_ref(), Some(&said));
    }
    // Taken out of service by one while the one that brought it is away: it does not bring it back.
    joined.stop();
    assert_eq!(other.post("/v1/unload_lora_adapter", &json!({"lora_name": "mine"})).await.0, 200);
    let joined = common.serve(&home, &[]);
    let late = common.serve(&late_home, &[]);
    for server in [&joined, &late] {
        assert!(says(server, "mine").await.is_none());
    }
    let listed = home.run(&["adapters", "list"]);
    assert!(listed.code != Some(0) && listed.err.contains("shared with other replicas"), "{listed:?}");
    for server in [joined, other, late] {
        server.stop();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_one_takes_can_be_read_on_all() {
    let Some(common) = Common::start().await else { return };
    let homes = [Home::new(), Home::new()];
    let [a, b] = homes.each_ref().map(|home| common.serve(home, &["--training-jobs", "elsewhere"]));
    let id = begin(&a, ADMIN).await;
    let job: Value = b.get(&format!("/v1/fine_tuning/jobs/{id}")).await.1;
    let path = format!("/v1/files/{}/content", job["training_file"].as_str().unwrap());
    let [on_a, on_b] = [&a, &b].map(async |server: &Server| {
        let reply = client().get(format!("{}{path}", server.url)).bearer_auth(ADMIN).send().await.unwrap();
        assert_eq!(reply.status().as_u16(), 200);
        reply.text().await.unwrap()
    });
    let (on_a, on_b) = (on_a.await, on_b.await);
    assert!(on_a.lines().count() == 50 && on_a == on_b);
    // Nobody works on jobs here: it waits.
    assert_eq!(b.get(&format!("/v1/fine_tuning/jobs/{id}")).await.1["status"], "validating_files");
    a.stop();
    b.stop();
}

/// What was said of a job, the newest first.
async fn messages(server: &Server, id: &str) -> Vec<String> {
    let (mut messages, mut after) = (Vec::new(), String::new());
    loop {
        let page = server.get(&format!("/v1/fine_tuning/jobs/{id}/events?limit=100{after}")).await.1;
        let events = page["data"].as_array().unwrap();
        messages.extend(events.iter().map(|event| event["message"].as_str().unwrap().to_owned()));
        let Some(last) = events.last().filter(|_| page["has_more"] == true) else { return messages };
        after = format!("&after={}", last["id"].as_str().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_goes_on_from_its_checkpoint_where_its_process_was_killed() {
    let Some(common) = Common::start().await else { return };
    let homes = [Home::new(), Home::new(), Home::new()];
    let a = common.serve(&homes[0], &[]);
    let id = begin(&a, ADMIN).await;
    let (_, made) = watch(&a, ADMIN, &id, 0).await;
    a.kill();
    let b = common.serve(&homes[1], &[]);
    watch(&b, ADMIN, &id, made).await;
    b.stop();
    let c = common.serve(&homes[2], &[]);
    let (job, _) = watch(&c, ADMIN, &id, usize::MAX).await;
    assert_eq!(job["status"], "succeeded", "{job}");
    let said = messages(&c, &id).await;
    for expected in ["another one goes on from what was saved", "goes on in another process"] {
        assert_eq!(said.iter().filter(|message| message.contains(expected)).count(), 1, "{expected}");
    }
    let began = said.iter().filter(|message| message.starts_with("Step 1/")).count();
    assert_eq!(began, 1, "it did not begin again");
    let after = digests(&c, ADMIN, &job).await;
    // The same without a disturbance.
    let again = begin(&c, ADMIN).await;
    let (whole, _) = watch(&c, ADMIN, &again, usize::MAX).await;
    assert_eq!(digests(&c, ADMIN, &whole).await, after);
    c.stop();
}
