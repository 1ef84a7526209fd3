//! `/v1/files`: what clients send to train on, as OpenAI's files. A form goes to the disk as it comes.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures::stream::unfold;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use super::repeated;
use super::sender::Head;
use crate::http::Server;
use crate::http::admin::query::Parameters;
use crate::http::admin::{deleted, list};
use crate::http::auth::may_look_at_training;
use crate::http::error::ApiError;
use crate::http::fields;
use crate::http::form::{self, Entry, Form};
use crate::tenants::Principal;
use crate::training::jobs::files::{FileRow, NewFile, Purpose, Receiving};
use crate::training::jobs::{JobsError, Order};

/// Files in a list unless the request says (OpenAI's).
const LISTED: usize = 10_000;
/// How long a file may be kept where its owner says how long, seconds (OpenAI's: an hour to 30 days).
const KEPT_SECONDS: std::ops::RangeInclusive<i64> = 3_600..=2_592_000;
/// Bytes that are read from the disk at once.
const READ_BYTES: usize = 256 * 1024;

/// `POST /v1/files`
pub async fn create(State(server): State<Server>, Head(sender): Head, request: Request) -> Result<Response, ApiError> {
    let sender = sender?;
    let limit = server.files().largest();
    form::check_length(request.headers(), limit)?;
    let mut form = Form::new(request, limit, "the fields 'file' and 'purpose'").await?;
    let mut receiving = server.files().receive(&sender.caller.tenant, limit).await?;
    let Filled { filename, purpose, seconds } = receive(&mut form, &mut receiving).await?;
    let content = receiving.finish().await?;
    if content.bytes == 0 {
        return Err(ApiError::invalid("file", "empty_file", "Invalid 'file': it is empty."));
    }
    let again = json!([filename, purpose.name(), seconds, content.sha256]);
    let answer = async {
        let new = NewFile { tenant: Arc::clone(&sender.caller.tenant), purpose, filename, seconds };
        let row = server.files().add(new, content).await?;
        Ok(Json(object(&row)).into_response())
    };
    repeated::once(&server, &sender, "/v1/files", &again, answer).await
}

/// `GET /v1/files`
pub async fn list_all(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    parts: Parts,
) -> Result<Json<Value>, ApiError> {
    may_look_at_training(&caller)?;
    let mut query = Parameters::of(&parts)?;
    let paging = query.paging_both_ways(LISTED, LISTED, Order::Descending)?;
    let purpose = query.text("purpose")?;
    if paging.before.is_some() {
        return Err(form::unknown("before"));
    }
    query.finish()?;
    let page = server.files().list(&caller.tenant, purpose.as_deref(), &paging).await?;
    Ok(list(&page, object))
}

/// `GET /v1/files/{file_id}`
pub async fn retrieve(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    may_look_at_training(&caller)?;
    Ok(Json(object(&server.files().get(&caller.tenant, &id).await?)))
}

/// `DELETE /v1/files/{file_id}`
pub async fn remove(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    server.files().delete(&caller.tenant, &id).await?;
    Ok(Json(deleted(&id, "file")))
}

/// `GET /v1/files/{file_id}/content`
pub async fn content(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    may_look_at_training(&caller)?;
    let (row, path) = server.files().content(&caller.tenant, &id).await?;
    let file = match tokio::fs::File::open(&path).await {
        Ok(file) => file,
        // Deleted between the two questions.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(JobsError::NotFound { what: "File object", id }.into());
        }
        Err(error) => return Err(ApiError::internal(&error)),
    };
    let pieces = unfold(Some(file), |file| async move {
        let mut file = file?;
        let mut buffer = vec![0u8; READ_BYTES];
        match file.read(&mut buffer).await {
            Ok(0) => None,
            Ok(read) => {
                buffer.truncate(read);
                Some((Ok(Bytes::from(buffer)), Some(file)))
            }
            Err(error) => Some((Err(error), None)),
        }
    });
    let mut response = Body::from_stream(pieces).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(row.bytes));
    // Whoever opens the address in a browser must not run what somebody has sent.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    Ok(response)
}

/// What a form says beside the content.
struct Filled {
    filename: String,
    purpose: Purpose,
    seconds: Option<i64>,
}

async fn receive(form: &mut Form, to: &mut Receiving) -> Result<Filled, ApiError> {
    let (mut filename, mut purpose, mut anchor, mut seconds) = (None, None, None, None);
    let mut seen: Vec<String> = Vec::new();
    while let Some(field) = form.next().await? {
        let name = field.name().unwrap_or("").to_owned();
        if seen.contains(&name) {
            return Err(form::twice(&name));
        }
        match name.as_str() {
            "file" => {
                filename = Some(field.file_name().unwrap_or("upload").to_owned());
                store(field, to).await?;
            }
            // Refused before the file is read, where the form's order allows it.
            "purpose" => purpose = Some(Purpose::given(&form::text(field, &name).await?)?),
            "expires_after[anchor]" => anchor = Some(form::text(field, &name).await?),
            "expires_after[seconds]" => seconds = Some(form::text(field, &name).await?),
            _ => return Err(form::unknown(&name)),
        }
        seen.push(name);
    }
    let filename = filename.ok_or_else(|| form::missing_file("file"))?;
    let purpose = purpose
        .ok_or_else(|| ApiError::invalid("purpose", "missing_required_parameter", "Missing required parameter: 'purpose'."))?;
    let seconds = seconds.map(|text| text.parse::<i64>().map_or(Value::String(text), Value::from));
    Ok(Filled { filename, purpose, seconds: expiry(anchor.map(Value::String), seconds)? })
}

/// Writes a form's file as it comes.
pub(super) async fn store(mut field: Entry<'_>, to: &mut Receiving) -> Result<(), ApiError> {
    while let Some(chunk) = field.chunk().await? {
        to.write(&chunk).await?;
    }
    Ok(())
}

/// `expires_after`.
pub(super) fn expiry(anchor: Option<Value>, seconds: Option<Value>) -> Result<Option<i64>, ApiError> {
    let missing = |name: &str| {
        let path = format!("expires_after[{name}]");
        ApiError::invalid(path.clone(), "missing_required_parameter", format!("Missing required parameter: '{path}'."))
    };
    let (anchor, seconds) = match (anchor, seconds) {
        (None, None) => return Ok(None),
        (anchor, seconds) => (anchor.ok_or_else(|| missing("anchor"))?, seconds.ok_or_else(|| missing("seconds"))?),
    };
    if anchor != "created_at" {
        let message = format!("Invalid value: {anchor}. Supported values of 'expires_after[anchor]' are: 'created_at'.");
        return Err(ApiError::invalid("expires_after[anchor]", "invalid_value", message));
    }
    fields::integer("expires_after[seconds]", &seconds, KEPT_SECONDS).map(Some)
}

/// The file object.
pub(super) fn object(row: &FileRow) -> Value {
    json!({
        "object": "file",
        "id": row.id,
        "purpose": row.purpose,
        "filename": row.filename,
        "bytes": row.bytes,
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "status": "processed",
        "status_details": null,
    })
}
