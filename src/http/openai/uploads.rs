//! `/v1/uploads`: large files in parts, as OpenAI's uploads.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::files::{expiry, object as file_object, store};
use super::repeated;
use super::sender::Head;
use crate::http::Server;
use crate::http::body::JsonBody;
use crate::http::error::ApiError;
use crate::http::fields::Fields;
use crate::http::form::{self, Form};
use crate::tenants::Principal;
use crate::training::jobs::files::{NewFile, Purpose};
use crate::training::jobs::uploads::{MAX_PART, NewUpload, Upload};

/// Most parts that can be named.
const MAX_PARTS: usize = 4_096;

/// `POST /v1/uploads`
pub async fn create(State(server): State<Server>, Head(sender): Head, JsonBody(body): JsonBody) -> Result<Response, ApiError> {
    let sender = sender?;
    let again = body.clone();
    let answer = async {
        let mut fields = Fields::body(body)?;
        let filename = fields.required_string("filename")?;
        let purpose = Purpose::given(&fields.required_string("purpose")?)?;
        let mime_type = fields.required_string("mime_type")?;
        let bytes = fields.integer("bytes", 1..=i64::MAX)?.ok_or_else(|| fields.missing("bytes"))?;
        let seconds = match fields.take("expires_after") {
            None => None,
            Some(value) => {
                let mut after = Fields::object("expires_after".to_owned(), value)?;
                let seconds = expiry(after.take("anchor"), after.take("seconds"))?;
                after.finish(&[])?;
                seconds
            }
        };
        fields.finish(&[])?;
        let file = NewFile { tenant: Arc::clone(&sender.caller.tenant), purpose, filename, seconds };
        let new = NewUpload { file, bytes: u64::try_from(bytes).unwrap_or(0), mime_type: mime_type.chars().take(128).collect() };
        Ok(Json(object(&server.files().begin_upload(new).await?)).into_response())
    };
    repeated::once(&server, &sender, "/v1/uploads", &again, answer).await
}

/// `POST /v1/uploads/{upload_id}/parts`
pub async fn part(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    form::check_length(request.headers(), MAX_PART)?;
    let mut form = Form::new(request, MAX_PART, "the field 'data'").await?;
    let mut receiving = server.files().receive_part(&caller.tenant, &id).await?;
    let mut there = false;
    while let Some(field) = form.next().await? {
        match field.name().unwrap_or("") {
            "data" if there => return Err(form::twice("data")),
            "data" => store(field, &mut receiving).await?,
            other => return Err(form::unknown(other)),
        }
        there = true;
    }
    if !there {
        return Err(form::missing_file("data"));
    }
    let part = server.files().add_part(&caller.tenant, &id, receiving.finish().await?).await?;
    Ok(Json(json!({"object": "upload.part", "id": part.id, "upload_id": part.upload_id, "created_at": part.created_at})))
}

/// `POST /v1/uploads/{upload_id}/complete`
pub async fn complete(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    Path(id): Path<String>,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, ApiError> {
    let mut fields = Fields::body(body)?;
    let parts = fields.strings("part_ids", MAX_PARTS)?.ok_or_else(|| fields.missing("part_ids"))?;
    let md5 = fields.string("md5")?.filter(|md5| !md5.is_empty());
    fields.finish(&[])?;
    Ok(Json(object(&server.files().complete_upload(&caller.tenant, &id, &parts, md5.as_deref()).await?)))
}

/// `POST /v1/uploads/{upload_id}/cancel`
pub async fn cancel(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(object(&server.files().cancel_upload(&caller.tenant, &id).await?)))
}

fn object(upload: &Upload) -> Value {
    let row = &upload.row;
    json!({
        "object": "upload",
        "id": row.id,
        "bytes": row.bytes,
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "filename": row.filename,
        "purpose": row.purpose,
        "status": row.status,
        "file": upload.file.as_ref().map(file_object),
    })
}
