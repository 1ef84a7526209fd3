//! `GET /v1/files/{file_id}/report`: what `switchyard dataset check` says, of a file that was sent. OpenAI has nothing like it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::http::request::Parts as RequestParts;
use time::OffsetDateTime;
use tokio::sync::Semaphore;

use crate::http::Server;
use crate::http::admin::query::Parameters;
use crate::http::auth::may_look_at_training;
use crate::http::error::ApiError;
use crate::tenants::Principal;
use crate::training::dataset::render::{Parts, Renderer};
use crate::training::dataset::split::USUAL_SHARE;
use crate::training::dataset::{Checking, DatasetError, Options, Reader, Report, check};
use crate::training::idle::yield_to_others;

/// Reports take a processor each and go through whole files: one at a time, the others wait.
static ONE: Semaphore = Semaphore::const_new(1);

/// `GET /v1/files/{file_id}/report`
pub async fn report(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    Path(id): Path<String>,
    parts: RequestParts,
) -> Result<Json<Report>, ApiError> {
    may_look_at_training(&caller)?;
    let mut query = Parameters::of(&parts)?;
    let mut options = Options::default();
    let format = query.text("format")?;
    let map = query.text("map")?;
    let least_quality = query.text("least_quality")?;
    let seed = query.integer("seed", 0..=i64::MAX)?.unwrap_or(0).unsigned_abs();
    let most = server.gateway().context_length();
    let context = query.integer("context", 1..=i64::try_from(most).unwrap_or(i64::MAX))?;
    let context = context.and_then(|context| usize::try_from(context).ok()).unwrap_or(most);
    query.finish()?;
    let wrong = |name: &'static str, problem: &dyn std::fmt::Display| {
        ApiError::invalid(name, "invalid_value", format!("Invalid '{name}': {problem}."))
    };
    let (row, path) = server.files().content(&caller.tenant, &id).await?;
    options.hint(&row.filename);
    if let Some(format) = format {
        options.set_format(&format).map_err(|error| wrong("format", &error))?;
    }
    options.mapping = map.map(|map| map.parse()).transpose().map_err(|error: DatasetError| wrong("map", &error))?;
    options.least_quality = match least_quality.map(|text| text.parse()) {
        None => None,
        Some(Ok(least)) => Some(least),
        Some(Err(_)) => return Err(wrong("least_quality", &"it must be a number")),
    };
    let base = server.gateway().base();
    let renderer = Renderer::new(Parts {
        tokenizer: base.tokenizer.clone(),
        chat_template: base.chat_template.clone(),
        ends: base.end_tokens.clone(),
        context,
        now: OffsetDateTime::now_utc(),
    });
    let renderer = renderer.map_err(|error| ApiError::invalid("model", "base_not_trainable", format!("{error}.")))?;
    // A closed semaphore would be a bug; nobody closes it.
    let _turn = ONE.acquire().await.map_err(|error| ApiError::internal(&error))?;
    let stop = StopOnDrop::default();
    let stopped = Arc::clone(&stop.0);
    // A thread of its own, as its priority is lowered for good.
    let (send, receive) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("dataset-report".to_owned()).spawn(move || {
        yield_to_others();
        // Nobody may be left to take it.
        let _ = send.send(look(&path, &options, &renderer, seed, &stopped));
    });
    thread.map_err(|error| ApiError::internal(&error))?;
    match receive.await.map_err(|error| ApiError::internal(&error))? {
        Ok(report) => Ok(Json(report)),
        Err(DatasetError::Io { source, .. }) => Err(ApiError::internal(&source)),
        Err(error) => Err(ApiError::invalid("file", "invalid_file", format!("The file is no dataset: {error}."))),
    }
}

fn look(
    path: &std::path::Path,
    options: &Options,
    renderer: &Renderer,
    seed: u64,
    stop: &AtomicBool,
) -> Result<Report, DatasetError> {
    let reader = Reader::open(path, options)?;
    let renderer = Some(renderer);
    check(reader, Checking { renderer, validation: None, held_out: USUAL_SHARE, seed, fix: None, each: None, stop: Some(stop) })
}

/// Stops the work when the client has left.
#[derive(Default)]
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
