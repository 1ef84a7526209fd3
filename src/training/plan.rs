//! What to train with, how long it takes, what it needs and what it costs, with the reason for each. Pure: what this machine can do
//! is measured by the caller and handed in. Knows nothing of jobs.

mod advice;
mod auto;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

pub use advice::{Alternative, Check, Mark};
pub use auto::{Chosen, Hyperparameters, auto};

/// What is known of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rows {
    /// To learn from.
    pub train: u64,
    /// To judge by.
    pub held_out: u64,
    /// Tokens of the rows to learn from.
    pub train_tokens: u64,
    /// Tokens of the rows to judge by.
    pub held_out_tokens: u64,
    /// Tokens of the longest row, before anything was cut.
    pub longest: u64,
    /// Rows that are longer than the context.
    pub truncated: u64,
    /// Whether they are preferences.
    pub preferences: bool,
}

/// The base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// Its name.
    pub name: String,
    /// Its weights.
    pub parameters: u64,
    /// How they are kept (`Q8_0`); `None` where they are floats.
    pub quantization: Option<String>,
    /// Its context, tokens.
    pub context: u64,
}

/// What was measured on this machine, with this base, for these settings: a few steps, not a table.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    /// Tokens that a training step goes through in a second, with the machine to itself.
    pub train_tokens_per_second: f64,
    /// Tokens that are generated in a second, several answers at a time; for the evaluation at the end.
    pub answer_tokens_per_second: Option<f64>,
    /// Steps that were measured.
    pub steps: u32,
}

/// What may be spent.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of memory that training may take.
    pub memory_bytes: Option<u64>,
    /// Hours.
    pub hours: Option<f64>,
    /// Money, nano-dollars.
    pub nanos: Option<u64>,
    /// Share of the machine that training gets (1: all of it; what idle mode gets depends on the load).
    pub share: Option<f64>,
}

/// Given values go before the rules of [`auto`].
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Wishes {
    /// Times that each row is seen.
    pub epochs: Option<u32>,
    /// Rows behind one step.
    pub batch_size: Option<u32>,
    /// Multiplies the learning rate of the rules.
    pub learning_rate_multiplier: Option<f64>,
    /// Rank of the adapter.
    pub rank: Option<u32>,
}

/// Bytes that training takes beside the base, for a rank, with activations computed again or not.
pub type Memory<'a> = &'a dyn Fn(u32, Keeping) -> u64;
/// What so many trained tokens cost, nano-dollars; nothing is known where no price is set.
pub type Cost<'a> = &'a dyn Fn(u64) -> Option<u64>;

/// What is kept going forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keeping {
    /// Everything: faster.
    Activations,
    /// The layers' inputs; the rest is computed again (gradient checkpointing).
    Inputs,
}

/// What a plan is made from.
pub struct Facts<'a> {
    /// The rows.
    pub rows: Rows,
    /// The base.
    pub base: Base,
    /// What this machine does.
    pub speed: Speed,
    /// What may be spent.
    pub limits: Limits,
    /// What was asked for.
    pub wishes: Wishes,
    /// What it needs.
    pub memory: Memory<'a>,
    /// What it costs.
    pub cost: Cost<'a>,
}

/// The recommendation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// `supervised` or `dpo`.
    pub method: Chosen<String>,
    /// `lora` or `qlora`.
    pub adapter: Chosen<String>,
    /// What is kept going forward.
    pub keeping: Chosen<Keeping>,
    /// Settings.
    pub hyperparameters: Hyperparameters,
    /// Steps of the optimizer.
    pub steps: u64,
    /// Tokens that are gone through, all epochs together.
    pub tokens: u64,
    /// What it takes.
    pub estimate: Estimate,
    /// Other ways, with what they save.
    pub alternatives: Vec<Alternative>,
    /// What to look at before starting.
    pub checklist: Vec<Check>,
    /// The rows, as they were counted.
    pub rows: Rows,
    /// The base.
    pub base: Base,
    /// What was measured.
    pub speed: Speed,
}

/// What a run takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Seconds of training, held-out evaluations included, with the machine to itself.
    pub train_seconds: f64,
    /// Seconds of the answers that are judged at the end; `None` where that speed was not measured.
    pub evaluate_seconds: Option<f64>,
    /// Bytes of memory beside the base.
    pub memory_bytes: u64,
    /// Money, nano-dollars; `None` where no price is set.
    pub nanos: Option<u64>,
}

/// A forward pass without gradients takes about a third of a training step: forward, and backward with about twice its products.
const FORWARD_SHARE: f64 = 1.0 / 3.0;
/// Held-out rows that are answered at the end, at most, by each of three models.
const JUDGED_ROWS: u64 = 200;
/// Models that answer: the candidate, the incumbent, the base.
const JUDGED_MODELS: u64 = 3;
/// DPO goes through the preferred and the other answer, with the adapter and, forward only, without it.
const DPO_WORK: f64 = 1.0 + FORWARD_SHARE;

/// Recommends.
pub fn plan(facts: &Facts<'_>) -> Plan {
    let Facts { rows, base, speed, wishes, limits, .. } = facts;
    let mut chosen = auto(rows.train, rows.train_tokens, base.parameters);
    let asked = "as asked for";
    if let Some(epochs) = wishes.epochs {
        chosen.epochs = Chosen { value: epochs.max(1), reason: asked.to_owned() };
    }
    if let Some(batch) = wishes.batch_size {
        chosen.batch_size = Chosen { value: batch.max(1), reason: asked.to_owned() };
    }
    if let Some(rank) = wishes.rank {
        chosen.rank = Chosen { value: rank.max(1), reason: asked.to_owned() };
        chosen.alpha.value = f64::from(rank.max(1)) * 2.0;
    }
    if let Some(multiplier) = wishes.learning_rate_multiplier {
        let value = chosen.learning_rate.value * multiplier;
        chosen.learning_rate = Chosen { value, reason: format!("{multiplier} times what the rules say, as asked for") };
    }
    let keeping = keeping(facts, chosen.rank.value);
    let estimate = estimate(facts, chosen.epochs.value, chosen.rank.value, keeping.value);
    let steps = (rows.train * u64::from(chosen.epochs.value)).div_ceil(u64::from(chosen.batch_size.value));
    let mut plan = Plan {
        method: method(rows),
        adapter: adapter(base),
        keeping,
        steps,
        tokens: rows.train_tokens.saturating_mul(u64::from(chosen.epochs.value)),
        hyperparameters: chosen,
        estimate,
        alternatives: Vec::new(),
        checklist: Vec::new(),
        rows: *rows,
        base: base.clone(),
        speed: *speed,
    };
    plan.alternatives = advice::alternatives(&plan, facts);
    plan.checklist = advice::checklist(&plan, limits);
    plan
}

fn method(rows: &Rows) -> Chosen<String> {
    let (value, reason) = if rows.preferences {
        ("dpo", "each row has a preferred and another answer: direct preference optimisation learns from the difference")
    } else {
        ("supervised", "each row has the answer that is wanted")
    };
    Chosen { value: value.to_owned(), reason: reason.to_owned() }
}

fn adapter(base: &Base) -> Chosen<String> {
    let (value, reason) = match &base.quantization {
        Some(kind) => (
            "qlora",
            format!("the base is in memory as {kind} and stays so; only the adapter's weights are trained, as 32-bit floats"),
        ),
        None => ("lora", "the base is in memory as floats; only the adapter's weights are trained".to_owned()),
    };
    Chosen { value: value.to_owned(), reason }
}

fn keeping(facts: &Facts<'_>, rank: u32) -> Chosen<Keeping> {
    let (all, inputs) = ((facts.memory)(rank, Keeping::Activations), (facts.memory)(rank, Keeping::Inputs));
    match facts.limits.memory_bytes {
        Some(free) if all > free => Chosen {
            value: Keeping::Inputs,
            reason: format!("{} MiB are free; keeping everything takes {} MiB, this {} MiB", free >> 20, all >> 20, inputs >> 20),
        },
        _ => Chosen {
            value: Keeping::Activations,
            reason: format!("{} MiB are there for it, and nothing has to be computed again", all >> 20),
        },
    }
}

/// What a run takes.
fn estimate(facts: &Facts<'_>, epochs: u32, rank: u32, keeping: Keeping) -> Estimate {
    let Facts { rows, speed, .. } = facts;
    let epochs = f64::from(epochs);
    let work = if rows.preferences { DPO_WORK } else { 1.0 };
    // What was measured kept everything; computing the layers again is one more forward pass.
    let again = if keeping == Keeping::Inputs { 1.0 + FORWARD_SHARE } else { 1.0 };
    // The held-out rows are gone through once an epoch.
    let tokens = rows.train_tokens as f64 * work * again + rows.held_out_tokens as f64 * FORWARD_SHARE;
    let share = facts.limits.share.unwrap_or(1.0).clamp(0.01, 1.0);
    let answer_tokens = |rate: f64| {
        let judged = rows.held_out.min(JUDGED_ROWS);
        let each = rows.held_out_tokens as f64 / rows.held_out.max(1) as f64;
        (judged * JUDGED_MODELS) as f64 * each / rate / share
    };
    Estimate {
        train_seconds: epochs * tokens / speed.train_tokens_per_second.max(f64::MIN_POSITIVE) / share,
        evaluate_seconds: speed.answer_tokens_per_second.filter(|rate| *rate > 0.0).map(answer_tokens),
        memory_bytes: (facts.memory)(rank, keeping),
        nanos: (facts.cost)((rows.train_tokens as f64 * epochs) as u64),
    }
}

/// A time as people say it.
pub(crate) fn human_time(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 90.0 => format!("{seconds:.0} s"),
        seconds if seconds < 5_400.0 => format!("{:.0} min", seconds / 60.0),
        seconds if seconds < 172_800.0 => format!("{:.1} h", seconds / 3_600.0),
        seconds => format!("{:.1} days", seconds / 86_400.0),
    }
}

/// An amount of nano-dollars as people say it: cents, or the first two digits of less.
pub(crate) fn human_money(nanos: u64) -> String {
    let dollars = nanos as f64 / 1e9;
    if dollars >= 0.1 || nanos == 0 { format!("${dollars:.2}") } else { format!("${dollars:.5}") }
}

impl Plan {
    /// The plan for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let h = &self.hyperparameters;
        let mut line = |name: &str, value: &str, reason: &str| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name:<16} {value:<12} {reason}");
        };
        line("method", &self.method.value, &self.method.reason);
        line("adapter", &self.adapter.value, &self.adapter.reason);
        line("epochs", &h.epochs.value.to_string(), &h.epochs.reason);
        line("batch size", &h.batch_size.value.to_string(), &h.batch_size.reason);
        line("learning rate", &format!("{:e}", h.learning_rate.value), &h.learning_rate.reason);
        line("rank, alpha", &format!("{}, {}", h.rank.value, h.alpha.value), &h.rank.reason);
        line("warmup", &h.warmup_ratio.value.to_string(), &h.warmup_ratio.reason);
        let kept = if self.keeping.value == Keeping::Inputs { "inputs" } else { "activations" };
        line("kept", kept, &self.keeping.reason);
        line("steps", &self.steps.to_string(), &format!("{} tokens in all", self.tokens));
        let estimate = &self.estimate;
        let speed = format!(
            "{:.0} tokens/s, measured over {} steps on this machine, nothing else running",
            self.speed.train_tokens_per_second, self.speed.steps
        );
        line("time", &human_time(estimate.train_seconds), &speed);
        if let Some(seconds) = estimate.evaluate_seconds {
            line(
                "evaluation",
                &human_time(seconds),
                "answers to held-out rows by the new model, the one in service and the base",
            );
        }
        line("memory", &format!("{} MiB", estimate.memory_bytes >> 20), "beside the base");
        line(
            "cost",
            &estimate.nanos.map_or_else(|| "-".to_owned(), human_money),
            match estimate.nanos {
                Some(_) => "for the tokens that are trained",
                None => "no price is set for training this base",
            },
        );
        text.push_str("\nalternatives\n");
        for alternative in &self.alternatives {
            let _ = writeln!(text, "  {}", alternative.text);
        }
        text.push_str("\nchecklist\n");
        for check in &self.checklist {
            let mark = match check.mark {
                Mark::Good => "ok  ",
                Mark::Look => "look",
                Mark::Stop => "STOP",
            };
            let _ = writeln!(text, "  {mark}  {}", check.text);
        }
        text
    }
}
