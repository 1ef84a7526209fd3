//! What a run is made with, beside its rows: the program, the kernels, the base, the settings. With the same of all of them, and the
//! same rows, it ends with the same bits.

use serde::{Deserialize, Serialize};

use super::settings::Settings;
use crate::model::train::{Compute, TrainingBase, kernels};

/// What a run is made with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Made {
    /// This program.
    pub program: Program,
    /// The processor's family and the kernels that it is given; sums go in another order with others.
    pub kernels: String,
    /// Type of the products with the base.
    pub compute: Compute,
    /// Compute threads; sums do not depend on them.
    pub threads: usize,
    /// The base.
    pub base: BaseFacts,
    /// Digest of the adapter that it went on from; `None` began with a fresh one.
    pub from: Option<String>,
    /// All settings as they were used.
    pub settings: Settings,
    /// What was changed of them to fit into memory, in words.
    pub changes: Vec<String>,
    /// Steps in all.
    pub steps: u64,
}

/// A build of this program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its version.
    pub version: String,
    /// Its commit, where the build was told.
    pub commit: Option<String>,
}

/// A base.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BaseFacts {
    /// Its public name.
    pub name: String,
    /// Digest of its weights as they are stored.
    pub digest: String,
    /// How most of them are kept in memory, where that is quantized.
    pub quantization: Option<String>,
}

impl Program {
    /// This one.
    pub fn this() -> Self {
        // `GIT_COMMIT` is what builders set; without it only the version is known.
        let commit = option_env!("GIT_COMMIT").filter(|commit| !commit.is_empty()).map(str::to_owned);
        Self { version: env!("CARGO_PKG_VERSION").to_owned(), commit }
    }
}

impl Made {
    /// On this machine, over a base whose name and digest are its owner's to say.
    pub(super) fn here(base: &TrainingBase, settings: &Settings, changes: &[String], threads: usize, steps: u64) -> Self {
        Self {
            program: Program::this(),
            kernels: kernels(),
            compute: settings.compute_for(base.is_quantized()),
            threads,
            base: BaseFacts { quantization: base.quantization(), ..BaseFacts::default() },
            from: None,
            settings: settings.clone(),
            changes: changes.to_vec(),
            steps,
        }
    }

    /// The same with the base's name and digest.
    pub fn of(mut self, name: &str, digest: &str) -> Self {
        name.clone_into(&mut self.base.name);
        digest.clone_into(&mut self.base.digest);
        self
    }
}
