//! Texts that /convert has answered, what would have been right, and files of that to train on. Knows nothing of what answers say.
//!
//! A text waits in memory until the next flush, so that an answer waits for no database; a kill loses what was said in the last
//! second, which can then not be corrected.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::AsyncReadExt;

use super::files::{FileRow, Files, NewFile, Purpose};
use super::{JobsError, new_id, unix_now};
use crate::store::corrections as rows;
pub use crate::store::corrections::{CorrectionRow, PolicyRow, TextRow};

/// Texts that wait for the database, at most; with more the oldest are not kept.
const MOST_WAITING: usize = 10_000;
/// Bytes of them, at most.
const MOST_BYTES: usize = 16 << 20;
/// How often they are written.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked for texts whose time is over, in flushes.
const EXPIRE_EVERY: u32 = 60;
/// A claim without a job after this long is nobody's: whoever made it has died.
const CLAIM: Duration = Duration::from_secs(600);
/// Bytes that are copied at once.
const PIECE: usize = 256 * 1024;
/// Longest id that is looked for, bytes.
const MOST_ID: usize = 256;
/// Name of the files.
const FILENAME: &str = "convert-corrections.jsonl";

/// A text and its answer.
#[derive(Debug, Clone)]
pub struct Said {
    /// Whose.
    pub tenant: Arc<str>,
    /// Of the answer.
    pub id: String,
    /// As the model read it.
    pub text: String,
    /// JSON.
    pub answer: String,
    /// As it was named.
    pub model: String,
    /// The tenant's own schema; empty is the built-in one.
    pub schema: String,
}

/// What would have been right.
#[derive(Debug, Clone)]
pub struct Right {
    /// Whose.
    pub tenant: Arc<str>,
    /// The text that was answered.
    pub of: TextRow,
    /// JSON.
    pub answer: String,
}

/// When a job starts by itself.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Whose.
    pub tenant: Arc<str>,
    /// Of answers in this schema; empty is the built-in one.
    pub schema: String,
    /// After so many new corrections.
    pub after: i64,
    /// JSON, as in a request for a job.
    pub job: String,
    /// In whose name.
    pub key_id: String,
}

/// How many corrections a tenant has in a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// All.
    pub total: i64,
    /// Of which no job has learnt.
    pub new: i64,
}

/// Corrections that a job is about to be made from. Settled with the job, or without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    tenant: String,
    at: i64,
}

#[derive(Default)]
struct Waiting {
    rows: VecDeque<TextRow>,
    bytes: usize,
    /// On their way into the database; still found here.
    leaving: Vec<TextRow>,
}

/// All corrections; cheap to clone.
#[derive(Clone)]
pub struct Corrections {
    files: Files,
    waiting: Arc<Mutex<Waiting>>,
    /// One flush at a time.
    flushing: Arc<tokio::sync::Mutex<()>>,
}

impl Corrections {
    pub(super) fn new(files: Files) -> Self {
        Self { files, waiting: Arc::default(), flushing: Arc::default() }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a text for `time`, from now on. Waits for nothing.
    pub fn keep(&self, said: Said, time: Duration) {
        let now = unix_now();
        let row = TextRow {
            project_id: said.tenant.to_string(),
            id: said.id,
            text: said.text,
            answer: said.answer,
            model: said.model,
            schema_name: said.schema,
            created_at: now,
            expires_at: now.saturating_add(i64::try_from(time.as_secs()).unwrap_or(i64::MAX)),
        };
        let mut waiting = self.waiting();
        waiting.bytes += size(&row);
        waiting.rows.push_back(row);
        while waiting.rows.len() > MOST_WAITING || waiting.bytes > MOST_BYTES {
            let Some(oldest) = waiting.rows.pop_front() else { break };
            waiting.bytes = waiting.bytes.saturating_sub(size(&oldest));
        }
    }

    /// Writes texts and removes those whose time is over, until it is dropped.
    pub async fn keep_up(self) {
        let mut tick = tokio::time::interval(FLUSH_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for turn in 0u32.. {
            tick.tick().await;
            let mut done = self.flush().await;
            if done.is_ok() && turn.is_multiple_of(EXPIRE_EVERY) {
                done = self.expire(unix_now()).await;
            }
            if let Err(error) = done {
                tracing::warn!(%error, "texts of /convert are not kept yet");
            }
        }
    }

    /// Writes the texts that wait.
    pub async fn flush(&self) -> Result<(), JobsError> {
        let _one_at_a_time = self.flushing.lock().await;
        let batch = {
            let mut waiting = self.waiting();
            waiting.bytes = 0;
            waiting.leaving = waiting.rows.drain(..).collect();
            waiting.leaving.clone()
        };
        if batch.is_empty() {
            return Ok(());
        }
        let written = self.write(&batch).await;
        let mut waiting = self.waiting();
        let leaving = std::mem::take(&mut waiting.leaving);
        if written.is_err() {
            // Next time, as far as there is room.
            for row in leaving.into_iter().rev().take(MOST_WAITING - waiting.rows.len().min(MOST_WAITING)) {
                waiting.bytes += size(&row);
                waiting.rows.push_front(row);
            }
        }
        written
    }

    async fn write(&self, batch: &[TextRow]) -> Result<(), JobsError> {
        let mut transaction = self.files.inner.database.begin().await?;
        for row in batch {
            rows::keep(&mut transaction, row).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Removes the texts whose time is over at `now`, seconds since 1970.
    pub async fn expire(&self, now: i64) -> Result<(), JobsError> {
        let mut transaction = self.files.inner.database.begin().await?;
        rows::expire(&mut transaction, now).await?;
        Ok(transaction.commit().await?)
    }

    /// A tenant's text that is still kept.
    pub async fn text(&self, tenant: &str, id: &str) -> Result<TextRow, JobsError> {
        let now = unix_now();
        let is_it = |row: &&TextRow| row.project_id == tenant && row.id == id && row.expires_at > now;
        let waiting = {
            let waiting = self.waiting();
            waiting.rows.iter().rev().chain(&waiting.leaving).find(is_it).cloned()
        };
        if let Some(row) = waiting {
            return Ok(row);
        }
        if !is_id(id) {
            return Err(JobsError::not_found("answer that is still kept", id));
        }
        let mut connection = self.files.inner.database.connection().await?;
        rows::find(&mut connection, tenant, id, now).await?.ok_or_else(|| JobsError::not_found("answer that is still kept", id))
    }

    /// Adds a correction. Another one of the same answer takes its place.
    pub async fn add(&self, right: Right) -> Result<(CorrectionRow, Count), JobsError> {
        let Right { tenant, of, answer } = right;
        let row = CorrectionRow {
            id: new_id("corr_"),
            project_id: tenant.to_string(),
            answer_id: of.id,
            model: of.model,
            schema_name: of.schema_name,
            was_right: answer == of.answer,
            text: of.text,
            answer,
            created_at: unix_now(),
            job_id: None,
        };
        let mut transaction = self.files.inner.database.begin().await?;
        let row = rows::put(&mut transaction, &row).await?;
        let (total, new) = rows::count(&mut transaction, &tenant, &row.schema_name, stale(micros())).await?;
        transaction.commit().await?;
        Ok((row, Count { total, new }))
    }

    /// A tenant's corrections of answers in a schema, the oldest first.
    pub async fn all(&self, tenant: &str, schema: &str) -> Result<Vec<CorrectionRow>, JobsError> {
        let mut connection = self.files.inner.database.connection().await?;
        Ok(rows::all(&mut connection, tenant, schema).await?)
    }

    /// Removes a tenant's correction. Files that have its row keep it.
    pub async fn delete(&self, tenant: &str, id: &str) -> Result<(), JobsError> {
        if !is_id(id) {
            return Err(JobsError::not_found("correction", id));
        }
        let mut transaction = self.files.inner.database.begin().await?;
        if !rows::delete(&mut transaction, tenant, id).await? {
            return Err(JobsError::not_found("correction", id));
        }
        Ok(transaction.commit().await?)
    }

    /// When a tenant's jobs start by themselves.
    pub async fn policy(&self, tenant: &str, schema: &str) -> Result<Option<PolicyRow>, JobsError> {
        let mut connection = self.files.inner.database.connection().await?;
        Ok(rows::policy(&mut connection, tenant, schema).await?)
    }

    /// Sets it: a job as `job` says, asked for by a key, after so many new corrections.
    pub async fn set_policy(&self, policy: Policy) -> Result<PolicyRow, JobsError> {
        let row = PolicyRow {
            project_id: policy.tenant.to_string(),
            schema_name: policy.schema,
            after: policy.after,
            job: policy.job,
            key_id: policy.key_id,
            updated_at: unix_now(),
        };
        let mut transaction = self.files.inner.database.begin().await?;
        rows::set_policy(&mut transaction, &row).await?;
        transaction.commit().await?;
        Ok(row)
    }

    /// Removes it.
    pub async fn remove_policy(&self, tenant: &str, schema: &str) -> Result<(), JobsError> {
        let mut transaction = self.files.inner.database.begin().await?;
        if !rows::remove_policy(&mut transaction, tenant, schema).await? {
            return Err(JobsError::not_found("policy for corrections of the schema", schema));
        }
        Ok(transaction.commit().await?)
    }

    /// Takes a tenant's new corrections for a job if there are at least so many. Of two at the same time one gets them.
    pub async fn claim(&self, tenant: &str, schema: &str, at_least: i64) -> Result<Option<Claim>, JobsError> {
        let at = micros();
        let mut transaction = self.files.inner.database.begin().await?;
        let claimed = rows::claim(&mut transaction, tenant, schema, (at, stale(at))).await?;
        if i64::try_from(claimed).unwrap_or(i64::MAX) < at_least {
            // The transaction is dropped, and with it the claim.
            return Ok(None);
        }
        transaction.commit().await?;
        Ok(Some(Claim { tenant: tenant.to_owned(), at }))
    }

    /// What was claimed belongs to a job now; without one it is new again.
    pub async fn settle(&self, claim: Claim, job: Option<&str>) -> Result<(), JobsError> {
        let mut transaction = self.files.inner.database.begin().await?;
        rows::settle(&mut transaction, &claim.tenant, claim.at, job).await?;
        Ok(transaction.commit().await?)
    }

    /// A new file to train on: the rows of another file of the tenant, where one is named, then `lines`.
    pub async fn file(&self, tenant: &Arc<str>, after: Option<&str>, lines: &[String]) -> Result<FileRow, JobsError> {
        let limit = self.files.largest();
        let mut receiving = self.files.receive_own(limit).await?;
        if let Some(id) = after {
            let path = self.rows_of(tenant, id).await?;
            let mut source = tokio::fs::File::open(&path).await.map_err(|_| JobsError::not_found("File object", id))?;
            let mut piece = vec![0u8; PIECE];
            let mut last = None;
            loop {
                let unreadable = |_| JobsError::not_found("File object", id);
                let read = source.read(&mut piece).await.map_err(unreadable)?;
                if read == 0 {
                    break;
                }
                if last.is_none() && !piece[..read].trim_ascii_start().starts_with(b"{") {
                    let problem = format!("{id} is no JSON Lines file, and corrections can be added to no other");
                    return Err(JobsError::invalid("training_file", problem));
                }
                last = Some(piece[read - 1]);
                receiving.write(&piece[..read]).await?;
            }
            if last.is_some_and(|byte| byte != b'\n') {
                receiving.write(b"\n").await?;
            }
        }
        for line in lines {
            receiving.write(line.as_bytes()).await?;
            receiving.write(b"\n").await?;
        }
        let content = receiving.finish().await?;
        let (tenant, filename) = (Arc::clone(tenant), FILENAME.to_owned());
        self.files.add(NewFile { tenant, purpose: Purpose::FineTune, filename, seconds: None }, content).await
    }

    /// Where the rows of a file to train on are.
    async fn rows_of(&self, tenant: &str, id: &str) -> Result<std::path::PathBuf, JobsError> {
        let shown: String = id.chars().take(64).collect();
        let (row, path) = self.files.content(tenant, id).await.map_err(|error| match error {
            JobsError::NotFound { .. } => JobsError::invalid("training_file", format!("there is no file {shown:?}")),
            other => other,
        })?;
        if row.purpose == Purpose::FineTune.name() {
            return Ok(path);
        }
        let problem = format!("{shown:?} has the purpose '{}'; 'fine-tune' is right", row.purpose);
        Err(JobsError::invalid("training_file", problem))
    }
}

/// Whether the database may be asked for it: PostgreSQL takes no NUL.
fn is_id(id: &str) -> bool {
    id.len() <= MOST_ID && !id.contains('\0')
}

fn size(row: &TextRow) -> usize {
    row.id.len() + row.text.len() + row.answer.len() + row.model.len() + 128
}

/// Microseconds since 1970.
fn micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Claims from before this are nobody's.
fn stale(now: i64) -> i64 {
    now.saturating_sub(i64::try_from(CLAIM.as_micros()).unwrap_or(i64::MAX))
}
