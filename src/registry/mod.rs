//! Durable truth about adapters: names, versions, files. Knows nothing of HTTP, requests or tokens.
//!
//! An adapter is a tenant's or shared; a tenant's name means its own adapter first, then the shared one, and nobody else's.
//! A version is immutable and its id is the digest of its content; versions are numbered per adapter (`support@3`). A name moves
//! from version to version by compare-and-set. What was loaded is copied into the data directory, so that it is there again
//! after a restart even if the source is gone. A [`Lease`] keeps a version in memory; the current version of each name is kept
//! by the [`Catalog`], with the few older ones that were asked for last; where memory is bounded, those of all that were asked for last
//! and fit.

mod arrivals;
mod catalog;
mod error;
mod files;
mod name;
mod owner;
mod pinned;
mod records;
mod residents;
mod roots;
mod shared;
#[cfg(test)]
mod tests;
mod trained;
mod uploads;

use std::path::PathBuf;
use std::sync::Arc;

pub use catalog::{Catalog, Setup, Skipped};
pub use error::RegistryError;
pub use name::check as check_name;
pub use owner::{Owner, Viewer};
pub use pinned::{Pinned, Resident};
pub use records::{InService, Offline, VersionRecord, in_service};
pub use residents::{Counts, Excess, Residency};
pub use shared::Shared;
pub use trained::{Gate, Judged, Promotion, Release};
pub use uploads::{AdapterFile, Upload, Writing};

use crate::ids::VersionId;
use crate::model::lora::PreparedAdapter;

/// What to do when the name is served already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfLoaded {
    /// Refuse (vLLM without `load_inplace`).
    Refuse,
    /// Replace the current version (vLLM's `load_inplace`).
    Replace,
    /// Replace it unless this content is a version of the adapter already: what a flag or a default asks for at every start
    /// must not undo a later swap.
    ReplaceIfNew,
}

/// How a version came to be in service, kept with it: a waiver by name, or what its evaluation said.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "via", rename_all = "snake_case")]
pub enum LoadedBy {
    /// The operator: `--adapter`, the configuration, or `switchyard adapters add`. May read any directory.
    Operator,
    /// A caller of the API; its paths must lie in an adapter root.
    Api {
        /// Name of the key, never the key itself.
        key_id: String,
    },
    /// A training job made it.
    Trained {
        /// The job.
        job: String,
        /// What its evaluation said.
        gate: Gate,
        /// Its overall score, hundredths of 0 to 100.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        score: Option<u32>,
        /// The version in service that it was compared with, on the same rows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        compared: Option<VersionId>,
        /// Why it may be served under a name that others are sent to; `None` under the job's own name, which only its owner knows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        release: Option<Release>,
    },
}

impl LoadedBy {
    /// Whether it is a job's own version: read from disk when it is called, as there are many of them.
    const fn is_on_call(&self) -> bool {
        matches!(self, Self::Trained { release: None, .. })
    }
}

/// Where an adapter's files are.
#[derive(Debug, Clone)]
pub enum Source {
    /// A PEFT directory; relative paths of the API are taken from each adapter root.
    Directory(PathBuf),
    /// They were sent.
    Upload(Arc<Upload>),
}

/// The versions of an adapter that can be named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versions {
    /// Whose the adapter is.
    pub owner: Owner,
    /// Its name.
    pub name: String,
    /// Number of the version that the name alone means.
    pub current: u32,
    /// In the order in which they came.
    pub versions: Vec<VersionRecord>,
}

/// Puts files into service under a name.
#[derive(Debug, Clone)]
pub struct LoadRequest {
    /// Whose it will be.
    pub owner: Owner,
    /// Public name of the adapter.
    pub name: String,
    /// The files.
    pub from: Source,
    /// What to do when the name is served already.
    pub if_loaded: IfLoaded,
    /// Compare-and-set: the version that the name must point at now: a number (`3`), a digest or its first 8 or more digits, or
    /// `0` for a name that is not loaded.
    pub expected_version: Option<String>,
    /// Who asks.
    pub by: LoadedBy,
}

/// What a load did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The adapter.
    pub name: String,
    /// Number of the version that is served now.
    pub number: u32,
    /// Its digest.
    pub id: VersionId,
    /// Number of the version that was served before; the same as `number` when the content was current already.
    pub replaced: Option<u32>,
}

/// The right to use one version; it stays in memory until the last lease on it is dropped.
#[derive(Debug)]
pub struct Lease {
    /// Whose the adapter is.
    pub owner: Owner,
    /// Adapter's name.
    pub name: String,
    /// Number of the version.
    pub number: u32,
    /// Digest of the version.
    pub id: VersionId,
    /// What the engine computes with.
    pub adapter: Arc<PreparedAdapter>,
    #[expect(dead_code, reason = "its strong count is what Catalog::list reports")]
    token: Arc<()>,
}

impl Lease {
    /// `support@3`, as in the `x-adapter-version` header.
    pub fn version(&self) -> String {
        format!("{}@{}", self.name, self.number)
    }
}

/// One served adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterInfo {
    /// Whose it is.
    pub owner: Owner,
    /// Name.
    pub name: String,
    /// Number of the current version.
    pub number: u32,
    /// Digest of the current version.
    pub id: VersionId,
    /// Highest rank.
    pub rank: usize,
    /// Bytes that the current version holds in memory.
    pub bytes: usize,
    /// When the current version was first loaded, seconds since 1970.
    pub loaded_at: u64,
    /// Who loaded it.
    pub loaded_by: LoadedBy,
    /// Leases in flight on the current version.
    pub leases: usize,
    /// Older versions that running requests still hold: number and leases.
    pub draining: Vec<(u32, usize)>,
}
