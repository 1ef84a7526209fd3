//! From text to meaning: each setting's rules. Problems are collected, never returned early.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::raw::{Given, Origin, Raw, Typed};
use super::settings::{ADMIN_KEY_VARIABLE, SECRET_KEY_VARIABLE};
use super::{
    BackendKind, CacheConfig, Config, Device, HubModel, KvMemory, Location, ModelSource, NullConfig, Problems, Quant, Secret,
    StateConfig, Sync, TrainingConfig, locate,
};
use crate::gateway::{Pooling, ToolFamily};
use crate::http::{self, ConvertConfig};
use crate::outbound::Address;
use crate::telemetry::{LogConfig, LogFormat};
use crate::training::idle::{Hours, Mode, Policy};
use crate::{registry, tenants};

pub(super) struct Reader<'given> {
    pub(super) raw: Raw,
    pub(super) given: &'given Given,
}

pub(super) fn understand(raw: Raw, given: &Given) -> Result<Config, Problems> {
    let mut reader = Reader { raw, given };
    let config = reader.config();
    if reader.raw.problems.is_empty()
        && let Some(config) = config
    {
        return Ok(config);
    }
    Err(Problems(reader.raw.problems))
}

pub(super) fn understand_state(raw: Raw, given: &Given) -> Result<StateConfig, Problems> {
    let mut reader = Reader { raw, given };
    let (data_dir, log, admin_key, secret_key) = (reader.data_dir(), reader.log(), reader.admin_key(), reader.secret_key());
    let database = data_dir.as_deref().and_then(|dir| reader.database(dir));
    match (data_dir, log, database) {
        (Some(data_dir), Some(log), Some(database)) if reader.raw.problems.is_empty() => {
            Ok(StateConfig { data_dir, log, database, admin_key, secret_key })
        }
        _ => Err(Problems(reader.raw.problems)),
    }
}

impl Reader<'_> {
    /// `None` where a problem was found; every setting is looked at in any case.
    fn config(&mut self) -> Option<Config> {
        let model = self.model();
        let model_name = self.optional("model_name", model_name);
        let quant = self.value("quant", Quant::Auto, quant);
        let device = self.value("device", Device::Auto, device);
        let threads = self.value("threads", cores(), |text| within(text, 1, 1024));
        let listen = self.value("listen", SocketAddr::from(([127, 0, 0, 1], 8080)), address);
        let data_dir = self.data_dir();
        let adapter_roots = self.roots();
        let adapters = self.adapters();
        let kv_memory = self.value("kv_memory", KvMemory::Auto, |text| match text {
            "auto" => Ok(KvMemory::Auto),
            text => bytes(text).map(KvMemory::Bytes),
        });
        let adapter_memory = self.value("adapter_memory", None, |text| match text {
            "unbounded" => Ok(None),
            text => bytes(text).map(Some),
        });
        let max_context = self.value("max_context", None, |text| match text {
            "auto" => Ok(None),
            text => within(text, 16, 1 << 28).map(Some),
        });
        let max_sequences = self.value("max_sequences", 64, |text| within(text, 1, 65_536));
        let max_batch_tokens = self.value("max_batch_tokens", 512, |text| within(text, 1, 1 << 20));
        if let (Some(sequences), Some(tokens)) = (max_sequences, max_batch_tokens)
            && tokens < sequences
        {
            let text = format!("max_batch_tokens ({tokens}) is less than max_sequences ({sequences}): each needs one per step");
            let origin = self.origin_of(["max_batch_tokens", "max_sequences"]);
            self.raw.problem(origin, text);
        }
        let queue_capacity = self.value("queue_capacity", 1024, |text| within(text, 1, 1 << 20));
        let speculation_tokens = self.value("speculation_tokens", 8, |text| within(text, 0, 15));
        let prefix_cache = self.value("prefix_cache", true, switch);
        let backend = self.value("backend", BackendKind::Native, |text| match text {
            "native" => Ok(BackendKind::Native),
            "null" => Ok(BackendKind::Null),
            "mistralrs" if cfg!(feature = "mistralrs") => Ok(BackendKind::Mistralrs),
            "mistralrs" => {
                Err("this build does not have it; `cargo build --release --features mistralrs` makes one that has".to_owned())
            }
            _ => Err("native, mistralrs or null is right".to_owned()),
        });
        let null = self.null();
        let max_body_bytes = self.value("max_body_bytes", 8 << 20, |text| {
            let limit = bytes(text)?;
            usize::try_from(limit).ok().filter(|limit| *limit >= 1024).ok_or_else(|| "at least 1024 bytes are right".to_owned())
        });
        let max_upload_bytes = self.value("max_upload_bytes", 1 << 30, bytes);
        let max_stored_bytes = self.value("max_stored_bytes", 64 << 30, bytes);
        let shadow_retention = self.value("shadow_retention", Duration::from_secs(7 * 86_400), duration);
        let training = self.training();
        let training_max_time = self.value("training_max_time", Duration::from_secs(86_400), duration);
        let drain_delay = self.value("drain_delay", Duration::ZERO, duration);
        let drain_deadline = self.value("drain_deadline", Duration::from_secs(30), duration);
        let log = self.log();
        let otlp_endpoint = self.otlp_endpoint();
        // Before the admin key is taken: it looks at it.
        let jwt = self.jwt();
        let ledger_sync = self.value("ledger_sync", Sync::Group, |text| match text {
            "group" => Ok(Sync::Group),
            "wait" => Ok(Sync::Wait),
            "never" => Ok(Sync::Never),
            _ => Err("group, wait or never is right".to_owned()),
        });
        let cache_bytes = self.value("response_cache", 64 << 20, |text| if text.trim() == "0" { Ok(0) } else { bytes(text) });
        let cache_ttl = self.value("response_cache_ttl", Duration::from_secs(3600), duration);
        let default_max_tokens = self.value("default_max_tokens", 2048, |text| within(text, 1, 1 << 24));
        let embeddings_pooling = self.value("embeddings_pooling", Pooling::Mean, |text| {
            let known = [Pooling::Mean, Pooling::Last].into_iter().find(|pooling| pooling.name() == text);
            known.ok_or_else(|| "mean or last is right".to_owned())
        });
        let responses_keep = self.value("responses_keep", Duration::from_secs(30 * 86_400), days);
        let tool_family = self.value("tool_syntax", ToolFamily::default(), ToolFamily::parse);
        let convert = self.convert();
        let (upstreams, mut failovers) = (self.upstreams(), self.failovers());
        let capabilities = self.capabilities(upstreams.as_deref().unwrap_or_default());
        failovers = failovers.zip(capabilities).map(|(failovers, capabilities)| [failovers, capabilities].concat());
        let (admin_key, secret_key) = (self.admin_key(), self.secret_key());
        let database = data_dir.as_deref().and_then(|dir| self.database(dir));
        let shared_limits = self.shared_limits(database.as_ref());
        let objects = self.objects(database.as_ref());
        let hub = match locate::hub(&self.given.variables) {
            Ok(hub) => Some(hub),
            Err((origin, text)) => {
                self.raw.problem(origin, text);
                None
            }
        };
        let config = Config {
            model: model?,
            model_name: model_name?,
            hub: hub?,
            quant: quant?,
            device: device?,
            threads: threads?,
            listen: listen?,
            data_dir: data_dir?,
            adapter_roots: adapter_roots?,
            adapters: adapters?,
            kv_memory: kv_memory?,
            adapter_memory: adapter_memory?,
            max_context: max_context?,
            max_batch_tokens: max_batch_tokens?,
            max_sequences: max_sequences?,
            queue_capacity: queue_capacity?,
            speculation_tokens: speculation_tokens?,
            prefix_cache: prefix_cache?,
            backend: backend?,
            null: null?,
            max_body_bytes: max_body_bytes?,
            max_upload_bytes: max_upload_bytes?,
            max_stored_bytes: max_stored_bytes?,
            shadow_retention: shadow_retention?,
            training: training?,
            training_max_time: training_max_time?,
            drain_delay: drain_delay?,
            drain_deadline: drain_deadline?,
            jwt: jwt?,
            log: log?,
            otlp_endpoint: otlp_endpoint?,
            database: database?,
            shared_limits: shared_limits?,
            objects: objects?,
            ledger_sync: ledger_sync?,
            cache: CacheConfig { bytes: cache_bytes?, ttl: cache_ttl? },
            default_max_tokens: default_max_tokens?,
            tool_family: tool_family?,
            convert: convert?,
            embeddings_pooling: embeddings_pooling?,
            responses_keep: responses_keep?,
            upstreams: upstreams?,
            failovers: failovers?,
            admin_key,
            secret_key,
        };
        self.names(&config);
        self.names_of_upstreams(&config);
        Some(config)
    }

    /// No adapter may have the base's name.
    fn names(&mut self, config: &Config) {
        let reserved = [config.base_name()];
        let wrong = |(name, _): &(String, PathBuf)| registry::check_name(name, &reserved).err().map(|error| error.to_string());
        let typed: Vec<String> = config.adapters.iter().filter_map(wrong).collect();
        let bundled: Vec<String> = config.default_adapters().filter_map(wrong).collect();
        for (setting, problems) in [("adapters", typed), ("model_name", bundled)] {
            let origin = self.origin_of([setting]);
            problems.into_iter().for_each(|text| self.raw.problem(&origin, format!("{setting}: {text}")));
        }
    }

    fn convert(&mut self) -> Option<ConvertConfig> {
        let model = self.value("convert_model", "convert".to_owned(), |text| match text {
            "" => Err("the name of a model is right".to_owned()),
            name => Ok(name.to_owned()),
        });
        let timezone = self.value("convert_timezone", "UTC".to_owned(), |text| {
            let known = http::is_time_zone(text).then(|| text.to_owned());
            known.ok_or_else(|| "an IANA name is right, like Europe/Berlin or UTC".to_owned())
        });
        let unknown_below = self.value("convert_unknown_below", 20, |text| {
            let percent = text.parse::<u8>().ok().filter(|percent| *percent <= 100);
            percent.ok_or_else(|| "a whole number from 0 to 100 is right".to_owned())
        });
        let keep_texts = self.value("convert_keep_texts", Duration::from_secs(7 * 86_400), days);
        Some(ConvertConfig { model: model?, timezone: timezone?, unknown_below: unknown_below?, keep_texts: keep_texts? })
    }

    fn training(&mut self) -> Option<TrainingConfig> {
        let mode = self.value("training_mode", Mode::default(), str::parse);
        let slice = self.value("training_slice", Policy::default().slice, |text| match duration(text)? {
            Duration::ZERO => Err("a time above 0 is right".to_owned()),
            slice => Ok(slice),
        });
        let hours = self.value("training_hours", None, |text| match text {
            "always" => Ok(None),
            text => text.parse::<Hours>().map(Some),
        });
        let memory = self.value("training_memory", None, |text| match text {
            "auto" => Ok(None),
            text => bytes(text).map(Some),
        });
        let shares = self.raw.typed.get("objects").is_some_and(|typed| typed.values.iter().any(|value| value != "none"));
        let here = self.value("training_jobs", true, |text| match (text, shares) {
            ("here", _) => Ok(true),
            ("elsewhere", true) => Ok(false),
            ("elsewhere", false) => Err("other replicas can work on jobs only where objects is set".to_owned()),
            _ => Err("here or elsewhere is right".to_owned()),
        });
        let policy = Policy { mode: mode?, slice: slice?, hours: hours? };
        Some(TrainingConfig { policy, memory: memory?, here: here? })
    }

    fn null(&mut self) -> Option<NullConfig> {
        let delay = self.value("null_delay", Duration::from_millis(5), duration);
        let token_gap = self.value("null_token_gap", Duration::ZERO, duration);
        let tokens = self.value("null_tokens", 16, |text| within(text, 1, 1 << 20));
        Some(NullConfig { delay: delay?, token_gap: token_gap?, tokens: tokens? })
    }

    fn log(&mut self) -> Option<LogConfig> {
        let format = self.value("log_format", LogFormat::Text, |text| match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err("text or json is right".to_owned()),
        });
        let level = self.value("log_level", "info".to_owned(), |text| LogConfig::check_level(text).map(|()| text.to_owned()));
        Some(LogConfig { format: format?, level: level? })
    }

    fn otlp_endpoint(&mut self) -> Option<Option<Address>> {
        let Some(typed) = self.raw.typed.get("otlp_endpoint") else { return Some(None) };
        let text = typed.values.first().map_or("", String::as_str);
        let wrong = if !cfg!(feature = "otlp") {
            "this build exports no traces (build with --features otlp)".to_owned()
        } else {
            match Address::anywhere(text) {
                Ok(address) => return Some(Some(address)),
                Err(error) => error.to_string(),
            }
        };
        // What was typed may hold a password.
        let origin = typed.origin.clone();
        self.raw.problem(origin, format!("otlp_endpoint: {wrong}"));
        None
    }

    fn admin_key(&mut self) -> Option<Secret> {
        let key = self.raw.admin_key.take();
        match key.as_deref() {
            None => {}
            Some("") => self.raw.problem(ADMIN_KEY_VARIABLE, "is empty; unset it to have a key made"),
            Some(key) => {
                if let Err(error) = tenants::check_given(key) {
                    self.raw.problem(ADMIN_KEY_VARIABLE, error.to_string());
                }
            }
        }
        key.map(Secret)
    }

    fn secret_key(&mut self) -> Option<Secret> {
        let key = self.raw.secret_key.take()?;
        if key.len() != 64 || !key.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            self.raw.problem(SECRET_KEY_VARIABLE, "64 hexadecimal digits are right (openssl rand -hex 32)");
        }
        Some(Secret(key))
    }

    fn database(&mut self, data_dir: &Path) -> Option<Location> {
        let file = data_dir.join(crate::store::DATABASE_FILE);
        let Some(typed) = self.raw.typed.get("database") else { return Some(Location::File(file)) };
        match typed.values.first().map_or("", String::as_str) {
            "sqlite" => Some(Location::File(file)),
            url if url.starts_with("postgres://") || url.starts_with("postgresql://") => Some(Location::Postgres(url.to_owned())),
            // What was typed may hold a password.
            _ => {
                let origin = typed.origin.clone();
                self.raw.problem(origin, "database: sqlite or an address that begins with postgres:// is right");
                None
            }
        }
    }

    /// A setting with one value.
    pub(super) fn value<T>(&mut self, key: &str, default: T, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        self.optional(key, read).map(|value| value.unwrap_or(default))
    }

    /// `Some(None)` where nothing was typed, `None` where it cannot be understood.
    pub(super) fn optional<T>(&mut self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Option<Option<T>> {
        let Some(typed) = self.raw.typed.get(key) else { return Some(None) };
        let text = typed.values.first().map_or("", String::as_str);
        match read(text) {
            Ok(value) => Some(Some(value)),
            Err(reason) => {
                let (origin, text) = (typed.origin.clone(), format!("{key} = {text:?}: {reason}"));
                self.raw.problem(origin, text);
                None
            }
        }
    }

    /// The first of these settings that was typed.
    pub(super) fn origin_of<const N: usize>(&self, keys: [&str; N]) -> Origin {
        keys.into_iter().find_map(|key| self.raw.typed.get(key)).map_or(Origin::Default, |typed| typed.origin.clone())
    }

    /// Paths of the file are relative to it, all others to the current directory.
    pub(super) fn path(&self, typed: &Typed, text: &str) -> PathBuf {
        let path = Path::new(text);
        match (&typed.origin, &self.raw.file_dir) {
            (Origin::File(..), Some(dir)) => dir.join(path),
            _ => path.to_owned(),
        }
    }

    fn model(&mut self) -> Option<ModelSource> {
        let Some(typed) = self.raw.typed.get("model").cloned() else { return self.bundled(&Origin::Default) };
        let text = typed.values.first().map_or("", String::as_str);
        if text == "bundled" {
            return self.bundled(&typed.origin);
        }
        let path = self.path(&typed, text);
        let result = match text.strip_prefix("hf://") {
            Some(id) => hub_model(id).map(ModelSource::Hub),
            None if !text.is_empty() && path.exists() => Ok(ModelSource::Path(path)),
            None if looks_like_hub(text) => hub_model(text).map(ModelSource::Hub),
            None => Err("there is no such file or directory, and it is not a hub id (org/name)".to_owned()),
        };
        match result {
            Ok(source) => Some(source),
            Err(reason) => {
                self.raw.problem(typed.origin, format!("model = {text:?}: {reason}"));
                None
            }
        }
    }

    fn bundled(&mut self, origin: &Origin) -> Option<ModelSource> {
        let found = locate::bundle();
        if found.is_none() {
            let text = "model: the bundled base is not here (models/ beside the current directory, the executable or the sources); \
                        name a model with --model";
            self.raw.problem(origin, text);
        }
        found.map(ModelSource::Bundled)
    }

    fn data_dir(&mut self) -> Option<PathBuf> {
        if let Some(typed) = self.raw.typed.get("data_dir") {
            let text = typed.values.first().map_or("", String::as_str);
            let (origin, path) = (typed.origin.clone(), self.path(typed, text));
            if text.is_empty() || (path.exists() && !path.is_dir()) {
                self.raw.problem(origin, format!("data_dir = {text:?}: a directory is right"));
                return None;
            }
            return Some(path);
        }
        let found = locate::data_dir(&self.given.variables);
        if found.is_none() {
            self.raw.problem(Origin::Default, "data_dir: there is no home directory to put it in; name one with --data-dir");
        }
        found
    }

    fn roots(&mut self) -> Option<Option<Vec<PathBuf>>> {
        let Some(typed) = self.raw.typed.get("adapter_roots").cloned() else { return Some(None) };
        let mut roots = Vec::new();
        let mut sound = true;
        for text in &typed.values {
            let path = self.path(&typed, text);
            if path.is_dir() {
                roots.push(path);
            } else {
                sound = false;
                self.raw.problem(&typed.origin, format!("adapter_roots: {text:?} is not a directory"));
            }
        }
        sound.then_some(Some(roots))
    }

    fn adapters(&mut self) -> Option<Vec<(String, PathBuf)>> {
        let mut adapters: Vec<(String, PathBuf)> = Vec::new();
        let mut sound = true;
        if let Some(typed) = self.raw.typed.get("adapters").cloned() {
            for text in &typed.values {
                let problem = match text.split_once('=') {
                    None => Some("NAME=PATH is right".to_owned()),
                    Some(("", _)) => Some("the name before '=' is missing".to_owned()),
                    Some((name, path)) => {
                        let dir = self.path(&typed, path);
                        let problem = if let Err(error) = registry::check_name(name, &[]) {
                            Some(error.to_string())
                        } else if adapters.iter().any(|(taken, _)| taken == name) {
                            Some("this name was given twice".to_owned())
                        } else {
                            (!dir.is_dir()).then(|| "the path is not a directory".to_owned())
                        };
                        adapters.push((name.to_owned(), dir));
                        problem
                    }
                };
                if let Some(problem) = problem {
                    sound = false;
                    self.raw.problem(&typed.origin, format!("adapters: {text:?}: {problem}"));
                }
            }
        }
        sound.then_some(adapters)
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn model_name(text: &str) -> Result<String, String> {
    let sound = !text.is_empty() && text.len() <= 200 && text.chars().all(|c| c.is_ascii_graphic() && c != '@');
    sound.then(|| text.to_owned()).ok_or_else(|| "1 to 200 visible ASCII characters without '@' are right".to_owned())
}

fn quant(text: &str) -> Result<Quant, String> {
    match text {
        "auto" => Ok(Quant::Auto),
        "none" => Ok(Quant::None),
        "q8_0" => Ok(Quant::Q8_0),
        "q6_k" => Ok(Quant::Q6K),
        "q4_k" => Ok(Quant::Q4K),
        _ => Err("none, q8_0, q6_k, q4_k or auto is right".to_owned()),
    }
}

fn device(text: &str) -> Result<Device, String> {
    let cuda = |index: &str| {
        if cfg!(feature = "cuda") {
            index.parse().map(Device::Cuda).map_err(|_| "cuda:N with a number is right".to_owned())
        } else {
            Err("this build has no CUDA (build with --features cuda); auto and cpu are right".to_owned())
        }
    };
    match text {
        "auto" => Ok(Device::Auto),
        "cpu" => Ok(Device::Cpu),
        "cuda" => cuda("0"),
        text => match text.strip_prefix("cuda:") {
            Some(index) => cuda(index),
            None => Err("auto, cpu or cuda:N is right".to_owned()),
        },
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    if let Some(port) = text.strip_prefix("localhost:").and_then(|port| port.parse().ok()) {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    text.parse().map_err(|_| "an address with a port is right, like 127.0.0.1:8080 or [::]:8080".to_owned())
}

pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => Err("on or off is right".to_owned()),
    }
}

fn within(text: &str, least: usize, most: usize) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("a whole number from {least} to {most} is right"))
}

fn days(text: &str) -> Result<Duration, String> {
    let days = text.parse::<u64>().ok().filter(|days| *days <= 365);
    days.map(|days| Duration::from_secs(days * 86_400)).ok_or_else(|| "a whole number of days from 0 to 365 is right".to_owned())
}

/// `30`, `1.5s`, `5ms`, `250us`; at most a day.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let per_second = match unit.trim() {
        "" | "s" => Some(1.0),
        "ms" => Some(1e3),
        "us" | "µs" => Some(1e6),
        _ => None,
    };
    let seconds = number.parse::<f64>().ok().zip(per_second).map(|(number, per_second)| number / per_second);
    let seconds = seconds.filter(|seconds| (0.0..=86_400.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "a time from 0 to 86400 seconds is right, like 30, 1.5s or 5ms".to_owned())
}

/// `1048576`, `512MiB`, `4GB`, `1.5 GiB`.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => 0,
    };
    let value = number.parse::<f64>().ok().map(|number| number * factor as f64);
    match value {
        // 2^53: beyond it f64 is no longer exact, and no machine has it.
        Some(value) if factor > 0 && (1.0..=9_007_199_254_740_992.0).contains(&value) => Ok(value as u64),
        _ => Err("a number of bytes is right, like 536870912, 512MiB or 4GB".to_owned()),
    }
}

/// `org/name`, not a path: one slash, and nothing that a path would begin with.
fn looks_like_hub(text: &str) -> bool {
    let id = text.split([':', '@']).next().unwrap_or("");
    let mut parts = id.split('/');
    let plain = |part: Option<&str>| {
        part.is_some_and(|part| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        })
    };
    plain(parts.next()) && plain(parts.next()) && parts.next().is_none() && !id.ends_with(".gguf")
}

/// `org/name[@revision][:file.gguf]`.
fn hub_model(text: &str) -> Result<HubModel, String> {
    let (rest, file) = match text.split_once(':') {
        Some((rest, file)) => (rest, Some(file)),
        None => (text, None),
    };
    let (repository, revision) = rest.split_once('@').unwrap_or((rest, "main"));
    let safe = |path: &str| {
        !path.is_empty()
            && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
            && path.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c))
    };
    if !looks_like_hub(repository) || !safe(revision) {
        return Err("org/name, org/name@revision or org/name:file.gguf is right".to_owned());
    }
    if file.is_some_and(|file| !safe(file) || !file.ends_with(".gguf")) {
        return Err("after ':' the name of a .gguf file is right".to_owned());
    }
    Ok(HubModel { repository: repository.to_owned(), revision: revision.to_owned(), file: file.map(str::to_owned) })
}
