//! The request for a fine-tuning job, strictly: what is not there is refused by its name.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::http::error::ApiError;
use crate::http::fields::{self, Fields, Rule};
use crate::tenants::Principal;
use crate::training::jobs::desk::NewJob;
use crate::training::jobs::job::{Auto, Method, MethodKind};

/// Most epochs (OpenAI's).
const EPOCHS: i64 = 50;
/// Most rows of a batch (OpenAI's).
const BATCH: i64 = 256;
/// Largest multiplier of the learning rate.
const MULTIPLIER: f64 = 100.0;
/// Largest beta (OpenAI's).
const BETA: f64 = 2.0;
/// Pairs of metadata, and characters of a key and of a value, at most (OpenAI's).
const METADATA: (usize, usize, usize) = (16, 64, 512);
/// Most hours that can be asked for: a year.
const HOURS: f64 = 8_760.0;
/// Most dollars that can be asked for.
const DOLLARS: f64 = 1e6;

/// Understands a request.
pub fn parse(body: Value, caller: &Principal) -> Result<NewJob, ApiError> {
    let mut fields = Fields::body(body)?;
    let model = fields.required_string("model")?;
    let training_file = fields.required_string("training_file")?;
    let validation_file = fields.string("validation_file")?;
    let suffix = fields.string("suffix")?;
    let seed = fields.integer("seed", 0..=i64::MAX)?;
    let metadata = fields.take("metadata").map(metadata).transpose()?;
    let method = method(&mut fields)?;
    let (max_seconds, max_nanos) = match fields.take("limits") {
        None => (None, None),
        Some(value) => limits(value)?,
    };
    fields.finish(&[(
        "integrations",
        Rule::Only(&["[]"], "This server has no integrations; events, checkpoints and webhooks say how a job goes."),
    )])?;
    Ok(NewJob {
        tenant: Arc::clone(&caller.tenant),
        key_id: caller.key_id.to_string(),
        model,
        training_file,
        validation_file,
        method,
        suffix,
        seed,
        metadata,
        max_seconds,
        max_nanos,
    })
}

/// How is learnt: `method`, or the older `hyperparameters`.
pub fn method(fields: &mut Fields) -> Result<Method, ApiError> {
    let legacy = fields.take("hyperparameters");
    match (fields.take("method"), legacy) {
        (Some(_), Some(_)) => {
            let message = "Invalid 'hyperparameters': they are in 'method', too; send them in one place.";
            Err(ApiError::invalid("hyperparameters", "invalid_value", message))
        }
        (Some(method), None) => parse_method(method),
        (None, hyperparameters) => {
            let path = "hyperparameters".to_owned();
            hyperparameters.map_or(Ok(Method::auto(MethodKind::Supervised)), |value| tuned(MethodKind::Supervised, path, value))
        }
    }
}

fn parse_method(value: Value) -> Result<Method, ApiError> {
    let mut fields = Fields::object("method".to_owned(), value)?;
    let kind = match fields.required_string("type")?.as_str() {
        "reinforcement" => {
            let message = "Unsupported value: 'reinforcement'. This server has the methods 'supervised' and 'dpo'.";
            return Err(ApiError::invalid("method.type", "unsupported_value", message));
        }
        other => fields::word("method.type", other, &[("supervised", MethodKind::Supervised), ("dpo", MethodKind::Dpo)])?,
    };
    let method = match fields.take(kind.name()) {
        None => Method::auto(kind),
        Some(value) => {
            let path = format!("method.{}", kind.name());
            let mut inner = Fields::object(path.clone(), value)?;
            let method = match inner.take("hyperparameters") {
                None => Method::auto(kind),
                Some(value) => tuned(kind, format!("{path}.hyperparameters"), value)?,
            };
            inner.finish(&[])?;
            method
        }
    };
    fields.finish(&[
        ("supervised", Rule::Refused("'method.type' is another one.")),
        ("dpo", Rule::Refused("'method.type' is another one.")),
        ("reinforcement", Rule::Refused("This server has the methods 'supervised' and 'dpo'.")),
    ])?;
    Ok(method)
}

fn tuned(kind: MethodKind, path: String, value: Value) -> Result<Method, ApiError> {
    let mut fields = Fields::object(path, value)?;
    let method = Method {
        kind,
        n_epochs: whole(&mut fields, "n_epochs", EPOCHS)?,
        batch_size: whole(&mut fields, "batch_size", BATCH)?,
        learning_rate_multiplier: positive(&mut fields, "learning_rate_multiplier", MULTIPLIER)?,
        beta: match kind {
            MethodKind::Dpo => positive(&mut fields, "beta", BETA)?,
            MethodKind::Supervised => Auto::Auto,
        },
    };
    fields.finish(&[("beta", Rule::Refused("It belongs to the method 'dpo'."))])?;
    Ok(method)
}

fn whole(fields: &mut Fields, name: &str, most: i64) -> Result<Auto<u32>, ApiError> {
    let path = fields.path(name);
    match fields.take(name) {
        None => Ok(Auto::Auto),
        Some(Value::String(word)) if word == "auto" => Ok(Auto::Auto),
        Some(value) => {
            let value = fields::integer(&path, &value, 1..=most)?;
            Ok(Auto::Given(u32::try_from(value).unwrap_or(1)))
        }
    }
}

/// Above 0.
fn positive(fields: &mut Fields, name: &str, most: f64) -> Result<Auto<f64>, ApiError> {
    let path = fields.path(name);
    match fields.take(name) {
        None => Ok(Auto::Auto),
        Some(Value::String(word)) if word == "auto" => Ok(Auto::Auto),
        Some(value) => fields::number(&path, &value, f64::MIN_POSITIVE..=most).map(Auto::Given),
    }
}

/// `limits`, which OpenAI's API has not: what the job may take at most.
pub fn limits(value: Value) -> Result<(Option<u64>, Option<i64>), ApiError> {
    let mut fields = Fields::object("limits".to_owned(), value)?;
    let hours = fields.number("hours", 0.0..=HOURS)?;
    let dollars = fields.number("usd", 0.0..=DOLLARS)?;
    fields.finish(&[])?;
    // Both are within their ranges: whole numbers well below the types' limits.
    Ok((hours.map(|hours| (hours * 3_600.0) as u64), dollars.map(|dollars| (dollars * 1e9) as i64)))
}

/// Pairs of texts, as JSON.
fn metadata(value: Value) -> Result<String, ApiError> {
    let (most, longest_key, longest_value) = METADATA;
    let Value::Object(map) = value else { return Err(fields::wrong_type("metadata", "an object", &value)) };
    let wrong = |message: String| ApiError::invalid("metadata", "invalid_value", message);
    if map.len() > most {
        return Err(wrong(format!("Invalid 'metadata': at most {most} pairs are right, but got {}.", map.len())));
    }
    let mut pairs = Map::new();
    for (key, value) in map {
        let path = format!("metadata.{}", key.chars().take(longest_key).collect::<String>());
        let Value::String(text) = &value else { return Err(fields::wrong_type(&path, "a string", &value)) };
        if key.chars().count() > longest_key || text.chars().count() > longest_value {
            let right = format!("keys of at most {longest_key} and values of at most {longest_value} characters are right");
            return Err(wrong(format!("Invalid '{path}': {right}.")));
        }
        pairs.insert(key, value);
    }
    Ok(Value::Object(pairs).to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use serde_json::json;

    use super::*;
    use crate::tenants::{CacheConsent, ModelAccess, Priority, Reach, Scopes};

    fn parsed(more: Value) -> Result<NewJob, ApiError> {
        let caller = Principal {
            key_id: "key_1".into(),
            tenant: "proj_1".into(),
            reach: Reach::Tenant,
            scopes: Scopes::default(),
            models: ModelAccess::All,
            end_user: None,
            priority: Priority::Standard,
            cached: CacheConsent::PerRequest,
        };
        let mut body = json!({"model": "base", "training_file": "file-1"});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        parse(body, &caller)
    }

    #[test]
    fn hyperparameters_are_read_at_either_place_and_never_at_both() {
        let given = json!({"n_epochs": 3, "batch_size": "auto", "learning_rate_multiplier": 0.5});
        let wanted = Method {
            n_epochs: Auto::Given(3),
            learning_rate_multiplier: Auto::Given(0.5),
            ..Method::auto(MethodKind::Supervised)
        };
        assert_eq!(parsed(json!({"hyperparameters": given})).unwrap().method, wanted);
        let method = json!({"type": "supervised", "supervised": {"hyperparameters": given}});
        assert_eq!(parsed(json!({"method": method})).unwrap().method, wanted);
        assert!(parsed(json!({"method": method, "hyperparameters": given})).is_err());
        let method = json!({"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.3}}});
        assert_eq!(parsed(json!({"method": method})).unwrap().method.beta, Auto::Given(0.3));
    }

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        let param = |more: Value| parsed(more).unwrap_err().param.unwrap();
        assert_eq!(param(json!({"method": {"type": "reinforcement", "reinforcement": {}}})), "method.type");
        assert_eq!(param(json!({"method": {"type": "supervised", "dpo": {}}})), "method.dpo");
        assert_eq!(param(json!({"integrations": [{"type": "wandb"}]})), "integrations");
        assert_eq!(param(json!({"hyperparameters": {"beta": 0.1}})), "hyperparameters.beta");
        assert_eq!(param(json!({"hyperparameters": {"n_epochs": 0}})), "hyperparameters.n_epochs");
        assert_eq!(param(json!({"hyperparameters": {"n_epochs": "many"}})), "hyperparameters.n_epochs");
        assert_eq!(
            param(json!({"hyperparameters": {"learning_rate_multiplier": 0}})),
            "hyperparameters.learning_rate_multiplier"
        );
        assert_eq!(param(json!({"metadata": {"a": 1}})), "metadata.a");
        assert_eq!(param(json!({"limits": {"hours": -1}})), "limits.hours");
        assert_eq!(param(json!({"nepochs": 1})), "nepochs");
        assert!(parsed(json!({"integrations": [], "suffix": null, "limits": {"hours": 2, "usd": 0.5}})).is_ok());
    }
}
