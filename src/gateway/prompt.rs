//! Prompts to token ids and back: the chat template and the tokenizer. Much text is worked on off the threads that serve requests.

use std::sync::Arc;

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::size::{TOKEN_BYTES, by_size};
use super::structure::{Syntax, Teller, ToolFamily};
use super::types::{Echo, Message, Prompt, SpecialTokens, Turn};
use super::{Base, Gateway, GatewayError};

use crate::model::chat_template::{ChatTemplate, Conversation, Ending};
use crate::model::tokenizer::Specials;

/// What a message costs beside its text, in bytes of text that take as long.
const MESSAGE_BYTES: usize = 64;

/// What a value in JSON costs beside its text.
const VALUE_BYTES: usize = 8;

/// A prompt, ready for the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// The text, where the caller sent one or wants it back.
    pub text: Option<String>,
}

impl Gateway {
    /// Renders one prompt.
    pub async fn render(&self, prompt: Prompt) -> Result<Rendered, GatewayError> {
        let gateway = self.clone();
        by_size(size(&prompt, Echo::Answer), move || gateway.render_here(prompt, Echo::Answer)).await?
    }

    /// Renders the prompts of a request; with their texts where they come back.
    pub(super) async fn render_all(&self, prompts: Vec<Prompt>, echo: Echo) -> Result<Vec<Rendered>, GatewayError> {
        let bytes = prompts.iter().map(|prompt| size(prompt, echo)).sum();
        let gateway = self.clone();
        by_size(bytes, move || prompts.into_iter().map(|prompt| gateway.render_here(prompt, echo)).collect()).await?
    }

    /// Text of token ids, special tokens included.
    pub async fn decode(&self, tokens: Vec<u32>) -> Result<String, GatewayError> {
        let gateway = self.clone();
        by_size(tokens.len() * TOKEN_BYTES, move || gateway.decode_here(&tokens, Specials::Keep)).await?
    }

    /// Each token as the vocabulary spells it.
    pub async fn token_strings(&self, tokens: &[u32]) -> Result<Vec<String>, GatewayError> {
        let (tokenizer, tokens) = (self.base().tokenizer.clone(), tokens.to_vec());
        let bytes = tokens.len() * TOKEN_BYTES;
        by_size(bytes, move || tokens.iter().map(|&id| tokenizer.token(id).unwrap_or_default()).collect()).await
    }

    fn decode_here(&self, tokens: &[u32], specials: Specials) -> Result<String, GatewayError> {
        let decoded = self.base().tokenizer.decode(tokens, specials);
        decoded.map_err(|error| GatewayError::Tokenizer(error.to_string()))
    }

    fn render_here(&self, prompt: Prompt, echo: Echo) -> Result<Rendered, GatewayError> {
        match prompt {
            Prompt::Tokens(tokens) => {
                let text = match echo {
                    Echo::PromptAndAnswer => Some(self.decode_here(&tokens, Specials::Omit)?),
                    Echo::Answer => None,
                };
                Ok(Rendered { tokens, text })
            }
            Prompt::Text { text, special } => Ok(Rendered { tokens: self.encode(&text, special)?, text: Some(text) }),
            Prompt::Chat { messages, tools, turn, special } => {
                let text = self.apply_template(&messages, &tools, turn)?;
                Ok(Rendered { tokens: self.encode(&text, special)?, text: Some(text) })
            }
        }
    }

    fn encode(&self, text: &str, special: SpecialTokens) -> Result<Vec<u32>, GatewayError> {
        let specials = match special {
            SpecialTokens::Add => Specials::Keep,
            SpecialTokens::Omit => Specials::Omit,
        };
        self.base().tokenizer.encode(text, specials).map_err(|error| GatewayError::Tokenizer(error.to_string()))
    }

    fn apply_template(&self, messages: &[Message], tools: &[Value], turn: Turn) -> Result<String, GatewayError> {
        let template = self.base().chat_template.as_ref().ok_or(GatewayError::NoChatTemplate)?;
        let (messages, tools) = match &self.0.syntax {
            Some(syntax) => syntax.told(messages, tools),
            None => {
                (messages.iter().map(|said| json!({"role": said.role.name(), "content": said.content})).collect(), Vec::new())
            }
        };
        let ending = match turn {
            Turn::Open => Ending::AnswerBegins,
            Turn::AsIs => Ending::Nothing,
        };
        let now = OffsetDateTime::now_utc();
        let conversation = Conversation {
            messages: &messages,
            tools: Some(tools.as_slice()).filter(|tools| !tools.is_empty()),
            ending,
            variables: None,
            now,
        };
        template.render(&conversation).map_err(|error| GatewayError::Template(error.to_string()))
    }
}

/// Bytes to work on.
fn size(prompt: &Prompt, echo: Echo) -> usize {
    match prompt {
        Prompt::Tokens(tokens) => match echo {
            Echo::PromptAndAnswer => tokens.len() * TOKEN_BYTES,
            Echo::Answer => 0,
        },
        Prompt::Text { text, .. } => text.len() + MESSAGE_BYTES,
        Prompt::Chat { messages, tools, .. } => {
            let calls = messages.iter().flat_map(|message| &message.calls).map(|call| call.name.len() + weight(&call.arguments));
            let said = messages.iter().map(|message| message.content.len() + MESSAGE_BYTES);
            said.chain(calls).chain(tools.iter().map(weight)).sum()
        }
    }
}

/// Bytes of a value that is written down, about.
fn weight(value: &Value) -> usize {
    let inside = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(weight).sum(),
        Value::Object(map) => map.iter().map(|(name, value)| name.len() + weight(value)).sum(),
    };
    inside + VALUE_BYTES
}

/// How a base calls functions, by its template or as it was chosen.
pub(super) fn syntax(base: &Base, family: &ToolFamily) -> Option<Arc<Syntax>> {
    let template = base.chat_template.as_ref();
    let syntax = Syntax::of(template.map(ChatTemplate::source).unwrap_or_default(), family)?;
    let teller = if template.is_none_or(has_system) { Teller::System } else { Teller::User };
    let cue = base.tokenizer.token_id(syntax.cue()).filter(|id| base.tokenizer.is_special(*id));
    Some(Arc::new(syntax.over(teller, cue)))
}

/// Whether a template says what a system's message says: some refuse it, some leave it out.
fn has_system(template: &ChatTemplate) -> bool {
    const SAID: &str = "Be brief.";
    let messages = [json!({"role": "system", "content": SAID}), json!({"role": "user", "content": "Hello."})];
    let (ending, now) = (Ending::AnswerBegins, OffsetDateTime::UNIX_EPOCH);
    let conversation = Conversation { messages: &messages, tools: None, ending, variables: None, now };
    template.render(&conversation).is_ok_and(|text| text.contains(SAID))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;
    use crate::gateway::{Call, Role};

    #[test]
    fn large_functions_and_calls_are_large_prompts() {
        let long = "x".repeat(100_000);
        let chat = |calls: Vec<Call>, tools: Vec<Value>| {
            let messages = vec![Message { calls, ..Message::new(Role::Assistant, "") }];
            let prompt = Prompt::Chat { messages, tools, turn: Turn::Open, special: SpecialTokens::Omit };
            size(&prompt, Echo::Answer)
        };
        assert!(chat(Vec::new(), Vec::new()) < 1_000);
        assert!(chat(Vec::new(), vec![json!({"function": {"parameters": {"enum": ["a", long]}}})]) > 100_000);
        assert!(chat(Vec::new(), vec![json!({"function": {"parameters": {"enum": vec![1; 20_000]}}})]) > 20_000);
        let call = Call { id: "1".to_owned(), name: "f".to_owned(), arguments: json!({"a": [long]}) };
        assert!(chat(vec![call], Vec::new()) > 100_000);
    }

    #[test]
    fn a_template_without_a_system_is_known() {
        let of = |source: &str| has_system(&ChatTemplate::new(source, None, None).unwrap());
        assert!(of("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% endfor %}"));
        assert!(!of("{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}"));
        assert!(!of("{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"));
    }
}
