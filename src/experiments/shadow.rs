//! Shadow answers: what a silent model would have said, kept for reading side by side, within a budget of tokens a day. Nobody is
//! billed for them. Knows nothing of how answers are generated.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::ExperimentError;
use crate::registry::Owner;
use crate::store::{Database, shadows as rows};
use crate::tenants::admin::{Page, Paging};
use crate::tenants::unix_now;

pub use crate::store::shadows::ShadowRow;

/// How long answers wait for others before they are written: each time the disk is waited for, those who are served feel it.
const GATHER: Duration = Duration::from_secs(5);
/// With so many they wait no longer.
const MOST_WAITING: usize = 256;
/// How often what is old is forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(600);
/// How often it is asked what other processes have spent, seconds.
const ASK_EVERY: i64 = 60;
/// Seconds of a day.
const DAY: i64 = 86_400;

/// Where shadow answers go. Cheap to clone.
#[derive(Clone)]
pub struct Shadows(Arc<Inner>);

struct Inner {
    database: Database,
    /// How long answers are kept, seconds.
    retention: i64,
    spent: Mutex<HashMap<Place, Spent>>,
    /// Answers that are written together.
    waiting: Mutex<Vec<ShadowRow>>,
}

/// Whose budget it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// Owner of the deployment.
    pub owner: Owner,
    /// Its name.
    pub deployment: Arc<str>,
    /// The silent model.
    pub model: String,
}

#[derive(Debug, Clone, Copy, Default)]
struct Spent {
    /// Days since 1970, UTC.
    day: i64,
    tokens: u64,
    /// When the database was asked, seconds since 1970.
    asked_at: i64,
}

impl Shadows {
    /// Keeps answers in this database for so long.
    pub fn new(database: Database, retention: Duration) -> Self {
        let retention = i64::try_from(retention.as_secs()).unwrap_or(i64::MAX);
        Self(Arc::new(Inner { database, retention, spent: Mutex::default(), waiting: Mutex::default() }))
    }

    /// Whether so many more tokens may be spent today.
    pub async fn may_spend(&self, place: &Place, tokens: u64, most: Option<u64>) -> Result<bool, ExperimentError> {
        let Some(most) = most else { return Ok(true) };
        let (now, day) = (unix_now(), unix_now().div_euclid(DAY));
        let known = self.spent().get(place).copied();
        let known = known.filter(|spent| spent.day == day && now < spent.asked_at.saturating_add(ASK_EVERY));
        let spent = match known {
            Some(spent) => spent.tokens,
            None => {
                let mut connection = self.0.database.connection().await?;
                let owner = place.owner.tenant().unwrap_or_default();
                let totals = rows::totals(&mut connection, (owner, &place.deployment), &place.model, day * DAY).await?;
                let tokens = u64::try_from(totals.2).unwrap_or(0);
                let mut spent = self.spent();
                // Places whose day is over are asked about again when they come.
                spent.retain(|_, spent| spent.day == day);
                spent.insert(place.clone(), Spent { day, tokens, asked_at: now });
                tokens
            }
        };
        Ok(spent.saturating_add(tokens) <= most)
    }

    /// Keeps an answer, written together with others that come within seconds. A kill loses those.
    pub fn keep(&self, place: &Place, row: ShadowRow) {
        let tokens = u64::try_from(row.prompt_tokens.saturating_add(row.shadow_tokens)).unwrap_or(0);
        if let Some(spent) = self.spent().get_mut(place) {
            spent.tokens = spent.tokens.saturating_add(tokens);
        }
        let patience = {
            let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.push(row);
            match waiting.len() {
                1 => Some(GATHER),
                MOST_WAITING => Some(Duration::ZERO),
                _ => None,
            }
        };
        if let Some(patience) = patience {
            let shadows = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(patience).await;
                if let Err(error) = shadows.flush().await {
                    tracing::warn!(%error, "shadow answers are not kept");
                }
            });
        }
    }

    /// Writes what waits to be written.
    pub async fn flush(&self) -> Result<(), ExperimentError> {
        let waiting = std::mem::take(&mut *self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        if waiting.is_empty() {
            return Ok(());
        }
        let mut transaction = self.0.database.begin().await?;
        for row in &waiting {
            rows::insert(&mut transaction, row).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Answers of a deployment in pages, of one silent model where it is given; those of this process up to this moment.
    pub async fn list(
        &self,
        owner: &Owner,
        deployment: &str,
        model: Option<&str>,
        paging: &Paging,
    ) -> Result<Page<ShadowRow>, ExperimentError> {
        self.flush().await?;
        let mut connection = self.0.database.connection().await?;
        Ok(rows::list(&mut connection, (owner.tenant().unwrap_or_default(), deployment), model, paging).await?)
    }

    /// Forgets what is old, until it is dropped.
    pub async fn keep_up(self) {
        let mut again = tokio::time::interval(FORGET_EVERY);
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            again.tick().await;
            if let Err(error) = self.forget(unix_now()).await {
                tracing::warn!(%error, "old shadow answers are not forgotten");
            }
        }
    }

    /// Forgets what is too old at `now`; returns how many.
    pub async fn forget(&self, now: i64) -> Result<u64, ExperimentError> {
        let mut transaction = self.0.database.begin().await?;
        let forgotten = rows::forget(&mut transaction, now.saturating_sub(self.0.retention)).await?;
        transaction.commit().await?;
        Ok(forgotten)
    }

    fn spent(&self) -> std::sync::MutexGuard<'_, HashMap<Place, Spent>> {
        self.0.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Shadows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shadows").finish_non_exhaustive()
    }
}
