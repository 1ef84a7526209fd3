//! Rows of files and of uploads with their parts. Every question about one of them names its tenant.

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::StoreError;
use super::list::{Listed, Page, Paging, Query, first, number};

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRow {
    /// `file-...`
    pub id: String,
    /// Its tenant.
    pub project_id: String,
    /// The process that has its content.
    pub node: String,
    /// OpenAI's word for what it is for.
    pub purpose: String,
    /// As the client called it.
    pub filename: String,
    /// Length.
    pub bytes: i64,
    /// Name of its content.
    pub sha256: String,
    /// Seconds since 1970.
    pub created_at: i64,
    /// Seconds since 1970.
    pub expires_at: Option<i64>,
}

/// A file that comes in parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadRow {
    /// `upload_...`
    pub id: String,
    /// Its tenant.
    pub project_id: String,
    /// The process that has its parts.
    pub node: String,
    /// Of the file.
    pub purpose: String,
    /// Of the file.
    pub filename: String,
    /// As the client said.
    pub mime_type: String,
    /// Length, as the client said.
    pub bytes: i64,
    /// How long the file will be kept, seconds.
    pub file_seconds: Option<i64>,
    /// `pending`, `completed`, `cancelled`, `expired`.
    pub status: String,
    /// The file, once it is complete.
    pub file_id: Option<String>,
    /// Seconds since 1970.
    pub created_at: i64,
    /// Seconds since 1970.
    pub expires_at: i64,
}

/// A part of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartRow {
    /// `part_...`
    pub id: String,
    /// Its upload.
    pub upload_id: String,
    /// The process that has its content.
    pub node: String,
    /// Length.
    pub bytes: i64,
    /// Name of its content.
    pub sha256: String,
    /// Seconds since 1970.
    pub created_at: i64,
}

const FILE: &str = "SELECT id, project_id, node, purpose, filename, bytes, sha256, created_at, expires_at FROM files WHERE 1 = 1";
const UPLOAD: &str = "SELECT id, project_id, node, purpose, filename, mime_type, bytes, file_seconds, status, file_id, created_at, \
                      expires_at FROM uploads WHERE 1 = 1";
const PART: &str = "SELECT id, upload_id, node, bytes, sha256, created_at FROM upload_parts WHERE 1 = 1";

fn file(row: &AnyRow) -> Result<FileRow, sqlx::Error> {
    Ok(FileRow {
        id: row.try_get(0)?,
        project_id: row.try_get(1)?,
        node: row.try_get(2)?,
        purpose: row.try_get(3)?,
        filename: row.try_get(4)?,
        bytes: row.try_get(5)?,
        sha256: row.try_get(6)?,
        created_at: row.try_get(7)?,
        expires_at: row.try_get(8)?,
    })
}

fn upload(row: &AnyRow) -> Result<UploadRow, sqlx::Error> {
    Ok(UploadRow {
        id: row.try_get(0)?,
        project_id: row.try_get(1)?,
        node: row.try_get(2)?,
        purpose: row.try_get(3)?,
        filename: row.try_get(4)?,
        mime_type: row.try_get(5)?,
        bytes: row.try_get(6)?,
        file_seconds: row.try_get(7)?,
        status: row.try_get(8)?,
        file_id: row.try_get(9)?,
        created_at: row.try_get(10)?,
        expires_at: row.try_get(11)?,
    })
}

fn part(row: &AnyRow) -> Result<PartRow, sqlx::Error> {
    Ok(PartRow {
        id: row.try_get(0)?,
        upload_id: row.try_get(1)?,
        node: row.try_get(2)?,
        bytes: row.try_get(3)?,
        sha256: row.try_get(4)?,
        created_at: row.try_get(5)?,
    })
}

/// A tenant's file.
pub async fn get(connection: &mut AnyConnection, project_id: &str, id: &str) -> Result<Option<FileRow>, StoreError> {
    let query = Query::new(FILE).and("project_id = ?", Some(project_id)).and("id = ?", Some(id));
    query.read(connection, "read a file's row", file).await.map(first)
}

/// A tenant's files in pages, of a purpose where it is given. A cursor of another tenant is an unknown one.
pub async fn list(
    connection: &mut AnyConnection,
    project_id: &str,
    purpose: Option<&str>,
    paging: &Paging,
) -> Result<Page<FileRow>, StoreError> {
    if let Some(after) = &paging.after
        && get(connection, project_id, after).await?.is_none()
    {
        return Err(StoreError::UnknownCursor(after.clone()));
    }
    let listed = Listed { table: "files", prefix: "", time: "created_at" };
    let query = Query::new(FILE).and("project_id = ?", Some(project_id)).and("purpose = ?", purpose);
    query.page(connection, &listed, paging, file).await
}

/// Files that have expired.
pub async fn expired(connection: &mut AnyConnection, node: &str, now: i64) -> Result<Vec<FileRow>, StoreError> {
    let query = Query::new(FILE).and("node = ?", Some(node)).and("expires_at <= ?", Some(now));
    query.read(connection, "read files that have expired", file).await
}

/// Adds a file.
pub async fn insert(connection: &mut AnyConnection, row: &FileRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO files (id, project_id, node, purpose, filename, bytes, sha256, created_at, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(row.id.clone())
    .bind(row.project_id.clone())
    .bind(row.node.clone())
    .bind(row.purpose.clone())
    .bind(row.filename.clone())
    .bind(row.bytes)
    .bind(row.sha256.clone())
    .bind(row.created_at)
    .bind(row.expires_at)
    .execute(connection)
    .await
    .map_err(StoreError::sql("add a file"))?;
    Ok(())
}

/// Removes a tenant's file; false where it is not there.
pub async fn delete(connection: &mut AnyConnection, project_id: &str, id: &str) -> Result<bool, StoreError> {
    let query = sqlx::query("DELETE FROM files WHERE project_id = $1 AND id = $2");
    let done = query.bind(project_id.to_owned()).bind(id.to_owned()).execute(connection).await;
    Ok(done.map_err(StoreError::sql("remove a file"))?.rows_affected() == 1)
}

/// Bytes of a tenant's files and of the parts of its uploads.
pub async fn stored_bytes(connection: &mut AnyConnection, project_id: &str) -> Result<i64, StoreError> {
    let doing = "add up a tenant's files";
    // Sums of BIGINT are NUMERIC in PostgreSQL.
    let files = Query::new("SELECT CAST(COALESCE(SUM(bytes), 0) AS BIGINT) FROM files WHERE").with(" project_id = ?", project_id);
    let parts = Query::new(
        "SELECT CAST(COALESCE(SUM(p.bytes), 0) AS BIGINT) FROM upload_parts p JOIN uploads u ON u.id = p.upload_id WHERE",
    );
    let files = files.read(connection, doing, |row| number(row, 0)).await.map(first)?;
    let parts = parts.with(" u.project_id = ?", project_id).read(connection, doing, |row| number(row, 0)).await.map(first)?;
    Ok(files.unwrap_or(0).saturating_add(parts.unwrap_or(0)))
}

/// Whether any row needs this content on a node.
pub async fn is_needed(connection: &mut AnyConnection, node: &str, sha256: &str) -> Result<bool, StoreError> {
    let doing = "look for rows of a content";
    for table in ["files", "upload_parts"] {
        let query = Query::new(&format!("SELECT id FROM {table} WHERE")).with(" sha256 = ?", sha256).and("node = ?", Some(node));
        if !query.then(" LIMIT 1").fetch(connection, doing).await?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Contents that rows of a node need.
pub async fn contents(connection: &mut AnyConnection, node: &str) -> Result<Vec<String>, StoreError> {
    let mut contents = Vec::new();
    for table in ["files", "upload_parts"] {
        let query = Query::new(&format!("SELECT sha256 FROM {table} WHERE")).with(" node = ?", node);
        contents.extend(query.read(connection, "list contents", |row| row.try_get(0)).await?);
    }
    Ok(contents)
}

/// Gives the rows of a node to another name.
pub async fn give(connection: &mut AnyConnection, from: &str, to: &str) -> Result<(), StoreError> {
    for table in ["files", "uploads", "upload_parts"] {
        let query = sqlx::query(sqlx::AssertSqlSafe(format!("UPDATE {table} SET node = $1 WHERE node = $2")));
        let done = query.bind(to.to_owned()).bind(from.to_owned()).execute(&mut *connection).await;
        done.map_err(StoreError::sql("give files to all replicas"))?;
    }
    Ok(())
}

/// A tenant's upload.
pub async fn get_upload(connection: &mut AnyConnection, project_id: &str, id: &str) -> Result<Option<UploadRow>, StoreError> {
    let query = Query::new(UPLOAD).and("project_id = ?", Some(project_id)).and("id = ?", Some(id));
    query.read(connection, "read an upload", upload).await.map(first)
}

/// Adds an upload.
pub async fn insert_upload(connection: &mut AnyConnection, row: &UploadRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO uploads (id, project_id, node, purpose, filename, mime_type, bytes, file_seconds, status, file_id, \
         created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
    )
    .bind(row.id.clone())
    .bind(row.project_id.clone())
    .bind(row.node.clone())
    .bind(row.purpose.clone())
    .bind(row.filename.clone())
    .bind(row.mime_type.clone())
    .bind(row.bytes)
    .bind(row.file_seconds)
    .bind(row.status.clone())
    .bind(row.file_id.clone())
    .bind(row.created_at)
    .bind(row.expires_at)
    .execute(connection)
    .await
    .map_err(StoreError::sql("add an upload"))?;
    Ok(())
}

/// Ends a pending upload; false where it has ended already.
pub async fn end_upload(
    connection: &mut AnyConnection,
    id: &str,
    status: &'static str,
    file_id: Option<&str>,
) -> Result<bool, StoreError> {
    let query = sqlx::query("UPDATE uploads SET status = $1, file_id = $2 WHERE id = $3 AND status = 'pending'");
    let query = query.bind(status).bind(file_id.map(str::to_owned)).bind(id.to_owned());
    Ok(query.execute(connection).await.map_err(StoreError::sql("end an upload"))?.rows_affected() == 1)
}

/// Pending uploads whose time is over.
pub async fn overdue_uploads(connection: &mut AnyConnection, node: &str, now: i64) -> Result<Vec<UploadRow>, StoreError> {
    let query = Query::new(UPLOAD).and("status = ?", Some("pending")).and("node = ?", Some(node));
    query.and("expires_at <= ?", Some(now)).read(connection, "read uploads that have expired", upload).await
}

/// Parts of an upload, in the order in which they came.
pub async fn parts(connection: &mut AnyConnection, upload_id: &str) -> Result<Vec<PartRow>, StoreError> {
    let query = Query::new(PART).and("upload_id = ?", Some(upload_id)).then(" ORDER BY created_at, id");
    query.read(connection, "read an upload's parts", part).await
}

/// Adds a part.
pub async fn insert_part(connection: &mut AnyConnection, row: &PartRow) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO upload_parts (id, upload_id, node, bytes, sha256, created_at) VALUES ($1, $2, $3, $4, $5, $6)")
        .bind(row.id.clone())
        .bind(row.upload_id.clone())
        .bind(row.node.clone())
        .bind(row.bytes)
        .bind(row.sha256.clone())
        .bind(row.created_at)
        .execute(connection)
        .await
        .map_err(StoreError::sql("add a part"))?;
    Ok(())
}

/// Removes the parts of an upload.
pub async fn delete_parts(connection: &mut AnyConnection, upload_id: &str) -> Result<(), StoreError> {
    let query = sqlx::query("DELETE FROM upload_parts WHERE upload_id = $1").bind(upload_id.to_owned());
    query.execute(connection).await.map_err(StoreError::sql("remove parts"))?;
    Ok(())
}
