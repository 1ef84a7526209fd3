//! One sentence to what it means: the grammar of what may be meant by this text, the model's answer under it, and what it says.
//! Knows no HTTP.

use std::sync::Arc;

use super::structure::Form;
use super::types::{
    Caching, Echo, EndToken, GenerationRequest, Judge, Message, Origin, Prompt, Role, Sampling, Served, SpecialTokens, Steering,
    Stops, Turn,
};
use super::{Gateway, GatewayError, Usage, choose};
use crate::backends::grammar::{Builder, Grammar, NodeId, Pattern, Runs};
use crate::convert::schema::{Kind, UNKNOWN};
use crate::convert::{Calibration, Reading, Schema, Spans};
use crate::tenants::{Principal, Rate};

/// Tokens of an answer beside what it copies: names of intents and entities, and signs around them.
const ANSWER_FORM: usize = 128;
/// How often an answer may copy the text: a task, and a time in two pieces.
const COPIES: usize = 3;

/// A cleaned text whose meaning is wanted.
#[derive(Debug, Clone)]
pub struct Question {
    /// Who asks.
    pub caller: Arc<Principal>,
    /// Where the request came in.
    pub origin: Origin,
    /// What answers: base, deployment, adapter, or `adapter@version`.
    pub model: String,
    /// Which arm, of a deployment.
    pub steering: Steering,
    /// The text, cleaned.
    pub text: String,
    /// What can be meant.
    pub schema: Arc<Schema>,
    /// Readings with less confidence do not count, per cent.
    pub unknown_below: u8,
    /// Whether the text is all of it.
    pub extent: Extent,
}

/// How much of what somebody says a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole,
    /// More is to come: nothing is learnt from it about the model.
    Beginning,
}

/// What a text means.
#[derive(Debug, Clone)]
pub struct Meaning {
    /// What was understood.
    pub reading: Reading,
    /// Probability of the model's choices among those that it had, 0 to 1; 0 where it gave no answer.
    pub probability: f64,
    /// How often such readings are right, 0 to 1.
    pub confidence: f64,
    /// Whether that is enough; what was meant is unknown otherwise.
    pub counts: bool,
    /// What answered, where something was asked.
    pub served: Option<Served>,
    /// Tokens that it took.
    pub usage: Usage,
    /// What is left of the caller's limits.
    pub rate: Rate,
    /// What it cost, nano-dollars.
    pub cost_nanos: i64,
}

impl Gateway {
    /// Asks a model what a text means. A text without words means nothing that is known, and nobody is asked.
    pub async fn understand(&self, question: Question) -> Result<Meaning, GatewayError> {
        self.check_model(&question.caller, &question.model)?;
        let Question { caller, origin, model, mut steering, mut text, schema, unknown_below, extent } = question;
        let counts = move |confidence: f64| confidence * 100.0 >= f64::from(unknown_below);
        let had_words = !Spans::of(&text).is_empty();
        let (prompt, tokens, most) = loop {
            if Spans::of(&text).is_empty() {
                // Of words for which there is no room nothing is known.
                let sure = if had_words { 0.0 } else { 1.0 };
                return Ok(Meaning { probability: sure, confidence: sure, ..Meaning::nothing(&schema) });
            }
            let said = Message::new(Role::User, schema.asked(&text));
            let prompt = Prompt::Chat { messages: vec![said], tools: Vec::new(), turn: Turn::Open, special: SpecialTokens::Omit };
            let tokens = self.render(prompt.clone()).await?.tokens;
            let times_read = if schema.repeats_text { 2 } else { 1 };
            let most = COPIES * tokens.len().div_ceil(times_read) + ANSWER_FORM;
            if tokens.len() + most <= self.context_length() || text.len() < 2 {
                break (prompt, tokens, most);
            }
            // Characters that take many tokens each, or a short context: half of the text is read.
            let half = text.floor_char_boundary(text.len() / 2);
            text.truncate(text[..half].rfind(' ').unwrap_or(half));
        };
        // As a chat with this beginning would be.
        steering.conversation = steering.conversation.or_else(|| choose::conversation(&caller, &[prompt]));
        let judge = Judge::new({
            let (text, schema) = (text.clone(), Arc::clone(&schema));
            move |said, probability| {
                let reading = Reading::of(said, &text, &schema);
                reading.is_some_and(|reading| !reading.is_unknown()) && counts(Calibration::bundled().confidence(probability))
            }
        });
        let room = self.context_length().saturating_sub(tokens.len());
        let request = GenerationRequest {
            caller,
            origin,
            caching: Caching::Fresh,
            model,
            steering,
            prompts: vec![Prompt::Tokens(tokens)],
            n: 1,
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
            seed: Some(0),
            max_tokens: Some(most.min(room)),
            stops: Stops::default(),
            logprobs: None,
            end_token: EndToken::Unreported,
            echo: Echo::Answer,
            form: Form::Made(Grammar::new(self.vocabulary().clone(), pattern(&schema, &text))),
            tools: None,
            judge: (extent == Extent::Whole).then_some(judge),
            pooling: None,
        };
        let mut answer = self.generate(request).await?;
        let mut said = String::new();
        while let Some(piece) = answer.next().await {
            said.push_str(&piece?.text);
        }
        // An answer that was cut off, by the context or by a model that spells by letters, says nothing.
        let reading = Reading::of(&said, &text, &schema);
        let probability = if reading.is_some() { answer.certainty(0).exp() } else { 0.0 };
        let confidence = Calibration::bundled().confidence(probability);
        Ok(Meaning {
            reading: reading.unwrap_or_else(|| Reading::unknown(&schema)),
            probability,
            confidence,
            counts: counts(confidence),
            served: Some(answer.served().clone()),
            usage: answer.usage(),
            rate: answer.rate(),
            cost_nanos: answer.cost_nanos().unwrap_or(0),
        })
    }
}

impl Meaning {
    /// Of a text without words.
    fn nothing(schema: &Schema) -> Self {
        Self {
            reading: Reading::unknown(schema),
            probability: 1.0,
            confidence: 1.0,
            counts: true,
            served: None,
            usage: Usage::default(),
            rate: Rate::default(),
            cost_nanos: 0,
        }
    }
}

/// What may be answered about a text: `{"intent":"...","task":...}`, without spaces, every entity in the schema's order.
fn pattern(schema: &Schema, text: &str) -> Pattern {
    let spans = Spans::of(text);
    let runs = Runs { text: &spans.spelled, starts: &spans.starts, ends: &spans.ends };
    let mut builder = Builder::default();
    let end = builder.end();
    let closed = builder.literal("}", end);
    // Intents with the same entities go on in the same way.
    let mut ways: Vec<(&[usize], NodeId)> = Vec::new();
    let mut intents = Vec::with_capacity(schema.intents.len());
    for intent in &schema.intents {
        let known = ways.iter().find(|(entities, _)| *entities == intent.entities.as_slice()).map(|(_, way)| *way);
        let way = known.unwrap_or_else(|| {
            let entities = schema.entities.iter().enumerate().rev();
            entities.fold(closed, |next, (index, entity)| {
                let mut options = vec![builder.literal("null", next)];
                if intent.entities.contains(&index) && intent.name != UNKNOWN {
                    let quoted = builder.literal("\"", next);
                    let copied = match &entity.kind {
                        Kind::Span => Some(builder.run(runs, quoted)),
                        Kind::Time => Some(builder.run_or_two(runs, quoted)),
                        Kind::OneOf(words) => {
                            let words = words.iter().map(|word| builder.literal(&format!("\"{}", spelled(word)), quoted));
                            options.extend(words);
                            None
                        }
                    };
                    if let Some(copied) = copied {
                        // A model that was taught without the space may leave it out.
                        let margins = if schema.repeats_text { &["\"", "\" "][..] } else { &["\""] };
                        options.extend(margins.iter().map(|margin| builder.literal(margin, copied)));
                    }
                }
                let value = builder.any(&options);
                builder.literal(&format!(",\"{}\":", spelled(&entity.name)), value)
            })
        });
        if known.is_none() {
            ways.push((&intent.entities, way));
        }
        intents.push(builder.literal(&format!("{}\"", spelled(&intent.name)), way));
    }
    let intent = builder.any(&intents);
    let start = builder.literal("{\"intent\":\"", intent);
    builder.finish(start)
}

/// A name of a schema inside a JSON string.
fn spelled(name: &str) -> String {
    let quoted = serde_json::Value::from(name).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}
