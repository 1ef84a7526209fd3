//! Files of tenants: rows in the database, contents in the data directory, each content once. A content leaves the disk with the
//! last row that needs it. Knows nothing of what is in a file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use super::{JobsError, Page, Paging, new_id, unix_now};
use crate::store::blobs::{BlobWriter, Blobs, Whole};
pub use crate::store::files::FileRow;
use crate::store::objects::Objects;
use crate::store::{DataDir, Database, files as rows};

/// Files that are received at the same time: each may take as much disk as one file is allowed.
const TOGETHER: usize = 16;
/// Of these, those of one tenant at most.
const OF_A_TENANT: usize = 4;
/// How often it is looked for what has expired.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Stands for the process that has a content, where all have.
const EVERYBODY: &str = "everybody";
/// Looks after which it is looked for objects that nobody needs: an hour.
const SWEEP_EVERY: u64 = 60;
/// Longest name of a file, bytes.
const MAX_NAME: usize = 512;

/// What a file is for, as far as this server has a use for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Rows to train on.
    FineTune,
    /// The metrics of a job, written by the server.
    FineTuneResults,
}

impl Purpose {
    /// OpenAI's word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FineTune => "fine-tune",
            Self::FineTuneResults => "fine-tune-results",
        }
    }

    /// The purpose that a client may give a file.
    pub fn given(name: &str) -> Result<Self, JobsError> {
        match name {
            "fine-tune" => Ok(Self::FineTune),
            "assistants" | "batch" | "vision" | "user_data" | "evals" => Err(JobsError::Refused {
                code: "unsupported_purpose",
                message: format!("This server has no use for files of the purpose '{name}'; 'fine-tune' is right."),
            }),
            other => {
                let shown: String = other.chars().take(64).collect();
                Err(JobsError::invalid("purpose", format!("{shown:?} is no purpose; 'fine-tune' is right")))
            }
        }
    }
}

/// Bytes that may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileLimits {
    /// Of one file.
    pub file: u64,
    /// Of all files of a tenant.
    pub tenant: u64,
}

/// What the files are made of.
pub struct FilesSetup {
    /// Where contents are.
    pub data: Arc<DataDir>,
    /// Where rows are.
    pub database: Database,
    /// Name of this process's data directory among those that share the database.
    pub node: String,
    /// Where replicas keep contents together; `None` keeps them in `data`.
    pub objects: Option<Objects>,
    /// How much.
    pub limits: FileLimits,
}

/// What is said of a new file.
#[derive(Debug, Clone)]
pub struct NewFile {
    /// Whose.
    pub tenant: Arc<str>,
    /// What for.
    pub purpose: Purpose,
    /// As its owner calls it.
    pub filename: String,
    /// How long it is kept, seconds; `None` is until it is deleted.
    pub seconds: Option<i64>,
}

/// All files; cheap to clone.
#[derive(Clone)]
pub struct Files {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) blobs: Blobs,
    pub(super) database: Database,
    /// This process, or all that share contents.
    pub(super) node: String,
    /// This process.
    pub(super) own: String,
    pub(super) limits: FileLimits,
    places: Arc<Semaphore>,
    /// Places that tenants have.
    taken: Arc<std::sync::Mutex<BTreeMap<String, usize>>>,
    /// Held from a content's arrival in its place to the row that needs it, and from the question whether a row needs it to its
    /// removal.
    pub(super) changes: Mutex<()>,
}

impl Files {
    /// Removes contents that no row needs.
    pub async fn open(setup: FilesSetup) -> Result<Self, JobsError> {
        let FilesSetup { data, database, node: own, objects, limits } = setup;
        let node = if objects.is_some() { EVERYBODY.to_owned() } else { own.clone() };
        let blobs = Blobs::open(&data, objects)?;
        let places = Arc::new(Semaphore::new(TOGETHER));
        let (taken, changes) = (Arc::default(), Mutex::new(()));
        let files = Self { inner: Arc::new(Inner { blobs, database, node, own, limits, places, taken, changes }) };
        files.give_to_all().await?;
        files.sweep().await?;
        Ok(files)
    }

    /// Most bytes of one file.
    pub fn largest(&self) -> u64 {
        self.inner.limits.file
    }

    /// Begins to receive a tenant's content of at most `limit` bytes.
    pub async fn receive(&self, tenant: &str, limit: u64) -> Result<Receiving, JobsError> {
        let place = self.place(tenant)?;
        Ok(Receiving { writer: self.inner.blobs.begin().await?, limit, _place: Some(place) })
    }

    /// The same for what the server writes itself, which waits for nobody.
    pub(super) async fn receive_own(&self, limit: u64) -> Result<Receiving, JobsError> {
        Ok(Receiving { writer: self.inner.blobs.begin().await?, limit, _place: None })
    }

    fn place(&self, tenant: &str) -> Result<Place, JobsError> {
        let permit = Arc::clone(&self.inner.places).try_acquire_owned().map_err(|_| JobsError::TooManyUploads)?;
        let mut taken = self.inner.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(tenant.to_owned()).or_default();
        if *count >= OF_A_TENANT {
            return Err(JobsError::TooManyUploads);
        }
        *count += 1;
        drop(taken);
        Ok(Place { tenant: tenant.to_owned(), taken: Arc::clone(&self.inner.taken), _permit: permit })
    }

    /// Makes a file of a content.
    pub async fn add(&self, new: NewFile, content: Whole) -> Result<FileRow, JobsError> {
        let now = unix_now();
        let filename = checked_name(&new.filename)?;
        let row = FileRow {
            id: new_id("file-"),
            project_id: new.tenant.to_string(),
            node: self.inner.node.clone(),
            purpose: new.purpose.name().to_owned(),
            filename,
            bytes: i64::try_from(content.bytes).unwrap_or(i64::MAX),
            sha256: content.sha256.clone(),
            created_at: now,
            expires_at: new.seconds.map(|seconds| now.saturating_add(seconds)),
        };
        self.share(&new.tenant, &content, row.bytes).await?;
        let _one_at_a_time = self.inner.changes.lock().await;
        let mut transaction = self.inner.database.begin().await?;
        self.check_room(&mut transaction, &new.tenant, row.bytes).await?;
        rows::insert(&mut transaction, &row).await?;
        self.inner.blobs.keep(content).await?;
        transaction.commit().await?;
        Ok(row)
    }

    /// Gives a content to the other replicas, where the tenant has room for it.
    pub(super) async fn share(&self, tenant: &str, content: &Whole, more: i64) -> Result<(), JobsError> {
        if self.inner.blobs.objects().is_none() {
            return Ok(());
        }
        let mut transaction = self.inner.database.begin().await?;
        self.check_room(&mut transaction, tenant, more).await?;
        drop(transaction);
        Ok(self.inner.blobs.share(content).await?)
    }

    /// Refuses what would be more than the tenant may keep.
    pub(super) async fn check_room(
        &self,
        transaction: &mut crate::store::Transaction,
        tenant: &str,
        more: i64,
    ) -> Result<(), JobsError> {
        let limit = self.inner.limits.tenant;
        let kept = rows::stored_bytes(transaction, tenant).await?.saturating_add(more);
        if u64::try_from(kept).unwrap_or(u64::MAX) > limit { Err(JobsError::OutOfRoom { limit }) } else { Ok(()) }
    }

    /// A tenant's file.
    pub async fn get(&self, tenant: &str, id: &str) -> Result<FileRow, JobsError> {
        let mut connection = self.inner.database.connection().await?;
        let row = rows::get(&mut connection, tenant, id).await?;
        let now = unix_now();
        row.filter(|row| row.expires_at.is_none_or(|at| at > now)).ok_or_else(|| JobsError::not_found("File object", id))
    }

    /// A tenant's files.
    pub async fn list(&self, tenant: &str, purpose: Option<&str>, paging: &Paging) -> Result<Page<FileRow>, JobsError> {
        let mut connection = self.inner.database.connection().await?;
        Ok(rows::list(&mut connection, tenant, purpose, paging).await?)
    }

    /// A tenant's file and where its content is.
    pub async fn content(&self, tenant: &str, id: &str) -> Result<(FileRow, PathBuf), JobsError> {
        let row = self.get(tenant, id).await?;
        if row.node != self.inner.node {
            return Err(JobsError::Elsewhere { id: row.id });
        }
        let path = self.inner.blobs.fetch(&row.sha256).await?;
        Ok((row, path))
    }

    /// Removes a tenant's file. Jobs that have read it go on.
    pub async fn delete(&self, tenant: &str, id: &str) -> Result<(), JobsError> {
        let row = self.get(tenant, id).await?;
        self.remove(&row).await
    }

    async fn remove(&self, row: &FileRow) -> Result<(), JobsError> {
        let mut transaction = self.inner.database.begin().await?;
        if !rows::delete(&mut transaction, &row.project_id, &row.id).await? {
            return Err(JobsError::not_found("File object", &row.id));
        }
        transaction.commit().await?;
        // The content of another node's file goes at that node's next start.
        self.release(&row.sha256).await
    }

    /// Removes contents that no row needs.
    pub(super) async fn sweep(&self) -> Result<(), JobsError> {
        for sha256 in self.inner.blobs.contents()? {
            self.release(&sha256).await?;
        }
        Ok(())
    }

    /// Removes a content unless a row needs it.
    pub(super) async fn release(&self, sha256: &str) -> Result<(), JobsError> {
        let _one_at_a_time = self.inner.changes.lock().await;
        let mut connection = self.inner.database.connection().await?;
        if !rows::is_needed(&mut connection, &self.inner.node, sha256).await? {
            self.inner.blobs.remove(sha256)?;
        }
        Ok(())
    }

    /// Removes what has expired, until it is dropped.
    pub async fn keep_up(self) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for looks in 1u64.. {
            look.tick().await;
            if looks.is_multiple_of(SWEEP_EVERY)
                && let Err(error) = self.sweep_objects().await
            {
                tracing::warn!(%error, "objects that nobody needs are not removed yet");
            }
            if let Err(error) = self.expire(unix_now()).await {
                tracing::warn!(%error, "files that have expired are not removed yet");
            }
        }
    }

    /// Removes what has expired at `now` (seconds since 1970): files, and uploads that nobody completed.
    pub async fn expire(&self, now: i64) -> Result<(), JobsError> {
        let (files, uploads) = {
            let mut connection = self.inner.database.connection().await?;
            let files = rows::expired(&mut connection, &self.inner.node, now).await?;
            (files, rows::overdue_uploads(&mut connection, &self.inner.node, now).await?)
        };
        for row in files {
            match self.remove(&row).await {
                // Somebody has deleted it meanwhile.
                Ok(()) | Err(JobsError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        for row in uploads {
            self.end_upload(&row.id, "expired").await?;
        }
        Ok(())
    }
}

/// A name as it will be shown: one line, not too long.
pub(super) fn checked_name(name: &str) -> Result<String, JobsError> {
    let sound = !name.is_empty() && name.len() <= MAX_NAME && !name.chars().any(char::is_control);
    if sound {
        return Ok(name.to_owned());
    }
    Err(JobsError::invalid("filename", format!("1 to {MAX_NAME} bytes without control characters are right")))
}

/// A tenant's place among the files that are received.
struct Place {
    tenant: String,
    taken: Arc<std::sync::Mutex<BTreeMap<String, usize>>>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let left = taken.get(&self.tenant).map_or(0, |count| count.saturating_sub(1));
        if left == 0 {
            taken.remove(&self.tenant);
        } else {
            taken.insert(self.tenant.clone(), left);
        }
    }
}

/// A content on its way. Dropped, it is gone.
pub struct Receiving {
    writer: BlobWriter,
    limit: u64,
    _place: Option<Place>,
}

impl Receiving {
    /// The next piece.
    pub async fn write(&mut self, chunk: &[u8]) -> Result<(), JobsError> {
        if self.writer.bytes() + chunk.len() as u64 > self.limit {
            return Err(JobsError::TooLarge { limit: self.limit });
        }
        Ok(self.writer.write(chunk).await?)
    }

    /// The whole; on the disk, but nobody's yet.
    pub async fn finish(self) -> Result<Whole, JobsError> {
        Ok(self.writer.finish().await?)
    }
}
