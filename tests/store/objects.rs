//! An S3 server of its own for a test: moto, a Python package that `tests/run` installs beside the client. Objects live in its memory.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Names the Python with the package.
const VARIABLE: &str = "SWITCHYARD_TEST_PYTHON";
/// The bucket that is made.
pub const BUCKET: &str = "models";

/// A running server with a bucket; killed on drop.
pub struct S3 {
    child: Child,
    url: String,
}

impl S3 {
    /// `None` where there is no Python with the package.
    pub async fn start() -> Option<Self> {
        let Ok(python) = std::env::var(VARIABLE) else {
            eprintln!("SKIPPED: no S3 to test with; run tests/run, or set {VARIABLE} to a Python with moto[server]");
            return None;
        };
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(python);
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut server = Self { child, url: format!("http://127.0.0.1:{port}") };
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(server.child.try_wait().unwrap().is_none(), "moto.server ended at once");
            assert!(began.elapsed() < Duration::from_secs(60), "moto.server does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        let made = crate::support::client().put(format!("{}/{BUCKET}", server.url)).send().await.unwrap();
        assert_eq!(made.status().as_u16(), 200);
        Some(server)
    }

    /// What its clients find in their environment.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let given = [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "a-secret-of-a-test"), ("AWS_REGION", "us-east-1")];
        let given = given.map(|(name, value)| (name, value.to_owned()));
        given.into_iter().chain([("AWS_ENDPOINT_URL", self.url.clone())]).collect()
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
