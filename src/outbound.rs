//! Calls out to other servers: one way to make an HTTP client, with TLS over the crypto library that the rest of the binary uses.
//! Knows nothing of who is called.

use std::sync::Once;
use std::time::Duration;

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// A client that gives up after `timeout`, follows no redirects and sends no more than it is told.
pub fn client(timeout: Duration) -> Result<reqwest::Client, reqwest::Error> {
    install_tls();
    reqwest::Client::builder()
        .connect_timeout(CONNECT)
        .timeout(timeout)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("switchyard/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Makes ring the process's TLS library; without one, making any client panics.
pub fn install_tls() {
    static ONCE: Once = Once::new();
    // An error means that another part of the process has chosen already.
    ONCE.call_once(|| _ = rustls::crypto::ring::default_provider().install_default());
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_client_can_be_made() {
        assert!(super::client(std::time::Duration::from_secs(1)).is_ok());
    }
}
