//! `POST /admin/adapters/{name}/promotions`: a model that a fine-tuning job has made behind a name that others are sent to. Takes a
//! passed gate, or somebody's name.

use axum::Json;
use axum::extract::{FromRequest, Path, Request, State};
use axum::response::Response;
use serde_json::{Value, json};

use super::adapters::{current, put_into_service};
use super::change::{Halt, changed};
use super::conditions::Conditions;
use super::query::Parameters;
use crate::http::Server;
use crate::http::adapters::new_owner;
use crate::http::error::ApiError;
use crate::http::fields::Fields;
use crate::registry::{Promotion, Release};
use crate::tenants::DEFAULT_TENANT;
use crate::tenants::admin::adapters::record;

/// Longest name of a person.
const MAX_PERSON: usize = 256;

/// `POST /admin/adapters/{name}/promotions`
pub async fn create(State(server): State<Server>, Path(name): Path<String>, request: Request) -> Result<Response, Halt> {
    let (parts, body) = request.into_parts();
    Parameters::of(&parts)?.finish()?;
    let conditions = Conditions::of(&server, &parts)?;
    let request = Request::from_parts(parts, body);
    let Json(body) = Json::<Value>::from_request(request, &server)
        .await
        .map_err(|error| ApiError { param: None, ..ApiError::invalid("", "invalid_json", error.body_text()) })?;
    let content = body.to_string();
    let mut fields = Fields::body(body)?;
    let model = fields.required_string("model")?;
    let from = fields.string("from_tenant")?.unwrap_or_else(|| DEFAULT_TENANT.to_owned());
    let owner = new_owner(&server, fields.string("tenant")?)?;
    let expected = fields.string("expected_version")?;
    let release = release(&mut fields)?;
    fields.finish(&[])?;
    drop(conditions.begin(&content).await?);
    let expected_version = conditions.expected_version(expected, current(&server, &owner, &name))?;
    let promotion = Promotion { tenant: from, model, owner: owner.clone(), name, expected_version, release: release.clone() };
    let loaded = server.gateway().promote(promotion).await.map_err(ApiError::from)?;
    let object = json!({
        "object": "adapter.version",
        "name": loaded.name,
        "owner": owner.tenant(),
        "version": loaded.number,
        "digest": loaded.id,
        "replaced": loaded.replaced,
        "release": release,
    });
    let mut change = conditions.begin(&content).await?;
    record(&mut change, &put_into_service(&owner, &loaded)).await?;
    changed(change, &object, i64::from(loaded.number)).await
}

/// Takes the ground on which a version may be served: its gate, or somebody's name.
pub(super) fn release(fields: &mut Fields) -> Result<Release, ApiError> {
    let (approved, waived) = (fields.path("approved_by"), fields.path("waived_by"));
    let (approved_by, waived_by) = (fields.string("approved_by")?, fields.string("waived_by")?);
    let person = |field: &str, name: String| match name.trim() {
        "" => Err(ApiError::invalid(field, "empty_string", format!("Invalid '{field}': empty string."))),
        name if name.len() > MAX_PERSON => {
            let message = format!("Invalid '{field}': at most {MAX_PERSON} bytes are right.");
            Err(ApiError::invalid(field, "string_above_max_length", message))
        }
        name => Ok(name.to_owned()),
    };
    match (approved_by, waived_by) {
        (None, None) => Ok(Release::Gate),
        (Some(name), None) => Ok(Release::Approved { name: person(&approved, name)? }),
        (None, Some(name)) => Ok(Release::Waived { name: person(&waived, name)? }),
        (Some(_), Some(_)) => {
            let message = format!("Invalid '{waived}': send either 'approved_by' or 'waived_by'.");
            Err(ApiError::invalid(waived, "invalid_value", message))
        }
    }
}
