//! Feedback and results of experiments in `/openapi.json`.

use axum::http::Method;
use serde_json::{Value, json};

use super::openapi::{BAD, Body, Operation, TOO_LARGE};
use super::openapi_schemas::reference;

/// What is described here.
pub(super) fn operations() -> Vec<Operation> {
    vec![Operation {
        method: Method::POST,
        path: "/v1/feedback",
        id: "createFeedback",
        summary: "Say something of an answer: thumbs, a score, a correction, or a number under a name. Said again, it replaces what was said.",
        request: Some("FeedbackRequest"),
        response: Body::Json("Feedback"),
        errors: &[BAD, (404, "The project has no answer with this request id."), TOO_LARGE],
    }]
}

/// Its schemas, and those of the results.
pub(super) fn schemas() -> Value {
    let maybe = json!({"type": ["number", "null"]});
    let count = json!({"type": "integer", "minimum": 0});
    let text = json!({"type": "string"});
    let comparison = json!({
        "metric": text, "kind": {"enum": ["difference", "ratio"]},
        "value": maybe, "low": maybe, "high": maybe,
    });
    let mut goal = comparison.clone();
    goal["state"] = json!({"enum": ["open", "used_up", "better", "not_worse", "worse"]});
    goal["samples"] = json!({"type": "number"});
    goal["planned"] = json!({"type": "number"});
    let verdict = json!({
        "arm": text,
        "standing": {"enum": ["waiting", "holding", "undecided", "better", "not_worse", "inconclusive", "worse", "breached", "uneven"]},
        "needed": count, "guard": text, "answers": count,
        "why": {"type": "string", "description": "A plain sentence."},
        "goal": {"oneOf": [{"type": "object", "properties": goal}, {"type": "null"}]},
        "guards": {"type": "array", "items": {"type": "object", "properties": {
            "metric": text, "tolerance": {"type": "number"}, "breached": {"type": "boolean"},
            "alarm": {"type": "number", "description": "From 1 on the guard is broken."}, "ratio": maybe,
        }}},
    });
    let metric = json!({
        "metric": text, "kind": {"enum": ["share", "mean", "geometric_mean"]}, "n": count,
        "mean": {"type": "number"}, "low": maybe, "high": maybe, "arithmetic_mean": {"type": "number"},
        "against_control": {"type": "object", "properties": comparison},
    });
    let arm = json!({
        "name": text, "role": {"enum": ["control", "candidate"]}, "model": text, "weight": {"type": "number"}, "answers": count,
        "verdict": {"type": "object", "properties": verdict},
        "metrics": {"type": "array", "items": {"type": "object", "properties": metric}},
    });
    let example = json!({
        "object": "deployment.results", "deployment": "support", "tenant": null, "experiment_id": "exp_2f1c09d4a7b3e85f6a01",
        "current": true, "revision": 7,
        "settings": {"control": "stable", "guards": [{"metric": "errors"}], "min_samples": 100},
        "arms": [
            {"name": "stable", "role": "control", "answers": 540, "model": "support@3", "weight": 90, "metrics": []},
            {"name": "canary", "role": "candidate", "answers": 60, "model": "support@4", "weight": 10, "metrics": [], "verdict": {
                "arm": "canary", "standing": "breached", "guard": "errors", "answers": 60, "goal": null,
                "why": "The guard does not hold: errors: 12 of 60 (20 %) against 11 of 540 (2.04 %) of stable, more than chance explains.",
                "guards": [{"metric": "errors", "tolerance": 0.0, "breached": true, "alarm": 3.4, "ratio": 9.82}],
            }},
        ],
        "split": {"even": true, "why": "600 units came to the arms as the weights say, as far as chance allows.", "arms": [
            {"arm": "stable", "observed": 540, "expected": 540}, {"arm": "canary", "observed": 60, "expected": 60},
        ]},
        "as_of": 1_766_000_000,
    });
    json!({
        "FeedbackRequest": {
            "type": "object", "required": ["request_id"], "additionalProperties": false,
            "properties": {
                "request_id": {"type": "string", "minLength": 1, "maxLength": 128, "description": "`x-request-id` of the answer's response."},
                "thumbs": {"enum": ["up", "down", null]},
                "score": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
                "correction": {"type": ["string", "null"], "minLength": 1, "maxLength": 65_536, "description": "What would have been right."},
                "metric": {"type": ["string", "null"], "pattern": "^[A-Za-z0-9_.-]{1,64}$", "description": "A name of your own, with `value`."},
                "value": {"type": ["number", "null"]},
            },
            "examples": [{"request_id": "req_4be1", "thumbs": "down", "correction": "call mum"}, {"request_id": "req_4be1", "metric": "resolved", "value": 1}],
        },
        "Feedback": {"type": "object", "properties": {
            "object": {"const": "feedback"}, "request_id": text, "kept": {"type": "array", "items": text},
        }},
        "DeploymentResults": {
            "type": "object",
            "properties": {
                "object": {"const": "deployment.results"}, "deployment": text, "tenant": {"type": ["string", "null"]},
                "experiment_id": text, "current": {"type": "boolean"}, "revision": {"type": "integer"},
                "settings": {"type": "object"}, "arms": {"type": "array", "items": reference("ArmResults")},
                "split": {"type": "object", "properties": {
                    "even": {"type": "boolean"}, "why": text,
                    "arms": {"type": "array", "items": {"type": "object", "properties": {
                        "arm": text, "observed": {"type": "number"}, "expected": {"type": "number"},
                    }}},
                }},
                "as_of": {"type": "integer"},
            },
            "examples": [example],
        },
        "ArmResults": {"type": "object", "properties": arm},
    })
}
