//! What brings about what the state machine decides. It has no memory: at every look, by the clock or because somebody called, it
//! compares what is written with what is there, and does what is missing. Doing it twice, here or in another process, does nothing.

use std::time::Duration;

use super::state::{Act, Move, Presence, Rollout, Seen, SeenDeployment, Stage, Standing};
use super::{Rollouts, record, spec};
use crate::experiments::{Action, ExperimentError, Wish, verdict};
use crate::registry::{Owner, RegistryError};
use crate::store::{deployments, rollouts as rows, shadows};
use crate::tenants::admin::{AdminError, Begun, Change, Expected, Intent};
use crate::tenants::unix_now;

/// How often all rollouts are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Most moves of one rollout at one look: more than a plan has steps, all of them without bake time.
const MOST_MOVES: usize = 64;

/// Whether to look again.
enum Look {
    Again,
    Done,
}

impl Rollouts {
    /// Brings rollouts about until it is dropped.
    pub async fn run(self) {
        let mut again = tokio::time::interval(LOOK_EVERY);
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = again.tick() => {}
                () = self.0.wake.notified() => {}
            }
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "rollouts are not looked at");
            }
        }
    }

    /// Has rollouts looked at now.
    pub fn wake(&self) {
        self.0.wake.notify_one();
    }

    /// One look at everything.
    pub async fn look(&self) -> Result<(), ExperimentError> {
        if let Err(error) = self.look_at_jobs().await {
            tracing::warn!(%error, "jobs that ask for a rollout are not looked at");
        }
        let open = {
            let mut connection = self.database().connection().await?;
            rows::open(&mut connection).await?
        };
        for row in open {
            let id = row.id.clone();
            // The others are none the worse for it.
            if let Err(error) = self.go_on(&id).await {
                tracing::warn!(%error, rollout = id, "a rollout cannot go on at the moment");
            }
        }
        Ok(())
    }

    /// Goes on with a rollout until it has to wait.
    async fn go_on(&self, id: &str) -> Result<(), ExperimentError> {
        for _ in 0..MOST_MOVES {
            let rollout = self.get(id).await?;
            if matches!(self.go_one_on(&rollout).await?, Look::Done) {
                break;
            }
        }
        Ok(())
    }

    async fn go_one_on(&self, rollout: &Rollout) -> Result<Look, ExperimentError> {
        let now = unix_now();
        let seen = self.see(rollout).await?;
        match rollout.decide(&seen, now) {
            Act::Move(then) => {
                tracing::info!(rollout = rollout.id, state = then.after.state(), reason = then.after.reason, "rollout");
                self.write(rollout, *then).await?;
                Ok(Look::Again)
            }
            Act::Apply => self.apply(rollout, &seen, now).await,
            Act::Wait(_) | Act::Rest => Ok(Look::Done),
        }
    }

    async fn apply(&self, rollout: &Rollout, seen: &Seen, now: i64) -> Result<Look, ExperimentError> {
        let error = match self.change_deployment(rollout).await {
            Ok(revision) => {
                let after = rollout.is_applied(revision, seen.samples, now);
                self.write(rollout, Move { after, event: None }).await?;
                return Ok(Look::Again);
            }
            Err(error) => error,
        };
        match &error {
            // Somebody was faster: what that means is decided with what is there now.
            ExperimentError::NotFound { .. }
            | ExperimentError::Admin(AdminError::Outdated { .. } | AdminError::Changed | AdminError::NotFound { .. }) => {
                self.0.deployments.refresh().await?;
                Ok(Look::Again)
            }
            // Where processes share a database, each has its own files.
            error if is_final(error) && rollout.node != self.tenants().node() => {
                tracing::debug!(%error, rollout = rollout.id, "left to the process that has the candidate");
                Ok(Look::Done)
            }
            error if is_final(error) => {
                tracing::error!(%error, rollout = rollout.id, "a rollout cannot change its deployment");
                self.write(rollout, rollout.is_refused(&error.to_string(), now)).await?;
                Ok(Look::Again)
            }
            _ => Err(error),
        }
    }

    /// Brings the deployment to what is wanted; its revision then.
    async fn change_deployment(&self, rollout: &Rollout) -> Result<i64, ExperimentError> {
        let owner = Owner::from(rollout.tenant.as_deref());
        let name = &rollout.deployment;
        let base = self.0.deployments.history(&owner, name, rollout.base_revision.saturating_add(1), 1).await?;
        let gone = || ExperimentError::NoRevision { name: name.clone(), revision: rollout.base_revision };
        let base = base.first().filter(|revision| revision.number == rollout.base_revision).ok_or_else(gone)?;
        let action = match spec::wanted(&base.spec, rollout) {
            Some(spec) => Action::Pinned(Box::new(spec)),
            None => Action::Rollback { to: Some(rollout.base_revision) },
        };
        let intent = Intent { expected: Expected::Versions(vec![rollout.revision]), ..self.intent(rollout) };
        // What is in memory may be older than what another process has written.
        self.0.deployments.refresh().await?;
        let wish = Wish { owner, name: name.clone(), action, reason: Some(rollout.why()), intent };
        Ok(self.0.deployments.change(wish).await?.deployment.current.number)
    }

    fn intent(&self, rollout: &Rollout) -> Intent {
        Intent { actor: rollout.actor(), ..Intent::default() }
    }

    /// Writes a move down; nothing happens where somebody else was faster.
    async fn write(&self, before: &Rollout, then: Move) -> Result<(), ExperimentError> {
        let Begun::Fresh(mut change) = Change::begin(self.tenants(), self.intent(before)).await? else { return Ok(()) };
        if record::write(&mut change, before, then).await?.is_some() {
            change.commit_elsewhere(&super::NO_ANSWER).await?;
        }
        Ok(())
    }

    /// What there is to be seen of a rollout's world, by the database: what is in memory may be older.
    pub(super) async fn see(&self, rollout: &Rollout) -> Result<Seen, ExperimentError> {
        let mut connection = self.database().connection().await?;
        let owner = rollout.tenant.as_deref().unwrap_or_default();
        let row = deployments::find(&mut connection, owner, &rollout.deployment).await?.filter(|row| !row.deleted);
        let newest = match &row {
            Some(row) => deployments::revisions(&mut connection, &row.id, i64::MAX, 1).await?.into_iter().next(),
            None => None,
        };
        let (pairs, failed_pairs) = match (rollout.stage, rollout.applied) {
            (Stage::Shadow, true) => {
                let place = (owner, rollout.deployment.as_str());
                let totals = shadows::totals(&mut connection, place, &rollout.candidate.model.model, rollout.since).await?;
                let count = |number: i64| u64::try_from(number).unwrap_or(0);
                (count(totals.0), count(totals.1))
            }
            _ => (0, 0),
        };
        // The verdict takes a connection of its own.
        drop(connection);
        let (standing, samples) = match (rollout.stage, &newest) {
            (Stage::Step(_), Some(newest)) => self.judge(rollout, &newest.experiment).await?,
            _ => (Standing::Unclear("nothing is compared yet".to_owned()), 0),
        };
        Ok(Seen {
            deployment: newest.map(|revision| SeenDeployment {
                revision: revision.revision,
                actor: revision.actor,
                reason: revision.reason.unwrap_or_default(),
            }),
            candidate: self.presence(rollout),
            standing,
            samples,
            pairs,
            failed_pairs,
        })
    }

    async fn judge(&self, rollout: &Rollout, experiment: &str) -> Result<(Standing, u64), ExperimentError> {
        let verdict = self.0.judge.verdict(&rollout.experiment, experiment, &rollout.candidate.arm).await?;
        let Some(verdict) = verdict else {
            return Ok((Standing::Unclear("no answers of the candidate were counted yet".to_owned()), 0));
        };
        let standing = match verdict.standing {
            numbers if numbers.must_go_back() => Standing::Breached(verdict.why),
            numbers if numbers.may_go_on() => Standing::Good,
            verdict::Standing::Undecided { .. } => Standing::Undecided(verdict.why),
            _ => Standing::Unclear(verdict.why),
        };
        Ok((standing, verdict.answers))
    }

    /// Only the process that has the files can say that they are gone.
    fn presence(&self, rollout: &Rollout) -> Presence {
        let version = rollout.candidate.model.version.as_ref();
        match version.filter(|_| rollout.node == self.tenants().node()) {
            Some(version) if !self.0.catalog.has(version) => Presence::Gone("it was removed".to_owned()),
            _ => Presence::There,
        }
    }
}

/// Whether trying again would not help.
fn is_final(error: &ExperimentError) -> bool {
    matches!(
        error,
        ExperimentError::Invalid { .. }
            | ExperimentError::Model { source: RegistryError::NotFound { .. } | RegistryError::NotReleased { .. }, .. }
            | ExperimentError::VersionGone { .. }
            | ExperimentError::NoRevision { .. }
            | ExperimentError::NothingBefore { .. }
            | ExperimentError::Damaged { .. }
    )
}
