//! `switchyard adapters`: the registry's records (changed only while no server runs), and a look into adapter directories.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::ArgMatches;

use super::open_data;
use crate::app::announce::say;
use crate::app::memory::human;
use crate::app::{adapter_roots, base};
use crate::config::{Config, StateConfig};
use crate::model::lora::peft::AdapterFiles;
use crate::model::lora::{LoraWeights, PreparedAdapter};
use crate::model::{AdapterPreparer, ModelError};
use crate::registry::{self, Catalog, IfLoaded, InService, LoadRequest, LoadedBy, Offline, Owner, Setup};
use crate::store::{self, Database};

const ASK_THE_SERVER: &str = "ask it over its API: POST /v1/load_lora_adapter, POST /v1/unload_lora_adapter";

fn name(matches: &ArgMatches) -> anyhow::Result<String> {
    matches.get_one::<String>("name").cloned().context("the name is missing")
}

fn owner(matches: &ArgMatches) -> Owner {
    matches.get_one::<String>("tenant").map(String::as_str).into()
}

fn path(matches: &ArgMatches) -> anyhow::Result<PathBuf> {
    matches.get_one::<PathBuf>("path").cloned().context("the path is missing")
}

pub(super) fn list(config: &StateConfig) -> anyhow::Result<()> {
    let adapters = registry::in_service(&config.data_dir)?;
    if adapters.is_empty() {
        say("no adapters\n");
        return Ok(());
    }
    say(&format!(
        "{:<24} {:<16} {:>7} {:>5} {:>12}  {:<12}  kept versions\n",
        "name", "owner", "version", "rank", "files", "digest"
    ));
    for InService { owner, name, current: version, kept } in adapters {
        let numbers: Vec<String> = kept.iter().map(u32::to_string).collect();
        say(&format!(
            "{name:<24} {:<16} {:>7} {:>5} {:>12}  {}  {}\n",
            owner.to_string(),
            version.number,
            version.rank,
            human(version.file_bytes),
            version.id.short(),
            numbers.join(" ")
        ));
    }
    Ok(())
}

/// Checks adapters and does not pack them: no model is loaded.
struct CheckOnly;

impl AdapterPreparer for CheckOnly {
    fn prepare(&self, weights: LoraWeights) -> Result<PreparedAdapter, ModelError> {
        Ok(PreparedAdapter { id: weights.id, bytes: 0, max_rank: weights.max_rank, inner: Box::new(()) })
    }
}

pub(super) fn add(matches: &ArgMatches, config: &Config) -> anyhow::Result<()> {
    let (owner, name, path) = (owner(matches), name(matches)?, path(matches)?);
    let data = Arc::new(open_data(&config.data_dir, ASK_THE_SERVER)?);
    let base = base::open(config)?;
    let roots = adapter_roots(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let loaded = runtime.block_on(async {
        if let Some(tenant) = owner.tenant() {
            check_tenant(config, tenant).await?;
        }
        let setup =
            Setup { data, roots, reserved_names: vec![base.name], base: base.checkpoint.config, preparer: Arc::new(CheckOnly) };
        let (catalog, _) = Catalog::open(setup).await?;
        let request =
            LoadRequest { owner, name, path, if_loaded: IfLoaded::Replace, expected_version: None, by: LoadedBy::Operator };
        anyhow::Ok(catalog.load(request).await?)
    })?;
    say(&format!("{}@{} ({}) will be served from the next start\n", loaded.name, loaded.number, loaded.id.short()));
    Ok(())
}

/// An adapter of nobody would be out of everybody's reach.
async fn check_tenant(config: &Config, tenant: &str) -> anyhow::Result<()> {
    let database = Database::open(&config.database).await?;
    let rows = store::policy::read(&database).await?;
    database.close().await;
    anyhow::ensure!(rows.active.iter().any(|id| id == tenant), "there is no project {tenant:?}, or it is archived (--tenant)");
    Ok(())
}

pub(super) fn remove(matches: &ArgMatches, config: &StateConfig) -> anyhow::Result<()> {
    let name = name(matches)?;
    let data = open_data(&config.data_dir, ASK_THE_SERVER)?;
    Offline::open(&data)?.remove(&owner(matches), &name)?;
    say(&format!("{name} is out of service\n"));
    Ok(())
}

pub(super) fn inspect(matches: &ArgMatches, config: &Config) -> anyhow::Result<()> {
    let path = path(matches)?;
    let files = AdapterFiles::read(&path).with_context(|| path.display().to_string())?;
    let digest = files.digest()?;
    let base = base::open(config)?;
    say(&format!("digest   {digest}\nfiles    {}\n", human(files.len() as u64)));
    let weights = files.parse(&base.checkpoint.config).with_context(|| format!("it does not fit the base {}", base.name))?;
    let parameters: usize = weights.modules.iter().map(|module| module.a.len() + module.b.len()).sum();
    let mut sites: BTreeMap<&str, (usize, usize, usize)> = BTreeMap::new();
    for module in &weights.modules {
        let (layers, least, most) = sites.entry(module.site.module()).or_insert((0, module.rank, module.rank));
        *layers += 1;
        *least = module.rank.min(*least);
        *most = module.rank.max(*most);
    }
    say(&format!("base     {}: it fits\nweights  {parameters} parameters, highest rank {}\n", base.name, weights.max_rank));
    for (site, (layers, least, most)) in sites {
        let ranks = if least == most { format!("rank {least}") } else { format!("ranks {least} to {most}") };
        say(&format!("         {site:<18} {layers} layers, {ranks}\n"));
    }
    Ok(())
}
