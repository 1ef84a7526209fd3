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
/// Feedback on answers of no deployment is taken for so long, seconds.
const PLAIN_FOR: i64 = 3_600;

/// Takes outcomes and feedback. Cheap to clone; one that was made by `default` forgets everything.
#[derive(Clone, Default)]
pub struct Recorder(Option<Arc<Inner>>);

struct Inner {
    database: Database,
    node: String,
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
        tallies.write(&inner.database, &inner.node).await
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
        let since = (tenants::unix_now() - PLAIN_FOR) * 1_000_000;
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
    /// When its check of the split began, seconds since 1970: units that were forgotten begin another one.
    start: i64,
    split: Split,
    units: HashSet<u64>,
    split_changed: bool,
    used_at: u64,
}

impl Tallies {
    fn add(&mut self, outcome: &Outcome) {
        let assigned = &outcome.assigned;
        let new = || Tally { start: tenants::unix_now(), ..Tally::default() };
        let tally = self.experiments.entry(Arc::clone(&assigned.experiment)).or_insert_with(new);
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

    async fn write(&mut self, database: &Database, node: &str) -> Result<(), ExperimentError> {
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
                let row = SplitRow { experiment: experiment.to_string(), node: node.to_owned(), start: tally.start, state };
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
    if outcome.failed {
        // How long a failure took, and what somebody else has answered, says nothing about this arm.
        return values;
    }
    values.extend(outcome.task_success.map(|success| (Metric::TaskSuccess, yes(success))));
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::super::results::Results;
    use super::*;
    use crate::registry::Owner;
    use crate::store::{Location, deployments};

    fn outcome(unit: u64, failed: bool) -> Outcome {
        let arm = if unit.is_multiple_of(2) { "stable" } else { "canary" };
        let assigned = Assigned {
            deployment: "support".into(),
            owner: Owner::Shared,
            experiment: "exp_1".into(),
            revision: 1,
            arm: arm.into(),
            unit,
            shares: [("stable".into(), 0.5), ("canary".into(), 0.5)].into(),
            by: By::Weight,
        };
        Outcome {
            assigned: Arc::new(assigned),
            request_id: format!("req_{unit}").into(),
            tenant: "acme".into(),
            endpoint: "chat.completions",
            failed,
            first_token: Some(Duration::from_millis(20)),
            gap: None,
            output_tokens: 5,
            cost_nanos: 2_000,
            text: Some("{\"a\": 1".to_owned()),
            ended: Ended::Whole,
            task_success: None,
        }
    }

    async fn total(results: &Results, metric: &Metric) -> Vec<Sums> {
        let arms = ["stable".to_owned(), "canary".to_owned()];
        let measured = results.measured("exp_1", &arms).await.unwrap();
        measured.evidence.arms.iter().map(|arm| arm.total(metric)).collect()
    }

    #[tokio::test]
    async fn sums_go_on_after_a_restart_and_add_up_over_processes() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(&Location::File(dir.path().join("switchyard.db"))).await.unwrap();
        for (life, node) in ["a", "a", "b"].into_iter().enumerate() {
            let recorder = Recorder::new(database.clone(), node);
            for round in 0..2 {
                (0..10).for_each(|unit| recorder.note(outcome(unit, unit == 1)));
                recorder.flush().await.unwrap();
                recorder.flush().await.unwrap();
                let results = Results::new(database.clone(), recorder.clone());
                let expected = 5 * (2 * life as u64 + round + 1);
                let errors = total(&results, &Metric::Errors).await;
                assert_eq!(errors.iter().map(|sums| sums.n).collect::<Vec<_>>(), [expected, expected]);
                assert!((errors[1].sum - expected as f64 / 5.0).abs() < 1e-9);
                assert_eq!(total(&results, &Metric::FirstToken).await[1].n, expected * 4 / 5, "failures have no latency");
                assert_eq!(total(&results, &Metric::InvalidJson).await[0].mean(), Some(1.0));
            }
        }
        let arms = ["stable".to_owned(), "canary".to_owned()];
        let results = Results::new(database.clone(), Recorder::default());
        let units = results.measured("exp_1", &arms).await.unwrap().units;
        // Two starts of the same second share a row; a unit counts once in each.
        assert!(units.iter().all(|count| count.observed >= 10.0 && count.observed <= 15.0), "{units:?}");
        let verdicts = results.judge("exp_1", &crate::experiments::settings::Settings::usual("stable"), &arms).await.unwrap();
        assert_eq!(verdicts[0].standing, crate::experiments::verdict::Standing::Waiting { needed: 70 });
    }

    #[tokio::test]
    async fn feedback_finds_an_answer_after_memory_has_lost_it() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(&Location::File(dir.path().join("switchyard.db"))).await.unwrap();
        let mut transaction = database.begin().await.unwrap();
        let deployment = deployments::DeploymentRow {
            id: "dep_1".into(),
            owner: String::new(),
            name: "support".into(),
            revision: 2,
            epoch: 0,
            salt: "s".into(),
            deleted: false,
            counter: 1,
            created_at: 1,
        };
        deployments::insert(&mut transaction, &deployment).await.unwrap();
        for (revision, experiment) in [(1, "exp_1"), (2, "exp_2")] {
            let row = deployments::RevisionRow {
                revision,
                action: "changed".into(),
                restores: None,
                spec: "{}".into(),
                experiment: experiment.into(),
                actor: "me".into(),
                reason: None,
                at_micros: 100 * revision,
            };
            deployments::add_revision(&mut transaction, "dep_1", &row).await.unwrap();
        }
        transaction.commit().await.unwrap();
        let row = |id: &str, at_micros| crate::store::ledger::LedgerRow {
            id: id.into(),
            request_id: id.into(),
            at_micros,
            project_id: "acme".into(),
            model: "support".into(),
            arm: Some("canary".into()),
            ..Default::default()
        };
        crate::store::ledger::append(&database, &[row("r1", 150), row("r2", 250)]).await.unwrap();
        let recorder = Recorder::new(database.clone(), "a");
        let score = |value| vec![Opinion { metric: Metric::Score, value, text: None }];
        let saying = |tenant, request_id| Saying { tenant, key_id: "k", request_id };
        assert!(recorder.feedback(saying("acme", "r1"), score(0.2)).await.unwrap());
        assert!(recorder.feedback(saying("acme", "r1"), score(0.4)).await.unwrap());
        assert!(recorder.feedback(saying("acme", "r2"), score(1.0)).await.unwrap());
        assert!(!recorder.feedback(saying("other", "r2"), score(1.0)).await.unwrap());
        let results = Results::new(database.clone(), recorder);
        for (experiment, mean) in [("exp_1", 0.4), ("exp_2", 1.0)] {
            let measured = results.measured(experiment, &[]).await.unwrap();
            let sums = measured.evidence.arms[0].total(&Metric::Score);
            assert_eq!((sums.n, sums.mean()), (1, Some(mean)));
        }
        let mut connection = database.connection().await.unwrap();
        let kept = rows::feedback_of(&mut connection, "acme", "r1").await.unwrap();
        assert_eq!((kept.len(), kept[0].arm.as_deref(), kept[0].value), (1, Some("canary"), 0.4));
    }
}
