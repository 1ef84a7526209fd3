//! What an evaluation says, as data: metrics of each model, the comparison between them, answers side by side. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Question;
use super::answers::{Answer, Role};
use super::judge::{Judged, Opinion};
use super::metrics::{Metrics, RowMetrics, Tally, standard_error};
use super::score::overall;
use crate::training::gate::{Numbers, Rival};

/// Longest text of a sample, characters.
const SAMPLE_CHARS: usize = 2_000;

/// An evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Held-out rows.
    pub rows: u64,
    /// The models, the candidate first.
    pub models: Vec<ModelReport>,
    /// Answers side by side: the candidate's worst rows, and some from everywhere.
    pub samples: Vec<Sample>,
}

/// One model of an evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelReport {
    /// What it is here.
    pub role: Role,
    /// What it is called.
    pub name: String,
    /// The overall score, 0 to 100.
    pub overall: f64,
    /// What its answers are worth beside the targets.
    pub metrics: Metrics,
    /// Mean loss on the held-out rows, nats a token, where it was computed.
    pub loss: Option<f64>,
    /// The exponential of the loss.
    pub perplexity: Option<f64>,
    /// What the judge thinks, where one was asked.
    pub judge: Option<Judged>,
    /// Standard error of the mean difference between the candidate's row scores and this model's; 0 for the candidate.
    pub difference_error: f64,
    /// How fast it answered.
    pub speed: Speed,
    /// Answers that were cut because they had no more room.
    pub cut: u64,
}

/// How fast a model answered, beside whatever else the machine was doing.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Speed {
    /// Time to the first token, half of the answers, milliseconds.
    pub first_token_ms_p50: f64,
    /// The same for 95 in 100.
    pub first_token_ms_p95: f64,
    /// Time to the end, half of the answers, milliseconds.
    pub answer_ms_p50: f64,
    /// The same for 95 in 100.
    pub answer_ms_p95: f64,
    /// Tokens of all answers.
    pub tokens: u64,
}

/// One question and what everybody said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Its place among the held-out rows, from 0.
    pub row: u64,
    /// The prompt, as the model read it.
    pub prompt: String,
    /// The answer that was wanted.
    pub target: String,
    /// What the models said, in their order.
    pub answers: Vec<SampleAnswer>,
}

/// An answer in a sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampleAnswer {
    /// Whose.
    pub role: Role,
    /// Its text.
    pub text: String,
    /// Its score, 0 to 100.
    pub score: f64,
    /// Whether it is the target.
    pub exact: bool,
}

/// What a report is made from, for one model.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// What it said, by question.
    pub answers: Vec<Answer>,
    /// Its mean loss on the held-out rows, nats a token.
    pub loss: Option<f64>,
    /// The judge's opinions, by question; none where it was not asked.
    pub opinions: Vec<Option<Opinion>>,
}

impl Evaluation {
    /// Compares. The first model is the candidate; `samples` answers are shown side by side.
    pub fn of(questions: &[Question], models: Vec<(Role, String, Heard)>, samples: usize) -> Self {
        let mut reports = Vec::with_capacity(models.len());
        let mut rows: Vec<Vec<RowMetrics>> = Vec::with_capacity(models.len());
        let mut heard = Vec::with_capacity(models.len());
        let mut candidate: Vec<f64> = Vec::new();
        for (role, name, said) in models {
            let mut tally = Tally::default();
            for (question, answer) in questions.iter().zip(&said.answers) {
                tally.add(&answer.text, &question.target);
            }
            let metrics = tally.metrics();
            let judge = Judged::of(&said.opinions);
            let scores = row_scores(tally.rows(), &said.opinions);
            if reports.is_empty() {
                candidate.clone_from(&scores);
            }
            let differences: Vec<f64> = candidate.iter().zip(&scores).map(|(ours, theirs)| ours - theirs).collect();
            reports.push(ModelReport {
                role,
                name,
                overall: overall(metrics.score, judge.as_ref().map(|judge| judge.score)),
                metrics,
                loss: said.loss,
                perplexity: said.loss.map(f64::exp),
                judge,
                difference_error: standard_error(&differences),
                speed: Speed::of(&said.answers),
                cut: said.answers.iter().filter(|answer| answer.cut).count() as u64,
            });
            rows.push(tally.rows().to_vec());
            heard.push((role, said));
        }
        let shown = chosen(&candidate, samples);
        let samples = shown.into_iter().map(|row| sample(row, &questions[row], &heard, &rows)).collect();
        Self { rows: questions.len() as u64, models: reports, samples }
    }

    /// The model of a role.
    pub fn model(&self, role: Role) -> Option<&ModelReport> {
        self.models.iter().find(|model| model.role == role)
    }

    /// What the gate decides by.
    pub fn numbers(&self) -> Numbers {
        let rival =
            |role| self.model(role).map(|model| Rival { overall: model.overall, difference_error: model.difference_error });
        let candidate = self.model(Role::Candidate);
        Numbers {
            overall: candidate.map_or(f64::NAN, |model| model.overall),
            rows: self.rows,
            loss: candidate.and_then(|model| model.loss),
            incumbent: rival(Role::Incumbent),
            base: rival(Role::Base),
        }
    }
}

/// Each row's score, with the judge's part where it gave one.
fn row_scores(rows: &[RowMetrics], opinions: &[Option<Opinion>]) -> Vec<f64> {
    let opinion = |row: usize| opinions.get(row).copied().flatten().map(|opinion| opinion.score());
    rows.iter().enumerate().map(|(at, row)| overall(row.score, opinion(at))).collect()
}

/// Rows to show: half of them the worst, half evenly spread, in their order.
fn chosen(scores: &[f64], count: usize) -> Vec<usize> {
    let count = count.min(scores.len());
    let mut by_score: Vec<usize> = (0..scores.len()).collect();
    by_score.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
    let mut rows: Vec<usize> = by_score.into_iter().take(count.div_ceil(2)).collect();
    let spread = count / 2;
    for step in 0..spread {
        let start = step * scores.len() / spread;
        // The next one that is not there yet; there are at least `count` rows.
        rows.extend((start..scores.len()).chain(0..start).find(|row| !rows.contains(row)));
    }
    rows.sort_unstable();
    rows
}

fn sample(row: usize, question: &Question, heard: &[(Role, Heard)], rows: &[Vec<RowMetrics>]) -> Sample {
    let answers = heard.iter().zip(rows).filter_map(|((role, said), rows)| {
        let metrics = rows.get(row)?;
        Some(SampleAnswer { role: *role, text: short(&said.answers.get(row)?.text), score: metrics.score, exact: metrics.exact })
    });
    Sample { row: row as u64, prompt: short(&question.prompt_text), target: short(&question.target), answers: answers.collect() }
}

fn short(text: &str) -> String {
    match text.char_indices().nth(SAMPLE_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

impl Speed {
    fn of(answers: &[Answer]) -> Self {
        let sorted = |time: fn(&Answer) -> Duration| {
            let answered = answers.iter().filter(|answer| answer.tokens > 0);
            let mut times: Vec<f64> = answered.map(|answer| time(answer).as_secs_f64() * 1e3).collect();
            times.sort_by(f64::total_cmp);
            times
        };
        let (first, whole) = (sorted(|answer| answer.first_token), sorted(|answer| answer.duration));
        Self {
            first_token_ms_p50: quantile(&first, 0.5),
            first_token_ms_p95: quantile(&first, 0.95),
            answer_ms_p50: quantile(&whole, 0.5),
            answer_ms_p95: quantile(&whole, 0.95),
            tokens: answers.iter().map(|answer| answer.tokens as u64).sum(),
        }
    }
}

/// The smallest value that at least this share of the sorted values do not exceed (nearest rank); 0 of none.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;
    use crate::training::gate::{Limits, Verdict, decide};

    fn question(target: &str) -> Question {
        Question { prompt: vec![1], prompt_text: "say it".to_owned(), target: target.to_owned() }
    }

    fn heard(texts: &[&str]) -> Heard {
        let answer = |(at, text): (usize, &&str)| Answer {
            text: (*text).to_owned(),
            tokens: 2,
            cut: false,
            first_token: Duration::from_millis(at as u64 + 1),
            duration: Duration::from_millis(10 * (at as u64 + 1)),
        };
        Heard { answers: texts.iter().enumerate().map(answer).collect(), loss: Some(0.0), opinions: Vec::new() }
    }

    fn evaluation(candidate: &[&str], base: &[&str], samples: usize) -> Evaluation {
        let questions: Vec<Question> = ["one", "two", "three", "four"].map(question).to_vec();
        let models = vec![(Role::Candidate, "new".to_owned(), heard(candidate)), (Role::Base, "base".to_owned(), heard(base))];
        Evaluation::of(&questions, models, samples)
    }

    #[test]
    fn models_are_compared_row_by_row() {
        let report = evaluation(&["one", "two", "three", "nine"], &["one", "x", "x", "x"], 2);
        let (candidate, base) = (report.model(Role::Candidate).unwrap(), report.model(Role::Base).unwrap());
        assert_eq!((candidate.overall, base.overall), (75.0, 25.0));
        assert_eq!(candidate.difference_error, 0.0);
        // Differences 0, 100, 100, 0: deviation 57.7, by the root of 4.
        assert!((base.difference_error - 28.867).abs() < 1e-3, "{}", base.difference_error);
        assert_eq!((candidate.perplexity, candidate.speed.answer_ms_p50, candidate.speed.answer_ms_p95), (Some(1.0), 20.0, 40.0));
        let numbers = report.numbers();
        assert_eq!((numbers.overall, numbers.rows, numbers.incumbent), (75.0, 4, None));
        assert_eq!(decide(&numbers, &Limits { least_rows: 4, ..Limits::default() }).verdict, Verdict::Pass);
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Evaluation>(&text).unwrap(), report);
    }

    #[test]
    fn samples_show_the_worst_rows_and_some_others_without_repeating_any() {
        let said = ["one", "two", "three", "nine"];
        let rows = |count| evaluation(&said, &said, count).samples.iter().map(|sample| sample.row).collect::<Vec<_>>();
        assert_eq!(rows(1), [3]);
        assert_eq!(rows(2), [0, 3]);
        assert_eq!(rows(9), [0, 1, 2, 3]);
        assert!(rows(0).is_empty());
        let sample = &evaluation(&said, &said, 1).samples[0];
        assert_eq!((sample.target.as_str(), sample.answers[0].text.as_str(), sample.answers[0].exact), ("four", "nine", false));
    }

    #[test]
    fn nothing_to_judge_by_is_a_report_too() {
        let report = Evaluation::of(&[], vec![(Role::Candidate, "new".to_owned(), Heard::default())], 3);
        assert_eq!((report.rows, report.models[0].overall, report.samples.len()), (0, 0.0, 0));
        assert_eq!(decide(&report.numbers(), &Limits::default()).verdict, Verdict::Fail);
    }
}
