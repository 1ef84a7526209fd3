//! Which examples are taken: well formed, like the seeds where those agree on a form, and new. Pure.

use std::collections::{BTreeSet, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::training::evaluate::metrics::{SHORT_WORDS, words};

/// Longest request or answer, characters.
const MAX_CHARS: usize = 20_000;
/// Requests whose words are the same to this share (of all words of both) are one.
const NEAR: f64 = 0.85;
/// Fewest seeds that make a list of labels.
const LABEL_SEEDS: usize = 6;
/// Requests that the teacher is told to keep away from.
const LAST: usize = 12;

/// A request and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed {
    /// What the user says.
    pub user: String,
    /// What the model should answer.
    pub assistant: String,
}

/// Examples that were not taken, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rejected {
    /// Whole answers that were not the JSON that was asked for.
    pub unreadable: u64,
    /// Entries that are no request with an answer, or empty, or too long.
    pub malformed: u64,
    /// Answers that are not in the form of the seeds' answers.
    pub form: u64,
    /// Requests that exist already, word for word or nearly.
    pub duplicate: u64,
}

/// What answers have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    /// JSON objects with one of these sets of keys.
    Json(HashSet<BTreeSet<String>>),
    /// One of these few words.
    Labels(HashSet<String>),
    /// Any text.
    Text,
}

impl Form {
    /// Of the seeds: all JSON objects; or short, and each of them used twice on average.
    fn of(seeds: &[Seed]) -> Self {
        let objects: Option<HashSet<_>> = seeds.iter().map(|seed| keys(&seed.assistant)).collect();
        if let Some(objects) = objects.filter(|objects| !objects.is_empty()) {
            return Self::Json(objects);
        }
        let short = seeds.iter().all(|seed| words(&seed.assistant).len() <= SHORT_WORDS);
        let labels: HashSet<String> = seeds.iter().map(|seed| seed.assistant.trim().to_owned()).collect();
        if seeds.len() >= LABEL_SEEDS && short && 2 * labels.len() <= seeds.len() { Self::Labels(labels) } else { Self::Text }
    }

    fn fits(&self, answer: &str) -> bool {
        match self {
            Self::Json(objects) => keys(answer).is_some_and(|keys| objects.contains(&keys)),
            Self::Labels(labels) => labels.contains(answer.trim()),
            Self::Text => true,
        }
    }
}

fn keys(answer: &str) -> Option<BTreeSet<String>> {
    let value: Value = serde_json::from_str(answer).ok()?;
    Some(value.as_object()?.keys().cloned().collect())
}

/// Remembers what there is.
pub(super) struct Judge {
    form: Form,
    known: Vec<HashSet<String>>,
    texts: Vec<String>,
}

impl Judge {
    pub(super) fn new(seeds: &[Seed]) -> Self {
        let mut judge = Self { form: Form::of(seeds), known: Vec::new(), texts: Vec::new() };
        seeds.iter().for_each(|seed| judge.known.push(words(&seed.user).into_iter().collect()));
        judge
    }

    /// Notes an example that was taken before.
    pub(super) fn note(&mut self, example: &Seed) {
        self.known.push(words(&example.user).into_iter().collect());
        self.texts.push(example.user.clone());
    }

    /// The last requests that were taken.
    pub(super) fn last(&self) -> &[String] {
        &self.texts[self.texts.len().saturating_sub(LAST)..]
    }

    /// The example, trimmed, if it is taken; otherwise the reason is counted.
    pub(super) fn accept(&mut self, example: Option<Seed>, rejected: &mut Rejected) -> Option<Seed> {
        let sound = |text: &str| !text.is_empty() && !text.contains('\0') && text.chars().nth(MAX_CHARS).is_none();
        let trimmed =
            example.map(|example| Seed { user: example.user.trim().to_owned(), assistant: example.assistant.trim().to_owned() });
        let Some(example) = trimmed.filter(|example| sound(&example.user) && sound(&example.assistant)) else {
            rejected.malformed += 1;
            return None;
        };
        if !self.form.fits(&example.assistant) {
            rejected.form += 1;
            return None;
        }
        let asked: HashSet<String> = words(&example.user).into_iter().collect();
        if self.known.iter().any(|known| alike(known, &asked)) {
            rejected.duplicate += 1;
            return None;
        }
        self.note(&example);
        Some(example)
    }
}

/// Jaccard's index of two sets of words is at least [`NEAR`].
fn alike(a: &HashSet<String>, b: &HashSet<String>) -> bool {
    let (small, large) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    // Sets of such different sizes cannot be alike.
    if (small.len() as f64) < NEAR * large.len() as f64 {
        return false;
    }
    let common = small.intersection(large).count();
    common as f64 >= NEAR * (small.len() + large.len() - common) as f64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    fn pair(user: &str, assistant: &str) -> Seed {
        Seed { user: user.to_owned(), assistant: assistant.to_owned() }
    }

    /// What is taken and counted of one example after the others.
    fn taken(seeds: &[Seed], examples: &[Seed]) -> (Vec<String>, Rejected) {
        let (mut judge, mut rejected) = (Judge::new(seeds), Rejected::default());
        let accepted = examples.iter().filter_map(|example| judge.accept(Some(example.clone()), &mut rejected));
        (accepted.map(|example| example.user).collect(), rejected)
    }

    #[test]
    fn repeated_requests_are_taken_once() {
        let seeds = [pair("call mum", "ok")];
        let long = "please remind me to call my mother tomorrow at six in the evening";
        let examples = [
            pair("Call mum!", "ok"),
            pair("call dad", "ok"),
            pair(" call DAD ", "fine"),
            pair(long, "ok"),
            pair(&long.replace("evening", "evening,"), "ok"),
            pair(&format!("{long} please"), "ok"),
        ];
        let (users, rejected) = taken(&seeds, &examples);
        assert_eq!(users, ["call dad", long]);
        assert_eq!(rejected.duplicate, 4);
    }

    #[test]
    fn answers_have_the_form_of_the_seeds() {
        let seeds = [pair("a", r#"{"intent": "x", "when": null}"#), pair("b", r#"{"intent": "y"}"#)];
        let examples =
            [pair("c", r#"{"when": "now", "intent": "x"}"#), pair("d", r#"{"intent": "x", "who": 1}"#), pair("e", "intent x")];
        let (users, rejected) = taken(&seeds, &examples);
        assert_eq!((users, rejected.form), (vec!["c".to_owned()], 2));
        let labels: Vec<Seed> = (0..6).map(|at| pair(&format!("s{at}"), ["good", "bad"][at % 2])).collect();
        let (users, rejected) = taken(&labels, &[pair("f", "good"), pair("g", "mixed")]);
        assert_eq!((users, rejected.form), (vec!["f".to_owned()], 1));
    }

    #[test]
    fn empty_and_endless_texts_are_malformed() {
        let long = "x".repeat(MAX_CHARS + 1);
        let (users, rejected) = taken(&[], &[pair("", "a"), pair("a", " \n"), pair(&long, "a"), pair("b\0", "a")]);
        assert!(users.is_empty());
        assert_eq!(rejected.malformed, 4);
    }
}
