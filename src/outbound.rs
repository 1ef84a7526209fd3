//! Calls out to other servers: one way to make an HTTP client, with TLS over the crypto library that the rest of the binary uses;
//! where calls may go, how long they may take and how much may come back. Knows nothing of who is called.

mod form;

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Once;
use std::time::Duration;

pub use form::Part;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{RequestBuilder, Url};

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// A client that gives up after `timeout`, follows no redirects and sends no more than it is told.
pub fn client(timeout: Duration) -> Result<reqwest::Client, reqwest::Error> {
    builder(timeout).build()
}

fn builder(timeout: Duration) -> reqwest::ClientBuilder {
    builder_with(CONNECT, timeout)
}

fn builder_with(connect: Duration, timeout: Duration) -> reqwest::ClientBuilder {
    install_tls();
    reqwest::Client::builder()
        .connect_timeout(connect)
        .timeout(timeout)
        .redirect(Policy::none())
        .user_agent(concat!("switchyard/", env!("CARGO_PKG_VERSION")))
}

/// Makes ring the process's TLS library; without one, making any client panics.
pub fn install_tls() {
    static ONCE: Once = Once::new();
    // An error means that another part of the process has chosen already.
    ONCE.call_once(|| _ = rustls::crypto::ring::default_provider().install_default());
}

/// An address that may be called: https, or http on this machine.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(Url);

impl Address {
    /// Takes http to other machines, too: for commands whose user answers for where they go.
    pub fn anywhere(text: &str) -> Result<Self, NoAddress> {
        let address = Self::with_host(text)?;
        if matches!(address.0.scheme(), "http" | "https") { Ok(address) } else { Err(NoAddress::Shape) }
    }

    /// The address with a path of ours, each part of it escaped.
    pub fn at<'a>(mut self, path: impl IntoIterator<Item = &'a str>) -> Self {
        // Only addresses without a host have no path to go on from.
        if let Ok(mut parts) = self.0.path_segments_mut() {
            parts.pop_if_empty().extend(path);
        }
        self
    }

    fn with_host(text: &str) -> Result<Self, NoAddress> {
        let url = Url::parse(text).map_err(|_| NoAddress::Shape)?;
        if !url.has_host() {
            return Err(NoAddress::Shape);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(NoAddress::Credentials);
        }
        Ok(Self(url))
    }

    fn is_local(&self) -> bool {
        self.0.host_str() == Some("localhost") || self.ip().is_some_and(|address| address.is_loopback())
    }

    /// The host as it is written.
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }

    /// The host, where it is a number and not a name.
    pub fn ip(&self) -> Option<IpAddr> {
        let host = self.0.host_str()?.trim_start_matches('[').trim_end_matches(']');
        host.parse().ok().map(|address: IpAddr| address.to_canonical())
    }
}

/// The text is no address that may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoAddress {
    /// Not a URL.
    #[error("an address like https://example.com/path is right")]
    Shape,
    /// Plain http to somewhere else, or another scheme.
    #[error("https is right; http only for this machine (localhost, 127.0.0.1, [::1])")]
    Scheme,
    /// Addresses are printed and logged.
    #[error("it must not hold a user or a password")]
    Credentials,
}

impl FromStr for Address {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        let address = Self::with_host(text)?;
        match address.0.scheme() {
            "https" => Ok(address),
            "http" if address.is_local() => Ok(address),
            _ => Err(NoAddress::Scheme),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({})", self.0)
    }
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// No connection, a broken one, or no time left.
    #[error("{}", described(.0))]
    Call(#[from] reqwest::Error),
    /// The other side refused.
    #[error("it answered with status {0}")]
    Status(u16),
    /// A file that was to be sent cannot be read.
    #[error("a file cannot be read: {0}")]
    File(#[from] std::io::Error),
    /// More came than was asked for.
    #[error("its answer is larger than {0} bytes")]
    TooLarge(usize),
}

/// reqwest's own text leaves the cause out.
fn described(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Calls one address. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Caller {
    client: reqwest::Client,
    address: Address,
}

impl Caller {
    /// A caller that gives up after `timeout`. Redirections are not followed: they could lead past the rules of [`Address`].
    pub fn new(address: Address, timeout: Duration) -> Result<Self, OutboundError> {
        Self::within(address, CONNECT, timeout)
    }

    /// The same with its own longest wait for a connection.
    pub fn within(address: Address, connect: Duration, timeout: Duration) -> Result<Self, OutboundError> {
        let builder = builder_with(connect, timeout);
        // A proxy would look for this machine's services on its own.
        let builder = if address.is_local() { builder.no_proxy() } else { builder };
        Ok(Self { client: builder.build()?, address })
    }

    /// The body of a successful answer.
    pub async fn get(&self, limit: usize) -> Result<Vec<u8>, OutboundError> {
        match self.send(self.client.get(self.address.0.clone()), limit).await? {
            (status, _) if !(200..300).contains(&status) => Err(OutboundError::Status(status)),
            (_, body) => Ok(body),
        }
    }

    /// Posts a body with headers; the answer's status and body.
    pub async fn post(
        &self,
        headers: HeaderMap,
        body: impl Into<reqwest::Body>,
        limit: usize,
    ) -> Result<(u16, Vec<u8>), OutboundError> {
        self.send(self.client.post(self.address.0.clone()).headers(headers).body(body), limit).await
    }

    /// Posts a form with a bearer key; the answer's status and body.
    pub async fn post_form(&self, key: &str, parts: Vec<Part>, limit: usize) -> Result<(u16, Vec<u8>), OutboundError> {
        let form = form::encode(parts).await?;
        let request = self.client.post(self.address.0.clone()).bearer_auth(key);
        let request = request.header(CONTENT_TYPE, form.content_type).header(CONTENT_LENGTH, form.length).body(form.body);
        self.send(request, limit).await
    }

    /// Posts JSON with headers; the answer's status.
    pub async fn post_json(&self, headers: &[(&'static str, String)], body: String, limit: usize) -> Result<u16, OutboundError> {
        let mut request = self.client.post(self.address.0.clone()).header(CONTENT_TYPE, "application/json").body(body);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        self.send(request, limit).await.map(|(status, _)| status)
    }

    /// Posts JSON with a bearer key, if there is one; the answer from its first byte on, to be read as it comes.
    pub async fn post_json_open(&self, key: Option<&str>, body: String) -> Result<Incoming, OutboundError> {
        let mut request = self.client.post(self.address.0.clone()).header(CONTENT_TYPE, "application/json").body(body);
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        Ok(Incoming { response: request.send().await?, read: 0 })
    }

    async fn send(&self, request: RequestBuilder, limit: usize) -> Result<(u16, Vec<u8>), OutboundError> {
        let mut response = request.send().await?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > limit {
                return Err(OutboundError::TooLarge(limit));
            }
            body.extend_from_slice(&chunk);
        }
        Ok((response.status().as_u16(), body))
    }
}

/// An answer that is still coming.
#[derive(Debug)]
pub struct Incoming {
    response: reqwest::Response,
    read: usize,
}

impl Incoming {
    /// Its status.
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// How long the other side wants to be left alone (`Retry-After` in seconds; its form as a date is not read).
    pub fn retry_after(&self) -> Option<Duration> {
        let seconds = self.response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
        Some(Duration::from_secs(seconds))
    }

    /// The next bytes; `None` at the end. An error where more than `limit` have come in all.
    pub async fn chunk(&mut self, limit: usize) -> Result<Option<Vec<u8>>, OutboundError> {
        let Some(chunk) = self.response.chunk().await? else { return Ok(None) };
        self.read += chunk.len();
        if self.read > limit {
            return Err(OutboundError::TooLarge(limit));
        }
        Ok(Some(chunk.to_vec()))
    }

    /// Everything that is still to come.
    pub async fn rest(mut self, limit: usize) -> Result<Vec<u8>, OutboundError> {
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk(limit).await? {
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_client_can_be_made() {
        assert!(client(Duration::from_secs(1)).is_ok());
    }

    #[test]
    fn names_in_paths_are_escaped() {
        let server = Address::anywhere("http://example.com:8080/base/").unwrap();
        let path = server.at(["admin", "a/b?c", "versions"]);
        assert_eq!(path.to_string(), "http://example.com:8080/base/admin/a%2Fb%3Fc/versions");
        assert_eq!(Address::anywhere("example.com:8080"), Err(NoAddress::Shape));
    }

    #[test]
    fn only_https_and_this_machine_may_be_called() {
        for good in ["https://example.com/keys", "http://127.0.0.1:8000/keys", "http://localhost/keys", "http://[::1]:1/"] {
            good.parse::<Address>().unwrap();
        }
        for (bad, reason) in [
            ("http://example.com/keys", NoAddress::Scheme),
            ("http://127.0.0.1.example.com/", NoAddress::Scheme),
            ("http://10.0.0.1/", NoAddress::Scheme),
            ("ftp://localhost/", NoAddress::Scheme),
            ("file:///etc/passwd", NoAddress::Shape),
            ("keys.json", NoAddress::Shape),
            ("https://user:secret@example.com/", NoAddress::Credentials),
        ] {
            assert_eq!(bad.parse::<Address>(), Err(reason), "{bad}");
        }
    }
}
