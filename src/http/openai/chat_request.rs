//! `POST /v1/chat/completions`: the request, from JSON to the gateway's words.

use std::sync::Arc;

use serde_json::Value;

use super::generation::{Delivery, Generation, Limits, MAX_LOGPROBS, SHARED_RULES, cache_key, end_user};
use super::sender::Sender;
use super::tools_request::{take_calls, take_tools};
use crate::gateway::{Echo, EndToken, GenerationRequest, Message, Prompt, Role, SpecialTokens, Steering, Turn};
use crate::http::error::ApiError;
use crate::http::fields::{Fields, Rule, wrong_type};

const OLD_TOOLS: &str = "It is deprecated; use 'tools' and 'tool_choice'.";
const NO_AUDIO: &str = "Only text is supported; the only supported modality is [\"text\"].";

/// Fields of the current OpenAI schema (openai-python 3.52, `CompletionCreateParams`) and of vLLM that no code reads.
const RULES: &[(&str, Rule)] = &[
    ("metadata", Rule::Harmless),
    ("store", Rule::Only(&["false"], "Completions are never stored; the only supported value is false.")),
    (
        "service_tier",
        Rule::Only(&[r#""auto""#, r#""default""#], "There is one tier; the supported values are 'auto' and 'default'."),
    ),
    ("functions", Rule::Only(&["[]"], OLD_TOOLS)),
    ("function_call", Rule::Only(&[r#""none""#], OLD_TOOLS)),
    ("audio", Rule::Refused(NO_AUDIO)),
    ("modalities", Rule::Only(&[r#"["text"]"#], NO_AUDIO)),
    ("moderation", Rule::Refused("Requests and answers are not moderated.")),
    ("prediction", Rule::Refused("Predicted outputs are not supported.")),
    ("prompt_cache_options", Rule::Refused("Shared prefixes are cached by themselves; there are no options for it.")),
    (
        "prompt_cache_retention",
        Rule::Only(&[r#""in_memory""#], "Prefixes are cached in memory only; the only supported value is 'in_memory'."),
    ),
    ("reasoning_effort", Rule::Only(&[r#""none""#], "Reasoning is not supported; the only supported value is 'none'.")),
    ("verbosity", Rule::Refused("Verbosity cannot be chosen; ask for it in a message.")),
    ("web_search_options", Rule::Refused("Web search is not supported.")),
    ("echo", Rule::Only(&["false"], "Chat does not echo its prompt; /v1/completions does.")),
    ("best_of", Rule::Only(&["1"], "All answers are returned; use 'n'.")),
    ("continue_final_message", Rule::Only(&["false"], "Continuing a message is not supported.")),
    ("chat_template", Rule::Refused("The chat template is the base model's.")),
    ("chat_template_kwargs", Rule::Only(&["{}"], "The chat template takes no options.")),
    ("documents", Rule::Refused("Documents are not supported; put them into a message.")),
];

/// Reads a chat request.
pub fn parse(body: Value, sender: &Sender, limits: &Limits) -> Result<(GenerationRequest, Delivery), ApiError> {
    let mut fields = Fields::body(body)?;
    let shared = Generation::take(&mut fields, limits)?;
    let mut prompt = take_prompt(&mut fields, SpecialTokens::Omit)?;
    let offered = take_tools(&mut fields, &shared.form)?;
    if let (Prompt::Chat { tools, .. }, Some(offered)) = (&mut prompt, &offered) {
        *tools = offered.offered.iter().map(|tool| tool.described.clone()).collect();
    }
    let max_tokens = max_tokens(&mut fields)?;
    let logprobs = logprobs(&mut fields)?;
    let end_user = end_user(&mut fields)?;
    let cache_key = cache_key(&mut fields)?;
    let rules: Vec<(&str, Rule)> = SHARED_RULES.iter().chain(RULES).copied().collect();
    fields.finish(&rules)?;
    let request = GenerationRequest {
        caller: Arc::clone(&sender.caller),
        origin: sender.origin("chat.completions", end_user),
        caching: sender.caching,
        model: shared.model,
        steering: Steering { cache_key, ..sender.steering.clone() },
        prompts: vec![prompt],
        n: shared.n,
        sampling: shared.sampling,
        seed: shared.seed,
        max_tokens,
        stops: shared.stops,
        logprobs,
        end_token: EndToken::Unreported,
        echo: Echo::Answer,
        form: shared.form,
        tools: offered,
        judge: None,
        pooling: None,
    };
    Ok((request, shared.delivery))
}

/// Takes `messages` and what steers their rendering (also for `/tokenize`).
pub fn take_prompt(fields: &mut Fields, special: SpecialTokens) -> Result<Prompt, ApiError> {
    let messages = messages(fields)?;
    let turn = match fields.boolean("add_generation_prompt")? {
        Some(false) => Turn::AsIs,
        _ => Turn::Open,
    };
    let special = match fields.boolean("add_special_tokens")? {
        Some(true) => SpecialTokens::Add,
        Some(false) => SpecialTokens::Omit,
        None => special,
    };
    Ok(Prompt::Chat { messages, tools: Vec::new(), turn, special })
}

fn max_tokens(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let old = fields.count("max_tokens", 1..=u32::MAX as usize)?;
    let new = fields.count("max_completion_tokens", 1..=u32::MAX as usize)?;
    if old.is_some() && new.is_some() {
        let message = "'max_tokens' and 'max_completion_tokens' mean the same; send only 'max_completion_tokens'.";
        return Err(ApiError::invalid("max_tokens", "invalid_parameter_combination", message));
    }
    Ok(new.or(old))
}

fn logprobs(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let asked = fields.boolean("logprobs")?.unwrap_or(false);
    let top = fields.count("top_logprobs", 0..=MAX_LOGPROBS)?;
    if top.is_some_and(|top| top > 0) && !asked {
        let message = "'top_logprobs' is only allowed when 'logprobs' is true.";
        return Err(ApiError::invalid("top_logprobs", "invalid_parameter_combination", message));
    }
    Ok(asked.then(|| top.unwrap_or(0)))
}

fn messages(fields: &mut Fields) -> Result<Vec<Message>, ApiError> {
    let value = fields.take("messages").ok_or_else(|| fields.missing("messages"))?;
    let Value::Array(values) = value else { return Err(wrong_type("messages", "an array of messages", &value)) };
    if values.is_empty() {
        let message = "Invalid 'messages': empty array. Expected at least one message.";
        return Err(ApiError::invalid("messages", "empty_array", message));
    }
    values.into_iter().enumerate().map(|(index, value)| message(format!("messages[{index}]"), value)).collect()
}

fn message(path: String, value: Value) -> Result<Message, ApiError> {
    let mut fields = Fields::object(path, value)?;
    let role = fields.required_string("role")?;
    let role = match role.as_str() {
        "system" | "developer" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" => Role::Tool,
        "function" => {
            let message = format!("Unsupported role: '{role}'. {OLD_TOOLS}");
            return Err(ApiError::invalid(fields.path("role"), "unsupported_value", message));
        }
        _ => {
            let path = fields.path("role");
            let message = format!(
                "Invalid value for '{path}': '{role}'. Supported values are 'system', 'developer', 'user', 'assistant' and 'tool'."
            );
            return Err(ApiError::invalid(path, "invalid_value", message));
        }
    };
    let path = fields.path("content");
    let calls = if role == Role::Assistant { take_calls(&mut fields)? } else { Vec::new() };
    let answers = if role == Role::Tool { Some(fields.required_string("tool_call_id")?) } else { None };
    let content = match fields.take("content") {
        None if !calls.is_empty() => String::new(),
        None => return Err(fields.missing("content")),
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => {
            if parts.is_empty() {
                let message = format!("Invalid '{path}': empty array. Expected a string or at least one text part.");
                return Err(ApiError::invalid(path, "empty_array", message));
            }
            let parts = parts.into_iter().enumerate();
            let texts = parts.map(|(index, part)| text_part(format!("{path}[{index}]"), part)).collect::<Result<Vec<_>, _>>()?;
            texts.join("\n")
        }
        Some(other) => return Err(wrong_type(&path, "a string or an array of text parts", &other)),
    };
    fields.finish(&[
        ("name", Rule::Refused("Chat templates have no place for names of participants; put them into the content.")),
        ("tool_calls", Rule::Only(&["[]"], "Only messages of the assistant call functions.")),
        ("tool_call_id", Rule::Refused("It belongs to messages with the role 'tool'.")),
        ("function_call", Rule::Refused(OLD_TOOLS)),
        ("refusal", Rule::Refused("Refusals are not told apart from answers; put the text into 'content'.")),
        ("audio", Rule::Refused("Only text is supported.")),
        // The client package sends back what it received: an empty list.
        ("annotations", Rule::Only(&["[]"], "Only text is supported.")),
    ])?;
    Ok(Message { role, content, calls, answers })
}

fn text_part(path: String, value: Value) -> Result<String, ApiError> {
    let mut fields = Fields::object(path, value)?;
    let kind = fields.required_string("type")?;
    if kind != "text" {
        let message = format!("Unsupported content part: '{kind}'. Only parts of type 'text' are supported.");
        return Err(ApiError::invalid(fields.path("type"), "unsupported_value", message));
    }
    let text = fields.string("text")?.ok_or_else(|| fields.missing("text"))?;
    fields.finish(&[(
        "prompt_cache_breakpoint",
        Rule::Refused("Shared prefixes are cached by themselves; there are no options for it."),
    )])?;
    Ok(text)
}
