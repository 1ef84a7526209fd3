//! A candidate's way from nobody to everybody: in silence first, then in steps with bake times, judged by the experiment, taken back
//! by itself. `state` decides, `desk` takes orders, `driver` brings about, `jobs` begins what training jobs have asked for.

mod desk;
mod driver;
pub mod hours;
mod jobs;
pub mod metadata;
pub mod plan;
mod record;
mod spec;
pub mod state;

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::Notify;

pub use desk::{NewRollout, Shown, Which};
pub use state::{Command, Rollout};

use super::settings::Settings;
use super::verdict::ArmVerdict;
use super::{Deployments, ExperimentError};
use crate::registry::Catalog;
use crate::store::Database;
use crate::tenants::Tenants;
use crate::tenants::admin::KeptAnswer;

/// Nobody repeats what a rollout does.
const NO_ANSWER: KeptAnswer = KeptAnswer { headers: String::new(), body: String::new() };

/// Says what the numbers of an experiment say of one of its arms so far; `None`: nothing was counted yet.
pub trait Judge: Send + Sync {
    /// By these settings.
    fn verdict<'a>(
        &'a self,
        settings: &'a Settings,
        experiment: &'a str,
        arm: &'a str,
    ) -> BoxFuture<'a, Result<Option<ArmVerdict>, ExperimentError>>;
}

/// Counts nothing.
#[derive(Debug, Clone, Copy)]
pub struct Nothing;

impl Judge for Nothing {
    fn verdict<'a>(
        &'a self,
        _: &'a Settings,
        _: &'a str,
        _: &'a str,
    ) -> BoxFuture<'a, Result<Option<ArmVerdict>, ExperimentError>> {
        Box::pin(std::future::ready(Ok(None)))
    }
}

/// What rollouts are made of.
pub struct Setup {
    /// What they change.
    pub deployments: Deployments,
    /// What they are judged by.
    pub judge: Arc<dyn Judge>,
    /// Where versions are.
    pub catalog: Catalog,
    /// Public name of the base.
    pub base: String,
}

/// Rollouts. Cheap to clone.
#[derive(Clone)]
pub struct Rollouts(Arc<Inner>);

struct Inner {
    deployments: Deployments,
    judge: Arc<dyn Judge>,
    catalog: Catalog,
    base: String,
    wake: Notify,
}

impl Rollouts {
    /// Nothing goes on until [`Rollouts::run`].
    pub fn new(setup: Setup) -> Self {
        let Setup { deployments, judge, catalog, base } = setup;
        Self(Arc::new(Inner { deployments, judge, catalog, base, wake: Notify::new() }))
    }

    fn tenants(&self) -> &Tenants {
        self.0.deployments.tenants()
    }

    fn database(&self) -> &Database {
        self.tenants().database()
    }
}

impl std::fmt::Debug for Rollouts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rollouts").finish_non_exhaustive()
    }
}
