//! What is in force: each setting's value after all rules, as text, with the place where it was typed.

use std::path::{Path, PathBuf};

use super::raw::{Origin, Raw};
use super::{
    BackendKind, Config, Device, Given, HubModel, KvMemory, Location, ModelSource, Problems, Quant, SETTINGS, Sync, meaning,
};
use crate::telemetry::LogFormat;
use crate::tenants::jwt::{AdminTokens, Settings};

impl Config {
    /// Understands what was typed, and says in a line for each setting what is in force and where that was typed.
    pub fn explain(given: &Given) -> Result<(Self, Vec<String>), Problems> {
        let raw = Raw::collect(given);
        let origin = |key| raw.typed.get(key).map_or(Origin::Default, |typed| typed.origin.clone());
        let origins: Vec<(&str, Origin)> = SETTINGS.iter().map(|setting| (setting.key, origin(setting.key))).collect();
        let config = meaning::understand(raw, given)?;
        let line = |(key, origin)| format!("{key} = {}  ({origin})", config.in_force(key));
        let lines = origins.into_iter().map(line).collect();
        Ok((config, lines))
    }

    /// The value of a setting. `auto` stays where the base and the machine decide at the start.
    fn in_force(&self, key: &str) -> String {
        match key {
            "model" => match &self.model {
                ModelSource::Bundled(bundle) => path(&bundle.model),
                ModelSource::Path(model) => path(model),
                ModelSource::Hub(HubModel { repository, revision, file }) => {
                    let file = file.as_ref().map(|file| format!(":{file}")).unwrap_or_default();
                    format!("hf://{repository}@{revision}{file}")
                }
            },
            "model_name" => self.base_name(),
            "quant" => match self.quant {
                Quant::Auto => "auto",
                Quant::None => "none",
                Quant::Q8_0 => "q8_0",
                Quant::Q6K => "q6_k",
                Quant::Q4K => "q4_k",
            }
            .to_owned(),
            "device" => match self.device {
                Device::Auto => "auto".to_owned(),
                Device::Cpu => "cpu".to_owned(),
                Device::Cuda(index) => format!("cuda:{index}"),
            },
            "threads" => self.threads.to_string(),
            "listen" => self.listen.to_string(),
            "data_dir" => path(&self.data_dir),
            "database" => match &self.database {
                Location::File(file) => path(file),
                // It may hold a password.
                Location::Postgres(_) => "postgres://...".to_owned(),
            },
            "redis_url" => match &self.shared_limits {
                None => "none",
                // It may hold a password.
                Some(_) => "redis://...",
            }
            .to_owned(),
            "redis_timeout" => self.shared_limits.as_ref().map_or("-".to_owned(), |shared| format!("{:?}", shared.timeout)),
            "redis_lease" => self.shared_limits.as_ref().map_or("-".to_owned(), |shared| format!("{:?}", shared.lease)),
            "redis_local_share" => self.shared_limits.as_ref().map_or("-".to_owned(), |shared| shared.share.part().to_string()),
            "objects" => self.objects.as_ref().map_or("none".to_owned(), |objects| objects.url.to_string()),
            "objects_cache" => self.objects.as_ref().map_or("-".to_owned(), |objects| objects.cache.to_string()),
            "ledger_sync" => match self.ledger_sync {
                Sync::Group => "group",
                Sync::Wait => "wait",
                Sync::Never => "never",
            }
            .to_owned(),
            "response_cache" => self.cache.bytes.to_string(),
            "response_cache_ttl" => self.cache.ttl.as_secs_f64().to_string(),
            "default_max_tokens" => self.default_max_tokens.to_string(),
            "responses_keep" => (self.responses_keep.as_secs() / 86_400).to_string(),
            "embeddings_pooling" => self.embeddings_pooling.name().to_owned(),
            "tool_syntax" => self.tool_family.to_string(),
            "convert_model" => self.convert.model.clone(),
            "convert_timezone" => self.convert.timezone.clone(),
            "convert_keep_texts" => (self.convert.keep_texts.as_secs() / 86_400).to_string(),
            "convert_unknown_below" => self.convert.unknown_below.to_string(),
            "adapter_roots" => list(self.roots().iter().map(|root| path(root))),
            "adapters" => {
                let typed = self.adapters.iter().chain(self.default_adapters());
                list(typed.map(|(name, dir)| format!("{name}={}", path(dir))))
            }
            "kv_memory" => match self.kv_memory {
                KvMemory::Auto => "auto".to_owned(),
                KvMemory::Bytes(bytes) => bytes.to_string(),
            },
            "adapter_memory" => self.adapter_memory.map_or_else(|| "unbounded".to_owned(), |bytes| bytes.to_string()),
            "max_context" => self.max_context.map_or_else(|| "auto".to_owned(), |tokens| tokens.to_string()),
            "max_batch_tokens" => self.max_batch_tokens.to_string(),
            "max_sequences" => self.max_sequences.to_string(),
            "queue_capacity" => self.queue_capacity.to_string(),
            "speculation_tokens" => self.speculation_tokens.to_string(),
            "prefix_cache" => if self.prefix_cache { "on" } else { "off" }.to_owned(),
            "backend" => match self.backend {
                BackendKind::Native => "native",
                BackendKind::Mistralrs => "mistralrs",
                BackendKind::Null => "null",
            }
            .to_owned(),
            "null_delay" => format!("{:?}", self.null.delay),
            "null_token_gap" => format!("{:?}", self.null.token_gap),
            "null_tokens" => self.null.tokens.to_string(),
            "max_body_bytes" => self.max_body_bytes.to_string(),
            "max_upload_bytes" => self.max_upload_bytes.to_string(),
            "max_stored_bytes" => self.max_stored_bytes.to_string(),
            "shadow_retention" => self.shadow_retention.as_secs_f64().to_string(),
            "training_mode" => self.training.policy.mode.to_string(),
            "training_slice" => format!("{:?}", self.training.policy.slice),
            "training_hours" => self.training.policy.hours.map_or_else(|| "always".to_owned(), hours),
            "training_memory" => self.training.memory.map_or_else(|| "auto".to_owned(), |bytes| bytes.to_string()),
            "training_jobs" => if self.training.here { "here" } else { "elsewhere" }.to_owned(),
            "training_max_time" => self.training_max_time.as_secs_f64().to_string(),
            "drain_delay" => self.drain_delay.as_secs_f64().to_string(),
            "drain_deadline" => self.drain_deadline.as_secs_f64().to_string(),
            key if key.starts_with("jwt_") => self.jwt.as_ref().map_or_else(|| "none".to_owned(), |jwt| tokens(jwt, key)),
            "log_format" => match self.log.format {
                LogFormat::Text => "text",
                LogFormat::Json => "json",
            }
            .to_owned(),
            "log_level" => self.log.level.clone(),
            "otlp_endpoint" => self.otlp_endpoint.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string),
            // A test sees to it that no setting comes here.
            _ => "?".to_owned(),
        }
    }
}

fn tokens(jwt: &Settings, key: &str) -> String {
    match key {
        "jwt_keys" => jwt.keys.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string),
        "jwt_issuer" => jwt.issuer.clone(),
        "jwt_audience" => list(jwt.audiences.iter().cloned()),
        "jwt_algorithms" => list(jwt.algorithms.iter().map(|algorithm| algorithm.name().to_owned())),
        "jwt_leeway" => jwt.leeway.as_secs().to_string(),
        "jwt_refresh" => jwt.refresh.as_secs().to_string(),
        "jwt_tenant_claim" => jwt.tenant_claim.clone(),
        "jwt_scope_claim" => jwt.scope_claim.clone(),
        "jwt_models_claim" => jwt.models_claim.clone(),
        "jwt_admin" => if jwt.admin == AdminTokens::Accepted { "on" } else { "off" }.to_owned(),
        _ => "?".to_owned(),
    }
}

fn list(values: impl Iterator<Item = String>) -> String {
    let values: Vec<String> = values.collect();
    if values.is_empty() { "none".to_owned() } else { values.join(", ") }
}

/// Absolute, so that it is clear which one is meant.
fn path(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path)).display().to_string()
}

fn hours(hours: crate::training::idle::Hours) -> String {
    let time = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
    format!("{}-{}", time(hours.from), time(hours.to))
}
