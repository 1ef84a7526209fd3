//! The first half of a rollback: what is to be in force is in memory before the database hears of it, so that it takes effect in
//! microseconds, however busy the database is.

use std::sync::Arc;
use std::time::Duration;

use super::deployment::{self, Made, Revision};
use super::live::{self, Deployment, Deployments, REMEMBERED};
use super::{ExperimentError, Wish};
use crate::store::deployments as rows;

/// More revisions than this are not looked through for one to go back to.
const MOST_REVISIONS: i64 = 10_000;

/// Longest wait for what other processes have changed, before it takes effect.
const MOST_WAIT: Duration = Duration::from_millis(5);

/// A rollback that holds in this process. Dropped, what the database says holds again.
pub(super) struct Ahead {
    deployments: Deployments,
    deployment: Arc<Deployment>,
    /// The revision that was in force, as far as this process knew.
    pub(super) instead_of: i64,
    /// The revision whose spec it brings back.
    pub(super) target: Arc<Revision>,
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.deployments.clear_ahead(&self.deployment);
    }
}

/// Goes back in memory: to a revision, or to what was there before.
pub(super) async fn begin(deployments: &Deployments, wish: &Wish, to: Option<i64>) -> Result<Ahead, ExperimentError> {
    let not_found = || ExperimentError::NotFound { name: wish.name.clone() };
    if deployments.0.tenants.database().is_shared() {
        // What another process did a moment ago counts; but nobody waits long for it.
        let _ = tokio::time::timeout(MOST_WAIT, deployments.refresh()).await;
    }
    let now = deployments.durable(&wish.owner, &wish.name).ok_or_else(not_found)?;
    wish.intent.expected.check(now.current.number)?;
    let target = match find(&now.history, to) {
        Some(target) => target,
        None => {
            let oldest = now.history.last().map_or(1, |revision| revision.number);
            let complete = oldest == 1 || now.history.len() < usize::try_from(REMEMBERED).unwrap_or(usize::MAX);
            let older = if complete { None } else { find(&read(deployments, &now).await?, to) };
            let name = wish.name.clone();
            older.ok_or(match to {
                Some(revision) => ExperimentError::NoRevision { name, revision },
                None => ExperimentError::NothingBefore { name },
            })?
        }
    };
    // An arm that gets nothing, and silence, can be missing.
    if let Some(gone) = target.spec.versions_in_use().find(|version| !deployments.0.catalog.has(version)) {
        let (name, model) = (wish.name.clone(), gone.model.clone());
        return Err(ExperimentError::VersionGone { name, revision: target.number, model });
    }
    let revision = Revision {
        number: now.current.number + 1,
        made: Made::RolledBack,
        restores: Some(target.origin()),
        actor: wish.intent.actor.clone(),
        reason: wish.reason.clone(),
        ..Revision::clone(&target)
    };
    let deployment = Arc::new(now.restored(Arc::new(revision)));
    if !deployments.set_ahead(&deployment) {
        return Err(not_found());
    }
    Ok(Ahead { deployments: deployments.clone(), deployment, instead_of: now.current.number, target })
}

fn find(history: &[Arc<Revision>], to: Option<i64>) -> Option<Arc<Revision>> {
    match to {
        None => deployment::previous(history).cloned(),
        Some(number) => history.iter().find(|revision| revision.number == number && revision.made != Made::Deleted).cloned(),
    }
}

async fn read(deployments: &Deployments, now: &Deployment) -> Result<Vec<Arc<Revision>>, ExperimentError> {
    let mut connection = deployments.0.tenants.database().connection().await?;
    live::revisions(&now.id, rows::revisions(&mut connection, &now.id, i64::MAX, MOST_REVISIONS).await?)
}
