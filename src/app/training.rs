//! Builds what fine-tunes: files, the desk where jobs are asked for, and, where the base can be trained, what works on them.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;
use sha2::{Digest, Sha256};

use super::{Built, memory};
use crate::backends::Backend;
use crate::config::Config;
use crate::model::loader::RawTensor;
use crate::store::DataDir;
use crate::tenants::{Tenants, unix_now};
use crate::training::gate::Limits;
use crate::training::jobs::desk::{Caps, DeskSetup, Jobs};
use crate::training::jobs::driver::{Cost, Driver, DriverSetup, Rhythm};
use crate::training::jobs::examiner::OwnEngine;
use crate::training::jobs::files::{FileLimits, Files, FilesSetup};
use crate::training::jobs::workshop::{Resident, ResidentWorkshop, Slowly};

/// What fine-tunes.
pub(super) struct Training {
    pub(super) jobs: Jobs,
    /// `None` where the base cannot be trained.
    pub(super) driver: Option<Driver>,
    /// What the driver works with.
    pub(super) workshop: Option<ResidentWorkshop>,
}

/// Opens files and the desk, and takes up jobs of an earlier life.
pub(super) async fn start(config: &Config, data: &Arc<DataDir>, tenants: &Tenants, built: &Built) -> anyhow::Result<Training> {
    let shared = built.objects.is_some();
    let files = Files::open(FilesSetup {
        data: Arc::clone(data),
        database: tenants.database().clone(),
        node: tenants.node().to_owned(),
        objects: built.objects.clone(),
        limits: FileLimits { file: config.max_upload_bytes, tenant: config.max_stored_bytes },
    });
    let files = files.await.context("files of clients")?;
    let resident = resident(config, built);
    let jobs = Jobs::new(DeskSetup {
        files,
        base: built.base_name.clone(),
        caps: Caps { seconds: config.training_max_time.as_secs() },
        untrainable: resident.as_ref().err().copied(),
    });
    let (driver, workshop) = match resident {
        Err(reason) => {
            tracing::info!(reason, "no fine-tuning");
            // Of replicas another one may.
            if !shared {
                jobs.end_unfinished(reason).await.context("training jobs of an earlier base")?;
            }
            (None, None)
        }
        Ok(resident) if !config.training.here => {
            tracing::info!("other replicas work on fine-tuning jobs");
            (None, Some(ResidentWorkshop::new(resident)))
        }
        Ok(resident) => {
            let examiner = OwnEngine {
                backend: built.backend.clone(),
                catalog: built.catalog.clone(),
                tokenizer: resident.tokenizer.clone(),
                end_tokens: resident.end_tokens.as_slice().into(),
                base: built.base_name.clone(),
                limits: Limits::default(),
            };
            let workshop = ResidentWorkshop::new(resident);
            let setup = DriverSetup {
                jobs: jobs.clone(),
                workshop: Arc::new(workshop.clone()),
                examiner: Some(Arc::new(examiner)),
                catalog: built.catalog.clone(),
                data_dir: data.path().to_owned(),
                cost: cost(tenants),
                rhythm: Rhythm::default(),
            };
            (Some(Driver::start(setup).await.context("training jobs")?), Some(workshop))
        }
    };
    Ok(Training { jobs, driver, workshop })
}

/// Returns when the driver has ended by itself; never where there is none.
pub(super) async fn ended(driver: &mut Option<Driver>) {
    match driver {
        Some(driver) => driver.ended().await,
        None => std::future::pending().await,
    }
}

/// The base as the workshop needs it, or why it cannot be trained.
fn resident(config: &Config, built: &Built) -> Result<Resident, &'static str> {
    let engine = match &built.backend {
        Backend::Native(engine) => engine,
        #[cfg(feature = "mistralrs")]
        Backend::Mistralrs(_) => return Err("its backend is mistralrs, on which training is not implemented"),
        Backend::Null(_) => return Err("it runs without a model"),
    };
    if let Some(reason) = built.backend.facts().model.anatomy().untrainable {
        return Err(reason);
    }
    let base = engine.training_base().ok_or("its base is on a device that it cannot train on")?;
    let served = built.gateway.base();
    let tensors = built.tensors.clone();
    let digest: Slowly<String> = Box::new(move || base_digest(&tensors));
    let given = config.training.memory;
    let memory: Slowly<Option<u64>> = Box::new(move || given.or_else(|| memory::available_bytes().map(|bytes| bytes / 10 * 9)));
    Ok(Resident {
        base: base.clone(),
        name: built.base_name.clone(),
        digest,
        tokenizer: served.tokenizer.clone(),
        chat_template: served.chat_template.clone(),
        end_tokens: served.end_tokens.clone(),
        context: built.backend.facts().model.context_length,
        policy: config.training.policy,
        pressure: engine.pressure().clone(),
        threads: config.threads,
        memory,
    })
}

/// Digest of a base's weights as they are stored; reads all of them. Names and contents in their order: the same base has the same
/// digest, whatever its files are called.
pub(crate) fn base_digest(tensors: &BTreeMap<String, RawTensor>) -> String {
    let mut digest = Sha256::new();
    for (name, tensor) in tensors {
        digest.update(format!("{name} {:?} {} {}\n", tensor.dtype, tensor.rows, tensor.cols));
        digest.update(tensor.bytes());
    }
    crate::ids::hex(&digest.finalize())
}

/// What training costs a tenant, by the price book of the moment.
fn cost(tenants: &Tenants) -> Cost {
    let tenants = tenants.clone();
    Arc::new(move |tenant, model, tokens| {
        let policy = tenants.policy();
        let prices = policy.prices.of(tenant, model);
        crate::tenants::price_at(&prices, unix_now()).map_or(0, |price| price.of_training(tokens))
    })
}
