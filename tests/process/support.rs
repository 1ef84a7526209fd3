//! Starts the binary on a free port with an environment of its own, and stops it when the test ends.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

/// A directory that the server may use as its own.
pub struct Home {
    pub dir: tempfile::TempDir,
}

/// A random model in Hugging Face's layout with adapters, from the golden files.
pub fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models/llama3")
}

/// One of its adapters.
pub fn adapter(name: &str) -> PathBuf {
    tiny().join("adapters").join(name)
}

impl Home {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// The binary with nothing of our environment but `PATH`.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
        command.args(arguments).env_clear().env("HOME", self.dir.path()).current_dir(self.dir.path());
        if let Some(path) = std::env::vars_os().find_map(|(name, value)| (name == "PATH").then_some(value)) {
            command.env("PATH", path);
        }
        command.env("SWITCHYARD_DATA_DIR", self.data());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Finished {
        Finished::new(self.command(arguments).output().unwrap())
    }

    /// `serve` on the tiny model and a free port.
    pub fn serve(&self, arguments: &[&str]) -> Server {
        self.serve_with(arguments, &[])
    }

    /// `serve` as a new user types it: the bundled base with its adapters.
    pub fn serve_bundled(&self) -> Server {
        Server::start(self.command(&["serve", "--listen", "127.0.0.1:0"]))
    }

    pub fn serve_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Server {
        let mut command = self.command(&["serve", "--listen", "127.0.0.1:0", "--threads", "1"]);
        if !arguments.contains(&"--model") {
            command.arg("--model").arg(tiny());
        }
        command.args(arguments).envs(variables.iter().copied());
        Server::start(command)
    }
}

/// A command that ended.
#[derive(Debug)]
pub struct Finished {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Finished {
    fn new(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Self { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

/// A running server; killed on drop.
pub struct Server {
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// What it said on standard output until it was ready.
    pub announced: String,
    pub url: String,
    pub key: String,
}

impl Server {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut announced = String::new();
        // The announcement ends with the line of the last request body.
        loop {
            let mut line = String::new();
            if stdout.read_line(&mut line).unwrap() == 0 {
                let output = child.wait_with_output().unwrap();
                panic!("the server ended: {}\n{announced}", String::from_utf8_lossy(&output.stderr));
            }
            announced.push_str(&line);
            let adapters_shown = announced.contains("adapters  none") || announced.contains("and an adapter");
            if line.trim_start().starts_with("-d ") && adapters_shown {
                break;
            }
        }
        let word = |begin: &str| announced.split_whitespace().find(|word| word.starts_with(begin)).map(str::to_owned);
        let url = word("http://").expect("an address");
        let key = word("sk-sy-").unwrap_or_default();
        Self { child, stdout, announced, url, key }
    }

    /// The commands that were printed to be pasted.
    pub fn curls(&self) -> Vec<String> {
        let mut curls: Vec<String> = Vec::new();
        for line in self.announced.lines() {
            if line.trim_start().starts_with("curl ") {
                curls.push(String::new());
            }
            if let Some(curl) = curls.last_mut().filter(|curl| !curl.trim_end().ends_with("}'")) {
                curl.push_str(line);
                curl.push('\n');
            }
        }
        curls
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        let reply = client().get(format!("{}{path}", self.url)).bearer_auth(&self.key).send().await.unwrap();
        (reply.status().as_u16(), reply.json().await.unwrap_or(Value::Null))
    }

    pub async fn post(&self, path: &str, body: &Value) -> (u16, String) {
        let reply = self.post_open(path, body).await;
        (reply.status().as_u16(), reply.text().await.unwrap())
    }

    pub async fn post_open(&self, path: &str, body: &Value) -> reqwest::Response {
        client().post(format!("{}{path}", self.url)).bearer_auth(&self.key).json(body).send().await.unwrap()
    }

    /// Greedy completion of a fixed prompt: tells adapters apart.
    pub async fn completion(&self, model: &str) -> String {
        let body = json!({"model": model, "prompt": "one two three", "max_tokens": 16, "temperature": 0, "ignore_eos": true});
        let (status, text) = self.post("/v1/completions", &body).await;
        assert_eq!(status, 200, "{text}");
        let reply: Value = serde_json::from_str(&text).unwrap();
        reply["choices"][0]["text"].as_str().unwrap().to_owned()
    }

    pub async fn load(&self, name: &str, path: &str, inplace: bool) -> (u16, String) {
        let body = json!({"lora_name": name, "lora_path": path, "load_inplace": inplace});
        self.post("/v1/load_lora_adapter", &body).await
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: the process is our child and was not waited for, so its id is its own.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }

    /// Waits for the end; what it wrote to standard error comes with it.
    pub fn wait(mut self) -> (ExitStatus, String) {
        let err = self.log();
        let status = self.child.wait().unwrap();
        let mut rest = String::new();
        let _ = self.stdout.read_to_string(&mut rest);
        (status, err)
    }

    /// SIGTERM and a good end.
    pub fn stop(self) {
        self.signal(libc::SIGTERM);
        let (status, err) = self.wait();
        assert_eq!(status.code(), Some(0), "{err}");
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.log();
    }
}

impl Server {
    /// What it has logged, to its end; whatever the test is about, no key may be in it.
    fn log(&mut self) -> String {
        let mut log = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            let _ = stderr.read_to_string(&mut log);
        }
        assert_no_secret(&log);
        log
    }
}

/// Keys as they are made, and tokens of other issuers.
pub fn assert_no_secret(log: &str) {
    let is_long =
        |text: &str, least: usize| text.chars().take_while(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).count() >= least;
    for (prefix, least) in [("sk-sy-", 20), ("whsec_", 16), ("eyJ", 30)] {
        for (at, _) in log.match_indices(prefix) {
            let rest = &log[at + prefix.len()..];
            assert!(!is_long(rest, least), "a secret is in the log: {}...", log[at..].chars().take(10).collect::<String>());
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking() {
            self.log();
        }
    }
}

pub fn client() -> reqwest::Client {
    switchyard::outbound::client(Duration::from_secs(120)).unwrap()
}
