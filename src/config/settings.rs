//! Every setting once: its key in the file, its flag, its variable and what is said about it. The command line, the file reader,
//! the variables and the README's table follow this list.

/// How many values a setting takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arity {
    /// One.
    One,
    /// Any number: the flag is repeated, the variable separates by commas, the file has a list.
    Many,
}

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Key in the file. The variable is `SWITCHYARD_` and this in capitals.
    pub key: &'static str,
    /// Flag without its dashes.
    pub flag: &'static str,
    /// What stands for the value in help.
    pub value_name: &'static str,
    /// Values that it takes.
    pub arity: Arity,
    /// Default as text, for people.
    pub default: &'static str,
    /// One or two sentences.
    pub help: &'static str,
}

impl Setting {
    /// Name of the variable.
    pub fn variable(&self) -> String {
        format!("{PREFIX}{}", self.key.to_ascii_uppercase())
    }
}

/// Begins the name of every variable of ours.
pub const PREFIX: &str = "SWITCHYARD_";
/// Names the configuration file.
pub const CONFIG_VARIABLE: &str = "SWITCHYARD_CONFIG";
/// Holds the admin key. It has no flag and no place in the file, as both are easily read by others.
pub const ADMIN_KEY_VARIABLE: &str = "SWITCHYARD_ADMIN_KEY";
/// Holds the secret of tokens signed with HS256. For the same reason it has no flag and no place in the file.
pub const JWT_SECRET_VARIABLE: &str = "SWITCHYARD_JWT_SECRET";
/// Holds the secret key that hashes keys and encrypts secrets (64 hexadecimal digits), where processes share a database or an
/// operator keeps it elsewhere than in the data directory.
pub const SECRET_KEY_VARIABLE: &str = "SWITCHYARD_SECRET_KEY";
/// Read by clients (the printed `curl` uses it), not by the server.
pub const API_KEY_VARIABLE: &str = "SWITCHYARD_API_KEY";
/// Holds the key of the server that writes examples or marks answers, for the commands that ask one.
pub const TEACHER_KEY_VARIABLE: &str = "SWITCHYARD_TEACHER_KEY";

const fn one(
    key: &'static str,
    flag: &'static str,
    value_name: &'static str,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting { key, flag, value_name, arity: Arity::One, default, help }
}

const fn many(
    key: &'static str,
    flag: &'static str,
    value_name: &'static str,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting { key, flag, value_name, arity: Arity::Many, default, help }
}

/// All settings, in the order of help.
#[rustfmt::skip]
pub const SETTINGS: &[Setting] = &[
    one("model", "model", "M", "bundled",
        "Base model: a GGUF file, a Hugging Face directory, or a hub id (org/name, hf://org/name@revision, org/name:file.gguf)."),
    one("model_name", "model-name", "NAME", "from the model's files", "Public name of the base in the API."),
    one("quant", "quant", "Q", "auto",
        "Keep float weights as: none, q8_0, q6_k, q4_k, or auto (q8_0 for a base without quantized tensors)."),
    one("device", "device", "D", "auto", "Where the base computes: cpu, cuda:N (needs a build with feature `cuda`), or auto (CUDA device 0 where it opens, else cpu)."),
    one("threads", "threads", "N", "number of cores", "Compute threads on the CPU."),
    one("listen", "listen", "ADDR", "127.0.0.1:8080", "Address and port to serve on; port 0 takes a free one."),
    one("data_dir", "data-dir", "DIR", "the platform's data directory", "Keys, adapters in service and their versions live here."),
    one("database", "database", "URL", "sqlite", "Where tenants, keys and the ledger are: sqlite (a file in the data directory), or postgres://user@host/name, which several processes can share."),
    one("redis_url", "redis-url", "URL", "none", "Redis or Valkey in which replicas with one PostgreSQL keep limits and budgets together: redis://host/0, rediss:// (TLS) or unix://; docs/replicas.md."),
    one("redis_timeout", "redis-timeout", "TIME", "25ms", "Longest wait of a request for Redis; after it the replica goes by its share until Redis answers again."),
    one("redis_lease", "redis-lease", "TIME", "15s", "What a replica held that has died is free after this long."),
    one("redis_local_share", "redis-local-share", "PART", "0.34", "What holds of every limit in each replica while Redis is away: a third for three replicas."),
    one("objects", "objects", "URL", "none", "Object store in which replicas with one PostgreSQL keep adapters, files and the states of training jobs together: s3://bucket/prefix, gs://, az:// or file:///directory; docs/replicas.md."),
    one("objects_cache", "objects-cache", "BYTES", "10GiB", "Most bytes that copies of shared adapters, and of shared files, may each take in the data directory."),
    one("ledger_sync", "ledger-sync", "WHEN", "group", "When rows of the ledger, which are with the operating system before an answer ends, are put on the disk: group (within 10 ms, nobody waits), wait (answers wait), never."),
    many("adapter_roots", "adapter-root", "DIR", "DATA_DIR/adapters and the bundled adapters",
        "Directory that the API may load adapters from. May be repeated."),
    many("adapters", "adapter", "NAME=PATH", "the bundled adapters, on the bundled base",
        "Adapter to serve from the start: a PEFT directory. May be repeated."),
    one("kv_memory", "kv-memory", "BYTES", "auto", "Memory for keys and values of running sequences, e.g. 512MiB; auto is a quarter of what is free, 2GiB on a CUDA device."),
    one("adapter_memory", "adapter-memory", "BYTES", "unbounded", "Memory for adapters, e.g. 2GiB: those used last stay, others are read from the disk when they are asked for. Unbounded: all in service stay."),
    one("max_context", "max-context", "N", "auto", "Most tokens of a sequence, prompt and answer; auto is what the base was made for."),
    one("max_batch_tokens", "max-batch-tokens", "N", "512", "Most tokens in one step of the model."),
    one("max_sequences", "max-sequences", "N", "64", "Most sequences that run at the same time."),
    one("queue_capacity", "queue-capacity", "N", "1024", "Most requests that wait; more are answered with 503."),
    one("default_max_tokens", "default-max-tokens", "N", "2048", "Most tokens of an answer whose request does not say: so many are reserved from its limits."),
    one("embeddings_pooling", "embeddings-pooling", "HOW", "mean", "How the hidden states of a text's tokens become its embedding where a request does not say: mean, or last (the last token's)."),
    one("tool_syntax", "tool-syntax", "FAMILY", "auto", "How the base writes calls of functions: hermes, llama3, mistral, plain, or auto (what its chat template says)."),
    one(
        "speculation_tokens",
        "speculation-tokens",
        "N",
        "8",
        "Most tokens that are guessed for an answer in one step; the answer is the same. 0 guesses none.",
    ),
    one("prefix_cache", "prefix-cache", "on|off", "on", "Reuse keys and values of prompts that begin alike."),
    one("backend", "backend", "native|mistralrs|null", "native",
        "What generates: our engine; mistralrs, for families of models that it does not cover (in builds that have it); or null: no model, words after a delay, to measure all that is around a model."),
    one("null_delay", "null-delay", "TIME", "5ms", "With the null backend: from a request's submission to its first token."),
    one("null_token_gap", "null-token-gap", "TIME", "0ms", "With the null backend: from each token to the next; with 0 all come at once."),
    one("null_tokens", "null-tokens", "N", "16", "With the null backend: tokens of an answer whose request leaves the length open."),
    one("response_cache", "response-cache", "BYTES", "64MiB", "Memory for answers that are a function of their request, kept for those who opt in; 0 is no cache."),
    one("response_cache_ttl", "response-cache-ttl", "SECONDS", "3600", "How long an answer is kept."),
    one("convert_model", "convert-model", "NAME", "convert", "What answers /convert where a request names no model."),
    one("convert_timezone", "convert-timezone", "ZONE", "UTC", "Time zone of /convert where a request names none, like Europe/Berlin."),
    one("convert_unknown_below", "convert-unknown-below", "PERCENT", "20", "Readings of /convert with less confidence are `unknown`; 0 lets all pass."),
    one("responses_keep", "responses-keep", "DAYS", "30", "Days for which answers of /v1/responses are kept, so that others can go on from them; 0 keeps none."),
    one("convert_keep_texts", "convert-keep-texts", "DAYS", "7", "Days for which texts of /convert are kept, so that answers can be corrected; 0 keeps none."),
    one("max_body_bytes", "max-body-bytes", "BYTES", "8MiB", "Largest request body."),
    one("max_upload_bytes", "max-upload-bytes", "BYTES", "1GiB", "Largest adapter (both files together) or file that is taken over HTTP."),
    one("max_stored_bytes", "max-stored-bytes", "BYTES", "64GiB", "Most bytes of files that a tenant may keep."),
    one("shadow_retention", "shadow-retention", "SECONDS", "604800", "How long answers of silent models (shadow traffic) are kept beside those that were given."),
    one("training_mode", "training-mode", "MODE", "idle", "When fine-tuning jobs compute: idle (while nobody waits for an answer), share=N% (also N percent of the time while somebody does), exclusive (always)."),
    one("training_slice", "training-slice", "TIME", "5ms", "How long a job may go on computing once somebody waits."),
    one("training_hours", "training-hours", "HH:MM-HH:MM", "always", "Hours of the day (UTC) in which jobs compute, like 22:00-06:00."),
    one("training_memory", "training-memory", "BYTES", "auto", "Memory that a job may take beside the base, e.g. 4GiB; auto is nine tenths of what is free when it begins."),
    one("training_jobs", "training-jobs", "WHERE", "here", "Who works on fine-tuning jobs: here, or elsewhere (they are asked for here, and other replicas work on them; needs objects)."),
    one("training_max_time", "training-max-time", "SECONDS", "86400", "Longest time that a fine-tuning job may train."),
    one("drain_delay", "drain-delay", "SECONDS", "0", "How long requests are still taken after SIGTERM, while /ready says 503 and answers ask for another connection: for load balancers to notice."),
    one("drain_deadline", "drain-deadline", "SECONDS", "30", "How long running answers may go on after SIGTERM."),
    one("jwt_keys", "jwt-keys", "FILE|URL", "none",
        "Public keys of the issuer of JSON Web Tokens (a JSON Web Key Set): a file, or an https address. Tokens are accepted where this or SWITCHYARD_JWT_SECRET is set."),
    one("jwt_issuer", "jwt-issuer", "TEXT", "none", "What a token's `iss` must be."),
    many("jwt_audience", "jwt-audience", "TEXT", "none", "A token's `aud` must have one of these. May be repeated."),
    many("jwt_algorithms", "jwt-algorithms", "ALG", "those that there is a key for",
        "Algorithm that tokens may be signed with: HS256, RS256, RS384, RS512, ES256, EdDSA. May be repeated."),
    one("jwt_leeway", "jwt-leeway", "SECONDS", "30", "How far the clocks of issuers may be from ours."),
    one("jwt_refresh", "jwt-refresh", "SECONDS", "300", "How often an address is asked for its keys, beside at unknown key ids."),
    one("jwt_tenant_claim", "jwt-tenant-claim", "NAME", "tenant", "Claim of a token with its tenant."),
    one("jwt_scope_claim", "jwt-scope-claim", "NAME", "scope", "Claim with its scopes: inference, fine_tuning, read_only; without it inference."),
    one("jwt_models_claim", "jwt-models-claim", "NAME", "models", "Claim with the models that may be used; without it all of the tenant's."),
    one("jwt_admin", "jwt-admin", "on|off", "off", "Whether a token with the scope `admin` is an admin's."),
    one("log_format", "log-format", "text|json", "text", "Form of log lines (on standard error)."),
    one("log_level", "log-level", "LEVEL", "info", "error, warn, info, debug, trace, or filters like switchyard::http=debug."),
    one("otlp_endpoint", "otlp-endpoint", "URL", "none", "Collector that traces are exported to over OTLP (HTTP), like http://127.0.0.1:4318 (needs a build with feature `otlp`)."),
];

/// The setting with this key. Keys are written in this crate, so that a missing one is a mistake found by the first test.
pub(super) fn setting(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// The closest of `names` to what was typed, if it is close enough to be meant.
pub(super) fn nearest<'a>(typed: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed = typed.to_ascii_lowercase();
    names
        .into_iter()
        .map(|name| (distance(&typed, &name.to_ascii_lowercase()), name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Levenshtein distance, in bytes.
fn distance(left: &str, right: &str) -> usize {
    let right = right.as_bytes();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let keys = || SETTINGS.iter().map(|setting| setting.key);
        assert_eq!(nearest("lisen", keys()), Some("listen"));
        assert_eq!(nearest("max_batch_token", keys()), Some("max_batch_tokens"));
        assert_eq!(nearest("adapter", keys()), Some("adapters"));
        assert_eq!(nearest("colour", keys()), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
