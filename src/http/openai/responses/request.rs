//! The request of `/v1/responses`: from JSON, and what was said before, to the gateway's words.

use std::sync::Arc;

use serde_json::{Value, json};

use super::items::{Item, input, item, messages};
use super::kept::{kept, shortened};
use crate::gateway::{
    Echo, EndToken, Form, GenerationRequest, Message, Prompt, Role, Sampling, SpecialTokens, Steering, Stops, Tools, Turn,
};
use crate::http::Server;
use crate::http::error::ApiError;
use crate::http::fields::{Fields, Rule, word, wrong_type};
use crate::http::openai::form_request::take_form;
use crate::http::openai::generation::{self, MAX_LOGPROBS, cache_key, end_user};
use crate::http::openai::reply::refused;
use crate::http::openai::sender::Sender;
use crate::http::openai::tools_request::take_tools;

/// OpenAI's limits of `metadata`.
const MAX_METADATA: usize = 16;
const MAX_METADATA_KEY: usize = 64;
const MAX_METADATA_VALUE: usize = 512;

/// Fields of the current OpenAI schema (openai-python 3.52, `ResponseCreateParams`) that no code reads.
const RULES: &[(&str, Rule)] = &[
    ("access_programs", Rule::Refused("There are no access programs.")),
    ("background", Rule::Only(&["false"], "Answers are given while the client waits; the only supported value is false.")),
    ("context_management", Rule::Only(&["[]"], "Conversations are not compacted; use 'truncation'.")),
    ("conversation", Rule::Refused("There are no conversation objects; use 'previous_response_id'.")),
    ("image", Rule::Refused("Only text is supported.")),
    ("max_tool_calls", Rule::Refused("Calls are not counted; use 'parallel_tool_calls'.")),
    ("moderation", Rule::Refused("Requests and answers are not moderated.")),
    ("prompt", Rule::Refused("There are no stored prompts; send 'instructions' and 'input'.")),
    ("prompt_cache_options", Rule::Refused("Shared prefixes are cached by themselves; there are no options for it.")),
    (
        "prompt_cache_retention",
        Rule::Only(&[r#""in_memory""#], "Prefixes are cached in memory only; the only supported value is 'in_memory'."),
    ),
    (
        "reasoning",
        Rule::Only(&["{}", r#"{"effort":"none"}"#], "Reasoning is not supported; the only supported effort is 'none'."),
    ),
    (
        "service_tier",
        Rule::Only(&[r#""auto""#, r#""default""#], "There is one tier; the supported values are 'auto' and 'default'."),
    ),
    ("n", Rule::Only(&["1"], "A response is one answer; /v1/chat/completions gives several.")),
];

/// A request, ready to be answered.
pub struct Asked {
    /// For the gateway.
    pub request: GenerationRequest,
    /// What the answer says of it.
    pub shown: Shown,
    /// All that was said, the answers before among it.
    pub items: Vec<Value>,
    /// Events instead of one object.
    pub is_streamed: bool,
}

/// What a response says of its request.
#[derive(Debug, Clone)]
pub struct Shown {
    /// `model`, as it was written.
    pub model: String,
    /// `instructions`
    pub instructions: Option<String>,
    /// `max_output_tokens`
    pub max_output_tokens: Option<usize>,
    /// `metadata`
    pub metadata: Value,
    /// `previous_response_id`
    pub previous: Option<String>,
    /// `prompt_cache_key`
    pub cache_key: Option<String>,
    /// `safety_identifier`, or `user`.
    pub end_user: Option<String>,
    /// `temperature`
    pub temperature: f32,
    /// `top_p`
    pub top_p: f32,
    /// `top_logprobs`
    pub top_logprobs: usize,
    /// Tokens are reported.
    pub has_logprobs: bool,
    /// `truncation`
    pub truncation: Truncation,
    /// Whether it is kept.
    pub is_stored: bool,
    /// `tools`, `tool_choice`, `parallel_tool_calls` and `text.format`, as they were written.
    pub written: Written,
}

/// What is given back as it was written.
#[derive(Debug, Clone)]
pub struct Written {
    /// `tools`
    pub tools: Value,
    /// `tool_choice`
    pub tool_choice: Value,
    /// `parallel_tool_calls`
    pub parallel: Value,
    /// `text.format`
    pub format: Value,
}

/// What becomes of a conversation that does not fit the context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truncation {
    /// It is refused.
    Disabled,
    /// What was said first is left out.
    Auto,
}

impl Truncation {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Auto => "auto",
        }
    }
}

/// What stands in the body.
struct Typed {
    shown: Shown,
    sampling: Sampling,
    seed: Option<u64>,
    stops: Stops,
    items: Vec<Item>,
    is_streamed: bool,
    form: Form,
    tools: Option<Tools>,
}

/// Reads a request, and what it goes on from.
pub async fn read(server: &Server, sender: &Sender, body: Value) -> Result<Asked, ApiError> {
    if body.get("response_format").is_some() {
        let message = "Unknown parameter: 'response_format'. It is 'text.format' here.";
        return Err(ApiError::invalid("response_format", "unknown_parameter", message));
    }
    let typed = typed(server, body).map_err(in_own_words)?;
    let Typed { mut shown, sampling, seed, stops, items, is_streamed, form, tools } = typed;
    let mut said = match shown.previous.as_deref() {
        None => Vec::new(),
        Some(id) => before(server, sender, id).await?,
    };
    said.extend(items);
    if shown.previous.is_some() {
        check_length(&said, server.config().body_limit)?;
    }
    let described: Vec<Value> = tools.iter().flat_map(|tools| tools.offered.iter()).map(|tool| tool.described.clone()).collect();
    let prompts = Prompts { shown: &shown, tools: &described };
    let prompt = prompts.fitting(server, messages(&said)).await?;
    let caller = Arc::clone(&sender.caller);
    if shown.is_stored && !server.responses().keeps() {
        shown.is_stored = false;
    }
    let request = GenerationRequest {
        caller,
        origin: sender.origin("responses", shown.end_user.clone()),
        caching: sender.caching,
        model: shown.model.clone(),
        steering: Steering { cache_key: shown.cache_key.clone(), ..sender.steering.clone() },
        prompts: vec![prompt],
        n: 1,
        sampling,
        seed,
        max_tokens: shown.max_output_tokens,
        stops,
        logprobs: shown.has_logprobs.then_some(shown.top_logprobs),
        end_token: EndToken::Unreported,
        echo: Echo::Answer,
        form,
        tools,
        judge: None,
        pooling: None,
    };
    Ok(Asked { request, shown, items: said.into_iter().map(|item| item.written).collect(), is_streamed })
}

fn typed(server: &Server, mut body: Value) -> Result<Typed, ApiError> {
    let written = in_chats_words(&mut body);
    let mut fields = Fields::body(body)?;
    let limits = server.limits();
    let model = fields.required_string("model")?;
    let items = input(&mut fields)?;
    let instructions = fields.string("instructions")?.filter(|text| !text.is_empty());
    let max_output_tokens = fields.count("max_output_tokens", 1..=u32::MAX as usize)?;
    let sampling = generation::sampling(&mut fields, &limits)?;
    let seed = generation::seed(&mut fields)?;
    let stops = generation::stops(&mut fields, &limits)?;
    let metadata = metadata(&mut fields)?;
    let previous = fields.string("previous_response_id")?;
    let cache_key = cache_key(&mut fields)?;
    let end_user = end_user(&mut fields)?;
    let truncations = [("disabled", Truncation::Disabled), ("auto", Truncation::Auto)];
    let truncation = fields.string("truncation")?.map(|text| word("truncation", &text, &truncations)).transpose()?;
    let stored = fields.boolean("store")?;
    if stored == Some(true) && !server.responses().keeps() {
        let message = "Unsupported value: 'store' is true, but this server keeps no responses (the setting responses_keep is 0).";
        return Err(ApiError::invalid("store", "unsupported_value", message));
    }
    let has_logprobs = include(&mut fields)?;
    let top_logprobs = fields.count("top_logprobs", 0..=MAX_LOGPROBS)?.unwrap_or(0);
    if top_logprobs > 0 && !has_logprobs {
        let message = "'top_logprobs' is only allowed when 'include' has 'message.output_text.logprobs'.";
        return Err(ApiError::invalid("top_logprobs", "invalid_parameter_combination", message));
    }
    let form = take_form(&mut fields)?;
    let tools = take_tools(&mut fields, &form)?;
    if let Some(text) = fields.take("text") {
        let verbosity = Rule::Refused("Verbosity cannot be chosen; ask for it in a message.");
        Fields::object("text".to_owned(), text)?.finish(&[("verbosity", verbosity)])?;
    }
    let is_streamed = fields.boolean("stream")?.unwrap_or(false);
    if let Some(options) = fields.take("stream_options") {
        let options = Fields::object("stream_options".to_owned(), options)?;
        let padded = Rule::Only(&["false"], "Streams are not padded; the only supported value is false.");
        options.finish(&[("include_obfuscation", padded)])?;
    }
    fields.finish(RULES)?;
    let shown = Shown {
        model,
        instructions,
        max_output_tokens,
        metadata,
        previous,
        cache_key,
        end_user,
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        top_logprobs,
        has_logprobs,
        truncation: truncation.unwrap_or(Truncation::Disabled),
        is_stored: stored.unwrap_or(true),
        written,
    };
    Ok(Typed { shown, sampling, seed, stops, items, is_streamed, form, tools })
}

/// Whether tokens are to be reported.
fn include(fields: &mut Fields) -> Result<bool, ApiError> {
    let wanted = fields.strings("include", 16)?.unwrap_or_default();
    for (index, name) in wanted.iter().enumerate() {
        word(&format!("include[{index}]"), name, &[("message.output_text.logprobs", ())])?;
    }
    Ok(!wanted.is_empty())
}

/// Functions and forms are written here as chat writes them, one level flatter: puts them where chat has them, and returns what was
/// there.
fn in_chats_words(body: &mut Value) -> Written {
    let Value::Object(body) = body else {
        return Written { tools: json!([]), tool_choice: json!("auto"), parallel: json!(true), format: json!({"type": "text"}) };
    };
    let given = |value: Option<&Value>, usual: Value| value.filter(|value| !value.is_null()).cloned().unwrap_or(usual);
    let format = body.get_mut("text").and_then(Value::as_object_mut).and_then(|text| text.shift_remove("format"));
    let written = Written {
        tools: given(body.get("tools"), json!([])),
        tool_choice: given(body.get("tool_choice"), json!("auto")),
        parallel: given(body.get("parallel_tool_calls"), json!(true)),
        format: given(format.as_ref(), json!({"type": "text"})),
    };
    for tool in body.get_mut("tools").and_then(Value::as_array_mut).into_iter().flatten() {
        nest(tool, "function");
    }
    if written.tools == json!([]) && (written.tool_choice == "auto" || written.tool_choice == "none") {
        // The client package sends back what it received.
        body.shift_remove("tool_choice");
    } else if let Some(choice) = body.get_mut("tool_choice") {
        nest(choice, "function");
    }
    if let Some(mut format) = format.filter(|format| !format.is_null()) {
        if format["type"] == "json_schema" {
            nest(&mut format, "json_schema");
        }
        body.insert("response_format".to_owned(), format);
    }
    written
}

/// `{"type": ..., "name": ...}` to `{"type": ..., NAME: {"name": ...}}`.
fn nest(value: &mut Value, name: &str) {
    let Value::Object(map) = value else { return };
    // Of other types nothing is there; they are refused by their type.
    if map.get("type").is_none_or(|kind| kind == name) {
        let kind = map.shift_remove("type");
        let inner = std::mem::take(map);
        map.extend(kind.map(|kind| ("type".to_owned(), kind)));
        map.insert(name.to_owned(), Value::Object(inner));
    } else {
        map.retain(|key, _| key == "type");
    }
}

/// An error about what chat has elsewhere, with the names that it has here.
pub fn in_own_words(error: ApiError) -> ApiError {
    let here = |text: &str| {
        text.replace("response_format.json_schema", "text.format")
            .replace("response_format", "text.format")
            .replace("].function", "]")
            .replace("tool_choice.function", "tool_choice")
    };
    ApiError { param: error.param.as_deref().map(here), message: here(&error.message), ..error }
}

fn metadata(fields: &mut Fields) -> Result<Value, ApiError> {
    let Some(value) = fields.take("metadata") else { return Ok(json!({})) };
    let Value::Object(map) = &value else { return Err(wrong_type("metadata", "an object", &value)) };
    if map.len() > MAX_METADATA {
        let message = format!("Invalid 'metadata': expected at most {MAX_METADATA} pairs, but got {}.", map.len());
        return Err(ApiError::invalid("metadata", "object_above_max_properties", message));
    }
    for (key, value) in map {
        let path = format!("metadata.{key}");
        let Value::String(text) = value else { return Err(wrong_type(&path, "a string", value)) };
        if key.chars().count() > MAX_METADATA_KEY || text.chars().count() > MAX_METADATA_VALUE {
            let message = format!(
                "Invalid 'metadata': keys have at most {MAX_METADATA_KEY} characters and values at most {MAX_METADATA_VALUE}."
            );
            return Err(ApiError::invalid("metadata", "string_above_max_length", message));
        }
    }
    Ok(value)
}

/// What was said before, up to the answer that a request goes on from.
async fn before(server: &Server, sender: &Sender, id: &str) -> Result<Vec<Item>, ApiError> {
    let Some(kept) = kept(server, &sender.caller, id).await? else {
        let message = format!("Previous response with id '{}' not found.", shortened(id));
        return Err(ApiError::invalid("previous_response_id", "previous_response_not_found", message));
    };
    let output = kept.response["output"].as_array().cloned().unwrap_or_default();
    // A call that its length has cut was never made.
    let is_cut = |item: &Value| item["type"] == "function_call" && item["status"] == "incomplete";
    let output = output.into_iter().filter(|item| !is_cut(item));
    kept.items.into_iter().chain(output).map(|value| item("previous_response_id".to_owned(), value)).collect()
}

/// Refuses a conversation that has grown beyond what one request could say: each of its responses is kept with all of it.
fn check_length(said: &[Item], limit: usize) -> Result<(), ApiError> {
    let bytes: usize = said.iter().map(|item| item.written.to_string().len()).sum();
    if bytes <= limit {
        return Ok(());
    }
    let message = format!(
        "Invalid 'previous_response_id': the conversation and this request's items have {bytes} bytes together; expected at most \
         {limit}. Begin a new conversation, with what matters of this one in 'input'."
    );
    Err(ApiError::invalid("previous_response_id", "conversation_too_long", message))
}

/// Prompts of a request, with more or less of what was said.
struct Prompts<'a> {
    shown: &'a Shown,
    tools: &'a [Value],
}

impl Prompts<'_> {
    fn of(&self, messages: &[Message]) -> Prompt {
        let instructions = self.shown.instructions.clone().map(|text| Message::new(Role::System, text));
        let messages = instructions.into_iter().chain(messages.iter().cloned()).collect();
        Prompt::Chat { messages, tools: self.tools.to_vec(), turn: Turn::Open, special: SpecialTokens::Omit }
    }

    /// Of all messages, or of as many of the last as fit, where that was asked for.
    async fn fitting(&self, server: &Server, messages: Vec<Message>) -> Result<Prompt, ApiError> {
        if self.shown.truncation == Truncation::Disabled {
            return Ok(self.of(&messages));
        }
        let answer = self.shown.max_output_tokens.unwrap_or_else(|| server.gateway().usual_answer());
        let room = server.gateway().context_length().saturating_sub(answer);
        let fits = async |left_out: usize| {
            let rendered = server.gateway().render(self.of(&messages[left_out..])).await;
            rendered.map(|rendered| rendered.tokens.len() <= room).map_err(|error| refused(server, error, "input"))
        };
        if fits(0).await? {
            return Ok(self.of(&messages));
        }
        // The fewest that have to go; the last message stays in any case.
        let (mut fewest, mut enough) = (1, messages.len() - 1);
        while fewest < enough {
            let middle = fewest.midpoint(enough);
            if fits(middle).await? {
                enough = middle;
            } else {
                fewest = middle + 1;
            }
        }
        // A conversation begins with what somebody asked.
        let asks = |message: &Message| matches!(message.role, Role::User | Role::System);
        let from = messages.iter().skip(enough).position(asks).map_or(enough, |at| at + enough);
        Ok(self.of(&messages[from..]))
    }
}
