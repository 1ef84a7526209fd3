//! From a file of examples to tokens with weights: formats, report, split. Knows nothing of jobs or gradients.

mod check;
#[cfg(test)]
mod check_tests;
mod columnar;
pub mod columns;
mod detect;
mod digest;
mod elements;
mod encoding;
mod findings;
mod fix;
#[cfg(test)]
mod golden_tests;
mod language;
mod lines;
mod load;
mod messages;
mod near;
mod quality;
mod reader;
pub mod render;
#[cfg(test)]
mod render_tests;
pub mod report;
mod rows;
mod seen;
mod source;
pub mod split;
mod table;
pub mod tokenized;

use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value, json};

pub use check::{Checking, check};
pub use columns::{Column, Mapping};
pub use digest::Digest;
pub use fix::{Fix, NearDuplicates};
pub use load::{Loaded, Loading, NEVER, load};
pub use reader::{Options, Reader, Skipped};
pub use report::Report;
pub use rows::Shape;
pub use source::Container;

/// One row: what the model is to learn from.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// Where it stands in its file: the line it begins on, or its number among the rows of a Parquet file; from 1.
    pub line: u64,
    /// Group of the split: rows of one conversation are never on both sides of it.
    pub conversation: u64,
    /// Tools on offer, as the chat template takes them.
    pub tools: Option<Value>,
    /// The messages.
    pub body: Body,
}

/// The messages of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// A conversation whose assistant turns are learnt.
    Supervised(Vec<Turn>),
    /// Two answers to one prompt.
    Preference {
        /// What both answers follow.
        prompt: Vec<Turn>,
        /// The preferred answer.
        chosen: Vec<Turn>,
        /// The other one.
        rejected: Vec<Turn>,
    },
}

/// One message.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    /// As the chat template takes it: `role`, `content`, `tool_calls` with their arguments as objects ...
    pub message: Value,
    /// Weight of its loss; 0 unless it is the assistant's.
    pub weight: f32,
}

impl Turn {
    /// `system`, `user`, `assistant` or `tool`.
    pub fn role(&self) -> &str {
        self.message["role"].as_str().unwrap_or_default()
    }

    /// Its text; empty where it only calls tools.
    pub fn text(&self) -> &str {
        self.message["content"].as_str().unwrap_or_default()
    }
}

impl Example {
    /// The row as OpenAI's fine-tuning files have it: what `--fix` writes and what the digest is made of.
    pub fn to_row(&self) -> Value {
        let list = |turns: &[Turn]| turns.iter().map(wire_message).collect::<Vec<Value>>();
        let mut row = Map::new();
        match &self.body {
            Body::Supervised(turns) => {
                let weighted = turns.iter().zip(list(turns)).map(|(turn, message)| weighted(turn, message));
                row.insert("messages".into(), weighted.collect::<Vec<Value>>().into());
                row.extend(self.tools.clone().map(|tools| ("tools".into(), tools)));
            }
            Body::Preference { prompt, chosen, rejected } => {
                let mut input = Map::new();
                input.insert("messages".into(), list(prompt).into());
                input.extend(self.tools.clone().map(|tools| ("tools".into(), tools)));
                row.insert("input".into(), input.into());
                row.insert("preferred_output".into(), list(chosen).into());
                row.insert("non_preferred_output".into(), list(rejected).into());
            }
        }
        row.into()
    }

    /// The tools as a list.
    pub fn tools(&self) -> Option<&[Value]> {
        self.tools.as_ref().and_then(Value::as_array).map(Vec::as_slice)
    }
}

/// A message as OpenAI writes it: arguments of calls are text.
fn wire_message(turn: &Turn) -> Value {
    let mut message = turn.message.clone();
    if let Some(calls) = message.get_mut("tool_calls").and_then(Value::as_array_mut) {
        for arguments in calls.iter_mut().filter_map(|call| call.pointer_mut("/function/arguments")) {
            if !arguments.is_string() {
                *arguments = arguments.to_string().into();
            }
        }
    }
    message
}

/// The message with its weight, where it is not the usual one.
fn weighted(turn: &Turn, mut message: Value) -> Value {
    #[expect(clippy::float_cmp, reason = "1 is what stands there where nothing was said")]
    if turn.role() == "assistant" && turn.weight != 1.0 {
        message["weight"] = json!(turn.weight);
    }
    message
}

/// What is wrong with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// Not JSON, or not a record of the table.
    Syntax,
    /// Longer than the limit.
    TooLong,
    /// Bytes that are no UTF-8, or NUL characters.
    Encoding,
    /// Of another format than the file, or of none that is known.
    Format,
    /// A prompt or an answer is absent or empty.
    Missing,
    /// A role that is none, or a message at a place where its role cannot stand.
    Role,
    /// A field has a value that cannot be used.
    Field,
    /// The base's chat template refuses the messages.
    Template,
}

/// A row that cannot be used as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// Where it stands, as in [`Example::line`].
    pub line: u64,
    /// What kind of problem.
    pub kind: ProblemKind,
    /// The field, its value, what would be right.
    pub message: String,
    /// The row with the problem repaired, where there is one way to do that.
    pub repaired: Option<Box<Example>>,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

/// Why a file is no dataset.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Nothing in it can be used; the text says what it is and what would be right.
    #[error("{0}")]
    Unusable(String),
    /// Rows that cannot be used; the first of them by line.
    #[error("{count} rows cannot be used: {}", .first.join("; "))]
    BadRows {
        /// How many.
        count: u64,
        /// The first ones, each with its line.
        first: Vec<String>,
    },
    /// A row cannot be rendered for the base.
    #[error("line {line}: {source}")]
    Row {
        /// Its line.
        line: u64,
        /// Why.
        source: render::RenderError,
    },
    /// Nobody wants to know any more.
    #[error("stopped")]
    Stopped,
    /// The base cannot be trained on conversations.
    #[error(transparent)]
    Render(#[from] render::RenderError),
}
