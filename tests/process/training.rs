//! Fine-tuning jobs of a process that is killed: they go on at the next start, and end with the same bits.

use serde_json::{Value, json};

use crate::support::{Home, Server, client};

/// How often the process is killed; `SWITCHYARD_TEST_KILLS` asks for more.
fn kills() -> usize {
    std::env::var("SWITCHYARD_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

pub fn rows() -> String {
    let row = |index: usize| {
        let messages = json!([{"role": "user", "content": format!("count to {index}")}, {"role": "assistant", "content": format!("{index} it is")}]);
        json!({"messages": messages}).to_string()
    };
    (0..50).map(|index| row(index) + "\n").collect()
}

/// Asks for a job of 800 steps.
pub async fn begin(server: &Server, key: &str) -> String {
    begin_with(server, key, json!({"n_epochs": 20, "batch_size": 1})).await
}

/// Sends the rows and asks for a job.
pub async fn begin_with(server: &Server, key: &str, hyperparameters: Value) -> String {
    let boundary = "xxBOUNDARYxx";
    let part = |head: &str, content: &str| format!("--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n{content}\r\n");
    let form = part("name=\"purpose\"", "fine-tune") + &part("name=\"file\"; filename=\"rows.jsonl\"", &rows());
    let sent = client()
        .post(format!("{}/v1/files", server.url))
        .bearer_auth(key)
        .header("content-type", format!("multipart/form-data; boundary={boundary}"))
        .body(format!("{form}--{boundary}--\r\n"));
    let file: Value = sent.send().await.unwrap().json().await.unwrap();
    let body = json!({
        "model": "llama3", "training_file": file["id"], "seed": 7, "suffix": "same",
        "hyperparameters": hyperparameters,
    });
    let made = client().post(format!("{}/v1/fine_tuning/jobs", server.url)).bearer_auth(key).json(&body).send().await.unwrap();
    let job: Value = made.json().await.unwrap();
    job["id"].as_str().unwrap_or_else(|| panic!("{file} {job}")).to_owned()
}

pub async fn get(server: &Server, key: &str, path: &str) -> Value {
    let reply = client().get(format!("{}{path}", server.url)).bearer_auth(key).send().await.unwrap();
    reply.json().await.unwrap()
}

/// The job when it is over, or when it has more checkpoints than this.
pub async fn watch(server: &Server, key: &str, id: &str, checkpoints: usize) -> (Value, usize) {
    loop {
        let job = get(server, key, &format!("/v1/fine_tuning/jobs/{id}")).await;
        let made = get(server, key, &format!("/v1/fine_tuning/jobs/{id}/checkpoints?limit=100")).await;
        let count = made["data"].as_array().unwrap().len();
        if ["succeeded", "failed", "cancelled"].iter().any(|status| job["status"] == *status) || count > checkpoints {
            return (job, count);
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// Digests of a job's models, its own first, then checkpoint by checkpoint.
pub async fn digests(server: &Server, key: &str, job: &Value) -> Vec<String> {
    let model = job["fine_tuned_model"].as_str().unwrap_or_else(|| panic!("{job}"));
    let listed = get(server, key, "/v1/lora_adapters").await;
    let mut found: Vec<(String, String)> = listed["data"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|adapter| {
            let rest = adapter["name"].as_str()?.strip_prefix(model)?;
            Some((rest.to_owned(), adapter["digest"].as_str()?.to_owned()))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(name, digest)| format!("{name} {digest}")).collect()
}

#[tokio::test]
async fn a_killed_job_ends_with_the_same_adapter_as_one_that_was_not() {
    let home = Home::new();
    let server = home.serve(&[]);
    let id = begin(&server, &server.key).await;
    let (whole, _) = watch(&server, &server.key, &id, usize::MAX).await;
    let expected = digests(&server, &server.key, &whole).await;
    assert!(expected.len() > 10, "{expected:?}");
    server.stop();

    let home = Home::new();
    let mut server = home.serve(&[]);
    let key = server.key.clone();
    let id = begin(&server, &key).await;
    let (mut count, mut killed) = (0, 0);
    let job = loop {
        let (job, made) = watch(&server, &key, &id, if killed < kills() { count } else { usize::MAX }).await;
        if job["finished_at"].is_i64() {
            break job;
        }
        count = made;
        server.kill();
        killed += 1;
        server = home.serve(&[]);
    };
    assert!(killed >= kills().min(3), "{killed}");
    assert_eq!(digests(&server, &key, &job).await, expected);
    let metrics = job["result_files"][0].as_str().unwrap();
    let table = client().get(format!("{}/v1/files/{metrics}/content", server.url)).bearer_auth(&key).send().await.unwrap();
    assert_eq!(table.text().await.unwrap().lines().count(), 801, "every step is there, once");
    server.stop();
}
