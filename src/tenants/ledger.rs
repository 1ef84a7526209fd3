//! The ledger: a row for every answered request, in the journal before the answer's last byte leaves, in the database soon after.
//! Knows nothing of limits.

use std::borrow::Borrow;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::TenantError;
use super::journal::{Journal, Sync, Written};
use crate::store::ledger::{self as table, LedgerRow};
use crate::store::{Database, StoreError};

/// Directory of the journal in the data directory.
const DIRECTORY: &str = "journal";
/// Rows that go into the database together.
const BATCH: usize = 512;
/// Rows wait this long for company.
const GATHER: Duration = Duration::from_millis(50);
/// After a failure the database is asked again this much later.
const RETRY: Duration = Duration::from_millis(500);
/// Rows that may wait for the database; with more, no new request is admitted. About 250 MB.
const BACKLOG: usize = 400_000;

/// Rows that the database refuses for what they hold, a JSON object a line.
const REFUSED: &str = "refused-rows.jsonl";

/// The ledger cannot take a row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The journal cannot be written.
    #[error("the ledger's journal cannot be written: {0}")]
    Journal(String),
    /// The database has not taken rows for too long.
    #[error("{0} rows of the ledger wait for the database")]
    Backlog(usize),
}

/// The ledger. Cheap to clone.
#[derive(Clone)]
pub struct Ledger(Arc<Inner>);

struct Inner {
    database: Database,
    directory: PathBuf,
    node: String,
    /// Begins the ids of this process's rows.
    boot: String,
    journal: Journal,
    queue: Mutex<Queue>,
    /// The journal could not be written the last time.
    broken: AtomicBool,
    wake: Notify,
    /// Somebody waits for the rows.
    hurry: Notify,
    drained: watch::Sender<u64>,
    failures: AtomicU64,
}

#[derive(Default)]
struct Queue {
    /// Shared, so that the lock is not held for copying them.
    rows: VecDeque<(Arc<LedgerRow>, u64, Instant)>,
    appended: u64,
    /// Nothing is appended any more: the process ends.
    closed: bool,
}

impl Ledger {
    /// Takes over what earlier lives of this data directory left in their journals, then begins a new one.
    pub async fn open(database: Database, data_dir: &Path, node: &str, sync: Sync) -> Result<Self, TenantError> {
        let directory = data_dir.join(DIRECTORY);
        let (rows, bad) = leftovers(&directory)?;
        for batch in rows.chunks(BATCH) {
            move_rows(&database, &directory, batch).await?;
        }
        if !rows.is_empty() || bad > 0 {
            tracing::info!(rows = rows.len(), bad, "the ledger's journal was taken over");
        }
        let journal = Journal::open(&directory, sync).map_err(StoreError::io("open", &directory))?;
        let first = journal.append(b"{}").map_err(StoreError::io("write", &directory))?;
        if bad > 0 {
            // Somebody may want to look at what could not be understood.
            journal.set_aside_before(first.segment).map_err(StoreError::io("set aside", &directory))?;
        } else {
            journal.forget_before(first.segment).map_err(StoreError::io("clean", &directory))?;
        }
        let boot = format!("{node}-{:x}", super::clock::unix_micros());
        let inner = Inner {
            database,
            directory,
            node: node.to_owned(),
            boot,
            journal,
            queue: Mutex::default(),
            broken: AtomicBool::new(false),
            wake: Notify::new(),
            hurry: Notify::new(),
            drained: watch::Sender::new(0),
            failures: AtomicU64::new(0),
        };
        Ok(Self(Arc::new(inner)))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a row could be appended now; asked before a request is admitted.
    pub fn ready(&self) -> Result<(), LedgerError> {
        let waiting = self.queue().rows.len();
        if waiting >= BACKLOG {
            return Err(LedgerError::Backlog(waiting));
        }
        if self.0.broken.load(Ordering::Acquire) {
            // An empty line says whether it works again.
            self.0.journal.append(b"{}").map_err(|error| LedgerError::Journal(error.to_string()))?;
            self.0.broken.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Appends a row, whose id and node are set here. When this returns the row survives the end of this process; with
    /// [`Ledger::synced`] awaited it is as safe as the setting promises.
    pub fn append(&self, mut row: LedgerRow) -> Result<Written, LedgerError> {
        // One lock over both, so that the queue's rows are in the journal's order.
        let mut queue = self.queue();
        if queue.closed {
            return Err(LedgerError::Journal("the process ends".to_owned()));
        }
        queue.appended += 1;
        row.id = format!("{}-{:x}", self.0.boot, queue.appended);
        row.node.clone_from(&self.0.node);
        let line = serde_json::to_vec(&row).map_err(|error| LedgerError::Journal(error.to_string()));
        let written = line.and_then(|line| self.0.journal.append(&line).map_err(|error| LedgerError::Journal(error.to_string())));
        match written {
            Ok(written) => {
                queue.rows.push_back((Arc::new(row), written.segment, Instant::now()));
                let first = queue.rows.len() == 1;
                drop(queue);
                if first {
                    self.0.wake.notify_one();
                }
                Ok(written)
            }
            Err(error) => {
                queue.appended -= 1;
                if !self.0.broken.swap(true, Ordering::AcqRel) {
                    tracing::error!(%error, "no request is admitted until the ledger can be written");
                }
                Err(error)
            }
        }
    }

    /// Waits until the row is as safe as the setting promises.
    pub async fn synced(&self, written: Written) {
        self.0.journal.synced(written).await;
    }

    /// Waits until every row that was appended before is in the database.
    pub async fn flush(&self) {
        let target = self.queue().appended;
        let mut drained = self.0.drained.subscribe();
        while *drained.borrow_and_update() < target {
            self.0.hurry.notify_one();
            // The sender lives as long as this value.
            let _ = tokio::time::timeout(GATHER, drained.changed()).await;
        }
    }

    /// [`Ledger::flush`] with an end; false where rows are left.
    pub async fn flush_within(&self, patience: Duration) -> bool {
        tokio::time::timeout(patience, self.flush()).await.is_ok()
    }

    /// Rows that wait for the database, and how long the oldest has waited.
    pub fn lag(&self) -> (usize, Duration) {
        let queue = self.queue();
        (queue.rows.len(), queue.rows.front().map_or(Duration::ZERO, |(_, _, since)| since.elapsed()))
    }

    /// Batches that the database did not take.
    pub fn failures(&self) -> u64 {
        self.0.failures.load(Ordering::Relaxed)
    }

    /// Moves rows into the database until it is dropped.
    pub async fn drain(self) {
        loop {
            if self.queue().rows.is_empty() {
                self.0.wake.notified().await;
            }
            let _ = tokio::time::timeout(GATHER, self.0.hurry.notified()).await;
            self.drain_once().await;
        }
    }

    async fn drain_once(&self) {
        loop {
            let (batch, segment) = {
                let queue = self.queue();
                let batch: Vec<Arc<LedgerRow>> = queue.rows.iter().take(BATCH).map(|(row, _, _)| Arc::clone(row)).collect();
                (batch, queue.rows.get(BATCH).or(queue.rows.back()).map(|(_, segment, _)| *segment))
            };
            let Some(segment) = segment else { return };
            if let Err(error) = move_rows(&self.0.database, &self.0.directory, &batch).await {
                self.0.failures.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%error, rows = batch.len(), "the ledger's rows wait in the journal");
                tokio::time::sleep(RETRY).await;
                return;
            }
            let drained = {
                let mut queue = self.queue();
                queue.rows.drain(..batch.len());
                queue.appended - queue.rows.len() as u64
            };
            self.0.drained.send_replace(drained);
            // Rows that wait are in this file or a later one.
            if let Err(error) = self.0.journal.forget_before(segment) {
                tracing::warn!(%error, directory = %self.0.directory.display(), "an old journal was not removed");
            }
        }
    }

    /// Moves the last rows into the database; for the end of the process. What does not get there stays in the journal.
    pub async fn close(&self, patience: Duration) {
        // From now on answers fail that are not settled yet: nothing can be appended behind the last look.
        self.queue().closed = true;
        if !self.flush_within(patience).await {
            tracing::warn!(rows = self.lag().0, "rows of the ledger stay in the journal until the next start");
            return;
        }
        if let Err(error) = self.0.journal.forget_all() {
            tracing::warn!(%error, "the journal was not removed");
        }
    }
}

/// Moves rows into the database. Rows that it refuses for what they hold are set aside in a file, so that one does not hold up all
/// that come after it.
async fn move_rows<R: Borrow<LedgerRow> + std::marker::Sync>(
    database: &Database,
    directory: &Path,
    rows: &[R],
) -> Result<(), StoreError> {
    match table::append(database, rows).await {
        Err(error) if error.is_about_data() => {}
        other => return other.map(drop),
    }
    for row in rows {
        match table::append(database, std::slice::from_ref(row)).await {
            Ok(_) => {}
            Err(error) if error.is_about_data() => {
                tracing::error!(%error, id = row.borrow().id, "the database refuses a row of the ledger; it is kept in {REFUSED}");
                set_aside(&directory.join(REFUSED), row.borrow())?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn set_aside(path: &Path, row: &LedgerRow) -> Result<(), StoreError> {
    let line = serde_json::to_string(row).unwrap_or_default() + "\n";
    let open = std::fs::OpenOptions::new().create(true).append(true).open(path);
    let written = open.and_then(|mut file| std::io::Write::write_all(&mut file, line.as_bytes()).and_then(|()| file.sync_data()));
    written.map_err(StoreError::io("write", path))
}

fn leftovers(directory: &Path) -> Result<(Vec<LedgerRow>, usize), StoreError> {
    let (mut rows, mut odd) = (Vec::new(), 0);
    let bad = Journal::leftovers(directory, |line| match serde_json::from_slice(line) {
        Ok(row) => rows.push(row),
        // Lines without a row only tried the file.
        Err(_) if line == b"{}" => {}
        Err(_) => odd += 1,
    });
    Ok((rows, bad.map_err(StoreError::io("read", directory))? + odd))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;
    use crate::store::Location;
    use crate::store::ledger::{Nodes, spent};

    async fn database(dir: &Path) -> Database {
        Database::open(&Location::File(dir.join("switchyard.db"))).await.unwrap()
    }

    fn row(cost_nanos: i64) -> LedgerRow {
        LedgerRow { project_id: "acme".into(), key_id: "key_1".into(), cost_nanos, ..LedgerRow::default() }
    }

    async fn total(database: &Database) -> i64 {
        spent(database, Nodes::Only("node"), 0, 0).await.unwrap().iter().map(|row| row.total).sum()
    }

    #[tokio::test]
    async fn rows_reach_the_database_and_the_journal_is_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let database = database(dir.path()).await;
        let ledger = Ledger::open(database.clone(), dir.path(), "node", Sync::Group).await.unwrap();
        let draining = tokio::spawn(ledger.clone().drain());
        for cost in 1..=1_000 {
            ledger.append(row(cost)).unwrap();
        }
        ledger.flush().await;
        assert_eq!((total(&database).await, ledger.lag().0), (500_500, 0));
        ledger.append(row(1)).unwrap();
        ledger.close(Duration::from_secs(10)).await;
        assert_eq!(total(&database).await, 500_501);
        assert_eq!(std::fs::read_dir(dir.path().join(DIRECTORY)).unwrap().count(), 0);
        draining.abort();
    }

    #[tokio::test]
    async fn what_a_killed_process_appended_is_taken_over_once() {
        let dir = tempfile::tempdir().unwrap();
        let database = database(dir.path()).await;
        let first = Ledger::open(database.clone(), dir.path(), "node", Sync::Never).await.unwrap();
        for cost in [5, 6, 7] {
            first.append(row(cost)).unwrap();
        }
        // Some of it has reached the database already, without the journal knowing.
        first.drain_once().await;
        first.append(row(100)).unwrap();
        drop(first);
        assert_eq!(total(&database).await, 18);
        let second = Ledger::open(database.clone(), dir.path(), "node", Sync::Never).await.unwrap();
        assert_eq!(total(&database).await, 118);
        second.append(row(1_000)).unwrap();
        second.drain_once().await;
        assert_eq!(total(&database).await, 1_118, "ids of two lives differ");
        let third = Ledger::open(database.clone(), dir.path(), "node", Sync::Never).await.unwrap();
        assert_eq!(total(&database).await, 1_118);
        drop((second, third));
    }

    #[tokio::test]
    async fn a_journal_that_cannot_be_written_says_so_until_it_can() {
        let dir = tempfile::tempdir().unwrap();
        let database = database(dir.path()).await;
        let ledger = Ledger::open(database, dir.path(), "node", Sync::Never).await.unwrap();
        ledger.ready().unwrap();
        // The next file cannot be made.
        let journal = dir.path().join(DIRECTORY);
        let elsewhere = dir.path().join("elsewhere");
        std::fs::rename(&journal, &elsewhere).unwrap();
        let big = LedgerRow { end_user: Some("x".repeat(3 << 20)), ..row(1) };
        let failed = (0..4).map(|_| ledger.append(big.clone())).find_map(Result::err).unwrap();
        assert!(matches!(failed, LedgerError::Journal(_)));
        assert!(ledger.ready().is_err());
        std::fs::rename(&elsewhere, &journal).unwrap();
        ledger.ready().unwrap();
        ledger.append(row(1)).unwrap();
    }
}
