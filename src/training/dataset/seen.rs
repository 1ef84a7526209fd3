//! Which rows were there before: the same, nearly the same, or the same input with another answer. Remembers hashes, no texts.

use std::collections::HashMap;

use super::digest::hash;
use super::near::Near;
use super::{Body, Example, Turn};

/// Rows that are remembered for exact repetition; those after them are compared with these only.
const REMEMBERED: usize = 4 << 20;

/// Rows so far.
pub(super) struct Seen {
    /// Whole rows, by hash: number.
    rows: HashMap<u64, u32>,
    /// What was asked, by hash: number.
    inputs: HashMap<u64, u32>,
    near: Near,
    /// Line of each row.
    lines: Vec<u32>,
}

/// What a row repeats, by the number of the earlier row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Repeats {
    /// The same row.
    pub(super) row: Option<u32>,
    /// The same input.
    pub(super) input: Option<u32>,
    /// Nearly the same texts.
    pub(super) near: Option<u32>,
}

impl Repeats {
    /// The earlier row, whatever is the same.
    pub(super) fn any(self) -> Option<u32> {
        self.row.or(self.input).or(self.near)
    }
}

/// A row as it is compared.
pub(super) struct Prints {
    row: u64,
    input: u64,
    near: super::near::Signature,
}

impl Seen {
    pub(super) fn new() -> Self {
        Self { rows: HashMap::new(), inputs: HashMap::new(), near: Near::new(), lines: Vec::new() }
    }

    /// What a row is compared by. `row` is its JSON.
    pub(super) fn prints(&self, example: &Example, row: &str) -> Prints {
        let (input, answer) = parts(example);
        let mut asked = String::new();
        for turn in input {
            asked.push_str(turn.role());
            asked.push('\u{1f}');
            asked.push_str(turn.text().trim());
            asked.push('\u{1e}');
        }
        Prints { row: hash(row.as_bytes()), input: hash(asked.as_bytes()), near: self.near.signature(&compared(input, answer)) }
    }

    pub(super) fn find(&self, prints: &Prints) -> Repeats {
        Repeats {
            row: self.rows.get(&prints.row).copied(),
            input: self.inputs.get(&prints.input).copied(),
            near: self.near.find(&prints.near).and_then(|number| u32::try_from(number).ok()),
        }
    }

    /// Adds a row.
    pub(super) fn add(&mut self, prints: &Prints, line: u64) {
        let number = u32::try_from(self.lines.len()).unwrap_or(u32::MAX);
        if self.lines.len() < REMEMBERED {
            self.rows.entry(prints.row).or_insert(number);
            self.inputs.entry(prints.input).or_insert(number);
        }
        self.near.add(&prints.near);
        self.lines.push(u32::try_from(line).unwrap_or(u32::MAX));
    }

    /// Line of a row.
    pub(super) fn line(&self, number: u32) -> u64 {
        self.lines.get(number as usize).copied().map_or(0, u64::from)
    }
}

/// What stands before the last answer, and that answer (the preferred one).
pub(super) fn parts(example: &Example) -> (&[Turn], &[Turn]) {
    match &example.body {
        Body::Supervised(turns) => turns.split_at(turns.len().saturating_sub(1)),
        Body::Preference { prompt, chosen, .. } => (prompt, chosen),
    }
}

/// The texts that near repetition is judged by: how the conversation begins, and its last question and answer. System messages and
/// what lies between are the same in many rows that are not.
fn compared(input: &[Turn], answer: &[Turn]) -> String {
    let first = input.iter().position(|turn| turn.role() != "system");
    let last = input.iter().rposition(|turn| turn.role() != "system").filter(|last| Some(*last) != first);
    let texts = [first, last].into_iter().flatten().map(|place| &input[place]).chain(answer);
    texts.map(Turn::text).collect::<Vec<&str>>().join("\n")
}
