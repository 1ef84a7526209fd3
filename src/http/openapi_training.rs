//! Files, uploads and fine-tuning in `/openapi.json`.

use axum::http::Method;
use serde_json::{Value, json};

use super::openapi::{BAD, Body, Operation, TOO_LARGE};
use super::openapi_schemas::reference;

const NO_FILE: (u16, &str) = (404, "There is no such file.");
const NO_UPLOAD: (u16, &str) = (404, "There is no such upload.");
const NO_ROOM: (u16, &str) = (403, "The project may keep no more (`storage_limit_exceeded`).");

/// What is described here.
pub(super) fn operations() -> Vec<Operation> {
    let of = |method, path, id, summary, response| Operation { method, path, id, summary, request: None, response, errors: &[] };
    vec![
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
    ]
}

/// What may stand after the path of an operation.
pub(super) fn query(id: &str) -> &'static [&'static str] {
    match id {
        "listFiles" => &["purpose", "limit", "after", "order"],
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
