//! Three processes with one PostgreSQL and one Redis: a key's limits hold over all of them, to the token, and so does what may be
//! spent on other servers; without Redis they serve on, what a killed one held comes back, and restarting one after the other fails
//! nobody.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::postgres::new_database;
use crate::redis::Redis;
use crate::support::{Home, Server, client};

const ADMIN: &str = "an-admin-key-for-tests-0123456789";
/// Tokens of the prompt "one two" and of the answer.
const ANSWER: i64 = 8;

/// Replicas and what they share.
struct Replicas {
    servers: Vec<(Home, Server)>,
    redis: Redis,
    arguments: Vec<String>,
}

fn serve(home: &Home, arguments: &[String]) -> Server {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let secret = "5a".repeat(32);
    let mut server = home.serve_with(&arguments, &[("SWITCHYARD_ADMIN_KEY", ADMIN), ("SWITCHYARD_SECRET_KEY", &secret)]);
    server.key = ADMIN.to_owned();
    server
}

impl Replicas {
    async fn start(arguments: &[&str]) -> Option<Self> {
        let database = new_database().await?;
        let redis = Redis::start()?;
        let url = redis.url();
        let common = ["--backend", "null", "--database", &database, "--redis-url", &url];
        let arguments: Vec<String> = common.iter().chain(arguments).map(|&argument| argument.to_owned()).collect();
        let start = || {
            let home = Home::new();
            let server = serve(&home, &arguments);
            (home, server)
        };
        Some(Self { servers: vec![start(), start(), start()], redis, arguments })
    }

    fn server(&self, index: usize) -> &Server {
        &self.servers[index % self.servers.len()].1
    }

    /// A key of a project of its own, with limits that all replicas know.
    async fn key(&self, limits: Value) -> String {
        let server = self.server(0);
        let done = async |path: &str, body: Value| -> Value {
            let (status, text) = server.post(path, &body).await;
            assert_eq!(status, 200, "{path}: {text}");
            serde_json::from_str(&text).unwrap()
        };
        let project = done("/v1/organization/projects", json!({"name": "Acme"})).await;
        let accounts = format!("/v1/organization/projects/{}/service_accounts", project["id"].as_str().unwrap());
        let account = done(&accounts, json!({"name": "worker"})).await;
        let path = format!("/admin/limits/key/{}/*", account["api_key"]["id"].as_str().unwrap());
        let set = client().put(format!("{}{path}", server.url)).bearer_auth(ADMIN).json(&limits).send().await.unwrap();
        assert_eq!(set.status().as_u16(), 200);
        // The others look four times a second. A limit of tokens holds where a request is refused for asking for more than it at once;
        // nothing is taken for that.
        let too_much = limits["tokens_per_minute"]
            .as_u64()
            .is_some_and(|tokens| tokens < 1_000)
            .then(|| json!({"model": "llama3", "prompt": "one two", "max_tokens": 250, "n": 4}));
        let key = account["api_key"]["value"].as_str().unwrap().to_owned();
        for (_, server) in &self.servers {
            eventually(async || {
                let models = client().get(format!("{}/v1/models", server.url)).bearer_auth(&key).send().await.unwrap();
                let limit = client().get(format!("{}{path}", server.url)).bearer_auth(ADMIN).send().await.unwrap();
                let Some(body) = &too_much else { return models.status().as_u16() == 200 && limit.status().as_u16() == 200 };
                let asked = client().post(format!("{}/v1/completions", server.url)).bearer_auth(&key).json(body);
                asked.send().await.unwrap().status().as_u16() == 429
            })
            .await;
        }
        tokio::time::sleep(Duration::from_millis(600)).await;
        key
    }

    async fn health(&self, index: usize) -> Value {
        self.server(index).get("/health").await.1["limits"].clone()
    }
}

/// Asks again until it is so; half a minute is for a slow machine.
async fn eventually(so: impl AsyncFn() -> bool) {
    let began = Instant::now();
    while !so().await {
        assert!(began.elapsed() < Duration::from_secs(30), "it never was");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Status, tokens used, and the error's code.
async fn ask(server: &Server, key: &str, tokens: i64) -> (u16, i64, Value) {
    ask_for(server, key, "llama3", tokens).await
}

async fn ask_for(server: &Server, key: &str, model: &str, tokens: i64) -> (u16, i64, Value) {
    let body = json!({"model": model, "prompt": "one two", "max_tokens": tokens});
    let request = client().post(format!("{}/v1/completions", server.url)).bearer_auth(key).json(&body);
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    (status, body["usage"]["total_tokens"].as_i64().unwrap_or(0), body["error"]["code"].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keys_limits_hold_over_three_processes_to_the_token() {
    let Some(replicas) = Replicas::start(&["--null-delay", "1ms", "--redis-timeout", "10s"]).await else { return };
    for index in 0..3 {
        assert_eq!(replicas.health(index).await, json!({"kept": "together"}));
    }
    let open = replicas.key(json!({})).await;
    let (_, each, _) = ask(replicas.server(0), &open, ANSWER).await;
    assert!(each > ANSWER, "a prompt has tokens, too");
    // Room for 40 answers and a little that is not enough for one more.
    let limit = 40 * each + each / 2;
    let key = replicas.key(json!({"tokens_per_minute": limit})).await;
    let asking = (0..6).map(async |worker: usize| {
        let (mut used, mut refused) = (0, 0);
        for turn in 0..12 {
            match ask(replicas.server(worker + turn), &key, ANSWER).await {
                (200, tokens, _) => used += tokens,
                (429, _, code) if code == "rate_limit_exceeded" => refused += 1,
                other => panic!("{other:?}"),
            }
        }
        (used, refused)
    });
    let counts = futures::future::join_all(asking).await;
    let (used, refused) = counts.iter().fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
    assert_eq!((used, refused), (40 * each, 72 - 40), "of {limit}");
    // What is left can be had anywhere, to the last token, and not one more.
    let left = limit - used;
    let prompt = each - ANSWER;
    if left > prompt {
        assert_eq!(ask(replicas.server(1), &key, left - prompt + 1).await.0, 429);
        assert_eq!(ask(replicas.server(2), &key, left - prompt).await.0, 200);
    }
    assert_eq!(ask(replicas.server(0), &key, 1).await.0, 429);
    for (_, server) in replicas.servers {
        server.stop();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn places_of_a_killed_replica_come_back() {
    let slow = ["--null-delay", "1ms", "--null-token-gap", "100ms", "--redis-timeout", "10s", "--redis-lease", "2s"];
    let Some(mut replicas) = Replicas::start(&slow).await else { return };
    let key = replicas.key(json!({"concurrent_requests": 1})).await;
    // Much longer than its lease, which is renewed meanwhile.
    let body = json!({"model": "llama3", "prompt": "one two", "max_tokens": 200, "stream": true});
    let url = format!("{}/v1/completions", replicas.server(2).url);
    let mut running = client().post(url).bearer_auth(&key).json(&body).send().await.unwrap();
    assert_eq!(running.status().as_u16(), 200);
    running.chunk().await.unwrap().unwrap();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        assert_eq!(ask(replicas.server(0), &key, 1).await.0, 429, "the place is taken, whoever is asked");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (_home, killed) = replicas.servers.pop().unwrap();
    killed.kill();
    eventually(async || ask(replicas.server(0), &key, 1).await.0 == 200).await;
    // An answer that ended has given its place back when its client knows.
    for turn in 0..4 {
        assert_eq!(ask(replicas.server(turn), &key, 1).await.0, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_a_share_holds_and_with_it_everything_again() {
    let arguments = ["--null-delay", "1ms", "--redis-timeout", "10s", "--redis-local-share", "0.25"];
    let Some(mut replicas) = Replicas::start(&arguments).await else { return };
    let open = replicas.key(json!({"tokens_per_minute": 1_000_000})).await;
    let (_, each, _) = ask(replicas.server(0), &open, ANSWER).await;
    let key = replicas.key(json!({"tokens_per_minute": 40 * each})).await;
    replicas.redis.kill();
    for index in 0..3 {
        // Nobody is refused for it, and each replica gives its quarter.
        assert_eq!(ask(replicas.server(index), &open, ANSWER).await.0, 200);
        let mut answered = 0;
        while ask(replicas.server(index), &key, ANSWER).await.0 == 200 {
            answered += 1;
        }
        assert_eq!(answered, 10);
        assert_eq!(replicas.health(index).await, json!({"kept": "alone", "why": "Redis does not answer", "share": 0.25}));
        assert_eq!(replicas.server(index).get("/ready").await.0, 200);
        let metrics = client().get(format!("{}/metrics", replicas.server(index).url)).send().await.unwrap().text().await.unwrap();
        assert!(metrics.contains("switchyard_shared_limits_connected 0\n"), "{metrics}");
        assert!(metrics.contains("switchyard_shared_limits_losses_total 1\n"), "{metrics}");
    }
    replicas.redis.start_again();
    for index in 0..3 {
        eventually(async || replicas.health(index).await == json!({"kept": "together"})).await;
    }
    // 30 answers were given meanwhile, and count.
    let mut answered = 0;
    while ask(replicas.server(answered), &key, ANSWER).await.0 == 200 {
        answered += 1;
    }
    assert_eq!(answered, 10);
    for (_, server) in replicas.servers {
        server.stop();
    }
}

/// What a card says was spent, in thousandths of a dollar.
async fn spent(server: &Server, model: &str, of: &str) -> i64 {
    let card = server.get(&format!("/v1/model_cards/{model}")).await.1;
    let dollars = card[of]["spent_usd"].as_f64().unwrap_or_else(|| panic!("{card}"));
    (dollars * 1000.0).round() as i64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_be_spent_on_other_servers_holds_over_three_processes() {
    let (home, far_home) = (Home::new(), Home::new());
    let far = far_home.serve(&["--backend", "null", "--null-delay", "1ms"]);
    let (config, key) = (home.path("switchyard.toml"), home.path("key"));
    std::fs::write(&key, &far.key).unwrap();
    // 8 tokens of an answer are 0.008 dollars: room for 40 of the one, for 20 of the other.
    let upstream = |name: &str| {
        let (address, key) = (format!("{}/v1", far.url), key.display());
        format!(
            "[[upstream]]\nname = \"{name}\"\naddress = \"{address}\"\nmodel = \"llama3\"\nkey_file = \"{key}\"\n\
             input_price = 0\noutput_price = 1000\n"
        )
    };
    let cap = "spend_cap = 0.32\nspend_period = \"month\"\n";
    let capability = "[[capability]]\nname = \"answers\"\nteachers = [\"teacher\"]\nbudget = 0.16\nbudget_period = \"day\"\n";
    std::fs::write(&config, upstream("big") + cap + &upstream("teacher") + capability).unwrap();
    let arguments = ["--config", config.to_str().unwrap(), "--redis-timeout", "10s"];
    let Some(mut replicas) = Replicas::start(&arguments).await else { return };

    for (model, of, room) in [("big", "spend_cap", 40), ("answers", "budget", 20)] {
        let asking = (0..6).map(async |worker: usize| {
            let mut answered = 0;
            for turn in 0..12 {
                match ask_for(replicas.server(worker + turn), ADMIN, model, ANSWER).await {
                    (200, ..) => answered += 1,
                    (503, _, code) if code == "upstream_spent" => {}
                    other => panic!("{other:?}"),
                }
            }
            answered
        });
        let answered: i64 = futures::future::join_all(asking).await.iter().sum();
        assert_eq!(answered, room, "{model}");
        for index in 0..3 {
            eventually(async || spent(replicas.server(index), model, of).await == room * ANSWER).await;
        }
    }
    // It is known without Redis, and a Redis that has forgotten everything is told of it.
    let refused = async |replicas: &Replicas| {
        for model in ["big", "answers"] {
            for index in 0..3 {
                let (status, _, code) = ask_for(replicas.server(index), ADMIN, model, ANSWER).await;
                assert_eq!((status, code), (503, json!("upstream_spent")), "{model} {index}");
            }
        }
    };
    replicas.redis.kill();
    refused(&replicas).await;
    replicas.redis.start_again();
    for index in 0..3 {
        eventually(async || replicas.health(index).await == json!({"kept": "together"})).await;
    }
    refused(&replicas).await;
    for (_, server) in replicas.servers {
        server.stop();
    }
}

#[test]
fn limits_are_shared_only_with_a_database_that_is() {
    let home = Home::new();
    let refused = home.run(&["check-config", "--redis-url", "redis://:secret@localhost"]);
    assert_eq!(refused.code, Some(64), "{refused:?}");
    assert!(refused.err.contains("redis_url") && refused.err.contains("postgres://"), "{}", refused.err);
    let wrong = home.run(&["check-config", "--database", "postgres://localhost/x", "--redis-url", "http://:secret@localhost"]);
    assert!(wrong.code == Some(64) && wrong.err.contains("redis://"), "{wrong:?}");
    assert!(!refused.err.contains("secret") && !wrong.err.contains("secret"), "{wrong:?}");
}

/// What a load balancer knows: addresses of replicas, and whether they were ready when it looked.
#[derive(Default)]
struct Balancer(Mutex<Vec<(String, bool)>>);

impl Balancer {
    fn next(&self, turn: usize) -> String {
        let targets = self.0.lock().unwrap();
        let ready: Vec<&String> = targets.iter().filter(|(_, ready)| *ready).map(|(url, _)| url).collect();
        ready[turn % ready.len()].clone()
    }

    async fn look(&self, client: &reqwest::Client) {
        let urls: Vec<String> = self.0.lock().unwrap().iter().map(|(url, _)| url.clone()).collect();
        for url in urls {
            let ready = client.get(format!("{url}/ready")).send().await.is_ok_and(|reply| reply.status().is_success());
            self.0.lock().unwrap().iter_mut().filter(|(known, _)| *known == url).for_each(|(_, was)| *was = ready);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_under_load_fails_no_request() {
    let patient = ["--null-delay", "5ms", "--null-token-gap", "1ms", "--redis-timeout", "10s", "--drain-delay", "2s"];
    let Some(mut replicas) = Replicas::start(&patient).await else { return };
    let key = replicas.key(json!({})).await;
    let balancer = Arc::new(Balancer::default());
    *balancer.0.lock().unwrap() = replicas.servers.iter().map(|(_, server)| (server.url.clone(), true)).collect();
    let looking = {
        let balancer = Arc::clone(&balancer);
        tokio::spawn(async move {
            let client = client();
            loop {
                balancer.look(&client).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
    };
    let over = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..8)
        .map(|worker| {
            let (balancer, over, key) = (Arc::clone(&balancer), Arc::clone(&over), key.clone());
            tokio::spawn(async move {
                // Connections are kept and used again, as clients do.
                let client = client();
                let (mut done, mut failed) = (0usize, Vec::new());
                while !over.load(Ordering::Relaxed) {
                    let url = balancer.next(worker + done);
                    let body = json!({"model": "llama3", "prompt": "one two", "max_tokens": 20, "stream": worker % 2 == 0});
                    let sent = client.post(format!("{url}/v1/completions")).bearer_auth(&key).json(&body).send().await;
                    let answered = async {
                        let reply = sent.map_err(|error| format!("{error:?}"))?;
                        let status = reply.status();
                        let text = reply.text().await.map_err(|error| format!("{error:?}"))?;
                        let whole = status.is_success() && (worker % 2 == 1 || text.trim_end().ends_with("data: [DONE]"));
                        if whole { Ok(()) } else { Err(format!("{status} {text}")) }
                    };
                    done += 1;
                    failed.extend(answered.await.err());
                }
                (done, failed)
            })
        })
        .collect();
    for index in 0..3 {
        let (home, server) = replicas.servers.remove(0);
        let old = server.url.clone();
        server.signal(libc::SIGTERM);
        let (status, err) = tokio::task::spawn_blocking(move || server.wait()).await.unwrap();
        assert_eq!(status.code(), Some(0), "{index}: {err}");
        let arguments = replicas.arguments.clone();
        let (home, server) = tokio::task::spawn_blocking(move || {
            let server = serve(&home, &arguments);
            (home, server)
        })
        .await
        .unwrap();
        balancer
            .0
            .lock()
            .unwrap()
            .iter_mut()
            .filter(|(url, _)| *url == old)
            .for_each(|target| *target = (server.url.clone(), false));
        replicas.servers.push((home, server));
        eventually(async || balancer.0.lock().unwrap().iter().all(|(_, ready)| *ready)).await;
    }
    over.store(true, Ordering::Relaxed);
    let mut all = 0;
    for worker in workers {
        let (done, failed) = worker.await.unwrap();
        assert!(failed.is_empty(), "{} of {done}: {:?}", failed.len(), &failed[..failed.len().min(3)]);
        all += done;
    }
    eprintln!("{all} requests, none failed");
    assert!(all > 100, "{all}");
    looking.abort();
    for (_, server) in replicas.servers {
        server.stop();
    }
}
