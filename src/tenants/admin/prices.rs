//! The price book: prices are added with the time from which they hold, and can be taken back until then. What was billed stays.

use super::{AdminError, Change, Done, Page, Paging, PriceRow, checks, invalid, not_found, projects, refused};
use crate::store::prices as rows;
use crate::tenants::{Office, new_id};

const WHAT: &str = "price";
/// A time this far back counts as now, seconds: clocks differ.
const SLACK: i64 = 60;

/// What a price is to be: nano-dollars per million tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceSpec {
    /// Id of a tenant; `*` is all.
    pub project: String,
    /// A model's name; `*` is all.
    pub model: String,
    /// Seconds since 1970; `None` is now.
    pub valid_from: Option<i64>,
    /// Of prompt tokens.
    pub input: i64,
    /// Of prompt tokens whose computation was reused.
    pub cached_input: i64,
    /// Of generated tokens.
    pub output: i64,
    /// Of tokens trained on.
    pub training: i64,
}

/// Prices, of a tenant and a model where they are given.
pub async fn list(
    office: &Office,
    project: Option<&str>,
    model: Option<&str>,
    paging: &Paging,
) -> Result<Page<PriceRow>, AdminError> {
    let mut connection = office.database.connection().await?;
    Ok(rows::list(&mut connection, project, model, paging).await?)
}

/// A price.
pub async fn get(office: &Office, id: &str) -> Result<PriceRow, AdminError> {
    let mut connection = office.database.connection().await?;
    rows::get(&mut connection, id).await?.ok_or_else(|| not_found(WHAT, id))
}

/// Adds a price.
pub async fn create(change: &mut Change, spec: PriceSpec) -> Result<PriceRow, AdminError> {
    if spec.project != checks::ALL {
        projects::active(change, &spec.project).await?;
    }
    checks::model("model", &spec.model)?;
    let valid_from = spec.valid_from.unwrap_or(change.now);
    if valid_from < change.now - SLACK {
        let problem = format!("{valid_from} has passed: what was used until now is billed already; leave it out for now");
        return Err(invalid("valid_from", problem));
    }
    if [spec.input, spec.cached_input, spec.output, spec.training].into_iter().any(|price| price < 0) {
        return Err(invalid("usd_per_million_tokens", "prices of 0 or more are right"));
    }
    let row = PriceRow {
        id: new_id("price")?,
        project_id: spec.project,
        model: spec.model,
        valid_from,
        input_nanos: spec.input,
        cached_input_nanos: spec.cached_input,
        output_nanos: spec.output,
        training_nanos: spec.training,
        created_at: change.now,
    };
    match rows::insert(&mut change.transaction, &row).await {
        Ok(()) => {}
        Err(error) if error.is_duplicate() => {
            let message = format!("There is a price for this project and model from {valid_from} on already.");
            return Err(refused("price_exists", message));
        }
        Err(error) => return Err(error.into()),
    }
    change.audit(Done { action: "price.created", object: &row.id, project: project_of(&row) }, None, Some(&row)).await?;
    Ok(row)
}

/// Takes a price back that does not hold yet.
pub async fn delete(change: &mut Change, id: &str) -> Result<(), AdminError> {
    let before = rows::get(&mut change.transaction, id).await?.ok_or_else(|| not_found(WHAT, id))?;
    if before.valid_from <= change.now {
        let message = format!("The price '{id}' holds since {}; add another one instead.", before.valid_from);
        return Err(refused("price_in_force", message));
    }
    super::unchanged(rows::delete(&mut change.transaction, id).await?)?;
    change.audit(Done { action: "price.deleted", object: id, project: project_of(&before) }, Some(&before), None).await
}

fn project_of(row: &PriceRow) -> Option<&str> {
    (row.project_id != checks::ALL).then_some(row.project_id.as_str())
}
