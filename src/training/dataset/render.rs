//! Examples to token ids with a weight for each: the base's chat template and tokenizer, and which tokens are the assistant's. Knows
//! no file format.
//!
//! What is learnt of an assistant message is what the model has to write at that place: from where the opening of the answer ends up
//! to and including the token that ends the turn. Where that is, is found by rendering: templates are programs, and none is known here
//! by name.

use std::ops::Range;
use std::sync::Arc;

use serde_json::Value;
use time::OffsetDateTime;

use super::{Body, Example, Turn};
use crate::model::ModelError;
use crate::model::chat_template::{ChatTemplate, Conversation, Ending, RenderError as TemplateError};
use crate::model::loader::Checkpoint;
use crate::model::tokenizer::{Specials, Tokenizer};

/// Token ids and how much each is learnt.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Token ids, at most as many as the context has.
    pub tokens: Vec<u32>,
    /// `weights[i]`: weight of the loss of predicting `tokens[i]` from those before it; `weights[0]` is 0.
    pub weights: Vec<f32>,
    /// Tokens that compete with some others only, by index, ascending, with those others and itself: what a grammar allows there.
    pub among: Vec<(u32, Arc<[u32]>)>,
}

impl Sample {
    /// Tokens that are learnt.
    pub fn learnt(&self) -> usize {
        self.weights.iter().filter(|weight| **weight > 0.0).count()
    }
}

/// Two answers to one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// The preferred one, with its prompt.
    pub chosen: Sample,
    /// The other one, with the same prompt.
    pub rejected: Sample,
}

/// Samples of one kind. Eight bytes a token; nothing of the file is kept.
#[derive(Debug, Clone, PartialEq)]
pub enum Rendered {
    /// For supervised training.
    Supervised(Vec<Sample>),
    /// For preference optimisation.
    Preference(Vec<Pair>),
}

impl Rendered {
    /// Rows.
    pub const fn len(&self) -> usize {
        match self {
            Self::Supervised(samples) => samples.len(),
            Self::Preference(pairs) => pairs.len(),
        }
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens of each row; a pair counts both its answers.
    pub fn lengths(&self) -> Vec<usize> {
        match self {
            Self::Supervised(samples) => samples.iter().map(|sample| sample.tokens.len()).collect(),
            Self::Preference(pairs) => pairs.iter().map(|pair| pair.chosen.tokens.len() + pair.rejected.tokens.len()).collect(),
        }
    }
}

/// A row for evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Prompt tokens up to the last assistant turn, as the server would make them of the same messages.
    pub prompt: Vec<u32>,
    /// Their text.
    pub prompt_text: String,
    /// The answer that was wanted.
    pub target: String,
}

/// One example, rendered.
#[derive(Debug, Clone, PartialEq)]
pub enum Row {
    /// Of a supervised example.
    Sample(Sample),
    /// Of a preference.
    Pair(Pair),
}

/// One example, rendered, and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The tokens.
    pub row: Row,
    /// Tokens beyond the context, which were left out; of both answers of a preference.
    pub cut: usize,
    /// Tokens of the last answer, with the end of its turn, before anything was left out.
    pub answer_tokens: usize,
}

/// Why an example has no tokens.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The base has no chat template.
    #[error("the base has no chat template, so that conversations cannot be written for it; train on a base that has one")]
    NoTemplate,
    /// The template refuses or fails.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The tokenizer fails.
    #[error(transparent)]
    Tokenizer(#[from] ModelError),
    /// The assistant's text cannot be found in what the template writes.
    #[error("it cannot be told which tokens are the assistant's in message {index}: the chat template {problem}")]
    NotFound {
        /// The message, from 0.
        index: usize,
        /// What the template does.
        problem: &'static str,
    },
    /// Everything that is to be learnt lies beyond the context.
    #[error("nothing to learn is left within the context of {context} tokens (the row has {tokens})")]
    Lost {
        /// Tokens of the row.
        tokens: usize,
        /// The context.
        context: usize,
    },
}

/// What examples are rendered with; cheap to clone.
#[derive(Debug, Clone)]
pub struct Renderer {
    tokenizer: Tokenizer,
    template: ChatTemplate,
    /// Tokens that end an answer.
    ends: Vec<u32>,
    /// Special tokens as they are written.
    specials: Arc<[String]>,
    context: usize,
    now: OffsetDateTime,
}

/// Parts of a [`Renderer`].
#[derive(Debug, Clone)]
pub struct Parts {
    /// The base's tokenizer.
    pub tokenizer: Tokenizer,
    /// Its chat template.
    pub chat_template: Option<ChatTemplate>,
    /// Tokens that end an answer: `Checkpoint::generation.eos`.
    pub ends: Vec<u32>,
    /// Most tokens of a sample.
    pub context: usize,
    /// The time that templates write: one for a whole job (when it was created), so that it can be repeated.
    pub now: OffsetDateTime,
}

/// Where the assistant's text is in what the template wrote.
#[derive(Debug, Clone, PartialEq)]
enum Span {
    /// The text of the turn; what ends it comes after.
    Text(Range<usize>),
    /// The turn with whatever the template writes behind it.
    Turn(Range<usize>),
}

impl Renderer {
    /// Of parts of a base.
    pub fn new(parts: Parts) -> Result<Self, RenderError> {
        let template = parts.chat_template.ok_or(RenderError::NoTemplate)?;
        let tokenizer = parts.tokenizer;
        let specials = tokenizer.special_ids().into_iter().filter_map(|id| tokenizer.token(id)).filter(|token| !token.is_empty());
        let specials = specials.collect();
        Ok(Self { tokenizer, template, ends: parts.ends, specials, context: parts.context, now: parts.now })
    }

    /// Of a base that was read, with samples of at most so many tokens.
    pub fn of(base: &Checkpoint, context: usize, now: OffsetDateTime) -> Result<Self, RenderError> {
        Self::new(Parts {
            tokenizer: base.tokenizer.clone(),
            chat_template: base.chat_template.clone(),
            ends: base.generation.eos.clone(),
            context,
            now,
        })
    }

    /// Most tokens of a sample.
    pub const fn context(&self) -> usize {
        self.context
    }

    /// Tokens of a text by itself.
    pub fn count(&self, text: &str) -> Result<usize, RenderError> {
        Ok(self.tokenizer.encode(text, Specials::Omit)?.len())
    }

    /// A special token that is written in a text, and would be read as structure.
    pub fn special_text(&self, text: &str) -> Option<&str> {
        let marks = |c: char| matches!(c, '<' | '[' | '|');
        let begins_with_mark = |token: &str| token.starts_with(marks);
        let any_mark = text.contains(marks);
        // Nearly all of them begin with such a mark, and most texts have none.
        let possible = self.specials.iter().filter(|token| any_mark || !begins_with_mark(token));
        possible.map(String::as_str).find(|token| text.contains(token))
    }

    /// Token ids and weights of an example.
    pub fn render(&self, example: &Example) -> Result<Outcome, RenderError> {
        match &example.body {
            Body::Supervised(turns) => {
                let (sample, cut, answer_tokens) = self.sample(example.tools(), turns)?;
                Ok(Outcome { row: Row::Sample(sample), cut, answer_tokens })
            }
            Body::Preference { prompt, chosen, rejected } => {
                let with = |answer: &[Turn]| self.sample(example.tools(), &[prompt.as_slice(), answer].concat());
                let (chosen, cut_chosen, answer_tokens) = with(chosen)?;
                let (rejected, cut_rejected, _) = with(rejected)?;
                let row = Row::Pair(Pair { chosen, rejected });
                Ok(Outcome { row, cut: cut_chosen + cut_rejected, answer_tokens })
            }
        }
    }

    /// The prompt of an example's last answer (the preferred one), and that answer.
    pub fn question(&self, example: &Example) -> Result<Question, RenderError> {
        let turns = match &example.body {
            Body::Supervised(turns) => turns.clone(),
            Body::Preference { prompt, chosen, .. } => [prompt.as_slice(), chosen].concat(),
        };
        let messages: Vec<Value> = turns.iter().map(|turn| turn.message.clone()).collect();
        let Some(index) = turns.iter().rposition(|turn| turn.role() == "assistant") else {
            return Err(RenderError::NotFound { index: 0, problem: "is given no message of the assistant" });
        };
        let prompt_text = self.write(example.tools(), &messages[..index], Ending::AnswerBegins)?;
        let target = match turns[index].text() {
            "" => {
                let full = self.write(example.tools(), &messages[..=index], Ending::Nothing)?;
                let span = self.span(example.tools(), &messages[..=index], index, &full)?;
                let (Span::Text(range) | Span::Turn(range)) = span;
                let tokens = self.tokenizer.encode_with_offsets(&full)?;
                let end = self.end(&tokens, &full, &Span::Turn(range.clone()));
                let closing = tokens.iter().find(|(id, place)| place.end == end && self.ends_turn(*id));
                let written = full.get(range.start..closing.map_or(end, |(_, place)| place.start));
                written.unwrap_or_default().trim().to_owned()
            }
            text => text.to_owned(),
        };
        Ok(Question { prompt: self.tokenizer.encode(&prompt_text, Specials::Omit)?, prompt_text, target })
    }

    fn write(&self, tools: Option<&[Value]>, messages: &[Value], ending: Ending) -> Result<String, TemplateError> {
        self.template.render(&Conversation { messages, tools, ending, variables: None, now: self.now })
    }

    fn sample(&self, tools: Option<&[Value]>, turns: &[Turn]) -> Result<(Sample, usize, usize), RenderError> {
        let messages: Vec<Value> = turns.iter().map(|turn| turn.message.clone()).collect();
        let full = self.write(tools, &messages, Ending::Nothing)?;
        let placed = self.tokenizer.encode_with_offsets(&full)?;
        let mut weights = vec![0.0; placed.len()];
        let mut answer_tokens = 0;
        for (index, turn) in turns.iter().enumerate().filter(|(_, turn)| turn.weight > 0.0) {
            let span = self.span(tools, &messages, index, &full)?;
            let (Span::Text(Range { start, .. }) | Span::Turn(Range { start, .. })) = span;
            let end = self.end(&placed, &full, &span);
            answer_tokens = 0;
            for (weight, (_, place)) in weights.iter_mut().zip(&placed) {
                // A token that begins before the text and reaches into it is written by the model as well.
                if place.start < end && place.end > start {
                    *weight = turn.weight;
                    answer_tokens += 1;
                }
            }
            if answer_tokens == 0 {
                return Err(RenderError::NotFound { index, problem: "leaves it out" });
            }
        }
        if let Some(first) = weights.first_mut() {
            *first = 0.0;
        }
        let mut tokens: Vec<u32> = placed.into_iter().map(|(id, _)| id).collect();
        let all = tokens.len();
        tokens.truncate(self.context);
        weights.truncate(self.context);
        if weights.iter().all(|weight| *weight <= 0.0) {
            return Err(RenderError::Lost { tokens: all, context: self.context });
        }
        Ok((Sample { tokens, weights, among: Vec::new() }, all.saturating_sub(self.context), answer_tokens))
    }

    /// Where an assistant message is in `full`, the whole conversation as the template writes it.
    fn span(&self, tools: Option<&[Value]>, messages: &[Value], index: usize, full: &str) -> Result<Span, RenderError> {
        let text = messages[index]["content"].as_str().unwrap_or_default().trim();
        let calls = messages[index].get("tool_calls").is_some();
        // The usual case: the conversation up to the answer's opening is how the whole one begins.
        let opening =
            self.write(tools, &messages[..index], Ending::AnswerBegins).ok().filter(|opening| full.starts_with(opening));
        if let Some(start) = opening.map(|opening| opening.len()) {
            let with = if index + 1 == messages.len() {
                Ok(full.to_owned())
            } else {
                self.write(tools, &messages[..=index], Ending::Nothing)
            };
            // What is written at the end of everything is not there in the middle.
            let end = with.map_or(start, |with| common_beginning(&with, full));
            if calls && end > start && full[start..end].contains(text) {
                return Ok(Span::Turn(start..end));
            }
            if !calls
                && end > start
                && !text.is_empty()
                && let Some(place) = full[start..end].rfind(text)
            {
                return Ok(Span::Text(start..start + place + text.len()));
            }
        }
        if calls || text.is_empty() {
            return Err(RenderError::NotFound { index, problem: "writes earlier messages differently when the answer follows" });
        }
        self.span_by_replacing(tools, messages, index, full)
    }

    /// Where a message's text is, from what changes when another text stands in its place. Templates that write earlier messages in
    /// another way once later ones are there, or that shorten answers, are understood like this.
    fn span_by_replacing(
        &self,
        tools: Option<&[Value]>,
        messages: &[Value],
        index: usize,
        full: &str,
    ) -> Result<Span, RenderError> {
        // They differ in their first and last letters, so that what both have in common is the template's.
        const STAND_INS: [&str; 2] = ["qzxjv", "wkybh"];
        let not_found = |problem| RenderError::NotFound { index, problem };
        let mut written = Vec::new();
        for stand_in in STAND_INS {
            let mut messages = messages.to_vec();
            messages[index]["content"] = stand_in.into();
            written.push(self.write(tools, &messages, Ending::Nothing)?);
        }
        let (one, other) = (&written[0], &written[1]);
        if one == other {
            return Err(not_found("leaves it out"));
        }
        let before = common_beginning(one, other);
        let after = one.len() - one.bytes().rev().zip(other.bytes().rev()).take_while(|(a, b)| a == b).count();
        if one.get(before..after) != Some(STAND_INS[0]) {
            return Err(not_found("writes its text more than once, or changes it"));
        }
        let (beginning, ending) = (&one[..before], &one[after..]);
        if beginning.len() + ending.len() > full.len() || !full.starts_with(beginning) || !full.ends_with(ending) {
            return Err(not_found("writes the rest of the conversation differently for different answers"));
        }
        Ok(Span::Text(beginning.len()..full.len() - ending.len()))
    }

    /// Where what is learnt of a span ends: after the token that ends the turn, where there is one.
    fn end(&self, placed: &[(u32, Range<usize>)], full: &str, span: &Span) -> usize {
        match span {
            Span::Text(text) => {
                for (id, place) in placed.iter().filter(|(_, place)| place.end > text.end) {
                    if place.start >= text.end && self.ends_turn(*id) {
                        return place.end;
                    }
                    // A token may end inside a character: the next one has the rest of it.
                    if full.get(text.end..place.end).is_some_and(|between| !between.trim().is_empty()) {
                        break;
                    }
                }
                text.end
            }
            Span::Turn(turn) => {
                let inside = || placed.iter().rev().filter(|(_, place)| place.start >= turn.start && place.end <= turn.end);
                let known = inside().find(|(id, _)| self.ends.contains(id));
                let last = known.or_else(|| inside().find(|(id, _)| self.ends_turn(*id)));
                last.map_or(turn.start + full[turn.clone()].trim_end().len(), |(_, place)| place.end)
            }
        }
    }

    /// Whether a token ends a turn: one that ends answers, or structure other than a text's beginning.
    fn ends_turn(&self, id: u32) -> bool {
        let begins = || {
            let spelling = self.template.bos_token();
            self.tokenizer.bos() == Some(id) || spelling.is_some_and(|token| self.tokenizer.token_id(token) == Some(id))
        };
        self.ends.contains(&id) || (self.tokenizer.is_special(id) && !begins())
    }
}

/// Bytes that two texts begin with in common, in whole characters.
fn common_beginning(one: &str, other: &str) -> usize {
    let mut length = one.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
    while !one.is_char_boundary(length) || !other.is_char_boundary(length) {
        length -= 1;
    }
    length
}
