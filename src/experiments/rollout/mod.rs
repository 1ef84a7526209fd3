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

use tokio::sync::Notify;

pub use desk::{NewRollout, Shown, Which};
pub use state::{Command, Rollout};

use super::{Deployments, Results};
use crate::registry::Catalog;
use crate::store::Database;
use crate::tenants::Tenants;
use crate::tenants::admin::KeptAnswer;

/// Nobody repeats what a rollout does.
const NO_ANSWER: KeptAnswer = KeptAnswer { headers: String::new(), body: String::new() };

/// What rollouts are made of.
pub struct Setup {
    /// What they change.
    pub deployments: Deployments,
    /// What they are judged by.
    pub results: Results,
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
    results: Results,
    catalog: Catalog,
    base: String,
    wake: Notify,
}

impl Rollouts {
    /// Nothing goes on until [`Rollouts::run`].
    pub fn new(setup: Setup) -> Self {
        let Setup { deployments, results, catalog, base } = setup;
        Self(Arc::new(Inner { deployments, results, catalog, base, wake: Notify::new() }))
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
