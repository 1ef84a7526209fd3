//! What is said of a dataset: the report as data, and as text. Knows nothing of how it was found.

use std::fmt::Write as _;

use serde::Serialize;

use super::columns::Column;
use super::reader::Skipped;
use super::rows::Shape;
use super::source::Container;

/// What a file is worth as a dataset.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// What it is written in.
    pub container: Container,
    /// What its rows are.
    pub format: Shape,
    /// Columns that were found, where they had to be.
    pub columns: Vec<Column>,
    /// Rows, good and bad, without those that were passed over.
    pub rows: u64,
    /// Rows that can be learnt from as they are.
    pub usable: u64,
    /// Rows that were passed over.
    pub skipped: Skipped,
    /// SHA-256 of the usable rows ([`super::Digest`]).
    pub digest: String,
    /// What was found, the worst first.
    pub findings: Vec<Finding>,
    /// Lengths; absent where there is no base to count tokens with.
    pub tokens: Option<Tokens>,
    /// Languages of the answers, the most frequent first.
    pub languages: Vec<Language>,
    /// Scores of rows.
    pub quality: Quality,
    /// How the rows would be divided.
    pub split: Split,
    /// What was written by `--fix`.
    pub fixed: Option<Fixed>,
}

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Training refuses the file.
    Error,
    /// Training goes on, and is likely to be the worse for it.
    Warning,
    /// Good to know.
    Note,
}

/// What can be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// Rows that are no JSON, or no records.
    Syntax,
    /// Rows over the limit.
    TooLong,
    /// Rows that are no UTF-8, or hold NUL.
    Encoding,
    /// Rows of another format.
    Format,
    /// Wrong roles.
    Role,
    /// Fields that cannot be used.
    Field,
    /// Messages that the base's chat template does not take.
    Template,
    /// Rows without a prompt or an answer.
    Missing,
    /// Preferences and others in one file.
    MixedKinds,
    /// No row can be used.
    NothingUsable,
    /// Fewer rows than training needs.
    FewRows,
    /// Rows that are there twice.
    Duplicates,
    /// Rows that are nearly the same.
    NearDuplicates,
    /// One input with different answers.
    Contradictions,
    /// Held-out rows that are known from training.
    Leakage,
    /// Most rows are one conversation.
    OneConversation,
    /// Inputs that are short.
    ShortInputs,
    /// Answers that are long.
    LongOutputs,
    /// One of input and answer is much longer than the other.
    Ratio,
    /// Rows that are longer than the context.
    Truncated,
    /// Rows with nothing to learn within the context.
    Lost,
    /// Damaged characters.
    Characters,
    /// Texts of special tokens within messages.
    SpecialTokens,
    /// Answers in other languages than most.
    Languages,
    /// Answers that repeat themselves, are no answers, or repeat the input.
    Answers,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// What.
    pub kind: FindingKind,
    /// How bad.
    pub level: Level,
    /// In words.
    pub message: String,
    /// Rows.
    pub count: u64,
    /// Share of all rows, from 0 to 1.
    pub share: f64,
    /// The first lines.
    pub lines: Vec<u64>,
    /// What is wrong with the first ones.
    pub examples: Vec<String>,
    /// What can be done.
    pub fix: Option<String>,
}

/// Lengths in tokens of a base.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tokens {
    /// What stands before the last answer, without the system message.
    pub input: Spread,
    /// The last answer.
    pub output: Spread,
    /// Whole rows as the chat template writes them.
    pub row: Spread,
    /// Of all rows.
    pub total: u64,
    /// The context that rows must fit in.
    pub context: u64,
}

/// How numbers are spread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Spread {
    /// The least.
    pub min: u32,
    /// Half are up to this.
    pub median: u32,
    /// The mean.
    pub mean: f64,
    /// 95 of 100 are up to this.
    pub p95: u32,
    /// The most.
    pub max: u32,
}

impl Spread {
    /// Of numbers, whose order is changed.
    #[expect(clippy::cast_precision_loss, reason = "means are for people")]
    pub(super) fn of(numbers: &mut [u32]) -> Self {
        numbers.sort_unstable();
        let (Some(min), Some(max)) = (numbers.first(), numbers.last()) else { return Self::default() };
        let at = |part: usize| numbers[(numbers.len() * part / 100).min(numbers.len() - 1)];
        let mean = numbers.iter().map(|number| f64::from(*number)).sum::<f64>() / numbers.len() as f64;
        Self { min: *min, median: at(50), mean: (mean * 10.0).round() / 10.0, p95: at(95), max: *max }
    }
}

/// A language.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Language {
    /// ISO 639-3; `und` where it could not be told.
    pub code: &'static str,
    /// English name.
    pub name: &'static str,
    /// Answers.
    pub rows: u64,
}

/// Scores of rows, 0 to 100; the formula is in `docs/datasets.md`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Quality {
    /// Mean of all rows; bad ones have 0.
    pub mean: f64,
    /// Rows by score: 0 to 9, 10 to 19 ... 90 to 100.
    pub histogram: [u64; 10],
    /// The worst rows that can be used.
    pub worst: Vec<RowScore>,
}

/// The score of a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RowScore {
    /// Its line.
    pub line: u64,
    /// 0 to 100.
    pub score: u8,
    /// What was taken off, and for what.
    pub reasons: Vec<&'static str>,
}

/// How the rows would be divided.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Split {
    /// Seed.
    pub seed: u64,
    /// To learn from.
    pub train: u64,
    /// To judge by.
    pub held_out: u64,
    /// Groups that stay together.
    pub conversations: u64,
    /// Rows of the validation file, where one was given: all of them to judge by.
    pub validation: Option<u64>,
}

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Fixed {
    /// Rows.
    pub written: u64,
    /// Rows of them that had a problem and were repaired.
    pub repaired: u64,
    /// Rows of them whose characters were restored.
    pub cleaned: u64,
    /// Rows that could not be repaired.
    pub dropped_bad: u64,
    /// Rows that were there before.
    pub dropped_duplicates: u64,
    /// Rows that were nearly there before.
    pub dropped_near_duplicates: u64,
    /// Rows with nothing to learn within the context.
    pub dropped_lost: u64,
}

impl Report {
    /// Whether training refuses the file.
    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(|finding| finding.level == Level::Error)
    }

    /// The finding of a kind.
    pub fn finding(&self, kind: FindingKind) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.kind == kind)
    }

    /// The report for people; `name` is how they know the file.
    pub fn text(&self, name: &str) -> String {
        let mut text = format!(
            "{name}: {}, {} {}\n",
            self.container.name(),
            self.rows,
            match self.format {
                Shape::Columns => "rows of a table".to_owned(),
                format => format!("rows of {}", format.name()),
            }
        );
        self.facts(&mut text);
        for (level, title) in [(Level::Error, "errors"), (Level::Warning, "warnings"), (Level::Note, "notes")] {
            let mut any = false;
            for finding in self.findings.iter().filter(|finding| finding.level == level) {
                if !std::mem::replace(&mut any, true) {
                    line(&mut text, title);
                }
                finding.write(&mut text);
            }
        }
        if let Some(fixed) = &self.fixed {
            line(
                &mut text,
                &format!(
                    "written: {} rows, {} of them repaired, {} with characters restored",
                    fixed.written, fixed.repaired, fixed.cleaned
                ),
            );
            let dropped = [
                (fixed.dropped_bad, "that cannot be repaired"),
                (fixed.dropped_duplicates, "that were there before"),
                (fixed.dropped_near_duplicates, "that were nearly there before"),
                (fixed.dropped_lost, "with nothing to learn within the context"),
            ];
            for (count, what) in dropped.iter().filter(|(count, _)| *count > 0) {
                line(&mut text, &format!("  left out: {count} {what}"));
            }
        }
        line(
            &mut text,
            match (self.has_errors(), self.findings.is_empty()) {
                (true, _) => "training refuses this file",
                (false, true) => "nothing to complain about",
                (false, false) => "this file can be trained on",
            },
        );
        text
    }

    fn facts(&self, text: &mut String) {
        line(text, &format!("  usable   {}, digest {}", self.usable, self.digest));
        if self.skipped.without_target + self.skipped.low_quality > 0 {
            let Skipped { without_target, low_quality } = self.skipped;
            line(text, &format!("  skipped  {without_target} pairs without a target, {low_quality} of low quality"));
        }
        for column in &self.columns {
            line(
                text,
                &format!("  column   {} is {:?} (confidence {:.2})", column.field.name(), column.column, column.confidence),
            );
        }
        if let Some(tokens) = &self.tokens {
            for (name, spread) in [("input", tokens.input), ("answer", tokens.output), ("row", tokens.row)] {
                let Spread { min, median, mean, p95, max } = spread;
                line(text, &format!("  {name:<8} {min} to {max} tokens, median {median}, mean {mean}, 95% up to {p95}"));
            }
            line(text, &format!("  tokens   {} in all, context {}", tokens.total, tokens.context));
        }
        let languages: Vec<String> =
            self.languages.iter().take(5).map(|language| format!("{} {}", language.name, language.rows)).collect();
        if !languages.is_empty() {
            line(text, &format!("  language {}", languages.join(", ")));
        }
        line(text, &format!("  quality  {:.0} of 100 on average", self.quality.mean));
        let Split { seed, train, held_out, conversations, validation } = self.split;
        line(
            text,
            &match validation {
                Some(rows) => format!("  split    {train} to learn from, {rows} of the other file to judge by"),
                None => format!(
                    "  split    {train} to learn from, {held_out} held out, of {conversations} conversations (seed {seed})"
                ),
            },
        );
    }
}

impl Finding {
    fn write(&self, text: &mut String) {
        let of_rows = !matches!(self.kind, FindingKind::FewRows | FindingKind::NothingUsable);
        let rows = if self.count == 1 { "row" } else { "rows" };
        let share = if of_rows { format!(" ({} {rows}, {:.1}%)", self.count, self.share * 100.0) } else { String::new() };
        line(text, &format!("  {}{share}", self.message));
        if !self.lines.is_empty() {
            let lines: Vec<String> = self.lines.iter().map(u64::to_string).collect();
            let more = if self.count > self.lines.len() as u64 { " ..." } else { "" };
            let name = if lines.len() == 1 { "line" } else { "lines" };
            line(text, &format!("    {name} {}{more}", lines.join(", ")));
        }
        for example in &self.examples {
            line(text, &format!("    {example}"));
        }
        if let Some(fix) = &self.fix {
            line(text, &format!("    fix: {fix}"));
        }
    }
}

fn line(text: &mut String, line: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{line}");
}
