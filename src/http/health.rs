//! Whether the server lives, and whether it is ready.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::Server;
use crate::gateway::Health;

/// Ready when nobody holds a latch: whoever is not ready yet takes one at start and drops it.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    names: Mutex<Vec<&'static str>>,
    ending: AtomicBool,
}

/// Keeps the server from being ready while it lives.
#[derive(Debug)]
pub struct Latch {
    readiness: Readiness,
    name: &'static str,
}

impl Readiness {
    /// Takes a latch; its name is shown to whoever asks what is missing.
    pub fn latch(&self, name: &'static str) -> Latch {
        self.names().push(name);
        Latch { readiness: self.clone(), name }
    }

    /// The process ends: whoever asks for work should ask another one from now on.
    pub fn end(&self) -> Latch {
        self.0.ending.store(true, Ordering::Relaxed);
        self.latch("shutdown")
    }

    /// Whether the process ends.
    pub fn is_ending(&self) -> bool {
        self.0.ending.load(Ordering::Relaxed)
    }

    /// Names of the latches that are held.
    pub fn waiting_for(&self) -> Vec<&'static str> {
        self.names().clone()
    }

    fn names(&self) -> std::sync::MutexGuard<'_, Vec<&'static str>> {
        self.0.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Latch {
    fn drop(&mut self) {
        let mut names = self.readiness.names();
        if let Some(index) = names.iter().position(|name| *name == self.name) {
            names.swap_remove(index);
        }
    }
}

/// `GET /health`: the process can do its work. An engine that failed never comes back by itself; the process wants a restart.
pub async fn health(State(server): State<Server>) -> (StatusCode, Json<Value>) {
    let model = &server.gateway().base().name;
    let (status, text) = match server.gateway().health() {
        Health::Serving => (StatusCode::OK, "healthy"),
        Health::Stopping => (StatusCode::OK, "stopping"),
        Health::Stopped => (StatusCode::SERVICE_UNAVAILABLE, "stopped"),
        Health::Failed(_) => (StatusCode::SERVICE_UNAVAILABLE, "unhealthy"),
    };
    let mut body = json!({"status": text, "model": model});
    if let Some(sharing) = server.tenants().sharing() {
        body["limits"] = match sharing.connected {
            true => json!({"kept": "together"}),
            // No reason for a restart: it serves on.
            false => json!({"kept": "alone", "why": "Redis does not answer", "share": sharing.share.part()}),
        };
    }
    (status, Json(body))
}

/// `GET /ready`: requests sent now will be served.
pub async fn ready(State(server): State<Server>) -> (StatusCode, Json<Value>) {
    let mut waiting = server.readiness().waiting_for();
    if server.gateway().health() != Health::Serving {
        waiting.push("engine");
    }
    if waiting.is_empty() {
        (StatusCode::OK, Json(json!({"status": "ready"})))
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "not ready", "waiting_for": waiting})))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;

    #[test]
    fn ready_means_that_all_latches_are_dropped() {
        let readiness = Readiness::default();
        let model = readiness.latch("model");
        let adapters = readiness.clone().latch("adapters");
        assert_eq!(readiness.waiting_for(), ["model", "adapters"]);
        drop(model);
        assert_eq!(readiness.waiting_for(), ["adapters"]);
        drop(adapters);
        assert!(readiness.waiting_for().is_empty());
    }
}
