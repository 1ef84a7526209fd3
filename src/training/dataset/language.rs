//! Which language answers are in. Short texts, code and numbers have none that could be told.

use std::collections::BTreeMap;

use whatlang::Lang;

use super::report::Language;

/// Letters under which a guess is worth nothing.
const FEWEST: usize = 24;
/// Bytes that are looked at.
const BYTES: usize = 600;
/// Rows that are all looked at; of those after them one in [`ONE_IN`].
const ALL: u64 = 50_000;
const ONE_IN: u64 = 20;

/// How sure a guess must be to be counted, and to be a complaint; the library calls the second one reliable.
const TOLD: f64 = 0.5;

/// Counts languages.
#[derive(Default)]
pub(super) struct Languages {
    rows: u64,
    counts: BTreeMap<&'static str, (Option<Lang>, u64)>,
    /// Those that are sure: how many, and the first lines.
    sure: BTreeMap<&'static str, (u64, Vec<u64>)>,
}

impl Languages {
    /// Adds an answer.
    pub(super) fn add(&mut self, line: u64, answer: &str) {
        self.rows += 1;
        if self.rows > ALL && !self.rows.is_multiple_of(ONE_IN) {
            return;
        }
        let guess = guess(answer).filter(|guess| guess.confidence() >= TOLD);
        let code = guess.as_ref().map_or("und", |guess| guess.lang().code());
        self.counts.entry(code).or_insert((guess.as_ref().map(|guess| guess.lang()), 0)).1 += 1;
        if guess.is_some_and(|guess| guess.is_reliable()) {
            let (count, lines) = self.sure.entry(code).or_default();
            *count += 1;
            if lines.len() < super::findings::LINES {
                lines.push(line);
            }
        }
    }

    /// The languages, the most frequent first.
    pub(super) fn counted(&self) -> Vec<Language> {
        let mut languages: Vec<Language> = self
            .counts
            .iter()
            .map(|(code, (language, rows))| Language {
                code,
                name: language.map_or("not told", |language| language.eng_name()),
                rows: *rows,
            })
            .collect();
        languages.sort_by_key(|language| (std::cmp::Reverse(language.rows), language.code));
        languages
    }

    /// Answers that are surely not in the main language: how many, their first lines.
    pub(super) fn others(&self) -> (u64, Vec<u64>) {
        let told = self.counts.iter().filter(|(_, (language, _))| language.is_some());
        let Some((main, _)) = told.max_by_key(|(_, (_, rows))| *rows) else { return (0, Vec::new()) };
        let others = || self.sure.iter().filter(|(code, _)| code != &main).map(|(_, found)| found);
        let mut lines: Vec<u64> = others().flat_map(|(_, lines)| lines.iter().copied()).collect();
        lines.sort_unstable();
        lines.truncate(super::findings::LINES);
        (others().map(|(count, _)| count).sum(), lines)
    }
}

fn guess(text: &str) -> Option<whatlang::Info> {
    let mut end = text.len().min(BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let text = &text[..end];
    if text.chars().filter(|c| c.is_alphabetic()).take(FEWEST).count() < FEWEST && text.is_ascii() {
        return None;
    }
    whatlang::detect(text)
}
