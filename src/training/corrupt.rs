//! Worse twins of good rows: the same conversation with an answer that is wrong in one known way, for studies of good data against
//! bad and for pairs to prefer from. Pure: the same row, seed and choice give the same twin. Knows no file.

use rand::seq::{IndexedRandom, IteratorRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::dataset::{Body, Example, Turn};

/// Share of the words that a text without clarity has lost.
const LOST_WORDS: f64 = 0.3;
/// Fewest words of a text that can lose some.
const LEAST_WORDS: usize = 3;
/// Answers that are kept to take wrong ones from.
const POOL: usize = 1_000;

/// What an answer loses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Harm {
    /// Its form: JSON that does not parse or lacks a field; sentences or lines in another order, lists run together.
    Structure,
    /// Its truth: a field or the whole answer is another row's. Of preferences, the two answers change places.
    Labels,
    /// Its clarity: words are missing, capitals and signs are gone; JSON stays JSON.
    Clarity,
}

impl Harm {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Structure, Self::Labels, Self::Clarity];

    /// As it is typed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Structure => "structure",
            Self::Labels => "labels",
            Self::Clarity => "clarity",
        }
    }
}

/// Answers of a file to take wrong ones from: a sample of them, in one pass.
#[derive(Debug, Clone)]
pub struct Pool {
    answers: Vec<String>,
    seen: usize,
    rng: ChaCha8Rng,
}

impl Pool {
    /// An empty one.
    pub fn new(seed: u64) -> Self {
        Self { answers: Vec::new(), seen: 0, rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// Looks at a row.
    pub fn add(&mut self, example: &Example) {
        let Body::Supervised(turns) = &example.body else { return };
        let Some(turn) = turns.iter().rfind(|turn| turn.role() == "assistant") else { return };
        let text = turn.text();
        if text.trim().is_empty() {
            return;
        }
        self.seen += 1;
        // Vitter's algorithm R: every answer is as likely to be kept.
        if self.answers.len() < POOL {
            self.answers.push(text.to_owned());
        } else if let Some(slot) = Some(self.rng.random_range(0..self.seen)).filter(|slot| *slot < POOL) {
            text.clone_into(&mut self.answers[slot]);
        }
    }
}

/// A worse twin and what is wrong with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Twin {
    /// The row.
    pub example: Example,
    /// What its answer lost.
    pub harm: Harm,
}

impl Twin {
    /// The good row and this one as one row to prefer from; `None` of preferences and of rows without anything before the answer.
    pub fn preference(&self, good: &Example) -> Option<Example> {
        let (Body::Supervised(good_turns), Body::Supervised(bad_turns)) = (&good.body, &self.example.body) else { return None };
        let last = good_turns.iter().rposition(|turn| turn.role() == "assistant").filter(|last| *last > 0)?;
        let answer = |turns: &[Turn]| turns.get(last).cloned().map(|turn| vec![turn]);
        let prompt = good_turns[..last].iter().map(|turn| Turn { weight: 0.0, ..turn.clone() }).collect();
        let body = Body::Preference { prompt, chosen: answer(good_turns)?, rejected: answer(bad_turns)? };
        Some(Example { body, ..good.clone() })
    }
}

/// The worse twin of a row: one of the harms is drawn; where it changes nothing the next one is tried. `None` where none does.
pub fn twin(example: &Example, harms: &[Harm], pool: &Pool, seed: u64) -> Option<Twin> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ example.line.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut order = harms.to_vec();
    order.shuffle(&mut rng);
    order.into_iter().find_map(|harm| {
        let body = match &example.body {
            Body::Supervised(turns) => Body::Supervised(harmed(turns, harm, pool, &mut rng)?),
            Body::Preference { prompt, chosen, rejected } if harm == Harm::Labels => {
                Body::Preference { prompt: prompt.clone(), chosen: rejected.clone(), rejected: chosen.clone() }
            }
            Body::Preference { .. } => return None,
        };
        Some(Twin { example: Example { body, ..example.clone() }, harm })
    })
}

/// The turns with another last answer.
fn harmed(turns: &[Turn], harm: Harm, pool: &Pool, rng: &mut ChaCha8Rng) -> Option<Vec<Turn>> {
    let last = turns.iter().rposition(|turn| turn.role() == "assistant")?;
    let text = turns[last].text();
    // Calls of tools are no texts.
    if text.trim().is_empty() || turns[last].message.get("tool_calls").is_some() {
        return None;
    }
    let worse = match harm {
        Harm::Structure => without_structure(text, rng),
        Harm::Labels => with_a_wrong_label(text, pool, rng),
        Harm::Clarity => without_clarity(text, rng),
    };
    let worse = worse.filter(|worse| worse.trim() != text.trim() && !worse.trim().is_empty())?;
    let mut turns = turns.to_vec();
    turns[last].message["content"] = worse.into();
    Some(turns)
}

/// The value, if the text is a JSON object or array.
fn json(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok().filter(|value: &Value| value.is_object() || value.is_array())
}

fn without_structure(text: &str, rng: &mut ChaCha8Rng) -> Option<String> {
    if let Some(mut value) = json(text) {
        let fields = value.as_object().map_or(0, serde_json::Map::len);
        return match rng.random_range(0..3) {
            // Cut off before its end.
            0 => text.trim_end().strip_suffix(['}', ']']).map(str::to_owned),
            // Names without their quotation marks.
            1 if fields > 0 => {
                let fields = value.as_object()?.iter().map(|(key, value)| format!("{key}: {value}"));
                Some(format!("{{{}}}", fields.collect::<Vec<_>>().join(", ")))
            }
            // A field is missing.
            _ if fields > 1 => {
                let object = value.as_object_mut()?;
                let key = object.keys().choose(rng)?.clone();
                object.shift_remove(&key);
                Some(value.to_string())
            }
            _ => Some(text.trim().trim_matches(['{', '}', '[', ']']).to_owned()),
        };
    }
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut parts: Vec<String> = match lines.as_slice() {
        // Lists run together, in another order.
        [_, _, ..] => lines.iter().map(|line| line.trim_start_matches(['-', '*', '#', ' ']).to_owned()).collect(),
        _ => text.split_inclusive(['.', '!', '?']).map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect(),
    };
    if parts.len() < 2 {
        parts = text.split_whitespace().map(str::to_owned).collect();
    }
    let before = parts.clone();
    parts.shuffle(rng);
    if parts == before {
        parts.rotate_left(1);
    }
    Some(parts.join(" "))
}

fn with_a_wrong_label(text: &str, pool: &Pool, rng: &mut ChaCha8Rng) -> Option<String> {
    if let Some(Value::Object(mut fields)) = json(text) {
        let keys: Vec<String> = fields.keys().cloned().collect();
        let start = rng.random_range(0..keys.len().max(1));
        for key in keys[start.min(keys.len())..].iter().chain(&keys[..start.min(keys.len())]) {
            let others = pool.answers.iter().filter_map(|answer| json(answer)?.get(key).cloned());
            if let Some(other) = others.filter(|other| *other != fields[key]).choose(rng) {
                fields.insert(key.clone(), other);
                return Some(Value::Object(fields).to_string());
            }
        }
    }
    let others: Vec<&String> = pool.answers.iter().filter(|answer| answer.trim() != text.trim()).collect();
    others.choose(rng).map(|other| (*other).clone())
}

fn without_clarity(text: &str, rng: &mut ChaCha8Rng) -> Option<String> {
    if let Some(mut value) = json(text) {
        return blur(&mut value, rng).then(|| value.to_string());
    }
    blurred(text, rng)
}

/// Blurs the texts inside a value; whether there was one to blur.
fn blur(value: &mut Value, rng: &mut ChaCha8Rng) -> bool {
    match value {
        Value::String(text) => match blurred(text, rng) {
            Some(worse) => {
                *text = worse;
                true
            }
            None => false,
        },
        // Every one of them, not only the first that can be.
        Value::Array(items) => items.iter_mut().filter_map(|item| blur(item, rng).then_some(())).count() > 0,
        Value::Object(fields) => fields.values_mut().filter_map(|item| blur(item, rng).then_some(())).count() > 0,
        _ => false,
    }
}

fn blurred(text: &str, rng: &mut ChaCha8Rng) -> Option<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.len() < LEAST_WORDS {
        return None;
    }
    let lost = ((words.len() as f64 * LOST_WORDS).round() as usize).max(1);
    let gone = rand::seq::index::sample(rng, words.len(), lost);
    let kept = (0..words.len()).filter(|at| !gone.iter().any(|lost| lost == *at));
    let plain = |word: &str| word.to_lowercase().replace(['.', ',', ';', ':', '!', '?', '"'], "");
    Some(kept.map(|at| plain(words[at])).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn example(line: u64, answer: &str) -> Example {
        let turn = |role: &str, text: &str, weight| Turn { message: json!({"role": role, "content": text}), weight };
        let turns = vec![turn("user", "please", 0.0), turn("assistant", answer, 1.0)];
        Example { line, conversation: line, tools: None, body: Body::Supervised(turns) }
    }

    fn answer(example: &Example) -> &str {
        let Body::Supervised(turns) = &example.body else { panic!("a conversation") };
        turns[1].text()
    }

    fn pool(answers: &[&str]) -> Pool {
        let mut pool = Pool::new(1);
        answers.iter().for_each(|text| pool.add(&example(0, text)));
        pool
    }

    fn worse(text: &str, harm: Harm, pool: &Pool, line: u64) -> Option<String> {
        twin(&example(line, text), &[harm], pool, 7).map(|twin| answer(&twin.example).to_owned())
    }

    const JSON: &str = r#"{"intent":"reminder","task":"call mum about the cake","when":null}"#;

    #[test]
    fn json_loses_its_form_its_truth_or_its_words() {
        let others = pool(&[JSON, r#"{"intent":"alarm","task":"call mum about the cake","when":null}"#]);
        for line in 0..40 {
            let form = worse(JSON, Harm::Structure, &others, line).unwrap();
            let fields = json(&form).and_then(|value| value.as_object().map(serde_json::Map::len));
            assert!(fields.is_none_or(|fields| fields == 2), "{form}");
            // Only the intent differs anywhere.
            let truth: Value = serde_json::from_str(&worse(JSON, Harm::Labels, &others, line).unwrap()).unwrap();
            assert_eq!((&truth["intent"], &truth["task"]), (&json!("alarm"), &json!("call mum about the cake")));
            let words: Value = serde_json::from_str(&worse(JSON, Harm::Clarity, &others, line).unwrap()).unwrap();
            assert_eq!(words["intent"], "reminder");
            assert_eq!(words["task"].as_str().unwrap().split(' ').count(), 3);
        }
    }

    #[test]
    fn text_loses_its_order_its_truth_or_its_words() {
        let text = "First, open the door. Then go in. Close it!";
        let others = pool(&[text, "Something else."]);
        let shuffled = worse(text, Harm::Structure, &others, 1).unwrap();
        let sorted = |text: &str| {
            let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
            words.sort();
            words
        };
        assert!(shuffled != text && sorted(&shuffled) == sorted(text), "{shuffled}");
        assert_eq!(worse(text, Harm::Labels, &others, 1).unwrap(), "Something else.");
        let blurred = worse(text, Harm::Clarity, &others, 1).unwrap();
        assert_eq!((blurred.split(' ').count(), blurred.contains(['.', '!', 'F'])), (6, false));
        let list = worse("- one\n- two\n- three", Harm::Structure, &others, 1).unwrap();
        assert!(!list.contains(['-', '\n']), "{list}");
    }

    #[test]
    fn another_harm_is_taken_where_one_changes_nothing() {
        let nothing_else = pool(&["yes"]);
        assert_eq!(worse("yes", Harm::Labels, &nothing_else, 1), None);
        assert_eq!(worse("yes", Harm::Clarity, &nothing_else, 1), None);
        assert_eq!(twin(&example(1, "yes"), &Harm::ALL, &nothing_else, 7), None);
        let some = twin(&example(1, "yes"), &Harm::ALL, &pool(&["yes", "no"]), 7).unwrap();
        assert_eq!((answer(&some.example), some.harm), ("no", Harm::Labels));
    }

    #[test]
    fn a_twin_and_its_good_row_are_one_row_to_prefer_from() {
        let good = example(3, "yes");
        let bad = twin(&good, &Harm::ALL, &pool(&["yes", "no"]), 7).unwrap();
        let row = bad.preference(&good).unwrap().to_row();
        assert_eq!(row["preferred_output"][0]["content"], "yes");
        assert_eq!(row["non_preferred_output"][0]["content"], "no");
        assert_eq!(row["input"]["messages"], json!([{"role": "user", "content": "please"}]));
        // And of such a row the answers change places.
        let swapped = twin(&bad.preference(&good).unwrap(), &Harm::ALL, &pool(&[]), 7).unwrap();
        assert_eq!(swapped.example.to_row()["preferred_output"][0]["content"], "no");
    }

    proptest! {
        #[test]
        fn a_twin_differs_in_its_answer_alone_and_is_always_the_same(text in ".{0,60}", line: u64, seed: u64) {
            let (good, pool) = (example(line, &text), pool(&["one answer", "{\"a\": 1}"]));
            let twins = [(); 2].map(|()| twin(&good, &Harm::ALL, &pool, seed));
            prop_assert_eq!(&twins[0], &twins[1]);
            if let Some(twin) = &twins[0] {
                prop_assert_ne!(answer(&twin.example).trim(), text.trim());
                let Body::Supervised(turns) = &twin.example.body else { unreachable!() };
                prop_assert_eq!(turns[0].text(), "please");
            }
        }
    }
}
