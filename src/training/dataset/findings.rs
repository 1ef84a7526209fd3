//! Collects what is found in rows, and says how bad it is: thresholds, words and offered fixes.

use std::collections::BTreeMap;

use super::report::{Finding, FindingKind, Level};
use super::{Problem, ProblemKind};

/// Lines that a finding names.
pub(super) const LINES: usize = 20;
/// Examples that it gives.
const EXAMPLES: usize = 3;

/// Shares of rows over which something is a warning.
const MISSING: f64 = 0.05;
const REPEATED: f64 = 0.02;
const DAMAGED: f64 = 0.01;
/// Rows under which training has too little to learn from.
pub(super) const FEW: u64 = 100;

/// What was found so far.
#[derive(Default)]
pub(super) struct Findings(BTreeMap<FindingKind, Found>);

#[derive(Default)]
struct Found {
    count: u64,
    lines: Vec<u64>,
    examples: Vec<String>,
    repairable: u64,
}

impl Findings {
    /// Adds a row to a finding.
    pub(super) fn add(&mut self, kind: FindingKind, line: u64) {
        self.with(kind, line, None);
    }

    /// Adds a row, and what is wrong with it.
    pub(super) fn with(&mut self, kind: FindingKind, line: u64, example: Option<String>) {
        let found = self.0.entry(kind).or_default();
        found.count += 1;
        if found.lines.len() < LINES {
            found.lines.push(line);
        }
        found.examples.extend(example.filter(|_| found.examples.len() < EXAMPLES));
    }

    /// Adds a row that cannot be used.
    pub(super) fn problem(&mut self, problem: &Problem) {
        let kind = kind(problem.kind);
        self.with(kind, problem.line, Some(problem.to_string()));
        if let Some(found) = self.0.get_mut(&kind) {
            found.repairable += u64::from(problem.repaired.is_some());
        }
    }

    /// Adds rows that were counted elsewhere.
    pub(super) fn put(&mut self, kind: FindingKind, count: u64, lines: Vec<u64>) {
        if count > 0 {
            self.0.insert(kind, Found { count, lines, ..Found::default() });
        }
    }

    /// All of them, the worst first.
    #[expect(clippy::cast_precision_loss, reason = "shares are for people")]
    pub(super) fn finish(self, rows: u64) -> Vec<Finding> {
        let mut findings: Vec<Finding> = self
            .0
            .into_iter()
            .map(|(kind, found)| {
                let share = found.count as f64 / rows.max(1) as f64;
                let (level, message, fix) = told(kind, share, found.repairable);
                let fix = fix.map(str::to_owned);
                Finding {
                    kind,
                    level,
                    message: message.to_owned(),
                    count: found.count,
                    share,
                    lines: found.lines,
                    examples: found.examples,
                    fix,
                }
            })
            .collect();
        findings.sort_by_key(|finding| (finding.level, finding.kind));
        findings
    }
}

const fn kind(kind: ProblemKind) -> FindingKind {
    match kind {
        ProblemKind::Syntax => FindingKind::Syntax,
        ProblemKind::TooLong => FindingKind::TooLong,
        ProblemKind::Encoding => FindingKind::Encoding,
        ProblemKind::Format => FindingKind::Format,
        ProblemKind::Missing => FindingKind::Missing,
        ProblemKind::Role => FindingKind::Role,
        ProblemKind::Field => FindingKind::Field,
        ProblemKind::Template => FindingKind::Template,
    }
}

/// Level, words, fix.
fn told(kind: FindingKind, share: f64, repairable: u64) -> (Level, &'static str, Option<&'static str>) {
    use FindingKind as K;
    let over = |limit: f64| if share > limit { Level::Warning } else { Level::Note };
    let mend = |repaired: &'static str| Some(if repairable > 0 { repaired } else { "--fix leaves these rows out" });
    match kind {
        K::Syntax => (Level::Error, "rows that cannot be parsed", mend("--fix leaves these rows out")),
        K::TooLong => (Level::Error, "rows over 16 MiB", mend("--fix leaves these rows out")),
        K::Encoding => {
            (Level::Error, "rows that are not UTF-8, or hold NUL", mend("--fix reads them as Windows-1252 and takes NUL out"))
        }
        K::Format => (
            Level::Error,
            "rows of another format than the file",
            mend("--fix writes those of a known format as the others, and leaves the rest out"),
        ),
        K::Role => (
            Level::Error,
            "messages with a wrong role",
            mend("--fix writes known other names of roles (human, gpt, bot ...) as they should be, and leaves the rest out"),
        ),
        K::Field => (Level::Error, "fields that cannot be used", mend("--fix repairs what can be, and leaves the rest out")),
        K::Template => (
            Level::Error,
            "conversations that the base's chat template does not take",
            Some("write them as the template wants them (see the example), or use another base; --fix leaves them out"),
        ),
        K::Missing => (
            over(MISSING),
            "rows without a prompt or an answer, which training leaves out",
            mend("--fix cuts conversations after their last answer, and leaves the rest out"),
        ),
        K::MixedKinds => (Level::Error, "some rows are preferences and others are not", Some("use one file for each")),
        K::NothingUsable => (Level::Error, "no row can be used", None),
        K::FewRows => (Level::Warning, "fewer than 100 rows: too few to learn much, and to judge by", Some("add rows")),
        K::Duplicates => (over(REPEATED), "rows that were there before", Some("--fix keeps the first")),
        K::NearDuplicates => {
            (over(REPEATED), "rows that were nearly there before", Some("--fix with --drop-near keeps the first"))
        }
        K::Contradictions => {
            (over(REPEATED), "inputs that were there before with another answer", Some("decide which answer is right"))
        }
        K::Leakage => (
            Level::Warning,
            "rows to judge by that are known, or nearly, from those to learn from: results will look too good",
            Some("--fix (with --drop-near) takes them out of the file; or take them out of the validation file"),
        ),
        K::OneConversation => (
            Level::Warning,
            "more than half of the rows are one conversation, which is not divided",
            Some("give rows a conversation_id"),
        ),
        K::ShortInputs => (Level::Note, "inputs of fewer than 10 tokens", None),
        K::LongOutputs => (Level::Note, "answers of more than 1000 tokens", None),
        K::Ratio => (Level::Note, "input and answer differ in length by more than 10 to 1", None),
        K::Truncated => (
            Level::Warning,
            "rows that are longer than the context and are cut off",
            Some("shorten them, or train with a longer context"),
        ),
        K::Lost => (
            Level::Warning,
            "rows with nothing to learn within the context, which training leaves out",
            Some("shorten their inputs; --fix leaves them out"),
        ),
        K::Characters => (
            over(DAMAGED),
            "damaged characters",
            Some("--fix restores text that was decoded wrongly and takes control characters out"),
        ),
        K::SpecialTokens => {
            (Level::Warning, "texts of special tokens within messages, which the model reads as structure", Some("take them out"))
        }
        K::Languages => (over(DAMAGED), "answers in other languages than most", None),
        K::Answers => {
            (over(DAMAGED), "answers that repeat themselves or the input, or hold placeholders", Some("write them again"))
        }
    }
}
