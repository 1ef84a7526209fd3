//! Rollouts and shadow answers described for machines: schemas, with examples that work when pasted.

use serde_json::{Value, json};

/// The schemas by name.
pub fn schemas() -> Value {
    let text = json!({"type": "string"});
    let maybe_text = json!({"type": ["string", "null"]});
    let time = json!({"type": "integer", "description": "Seconds since 1970."});
    let maybe_time = json!({"type": ["integer", "null"], "description": "Seconds since 1970."});
    let count = json!({"type": "integer", "minimum": 0});
    let maybe_count = |most: u64| json!({"type": ["integer", "null"], "minimum": 0, "maximum": most});
    let percent = json!({"type": "number", "minimum": 0.01, "maximum": 100});
    let (bake, samples) = (maybe_count(2_592_000), maybe_count(1_000_000_000));
    let step = json!({
        "type": "object", "required": ["weight"], "additionalProperties": false,
        "properties": {"weight": percent, "bake_seconds": bake, "min_samples": samples},
    });
    let shadow = json!({
        "type": ["object", "null"], "required": ["percent"], "additionalProperties": false,
        "description": "Answers in silence before anybody sees one.",
        "properties": {
            "percent": percent, "bake_seconds": bake, "min_samples": samples,
            "max_tokens_per_day": {"type": ["integer", "null"], "minimum": 0},
        },
    });
    let hours = json!({
        "type": ["string", "null"],
        "description": "When it may go forward, as in `mon-fri 09:00-17:00 Europe/Berlin`. It goes back at any time.",
    });
    let on_deadline = json!({"enum": ["rollback", "advance", "pause", null], "description": "What happens at the deadline."});
    let person = |what: &str| json!({"type": ["string", "null"], "maxLength": 256, "description": what});
    let experiment = json!({
        "type": ["object", "null"],
        "description": "What is compared: `control`, `goal`, `guards`, `min_samples`. Without it, what the deployment says, or the usual guards.",
    });
    let states = ["pending", "shadow", "progressing", "paused", "inconclusive", "promoted", "rolled_back", "aborted"];
    let example = json!({
        "id": "rollout_5d1f0c7a9b", "object": "rollout", "deployment": "support", "tenant": null, "state": "progressing",
        "reason": null, "step": 2, "weight": 10, "model": "support@4", "arm": "canary", "control": "stable",
        "approved_by": null, "waived_by": null, "shadow": null,
        "steps": [
            {"weight": 1, "bake_seconds": 600, "min_samples": 50}, {"weight": 10, "bake_seconds": 600, "min_samples": 50},
            {"weight": 100, "bake_seconds": 600, "min_samples": 50},
        ],
        "hours": "mon-fri 09:00-17:00 Europe/Berlin", "deadline_seconds": 86_400, "on_deadline": "rollback",
        "base_revision": 7, "revision": 9, "in_effect": true,
    });
    json!({
        "Rollout": {"type": "object", "examples": [example], "properties": {
            "id": text, "object": {"const": "rollout"}, "deployment": text, "tenant": maybe_text, "state": {"enum": states},
            "reason": maybe_text, "step": count, "weight": {"type": "number"}, "model": text, "arm": text, "control": text,
            "approved_by": maybe_text, "waived_by": maybe_text, "shadow": {"type": ["object", "null"]},
            "steps": {"type": "array", "items": {"type": "object"}}, "hours": hours, "deadline_seconds": count,
            "on_deadline": {"enum": ["rollback", "advance", "pause"]}, "deadline_at": maybe_time,
            "experiment": {"type": "object"}, "base_revision": count, "revision": count, "in_effect": {"type": "boolean"},
            "since": time, "job": maybe_text, "created_by": text, "created_at": time, "updated_at": time, "ended_at": maybe_time,
            "waiting_for": {"type": ["object", "null"], "properties": {"what": text, "until": maybe_time}},
        }},
        "RolloutList": {"type": "object", "properties": {
            "object": {"const": "list"}, "data": {"type": "array", "items": {"$ref": "#/components/schemas/Rollout"}},
            "first_id": maybe_text, "last_id": maybe_text, "has_more": {"type": "boolean"},
        }},
        "RolloutCreate": {
            "type": "object", "required": ["model"], "additionalProperties": false,
            "properties": {
                "model": {"type": "string", "minLength": 1, "description": "The candidate: `name@version`, `name`, `ft:...`, or the base."},
                "arm": {"type": ["string", "null"], "minLength": 1, "maxLength": 64},
                "approved_by": person("Who looked at a version whose gate asks for a review."),
                "waived_by": person("The operator who answers for a version that did not pass its gate."),
                "from_tenant": maybe_text,
                "steps": {"type": ["array", "null"], "minItems": 1, "maxItems": 20, "items": {"anyOf": [percent, step]}},
                "bake_seconds": bake, "min_samples": samples, "shadow": shadow, "hours": hours,
                "deadline_seconds": maybe_count(2_592_000), "on_deadline": on_deadline, "experiment": experiment,
            },
            "examples": [{
                "model": "support@4", "steps": [1, 10, {"weight": 50, "bake_seconds": 3_600}, 100], "bake_seconds": 600,
                "min_samples": 50, "hours": "mon-fri 09:00-17:00 Europe/Berlin",
            }],
        },
        "RolloutSteer": {
            "type": "object", "additionalProperties": false,
            "properties": {"reason": {"type": ["string", "null"], "maxLength": 500}},
            "examples": [{"reason": "the night shift has gone home"}],
        },
        "ShadowAnswer": {"type": "object", "properties": {
            "id": text, "object": {"const": "shadow.answer"}, "created_at": time, "model": text, "request_id": text,
            "project_id": text, "prompt_digest": text, "arm": text, "version": text, "shadow_version": text, "text": text,
            "shadow_text": text, "prompt_tokens": count, "tokens": count, "shadow_tokens": count, "millis": count,
            "shadow_millis": count, "error": maybe_text,
        }},
        "ShadowAnswerList": {"type": "object", "properties": {
            "object": {"const": "list"}, "data": {"type": "array", "items": {"$ref": "#/components/schemas/ShadowAnswer"}},
            "first_id": maybe_text, "last_id": maybe_text, "has_more": {"type": "boolean"},
        }},
    })
}
