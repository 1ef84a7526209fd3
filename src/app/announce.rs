//! What the server says on standard output when it is ready: where it is, what it serves, and a `curl` to paste.

use std::fmt::Write as _;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::memory::human;
use crate::config::API_KEY_VARIABLE;

/// The bundled adapter that `/convert` asks.
const CONVERT: &str = "convert";

/// Facts for the announcement.
pub(super) struct Announcement<'a> {
    pub(super) address: SocketAddr,
    pub(super) base: &'a str,
    /// The null backend's delay, where it answers.
    pub(super) without_model: Option<Duration>,
    pub(super) has_chat_template: bool,
    pub(super) architecture: String,
    pub(super) weight_bytes: u64,
    pub(super) kv_tokens: usize,
    pub(super) kv_bytes: u64,
    pub(super) resident_bytes: Option<u64>,
    pub(super) context: usize,
    /// `name@number`, in order.
    pub(super) adapters: Vec<String>,
    /// The admin key, when it was made just now.
    pub(super) new_key: Option<&'a str>,
}

impl Announcement<'_> {
    /// Prints it. Standard output may be closed; that is no reason not to serve.
    pub(super) fn print(&self) {
        say(&self.text());
    }

    fn text(&self) -> String {
        let url = format!("http://{}", reachable(self.address));
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = self.write(&mut text, &url);
        text
    }

    fn write(&self, text: &mut String, url: &str) -> std::fmt::Result {
        writeln!(text, "switchyard {} serves on {url}\n", env!("CARGO_PKG_VERSION"))?;
        let weights = human(self.weight_bytes);
        writeln!(text, "  base      {} ({}, {weights} of weights, context {})", self.base, self.architecture, self.context)?;
        if let Some(delay) = self.without_model {
            writeln!(text, "  backend   null: no model; words after {delay:?}")?;
        }
        let adapters = if self.adapters.is_empty() { "none".to_owned() } else { self.adapters.join(", ") };
        writeln!(text, "  adapters  {adapters}")?;
        let kv = human(self.kv_bytes);
        write!(text, "  memory    keys and values: {kv} for {} tokens", self.kv_tokens)?;
        match self.resident_bytes {
            Some(bytes) => writeln!(text, "; resident now: {}", human(bytes))?,
            None => writeln!(text)?,
        }
        let key = match self.new_key {
            Some(key) => {
                writeln!(text, "\nAdmin key, shown only this once:\n\n  {key}")?;
                key.to_owned()
            }
            None => {
                writeln!(text, "\nWith the admin key in {API_KEY_VARIABLE} (lost? `switchyard keys reset-admin`):")?;
                format!("${API_KEY_VARIABLE}")
            }
        };
        writeln!(text, "\nTry:\n")?;
        self.curl(text, url, &key, self.base)?;
        if let Some(adapter) = self.example_adapter() {
            writeln!(text, "\nand an adapter on the same base:\n")?;
            if adapter == CONVERT && self.has_chat_template {
                writeln!(text, "  curl {url}/api/convert -H \"Authorization: Bearer {key}\" \\")?;
                writeln!(text, "    -d '{{\"text\": \"remind me to call mum tomorrow at six\"}}'")?;
            } else {
                self.curl(text, url, &key, adapter)?;
            }
        }
        writeln!(text)
    }

    /// The bundled `convert` where it is served: it shows most.
    fn example_adapter(&self) -> Option<&str> {
        let name = |version: &'_ String| version.split('@').next().map(str::to_owned);
        let convert = self.adapters.iter().find(|version| name(version).as_deref() == Some(CONVERT));
        convert.or(self.adapters.first())?.split('@').next()
    }

    fn curl(&self, text: &mut String, url: &str, key: &str, model: &str) -> std::fmt::Result {
        let (path, ask) = if self.has_chat_template {
            let ask = r#""messages": [{"role": "user", "content": "remind me to call mum tomorrow at six"}]"#;
            ("chat/completions", ask)
        } else {
            ("completions", r#""prompt": "Once upon a time""#)
        };
        writeln!(text, "  curl {url}/v1/{path} \\")?;
        writeln!(text, "    -H \"Authorization: Bearer {key}\" -H 'Content-Type: application/json' \\")?;
        writeln!(text, "    -d '{{\"model\": \"{model}\", \"max_tokens\": 64, \"temperature\": 0, {ask}}}'")
    }
}

/// An address that a client on this machine can use: "all interfaces" is none.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), address.port()),
        _ => address,
    }
}

/// Writes to standard output; the one place that does.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    // A closed pipe is not an error of ours.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    fn announcement<'a>(new_key: Option<&'a str>) -> Announcement<'a> {
        Announcement {
            address: "0.0.0.0:8080".parse().unwrap(),
            base: "tiny",
            without_model: None,
            has_chat_template: true,
            architecture: "llama".to_owned(),
            weight_bytes: 10 << 20,
            kv_tokens: 1024,
            kv_bytes: 1 << 20,
            resident_bytes: None,
            context: 512,
            adapters: vec!["a@1".to_owned(), "convert@3".to_owned()],
            new_key,
        }
    }

    #[test]
    fn a_new_key_is_shown_and_pasted_and_a_known_one_is_a_variable() {
        let first = announcement(Some("sk-sy-x")).text();
        assert!(first.contains("Bearer sk-sy-x") && first.contains("only this once"), "{first}");
        let later = announcement(None).text();
        assert!(later.contains("Bearer $SWITCHYARD_API_KEY") && !later.contains("sk-sy"), "{later}");
        assert!(later.contains("http://127.0.0.1:8080/v1/chat/completions"), "{later}");
        assert!(later.contains("http://127.0.0.1:8080/api/convert"), "{later}");
    }
}
