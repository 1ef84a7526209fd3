//! The model card of a version: what it is, what it was made from, how good and how fast it is, what is known to be wrong with it.
//! Pure: from numbers to JSON and Markdown. What is not known is said to be unknown, never made up.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::evaluate::{Evaluation, Role};
use super::gate::{Decision, Limits, Verdict, decide};

/// Below these, a number is a known limit.
const WEAK_JSON: f64 = 0.99;
/// Shares of cut answers above this are.
const MANY_CUT: f64 = 0.02;
/// Rows below this are few.
const FEW_ROWS: u64 = 50;

/// A card.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Card {
    /// What it is called, with its version (`support@3`).
    pub name: String,
    /// Digest of its content.
    pub digest: String,
    /// Who runs it.
    pub provider: String,
    /// Whose it is; `None` is shared by all tenants.
    pub owner: Option<String>,
    /// The base that it belongs to.
    pub base: BaseCard,
    /// The adapter.
    pub adapter: AdapterCard,
    /// License of the base's weights, where its files say; the adapter's is its owner's to choose.
    pub license: Option<String>,
    /// What it runs on.
    pub hardware: Hardware,
    /// What tokens cost, where a price is set.
    pub cost: Option<Cost>,
    /// Where it comes from, where it was trained here.
    pub training: Option<Training>,
    /// What its answers are worth, where they were judged.
    pub evaluation: Option<Evaluation>,
    /// What the gate said to that.
    pub gate: Option<Decision>,
    /// What is known to be wrong or unknown.
    pub known_limits: Vec<String>,
}

/// The base of a card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseCard {
    /// Its name.
    pub name: String,
    /// Its architecture.
    pub architecture: String,
    /// Its weights.
    pub parameters: u64,
    /// Most tokens of a request, prompt and answer.
    pub context: u64,
    /// How its weights are kept, `mixed` included; `None` where that is not known.
    pub quantization: Option<String>,
    /// Bytes of its weights in memory.
    pub bytes: u64,
}

/// The adapter of a card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterCard {
    /// Highest rank.
    pub rank: u64,
    /// Bytes of its files.
    pub file_bytes: u64,
    /// When it was put here, seconds since 1970.
    pub loaded_at: u64,
}

/// What something runs on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Hardware {
    /// The processor, as the system calls it.
    pub processor: String,
    /// Compute threads.
    pub threads: u64,
    /// `cpu`, or the accelerator.
    pub device: String,
}

/// What tokens cost, dollars for a thousand.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Of prompts.
    pub prompt_per_1k: f64,
    /// Of answers.
    pub completion_per_1k: f64,
}

/// Where a version comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// The job.
    pub job: Option<String>,
    /// Digest of the rows that it learnt from.
    pub dataset_digest: Option<String>,
    /// Rows that it learnt from.
    pub rows: Option<u64>,
    /// Rows that were longer than the context and were cut.
    pub truncated_rows: Option<u64>,
    /// Steps of the optimizer.
    pub steps: u64,
    /// All settings.
    pub settings: serde_json::Value,
    /// Version of this program.
    pub code: String,
}

impl Card {
    /// Fills in what follows from the rest: the gate's decision, where the evaluation has none yet, and the known limits.
    pub fn finish(mut self, limits: &Limits) -> Self {
        if let (None, Some(evaluation)) = (&self.gate, &self.evaluation) {
            self.gate = Some(decide(&evaluation.numbers(), limits));
        }
        self.known_limits = known_limits(&self);
        self
    }

    /// The card for people.
    pub fn markdown(&self) -> String {
        let mut text = format!("# {}\n\n", self.name);
        let mut row = |name: &str, value: &str| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "| {name} | {} |", cell(value));
        };
        row("", "");
        row("---", "---");
        row("digest", &self.digest);
        row("provider", &self.provider);
        row("owner", self.owner.as_deref().unwrap_or("shared by all tenants"));
        let base = &self.base;
        let million = base.parameters as f64 / 1e6;
        row("base", &format!("{} ({}, {million:.1} million parameters)", base.name, base.architecture));
        row("context", &format!("{} tokens", base.context));
        row("quantization", base.quantization.as_deref().unwrap_or("not known"));
        row("memory", &format!("{:.1} MiB of weights", base.bytes as f64 / f64::from(1 << 20)));
        row(
            "adapter",
            &format!("LoRA of rank {}, {:.1} MiB", self.adapter.rank, self.adapter.file_bytes as f64 / f64::from(1 << 20)),
        );
        row("license", self.license.as_deref().unwrap_or("not known"));
        let hardware = &self.hardware;
        row("hardware", &format!("{}, {} threads, {}", hardware.processor, hardware.threads, hardware.device));
        let candidate = self.evaluation.as_ref().and_then(|evaluation| evaluation.model(Role::Candidate));
        row(
            "latency",
            &candidate.map_or_else(
                || "not measured".to_owned(),
                |model| {
                    let speed = &model.speed;
                    format!(
                        "answers p50 {:.0} ms, p95 {:.0} ms; first token p50 {:.0} ms, p95 {:.0} ms (during its evaluation)",
                        speed.answer_ms_p50, speed.answer_ms_p95, speed.first_token_ms_p50, speed.first_token_ms_p95
                    )
                },
            ),
        );
        row(
            "cost of 1K tokens",
            &self.cost.map_or_else(
                || "no price is set".to_owned(),
                |cost| format!("${} of prompts, ${} of answers", cost.prompt_per_1k, cost.completion_per_1k),
            ),
        );
        if let Some(training) = &self.training {
            row("trained by", training.job.as_deref().unwrap_or("switchyard train"));
            row("dataset", training.dataset_digest.as_deref().unwrap_or("not known"));
            row("steps", &training.steps.to_string());
            row("code", &training.code);
        }
        text.push_str("\n## Evaluation\n\n");
        match &self.evaluation {
            Some(evaluation) => evaluated(&mut text, evaluation, self.gate.as_ref()),
            None => text.push_str("It was not evaluated here.\n"),
        }
        text.push_str("\n## Known limits\n\n");
        for limit in &self.known_limits {
            let _ = writeln!(text, "- {limit}");
        }
        text
    }
}

/// A text in one cell of a table.
fn cell(text: &str) -> String {
    text.replace(['\n', '\r'], " ").replace('|', "\\|")
}

fn evaluated(text: &mut String, evaluation: &Evaluation, gate: Option<&Decision>) {
    let _ = writeln!(text, "{} held-out rows, greedy answers.\n", evaluation.rows);
    text.push_str(
        "| model | overall | exact | words F1 | BLEU | ROUGE-L | length ratio | valid JSON | loss | perplexity | judge |\n",
    );
    text.push_str("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
    let optional = |value: Option<f64>, digits: usize| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"));
    for model in &evaluation.models {
        let metrics = &model.metrics;
        let _ = writeln!(
            text,
            "| {} ({}) | {:.1} | {:.1} % | {:.3} | {:.1} | {:.3} | {} | {} | {} | {} | {} |",
            cell(&model.name),
            format!("{:?}", model.role).to_lowercase(),
            model.overall,
            100.0 * metrics.exact_match,
            metrics.words.f1,
            metrics.bleu,
            metrics.rouge_l.f1,
            optional(metrics.length_ratio, 2),
            metrics.json_valid.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", 100.0 * share)),
            optional(model.loss, 4),
            optional(model.perplexity, 2),
            optional(model.judge.map(|judge| judge.score), 1),
        );
    }
    if let Some(gate) = gate {
        let _ = writeln!(text, "\nGate: **{:?}**\n", gate.verdict);
        for reason in &gate.reasons {
            let _ = writeln!(text, "- {:?}: {}", reason.verdict, reason.text);
        }
    }
}

fn known_limits(card: &Card) -> Vec<String> {
    let mut limits = Vec::new();
    match &card.training {
        None => limits.push("It was not trained here: what it learnt from is not known.".to_owned()),
        Some(training) => {
            if let Some(cut) = training.truncated_rows.filter(|cut| *cut > 0) {
                limits.push(format!("{cut} rows that it learnt from were cut at the context of {} tokens.", card.base.context));
            }
        }
    }
    let candidate = card.evaluation.as_ref().and_then(|evaluation| Some((evaluation, evaluation.model(Role::Candidate)?)));
    let Some((evaluation, model)) = candidate else {
        limits.push("It was not evaluated: how good its answers are is not known.".to_owned());
        return limits;
    };
    if evaluation.rows < FEW_ROWS {
        limits.push(format!("It was judged by {} rows only.", evaluation.rows));
    }
    if let Some(share) = model.metrics.json_valid.filter(|share| *share < WEAK_JSON) {
        limits.push(format!("{:.1} % of its answers that should be JSON are none.", 100.0 * (1.0 - share)));
    }
    if model.cut as f64 > MANY_CUT * evaluation.rows as f64 {
        limits.push(format!("{} of {} answers did not end by themselves.", model.cut, evaluation.rows));
    }
    if model.metrics.exact_match < 1.0 {
        let wrong = 100.0 * (1.0 - model.metrics.exact_match);
        limits.push(format!("{wrong:.1} % of its answers to held-out rows were not exactly the wanted ones."));
    }
    if model.judge.is_none() {
        limits.push("No judge has looked at its answers: the score knows words, not truth.".to_owned());
    }
    if let Some(gate) = &card.gate {
        let reasons = gate.reasons.iter().filter(|reason| reason.verdict != Verdict::Pass);
        limits.extend(reasons.map(|reason| format!("Gate: {}.", reason.text)));
    }
    limits
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;
    use crate::training::dataset::render::Question;
    use crate::training::evaluate::{Answer, Heard};

    fn card(evaluation: Option<Evaluation>) -> Card {
        Card {
            name: "support@3".to_owned(),
            digest: "abc".to_owned(),
            provider: "switchyard".to_owned(),
            owner: None,
            base: BaseCard {
                name: "base|1".to_owned(),
                architecture: "llama".to_owned(),
                parameters: 5_770_496,
                context: 1024,
                quantization: Some("Q8_0".to_owned()),
                bytes: 6 << 20,
            },
            adapter: AdapterCard { rank: 16, file_bytes: 1 << 20, loaded_at: 0 },
            license: None,
            hardware: Hardware { processor: "a processor".to_owned(), threads: 2, device: "cpu".to_owned() },
            cost: Some(Cost { prompt_per_1k: 0.00015, completion_per_1k: 0.0006 }),
            training: None,
            evaluation,
            gate: None,
            known_limits: Vec::new(),
        }
        .finish(&Limits::default())
    }

    #[test]
    fn what_is_not_known_is_said() {
        let card = card(None);
        assert_eq!(card.known_limits.len(), 2);
        let text = card.markdown();
        for part in [
            "| base | base\\|1 (llama, 5.8 million parameters) |",
            "| license | not known |",
            "not measured",
            "$0.00015 of prompts",
            "It was not evaluated here.",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn limits_follow_from_the_numbers() {
        let questions: Vec<Question> =
            (0..20).map(|_| Question { prompt: vec![1], prompt_text: "p".to_owned(), target: "{\"a\":1}".to_owned() }).collect();
        let answer = |at: usize| Answer {
            text: if at < 10 { "{\"a\": 1}" } else { "nonsense" }.to_owned(),
            tokens: 3,
            cut: at == 0,
            ..Answer::default()
        };
        let heard = Heard { answers: (0..20).map(answer).collect(), loss: Some(0.25), opinions: Vec::new() };
        let evaluation = Evaluation::of(&questions, vec![(Role::Candidate, "support@3".to_owned(), heard)], 2);
        let card = card(Some(evaluation));
        assert_eq!(card.gate.as_ref().unwrap().verdict, Verdict::Review);
        let text = card.markdown();
        for part in [
            "| support@3 (candidate) | 50.0 | 50.0 % |",
            "| 0.2500 | 1.28 |",
            "Gate: **Review**",
            "judged by 20 rows only",
            "50.0 % of its answers that should be JSON are none",
            "1 of 20 answers did not end",
            "No judge",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(serde_json::from_str::<Card>(&serde_json::to_string(&card).unwrap()).unwrap(), card);
    }
}
