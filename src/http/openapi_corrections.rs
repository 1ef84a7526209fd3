//! Corrections of `/convert` in `/openapi.json`.

use axum::http::Method;
use serde_json::{Value, json};

use super::openapi::{BAD, Body, Operation, TOO_LARGE};

const NO_ANSWER: (u16, &str) = (404, "There is no such answer of this project, or its text is not kept any more.");
const NO_POLICY: (u16, &str) = (404, "There is no policy.");

/// What is described here.
pub(super) fn operations() -> Vec<Operation> {
    let of = |method, path, id, summary, response| Operation { method, path, id, summary, request: None, response, errors: &[] };
    let correct = |path, id| Operation {
        request: Some("ConvertCorrectionRequest"),
        errors: &[BAD, NO_ANSWER, TOO_LARGE],
        ..of(
            Method::POST,
            path,
            id,
            "Say what an answer of /convert should have been; it becomes a row to train on.",
            Body::Json("ConvertCorrection"),
        )
    };
    vec![
        correct("/convert/{id}/correction", "correctConvert"),
        correct("/api/convert/{id}/correction", "correctConvertUnderApi"),
        of(
            Method::GET,
            "/v1/convert/corrections",
            "exportCorrections",
            "All corrections of the project as rows to train on: JSON Lines, the oldest first.",
            Body::Bytes,
        ),
        Operation {
            errors: &[(404, "There is no such correction.")],
            ..of(
                Method::DELETE,
                "/v1/convert/corrections/{correction_id}",
                "deleteCorrection",
                "Remove a correction. Files that have its row keep it.",
                Body::Object,
            )
        },
        Operation {
            request: Some("CorrectionJobRequest"),
            errors: &[BAD, TOO_LARGE],
            ..of(
                Method::POST,
                "/v1/convert/corrections/jobs",
                "createCorrectionJob",
                "A file of all corrections, and a fine-tuning job that learns from it.",
                Body::Json("FineTuningJob"),
            )
        },
        Operation {
            errors: &[NO_POLICY],
            ..of(
                Method::GET,
                "/v1/convert/corrections/policy",
                "retrieveCorrectionPolicy",
                "When a job starts by itself.",
                Body::Json("CorrectionPolicy"),
            )
        },
        Operation {
            request: Some("CorrectionPolicyRequest"),
            errors: &[BAD, TOO_LARGE, (404, "There is no such file.")],
            ..of(
                Method::PUT,
                "/v1/convert/corrections/policy",
                "setCorrectionPolicy",
                "Let a job start by itself after so many new corrections.",
                Body::Json("CorrectionPolicy"),
            )
        },
        Operation {
            errors: &[NO_POLICY],
            ..of(
                Method::DELETE,
                "/v1/convert/corrections/policy",
                "deleteCorrectionPolicy",
                "Let no job start by itself.",
                Body::Object,
            )
        },
    ]
}

/// Its schemas.
pub(super) fn schemas() -> Value {
    let word = |description: &str| json!({"type": ["string", "null"], "description": description});
    let schema = || json!({"type": ["string", "null"], "description": "The project's own schema; null is the built-in one."});
    let job = json!({
        "type": "object",
        "description": "As in POST /v1/fine_tuning/jobs. `model` is the base where it is missing; the rows of `training_file` come \
                        before the corrections, as a job begins from the base.",
        "examples": [{"training_file": "file-abc123", "suffix": "convert"}],
    });
    json!({
        "ConvertCorrectionRequest": {
            "type": "object",
            "description": "What would have been right: only what differs, or `correct`. Values are words of the text.",
            "properties": {
                "correct": {"type": "boolean", "description": "The answer was right: it is a row as it is."},
                "intent": {"type": "string", "examples": ["set_reminder"]},
                "task": word("A run of words of the text; null: it names none."),
                "when": word("One run of words of the text, or two; null: it says none."),
            },
            "examples": [{"intent": "set_reminder", "task": "call mum", "when": "tomorrow at six"}, {"correct": true}],
        },
        "ConvertCorrection": {
            "type": "object", "required": ["success", "id", "object", "answer_id", "was_right", "structured_data", "corrections", "job"],
            "properties": {
                "success": {"type": "boolean"},
                "id": {"type": "string"},
                "object": {"const": "convert.correction"},
                "answer_id": {"type": "string", "description": "What was corrected; another correction of it takes this one's place."},
                "was_right": {"type": "boolean"},
                "structured_data": {"type": "object", "description": "What will be taught."},
                "corrections": {"type": "object", "properties": {
                    "total": {"type": "integer"},
                    "new": {"type": "integer", "description": "Of which no job has learnt."},
                }},
                "job": {"type": ["string", "null"], "description": "The job that the policy has started now."},
                "job_refused": {"type": "string", "description": "Why the job that the policy asks for was not started."},
            },
            "examples": [{"success": true, "id": "corr_0123", "object": "convert.correction", "answer_id": "req_0123", "was_right": false,
                "structured_data": {"intent": "set_reminder", "task": "call mum", "when": "tomorrow at six"},
                "corrections": {"total": 12, "new": 3}, "job": null}],
        },
        "CorrectionJobRequest": {
            "type": "object", "description": job["description"], "examples": job["examples"],
            "properties": {"schema": schema(), "training_file": {"type": "string"}, "suffix": {"type": "string"}},
        },
        "CorrectionPolicyRequest": {
            "type": "object", "required": ["after"], "additionalProperties": false,
            "properties": {
                "after": {"type": "integer", "minimum": 1, "maximum": 1_000_000, "description": "New corrections that start a job."},
                "job": job,
            },
            "examples": [{"after": 100, "job": {"training_file": "file-abc123", "suffix": "convert"}}],
        },
        "CorrectionPolicy": {
            "type": "object", "required": ["object", "schema", "after", "job", "set_by", "updated_at"],
            "properties": {
                "object": {"const": "convert.correction_policy"},
                "schema": schema(),
                "after": {"type": "integer"},
                "job": {"type": "object"},
                "set_by": {"type": "string", "description": "Id of the key; jobs are in its name."},
                "updated_at": {"type": "integer", "description": "Seconds since 1970."},
            },
        },
    })
}
