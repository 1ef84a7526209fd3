//! `adapter_config.json`: which linears are targeted, with which rank and scale. What would change the computation and is not
//! implemented is refused by name; fields that only matter in training are accepted.

use fancy_regex::Regex;
use serde_json::{Map, Value};

use super::{CONFIG_FILE, invalid};
use crate::model::ModelError;

/// Longest pattern in `target_modules`, `rank_pattern`, `alpha_pattern`, characters.
const MAX_PATTERN: usize = 16 << 10;
/// Most patterns of one kind.
const MAX_PATTERNS: usize = 4096;

/// Fields that say where the adapter came from or how it was trained; they do not change what is computed.
const HARMLESS: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "eva_config",
    "inference_mode",
    "layers_pattern",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
];

/// Fields read below.
const READ: &[&str] = &[
    "alpha_pattern",
    "bias",
    "exclude_modules",
    "init_lora_weights",
    "lora_alpha",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "task_type",
    "use_rslora",
];

/// Names outside the layers that an adapter may not target.
const OUTSIDE: [&str; 2] = ["model.embed_tokens", "lm_head"];

/// Which modules a setting selects (PEFT's rules).
enum Selector {
    /// `"all-linear"`: every linear but the output layer.
    AllLinear,
    /// A list: the module's path, or the end of it after a dot.
    Suffixes(Vec<String>),
    /// One string: a regular expression that matches the whole path.
    Pattern(Box<Regex>),
}

/// The settings of an adapter that change what is computed.
pub(super) struct AdapterConfig {
    rank: usize,
    alpha: f64,
    rank_stabilized: bool,
    targets: Selector,
    excluded: Option<Selector>,
    /// First match decides, in the file's order.
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f64)>,
    canonical: String,
}

impl AdapterConfig {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ModelError> {
        let value: Value = serde_json::from_slice(bytes).map_err(|error| wrong(format!("is not JSON: {error}")))?;
        let Value::Object(fields) = value else { return Err(wrong("is not a JSON object")) };
        refuse_unsupported(&fields)?;
        let targets = fields
            .get("target_modules")
            .and_then(selector_value)
            .ok_or_else(|| wrong("target_modules must be a list of module names, a regular expression, or \"all-linear\""))?;
        let config = Self {
            rank: match fields.get("r") {
                Some(value) => rank("r", value)?,
                None => return Err(wrong("r (the rank) is missing")),
            },
            alpha: match fields.get("lora_alpha") {
                Some(value) => alpha("lora_alpha", value)?,
                None => return Err(wrong("lora_alpha is missing")),
            },
            rank_stabilized: flag(&fields, "use_rslora")?,
            targets: selector("target_modules", targets)?,
            excluded: match fields.get("exclude_modules") {
                None => None,
                Some(value) if is_empty(value) => None,
                Some(value) => Some(selector("exclude_modules", value)?),
            },
            ranks: patterns(&fields, "rank_pattern", rank)?,
            alphas: patterns(&fields, "alpha_pattern", alpha)?,
            canonical: canonical(&fields),
        };
        for outside in OUTSIDE {
            if config.targets(outside)? {
                return Err(wrong(format!(
                    "target_modules names {outside}: adapters on embeddings or the output layer are not supported"
                )));
            }
        }
        Ok(config)
    }

    /// Rank and scale of a module; `None` where it is not targeted.
    pub(super) fn rank_and_scale(&self, path: &str) -> Result<Option<(usize, f32)>, ModelError> {
        if !self.targets(path)? {
            return Ok(None);
        }
        let rank = first_match(&self.ranks, path)?.copied().unwrap_or(self.rank);
        let alpha = first_match(&self.alphas, path)?.copied().unwrap_or(self.alpha);
        let divisor = if self.rank_stabilized { (rank as f64).sqrt() } else { rank as f64 };
        Ok(Some((rank, (alpha / divisor) as f32)))
    }

    /// A name in the list of targets that is none of these paths, nor the end of one.
    pub(super) fn lacking(&self, paths: &[String]) -> Option<&str> {
        let Selector::Suffixes(names) = &self.targets else { return None };
        names.iter().find(|name| !paths.iter().any(|path| ends(path, name))).map(String::as_str)
    }

    /// Text that is the same for configurations that compute the same; part of the version's digest.
    pub(super) fn canonical(&self) -> &str {
        &self.canonical
    }

    fn targets(&self, path: &str) -> Result<bool, ModelError> {
        if let Some(excluded) = &self.excluded
            && excluded.matches(path)?
        {
            return Ok(false);
        }
        self.targets.matches(path)
    }
}

impl Selector {
    fn matches(&self, path: &str) -> Result<bool, ModelError> {
        match self {
            Self::AllLinear => Ok(!OUTSIDE.contains(&path)),
            Self::Suffixes(names) => Ok(names.iter().any(|name| ends(path, name))),
            Self::Pattern(regex) => is_match(regex, path),
        }
    }
}

/// Whether a name is a path, or the end of it after a dot.
fn ends(path: &str, name: &str) -> bool {
    path == name || path.strip_suffix(name).is_some_and(|before| before.ends_with('.'))
}

fn refuse_unsupported(fields: &Map<String, Value>) -> Result<(), ModelError> {
    match fields.get("peft_type") {
        Some(Value::String(kind)) if kind == "LORA" => {}
        Some(other) => return Err(wrong(format!("peft_type {other} is not supported; \"LORA\" is"))),
        None => return Err(wrong("peft_type is missing; \"LORA\" is supported")),
    }
    match fields.get("task_type") {
        None | Some(Value::Null) => {}
        Some(Value::String(task)) if task == "CAUSAL_LM" => {}
        Some(other) => return Err(wrong(format!("task_type {other} is not supported; \"CAUSAL_LM\" is"))),
    }
    match fields.get("bias") {
        None | Some(Value::Null) => {}
        Some(Value::String(bias)) if bias == "none" => {}
        Some(other) => return Err(wrong(format!("bias {other} is not supported; \"none\" is"))),
    }
    // Other initialisations (PiSSA, OLoRA, LoftQ, CorDA, LoRA-GA) move part of the base into the adapter: on the untouched base
    // such an adapter would compute something else.
    match fields.get("init_lora_weights") {
        None | Some(Value::Null | Value::Bool(_)) => {}
        Some(Value::String(init)) if matches!(init.as_str(), "gaussian" | "eva" | "orthogonal") => {}
        Some(other) => {
            return Err(wrong(format!(
                "init_lora_weights {other} is not supported: it changes the base's weights; convert the adapter with \
                 PEFT's path_initial_model_for_weight_conversion"
            )));
        }
    }
    for (name, value) in fields {
        let known = HARMLESS.contains(&name.as_str()) || READ.contains(&name.as_str());
        if !known && !is_empty(value) {
            return Err(wrong(format!("{name} is not supported (it is {})", shortened(value))));
        }
    }
    Ok(())
}

/// `null`, `false`, and empty strings, lists and objects switch a field off.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

fn selector_value(value: &Value) -> Option<&Value> {
    (!is_empty(value)).then_some(value)
}

fn selector(field: &str, value: &Value) -> Result<Selector, ModelError> {
    match value {
        Value::String(text) if text == "all-linear" => Ok(Selector::AllLinear),
        Value::String(pattern) => Ok(Selector::Pattern(Box::new(compile(field, pattern, format!(r"\A(?:{pattern})\z"))?))),
        Value::Array(items) if items.len() <= MAX_PATTERNS => items
            .iter()
            .map(|item| match item {
                Value::String(name) if !name.is_empty() => Ok(name.clone()),
                other => Err(wrong(format!("{field} holds {other}; names of modules are right"))),
            })
            .collect::<Result<_, _>>()
            .map(Selector::Suffixes),
        Value::Array(items) => Err(wrong(format!("{field} has {} entries; at most {MAX_PATTERNS} are allowed", items.len()))),
        other => Err(wrong(format!("{field} is {}; a list or a string is right", shortened(other)))),
    }
}

/// `rank_pattern` and `alpha_pattern`: each key matches the end of a module's path, from a dot or the beginning.
fn patterns<T>(
    fields: &Map<String, Value>,
    field: &str,
    read: impl Fn(&str, &Value) -> Result<T, ModelError>,
) -> Result<Vec<(Regex, T)>, ModelError> {
    let entries = match fields.get(field) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(entries)) if entries.len() <= MAX_PATTERNS => entries,
        Some(Value::Object(entries)) => {
            return Err(wrong(format!("{field} has {} entries; at most {MAX_PATTERNS} are allowed", entries.len())));
        }
        Some(other) => return Err(wrong(format!("{field} is {}; an object is right", shortened(other)))),
    };
    entries
        .iter()
        .map(|(key, value)| {
            let regex = compile(field, key, format!(r"\A(.*\.)?({key})\z"))?;
            Ok((regex, read(&format!("{field}[{key:?}]"), value)?))
        })
        .collect()
}

fn compile(field: &str, given: &str, pattern: String) -> Result<Regex, ModelError> {
    if given.len() > MAX_PATTERN {
        return Err(wrong(format!("{field} holds a pattern of {} bytes; at most {MAX_PATTERN} are allowed", given.len())));
    }
    Regex::new(&pattern).map_err(|error| wrong(format!("{field}: {given:?} is not a regular expression: {error}")))
}

fn first_match<'a, T>(patterns: &'a [(Regex, T)], path: &str) -> Result<Option<&'a T>, ModelError> {
    for (regex, value) in patterns {
        if is_match(regex, path)? {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// A pattern that backtracks too much is an error, not a hang: the library counts its steps.
fn is_match(regex: &Regex, path: &str) -> Result<bool, ModelError> {
    regex.is_match(path).map_err(|error| wrong(format!("pattern {:?} cannot be matched: {error}", regex.as_str())))
}

fn rank(field: &str, value: &Value) -> Result<usize, ModelError> {
    value
        .as_u64()
        .and_then(|rank| usize::try_from(rank).ok())
        .filter(|rank| *rank >= 1)
        .ok_or_else(|| wrong(format!("{field} is {}; a rank of at least 1 is right", shortened(value))))
}

fn alpha(field: &str, value: &Value) -> Result<f64, ModelError> {
    value
        .as_f64()
        .filter(|alpha| (*alpha as f32).is_finite())
        .ok_or_else(|| wrong(format!("{field} is {}; a number is right", shortened(value))))
}

fn flag(fields: &Map<String, Value>, field: &str) -> Result<bool, ModelError> {
    match fields.get(field) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(other) => Err(wrong(format!("{field} is {}; true or false is right", shortened(other)))),
    }
}

/// The settings that change what is computed, one line each. Lists of names mean the same in any order; patterns do not.
fn canonical(fields: &Map<String, Value>) -> String {
    let sorted = |value: &Value| match value {
        Value::Array(items) => {
            let mut names: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
            names.sort_unstable();
            names.dedup();
            Value::from(names)
        }
        other => other.clone(),
    };
    let mut text = String::new();
    for field in ["r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules"] {
        let value = fields.get(field).filter(|value| !is_empty(value)).map_or(Value::Null, sorted);
        text.push_str(field);
        text.push('=');
        text.push_str(&value.to_string());
        text.push('\n');
    }
    text
}

fn shortened(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 80 { text } else { text.chars().take(77).chain("...".chars()).collect() }
}

fn wrong(text: impl std::fmt::Display) -> ModelError {
    invalid(format!("{CONFIG_FILE}: {text}"))
}
