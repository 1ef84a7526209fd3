//! Chat messages to prompt text: Hugging Face's chat templates (Jinja), rendered as `transformers` renders them.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::Arc;

use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind};
use serde::Serialize as _;
use time::OffsetDateTime;

use crate::model::ModelError;

/// Why a conversation has no prompt.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The template itself refuses this conversation; the text is the template's own.
    #[error("the chat template refuses these messages: {0}")]
    Refused(String),
    /// The template cannot be applied to it.
    #[error("the chat template cannot be applied to these messages: {0}")]
    Failed(String),
}

/// What is rendered.
#[derive(Debug, Clone, Copy)]
pub struct Conversation<'a> {
    /// Messages: objects with `role` and `content`, and whatever else the template knows (`tool_calls` ...).
    pub messages: &'a [serde_json::Value],
    /// Tools on offer, as the request gives them.
    pub tools: Option<&'a [serde_json::Value]>,
    /// What comes after the last message.
    pub ending: Ending,
    /// Further variables for the template (`enable_thinking` ...).
    pub variables: Option<&'a serde_json::Map<String, serde_json::Value>>,
    /// The time that a template's `strftime_now` writes.
    pub now: OffsetDateTime,
}

/// What comes after the last message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The opening of an answer.
    AnswerBegins,
    /// Nothing: the conversation as it is.
    Nothing,
}

/// Name of the one template of an environment.
const NAME: &str = "chat_template";

thread_local! {
    /// The time that `strftime_now` writes: functions of a template get nothing of their own from a render.
    static NOW: Cell<OffsetDateTime> = const { Cell::new(OffsetDateTime::UNIX_EPOCH) };
}

/// A chat template; cheap to clone.
#[derive(Clone)]
pub struct ChatTemplate(Arc<Inner>);

struct Inner {
    text: String,
    /// Jinja with the template compiled, under [`NAME`], without tags that only training reads.
    environment: Environment<'static>,
    bos: Option<String>,
    eos: Option<String>,
}

impl ChatTemplate {
    /// Checks a template; `bos` and `eos` are the texts of its variables `bos_token` and `eos_token`.
    pub fn new(source: &str, bos: Option<String>, eos: Option<String>) -> Result<Self, ModelError> {
        let mut environment = environment();
        environment
            .add_template_owned(NAME, without_training_tags(source))
            .map_err(|error| ModelError::Invalid(format!("the chat template cannot be used: {error}")))?;
        Ok(Self(Arc::new(Inner { text: source.to_owned(), environment, bos, eos })))
    }

    /// The template's text as the model's files give it.
    pub fn source(&self) -> &str {
        &self.0.text
    }

    /// Text of the template's variable `bos_token`.
    pub fn bos_token(&self) -> Option<&str> {
        self.0.bos.as_deref()
    }

    /// Text of the template's variable `eos_token`.
    pub fn eos_token(&self) -> Option<&str> {
        self.0.eos.as_deref()
    }

    /// Prompt text of a conversation. It holds the special tokens that the template writes, the beginning of text among them.
    pub fn render(&self, conversation: &Conversation<'_>) -> Result<String, RenderError> {
        NOW.set(conversation.now);
        let template = self.0.environment.get_template(NAME).map_err(|error| failure(&error))?;
        let mut context: BTreeMap<String, Value> = BTreeMap::new();
        for (name, value) in conversation.variables.into_iter().flatten() {
            context.insert(name.clone(), Value::from_serialize(value));
        }
        let messages: Vec<Value> = conversation.messages.iter().map(without_nulls).collect();
        context.insert("messages".into(), Value::from(messages));
        context.insert("tools".into(), conversation.tools.map_or(Value::from(()), Value::from_serialize));
        context.insert("documents".into(), Value::from(()));
        context.insert("add_generation_prompt".into(), (conversation.ending == Ending::AnswerBegins).into());
        // An absent special token is an undefined variable, as in transformers.
        for (name, token) in [("bos_token", &self.0.bos), ("eos_token", &self.0.eos)] {
            if let Some(token) = token {
                context.insert(name.into(), token.as_str().into());
            }
        }
        template.render(Value::from(context)).map_err(|error| failure(&error))
    }
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").field("bytes", &self.0.text.len()).finish_non_exhaustive()
    }
}

/// What a template said with `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn failure(error: &Error) -> RenderError {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(Raised(message)) = inner.downcast_ref() {
            return RenderError::Refused(message.clone());
        }
        cause = inner.source();
    }
    RenderError::Failed(error.to_string())
}

/// A message without its fields that are null, as transformers gives it to a template: clients send `content: null` beside
/// tool calls, which templates would write as the word "None".
fn without_nulls(message: &serde_json::Value) -> Value {
    match message.as_object() {
        Some(fields) => fields
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name.as_str(), Value::from_serialize(value)))
            .collect(),
        None => Value::from_serialize(message),
    }
}

/// Jinja as `transformers` sets it up for chat templates.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
    });
    environment.add_function("strftime_now", |format: String| strftime(&format, NOW.get()));
    environment.add_filter("tojson", to_json);
    environment
}

/// `{% generation %}` marks answers for training; rendering is the same without.
fn without_training_tags(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        text.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(end + 2);
        let inside = tag[2..end].trim_matches(['-', '+']).trim();
        match inside {
            "generation" => text.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => text.push_str(&tag.replace("endgeneration", "endif")),
            _ => text.push_str(tag),
        }
        rest = after;
    }
    text.push_str(rest);
    text
}

/// Python's `json.dumps(value, ensure_ascii=False)`: separators `, ` and `: `, or lines when `indent` is given.
fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Accepted for templates that name it; characters are never escaped here, which is transformers' default.
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let mut bytes = Vec::new();
    let written = match indent {
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, PythonFormat)),
        Some(width) => {
            let spaces = " ".repeat(width.min(16));
            let format = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, format))
        }
    };
    let cannot = |error: String| Error::new(ErrorKind::BadSerialization, error);
    written.map_err(|error| cannot(error.to_string()))?;
    String::from_utf8(bytes).map(Value::from_safe_string).map_err(|error| cannot(error.to_string()))
}

/// JSON on one line with Python's spaces.
struct PythonFormat;

impl serde_json::ser::Formatter for PythonFormat {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

/// The directives of `strftime` that templates use, in English and UTC.
fn strftime(format: &str, now: OffsetDateTime) -> Result<String, Error> {
    let mut text = String::new();
    let mut characters = format.chars();
    while let Some(c) = characters.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let (month, day) = (now.month().to_string(), now.weekday().to_string());
        text.push_str(&match characters.next() {
            Some('d') => format!("{:02}", now.day()),
            Some('m') => format!("{:02}", u8::from(now.month())),
            Some('Y') => format!("{:04}", now.year()),
            Some('y') => format!("{:02}", now.year().rem_euclid(100)),
            Some('H') => format!("{:02}", now.hour()),
            Some('M') => format!("{:02}", now.minute()),
            Some('S') => format!("{:02}", now.second()),
            Some('j') => format!("{:03}", now.ordinal()),
            Some('B') => month,
            Some('b') => month[..3].to_owned(),
            Some('A') => day,
            Some('a') => day[..3].to_owned(),
            Some('%') => "%".to_owned(),
            other => {
                let directive = other.map(String::from).unwrap_or_default();
                return Err(Error::new(ErrorKind::InvalidOperation, format!("strftime_now does not know %{directive}")));
            }
        });
    }
    Ok(text)
}
