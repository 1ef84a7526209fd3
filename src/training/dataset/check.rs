//! Looks at every row of a dataset once and reports. What is kept of a row are some numbers: about 200 bytes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use super::findings::{FEW, Findings};
use super::fix::{Copy, Fix, cleaned};
use super::language::Languages;
use super::quality::{Fault, answer_fault, score};
use super::render::{RenderError, Renderer, Row};
use super::report::{FindingKind, Quality, Report, RowScore, Split, Spread, Tokens};
use super::seen::{Repeats, Seen, parts};
use super::split::{Side, split};
use super::{DatasetError, Digest, Example, Problem, Reader, Turn, encoding};

/// Inputs of fewer tokens, answers of more tokens, and lengths of a higher ratio are noted.
const SHORT_INPUT: usize = 10;
const LONG_OUTPUT: usize = 1000;
const RATIO: usize = 10;
/// Worst rows that are named.
const WORST: usize = 20;
/// Repeated rows that are remembered, to see whether they end on both sides of the split.
const PAIRS: usize = 1 << 20;

/// How a dataset is looked at.
pub struct Checking<'a> {
    /// Counts tokens for a base; without it nothing is said of lengths.
    pub renderer: Option<&'a Renderer>,
    /// Rows to judge by, of another file.
    pub validation: Option<Reader>,
    /// The share that is held out where there is no such file.
    pub held_out: f64,
    /// Seed of the split.
    pub seed: u64,
    /// Writes a cleaned copy.
    pub fix: Option<Fix<'a>>,
    /// Is told the score of each row that can be used.
    pub each: Option<&'a mut dyn FnMut(&RowScore)>,
    /// Ends the work when it becomes true.
    pub stop: Option<&'a AtomicBool>,
}

/// Reports on a dataset.
pub fn check(mut reader: Reader, checking: Checking<'_>) -> Result<Report, DatasetError> {
    let Checking { renderer, validation, held_out, seed, fix, mut each, stop } = checking;
    let mut look = Look::new(renderer, fix.as_ref().map(Copy::begin).transpose()?);
    while let Some(row) = reader.next_row()? {
        if stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            return Err(DatasetError::Stopped);
        }
        match row {
            Ok(example) => {
                if let Some(score) = look.good(&example)?
                    && let Some(each) = &mut each
                {
                    each(&score);
                }
            }
            Err(problem) => look.bad(problem)?,
        }
    }
    let validation = validation.map(|validation| look.validate(validation)).transpose()?;
    look.report(&reader, Divided { held_out, seed, validation })
}

struct Divided {
    held_out: f64,
    seed: u64,
    validation: Option<u64>,
}

struct Look<'a> {
    renderer: Option<&'a Renderer>,
    copy: Option<Copy>,
    rows: u64,
    usable: u64,
    preferences: u64,
    digest: Digest,
    findings: Findings,
    seen: Seen,
    languages: Languages,
    /// Group of each usable row.
    conversations: Vec<u64>,
    /// Repeated rows: number of the later, number of the earlier.
    pairs: Vec<(u32, u32)>,
    input: Vec<u32>,
    output: Vec<u32>,
    row: Vec<u32>,
    scores: u64,
    histogram: [u64; 10],
    /// Sorted by score, the worst first.
    worst: Vec<RowScore>,
}

/// Lengths of a row.
struct Lengths {
    input: usize,
    output: usize,
    row: usize,
    cut: bool,
}

impl<'a> Look<'a> {
    fn new(renderer: Option<&'a Renderer>, copy: Option<Copy>) -> Self {
        Self {
            renderer,
            copy,
            rows: 0,
            usable: 0,
            preferences: 0,
            digest: Digest::default(),
            findings: Findings::default(),
            seen: Seen::new(),
            languages: Languages::default(),
            conversations: Vec::new(),
            pairs: Vec::new(),
            input: Vec::new(),
            output: Vec::new(),
            row: Vec::new(),
            scores: 0,
            histogram: [0; 10],
            worst: Vec::new(),
        }
    }

    fn bad(&mut self, problem: Problem) -> Result<(), DatasetError> {
        self.rows += 1;
        self.histogram[0] += 1;
        self.findings.problem(&problem);
        let Some(copy) = &mut self.copy else { return Ok(()) };
        let Some(repaired) = problem.repaired else {
            copy.fixed.dropped_bad += 1;
            return Ok(());
        };
        let repaired = cleaned(&repaired).unwrap_or(*repaired);
        if matches!(lengths(self.renderer, &repaired), Err(RenderError::Lost { .. })) {
            copy.fixed.dropped_lost += 1;
        } else {
            let written = copy.write(&repaired.to_row().to_string())?;
            copy.fixed.repaired += u64::from(written);
        }
        Ok(())
    }

    /// A sound row. Its score, unless the base's chat template does not take it.
    fn good(&mut self, example: &Example) -> Result<Option<RowScore>, DatasetError> {
        let line = example.line;
        let mut faults = Vec::new();
        let lengths = match lengths(self.renderer, example) {
            Ok(lengths) => lengths,
            Err(RenderError::Lost { tokens, .. }) => {
                faults.push(Fault::Lost);
                self.findings.add(FindingKind::Lost, line);
                Some(Lengths { input: tokens, output: 0, row: tokens, cut: true })
            }
            Err(error @ RenderError::NoTemplate) => return Err(error.into()),
            Err(error) => {
                self.bad(Problem::of_template(example, &error))?;
                return Ok(None);
            }
        };
        self.rows += 1;
        self.usable += 1;
        self.preferences += u64::from(example.is_preference());
        let row = example.to_row().to_string();
        self.digest.add_row(&row);
        self.repeated(example, &row, &mut faults);
        if let Some(lengths) = &lengths {
            self.measured(line, lengths, &mut faults);
        }
        self.texts(example, &mut faults);
        self.copied(example, &row, &faults)?;
        Ok(Some(self.scored(line, &faults)))
    }

    fn repeated(&mut self, example: &Example, row: &str, faults: &mut Vec<Fault>) {
        let line = example.line;
        let prints = self.seen.prints(example, row);
        let repeats = self.seen.find(&prints);
        let earlier = |number: u32, what: &str| Some(format!("line {line}: {what} line {}", self.seen.line(number)));
        if let Some(number) = repeats.row {
            faults.push(Fault::Duplicate);
            self.findings.with(FindingKind::Duplicates, line, earlier(number, "the same as"));
        } else if let Some(number) = repeats.input {
            let kind = if example.is_preference() { FindingKind::NearDuplicates } else { FindingKind::Contradictions };
            self.findings.with(kind, line, earlier(number, "another answer to the input of"));
        } else if let Some(number) = repeats.near {
            faults.push(Fault::NearDuplicate);
            self.findings.with(FindingKind::NearDuplicates, line, earlier(number, "nearly the same as"));
        }
        if let Some(number) = repeats.any()
            && self.pairs.len() < PAIRS
        {
            self.pairs.push((u32::try_from(self.conversations.len()).unwrap_or(u32::MAX), number));
        }
        self.seen.add(&prints, line);
        self.conversations.push(example.conversation);
    }

    fn measured(&mut self, line: u64, lengths: &Lengths, faults: &mut Vec<Fault>) {
        let Lengths { input, output, row, cut } = *lengths;
        let lost = faults.contains(&Fault::Lost);
        let mut note = |kind, fault, is: bool| {
            if is {
                self.findings.add(kind, line);
                faults.push(fault);
            }
        };
        note(FindingKind::ShortInputs, Fault::ShortInput, input < SHORT_INPUT);
        note(FindingKind::LongOutputs, Fault::LongOutput, output > LONG_OUTPUT);
        note(FindingKind::Ratio, Fault::Ratio, !lost && input.max(output) > RATIO * input.min(output).max(1));
        note(FindingKind::Truncated, Fault::Truncated, cut);
        let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        self.input.push(small(input));
        self.output.push(small(output));
        self.row.push(small(row));
    }

    fn texts(&mut self, example: &Example, faults: &mut Vec<Fault>) {
        let line = example.line;
        let (before, answer) = parts(example);
        let turns = || before.iter().chain(answer);
        if let Some(trouble) = turns().find_map(|turn| encoding::trouble(turn.text())) {
            faults.push(Fault::Characters);
            self.findings.with(FindingKind::Characters, line, Some(format!("line {line}: {}", trouble.name())));
        }
        if let Some(renderer) = self.renderer
            && let Some(token) = turns().find_map(|turn| renderer.special_text(turn.text()))
        {
            faults.push(Fault::SpecialTokens);
            self.findings.with(FindingKind::SpecialTokens, line, Some(format!("line {line}: {token}")));
        }
        let said = answer.last().map(Turn::text).unwrap_or_default();
        let asked = before.last().map(Turn::text).unwrap_or_default();
        if let Some(fault) = answer_fault(asked, said) {
            faults.push(fault);
            self.findings.with(FindingKind::Answers, line, Some(format!("line {line}: {}", fault.costs().1)));
        }
        self.languages.add(line, said);
    }

    fn copied(&mut self, example: &Example, row: &str, faults: &[Fault]) -> Result<(), DatasetError> {
        let Some(copy) = &mut self.copy else { return Ok(()) };
        if faults.contains(&Fault::Duplicate) {
            copy.fixed.dropped_duplicates += 1;
        } else if faults.contains(&Fault::NearDuplicate) && copy.drops_near_duplicates() {
            copy.fixed.dropped_near_duplicates += 1;
        } else if faults.contains(&Fault::Lost) {
            copy.fixed.dropped_lost += 1;
        } else if let Some(clean) = cleaned(example) {
            let written = copy.write(&clean.to_row().to_string())?;
            copy.fixed.cleaned += u64::from(written);
        } else {
            copy.write(row)?;
        }
        Ok(())
    }

    fn scored(&mut self, line: u64, faults: &[Fault]) -> RowScore {
        let score = score(faults);
        self.scores += u64::from(score);
        self.histogram[usize::from(score / 10).min(9)] += 1;
        let scored = RowScore { line, score, reasons: faults.iter().map(|fault| fault.costs().1).collect() };
        if score < 100 && (self.worst.len() < WORST || self.worst.last().is_some_and(|last| last.score > score)) {
            let place = self.worst.partition_point(|have| have.score <= score);
            self.worst.insert(place, scored.clone());
            self.worst.truncate(WORST);
        }
        scored
    }

    /// Looks for rows of another file that are known from this one. Its rows.
    fn validate(&mut self, validation: Reader) -> Result<u64, DatasetError> {
        let mut rows = 0;
        for row in validation {
            let Ok(example) = row? else { continue };
            rows += 1;
            let prints = self.seen.prints(&example, &example.to_row().to_string());
            let Repeats { row, input, near } = self.seen.find(&prints);
            let known = [(row, "is"), (input, "has the input of"), (near, "is nearly")];
            if let Some((number, what)) = known.into_iter().find_map(|(number, what)| Some((number?, what))) {
                let line = example.line;
                let told = format!("line {line} of the validation file {what} line {}", self.seen.line(number));
                self.findings.with(FindingKind::Leakage, line, Some(told));
            }
        }
        Ok(rows)
    }

    fn report(mut self, reader: &Reader, divided: Divided) -> Result<Report, DatasetError> {
        let split = self.divide(&divided);
        if self.usable == 0 {
            self.findings.put(FindingKind::NothingUsable, self.rows.max(1), Vec::new());
        } else if self.usable < FEW {
            self.findings.put(FindingKind::FewRows, self.usable, Vec::new());
        }
        if self.preferences > 0 && self.preferences < self.usable {
            self.findings.put(FindingKind::MixedKinds, self.preferences.min(self.usable - self.preferences), Vec::new());
        }
        let (others, lines) = self.languages.others();
        self.findings.put(FindingKind::Languages, others, lines);
        let tokens = self.renderer.map(|renderer| Tokens {
            total: self.row.iter().map(|tokens| u64::from(*tokens)).sum(),
            context: renderer.context() as u64,
            input: Spread::of(&mut self.input),
            output: Spread::of(&mut self.output),
            row: Spread::of(&mut self.row),
        });
        #[expect(clippy::cast_precision_loss, reason = "a mean for people")]
        let mean = (self.scores as f64 / self.rows.max(1) as f64 * 10.0).round() / 10.0;
        Ok(Report {
            container: reader.container(),
            format: reader.shape(),
            columns: reader.columns().to_vec(),
            rows: self.rows,
            usable: self.usable,
            skipped: reader.skipped(),
            digest: self.digest.finish(),
            findings: self.findings.finish(self.rows),
            tokens,
            languages: self.languages.counted(),
            quality: Quality { mean, histogram: self.histogram, worst: self.worst },
            split,
            fixed: self.copy.map(Copy::finish).transpose()?,
        })
    }

    /// Divides the rows, and looks whether what repeats ends on both sides.
    fn divide(&mut self, divided: &Divided) -> Split {
        let mut sizes: HashMap<u64, u64> = HashMap::new();
        for conversation in &self.conversations {
            *sizes.entry(*conversation).or_default() += 1;
        }
        let largest = sizes.values().copied().max().unwrap_or(0);
        if largest * 2 > self.usable && self.usable > 1 {
            self.findings.put(FindingKind::OneConversation, largest, Vec::new());
        }
        let mut split_report = Split {
            seed: divided.seed,
            train: self.usable,
            held_out: 0,
            conversations: sizes.len() as u64,
            validation: divided.validation,
        };
        if divided.validation.is_some() {
            return split_report;
        }
        let sides = split(&self.conversations, divided.held_out, divided.seed);
        split_report.held_out = sides.iter().filter(|side| **side == Side::HeldOut).count() as u64;
        split_report.train -= split_report.held_out;
        for (later, earlier) in std::mem::take(&mut self.pairs) {
            let side = |number: u32| sides.get(number as usize);
            if side(later) != side(earlier) {
                let (line, before) = (self.seen.line(later), self.seen.line(earlier));
                self.findings.with(FindingKind::Leakage, line, Some(format!("line {line} and line {before} are on both sides")));
            }
        }
        split_report
    }
}

/// Lengths in tokens; `None` where there is nothing to count them with.
fn lengths(renderer: Option<&Renderer>, example: &Example) -> Result<Option<Lengths>, RenderError> {
    let Some(renderer) = renderer else { return Ok(None) };
    let outcome = renderer.render(example)?;
    let row = match &outcome.row {
        Row::Sample(sample) => sample.tokens.len(),
        Row::Pair(pair) => pair.chosen.tokens.len().max(pair.rejected.tokens.len()),
    };
    let (before, _) = parts(example);
    let mut input = 0;
    for turn in before.iter().filter(|turn| turn.role() != "system") {
        input += renderer.count(turn.text())?;
    }
    Ok(Some(Lengths { input, output: outcome.answer_tokens, row: row + outcome.cut, cut: outcome.cut > 0 }))
}
