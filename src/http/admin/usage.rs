//! `/v1/organization/usage/completions` and `/v1/organization/costs`: what was used, in buckets of time; and
//! `/admin/usage/export`: all of it. A tenant's key sees what
//! its tenant used.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures::StreamExt;
use serde_json::{Value, json};

use super::query::Parameters;
use crate::http::Server;
use crate::http::error::ApiError;
use crate::http::fields;
use crate::tenants::admin::AdminError;
use crate::tenants::admin::usage::{self, Bucket, Export, Field, Format, Question, SumRow, Sums, Which};
use crate::tenants::{Principal, Reach, Scope, unix_now};

const MINUTE: i64 = 60;
const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;
/// Largest time, seconds since 1970.
const MAX_TIME: i64 = 1 << 36;
/// Begins the name of a page; the time at which it begins follows.
const PAGE: &str = "page_";
/// Longest wait for what is on its way to the database.
const FRESH: Duration = Duration::from_millis(500);
/// Nano-dollars of a dollar.
const DOLLAR: f64 = 1e9;

/// The query string.
pub struct Asked(pub Parameters);

impl FromRequestParts<Server> for Asked {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Server) -> Result<Self, ApiError> {
        Parameters::of(parts).map(Self)
    }
}

/// How long buckets are, how many come at once, and how many can.
/// Longest wait for rows that are on their way into the database.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);

#[derive(Clone, Copy)]
struct Width {
    seconds: i64,
    usual: i64,
    most: i64,
}

/// `GET /v1/organization/usage/completions`
pub async fn completions(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    Asked(mut query): Asked,
) -> Result<Json<Value>, ApiError> {
    let widths = [
        ("1m", Width { seconds: MINUTE, usual: 60, most: 1_440 }),
        ("1h", Width { seconds: HOUR, usual: 24, most: 168 }),
        ("1d", Width { seconds: DAY, usual: 7, most: 31 }),
    ];
    let width = query.word("bucket_width", &widths)?.unwrap_or(widths[2].1);
    let by = [("project_id", Field::Project), ("api_key_id", Field::Key), ("model", Field::Model), ("user_id", Field::User)];
    let by = words(&mut query, "group_by", &by)?;
    if query.boolean("batch")? == Some(true) {
        let message = "Unsupported value: 'batch' must be false or absent. There are no batches.";
        return Err(ApiError::invalid("batch", "unsupported_value", message));
    }
    let mut which = of_caller(&mut query, &caller)?;
    which.keys = query.list("api_key_ids")?;
    which.models = query.list("models")?;
    which.users = query.list("user_ids")?;
    let asked = Span::read(&mut query, width)?;
    query.finish()?;
    let sums = Sums { which, by, width: width.seconds };
    asked
        .answer(&server, sums, |sum| {
            let [project, key, model, user] = &sum.fields;
            json!({
                "object": "organization.usage.completions.result",
                "input_tokens": sum.input_tokens,
                "input_cached_tokens": sum.cached_tokens,
                "input_uncached_tokens": sum.input_tokens - sum.cached_tokens,
                "output_tokens": sum.output_tokens,
                "num_model_requests": sum.requests,
                "project_id": project,
                "api_key_id": key,
                "model": model,
                "user_id": user,
                "batch": null,
                "service_tier": null,
            })
        })
        .await
}

/// `GET /v1/organization/costs`
pub async fn costs(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    Asked(mut query): Asked,
) -> Result<Json<Value>, ApiError> {
    let width = Width { seconds: DAY, usual: 7, most: 180 };
    query.word("bucket_width", &[("1d", ())])?;
    // A line item is a model: a request is rounded up once, so that its price has no parts.
    let by = [("project_id", Field::Project), ("api_key_id", Field::Key), ("line_item", Field::Model), ("user_id", Field::User)];
    let by = words(&mut query, "group_by", &by)?;
    let mut which = of_caller(&mut query, &caller)?;
    which.keys = query.list("api_key_ids")?;
    which.models = query.list("line_items")?;
    let asked = Span::read(&mut query, width)?;
    query.finish()?;
    let by_line = by.contains(&Field::Model);
    let sums = Sums { which, by, width: width.seconds };
    asked
        .answer(&server, sums, |sum| {
            let [project, key, model, user] = &sum.fields;
            json!({
                "object": "organization.costs.result",
                // Whole nano-dollars up to 2^53 are exact in the quotient's shortest digits.
                "amount": {"value": sum.cost_nanos as f64 / DOLLAR, "currency": "usd", "nanos": sum.cost_nanos},
                "line_item": model,
                "quantity": by_line.then(|| sum.input_tokens.saturating_add(sum.output_tokens)),
                "quantity_unit": by_line.then_some("tokens"),
                "project_id": project,
                "api_key_id": key,
                "user_id": user,
            })
        })
        .await
}

/// `GET /admin/usage/export`: rows of the ledger, streamed.
pub async fn export(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    Asked(mut query): Asked,
) -> Result<Response, ApiError> {
    let formats = [("csv", Format::Csv), ("jsonl", Format::JsonLines)];
    let format = query.word("format", &formats)?.unwrap_or(Format::Csv);
    let which = of_caller(&mut query, &caller)?;
    let from = query.integer("start_time", 0..=MAX_TIME)?.ok_or_else(missing_start)?;
    let to = query.integer("end_time", 0..=MAX_TIME)?.unwrap_or_else(|| unix_now() + 1);
    query.finish()?;
    fresh(&server).await;
    let mut export = Export::new(server.tenants().office().clone(), which, from, to, format);
    // The first piece is read before the status is sent, so that a database that is down is an error and not half a file.
    let first = export.next().await?;
    let rest = futures::stream::try_unfold(export, async |mut export: Export| {
        let piece = export.next().await?;
        Ok::<_, AdminError>(piece.map(|piece| (piece, export)))
    });
    let pieces = futures::stream::iter(first.map(Ok)).chain(rest);
    let (kind, name) = match format {
        Format::Csv => ("text/csv; charset=utf-8", "attachment; filename=\"usage.csv\""),
        Format::JsonLines => ("application/jsonl", "attachment; filename=\"usage.jsonl\""),
    };
    let mut response = Response::new(Body::from_stream(pieces));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::CONTENT_DISPOSITION, HeaderValue::from_static(name));
    Ok(response)
}

/// What this process has answered until now is to be seen, unless the database takes long.
async fn fresh(server: &Server) {
    // What is still on its way is in the next answer.
    let _ = tokio::time::timeout(FRESH, server.tenants().ledger().flush()).await;
}

fn missing_start() -> ApiError {
    ApiError::invalid("start_time", "missing_required_parameter", "Missing required parameter: 'start_time'.")
}

fn words(query: &mut Parameters, name: &str, words: &[(&str, Field)]) -> Result<Vec<Field>, ApiError> {
    query.list(name)?.iter().map(|text| fields::word(name, text, words)).collect()
}

/// The tenants that are asked about, as far as the caller may ask.
pub fn of_caller(query: &mut Parameters, caller: &Principal) -> Result<Which, ApiError> {
    let projects = query.list("project_ids")?;
    if caller.reach == Reach::Organization && caller.scopes.allow(Scope::ReadOnly) {
        return Ok(Which { projects, ..Which::default() });
    }
    if projects.iter().any(|project| **project != *caller.tenant) {
        return Err(ApiError::organization_only());
    }
    Ok(Which { projects: vec![caller.tenant.to_string()], ..Which::default() })
}

/// A span of time, and the part of it that a page shows.
struct Span {
    from: i64,
    to: i64,
    /// Where the page ends.
    page_end: i64,
}

impl Span {
    fn read(query: &mut Parameters, width: Width) -> Result<Self, ApiError> {
        let start = query.integer("start_time", 0..=MAX_TIME)?.ok_or_else(missing_start)?;
        let end = query.integer("end_time", 0..=MAX_TIME)?;
        if end.is_some_and(|end| end <= start) {
            let message = format!("Invalid 'end_time': a time after 'start_time' ({start}) is right.");
            return Err(ApiError::invalid("end_time", "invalid_value", message));
        }
        let limit = query.integer("limit", 1..=width.most)?.unwrap_or(width.usual);
        // Without an end, the bucket that is running is the last one.
        let to = end.unwrap_or_else(|| (unix_now().max(start).div_euclid(width.seconds) + 1) * width.seconds);
        let from = match query.text("page")? {
            None => start,
            Some(page) => {
                let begin = page.strip_prefix(PAGE).and_then(|text| text.parse::<i64>().ok());
                let message = || "Invalid 'page': the 'next_page' of an earlier answer to the same question is right.";
                let begin = begin.filter(|begin| (start..to).contains(begin));
                begin.ok_or_else(|| ApiError::invalid("page", "invalid_value", message()))?
            }
        };
        let page_end = (from.div_euclid(width.seconds) + limit).saturating_mul(width.seconds).min(to);
        Ok(Self { from, to, page_end })
    }

    async fn answer(&self, server: &Server, sums: Sums, render: impl Fn(&SumRow) -> Value) -> Result<Json<Value>, ApiError> {
        fresh(server).await;
        let question = Question { sums, from: self.from, to: self.page_end };
        // What was answered before this question is part of the answer; a database that is behind is not waited for.
        server.tenants().ledger().flush_within(PATIENCE).await;
        let _turn = server.tenants().database().report().await;
        let buckets = usage::buckets(server.tenants().office(), &question).await?;
        let bucket = |bucket: &Bucket| {
            json!({
                "object": "bucket",
                "start_time": bucket.from,
                "end_time": bucket.to,
                "results": bucket.sums.iter().map(&render).collect::<Vec<_>>(),
            })
        };
        let data: Vec<Value> = buckets.iter().map(bucket).collect();
        let has_more = self.page_end < self.to;
        let next_page = has_more.then(|| format!("{PAGE}{}", self.page_end));
        Ok(Json(json!({"object": "page", "data": data, "has_more": has_more, "next_page": next_page})))
    }
}
