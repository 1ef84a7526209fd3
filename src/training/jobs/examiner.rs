//! Judges what a job has learnt on its held-out rows, beside the base and the adapter that it is named after, by the server's own
//! engine: when nobody else wants it.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::json;

use super::work::{Exam, Examined, Examiner};
use crate::backends::{Backend, Realm};
use crate::model::tokenizer::Tokenizer;
use crate::registry::{Catalog, Gate, Judged};
use crate::training::evaluate::{Bench, Comparison, Role, Subject, compare};
use crate::training::gate::{Limits, Verdict, decide};

/// Most tokens of an answer.
const MAX_TOKENS: usize = 512;
/// Answers at the same time on an idle server.
const AT_ONCE: usize = 8;
/// Answers that are shown side by side.
const SAMPLES: usize = 6;

/// Examines by the server's engine.
pub struct OwnEngine {
    /// Answers.
    pub backend: Backend,
    /// Where models are.
    pub catalog: Catalog,
    /// Of the base.
    pub tokenizer: Tokenizer,
    /// Tokens that end an answer.
    pub end_tokens: Arc<[u32]>,
    /// Name of the base.
    pub base: String,
    /// Where the gate's lines are drawn.
    pub limits: Limits,
}

impl Examiner for OwnEngine {
    fn examine(&self, exam: Exam) -> BoxFuture<'_, Result<Examined, String>> {
        Box::pin(self.compare(exam))
    }
}

impl OwnEngine {
    async fn compare(&self, exam: Exam) -> Result<Examined, String> {
        let Exam { tenant, model, suffix, questions, loss } = exam;
        // Held to the end: the version stays in memory while it answers.
        let lease = self.catalog.resolve(&tenant, &model).await.map_err(|error| error.to_string())?;
        let bench = Bench {
            backend: self.backend.clone(),
            tokenizer: self.tokenizer.clone(),
            end_tokens: Arc::clone(&self.end_tokens),
            realm: Realm::named(&tenant),
            max_tokens: MAX_TOKENS,
            at_once: AT_ONCE,
        };
        let candidate = Subject { role: Role::Candidate, name: model, adapter: Some(Arc::clone(&lease.adapter)) };
        let base = Subject { role: Role::Base, name: self.base.clone(), adapter: None };
        let mut models = vec![(candidate, loss), (base, None)];
        // Whoever names a job after an adapter wants to replace it.
        let incumbent = if suffix.is_empty() { None } else { self.catalog.resolve(&tenant, &suffix).await.ok() };
        if let Some(lease) = &incumbent {
            let adapter = Some(Arc::clone(&lease.adapter));
            models.insert(1, (Subject { role: Role::Incumbent, name: lease.version(), adapter }, None));
        }
        let comparison = Comparison { bench: &bench, models, questions: &questions, samples: SAMPLES, judge: None };
        let evaluation = compare(comparison, |_| {}).await.map_err(|error| error.to_string())?;
        let decision = decide(&evaluation.numbers(), &self.limits);
        let (gate, word) = match decision.verdict {
            Verdict::Pass => (Gate::Pass, "pass"),
            Verdict::Review => (Gate::Review, "review"),
            Verdict::Fail => (Gate::Fail, "fail"),
        };
        let score = |role| evaluation.model(role).map_or(f64::NAN, |model| model.overall);
        let reasons: Vec<&str> = decision.reasons.iter().map(|reason| reason.text.as_str()).collect();
        let sentence = format!(
            "Evaluated on {} held-out rows: overall score {:.1} (base {:.1}); gate: {word} ({}).",
            evaluation.rows,
            score(Role::Candidate),
            score(Role::Base),
            reasons.join("; "),
        );
        let judged =
            Judged { gate, score: hundredths(score(Role::Candidate)), compared: incumbent.as_ref().map(|lease| lease.id) };
        Ok(Examined { judged, sentence, report: json!({"decision": decision, "evaluation": evaluation}) })
    }
}

/// Hundredths of a score from 0 to 100; a score that could not be made is none.
fn hundredths(score: f64) -> Option<u32> {
    score.is_finite().then(|| (score.clamp(0.0, 100.0) * 100.0).round() as u32)
}
