//! `config.json` as mistralrs reads it: rotary settings in their older places. Newer files (transformers 5) have all of them in
//! `rope_parameters`, which mistralrs passes over for most architectures, and would compute with defaults instead.

use serde_json::{Map, Value};

/// The same configuration with what `rope_parameters` says in the older fields, too; `None` where nothing is to be done.
pub(super) fn older(document: &[u8]) -> Result<Option<Vec<u8>>, String> {
    let mut document: Value = serde_json::from_slice(document).map_err(|error| format!("config.json: {error}"))?;
    let mut changed = false;
    // Those that see or hear have their text part's settings apart.
    for part in ["", "/text_config", "/llm_config"] {
        if let Some(Value::Object(fields)) = document.pointer_mut(part) {
            changed |= spell(fields)?;
        }
    }
    Ok(changed.then(|| document.to_string().into_bytes()))
}

fn spell(fields: &mut Map<String, Value>) -> Result<bool, String> {
    let Some(Value::Object(ropes)) = fields.get("rope_parameters").cloned() else { return Ok(false) };
    let of_kind = |kind: &str| ropes.get(kind).and_then(Value::as_object).cloned();
    let (all, local) = match (of_kind("full_attention"), of_kind("sliding_attention")) {
        (Some(full), local) => (full, local),
        (None, _) => (ropes, None),
    };
    if let Some(local) = local {
        if kind(&local) != "default" {
            return Err(format!("config.json: rope_parameters.sliding_attention of the type {:?} is not read", kind(&local)));
        }
        put(fields, "rope_local_base_freq", local.get("rope_theta"));
    }
    put(fields, "rope_theta", all.get("rope_theta"));
    put(fields, "partial_rotary_factor", all.get("partial_rotary_factor"));
    if kind(&all) != "default" {
        let mut scaling = all.clone();
        scaling.shift_remove("rope_theta");
        scaling.shift_remove("partial_rotary_factor");
        scaling.insert("type".to_owned(), kind(&all).into());
        put(fields, "rope_scaling", Some(&Value::Object(scaling)));
    }
    Ok(true)
}

fn kind(rope: &Map<String, Value>) -> &str {
    rope.get("rope_type").and_then(Value::as_str).unwrap_or("default")
}

/// What is there already stays.
fn put(fields: &mut Map<String, Value>, name: &str, value: Option<&Value>) {
    if let Some(value) = value.filter(|_| fields.get(name).is_none_or(Value::is_null)) {
        fields.insert(name.to_owned(), value.clone());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use serde_json::json;

    use super::*;

    fn spelt(document: &Value) -> Value {
        serde_json::from_slice(&older(document.to_string().as_bytes()).unwrap().unwrap()).unwrap()
    }

    #[test]
    fn rotary_settings_move_to_their_older_places() {
        assert_eq!(older(b"{\"rope_theta\": 1.0}").unwrap(), None);
        let plain = spelt(&json!({"rope_parameters": {"rope_theta": 5.0, "rope_type": "default"}}));
        assert_eq!((&plain["rope_theta"], plain.get("rope_scaling")), (&json!(5.0), None));
        let scaled =
            spelt(&json!({"rope_theta": 7.0, "rope_parameters": {"rope_theta": 5.0, "rope_type": "llama3", "factor": 8.0}}));
        assert_eq!(scaled["rope_theta"], 7.0);
        assert_eq!(scaled["rope_scaling"], json!({"rope_type": "llama3", "factor": 8.0, "type": "llama3"}));
        let kinds = json!({"full_attention": {"rope_theta": 1e6, "rope_type": "default"},
            "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"}});
        let kinds = spelt(&json!({"text_config": {"rope_parameters": kinds}}));
        assert_eq!(
            (&kinds["text_config"]["rope_theta"], &kinds["text_config"]["rope_local_base_freq"]),
            (&json!(1e6), &json!(1e4))
        );
    }
}
