//! `switchyard adapters`: the registry's records (changed only while no server runs), and a look into adapter directories.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::ArgMatches;

use super::open_data;
use crate::app::announce::say;
use crate::app::memory::human;
use crate::app::{adapter_roots, base, open_office};
use crate::config::{Config, StateConfig};
use crate::model::lora::peft::AdapterFiles;
use crate::model::lora::{LoraWeights, PreparedAdapter};
use crate::model::{AdapterPreparer, ModelError};
use crate::outbound::{Address, Caller, Part};
use crate::registry::{self, AdapterFile, Catalog, IfLoaded, InService, LoadRequest, LoadedBy, Offline, Owner, Setup, Source};
use crate::store;
use crate::tenants::Office;
use crate::tenants::admin::Change;
use crate::tenants::admin::adapters::{AdapterChange, record};

const ASK_THE_SERVER: &str =
    "ask it over its API: switchyard adapters push, POST /v1/load_lora_adapter, POST /v1/unload_lora_adapter";
/// Time for an upload. A server that is silent for a minute gives up itself.
const UPLOAD_TIME: Duration = Duration::from_secs(3600);
/// Largest answer that is read, bytes.
const MAX_ANSWER: usize = 1 << 20;

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
    anyhow::ensure!(
        config.objects.is_none(),
        "the adapters of this server are shared with other replicas (objects): {ASK_THE_SERVER}"
    );
    let data = Arc::new(open_data(&config.data_dir, ASK_THE_SERVER)?);
    let base = base::open(config)?;
    let roots = adapter_roots(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let loaded = runtime.block_on(async {
        let office = open_office(&config.database, &config.data_dir, config.secret_key.as_ref()).await?;
        if let Some(tenant) = owner.tenant() {
            // An adapter of nobody would be out of everybody's reach.
            let active = store::policy::read(&office.database).await?.active;
            anyhow::ensure!(active.iter().any(|id| id == tenant), "there is no project {tenant:?}, or it is archived (--tenant)");
        }
        let setup = Setup {
            data,
            roots,
            reserved_names: vec![base.name],
            base: base.checkpoint.config,
            preparer: Arc::new(CheckOnly),
            memory: None,
            shared: None,
        };
        let (catalog, _) = Catalog::open(setup).await?;
        let request = LoadRequest {
            owner: owner.clone(),
            name,
            from: Source::Directory(path),
            if_loaded: IfLoaded::Replace,
            expected_version: None,
            by: LoadedBy::Operator,
        };
        let loaded = catalog.load(request).await?;
        let did = AdapterChange::loaded(owner.tenant(), &loaded.name, (loaded.number, loaded.id)).instead_of(loaded.replaced);
        note(&office, &did).await?;
        anyhow::Ok(loaded)
    })?;
    say(&format!("{}@{} ({}) will be served from the next start\n", loaded.name, loaded.number, loaded.id.short()));
    Ok(())
}

/// Sends the files to a server, which checks them.
pub(super) fn push(matches: &ArgMatches, key: Option<&str>) -> anyhow::Result<()> {
    let (name, path) = (name(matches)?, path(matches)?);
    let key = key.context("SWITCHYARD_API_KEY is not set; it must hold an admin key of the server")?;
    let given = matches.get_one::<String>("server").context("the server is missing")?;
    let server = Address::anywhere(given).with_context(|| format!("--server {given:?}"))?;
    let files = AdapterFile::ALL.map(|file| Part::File { name: file.name(), path: path.join(file.name()) });
    let texts = ["tenant", "expected_version"];
    let texts = texts.into_iter().filter_map(|name| Some(Part::Text { name, value: matches.get_one::<String>(name)?.clone() }));
    // Texts first, so that a wrong tenant is known before the files are on their way.
    let parts: Vec<Part> = texts.chain(files).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let (status, body) = runtime.block_on(async {
        let caller = Caller::new(server.at(["admin", "adapters", &name, "versions"]), UPLOAD_TIME)?;
        caller.post_form(key, parts, MAX_ANSWER).await
    })?;
    let answer: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    if status != 200 {
        let reason = answer["error"]["message"].as_str().unwrap_or("it said nothing more");
        anyhow::bail!("the server answered {status}: {reason}");
    }
    let digest = answer["digest"].as_str().unwrap_or("?");
    say(&format!("{name}@{} ({digest}) is in service\n", answer["version"]));
    Ok(())
}

/// Writes a change into the audit log.
async fn note(office: &Office, did: &AdapterChange) -> anyhow::Result<()> {
    let mut change = Change::by_operator(office).await?;
    record(&mut change, did).await?;
    Ok(change.finish().await?)
}

pub(super) fn remove(matches: &ArgMatches, config: &StateConfig) -> anyhow::Result<()> {
    let name = name(matches)?;
    let data = open_data(&config.data_dir, ASK_THE_SERVER)?;
    let owner = owner(matches);
    Offline::open(&data)?.remove(&owner, &name)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(async {
        let office = open_office(&config.database, &config.data_dir, config.secret_key.as_ref()).await?;
        note(&office, &AdapterChange::unloaded(owner.tenant(), &name)).await
    })?;
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
    let anatomy = base.checkpoint.config.anatomy();
    let (mut parameters, mut targets): (usize, BTreeMap<&str, (usize, usize, usize)>) = Default::default();
    for module in &weights.modules {
        parameters += module.b.len();
        // Linears that are stored together share their target and its `A`.
        let Some(stored) = anatomy.module(module.site).filter(|stored| stored.sites[0] == module.site) else { continue };
        parameters += module.a.len();
        let (layers, least, most) = targets.entry(stored.path).or_insert((0, module.rank, module.rank));
        *layers += 1;
        *least = module.rank.min(*least);
        *most = module.rank.max(*most);
    }
    say(&format!("base     {}: it fits\nweights  {parameters} parameters, highest rank {}\n", base.name, weights.max_rank));
    for (target, (layers, least, most)) in targets {
        let ranks = if least == most { format!("rank {least}") } else { format!("ranks {least} to {most}") };
        say(&format!("         {target:<22} {layers} layers, {ranks}\n"));
    }
    Ok(())
}
