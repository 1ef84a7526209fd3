//! Files, uploads and fine-tuning in `/openapi.json`.

use axum::http::Method;
use serde_json::{Value, json};

use super::openapi::{BAD, Body, Operation, TOO_LARGE};
use super::openapi_schemas::reference;
use crate::training::run_record::SCHEMA;

const NO_FILE: (u16, &str) = (404, "There is no such file.");
const NO_JOB: (u16, &str) = (404, "There is no such job.");
const NO_UPLOAD: (u16, &str) = (404, "There is no such upload.");
const NO_ROOM: (u16, &str) = (403, "The project may keep no more (`storage_limit_exceeded`).");

/// What is described here.
pub(super) fn operations() -> Vec<Operation> {
    let of = |method, path, id, summary, response| Operation { method, path, id, summary, request: None, response, errors: &[] };
    vec![
        Operation {
            request: Some("PlanRequest"),
            errors: &[BAD, TOO_LARGE],
            ..of(
                Method::POST,
                "/admin/training/plan",
                "planTraining",
                "What a fine-tuning job would take: settings with their reasons, time, memory, cost; measured now.",
                Body::Object,
            )
        },
        Operation {
            request: Some("CreateFileForm"),
            errors: &[BAD, NO_ROOM, TOO_LARGE],
            ..of(Method::POST, "/v1/files", "createFile", "Send a file to train on.", Body::Json("File"))
        },
        Operation {
            errors: &[BAD],
            ..of(Method::GET, "/v1/files", "listFiles", "Files of the project.", Body::Json("FileList"))
        },
        Operation { errors: &[NO_FILE], ..of(Method::GET, "/v1/files/{file_id}", "retrieveFile", "A file.", Body::Json("File")) },
        Operation {
            errors: &[BAD, NO_FILE],
            ..of(
                Method::GET,
                "/v1/files/{file_id}/report",
                "reportFile",
                "What a file is worth as a dataset: format, bad rows by line, repetition, lengths, languages, split.",
                Body::Object,
            )
        },
        Operation {
            errors: &[NO_FILE],
            ..of(
                Method::DELETE,
                "/v1/files/{file_id}",
                "deleteFile",
                "Remove a file. Jobs that have read it go on.",
                Body::Object,
            )
        },
        Operation {
            errors: &[NO_FILE],
            ..of(Method::GET, "/v1/files/{file_id}/content", "downloadFile", "A file's bytes.", Body::Bytes)
        },
        Operation {
            request: Some("CreateUploadRequest"),
            errors: &[BAD, NO_ROOM, TOO_LARGE],
            ..of(
                Method::POST,
                "/v1/uploads",
                "createUpload",
                "Begin to send a file in parts; they may come for an hour.",
                Body::Json("UploadObject"),
            )
        },
        Operation {
            request: Some("AddPartForm"),
            errors: &[BAD, NO_UPLOAD, TOO_LARGE],
            ..of(Method::POST, "/v1/uploads/{upload_id}/parts", "addUploadPart", "A part of at most 64 MiB.", Body::Object)
        },
        Operation {
            request: Some("CompleteUploadRequest"),
            errors: &[BAD, NO_UPLOAD, NO_ROOM],
            ..of(
                Method::POST,
                "/v1/uploads/{upload_id}/complete",
                "completeUpload",
                "Make the file of its parts.",
                Body::Json("UploadObject"),
            )
        },
        Operation {
            errors: &[BAD, NO_UPLOAD],
            ..of(Method::POST, "/v1/uploads/{upload_id}/cancel", "cancelUpload", "Forget the parts.", Body::Json("UploadObject"))
        },
        Operation {
            request: Some("FineTuningJobRequest"),
            errors: &[BAD, TOO_LARGE],
            ..of(
                Method::POST,
                "/v1/fine_tuning/jobs",
                "createFineTuningJob",
                "Train an adapter on a file.",
                Body::Json("FineTuningJob"),
            )
        },
        Operation {
            errors: &[BAD],
            ..of(
                Method::GET,
                "/v1/fine_tuning/jobs",
                "listFineTuningJobs",
                "Jobs of the project, the newest first.",
                Body::Object,
            )
        },
        Operation {
            errors: &[NO_JOB],
            ..of(Method::GET, "/v1/fine_tuning/jobs/{job_id}", "retrieveFineTuningJob", "A job.", Body::Json("FineTuningJob"))
        },
        Operation {
            errors: &[BAD, NO_JOB],
            ..of(
                Method::POST,
                "/v1/fine_tuning/jobs/{job_id}/cancel",
                "cancelFineTuningJob",
                "End a job.",
                Body::Json("FineTuningJob"),
            )
        },
        Operation {
            errors: &[BAD, NO_JOB],
            ..of(
                Method::POST,
                "/v1/fine_tuning/jobs/{job_id}/pause",
                "pauseFineTuningJob",
                "Let a job wait; what it has learnt is kept.",
                Body::Json("FineTuningJob"),
            )
        },
        Operation {
            errors: &[BAD, NO_JOB],
            ..of(
                Method::POST,
                "/v1/fine_tuning/jobs/{job_id}/resume",
                "resumeFineTuningJob",
                "Let a paused job go on.",
                Body::Json("FineTuningJob"),
            )
        },
        Operation {
            errors: &[BAD, NO_JOB],
            ..of(
                Method::GET,
                "/v1/fine_tuning/jobs/{job_id}/events",
                "listFineTuningEvents",
                "What happened in a job, the newest first; with stream=true all of it as it comes.",
                Body::JsonOrEvents("FineTuningEventList", "FineTuningEvent"),
            )
        },
        Operation {
            errors: &[BAD, NO_JOB],
            ..of(
                Method::GET,
                "/v1/fine_tuning/jobs/{job_id}/checkpoints",
                "listFineTuningJobCheckpoints",
                "Versions of a job's model, each callable.",
                Body::Object,
            )
        },
        Operation {
            errors: &[NO_JOB],
            ..of(
                Method::GET,
                "/v1/fine_tuning/jobs/{job_id}/run",
                "retrieveFineTuningRun",
                "All that a job's training was made of, and what came of it: `switchyard train --repeat` does it again.",
                Body::Json("TrainingRun"),
            )
        },
        Operation {
            errors: &[NO_JOB],
            ..of(
                Method::GET,
                "/admin/training/jobs/{job_id}/run",
                "retrieveTrainingRun",
                "The same, of any project's job.",
                Body::Json("TrainingRun"),
            )
        },
        Operation {
            request: Some("PromotionRequest"),
            errors: &[
                BAD,
                (404, "There is no such model."),
                (409, "The adapter is not at `expected_version`; nothing was changed."),
            ],
            ..of(
                Method::POST,
                "/admin/adapters/{name}/promotions",
                "promoteModel",
                "Put a model of a fine-tuning job behind a name. Takes a passed gate, or somebody's name.",
                Body::Object,
            )
        },
        Operation {
            errors: &[(403, "It is no model of a fine-tuning job."), (404, "The model does not exist (`model_not_found`).")],
            ..of(
                Method::DELETE,
                "/v1/models/{id}",
                "deleteModel",
                "Forget a model that a fine-tuning job has made.",
                Body::Object,
            )
        },
    ]
}

/// What may stand after the path of an operation.
pub(super) fn query(id: &str) -> &'static [&'static str] {
    match id {
        "listFiles" => &["purpose", "limit", "after", "order"],
        "listFineTuningJobs" => &["limit", "after", "metadata"],
        "listFineTuningEvents" => &["limit", "after", "stream"],
        "listFineTuningJobCheckpoints" => &["limit", "after"],
        _ => &[],
    }
}

/// The schemas that these operations name.
pub(super) fn schemas() -> Value {
    let time = json!({"type": "integer", "description": "Seconds since 1970."});
    let expires_after = json!({
        "type": "object", "required": ["anchor", "seconds"], "additionalProperties": false,
        "properties": {"anchor": {"const": "created_at"}, "seconds": {"type": "integer", "minimum": 3600, "maximum": 2_592_000}},
    });
    json!({
        "CreateFileForm": {
            "type": "object", "required": ["file", "purpose"],
            "properties": {
                "file": {"type": "string", "format": "binary"},
                "purpose": {"const": "fine-tune"},
                "expires_after[anchor]": {"const": "created_at"},
                "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2_592_000},
            },
        },
        "File": {
            "type": "object",
            "required": ["id", "object", "bytes", "created_at", "filename", "purpose", "status"],
            "properties": {
                "id": {"type": "string"}, "object": {"const": "file"}, "bytes": {"type": "integer"},
                "created_at": time, "expires_at": {"type": ["integer", "null"]}, "filename": {"type": "string"},
                "purpose": {"enum": ["fine-tune", "fine-tune-results"]}, "status": {"const": "processed"},
                "status_details": {"type": "null"},
            },
        },
        "FileList": {
            "type": "object",
            "properties": {"object": {"const": "list"}, "has_more": {"type": "boolean"},
                           "data": {"type": "array", "items": reference("File")}},
        },
        "CreateUploadRequest": {
            "type": "object", "required": ["bytes", "filename", "mime_type", "purpose"], "additionalProperties": false,
            "properties": {
                "bytes": {"type": "integer", "minimum": 1}, "filename": {"type": "string"}, "mime_type": {"type": "string"},
                "purpose": {"const": "fine-tune"}, "expires_after": expires_after,
            },
        },
        "PlanRequest": {
            "type": "object", "required": ["training_file"], "additionalProperties": false,
            "properties": {
                "training_file": {"type": "string"}, "validation_file": {"type": ["string", "null"]},
                "project_id": {"type": "string", "description": "Whose files they are."},
                "seed": {"type": "integer", "minimum": 0},
                "method": {"type": "object"}, "hyperparameters": {"type": "object"}, "limits": {"type": "object"},
            },
        },
        "FineTuningJobRequest": {
            "type": "object", "required": ["model", "training_file"], "additionalProperties": false,
            "properties": {
                "model": {"type": "string", "description": "The base."},
                "training_file": {"type": "string"}, "validation_file": {"type": ["string", "null"]},
                "suffix": {"type": ["string", "null"], "maxLength": 64}, "seed": {"type": ["integer", "null"], "minimum": 0},
                "metadata": {"type": ["object", "null"], "maxProperties": 16},
                "method": {"type": "object", "required": ["type"], "properties": {
                    "type": {"enum": ["supervised", "dpo"]}, "supervised": {"type": "object"}, "dpo": {"type": "object"},
                }},
                "hyperparameters": {"type": "object", "properties": {
                    "n_epochs": {}, "batch_size": {}, "learning_rate_multiplier": {},
                }},
                "integrations": {"type": ["array", "null"], "maxItems": 0},
                "limits": {
                    "type": "object", "description": "What the job may take at most.",
                    "properties": {"hours": {"type": "number"}, "usd": {"type": "number"}},
                },
            },
        },
        "FineTuningJob": {
            "type": "object",
            "required": ["id", "object", "created_at", "hyperparameters", "model", "organization_id", "result_files", "seed", "status", "training_file"],
            "properties": {
                "id": {"type": "string"}, "object": {"const": "fine_tuning.job"}, "created_at": time, "model": {"type": "string"},
                "finished_at": {"type": ["integer", "null"]}, "estimated_finish": {"type": ["integer", "null"]},
                "fine_tuned_model": {"type": ["string", "null"]}, "organization_id": {"type": "string"},
                "result_files": {"type": "array", "items": {"type": "string"}}, "seed": {"type": "integer"},
                "status": {"enum": ["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]},
                "state": {"enum": ["queued", "preprocessing", "model_loaded", "training", "evaluating", "completed", "failed", "cancelled"]},
                "training_file": {"type": "string"}, "validation_file": {"type": ["string", "null"]},
                "trained_tokens": {"type": ["integer", "null"]}, "error": {"type": ["object", "null"]},
                "hyperparameters": {"type": "object"}, "method": {"type": "object"}, "metadata": {"type": ["object", "null"]},
                "integrations": {"type": "array"}, "user_provided_suffix": {"type": ["string", "null"]},
            },
        },
        "FineTuningEventList": {
            "type": "object",
            "properties": {"object": {"const": "list"}, "has_more": {"type": "boolean"},
                           "data": {"type": "array", "items": reference("FineTuningEvent")}},
        },
        "FineTuningEvent": {
            "type": "object", "required": ["id", "object", "created_at", "level", "message"],
            "properties": {
                "id": {"type": "string"}, "object": {"const": "fine_tuning.job.event"}, "created_at": time,
                "level": {"enum": ["info", "warn", "error"]}, "message": {"type": "string"},
                "type": {"enum": ["message", "metrics"]}, "data": {"type": "object"},
            },
        },
        "TrainingRun": {
            "type": "object",
            "required": ["schema", "job", "outcome", "asked", "data", "made", "steps_done", "measured", "result"],
            "properties": {
                "schema": {"const": SCHEMA}, "job": {"type": ["string", "null"]}, "outcome": {"type": "string"},
                "error": {"type": ["string", "null"]}, "started_at": {"type": ["integer", "null"]},
                "finished_at": {"type": ["integer", "null"]}, "asked": {"type": "object"},
                "data": {"type": ["object", "null"], "description": "Files with their digests, rows, split."},
                "made": {"type": ["object", "null"], "description": "Program, kernels, base with its digest, all settings."},
                "steps_done": {"type": "integer"}, "trained_tokens": {"type": "integer"}, "measured": {"type": "array"},
                "evaluation": {"type": ["object", "null"]}, "gate": {"type": ["object", "null"]},
                "result": {"type": ["object", "null"], "description": "The version that came of it, by its digest."},
            },
        },
        "PromotionRequest": {
            "type": "object", "required": ["model"], "additionalProperties": false,
            "properties": {
                "model": {"type": "string", "description": "The job's name for it: `ft:...`."},
                "from_tenant": {"type": "string", "description": "The project whose job made it."},
                "tenant": {"type": "string", "description": "The project that the name is for; without it everybody's."},
                "approved_by": {"type": "string", "description": "Who looked at a version whose gate says `review`."},
                "waived_by": {"type": "string", "description": "Who takes the responsibility for any other."},
                "expected_version": {"type": "string"},
            },
        },
        "AddPartForm": {"type": "object", "required": ["data"], "properties": {"data": {"type": "string", "format": "binary"}}},
        "CompleteUploadRequest": {
            "type": "object", "required": ["part_ids"], "additionalProperties": false,
            "properties": {"part_ids": {"type": "array", "items": {"type": "string"}}, "md5": {"type": "string"}},
        },
        "UploadObject": {
            "type": "object",
            "required": ["id", "object", "bytes", "created_at", "expires_at", "filename", "purpose", "status"],
            "properties": {
                "id": {"type": "string"}, "object": {"const": "upload"}, "bytes": {"type": "integer"}, "created_at": time,
                "expires_at": time, "filename": {"type": "string"}, "purpose": {"type": "string"},
                "status": {"enum": ["pending", "completed", "cancelled", "expired"]},
                "file": {"oneOf": [reference("File"), {"type": "null"}]},
            },
        },
    })
}
