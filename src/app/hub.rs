//! Downloads of a base from the hub: only the files that are needed, resumed where they were interrupted, kept in the cache that
//! other programs use too.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use crate::config::{HubConfig, HubModel};

/// Files that a base may have beside its weights.
const BESIDE_WEIGHTS: [&str; 8] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
];
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Times that a broken connection is taken up again, per file.
const RETRIES: u32 = 4;
/// Pause before the first of them; each next one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// The path of the base on disk: a directory, or the one GGUF file that was named. Blocks.
pub(super) fn fetch(hub: &HubConfig, model: &HubModel) -> anyhow::Result<PathBuf> {
    let named = format!("{}@{}", model.repository, model.revision);
    if hub.offline {
        return cached(hub, model)
            .ok_or_else(|| anyhow!("{named} is not whole in the cache {} and HF_HUB_OFFLINE is set", hub.cache.display()));
    }
    let error = match download(hub, model) {
        Ok(path) => return Ok(path),
        Err(error) => error,
    };
    // A start needs no hub once everything is here; but a hub that answers "no" is believed.
    if out_of_reach(&error)
        && let Some(path) = cached(hub, model)
    {
        let error = format!("{error:#}");
        tracing::warn!(endpoint = hub.endpoint, error, "the hub is out of reach; {named} is taken from the cache as it is");
        return Ok(path);
    }
    Err(error).with_context(|| format!("cannot download {named} from {}", hub.endpoint))
}

/// True where the hub could not be asked or is broken, false where it answered that the request is wrong (status 4xx).
fn out_of_reach(error: &anyhow::Error) -> bool {
    fn unanswered(error: &ApiError) -> bool {
        match error {
            // The type below is of a crate that is not ours to name; its text is watched by a test.
            ApiError::RequestError(error) => !error.to_string().starts_with("http status: 4"),
            ApiError::IoError(_) => true,
            ApiError::TooManyRetries(error) => unanswered(error),
            _ => false,
        }
    }
    error.chain().find_map(|cause| cause.downcast_ref()).is_some_and(unanswered)
}

fn repo(model: &HubModel, revision: &str) -> Repo {
    Repo::with_revision(model.repository.clone(), RepoType::Model, revision.to_owned())
}

/// What is there already, if it is all that a base needs.
fn cached(hub: &HubConfig, model: &HubModel) -> Option<PathBuf> {
    let cache = Cache::new(hub.cache.clone()).repo(repo(model, &model.revision));
    let find = |name: &str| {
        // A revision that is a commit needs no branch that points to it.
        let of_commit = || Some(cache.pointer_path(&model.revision).join(name)).filter(|path| path.is_file());
        cache.get(name).or_else(of_commit)
    };
    if let Some(file) = &model.file {
        return find(file);
    }
    let config = find("config.json")?;
    find("tokenizer.json")?;
    if find(SINGLE).is_none() {
        let index = std::fs::read(find(INDEX)?).ok()?;
        let all = shards(&index).ok()?.iter().all(|shard| find(shard).is_some());
        all.then_some(())?;
    }
    config.parent().map(Path::to_owned)
}

fn download(hub: &HubConfig, model: &HubModel) -> anyhow::Result<PathBuf> {
    // Its own retries would append to what it has from the beginning again when a connection fails early; see `Remote::file`.
    let api = ApiBuilder::from_cache(Cache::new(hub.cache.clone()))
        .with_endpoint(hub.endpoint.clone())
        .with_token(hub.token.clone())
        .with_retries(0)
        .build()?;
    let info = api.repo(repo(model, &model.revision)).info().context("the repository's list of files")?;
    check_plain(&info.sha)?;
    // All files are taken from the commit that the list is of, even if the branch moves meanwhile.
    let pinned = repo(model, &info.sha);
    let cache = Cache::new(hub.cache.clone());
    let remote = Remote { files: api.repo(pinned.clone()), cache: cache.repo(pinned), api };
    let listed: Vec<&str> = info.siblings.iter().map(|sibling| sibling.rfilename.as_str()).collect();
    let path = remote.fetch(model, &listed)?;
    cache.repo(repo(model, &model.revision)).create_ref(&info.sha)?;
    Ok(path)
}

struct Remote {
    api: Api,
    files: ApiRepo,
    cache: CacheRepo,
}

impl Remote {
    fn fetch(&self, model: &HubModel, listed: &[&str]) -> anyhow::Result<PathBuf> {
        let has = |name: &str| listed.contains(&name);
        let mut ggufs: Vec<&str> = listed.iter().copied().filter(|name| name.ends_with(".gguf")).collect();
        ggufs.sort_unstable();
        if let Some(file) = &model.file {
            if !has(file) {
                bail!("it has no file {file}; its GGUF files are: {}", ggufs.join(", "));
            }
            return self.file(file);
        }
        if !has("config.json") {
            if ggufs.is_empty() {
                bail!("it has neither config.json nor a .gguf file");
            }
            bail!(
                "it holds GGUF files; name one after a colon, as in {}:{} (there are: {})",
                model.repository,
                ggufs[0],
                ggufs.join(", ")
            );
        }
        let mut wanted: Vec<String> = BESIDE_WEIGHTS.iter().filter(|name| has(name)).map(|name| (*name).to_owned()).collect();
        if has(INDEX) {
            let index = self.file(INDEX)?;
            wanted.extend(shards(&std::fs::read(&index)?)?);
        } else if has(SINGLE) {
            wanted.push(SINGLE.to_owned());
        } else {
            bail!("it has no safetensors weights ({SINGLE} or {INDEX})");
        }
        let mut directory = None;
        for name in &wanted {
            let path = self.file(name)?;
            if name == "config.json" {
                directory = path.parent().map(Path::to_owned);
            }
        }
        directory.ok_or_else(|| anyhow!("config.json has no directory"))
    }

    /// One file, from the cache where it is whole, else downloaded. A broken connection is taken up where it broke.
    fn file(&self, name: &str) -> anyhow::Result<PathBuf> {
        let metadata = self.api.metadata(&self.files.url(name)).with_context(|| name.to_owned())?;
        check_plain(metadata.etag())?;
        check_plain(metadata.commit_hash())?;
        let size = metadata.size() as u64;
        let length = |path: &Path| std::fs::metadata(path).ok().map(|metadata| metadata.len());
        if let Some(path) = self.cache.get(name)
            && length(&path) == Some(size)
        {
            return Ok(path);
        }
        let part = self.cache.blob_path(metadata.etag()).with_extension("part");
        let mut attempt = 0;
        loop {
            // Asking for what follows the last byte would be an error; so long a file is not a piece of this one.
            if length(&part).is_some_and(|have| have >= size) {
                std::fs::remove_file(&part)?;
            }
            match self.files.download_with_progress(name, Lines::new(name)) {
                Ok(path) if length(&path) == Some(size) => return Ok(path),
                Ok(path) => {
                    // It must not be taken for whole at the next start.
                    let blob = std::fs::canonicalize(&path)?;
                    std::fs::remove_file(&path)?;
                    std::fs::rename(blob, &part)?;
                    tracing::warn!(file = name, "the connection ended early");
                }
                Err(error) if attempt == RETRIES => return Err(error).with_context(|| name.to_owned()),
                Err(error) => tracing::warn!(file = name, %error, "the connection broke; trying again"),
            }
            if attempt == RETRIES {
                bail!("{name} did not arrive whole ({size} bytes) in {} attempts", RETRIES + 1);
            }
            std::thread::sleep(FIRST_PAUSE * 2u32.pow(attempt));
            attempt += 1;
        }
    }
}

/// Names given by the server become paths in the cache.
fn check_plain(name: &str) -> anyhow::Result<()> {
    let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    if plain { Ok(()) } else { Err(anyhow!("the hub names a version {name:?}, which is no hash")) }
}

/// Names of the shards that an index mentions, each once. They come from the network and become paths.
fn shards(index: &[u8]) -> anyhow::Result<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_slice(index).with_context(|| INDEX.to_owned())?;
    let mut names: Vec<String> = index.weight_map.into_values().collect();
    names.sort_unstable();
    names.dedup();
    for name in &names {
        let plain = name.ends_with(".safetensors") && !name.starts_with('.') && !name.contains(['/', '\\']);
        if !plain {
            bail!("{INDEX} names {name:?}, which is no file of the repository's top level");
        }
    }
    Ok(names)
}

/// Progress as log lines, one each tenth.
struct Lines {
    name: String,
    total: usize,
    done: usize,
    tenths: usize,
}

impl Lines {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), total: 0, done: 0, tenths: 0 }
    }
}

impl Progress for Lines {
    fn init(&mut self, size: usize, _filename: &str) {
        self.total = size;
        self.done = 0;
        self.tenths = 0;
    }

    fn update(&mut self, size: usize) {
        self.done += size;
        let tenths = (self.done * 10).checked_div(self.total).unwrap_or(10).min(10);
        if tenths > self.tenths {
            self.tenths = tenths;
            let (file, bytes, of) = (&self.name, self.done, self.total);
            tracing::info!(file, bytes, of, "downloading {}%", tenths * 10);
        }
    }

    fn finish(&mut self) {}
}

#[cfg(test)]
mod tests;
