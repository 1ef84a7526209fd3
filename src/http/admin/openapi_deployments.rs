//! Deployments described for machines: schemas, with examples that work when pasted.

use serde_json::{Value, json};

/// The schemas by name.
pub fn schemas() -> Value {
    let text = json!({"type": "string"});
    let maybe_text = json!({"type": ["string", "null"]});
    let time = json!({"type": "integer", "description": "Seconds since 1970."});
    let number = json!({"type": "integer", "minimum": 1});
    let weight = json!({
        "type": "number", "minimum": 0, "maximum": 100, "multipleOf": 0.01,
        "description": "Percent. The weights of all arms are 100 together.",
    });
    let model = json!({
        "type": "string", "minLength": 1,
        "description": "The base, `name@version`, `name` (its current version, which is kept), or `ft:...`.",
    });
    let grounds = json!({
        "approved_by": {"type": ["string", "null"], "maxLength": 256, "description": "Who looked at a version whose gate asks for a review."},
        "waived_by": {"type": ["string", "null"], "maxLength": 256, "description": "The operator who answers for a version that did not pass its gate."},
        "from_tenant": {"type": ["string", "null"], "description": "Whose model a shared deployment serves, where it is a tenant's."},
    });
    let with_grounds = |mut properties: Value| {
        for (name, schema) in grounds.as_object().into_iter().flatten() {
            properties[name] = schema.clone();
        }
        properties
    };
    let arm = json!({
        "type": "object", "required": ["name", "model", "weight"], "additionalProperties": false,
        "properties": with_grounds(json!({
            "name": {"type": "string", "minLength": 1, "maxLength": 64}, "model": model, "weight": weight,
        })),
    });
    let shadow = json!({
        "type": ["object", "null"], "required": ["model", "percent"], "additionalProperties": false,
        "description": "A copy of a share of the traffic to a version whose answers nobody sees, and nobody pays for.",
        "properties": with_grounds(json!({
            "model": model, "percent": weight, "max_tokens_per_day": {"type": ["integer", "null"], "minimum": 1},
        })),
    });
    let spec = json!({
        "arms": {"type": "array", "minItems": 1, "maxItems": 16, "items": {"$ref": "#/components/schemas/DeploymentArm"}},
        "fallback": {"type": ["array", "null"], "items": text, "description": "What answers when an arm cannot: names of arms, or `base`."},
        "shadow": shadow,
        "experiment": {"type": ["object", "null"], "description": "What is compared: `control`, `goal`, `guards`, `min_samples`."},
        "keep_resident_seconds": {
            "type": ["integer", "null"], "minimum": 0, "maximum": 604_800,
            "description": "How long versions that are not used any more stay in memory, to go back to.",
        },
    });
    let reason = json!({"type": ["string", "null"], "maxLength": 1_000});
    let and = |base: &Value, more: Value| {
        let mut all = base.clone();
        for (name, schema) in more.as_object().into_iter().flatten() {
            all[name] = schema.clone();
        }
        all
    };
    let body = |required: Value, properties: Value, example: Value| json!({"type": "object", "required": required, "properties": properties, "additionalProperties": false, "examples": [example]});
    let arms =
        json!([{"name": "stable", "model": "support@3", "weight": 90}, {"name": "canary", "model": "support@4", "weight": 10}]);
    let seen =
        json!({"revision": number, "restores": {"type": ["integer", "null"]}, "experiment_id": text, "reason": maybe_text});
    let list = |item: &str, more: Value| {
        let data = json!({"object": {"const": "list"}, "data": {"type": "array", "items": {"$ref": format!("#/components/schemas/{item}")}}});
        json!({"type": "object", "properties": and(&data, more)})
    };
    let deployment = and(
        &and(&spec, seen.clone()),
        json!({
            "id": text, "object": {"const": "deployment"}, "name": text, "tenant": maybe_text,
            "created_at": time, "changed_at": time, "changed_by": text,
        }),
    );
    json!({
        "DeploymentArm": arm,
        "Deployment": {"type": "object", "properties": deployment, "examples": [{
            "id": "dep_Gb1xkQ", "object": "deployment", "name": "support", "tenant": null, "revision": 7, "restores": null,
            "experiment_id": "exp_2f1c09d4a7b3e85f6a01", "arms": arms, "fallback": ["stable", "base"], "shadow": null,
            "experiment": null, "keep_resident_seconds": 3_600, "created_at": 1_766_000_000, "changed_at": 1_766_000_600,
            "changed_by": "admin", "reason": "a first look at 4",
        }]},
        "DeploymentRolledBack": {"type": "object", "properties": and(&deployment, json!({
            "effective_after_us": {"type": "integer", "description": "Microseconds until new requests went by the old revision."},
        }))},
        "DeploymentCreate": body(
            json!(["name", "arms"]),
            and(&and(&spec, json!({"name": {"type": "string", "minLength": 1, "maxLength": 64}, "tenant": maybe_text})), json!({"reason": reason})),
            json!({"name": "support", "arms": arms, "fallback": ["stable", "base"], "reason": "a first look at 4"}),
        ),
        "DeploymentPut": body(
            json!(["arms"]),
            and(&spec, json!({"reason": reason})),
            json!({"arms": [{"name": "stable", "model": "support@4", "weight": 100}], "reason": "4 is better"}),
        ),
        "DeploymentWeights": body(
            json!(["weights"]),
            json!({
                "weights": {"type": "object", "additionalProperties": weight, "description": "By the arms' names; those that are not named get nothing."},
                "reason": reason,
            }),
            json!({"weights": {"stable": 50, "canary": 50}, "reason": "a day without complaints"}),
        ),
        "DeploymentRollback": body(
            json!([]),
            json!({"to_revision": {"type": ["integer", "null"], "minimum": 1}, "reason": reason}),
            json!({"reason": "answers in the wrong language"}),
        ),
        "DeploymentRevision": {"type": "object", "properties": and(&and(&spec, seen), json!({
            "object": {"const": "deployment.revision"}, "action": {"enum": ["created", "changed", "rolled_back", "deleted"]},
            "at": time, "actor": text,
        }))},
        "DeploymentList": list("Deployment", json!({})),
        "DeploymentHistory": list("DeploymentRevision", json!({
            "first_id": maybe_text, "last_id": maybe_text, "has_more": {"type": "boolean"},
        })),
    })
}
