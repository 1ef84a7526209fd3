//! A Redis of its own for a test, behind a socket in a directory of its own; `SWITCHYARD_TEST_REDIS_SERVER` names the program, and
//! `tests/run` sets it. It can be killed and started again.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Names the program.
const VARIABLE: &str = "SWITCHYARD_TEST_REDIS_SERVER";

/// A running server; killed on drop.
pub struct Redis {
    program: String,
    dir: tempfile::TempDir,
    child: Child,
}

impl Redis {
    /// `None` where there is no program to start.
    pub fn start() -> Option<Self> {
        let Ok(program) = std::env::var(VARIABLE) else {
            eprintln!("SKIPPED: no Redis to test with; run tests/run, or set {VARIABLE} to redis-server");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let child = start(&program, &dir);
        Some(Self { program, dir, child })
    }

    fn socket(dir: &tempfile::TempDir) -> PathBuf {
        dir.path().join("s")
    }

    pub fn url(&self) -> String {
        format!("unix://{}", Self::socket(&self.dir).display())
    }

    /// What it held is lost.
    #[allow(dead_code, reason = "not every test that includes this file kills it")]
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    #[allow(dead_code, reason = "not every test that includes this file kills it")]
    pub fn start_again(&mut self) {
        self.child = start(&self.program, &self.dir);
    }
}

/// Ready when it answers on its socket.
fn start(program: &str, dir: &tempfile::TempDir) -> Child {
    let socket = Redis::socket(dir);
    let _ = std::fs::remove_file(&socket);
    let mut command = Command::new(program);
    command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]).arg(&socket).arg("--dir").arg(dir.path());
    let mut child = command.stdout(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{VARIABLE}: {program}: {error}"));
    let began = Instant::now();
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        assert!(child.try_wait().unwrap().is_none(), "{VARIABLE}: {program} ended at once");
        assert!(began.elapsed() < Duration::from_secs(30), "{VARIABLE}: {program} does not answer");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

impl Drop for Redis {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
