//! Accepts connections until told to stop, then lets running answers end.

use std::future::Future;
use std::time::Duration;

use axum::serve::ListenerExt;
use tokio::net::TcpListener;

use super::{Server, router};

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Every answer was sent to its end.
    Drained,
    /// The deadline cut answers off.
    CutOff,
}

/// Serves until `stop` is ready, then takes no more connections and waits for running answers, `deadline` at most.
pub async fn serve(
    listener: TcpListener,
    server: Server,
    stop: impl Future<Output = ()> + Send + 'static,
    deadline: Duration,
) -> std::io::Result<Ended> {
    // Tokens are small writes that somebody waits for.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot switch off Nagle's algorithm");
        }
    });
    let (stopping, stopped) = tokio::sync::oneshot::channel();
    let signal = async move {
        stop.await;
        // Nobody listens when serving has ended by itself.
        let _ = stopping.send(());
    };
    let serving = axum::serve(listener, router(server)).with_graceful_shutdown(signal).into_future();
    let cut_off = async move {
        match stopped.await {
            Ok(()) => tokio::time::sleep(deadline).await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        served = serving => served.map(|()| Ended::Drained),
        () = cut_off => Ok(Ended::CutOff),
    }
}
