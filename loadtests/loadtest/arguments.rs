//! The command line, and from it to a run and its result.

use std::io::Write as _;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use crate::plan::{Arrivals, Burst, Load, Shares};
use crate::probe;
use crate::request::{Asked, Writer};
use crate::run::Run;

/// Load on an OpenAI-compatible server.
#[derive(Parser)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Send requests and measure.
    Run(Box<Options>),
    /// Serve the same answer to everybody after a delay: what is measured in front of it is the machine.
    Floor {
        #[arg(long, default_value = "127.0.0.1:8081")]
        listen: SocketAddr,
        #[arg(long, default_value_t = 5.0)]
        delay_ms: f64,
    },
    /// Print results of earlier runs.
    Table {
        /// Files with a result on each line.
        files: Vec<PathBuf>,
    },
    /// Draw latency over percentile as SVG.
    Plot {
        /// Files with a result on each line.
        files: Vec<PathBuf>,
        /// Where to.
        #[arg(long)]
        out: PathBuf,
    },
}

/// What the requests are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// One rate.
    Steady,
    /// The rate, and many requests at once from time to time.
    Burst,
    /// Each request has one of many keys (--keys FILE).
    Tenants,
    /// Each request asks one of all models that the server lists.
    Adapters,
    /// Some clients read their streams slowly.
    SlowReaders,
}

/// Options of a run.
#[derive(Args)]
pub struct Options {
    #[arg(value_enum, default_value = "steady")]
    scenario: Scenario,
    /// The server.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    url: String,
    #[arg(long, default_value = "/v1/chat/completions")]
    path: String,
    /// API key; may be repeated, each request draws one.
    #[arg(long, env = "SWITCHYARD_API_KEY", hide_env_values = true)]
    key: Vec<String>,
    /// File with a key on each line.
    #[arg(long)]
    keys: Option<PathBuf>,
    /// Model; may be repeated, each request draws one.
    #[arg(long, default_value = "switchyard-base")]
    model: Vec<String>,
    /// Open loop: requests a second.
    #[arg(long, conflicts_with = "connections", required_unless_present = "connections")]
    rate: Option<f64>,
    /// Closed loop: connections, each sends when its answer is there.
    #[arg(long)]
    connections: Option<usize>,
    /// Open loop: the same time between requests instead of random times.
    #[arg(long)]
    even: bool,
    /// Requests of a burst.
    #[arg(long, default_value_t = 500)]
    burst_size: usize,
    /// Seconds between bursts.
    #[arg(long, default_value_t = 2.0)]
    burst_every: f64,
    /// Share of requests that are streamed, 0 to 1.
    #[arg(long, default_value_t = 0.0)]
    stream: f64,
    /// Share of requests whose streams are read slowly.
    #[arg(long, default_value_t = 0.1)]
    slow: f64,
    /// Bytes a second that slow readers read.
    #[arg(long, default_value_t = 4000)]
    slow_bytes: usize,
    /// Tokens that slow readers ask for.
    #[arg(long, default_value_t = 256)]
    slow_tokens: usize,
    /// `max_tokens`
    #[arg(long, default_value_t = 16)]
    max_tokens: usize,
    /// Words of the message; the bundled base's template adds 6 tokens, a word is a bit more than one.
    #[arg(long, default_value_t = 40)]
    words: usize,
    /// More fields of the body, as a JSON object.
    #[arg(long, default_value = "{}")]
    extra: String,
    /// One more header, `Name: value`; may be repeated.
    #[arg(long)]
    header: Vec<String>,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Seconds before, not measured.
    #[arg(long, default_value_t = 2.0)]
    warmup: f64,
    /// Seconds for the last answers.
    #[arg(long, default_value_t = 10.0)]
    drain: f64,
    /// Longest time for an answer, seconds.
    #[arg(long, default_value_t = 30.0)]
    timeout: f64,
    /// Most connections of an open loop.
    #[arg(long, default_value_t = 1024)]
    max_connections: usize,
    /// Milliseconds that the backend itself takes: what is above is added latency.
    #[arg(long, default_value_t = 0.0)]
    base_ms: f64,
    /// Process id of the server: its processor time is measured.
    #[arg(long)]
    server_pid: Option<u32>,
    /// Name of the run in tables and plots.
    #[arg(long)]
    label: Option<String>,
    /// File that the result is appended to, as one line of JSON.
    #[arg(long)]
    out: Option<PathBuf>,
    /// File for every single answer, as CSV.
    #[arg(long)]
    samples: Option<PathBuf>,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Options {
    /// Runs it; the result as JSON.
    pub fn run(mut self) -> anyhow::Result<Value> {
        let host = self.url.strip_prefix("http://").context("--url begins with http://")?.trim_end_matches('/').to_owned();
        let address = host.to_socket_addrs().with_context(|| format!("--url {}", self.url))?.next().context("no address")?;
        if let Some(file) = &self.keys {
            let text = std::fs::read_to_string(file).with_context(|| format!("--keys {}", file.display()))?;
            self.key = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
        }
        let first_key = self.key.first().cloned().context("--key or --keys is needed")?;
        match self.scenario {
            Scenario::Tenants if self.key.len() < 2 => bail!("this scenario needs more than one key (--keys FILE)"),
            Scenario::Adapters => self.model = probe::models(address, &host, &first_key)?,
            _ => {}
        }
        let extra: Map<String, Value> = serde_json::from_str(&self.extra).context("--extra")?;
        let writer = Writer::new(&Asked {
            host: &host,
            path: &self.path,
            headers: &self.header,
            keys: &self.key,
            models: &self.model,
            words: self.words,
            max_tokens: self.max_tokens,
            slow_max_tokens: self.slow_tokens,
            extra: &extra,
        });
        let usage = probe::usage(address, &writer)?;
        let load = self.load()?;
        let seconds = |value: f64, name: &str| Duration::try_from_secs_f64(value).with_context(|| format!("--{name}"));
        let slow = if self.scenario == Scenario::SlowReaders { self.slow } else { 0.0 };
        let run = Run {
            address,
            writer,
            load,
            shares: Shares { stream: self.stream, slow },
            slow_bytes: self.slow_bytes,
            warmup: seconds(self.warmup, "warmup")?,
            measured: seconds(self.seconds, "seconds")?,
            drain: seconds(self.drain, "drain")?,
            timeout: seconds(self.timeout, "timeout")?,
            max_connections: self.max_connections,
            server: self.server_pid,
            seed: self.seed,
        };
        let outcome = run.run()?;
        if let Some(file) = &self.samples {
            std::fs::write(file, outcome.samples()).context("--samples")?;
        }
        let found = outcome.json(seconds(self.base_ms / 1e3, "base-ms")?);
        let mut result = self.about(&usage);
        if let (Some(result), Value::Object(found)) = (result.as_object_mut(), found) {
            result.extend(found);
        }
        if let Some(file) = &self.out {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(file);
            writeln!(file.context("--out")?, "{result}").context("--out")?;
        }
        Ok(result)
    }

    fn load(&self) -> anyhow::Result<Load> {
        if let Some(connections) = self.connections {
            return Ok(Load::Closed { connections });
        }
        let rate = self.rate.filter(|rate| rate.is_finite() && *rate > 0.0).context("--rate is a number above 0")?;
        let arrivals = if self.even { Arrivals::Even } else { Arrivals::Poisson };
        let burst = match self.scenario {
            Scenario::Burst => {
                let every = Duration::try_from_secs_f64(self.burst_every).ok().filter(|every| !every.is_zero());
                Some(Burst { size: self.burst_size, every: every.context("--burst-every is a number above 0")? })
            }
            _ => None,
        };
        Ok(Load::Open { rate, arrivals, burst })
    }

    /// What was asked for, so that a result can be understood and repeated.
    fn about(&self, usage: &Value) -> Value {
        let scenario = format!("{:?}", self.scenario).to_lowercase();
        let mode = if self.connections.is_some() { "closed" } else { "open" };
        let amount = self.connections.map_or_else(|| format!("{}/s", self.rate.unwrap_or(0.0)), |count| format!("{count} conn"));
        json!({
            "label": self.label.clone().unwrap_or_else(|| format!("{scenario} {amount}")),
            "at": SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            "scenario": scenario,
            "mode": mode,
            "rate": self.rate,
            "closed_connections": self.connections,
            "arrivals": if self.even { "even" } else { "poisson" },
            "stream_share": self.stream,
            "keys": self.key.len(),
            "models": self.model.len(),
            "usage_of_one": usage,
            "base_ms": self.base_ms,
            "measured_s": self.seconds,
            "seed": self.seed,
        })
    }
}

/// Results of earlier runs.
pub fn read(files: &[PathBuf]) -> anyhow::Result<Vec<Value>> {
    let mut results = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            results.push(serde_json::from_str(line).with_context(|| file.display().to_string())?);
        }
    }
    Ok(results)
}
