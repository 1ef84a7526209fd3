//! What the teacher is asked, and how its answer is read. Pure.

use rand::SeedableRng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::Task;
use super::accept::Seed;
use crate::backends::upstream::{AnswerForm, Chat};

/// Seeds shown in one call.
const SHOWN_SEEDS: usize = 4;
/// Longest text of a row that is shown to be avoided, characters.
const SHOWN_CHARS: usize = 100;

const INSTRUCTION: &str = "\
You write training examples for a language model. You get a task, some good examples of it, requests that exist already, and how \
many new examples to write. Write examples that differ from each other and from those that exist: other subjects, other lengths, \
other wordings, also the unusual cases that real users bring. Answers are exactly in the form of the good examples. Answer with one \
JSON object and nothing else: {\"examples\": [{\"user\": \"...\", \"assistant\": \"...\"}]}";

/// The next call. The same task, call and rows give the same words.
pub(super) fn chat(task: &Task, call: u64, missing: u64, known: &[String]) -> Chat {
    let seed = task.seed.wrapping_add(call);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let shown: Vec<&Seed> = task.seeds.choose_multiple(&mut rng, SHOWN_SEEDS).collect();
    let short = |text: &String| text.chars().take(SHOWN_CHARS).collect::<String>();
    let case = json!({
        "task": task.description,
        "good_examples": shown,
        "existing_requests": known.iter().map(short).collect::<Vec<String>>(),
        "how_many": u64::from(task.per_call).min(missing).max(1),
    });
    Chat {
        messages: vec![json!({"role": "system", "content": INSTRUCTION}), json!({"role": "user", "content": case.to_string()})],
        max_tokens: task.max_tokens,
        temperature: task.temperature,
        // OpenAI's seeds are signed.
        seed: Some(seed >> 1),
        form: AnswerForm::JsonObject,
    }
}

/// The examples of an answer: the JSON object that was asked for, or its list alone, perhaps in a code fence. An answer that is an
/// object instead of text is written out. Entries of another shape come back as `None`.
pub(super) fn read(text: &str) -> Option<Vec<Option<Seed>>> {
    let text = text.trim();
    let text = text.strip_prefix("```json").or_else(|| text.strip_prefix("```")).unwrap_or(text);
    let text = text.strip_suffix("```").unwrap_or(text);
    let value: Value = serde_json::from_str(text.trim()).ok()?;
    let list = value.as_array().or_else(|| value["examples"].as_array())?;
    let example = |entry: &Value| {
        let assistant = match &entry["assistant"] {
            Value::String(text) => text.clone(),
            value @ (Value::Object(_) | Value::Array(_)) => value.to_string(),
            _ => return None,
        };
        Some(Seed { user: entry["user"].as_str()?.to_owned(), assistant })
    };
    Some(list.iter().map(example).collect())
}
