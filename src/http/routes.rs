//! The whole API as one list, and the middleware as another.

use axum::http::{Method, StatusCode};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodRouter, delete, get, post, put};
use axum::{Router, extract::DefaultBodyLimit};
use tower::ServiceBuilder;

use super::auth::require;
use super::error::ApiError;
use super::linger::linger;
use super::openai::{fine_tuning, responses};
use super::{Server, adapters, admin, convert, convert_corrections, feedback, health, metrics, middleware, openai, openapi};
use crate::tenants::Scope;

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody: probes and machines.
    Open,
    /// Holders of a key with this scope.
    Scope(Scope),
}

/// One route.
pub struct Route {
    /// Method.
    pub method: Method,
    /// Path, with parameters in braces.
    pub path: &'static str,
    /// Who may call it.
    pub access: Access,
    handler: MethodRouter<Server>,
}

impl Route {
    /// A line of a list of routes.
    pub fn new(method: Method, path: &'static str, access: Access, handler: MethodRouter<Server>) -> Self {
        Self { method, path, access, handler }
    }
}

/// The API. `openapi.rs` describes the same routes; a test compares the two.
#[rustfmt::skip]
pub fn routes() -> Vec<Route> {
    use Access::Open;
    const ADMIN: Access = Access::Scope(Scope::Admin);
    const USE: Access = Access::Scope(Scope::Inference);
    const LOOK: Access = Access::Scope(Scope::ReadOnly);
    const TRAIN: Access = Access::Scope(Scope::FineTuning);
    let route = Route::new;
    let mut routes = vec![
        route(Method::POST, "/v1/chat/completions",     USE,   post(openai::chat)),
        route(Method::POST, "/v1/completions",          USE,   post(openai::completions)),
        route(Method::POST, "/v1/responses",            USE,   post(responses::create)),
        route(Method::GET,  "/v1/responses/{response_id}", USE, get(responses::retrieve)),
        route(Method::DELETE, "/v1/responses/{response_id}", USE, delete(responses::remove)),
        route(Method::GET,  "/v1/responses/{response_id}/input_items", USE, get(responses::input_items)),
        route(Method::POST, "/v1/embeddings",           USE,   post(openai::embeddings)),
        route(Method::GET,  "/v1/models",               LOOK,  get(openai::list_models)),
        route(Method::GET,  "/v1/models/{*id}",         LOOK,  get(openai::get_model)),
        route(Method::GET,  "/v1/model_cards",          LOOK,  get(openai::list_model_cards)),
        route(Method::GET,  "/v1/model_cards/{*id}",    LOOK,  get(openai::get_model_card)),
        route(Method::DELETE, "/v1/models/{*id}",       TRAIN, delete(openai::delete_model)),
        route(Method::POST, "/v1/fine_tuning/jobs",     TRAIN, post(fine_tuning::create)),
        route(Method::GET,  "/v1/fine_tuning/jobs",     LOOK,  get(fine_tuning::list_all)),
        route(Method::GET,  "/v1/fine_tuning/jobs/{job_id}", LOOK, get(fine_tuning::retrieve)),
        route(Method::POST, "/v1/fine_tuning/jobs/{job_id}/cancel", TRAIN, post(fine_tuning::cancel)),
        route(Method::POST, "/v1/fine_tuning/jobs/{job_id}/pause", TRAIN, post(fine_tuning::pause)),
        route(Method::POST, "/v1/fine_tuning/jobs/{job_id}/resume", TRAIN, post(fine_tuning::resume)),
        route(Method::GET,  "/v1/fine_tuning/jobs/{job_id}/events", LOOK, get(fine_tuning::events)),
        route(Method::GET,  "/v1/fine_tuning/jobs/{job_id}/checkpoints", LOOK, get(fine_tuning::checkpoints)),
        route(Method::GET,  "/v1/fine_tuning/jobs/{job_id}/run", LOOK, get(fine_tuning::run)),
        route(Method::POST, "/v1/files",                TRAIN, post(openai::files::create)),
        route(Method::GET,  "/v1/files",                LOOK,  get(openai::files::list_all)),
        route(Method::GET,  "/v1/files/{file_id}",      LOOK,  get(openai::files::retrieve)),
        route(Method::GET,  "/v1/files/{file_id}/report", LOOK, get(openai::file_reports::report)),
        route(Method::DELETE, "/v1/files/{file_id}",    TRAIN, delete(openai::files::remove)),
        route(Method::GET,  "/v1/files/{file_id}/content", LOOK, get(openai::files::content)),
        route(Method::POST, "/v1/uploads",              TRAIN, post(openai::uploads::create)),
        route(Method::POST, "/v1/uploads/{upload_id}/parts", TRAIN, post(openai::uploads::part)),
        route(Method::POST, "/v1/uploads/{upload_id}/complete", TRAIN, post(openai::uploads::complete)),
        route(Method::POST, "/v1/uploads/{upload_id}/cancel", TRAIN, post(openai::uploads::cancel)),
        route(Method::POST, "/convert",                 USE,   post(convert::convert)),
        route(Method::POST, "/api/convert",             USE,   post(convert::convert)),
        route(Method::POST, "/v1/feedback",             USE,   post(feedback::create)),
        route(Method::GET,  "/v1/convert/schemas",      LOOK,  get(convert::schemas::list)),
        route(Method::GET,  "/v1/convert/schemas/{name}", LOOK, get(convert::schemas::retrieve)),
        route(Method::PUT,  "/v1/convert/schemas/{name}", TRAIN, put(convert::schemas::put)),
        route(Method::DELETE, "/v1/convert/schemas/{name}", TRAIN, delete(convert::schemas::remove)),
        route(Method::POST, "/convert/{id}/correction",     USE, post(convert_corrections::correct)),
        route(Method::POST, "/api/convert/{id}/correction", USE, post(convert_corrections::correct)),
        route(Method::GET,  "/v1/convert/corrections",  LOOK,  get(convert_corrections::export)),
        route(Method::DELETE, "/v1/convert/corrections/{correction_id}", TRAIN, delete(convert_corrections::remove)),
        route(Method::POST, "/v1/convert/corrections/jobs", TRAIN, post(convert_corrections::start_job)),
        route(Method::GET,  "/v1/convert/corrections/policy", LOOK, get(convert_corrections::policy)),
        route(Method::PUT,  "/v1/convert/corrections/policy", TRAIN, put(convert_corrections::set_policy)),
        route(Method::DELETE, "/v1/convert/corrections/policy", TRAIN, delete(convert_corrections::remove_policy)),
        route(Method::POST, "/tokenize",                USE,   post(openai::tokenize)),
        route(Method::POST, "/detokenize",              USE,   post(openai::detokenize)),
        route(Method::POST, "/v1/load_lora_adapter",    ADMIN, post(adapters::load)),
        route(Method::POST, "/v1/unload_lora_adapter",  ADMIN, post(adapters::unload)),
        route(Method::GET,  "/v1/lora_adapters",        LOOK,  get(adapters::list)),
        route(Method::GET,  "/health",                  Open,  get(health::health)),
        route(Method::GET,  "/ready",                   Open,  get(health::ready)),
        route(Method::GET,  "/metrics",                 Open,  get(metrics::render)),
        route(Method::GET,  "/openapi.json",            Open,  get(openapi::document)),
    ];
    routes.extend(admin::routes());
    routes
}

/// The router with its middleware.
pub fn router(server: Server) -> Router {
    let mut router = Router::new();
    for Route { path, access, handler, .. } in routes() {
        let handler = match access {
            Access::Open => handler,
            Access::Scope(scope) => handler.route_layer(from_fn_with_state((server.clone(), scope), require)),
        };
        router = router.route(path, handler);
    }
    router
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(
            // A request passes from the top to the bottom.
            ServiceBuilder::new()
                .layer(from_fn(middleware::request_id))
                .layer(from_fn_with_state(server.clone(), middleware::trace))
                .layer(from_fn_with_state(server.clone(), middleware::send_elsewhere))
                .layer(from_fn(middleware::catch_panics))
                .layer(from_fn(middleware::envelope))
                .layer(from_fn(linger))
                .layer(DefaultBodyLimit::disable()), // bodies are limited where they are read, in `body.rs`
        )
        .with_state(server)
}

async fn not_found(method: Method, uri: axum::http::Uri) -> ApiError {
    if let Some(feature) = admin::absent_feature(uri.path()) {
        return ApiError::not_supported(feature);
    }
    let message = format!("Unknown request URL: {method} {}. /openapi.json lists what there is.", uri.path());
    ApiError::new(StatusCode::NOT_FOUND, "invalid_request_error", Some("unknown_url"), message)
}

async fn method_not_allowed(method: Method, uri: axum::http::Uri) -> ApiError {
    let message = format!("{} does not take {method} requests. /openapi.json lists what there is.", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", Some("method_not_allowed"), message)
}
