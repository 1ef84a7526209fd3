//! `kill -9` at random moments under load: what a client has received in full is in the ledger, once, and no counter is wrong.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use switchyard::store::{Database, Location};

use crate::support::{Home, client};

const ROUNDS: u64 = 50;
const CLIENTS: usize = 6;
const ADMIN: &str = "an-admin-key-for-tests";

/// Hour, tenant, key, model; requests, input, output, money.
type Counted = (i64, String, String, String, i64, i64, i64, i64);
type Sums = BTreeMap<(i64, String, String, String), (i64, i64, i64, i64)>;

/// Ids of the answers that came in full, until the server is gone.
async fn ask(url: String, stop: Arc<AtomicBool>, name: String, streamed: bool) -> Vec<String> {
    let client = client();
    let mut received = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let id = format!("{name}-{number}");
        let body = json!({"model": "switchyard-base", "stream": streamed, "max_tokens": 4,
                          "messages": [{"role": "user", "content": format!("call {number}")}]});
        let request = client.post(format!("{url}/v1/chat/completions")).bearer_auth(ADMIN).header("x-request-id", &id);
        let Ok(response) = request.json(&body).send().await else { break };
        let ok = response.status().is_success();
        let mut bytes = Vec::new();
        let mut stream = response.bytes_stream();
        let mut whole = ok;
        while let Some(chunk) = stream.next().await {
            match chunk {
                Ok(chunk) => bytes.extend_from_slice(&chunk),
                Err(_) => whole = false,
            }
        }
        let end: &[u8] = if streamed { b"data: [DONE]\n\n" } else { b"}" };
        if whole && bytes.ends_with(end) {
            received.push(id);
        }
    }
    received
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_that_was_received_in_full_is_in_the_ledger_once() {
    let home = Home::new();
    let mut rng = ChaCha8Rng::seed_from_u64(20);
    let mut received: Vec<String> = Vec::new();
    let serve = || {
        let mut command = home.command(&[
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--backend",
            "null",
            "--null-delay",
            "1ms",
            "--log-level",
            "error",
        ]);
        command.env("SWITCHYARD_ADMIN_KEY", ADMIN);
        crate::support::Server::start(command)
    };
    for round in 0..ROUNDS {
        let server = serve();
        let stop = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|index| tokio::spawn(ask(server.url.clone(), Arc::clone(&stop), format!("r{round}-c{index}"), index % 2 == 0)))
            .collect();
        tokio::time::sleep(Duration::from_millis(rng.random_range(20..250))).await;
        server.kill();
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            received.extend(client.await.unwrap());
        }
    }
    assert!(received.len() > 500, "{} answers", received.len());
    // A last life takes the journal over and ends in order.
    serve().stop();

    let database = Database::open(&Location::File(home.data().join("switchyard.db"))).await.unwrap();
    let ids: Vec<(String, i64)> =
        sqlx::query_as("SELECT request_id, COUNT(*) FROM ledger GROUP BY request_id").fetch_all(database.pool()).await.unwrap();
    let counts: HashMap<String, i64> = ids.into_iter().collect();
    let lost: Vec<&String> = received.iter().filter(|id| !counts.contains_key(*id)).collect();
    assert!(lost.is_empty(), "{} of {} answers were not billed: {lost:?}", lost.len(), received.len());
    let twice: Vec<_> = counts.iter().filter(|(_, count)| **count != 1).collect();
    assert!(twice.is_empty(), "billed more than once: {twice:?}");

    let sums = async |sql: &'static str| -> Sums {
        let rows: Vec<Counted> = sqlx::query_as(sql).fetch_all(database.pool()).await.unwrap();
        rows.into_iter().map(|row| ((row.0, row.1, row.2, row.3), (row.4, row.5, row.6, row.7))).collect()
    };
    let ledger = sums(
        "SELECT at_micros / 3600000000, project_id, key_id, model, COUNT(*), SUM(input_tokens), SUM(output_tokens), SUM(cost_nanos) \
         FROM ledger GROUP BY 1, 2, 3, 4",
    )
    .await;
    let counters = sums(
        "SELECT hour, project_id, key_id, model, SUM(requests), SUM(input_tokens), SUM(output_tokens), SUM(cost_nanos) \
         FROM usage_hours GROUP BY 1, 2, 3, 4",
    )
    .await;
    assert_eq!(ledger, counters, "the counters are the ledger's sums");
    assert!(std::fs::read_dir(home.data().join("journal")).unwrap().next().is_none(), "the journal was taken over");
}
