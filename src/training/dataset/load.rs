//! A file, split and rendered, as a training run takes it. The file is read once; what is kept of a row is its tokens.

use std::path::Path;

use super::render::{Pair, Question, RenderError, Rendered, Renderer, Row, Sample};
use super::split::{Side, split};
use super::{Body, DatasetError, Digest, Example, Options, Problem, ProblemKind, Reader};

/// What a file is loaded for.
#[derive(Clone, Copy)]
pub struct Loading<'a> {
    /// Writes examples for the base.
    pub renderer: &'a Renderer,
    /// Rows to judge by; without them a share of the file's is held out.
    pub validation: Option<&'a Path>,
    /// The share that is held out where there is no such file ([`super::split::USUAL_SHARE`]); 0 for none.
    pub held_out: f64,
    /// Seed of the split.
    pub seed: u64,
    /// Most questions that are kept of the rows to judge by.
    pub questions: usize,
    /// Asked at every row: whether to stop.
    pub is_stopped: &'a (dyn Fn() -> bool + Sync),
}

/// For loading that nobody stops.
pub const NEVER: &(dyn Fn() -> bool + Sync) = &|| false;

/// A file in tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// To learn from.
    pub train: Rendered,
    /// To judge by, of the same kind.
    pub held_out: Rendered,
    /// The first of the rows to judge by, as questions.
    pub questions: Vec<Question>,
    /// Digest of the file that is learnt from, whole ([`Digest`]).
    pub digest: String,
    /// Rows that are longer than the context.
    pub truncated: u64,
    /// Rows that were left out, as nothing to learn is within the context.
    pub lost: u64,
    /// Rows that were left out, as they have no prompt or no answer.
    pub missing: u64,
    /// Tokens of the rows to learn from.
    pub train_tokens: u64,
    /// Those of them that are learnt.
    pub learnt_tokens: u64,
}

/// Bad rows that an error names.
const NAMED: usize = 10;

/// Loads a file. Rows without a prompt or an answer are left out and counted; every other row must be sound, and the first bad ones are
/// named otherwise.
pub fn load(path: &Path, options: &Options, loading: &Loading<'_>) -> Result<Loaded, DatasetError> {
    let mut counts = Counts::default();
    let mut digest = Digest::default();
    let mut conversations = Vec::new();
    let rows = read(path, options, loading, &mut counts, |example| {
        digest.add(example);
        conversations.push(example.conversation);
    })?;
    let (train, held_out, questions) = match loading.validation {
        Some(validation) => {
            let mut questions = Vec::new();
            let mut failed = None;
            let held_out = read(validation, options, loading, &mut counts, |example| {
                if questions.len() < loading.questions && failed.is_none() {
                    match loading.renderer.question(example) {
                        Ok(question) => questions.push(question),
                        Err(source) => failed = Some(DatasetError::Row { line: example.line, source }),
                    }
                }
            })?;
            if let Some(failed) = failed {
                return Err(failed);
            }
            (rows, held_out, questions)
        }
        None => {
            let sides = split(&conversations, loading.held_out, loading.seed);
            let questions = asked(path, options, loading, &sides)?;
            let (train, held_out): (Vec<_>, Vec<_>) = rows.into_iter().zip(&sides).partition(|(_, side)| **side == Side::Train);
            let rows = |rows: Vec<(Option<Row>, &Side)>| rows.into_iter().map(|(row, _)| row).collect::<Vec<_>>();
            (rows(train), rows(held_out), questions)
        }
    };
    let (train, held_out) = (collected(train)?, collected(held_out)?);
    let (train_tokens, learnt_tokens) = tokens(&train);
    let held_out = match (&train, held_out) {
        // An empty list is of either kind.
        (Rendered::Preference(_), Rendered::Supervised(rows)) if rows.is_empty() => Rendered::Preference(Vec::new()),
        (_, held_out) => held_out,
    };
    if std::mem::discriminant(&train) != std::mem::discriminant(&held_out) {
        return Err(DatasetError::Unusable("one of the two files has preferences and the other has none".to_owned()));
    }
    if train.is_empty() {
        return Err(DatasetError::Unusable("no row is left to learn from".to_owned()));
    }
    let Counts { truncated, lost, missing } = counts;
    Ok(Loaded { train, held_out, questions, digest: digest.finish(), truncated, lost, missing, train_tokens, learnt_tokens })
}

#[derive(Default)]
struct Counts {
    truncated: u64,
    lost: u64,
    missing: u64,
}

/// Rows in tokens, in order; `None` where nothing to learn is within the context.
fn read(
    path: &Path,
    options: &Options,
    loading: &Loading<'_>,
    counts: &mut Counts,
    mut each: impl FnMut(&Example),
) -> Result<Vec<Option<Row>>, DatasetError> {
    let mut rows = Vec::new();
    let (mut bad, mut first): (u64, Vec<String>) = (0, Vec::new());
    let mut note = |problem: &Problem| {
        bad += 1;
        if first.len() < NAMED {
            first.push(problem.to_string());
        }
    };
    for row in Reader::open(path, options)? {
        if (loading.is_stopped)() {
            return Err(DatasetError::Stopped);
        }
        let example = match row? {
            Ok(example) => example,
            Err(problem) if problem.kind == ProblemKind::Missing => {
                counts.missing += 1;
                continue;
            }
            Err(problem) => {
                note(&problem);
                continue;
            }
        };
        each(&example);
        match loading.renderer.render(&example) {
            Ok(outcome) => {
                counts.truncated += u64::from(outcome.cut > 0);
                rows.push(Some(outcome.row));
            }
            Err(RenderError::Lost { .. }) => {
                counts.truncated += 1;
                counts.lost += 1;
                rows.push(None);
            }
            Err(RenderError::NoTemplate) => return Err(RenderError::NoTemplate.into()),
            Err(error) => note(&Problem::of_template(&example, &error)),
        }
    }
    if bad > 0 {
        return Err(DatasetError::BadRows { count: bad, first });
    }
    Ok(rows)
}

/// Questions of the rows that are held out: the file again, up to the last one that is wanted.
fn asked(path: &Path, options: &Options, loading: &Loading<'_>, sides: &[Side]) -> Result<Vec<Question>, DatasetError> {
    let mut questions = Vec::new();
    let mut sides = sides.iter();
    for row in Reader::open(path, options)? {
        if (loading.is_stopped)() {
            return Err(DatasetError::Stopped);
        }
        if questions.len() >= loading.questions {
            break;
        }
        // Rows that were left out have no side.
        let Ok(example) = row? else { continue };
        if sides.next() == Some(&Side::HeldOut) {
            let question = loading.renderer.question(&example);
            questions.push(question.map_err(|source| DatasetError::Row { line: example.line, source })?);
        }
    }
    Ok(questions)
}

fn collected(rows: Vec<Option<Row>>) -> Result<Rendered, DatasetError> {
    let (mut samples, mut pairs): (Vec<Sample>, Vec<Pair>) = (Vec::new(), Vec::new());
    for row in rows.into_iter().flatten() {
        match row {
            Row::Sample(sample) => samples.push(sample),
            Row::Pair(pair) => pairs.push(pair),
        }
    }
    match (samples.is_empty(), pairs.is_empty()) {
        (_, true) => Ok(Rendered::Supervised(samples)),
        (true, false) => Ok(Rendered::Preference(pairs)),
        (false, false) => Err(DatasetError::Unusable("some rows are preferences and others are not".to_owned())),
    }
}

/// Tokens, and those that are learnt.
fn tokens(rendered: &Rendered) -> (u64, u64) {
    let count = |sample: &Sample| (sample.tokens.len() as u64, sample.learnt() as u64);
    let add = |(a, b): (u64, u64), (c, d): (u64, u64)| (a + c, b + d);
    match rendered {
        Rendered::Supervised(samples) => samples.iter().map(count).fold((0, 0), add),
        Rendered::Preference(pairs) => pairs.iter().map(|pair| add(count(&pair.chosen), count(&pair.rejected))).fold((0, 0), add),
    }
}

impl Problem {
    /// A row that the base's chat template does not take.
    pub(super) fn of_template(example: &Example, error: &RenderError) -> Self {
        Self { line: example.line, kind: super::ProblemKind::Template, message: error.to_string(), repaired: None }
    }
}

impl Example {
    /// Whether it has two answers.
    pub const fn is_preference(&self) -> bool {
        matches!(self.body, Body::Preference { .. })
    }
}
