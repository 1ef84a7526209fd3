//! Takes outcomes without making anybody wait, adds them up, and writes the sums every second: a process that is killed loses what
//! the last second said. Feedback is written at once. Decides nothing.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::ExperimentError;
use super::metrics_of_text::{is_refusal, is_repetitive, is_valid_json};
use super::outcome::{Assigned, By, Ended, Outcome};
use super::ratio::Split;
use super::settings::Metric;
use super::sums::Sums;
use crate::store::Database;
use crate::store::experiments::{self as rows, FeedbackRow, SplitRow, SumRow};
use crate::tenants;

/// How often sums are written.
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// Outcomes that may wait with their texts; what comes beyond is counted without.
const TEXTS: usize = 4_096;
/// Outcomes that may wait at all; what comes beyond is lost.
const WAITING: usize = 200_000;
/// Answers that feedback finds without asking the database, and for how long.
const RECENT: u64 = 200_000;
const RECENT_FOR: Duration = Duration::from_secs(6 * 3_600);
/// Units of an experiment whose arms are checked by one process; then the check is done.
const UNITS: usize = 100_000;
/// Experiments without traffic leave memory after so many writes: an hour.
const IDLE: u64 = 3_600;
/// Feedback on answers of no deployment is taken for so long, microseconds: an hour.
const PLAIN_FOR: i64 = 3_600 * 1_000_000;

/// Takes outcomes and feedback. Cheap to clone; one that was made by `default` forgets everything.
#[derive(Clone, Default)]
pub struct Recorder(Option<Arc<Inner>>);

struct Inner {
    database: Database,
    node: String,
    /// When this process began, microseconds since 1970.
    start: i64,
    waiting: Mutex<Waiting>,
    /// Where recent answers belong, by tenant and request id.
    recent: moka::sync::Cache<(Arc<str>, Arc<str>), Arc<Assigned>>,
    tallies: Arc<tokio::sync::Mutex<Tallies>>,
}

#[derive(Default)]
struct Waiting {
    outcomes: VecDeque<Outcome>,
    lost: u64,
}

/// One thing that somebody says of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Opinion {
    /// [`Metric::Thumbs`], [`Metric::Score`], [`Metric::Corrections`] or [`Metric::Feedback`].
    pub metric: Metric,
    /// How good: 0 or 1 of thumbs, 0 to 1 of scores, 1 of corrections, anything else of what has a name.
    pub value: f64,
    /// What would have been right.
    pub text: Option<String>,
}

/// Who says something of which answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saying<'a> {
    /// The tenant; only its own answers are found.
    pub tenant: &'a str,
    /// Its key.
    pub key_id: &'a str,
    /// The answer's `x-request-id`.
    pub request_id: &'a str,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Recorder").field(&self.0.is_some()).finish()
    }
}

impl Recorder {
    /// Nothing is written until [`Recorder::keep_up`] or [`Recorder::flush`].
    pub fn new(database: Database, node: &str) -> Self {
        Self(Some(Arc::new(Inner {
            database,
            node: node.to_owned(),
            start: micros(tenants::now()),
            waiting: Mutex::default(),
            recent: moka::sync::Cache::builder().max_capacity(RECENT).time_to_live(RECENT_FOR).build(),
            tallies: Arc::default(),
        })))
    }

    /// Notes what came of a request. Never blocks.
    pub fn note(&self, mut outcome: Outcome) {
        let Some(inner) = &self.0 else { return };
        let answer = (Arc::clone(&outcome.tenant), Arc::clone(&outcome.request_id));
        inner.recent.insert(answer, Arc::clone(&outcome.assigned));
        if outcome.assigned.by == By::Name {
            return;
        }
        let mut waiting = inner.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match waiting.outcomes.len() {
            WAITING.. => waiting.lost += 1,
            len => {
                if len >= TEXTS {
                    outcome.text = outcome.text.map(|_| String::new());
                }
                waiting.outcomes.push_back(outcome);
            }
        }
    }

    /// Adds up and writes until it is dropped.
    pub async fn keep_up(self) {
        let mut ticks = tokio::time::interval(WRITE_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = self.flush().await {
                tracing::warn!(%error, "what experiments have measured waits for the database");
            }
        }
    }

    /// Writes everything that was noted before.
    pub async fn flush(&self) -> Result<(), ExperimentError> {
        let Some(inner) = &self.0 else { return Ok(()) };
        let mut tallies = Arc::clone(&inner.tallies).lock_owned().await;
        let Waiting { outcomes, lost } = std::mem::take(&mut *inner.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        if lost > 0 {
            tracing::warn!(lost, "outcomes came faster than they can be added up");
        }
        if !outcomes.is_empty() {
            // Texts are read here, not while somebody waits for an answer.
            let added = tokio::task::spawn_blocking(move || {
                outcomes.iter().for_each(|outcome| tallies.add(outcome));
                tallies
            });
            tallies = added.await.map_err(|_| ExperimentError::Interrupted)?;
        }
        tallies.write(&inner.database, &inner.node, inner.start).await
    }

    /// Keeps what somebody says of an answer, in place of what was said of it before under the same names; false where the tenant
    /// has no such answer. Every time the same is said, the same is kept.
    pub async fn feedback(&self, saying: Saying<'_>, opinions: Vec<Opinion>) -> Result<bool, ExperimentError> {
        let Some(inner) = &self.0 else { return Ok(false) };
        let Some(place) = inner.place(saying).await? else { return Ok(false) };
        let mut transaction = inner.database.begin().await?;
        for Opinion { metric, value, text } in opinions {
            let row = FeedbackRow {
                project_id: saying.tenant.to_owned(),
                request_id: saying.request_id.to_owned(),
                metric: metric.to_string(),
                value,
                text,
                key_id: saying.key_id.to_owned(),
                experiment: place.as_ref().map(|place| place.experiment.to_string()),
                revision: place.as_ref().map(|place| place.revision),
                arm: place.as_ref().map(|place| place.arm.to_string()),
                at: tenants::unix_now(),
            };
            rows::put_feedback(&mut transaction, &row).await?;
        }
        transaction.commit().await?;
        Ok(true)
    }
}

/// Where an answer belongs.
struct Place {
    experiment: Arc<str>,
    revision: i64,
    arm: Arc<str>,
}

impl Inner {
    /// Where an answer belongs: `None` where there is none, `Some(None)` where it belongs to no experiment.
    async fn place(&self, saying: Saying<'_>) -> Result<Option<Option<Place>>, ExperimentError> {
        let Saying { tenant, request_id, .. } = saying;
        if let Some(assigned) = self.recent.get(&(Arc::from(tenant), Arc::from(request_id))) {
            let Assigned { experiment, revision, arm, by, .. } = &*assigned;
            let place = Place { experiment: Arc::clone(experiment), revision: *revision, arm: Arc::clone(arm) };
            return Ok(Some((*by != By::Name).then_some(place)));
        }
        let mut connection = self.database.connection().await?;
        let since = micros(tenants::now()) - PLAIN_FOR;
        let Some(answer) = rows::answer(&mut connection, tenant, request_id, since).await? else { return Ok(None) };
        let Some(arm) = answer.arm else { return Ok(Some(None)) };
        for owner in [tenant, ""] {
            let found = rows::experiment_at(&mut connection, owner, &answer.model, answer.at_micros).await?;
            if let Some((experiment, revision)) = found {
                return Ok(Some(Some(Place { experiment: experiment.into(), revision, arm: arm.into() })));
            }
        }
        Ok(Some(None))
    }
}

fn micros(now: Duration) -> i64 {
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
}

/// What this process has counted.
#[derive(Default)]
struct Tallies {
    experiments: HashMap<Arc<str>, Tally>,
    /// Counts writes.
    clock: u64,
}

/// What it has counted of one experiment.
#[derive(Default)]
struct Tally {
    /// What is in the database, and what is to be added to it; `None` as long as the first is not known.
    sums: HashMap<(i64, Arc<str>, Metric), (Sums, Sums)>,
    is_loaded: bool,
    split: Split,
    units: HashSet<u64>,
    split_changed: bool,
    used_at: u64,
}

impl Tallies {
    fn add(&mut self, outcome: &Outcome) {
        let assigned = &outcome.assigned;
        let tally = self.experiments.entry(Arc::clone(&assigned.experiment)).or_default();
        tally.used_at = self.clock;
        for (metric, value) in values(outcome) {
            let scale = metric.scale();
            let (_, new) = tally.sums.entry((assigned.revision, Arc::clone(&assigned.arm), metric)).or_default();
            new.add(scale, value);
        }
        // A unit that comes again says nothing about the split.
        if assigned.by == By::Weight && tally.units.len() < UNITS && tally.units.insert(assigned.unit) {
            tally.split.add(&assigned.shares, &assigned.arm);
            tally.split_changed = true;
        }
    }

    async fn write(&mut self, database: &Database, node: &str, start: i64) -> Result<(), ExperimentError> {
        self.clock += 1;
        let clock = self.clock;
        self.experiments.retain(|_, tally| tally.used_at + IDLE > clock || tally.is_dirty());
        let dirty: Vec<_> = self.experiments.iter_mut().filter(|(_, tally)| tally.is_dirty()).collect();
        if dirty.is_empty() {
            return Ok(());
        }
        let mut connection = database.connection().await?;
        let mut written = Vec::new();
        for (experiment, tally) in dirty {
            if !tally.is_loaded {
                tally.load(rows::sums(&mut connection, experiment, Some(node)).await?);
            }
            written.push((experiment, tally));
        }
        drop(connection);
        let mut transaction = database.begin().await?;
        for (experiment, tally) in &written {
            for ((revision, arm, metric), (stored, new)) in tally.sums.iter().filter(|(_, (_, new))| new.n > 0) {
                let mut all = *stored;
                all.merge(new);
                let row = SumRow {
                    experiment: experiment.to_string(),
                    revision: *revision,
                    arm: arm.to_string(),
                    metric: metric.to_string(),
                    node: node.to_owned(),
                    n: i64::try_from(all.n).unwrap_or(i64::MAX),
                    sums: [all.sum, all.squares, all.plain],
                };
                rows::put_sum(&mut transaction, &row).await?;
            }
            if tally.split_changed {
                let state = serde_json::to_string(&tally.split).unwrap_or_default();
                let row = SplitRow { experiment: experiment.to_string(), node: node.to_owned(), start, state };
                rows::put_split(&mut transaction, &row).await?;
            }
        }
        transaction.commit().await?;
        for (_, tally) in written {
            tally.split_changed = false;
            for (stored, new) in tally.sums.values_mut() {
                stored.merge(&std::mem::take(new));
            }
        }
        Ok(())
    }
}

impl Tally {
    fn is_dirty(&self) -> bool {
        self.split_changed || self.sums.values().any(|(_, new)| new.n > 0)
    }

    /// Takes over what an earlier life of this process has written.
    fn load(&mut self, rows: Vec<SumRow>) {
        for row in rows {
            let Ok(metric) = row.metric.parse() else { continue };
            let (stored, _) = self.sums.entry((row.revision, row.arm.as_str().into(), metric)).or_default();
            *stored = sums_of(&row);
        }
        self.is_loaded = true;
    }
}

/// A row as sums.
pub(super) fn sums_of(row: &SumRow) -> Sums {
    let [sum, squares, plain] = row.sums;
    Sums { n: u64::try_from(row.n).unwrap_or(0), sum, squares, plain }
}

/// What an outcome says, by metric.
fn values(outcome: &Outcome) -> Vec<(Metric, f64)> {
    const NANOS: f64 = 1e-9;
    let yes = |value: bool| f64::from(u8::from(value));
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let mut values = vec![(Metric::Errors, yes(outcome.failed))];
    if let Some(success) = outcome.task_success {
        values.push((Metric::TaskSuccess, yes(success)));
    }
    if outcome.failed {
        // How long a failure took, and what somebody else has answered, says nothing about this arm.
        return values;
    }
    values.extend(outcome.first_token.map(|time| (Metric::FirstToken, millis(time))));
    values.extend(outcome.gap.map(|time| (Metric::InterToken, millis(time))));
    // Where there is no text, somebody left before the end: tokens and money are those of a piece.
    let Some(text) = &outcome.text else { return values };
    values.push((Metric::OutputTokens, outcome.output_tokens as f64));
    if outcome.cost_nanos > 0 {
        values.push((Metric::Cost, outcome.cost_nanos as f64 * NANOS));
    }
    if text.is_empty() {
        return values;
    }
    values.extend(is_valid_json(text, outcome.ended).map(|valid| (Metric::InvalidJson, yes(!valid))));
    values.push((Metric::Refusals, yes(is_refusal(text))));
    values.push((Metric::Repetition, yes(is_repetitive(text))));
    if outcome.ended == Ended::Whole {
        values.push((Metric::Length, text.chars().count() as f64));
    }
    values
}
