//! What `/convert` is asked, from JSON to checked values.

use std::sync::LazyLock;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use serde_json::Value;

use crate::convert::when::Locale;
use crate::http::error::ApiError;
use crate::http::fields::{Fields, wrong_type};
use crate::http::openai::generation::end_user;
use crate::http::{Config, ConvertConfig};

/// Longest text, bytes. Only its beginning is read by the model.
const MOST_TEXT: usize = 64 * 1024;
/// Most texts in one request.
const MOST_INPUTS: usize = 64;
/// Longest name of a locale, characters (RFC 5646 has no bound; all registered ones are shorter).
const MOST_LOCALE: usize = 35;

/// A checked request.
#[derive(Debug)]
pub struct Asked {
    /// At least one.
    pub inputs: Vec<Input>,
    /// Whether the answer is a list.
    pub is_list: bool,
    /// On whose behalf.
    pub end_user: Option<String>,
}

/// One text, and where and when it was said.
#[derive(Debug, Clone)]
pub struct Input {
    /// As it came.
    pub text: String,
    /// What answers, where it says so.
    pub model: Option<String>,
    /// The field that names a schema of the tenant, and the name, where it does.
    pub schema: Option<(String, String)>,
    /// When it was said, where it was said.
    pub now: Zoned,
    /// Whose English.
    pub locale: Locale,
    /// Whether more of the text is still to come.
    pub is_partial: bool,
}

/// What may be said once for all texts.
#[derive(Debug, Clone, Default)]
struct Common {
    model: Option<String>,
    schema: Option<(String, String)>,
    now: Option<String>,
    timezone: Option<String>,
    locale: Option<String>,
    partial: Option<bool>,
}

/// Reads a request.
pub fn parse(body: Value, config: &Config) -> Result<Asked, ApiError> {
    let mut fields = Fields::body(body)?;
    let end_user = end_user(&mut fields)?;
    let common = Common::take(&mut fields, &Common::default())?;
    let text = fields.string("text")?;
    let texts = list(&mut fields, "texts")?;
    let inputs = list(&mut fields, "inputs")?;
    fields.finish(&[])?;
    let config = &config.convert;
    let (inputs, is_list) = match (text, texts, inputs) {
        (Some(text), None, None) => (vec![input("text", text, common, config, "")?], false),
        (None, Some(texts), None) => {
            let one = |(index, value)| {
                let path = format!("texts[{index}]");
                let Value::String(text) = value else { return Err(wrong_type(&path, "a string", &value)) };
                input(&path, text, common.clone(), config, "")
            };
            (texts.into_iter().enumerate().map(one).collect::<Result<_, _>>()?, true)
        }
        (None, None, Some(inputs)) => {
            let one = |(index, value)| {
                let path = format!("inputs[{index}]");
                let mut fields = Fields::object(path.clone(), value)?;
                let text = fields.string("text")?.ok_or_else(|| fields.missing("text"))?;
                let own = Common::take(&mut fields, &common)?;
                fields.finish(&[])?;
                input(&format!("{path}.text"), text, own, config, &format!("{path}."))
            };
            (inputs.into_iter().enumerate().map(one).collect::<Result<_, _>>()?, true)
        }
        (None, None, None) => {
            let message = "Missing required parameter: 'text' (or 'texts', or 'inputs', for several).";
            return Err(ApiError::invalid("text", "missing_required_parameter", message));
        }
        _ => {
            let message = "'text', 'texts' and 'inputs' say the same in three ways; send one of them.";
            return Err(ApiError::invalid("texts", "invalid_parameter_combination", message));
        }
    };
    Ok(Asked { inputs, is_list, end_user })
}

impl Common {
    /// Takes what is there; the rest is as in `others`.
    fn take(fields: &mut Fields, others: &Self) -> Result<Self, ApiError> {
        let model = match fields.string("model")? {
            Some(model) if model.is_empty() => {
                let path = fields.path("model");
                return Err(ApiError::invalid(path.clone(), "empty_string", format!("Invalid '{path}': empty string.")));
            }
            model => model,
        };
        Ok(Self {
            model: model.or_else(|| others.model.clone()),
            schema: fields.string("schema")?.map(|name| (fields.path("schema"), name)).or_else(|| others.schema.clone()),
            now: fields.string("now")?.or_else(|| others.now.clone()),
            timezone: fields.string("timezone")?.or_else(|| others.timezone.clone()),
            locale: fields.string("locale")?.or_else(|| others.locale.clone()),
            partial: fields.boolean("partial")?.or(others.partial),
        })
    }
}

fn list(fields: &mut Fields, name: &str) -> Result<Option<Vec<Value>>, ApiError> {
    let values = match fields.take(name) {
        None => return Ok(None),
        Some(Value::Array(values)) => values,
        Some(other) => return Err(wrong_type(name, "an array", &other)),
    };
    if !(1..=MOST_INPUTS).contains(&values.len()) {
        let (code, how) = if values.is_empty() { ("empty_array", "empty") } else { ("array_above_max_length", "too long") };
        let message =
            format!("Invalid '{name}': array {how}. Expected 1 to {MOST_INPUTS} items, but got {} instead.", values.len());
        return Err(ApiError::invalid(name, code, message));
    }
    Ok(Some(values))
}

fn input(path: &str, text: String, common: Common, config: &ConvertConfig, before: &str) -> Result<Input, ApiError> {
    if text.len() > MOST_TEXT {
        let message = format!("Invalid '{path}': string too long. Expected at most {MOST_TEXT} bytes, but got {}.", text.len());
        return Err(ApiError::invalid(path, "string_above_max_length", message));
    }
    let (name, zone) = match &common.timezone {
        Some(name) => (name.as_str(), zone(name)),
        None => (config.timezone.as_str(), zone(&config.timezone)),
    };
    let zone = zone.ok_or_else(|| {
        let message = format!("Invalid '{before}timezone': {name:?}. Expected an IANA name, such as 'Europe/Berlin' or 'UTC'.");
        ApiError::invalid(format!("{before}timezone"), "invalid_value", message)
    })?;
    let now = match &common.now {
        None => Timestamp::now().to_zoned(zone),
        Some(text) => instant(text, &zone).ok_or_else(|| {
            let message = format!(
                "Invalid '{before}now': {text:?}. Expected a time as in RFC 3339, such as '2026-03-28T18:30:00+01:00' (without an \
                 offset it is of the time zone)."
            );
            ApiError::invalid(format!("{before}now"), "invalid_value", message)
        })?,
    };
    let locale = common.locale.as_deref().map_or(Some(Locale::British), |name| Locale::named(name).filter(|_| is_locale(name)));
    let locale = locale.ok_or_else(|| {
        let name = common.locale.clone().unwrap_or_default();
        let message = format!(
            "Invalid '{before}locale': {name:?}. Times are understood in English: 'en-GB', 'en-US' and the like are right."
        );
        ApiError::invalid(format!("{before}locale"), "invalid_value", message)
    })?;
    Ok(Input { text, model: common.model, schema: common.schema, now, locale, is_partial: common.partial.unwrap_or(false) })
}

/// The zone of an IANA name; other texts name none, also where they are paths or rules of POSIX.
fn zone(name: &str) -> Option<TimeZone> {
    static UTC: LazyLock<TimeZone> = LazyLock::new(|| TimeZone::UTC);
    if name.eq_ignore_ascii_case("utc") {
        return Some(UTC.clone());
    }
    let well_formed = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/_+-".contains(&byte));
    TimeZone::get(name).ok().filter(|_| well_formed)
}

/// Whether a text is a time zone's IANA name.
pub fn is_time_zone(name: &str) -> bool {
    zone(name).is_some()
}

fn instant(text: &str, zone: &TimeZone) -> Option<Zoned> {
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Some(timestamp.to_zoned(zone.clone()));
    }
    let civil = text.parse::<jiff::civil::DateTime>().ok()?;
    civil.to_zoned(zone.clone()).ok()
}

fn is_locale(text: &str) -> bool {
    let is_part = |part: &str| (1..=8).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let mut parts = text.split(['-', '_']);
    let language = parts.next().is_some_and(|part| part.len() >= 2 && part.bytes().all(|byte| byte.is_ascii_alphabetic()));
    text.len() <= MOST_LOCALE && language && text.split(['-', '_']).all(is_part)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_wrong_is_named() {
        let refused = |body: Value| {
            let error = parse(body, &Config::default()).unwrap_err();
            (error.param.unwrap_or_default(), error.code.unwrap_or_default())
        };
        for (body, param, code) in [
            (json!({}), "text", "missing_required_parameter"),
            (json!({"text": 7}), "text", "invalid_type"),
            (json!({"text": "a", "texts": ["b"]}), "texts", "invalid_parameter_combination"),
            (json!({"texts": []}), "texts", "empty_array"),
            (json!({"texts": vec!["a"; 65]}), "texts", "array_above_max_length"),
            (json!({"texts": ["a", null]}), "texts[1]", "invalid_type"),
            (json!({"inputs": [{"text": "a", "now": "soon"}]}), "inputs[0].now", "invalid_value"),
            (json!({"text": "a", "timezone": "Europe/Atlantis"}), "timezone", "invalid_value"),
            (json!({"text": "a", "timezone": "../../etc/passwd"}), "timezone", "invalid_value"),
            (json!({"text": "a", "locale": "english please"}), "locale", "invalid_value"),
            (json!({"text": "a", "locale": "de-DE"}), "locale", "invalid_value"),
            (json!({"text": "a".repeat(65_537)}), "text", "string_above_max_length"),
            (json!({"text": "a", "languge": "en"}), "languge", "unknown_parameter"),
            (json!({"text": "a", "model": ""}), "model", "empty_string"),
        ] {
            assert_eq!(refused(body.clone()), (param.to_owned(), code), "{body}");
        }
    }

    #[test]
    fn what_is_said_once_is_said_for_all() {
        let body = json!({"model": "m", "timezone": "Asia/Tokyo", "now": "2026-03-28T18:30:00Z", "partial": true,
            "inputs": [{"text": "a"}, {"text": "b", "model": "n", "timezone": "UTC", "now": "2026-01-01T00:00", "partial": false}]});
        let asked = parse(body, &Config::default()).unwrap();
        let [first, second] = &asked.inputs[..] else { panic!("two") };
        assert_eq!(
            (first.model.as_deref(), first.now.to_string().as_str()),
            (Some("m"), "2026-03-29T03:30:00+09:00[Asia/Tokyo]")
        );
        assert_eq!((second.model.as_deref(), second.now.to_string().as_str()), (Some("n"), "2026-01-01T00:00:00+00:00[UTC]"));
        assert!(first.is_partial && !second.is_partial && asked.is_list);
    }
}
