//! An evaluation from beginning to end: answers, the judge's opinions, the report.

use super::answers::{Bench, Subject};
use super::judge::judge;
use super::report::{Evaluation, Heard};
use super::{EvaluateError, Question};
use crate::backends::upstream::Teacher;

/// What is compared.
pub struct Comparison<'a> {
    /// What answers.
    pub bench: &'a Bench,
    /// The models, each with its mean loss on the held-out rows where it was computed (nats a token); the candidate first.
    pub models: Vec<(Subject, Option<f64>)>,
    /// Held-out rows.
    pub questions: &'a [Question],
    /// Answers to show side by side.
    pub samples: usize,
    /// Who marks the answers, where anybody does.
    pub judge: Option<&'a Teacher>,
}

/// Makes an evaluation; `progress` hears how many answers are done. Dropping the future ends the work.
pub async fn compare(comparison: Comparison<'_>, progress: impl FnMut(usize)) -> Result<Evaluation, EvaluateError> {
    let Comparison { bench, models, questions, samples, judge: teacher } = comparison;
    let (subjects, losses): (Vec<Subject>, Vec<Option<f64>>) = models.into_iter().unzip();
    let answers = bench.answers(&subjects, questions, progress).await?;
    let mut heard = Vec::with_capacity(subjects.len());
    for ((subject, loss), answers) in subjects.into_iter().zip(losses).zip(answers) {
        let opinions = match teacher {
            Some(teacher) => {
                let texts: Vec<String> = answers.iter().map(|answer| answer.text.clone()).collect();
                judge(teacher, questions, &texts).await?
            }
            None => Vec::new(),
        };
        heard.push((subject.role, subject.name, Heard { answers, loss, opinions }));
    }
    Ok(Evaluation::of(questions, heard, samples))
}
