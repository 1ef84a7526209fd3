//! Single requests before a run: is somebody there, how many tokens does a request take, which models are there.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use crate::plan::Kind;
use crate::request::Writer;

const PATIENCE: Duration = Duration::from_secs(60);

/// The usage that the server reports for one request.
pub fn usage(address: SocketAddr, writer: &Writer) -> anyhow::Result<Value> {
    let mut request = Vec::new();
    writer.write(Kind::Whole, &mut ChaCha8Rng::seed_from_u64(0), &mut request);
    let mut reply = exchange(address, &request)?;
    Ok(reply["usage"].take())
}

/// Names of all models that the server lists.
pub fn models(address: SocketAddr, host: &str, key: &str) -> anyhow::Result<Vec<String>> {
    let request = format!("GET /v1/models HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n\r\n");
    let reply = exchange(address, request.as_bytes())?;
    let models = reply["data"].as_array().context("the list of models has no `data`")?;
    Ok(models.iter().filter_map(|model| model["id"].as_str()).map(str::to_owned).collect())
}

/// One request on a connection of its own; its answer must be 200 and JSON of a known length.
fn exchange(address: SocketAddr, request: &[u8]) -> anyhow::Result<Value> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request)?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        let count = stream.read(&mut buffer).context("no answer")?;
        bytes.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().filter_map(|line| line.split_once(':'));
            let length = length
                .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                .find_map(|(_, value)| value.trim().parse().ok());
            if body.len() >= length.unwrap_or(usize::MAX) || count == 0 {
                if !head.starts_with("HTTP/1.1 200") {
                    bail!("the server answers: {}\n{body}", head.lines().next().unwrap_or_default());
                }
                return serde_json::from_str(body).context("the answer is not JSON");
            }
        } else if count == 0 {
            bail!("the server closed the connection");
        }
    }
}
