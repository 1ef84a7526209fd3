//! What replicas that share an object store do for each other's jobs: one of them at a time holds a job and says every few seconds that
//! it is alive; what the job goes on from is where the others find it. Where nothing is shared all jobs are this process's own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::desk::{JobRow, Jobs};
use super::driver::Shop;
use super::files::Files;
use super::job::Status;
use super::record::{self, Event, Notes};
use super::{JobsError, unix_now};
use crate::store::blobs::SHARED;
use crate::store::objects::Objects;
use crate::store::{StoreError, files, jobs as rows};
use crate::training::trainer::STATE_FILE;

/// How often a holder says that it is alive.
const BEAT: Duration = Duration::from_secs(2);
/// A holder that has said nothing for so long is dead: others take its jobs up.
const SILENCE: Duration = Duration::from_secs(10);
/// Where states of jobs are in the object store.
const STATES: &str = "checkpoints";

/// The last sign of life of those who hold jobs, by this process's clock alone: no two machines' clocks are compared.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Of each job its holder, the holder's signs of life and the row's changes, and since when they are the same.
    seen: BTreeMap<String, (String, i64, i64, Instant)>,
    /// When this process looked last.
    looked: Option<Instant>,
}

impl Watch {
    /// Whether the holder of a job is dead, as far as was seen until now.
    fn is_silent(&mut self, row: &JobRow, now: Instant) -> bool {
        let is = || (row.holder.clone(), row.beat, row.version, now);
        let seen = self.seen.entry(row.id.clone()).or_insert_with(is);
        if (seen.0.as_str(), seen.1, seen.2) != (row.holder.as_str(), row.beat, row.version) {
            *seen = is();
        }
        now.saturating_duration_since(seen.3) >= SILENCE
    }

    /// Jobs of these rows that this process may work on: its own, those that nobody holds, those whose holder is dead.
    pub(super) fn free(&mut self, own: &str, rows: Vec<JobRow>, now: Instant) -> Vec<JobRow> {
        // While nobody could look nobody could say anything, either.
        if self.looked.is_some_and(|looked| now.saturating_duration_since(looked) > SILENCE / 2) {
            self.seen.clear();
        }
        self.looked = Some(now);
        self.seen.retain(|job, _| rows.iter().any(|row| row.id == *job));
        rows.into_iter().filter(|row| row.holder.is_empty() || row.holder == own || self.is_silent(row, now)).collect()
    }
}

impl Files {
    /// What only this process had, of a life by itself, is everybody's from now on.
    pub(super) async fn give_to_all(&self) -> Result<(), JobsError> {
        let (own, node) = (&self.inner.own, &self.inner.node);
        if own == node {
            return Ok(());
        }
        let contents = {
            let mut connection = self.inner.database.connection().await?;
            files::contents(&mut connection, own).await?
        };
        for sha256 in contents.iter().filter(|sha256| self.inner.blobs.place(sha256).exists()) {
            self.inner.blobs.share_kept(sha256).await?;
        }
        let mut transaction = self.inner.database.begin().await?;
        files::give(&mut transaction, own, node).await?;
        rows::give(&mut transaction, own, node).await?;
        Ok(transaction.commit().await?)
    }

    /// Removes objects that nobody needs any more, and copies here of contents that others have removed.
    pub(super) async fn sweep_objects(&self) -> Result<(), JobsError> {
        let Some(objects) = self.inner.blobs.objects() else { return Ok(()) };
        self.sweep().await?;
        let (contents, jobs) = {
            let mut connection = self.inner.database.connection().await?;
            let contents = files::contents(&mut connection, &self.inner.node).await?;
            (contents, rows::unfinished_of(&mut connection, &self.inner.node).await?)
        };
        let last = |key: &str, place: usize| key.split('/').nth(place).map(str::to_owned);
        let needed = |key: &str| last(key, 1).is_none_or(|sha256| contents.contains(&sha256));
        objects.sweep(SHARED, unix_now(), needed).await?;
        let needed = |key: &str| last(key, 1).is_none_or(|job| jobs.iter().any(|row| row.id == job));
        objects.sweep(STATES, unix_now(), needed).await?;
        Ok(())
    }
}

impl Jobs {
    /// Whether other replicas can work on the same jobs.
    pub(super) fn are_shared(&self) -> bool {
        self.objects().is_some()
    }

    fn objects(&self) -> Option<&Objects> {
        self.inner.files.inner.blobs.objects()
    }

    /// This process, as the holder of jobs.
    pub(super) fn own(&self) -> &str {
        &self.inner.files.inner.own
    }

    /// Whether somebody else has taken the job up.
    pub(super) fn is_lost(&self, row: &JobRow) -> bool {
        self.are_shared() && !row.holder.is_empty() && row.holder != self.own()
    }

    /// Lets a job go that this process does not work on any more, so that another one may go on at once.
    pub(super) async fn let_go(&self, tenant: &str, id: &str) -> Result<(), JobsError> {
        if !self.are_shared() {
            return Ok(());
        }
        let mut row = self.get(tenant, id).await?;
        if row.holder == self.own() && !Status::is_over(&row.status) {
            row.holder.clear();
            // Where somebody else was faster it is theirs.
            record::write(&self.inner.database, &mut row, Notes::default()).await?;
        }
        Ok(())
    }

    /// Says every few seconds that this process is alive, for the jobs that it holds; until it is dropped.
    pub(super) async fn beat(self) {
        if !self.are_shared() {
            return;
        }
        let mut next = tokio::time::interval(BEAT);
        next.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            next.tick().await;
            let beaten = async {
                let mut transaction = self.inner.database.begin().await?;
                rows::beat(&mut transaction, self.own()).await?;
                transaction.commit().await
            };
            if let Err(error) = beaten.await {
                tracing::warn!(%error, "other replicas do not hear that this one works on its jobs");
            }
        }
    }

    /// Gives what a job goes on from to the other replicas, and returns its name; `None` where nothing is shared.
    pub(super) async fn share_state(&self, job: &str, dir: &Path) -> Result<Option<String>, StoreError> {
        let Some(objects) = self.objects() else { return Ok(None) };
        let path = dir.join(STATE_FILE);
        let sha256 = digest(&path).await?;
        objects.put_file(&format!("{STATES}/{job}/{sha256}"), &path).await?;
        Ok(Some(sha256))
    }

    /// Brings what a job goes on from here, where a replica has shared it. One that is gone costs the steps since the beginning.
    pub(super) async fn fetch_state(&self, row: &JobRow, dir: &Path) -> Result<(), StoreError> {
        let (Some(objects), Some(state)) = (self.objects(), &row.state) else { return Ok(()) };
        let path = dir.join(STATE_FILE);
        if path.exists() && digest(&path).await? == *state {
            return Ok(());
        }
        tokio::fs::create_dir_all(dir).await.map_err(StoreError::io("create", dir))?;
        let coming = dir.join("coming");
        match objects.get_file(&format!("{STATES}/{}/{state}", row.id), &coming).await? {
            Some(digest) if digest == *state => crate::store::rename_durably(&coming, &path),
            Some(_) | None => {
                tracing::warn!(job = row.id, "what a job goes on from is not in the object store");
                Ok(())
            }
        }
    }

    /// Removes one state of a job from the object store, or all of them. Where that fails the sweep does it.
    pub(super) async fn remove_states(&self, job: &str, state: Option<&str>) {
        let Some(objects) = self.objects() else { return };
        let removed = async {
            let keys = match state {
                Some(state) => vec![format!("{STATES}/{job}/{state}")],
                None => objects.list(&format!("{STATES}/{job}")).await?.into_iter().map(|listed| listed.key).collect(),
            };
            for key in keys {
                objects.remove(&key).await?;
            }
            Ok::<_, StoreError>(())
        };
        if let Err(error) = removed.await {
            tracing::debug!(%error, job, "old states of a job are not removed yet");
        }
    }
}

impl Shop {
    /// Jobs at work that this process may go on with.
    pub(super) fn free(&self, rows: Vec<JobRow>, watch: &Mutex<Watch>) -> Vec<JobRow> {
        if !self.jobs.are_shared() {
            return rows;
        }
        let mut watch = watch.lock().unwrap_or_else(PoisonError::into_inner);
        watch.free(self.jobs.own(), rows, Instant::now())
    }

    /// Holds a job that another replica was working on, or nobody. `None` where somebody else was faster.
    pub(super) async fn take_up(&self, mut row: JobRow) -> Result<Option<JobRow>, JobsError> {
        let own = self.jobs.own();
        if !self.jobs.are_shared() || row.holder == own {
            return Ok(Some(row));
        }
        let notes = match (row.holder.as_str(), row.status == Status::Running.name()) {
            (_, false) => Notes::default(),
            ("", true) => Notes::event(Event::info("The job goes on in another process.")),
            (holder, true) => {
                tracing::warn!(job = row.id, holder, "a job is taken up whose process says nothing any more");
                Notes::event(Event::warn(
                    "The process that worked on the job has ended; another one goes on from what was saved.",
                ))
            }
        };
        own.clone_into(&mut row.holder);
        let taken = record::write(&self.jobs.inner.database, &mut row, notes).await?;
        self.jobs.changed();
        Ok(taken.then_some(row))
    }
}

async fn digest(path: &Path) -> Result<String, StoreError> {
    use tokio::io::AsyncReadExt;
    let reading = || StoreError::io("read", path);
    let mut file = tokio::fs::File::open(path).await.map_err(reading())?;
    let (mut digest, mut buffer) = (Sha256::new(), vec![0u8; 1 << 20]);
    loop {
        let read = file.read(&mut buffer).await.map_err(reading())?;
        let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else { break };
        digest.update(piece);
    }
    Ok(crate::ids::hex(&digest.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(by: &str, beat: i64, version: i64) -> JobRow {
        JobRow { id: "ftjob-1".to_owned(), holder: by.to_owned(), beat, version, ..JobRow::default() }
    }

    /// Whether each look, so many seconds after the first, finds the job free.
    fn looks(looks: &[(u64, JobRow)]) -> Vec<bool> {
        let (mut watch, first) = (Watch::default(), Instant::now());
        let free =
            |(after, row): &(u64, JobRow)| !watch.free("me", vec![row.clone()], first + Duration::from_secs(*after)).is_empty();
        looks.iter().map(free).collect()
    }

    #[test]
    fn a_job_is_free_when_its_holder_has_been_silent_for_long_enough() {
        let silent: Vec<_> = (0..=5).map(|look| (2 * look, held("other", 7, 3))).collect();
        assert_eq!(looks(&silent), [false, false, false, false, false, true]);
        assert_eq!(looks(&[(0, held("", 7, 3))]), [true], "nobody holds it");
        assert_eq!(looks(&[(0, held("me", 7, 3))]), [true], "it is this process's own");
    }

    #[test]
    fn signs_of_life_and_progress_keep_a_job_with_its_holder() {
        let beats: Vec<_> = (0..=9).map(|look| (2 * look, held("other", i64::try_from(look / 2).unwrap_or(0), 3))).collect();
        assert!(looks(&beats).iter().all(|free| !free));
        let steps: Vec<_> = (0..=9).map(|look| (2 * look, held("other", 7, i64::try_from(look / 2).unwrap_or(0)))).collect();
        assert!(looks(&steps).iter().all(|free| !free));
    }

    #[test]
    fn nobody_is_dead_for_what_was_not_said_while_nobody_could_look() {
        let row = || held("other", 7, 3);
        let outage = [(0, row()), (2, row()), (60, row()), (62, row()), (64, held("other", 8, 3)), (66, held("other", 8, 3))];
        assert!(looks(&outage).iter().all(|free| !free));
    }
}
