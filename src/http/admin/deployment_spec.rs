//! A deployment's spec as JSON: read field by field, so that every mistake has its field's name, and written as it is read.

use serde_json::{Map, Value, json};

use super::promotions::release;
use crate::experiments::deployment::{MAX_ARMS, MAX_RESIDENT, USUAL_RESIDENT};
use crate::experiments::settings::Settings;
use crate::experiments::{Arm, Draft, Named, Shadow, Spec, Target, Weight};
use crate::http::error::ApiError;
use crate::http::fields::{Fields, wrong_type};
use crate::registry::{Owner, Release};

/// Most tokens a day that can be written.
const MAX_TOKENS: i64 = 1 << 50;

/// Takes the fields of a spec.
pub fn take(fields: &mut Fields) -> Result<Draft, ApiError> {
    let arms = match fields.take("arms").ok_or_else(|| fields.missing("arms"))? {
        Value::Array(arms) => arms,
        other => return Err(wrong_type("arms", "an array of arms", &other)),
    };
    if arms.len() > MAX_ARMS {
        let message = format!("Invalid 'arms': array too long. Expected at most {MAX_ARMS} arms, but got {}.", arms.len());
        return Err(ApiError::invalid("arms", "array_above_max_length", message));
    }
    let arms =
        arms.into_iter().enumerate().map(|(index, value)| arm(format!("arms[{index}]"), value)).collect::<Result<_, _>>()?;
    let fallback = fields.strings("fallback", MAX_ARMS + 1)?.unwrap_or_default();
    let shadow = fields.take("shadow").map(|value| shadow("shadow".to_owned(), value)).transpose()?;
    let experiment = fields.take("experiment").map(experiment).transpose()?;
    let most = i64::try_from(MAX_RESIDENT).unwrap_or(i64::MAX);
    let keep_resident_seconds = fields.integer("keep_resident_seconds", 0..=most)?;
    let keep_resident_seconds = keep_resident_seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(USUAL_RESIDENT);
    Ok(Spec { arms, fallback, shadow, experiment, keep_resident_seconds })
}

fn arm(path: String, value: Value) -> Result<Arm<Named>, ApiError> {
    let mut fields = Fields::object(path, value)?;
    let name = fields.required_string("name")?;
    let target = named(&mut fields)?;
    let weight = weight(&mut fields, "weight")?;
    fields.finish(&[])?;
    Ok(Arm { name, target, weight })
}

fn shadow(path: String, value: Value) -> Result<Shadow<Named>, ApiError> {
    let mut fields = Fields::object(path, value)?;
    let target = named(&mut fields)?;
    let percent = weight(&mut fields, "percent")?;
    let max_tokens_per_day = fields.integer("max_tokens_per_day", 1..=MAX_TOKENS)?.and_then(|tokens| u64::try_from(tokens).ok());
    fields.finish(&[])?;
    Ok(Shadow { target, percent, max_tokens_per_day })
}

/// Takes a model and the ground on which it may be served.
pub fn named(fields: &mut Fields) -> Result<Named, ApiError> {
    let model = fields.required_string("model")?;
    let from_tenant = fields.string("from_tenant")?;
    let release = release(fields)?;
    Ok(Named { model, from_tenant, release })
}

/// Takes a share of the traffic.
pub fn weight(fields: &mut Fields, name: &str) -> Result<Weight, ApiError> {
    let path = fields.path(name);
    let percent = fields.number(name, 0.0..=100.0)?.ok_or_else(|| fields.missing(name))?;
    Weight::of_percent(percent).ok_or_else(|| {
        let message =
            format!("Invalid '{path}': {percent} is not exact to a hundredth of a percent; at most two decimals are right.");
        ApiError::invalid(path, "invalid_value", message)
    })
}

pub fn experiment(value: Value) -> Result<Settings, ApiError> {
    if !value.is_object() {
        return Err(wrong_type("experiment", "an object", &value));
    }
    serde_json::from_value(value)
        .map_err(|error| ApiError::invalid("experiment", "invalid_value", format!("Invalid 'experiment': {error}.")))
}

/// The fields of a spec, as they are read.
pub fn render(spec: &Spec, owner: &Owner) -> Map<String, Value> {
    let arm = |arm: &Arm| {
        let mut object = target(&arm.target, owner);
        object.insert("name".to_owned(), json!(arm.name));
        object.insert("weight".to_owned(), json!(arm.weight));
        Value::Object(object)
    };
    let shadow = spec.shadow.as_ref().map(|shadow| {
        let mut object = target(&shadow.target, owner);
        object.insert("percent".to_owned(), json!(shadow.percent));
        object.insert("max_tokens_per_day".to_owned(), json!(shadow.max_tokens_per_day));
        object
    });
    let mut object = Map::new();
    object.insert("arms".to_owned(), spec.arms.iter().map(arm).collect());
    object.insert("fallback".to_owned(), json!(spec.fallback));
    object.insert("shadow".to_owned(), json!(shadow));
    object.insert("experiment".to_owned(), json!(spec.experiment));
    object.insert("keep_resident_seconds".to_owned(), json!(spec.keep_resident_seconds));
    object
}

fn target(target: &Target, owner: &Owner) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("model".to_owned(), json!(target.model));
    match &target.release {
        Release::Gate => {}
        Release::Approved { name } => drop(object.insert("approved_by".to_owned(), json!(name))),
        Release::Waived { name } => drop(object.insert("waived_by".to_owned(), json!(name))),
    }
    let foreign = target.version.as_ref().and_then(|version| version.tenant.as_ref());
    if let (Owner::Shared, Some(tenant)) = (owner, foreign) {
        object.insert("from_tenant".to_owned(), json!(tenant));
    }
    object
}
