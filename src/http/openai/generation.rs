//! The fields that chat and completions share: sampling, lengths, stops, streaming. From JSON to the gateway's words.

use std::sync::Arc;

use serde_json::Value;

use super::form_request::take_form;
use crate::gateway::{EndOfText, Form, Sampling, StopText, Stops};
use crate::http::error::ApiError;
use crate::http::fields::{Fields, Rule, integer, number, wrong_type};

/// OpenAI's limit.
const MAX_STOPS: usize = 4;
/// Every generated token is compared with each of them.
pub const MAX_STOP_TOKENS: usize = 256;
/// Every row of logits is changed at each of them.
pub const MAX_BIASES: usize = 1024;
/// The engine divides by it; smaller ones overflow.
pub const REPETITION_PENALTY: std::ops::RangeInclusive<f64> = 0.01..=100.0;
/// It is in every row of the ledger.
const MAX_END_USER: usize = 512;
/// vLLM and OpenAI agree on 20 alternatives.
pub const MAX_LOGPROBS: usize = 20;

/// What requests are checked against.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Token ids are below this.
    pub vocab_size: usize,
    /// Most answers to one prompt.
    pub max_n: usize,
    /// Most prompts in one completions request.
    pub max_prompts: usize,
    /// Most answers to all prompts of a request: more never fit into the queue.
    pub max_sequences: usize,
}

/// How the answer is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// One JSON object.
    Whole,
    /// Server-sent events.
    Stream {
        /// A last event with the usage.
        usage: StreamUsage,
    },
}

/// Whether a stream ends with the usage (`stream_options.include_usage`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamUsage {
    /// It does.
    Sent,
    /// It does not.
    Omitted,
}

/// The shared fields.
#[derive(Debug)]
pub struct Generation {
    /// `model`.
    pub model: String,
    /// `n`.
    pub n: usize,
    /// Temperature and the like.
    pub sampling: Sampling,
    /// `seed`; negative ones keep their bits.
    pub seed: Option<u64>,
    /// `stop` and relatives.
    pub stops: Stops,
    /// `stream`, `stream_options`.
    pub delivery: Delivery,
    /// `response_format`, `guided_*`.
    pub form: Form,
}

/// Fields of the OpenAI schema and of vLLM that both endpoints know and do not need, or cannot serve.
pub const SHARED_RULES: &[(&str, Rule)] = &[
    ("min_tokens", Rule::Only(&["0"], "A least number of tokens is not supported; use 'logit_bias' or 'ignore_eos'.")),
    ("length_penalty", Rule::Only(&["1"], "Beam search is not supported.")),
    ("use_beam_search", Rule::Only(&["false"], "Beam search is not supported.")),
    ("early_stopping", Rule::Only(&["false"], "Beam search is not supported.")),
    ("skip_special_tokens", Rule::Only(&["true"], "Special tokens are never part of an answer's text.")),
    ("spaces_between_special_tokens", Rule::Only(&["true"], "Special tokens are never part of an answer's text.")),
    ("truncate_prompt_tokens", Rule::Refused("Prompts are never shortened silently; send a shorter one.")),
    ("prompt_logprobs", Rule::Refused("Log-probabilities of a prompt come from /v1/completions with 'echo' and 'logprobs'.")),
    (
        "structured_outputs",
        Rule::Refused("Use 'response_format', or 'guided_json', 'guided_regex', 'guided_choice' or 'guided_grammar'."),
    ),
    ("guided_decoding_backend", Rule::Refused("There is one; it cannot be chosen.")),
    ("guided_whitespace_pattern", Rule::Refused("Between values there is at most one space; it cannot be chosen.")),
];

impl Generation {
    /// Takes the shared fields.
    pub fn take(fields: &mut Fields, limits: &Limits) -> Result<Self, ApiError> {
        let model = fields.required_string("model")?;
        let n = fields.count("n", 1..=limits.max_n.min(limits.max_sequences))?.unwrap_or(1);
        let sampling = sampling(fields, limits)?;
        let seed = seed(fields)?;
        let stops = stops(fields, limits)?;
        let delivery = delivery(fields)?;
        let form = take_form(fields)?;
        Ok(Self { model, n, sampling, seed, stops, delivery, form })
    }
}

/// `seed`; negative ones keep their bits.
pub fn seed(fields: &mut Fields) -> Result<Option<u64>, ApiError> {
    #[expect(clippy::cast_sign_loss, reason = "a seed is 64 bits; negative ones keep theirs")]
    Ok(fields.integer("seed", i64::MIN..=i64::MAX)?.map(|seed| seed as u64))
}

/// Temperature and the like.
#[expect(clippy::cast_possible_truncation, reason = "sampling computes in f32; the ranges are small")]
pub fn sampling(fields: &mut Fields, limits: &Limits) -> Result<Sampling, ApiError> {
    let default = Sampling::default();
    let mut take = |name: &str, range: std::ops::RangeInclusive<f64>, default: f32| {
        Ok::<f32, ApiError>(fields.number(name, range)?.map_or(default, |value| value as f32))
    };
    let temperature = take("temperature", 0.0..=2.0, default.temperature)?;
    let top_p = take("top_p", 0.0..=1.0, default.top_p)?;
    let min_p = take("min_p", 0.0..=1.0, default.min_p)?;
    let presence_penalty = take("presence_penalty", -2.0..=2.0, default.presence_penalty)?;
    let frequency_penalty = take("frequency_penalty", -2.0..=2.0, default.frequency_penalty)?;
    let repetition_penalty = take("repetition_penalty", REPETITION_PENALTY, default.repetition_penalty)?;
    if top_p <= 0.0 {
        let message = format!("Invalid 'top_p': expected a value > 0, but got {top_p} instead.");
        return Err(ApiError::invalid("top_p", "value_out_of_range", message));
    }
    // vLLM writes "all tokens" as -1 or 0.
    let top_k = fields.integer("top_k", -1..=i64::from(u32::MAX))?.unwrap_or(0);
    let logit_bias = logit_bias(fields, limits)?;
    Ok(Sampling {
        temperature,
        top_p,
        top_k: usize::try_from(top_k).unwrap_or(0),
        min_p,
        presence_penalty,
        frequency_penalty,
        repetition_penalty,
        logit_bias,
        seed: 0,
    })
}

#[expect(clippy::cast_possible_truncation, reason = "-100 to 100")]
fn logit_bias(fields: &mut Fields, limits: &Limits) -> Result<Arc<[(u32, f32)]>, ApiError> {
    let Some(value) = fields.take("logit_bias") else { return Ok(Arc::default()) };
    let Value::Object(map) = value else { return Err(wrong_type("logit_bias", "an object", &value)) };
    if map.len() > MAX_BIASES {
        let message = format!("Invalid 'logit_bias': expected at most {MAX_BIASES} tokens, but got {}.", map.len());
        return Err(ApiError::invalid("logit_bias", "object_above_max_properties", message));
    }
    let mut biases = Vec::with_capacity(map.len());
    for (key, value) in map {
        let id = key.parse::<u32>().ok().filter(|&id| (id as usize) < limits.vocab_size).ok_or_else(|| {
            let largest = limits.vocab_size.saturating_sub(1);
            let message = format!("Invalid key in 'logit_bias': '{key}'. Expected a token id from 0 to {largest}.");
            ApiError::invalid("logit_bias", "invalid_value", message)
        })?;
        biases.push((id, number(&format!("logit_bias.{key}"), &value, -100.0..=100.0)? as f32));
    }
    Ok(biases.into())
}

/// `stop` and relatives.
pub fn stops(fields: &mut Fields, limits: &Limits) -> Result<Stops, ApiError> {
    let strings = match fields.take("stop") {
        None => Vec::new(),
        Some(Value::String(stop)) => vec![stop],
        Some(Value::Array(stops)) => stops
            .into_iter()
            .enumerate()
            .map(|(index, stop)| match stop {
                Value::String(stop) => Ok(stop),
                other => Err(wrong_type(&format!("stop[{index}]"), "a string", &other)),
            })
            .collect::<Result<_, _>>()?,
        Some(other) => return Err(wrong_type("stop", "a string or an array of strings", &other)),
    };
    if strings.len() > MAX_STOPS {
        let message = format!("Invalid 'stop': expected at most {MAX_STOPS} strings, but got {}.", strings.len());
        return Err(ApiError::invalid("stop", "array_above_max_length", message));
    }
    if strings.iter().any(String::is_empty) {
        return Err(ApiError::invalid("stop", "empty_string", "Invalid 'stop': a stop string must not be empty."));
    }
    let tokens = match fields.take("stop_token_ids") {
        None => Vec::new(),
        Some(value) => stop_token_ids(value, limits)?,
    };
    let text = match fields.boolean("include_stop_str_in_output")? {
        Some(true) => StopText::Included,
        _ => StopText::Excluded,
    };
    let end_of_text = match fields.boolean("ignore_eos")? {
        Some(true) => EndOfText::Ignored,
        _ => EndOfText::Stops,
    };
    Ok(Stops { strings, text, tokens, end_of_text })
}

/// Each token once.
fn stop_token_ids(value: Value, limits: &Limits) -> Result<Vec<u32>, ApiError> {
    if let Value::Array(values) = &value
        && values.len() > MAX_STOP_TOKENS
    {
        let message =
            format!("Invalid 'stop_token_ids': expected at most {MAX_STOP_TOKENS} token ids, but got {}.", values.len());
        return Err(ApiError::invalid("stop_token_ids", "array_above_max_length", message));
    }
    let mut tokens = token_ids("stop_token_ids", value, limits)?;
    tokens.sort_unstable();
    tokens.dedup();
    Ok(tokens)
}

/// On whose behalf the request is made: `safety_identifier`, or `user` as it was called before.
pub fn end_user(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    let (old, new) = (fields.string("user")?, fields.string("safety_identifier")?);
    let Some(name) = new.or(old) else { return Ok(None) };
    if name.len() > MAX_END_USER {
        let message =
            format!("Invalid 'safety_identifier' (or 'user'): expected at most {MAX_END_USER} bytes, but got {}.", name.len());
        return Err(ApiError::invalid("safety_identifier", "string_above_max_length", message));
    }
    if name.chars().any(char::is_control) {
        let message = "Invalid 'safety_identifier' (or 'user'): control characters are not allowed.";
        return Err(ApiError::invalid("safety_identifier", "invalid_value", message));
    }
    Ok(Some(name))
}

/// `prompt_cache_key`: the same for requests that belong together. Without a deployment it changes nothing.
pub fn cache_key(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    Ok(fields.string("prompt_cache_key")?.filter(|key| !key.is_empty()))
}

/// An array of token ids, each checked against the vocabulary.
pub fn token_ids(path: &str, value: Value, limits: &Limits) -> Result<Vec<u32>, ApiError> {
    let Value::Array(values) = value else { return Err(wrong_type(path, "an array of token ids", &value)) };
    let largest = i64::try_from(limits.vocab_size).unwrap_or(i64::MAX) - 1;
    let id = |(index, value): (usize, Value)| {
        let id = match value.as_i64().filter(|id| (0..=largest).contains(id)) {
            Some(id) => id,
            None => integer(&format!("{path}[{index}]"), &value, 0..=largest)?,
        };
        u32::try_from(id).map_err(|_| wrong_type(path, "a token id", &value))
    };
    values.into_iter().enumerate().map(id).collect()
}

/// `stream` and `stream_options`.
pub fn delivery(fields: &mut Fields) -> Result<Delivery, ApiError> {
    let stream = fields.boolean("stream")?.unwrap_or(false);
    let Some(options) = fields.take("stream_options") else {
        return Ok(if stream { Delivery::Stream { usage: StreamUsage::Omitted } } else { Delivery::Whole });
    };
    if !stream {
        let message = "The 'stream_options' parameter is only allowed when 'stream' is enabled.";
        return Err(ApiError::invalid("stream_options", "invalid_value", message));
    }
    let mut options = Fields::object("stream_options".to_owned(), options)?;
    let usage = match options.boolean("include_usage")? {
        Some(true) => StreamUsage::Sent,
        _ => StreamUsage::Omitted,
    };
    options.finish(&[
        ("include_obfuscation", Rule::Only(&["false"], "Streams are not padded; the only supported value is false.")),
        ("continuous_usage_stats", Rule::Only(&["false"], "The usage is sent once, at the end of the stream.")),
    ])?;
    Ok(Delivery::Stream { usage })
}
