//! Files that come in parts: a part can be sent again when a connection breaks, and the file is there when its owner says that all
//! parts are.

use md5::{Digest as _, Md5};
use tokio::io::AsyncReadExt;

use super::files::{FileRow, Files, NewFile, Receiving};
use super::{JobsError, new_id, unix_now};
use crate::store::blobs::Whole;
use crate::store::files::{self as rows, PartRow, UploadRow};

/// Largest part, bytes (OpenAI's).
pub const MAX_PART: u64 = 64 << 20;
/// How long parts may come after the beginning, seconds (OpenAI's).
const LIFE: i64 = 3_600;
/// Bytes that are copied at once.
const COPY: usize = 1 << 20;
/// Most parts of an upload.
const MAX_PARTS: usize = 4_096;

/// What is said at the beginning.
#[derive(Debug, Clone)]
pub struct NewUpload {
    /// Of the file that it will be.
    pub file: NewFile,
    /// Length of the file.
    pub bytes: u64,
    /// Kind of its content, as the client says.
    pub mime_type: String,
}

/// An upload and, once it is complete, its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// The upload.
    pub row: UploadRow,
    /// The file.
    pub file: Option<FileRow>,
}

impl Files {
    /// Begins an upload.
    pub async fn begin_upload(&self, new: NewUpload) -> Result<Upload, JobsError> {
        let limit = self.largest();
        if new.bytes == 0 || new.bytes > limit {
            return Err(JobsError::invalid("bytes", format!("1 to {limit} are right, but got {}", new.bytes)));
        }
        super::files::checked_name(&new.file.filename)?;
        let now = unix_now();
        let row = UploadRow {
            id: new_id("upload_"),
            project_id: new.file.tenant.to_string(),
            node: self.inner.node.clone(),
            purpose: new.file.purpose.name().to_owned(),
            filename: new.file.filename,
            mime_type: new.mime_type,
            bytes: i64::try_from(new.bytes).unwrap_or(i64::MAX),
            file_seconds: new.file.seconds,
            status: "pending".to_owned(),
            file_id: None,
            created_at: now,
            expires_at: now + LIFE,
        };
        let mut transaction = self.inner.database.begin().await?;
        self.check_room(&mut transaction, &row.project_id, row.bytes).await?;
        rows::insert_upload(&mut transaction, &row).await?;
        transaction.commit().await?;
        Ok(Upload { row, file: None })
    }

    /// Begins to receive a part of a pending upload.
    pub async fn receive_part(&self, tenant: &str, upload_id: &str) -> Result<Receiving, JobsError> {
        let row = self.pending(tenant, upload_id).await?;
        let bytes = u64::try_from(row.bytes).unwrap_or(0);
        self.receive(tenant, MAX_PART.min(bytes)).await
    }

    /// Adds a part that was received.
    pub async fn add_part(&self, tenant: &str, upload_id: &str, content: Whole) -> Result<PartRow, JobsError> {
        let row = self.pending(tenant, upload_id).await?;
        if content.bytes == 0 {
            return Err(JobsError::invalid("data", "the part is empty"));
        }
        let part = PartRow {
            id: new_id("part_"),
            upload_id: row.id,
            node: self.inner.node.clone(),
            bytes: i64::try_from(content.bytes).unwrap_or(i64::MAX),
            sha256: content.sha256.clone(),
            created_at: unix_now(),
        };
        self.share(tenant, &content, part.bytes).await?;
        let _one_at_a_time = self.inner.changes.lock().await;
        let mut transaction = self.inner.database.begin().await?;
        // It may have ended while this came.
        let upload = rows::get_upload(&mut transaction, tenant, &part.upload_id).await?;
        if upload.is_none_or(|upload| upload.status != "pending") {
            return Err(ended(&part.upload_id));
        }
        let parts = rows::parts(&mut transaction, &part.upload_id).await?;
        if parts.len() >= MAX_PARTS {
            return Err(JobsError::refused("too_many_parts", format!("An upload has at most {MAX_PARTS} parts.")));
        }
        self.check_room(&mut transaction, tenant, part.bytes).await?;
        rows::insert_part(&mut transaction, &part).await?;
        self.inner.blobs.keep(content).await?;
        transaction.commit().await?;
        Ok(part)
    }

    /// Makes the file of its parts, in this order.
    pub async fn complete_upload(
        &self,
        tenant: &str,
        upload_id: &str,
        part_ids: &[String],
        md5: Option<&str>,
    ) -> Result<Upload, JobsError> {
        let row = self.pending(tenant, upload_id).await?;
        let parts = {
            let mut connection = self.inner.database.connection().await?;
            rows::parts(&mut connection, &row.id).await?
        };
        let chosen = chosen(&parts, part_ids)?;
        let bytes: i64 = chosen.iter().map(|part| part.bytes).sum();
        if bytes != row.bytes {
            let message = format!("The parts have {bytes} bytes; {} were announced for the upload.", row.bytes);
            return Err(JobsError::refused("upload_size_mismatch", message));
        }
        let (content, digest) = self.join(tenant, &chosen).await?;
        if let Some(expected) = md5
            && !expected.eq_ignore_ascii_case(&digest)
        {
            return Err(JobsError::invalid("md5", format!("the parts together have the checksum {digest}")));
        }
        let now = unix_now();
        let file = FileRow {
            id: new_id("file-"),
            project_id: row.project_id.clone(),
            node: row.node.clone(),
            purpose: row.purpose.clone(),
            filename: row.filename.clone(),
            bytes,
            sha256: content.sha256.clone(),
            created_at: now,
            expires_at: row.file_seconds.map(|seconds| now.saturating_add(seconds)),
        };
        // It takes the place of its parts.
        self.share(tenant, &content, 0).await?;
        let parts = {
            let _one_at_a_time = self.inner.changes.lock().await;
            let mut transaction = self.inner.database.begin().await?;
            // With those that came meanwhile.
            let parts = rows::parts(&mut transaction, &row.id).await?;
            if !rows::end_upload(&mut transaction, &row.id, "completed", Some(&file.id)).await? {
                return Err(ended(&row.id));
            }
            // Before the room is checked: the file takes the place of its parts.
            rows::delete_parts(&mut transaction, &row.id).await?;
            self.check_room(&mut transaction, tenant, bytes).await?;
            rows::insert(&mut transaction, &file).await?;
            self.inner.blobs.keep(content).await?;
            transaction.commit().await?;
            parts
        };
        self.release_all(&parts).await?;
        let row = UploadRow { status: "completed".to_owned(), file_id: Some(file.id.clone()), ..row };
        Ok(Upload { row, file: Some(file) })
    }

    /// Ends a pending upload without a file.
    pub async fn cancel_upload(&self, tenant: &str, upload_id: &str) -> Result<Upload, JobsError> {
        let row = self.pending(tenant, upload_id).await?;
        if !self.end_upload(&row.id, "cancelled").await? {
            return Err(ended(&row.id));
        }
        Ok(Upload { row: UploadRow { status: "cancelled".to_owned(), ..row }, file: None })
    }

    /// Ends an upload without a file and forgets its parts; false where it has ended already.
    pub(super) async fn end_upload(&self, id: &str, status: &'static str) -> Result<bool, JobsError> {
        let (parts, ended) = {
            // No part comes between.
            let _one_at_a_time = self.inner.changes.lock().await;
            let mut transaction = self.inner.database.begin().await?;
            let parts = rows::parts(&mut transaction, id).await?;
            let ended = rows::end_upload(&mut transaction, id, status, None).await?;
            if ended {
                rows::delete_parts(&mut transaction, id).await?;
            }
            transaction.commit().await?;
            (parts, ended)
        };
        if ended {
            self.release_all(&parts).await?;
        }
        Ok(ended)
    }

    async fn release_all(&self, parts: &[PartRow]) -> Result<(), JobsError> {
        for part in parts {
            self.release(&part.sha256).await?;
        }
        Ok(())
    }

    /// A tenant's upload that still takes parts.
    async fn pending(&self, tenant: &str, id: &str) -> Result<UploadRow, JobsError> {
        let row = {
            let mut connection = self.inner.database.connection().await?;
            rows::get_upload(&mut connection, tenant, id).await?
        };
        let row = row.ok_or_else(|| JobsError::not_found("Upload object", id))?;
        if row.node != self.inner.node {
            return Err(JobsError::Elsewhere { id: row.id });
        }
        if row.status == "pending" && row.expires_at <= unix_now() {
            self.end_upload(&row.id, "expired").await?;
            return Err(ended(&row.id));
        }
        if row.status != "pending" {
            return Err(ended(&row.id));
        }
        Ok(row)
    }

    /// Copies parts one after another into one content, and its MD5 in hexadecimal digits.
    async fn join(&self, tenant: &str, parts: &[&PartRow]) -> Result<(Whole, String), JobsError> {
        use crate::store::StoreError;
        let mut to = self.receive(tenant, u64::MAX).await?;
        let mut md5 = Md5::new();
        let mut buffer = vec![0u8; COPY];
        for part in parts {
            let path = self.inner.blobs.fetch(&part.sha256).await?;
            let mut from = tokio::fs::File::open(&path).await.map_err(StoreError::io("read", &path))?;
            loop {
                let read = from.read(&mut buffer).await.map_err(StoreError::io("read", &path))?;
                let Some(chunk) = buffer.get(..read).filter(|chunk| !chunk.is_empty()) else { break };
                md5.update(chunk);
                to.write(chunk).await?;
            }
        }
        let digest = crate::ids::hex(&md5.finalize());
        Ok((to.finish().await?, digest))
    }
}

fn ended(id: &str) -> JobsError {
    JobsError::refused(
        "upload_not_pending",
        format!("The upload {id} takes nothing any more: it is completed, cancelled or expired."),
    )
}

/// The parts that were named, in the order in which they were.
fn chosen<'a>(parts: &'a [PartRow], ids: &[String]) -> Result<Vec<&'a PartRow>, JobsError> {
    let mut chosen: Vec<&PartRow> = Vec::with_capacity(ids.len());
    for id in ids {
        let shown: String = id.chars().take(64).collect();
        let Some(part) = parts.iter().find(|part| part.id == *id) else {
            return Err(JobsError::invalid("part_ids", format!("the upload has no part {shown:?}")));
        };
        if chosen.iter().any(|taken| taken.id == part.id) {
            return Err(JobsError::invalid("part_ids", format!("{shown:?} is there twice")));
        }
        chosen.push(part);
    }
    Ok(chosen)
}
