//! `/admin/prices`: the price book. Dollars per million tokens as text, exact to the nano-dollar.

use axum::Json;
use axum::extract::Path;
use axum::response::Response;
use serde_json::{Value, json};

use super::budgets::dollars;
use super::change::{Changing, Halt, Looking, changed, done, found};
use super::{deleted, list};
use crate::http::error::ApiError;
use crate::http::fields::Fields;
use crate::tenants::admin::PriceRow;
use crate::tenants::admin::money;
use crate::tenants::admin::prices::{self, PriceSpec};

/// A price is never changed; its version stays.
const VERSION: i64 = 1;
const USD: &str = "usd_per_million_tokens";

/// `GET /admin/prices`
pub async fn list_all(mut looking: Looking) -> Result<Json<Value>, ApiError> {
    let paging = looking.query.paging(100, 1_000)?;
    let (project, model) = (looking.query.text("project_id")?, looking.query.text("model")?);
    let server = looking.without_parameters()?;
    let page = prices::list(server.tenants().office(), project.as_deref(), model.as_deref(), &paging).await?;
    Ok(list(&page, render))
}

/// `POST /admin/prices`
pub async fn create(changing: Changing) -> Result<Response, Halt> {
    let (mut fields, planned) = changing.fields()?;
    let all = || "*".to_owned();
    let project = fields.string("project_id")?.unwrap_or_else(all);
    let model = fields.string("model")?.unwrap_or_else(all);
    let valid_from = fields.integer("valid_from", 0..=i64::from(u32::MAX) * 4)?;
    let usd = fields.take(USD).ok_or_else(|| fields.missing(USD))?;
    fields.finish(&[])?;
    let mut usd = Fields::object(USD.to_owned(), usd)?;
    let input = dollars(&mut usd, "input")?.ok_or_else(|| usd.missing("input"))?;
    let output = dollars(&mut usd, "output")?.ok_or_else(|| usd.missing("output"))?;
    let cached_input = dollars(&mut usd, "cached_input")?.unwrap_or(input);
    let training = dollars(&mut usd, "training")?.unwrap_or(0);
    usd.finish(&[])?;
    let mut change = planned.begin().await?;
    let spec = PriceSpec { project, model, valid_from, input, cached_input, output, training };
    let row = prices::create(&mut change, spec).await?;
    changed(change, &render(&row), VERSION).await
}

/// `GET /admin/prices/{price_id}`
pub async fn retrieve(Path(id): Path<String>, looking: Looking) -> Result<Response, ApiError> {
    let server = looking.without_parameters()?;
    Ok(found(&render(&prices::get(server.tenants().office(), &id).await?), VERSION))
}

/// `DELETE /admin/prices/{price_id}`
pub async fn remove(Path(id): Path<String>, changing: Changing) -> Result<Response, Halt> {
    let mut change = changing.without_fields()?.begin().await?;
    prices::delete(&mut change, &id).await?;
    done(change, &deleted(&id, "price.deleted")).await
}

fn render(row: &PriceRow) -> Value {
    json!({
        "id": row.id,
        "object": "price",
        "project_id": row.project_id,
        "model": row.model,
        "valid_from": row.valid_from,
        "usd_per_million_tokens": {
            "input": money::format(row.input_nanos),
            "cached_input": money::format(row.cached_input_nanos),
            "output": money::format(row.output_nanos),
            "training": money::format(row.training_nanos),
        },
        "created_at": row.created_at,
    })
}
