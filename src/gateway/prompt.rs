//! Prompts to token ids: the chat template and the tokenizer. Long texts are rendered off the threads that serve requests.

use super::types::{Message, Prompt, SpecialTokens, Turn};
use super::{Gateway, GatewayError};
use serde_json::json;
use time::OffsetDateTime;

use crate::model::chat_template::{Conversation, Ending};
use crate::model::tokenizer::Specials;

/// Texts longer than this many bytes are tokenized on a thread for blocking work: shorter ones take less time than the hand-over.
const INLINE_BYTES: usize = 16 * 1024;

/// A prompt, ready for the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// The text, where the caller sent one; otherwise it is decoded when it is asked for.
    pub text: Option<String>,
}

impl Gateway {
    /// Renders one prompt.
    pub async fn render(&self, prompt: Prompt) -> Result<Rendered, GatewayError> {
        if size(&prompt) <= INLINE_BYTES {
            return self.render_here(prompt);
        }
        let gateway = self.clone();
        let rendered = tokio::task::spawn_blocking(move || gateway.render_here(prompt)).await;
        rendered.map_err(|error| GatewayError::Tokenizer(error.to_string()))?
    }

    pub(super) async fn render_all(&self, prompts: Vec<Prompt>) -> Result<Vec<Rendered>, GatewayError> {
        let mut rendered = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            rendered.push(self.render(prompt).await?);
        }
        Ok(rendered)
    }

    fn render_here(&self, prompt: Prompt) -> Result<Rendered, GatewayError> {
        match prompt {
            Prompt::Tokens(tokens) => Ok(Rendered { tokens, text: None }),
            Prompt::Text { text, special } => Ok(Rendered { tokens: self.encode(&text, special)?, text: Some(text) }),
            Prompt::Chat { messages, turn, special } => {
                let text = self.apply_template(&messages, turn)?;
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

    fn apply_template(&self, messages: &[Message], turn: Turn) -> Result<String, GatewayError> {
        let template = self.base().chat_template.as_ref().ok_or(GatewayError::NoChatTemplate)?;
        let messages: Vec<_> =
            messages.iter().map(|message| json!({"role": message.role.name(), "content": message.content})).collect();
        let ending = match turn {
            Turn::Open => Ending::AnswerBegins,
            Turn::AsIs => Ending::Nothing,
        };
        let now = OffsetDateTime::now_utc();
        let conversation = Conversation { messages: &messages, tools: None, ending, variables: None, now };
        template.render(&conversation).map_err(|error| GatewayError::Template(error.to_string()))
    }
}

fn size(prompt: &Prompt) -> usize {
    match prompt {
        Prompt::Tokens(_) => 0,
        Prompt::Text { text, .. } => text.len(),
        Prompt::Chat { messages, .. } => messages.iter().map(|message| message.content.len()).sum(),
    }
}
