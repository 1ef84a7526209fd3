//! What else could be done, and what to look at before starting. Pure.

use serde::{Deserialize, Serialize};

use super::{Facts, Keeping, Limits, Plan, estimate, human_money, human_time};

/// Fewest rows that training is worth the while with.
const FEW_ROWS: u64 = 100;
/// Fewest held-out rows that the gate lets pass.
const FEW_HELD_OUT: u64 = 10;
/// Share of rows that may be cut without a word.
const SOME_CUT: f64 = 0.01;

/// Another way, and what it saves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alternative {
    /// In words.
    pub text: String,
    /// Seconds that it saves; less than 0 where it takes longer.
    pub seconds_saved: f64,
    /// Bytes that it saves.
    pub bytes_saved: i64,
    /// Nano-dollars that it saves.
    pub nanos_saved: Option<i64>,
}

/// How something looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// Good.
    Good,
    /// Worth a look.
    Look,
    /// It cannot work like this.
    Stop,
}

/// One thing to look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// How it looks.
    pub mark: Mark,
    /// In words, with numbers.
    pub text: String,
}

pub(super) fn alternatives(plan: &Plan, facts: &Facts<'_>) -> Vec<Alternative> {
    let (epochs, rank) = (plan.hyperparameters.epochs.value, plan.hyperparameters.rank.value);
    let keeping = plan.keeping.value;
    let mut list = Vec::new();
    let mut add = |instead: String, but: &str, epochs: u32, rank: u32, keeping: Keeping| {
        let other = estimate(facts, epochs, rank, keeping);
        let seconds = plan.estimate.train_seconds - other.train_seconds;
        let bytes = signed(plan.estimate.memory_bytes) - signed(other.memory_bytes);
        let nanos = plan.estimate.nanos.zip(other.nanos).map(|(now, then)| signed(now) - signed(then));
        let mut changes = Vec::new();
        if seconds.abs() >= 1.0 {
            changes.push(format!("{} {}", verb(seconds > 0.0), human_time(seconds.abs())));
        }
        if bytes.unsigned_abs() >= 1 << 20 {
            changes.push(format!("{} {} MiB", verb(bytes > 0), bytes.unsigned_abs() >> 20));
        }
        if let Some(nanos) = nanos.filter(|nanos| *nanos != 0) {
            changes.push(format!("{} {}", verb(nanos > 0), human_money(nanos.unsigned_abs())));
        }
        if !changes.is_empty() {
            let text = format!("{instead} {}; {but}", changes.join(" and "));
            list.push(Alternative { text, seconds_saved: seconds, bytes_saved: bytes, nanos_saved: nanos });
        }
    };
    if epochs > 1 {
        let fewer = epochs - 1;
        add(
            format!("{fewer} epoch{} instead of {epochs}", plural(fewer)),
            "the rows are learnt a little less well",
            fewer,
            rank,
            keeping,
        );
    }
    if epochs > 3 {
        let half = epochs / 2;
        add(
            format!("{half} epochs instead of {epochs}"),
            "a good first try: the held-out loss shows whether more is worth it",
            half,
            rank,
            keeping,
        );
    }
    if rank > 4 {
        let half = rank / 2;
        add(
            format!("rank {half} instead of {rank}"),
            "enough where the task is about form and little has to be learnt by heart",
            epochs,
            half,
            keeping,
        );
    }
    match keeping {
        Keeping::Activations => {
            add("keeping only the layers' inputs".to_owned(), "for machines with little memory", epochs, rank, Keeping::Inputs);
        }
        Keeping::Inputs => {
            add("keeping everything".to_owned(), "where there is the memory", epochs, rank, Keeping::Activations);
        }
    }
    list
}

fn verb(saves: bool) -> &'static str {
    if saves { "saves" } else { "costs" }
}

fn plural(count: u32) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn checklist(plan: &Plan, limits: &Limits) -> Vec<Check> {
    let (rows, estimate) = (&plan.rows, &plan.estimate);
    let mut list = Vec::new();
    let mut add = |mark: Mark, text: String| list.push(Check { mark, text });
    match rows.train {
        0 => add(Mark::Stop, "there is no row to learn from".to_owned()),
        few if few < FEW_ROWS => add(Mark::Look, format!("{few} rows to learn from are few; {FEW_ROWS} are a beginning")),
        many => add(Mark::Good, format!("{many} rows to learn from")),
    }
    match rows.held_out {
        0 => add(Mark::Look, "no row is held out: nothing says whether it worked, and the gate does not pass".to_owned()),
        few if few < FEW_HELD_OUT => {
            add(Mark::Look, format!("{few} held-out rows say little: the gate passes from {FEW_HELD_OUT} on"));
        }
        some => add(Mark::Good, format!("{some} held-out rows to judge by")),
    }
    let all = rows.train + rows.held_out;
    match rows.truncated {
        0 => add(Mark::Good, format!("every row fits the context of {} tokens", plan.base.context)),
        cut if (cut as f64) < SOME_CUT * all as f64 => add(Mark::Good, format!("{cut} of {all} rows are cut at the context")),
        cut => {
            let text =
                format!("{cut} of {all} rows are longer than the context (up to {} tokens); their ends are lost", rows.longest);
            add(Mark::Look, text);
        }
    }
    if let Some(free) = limits.memory_bytes {
        let (need, free_mib) = (estimate.memory_bytes >> 20, free >> 20);
        if estimate.memory_bytes > free {
            add(Mark::Stop, format!("it needs {need} MiB and {free_mib} MiB are free: a shorter context or a smaller rank"));
        } else {
            add(Mark::Good, format!("{need} of {free_mib} MiB of free memory"));
        }
    }
    if let Some(hours) = limits.hours {
        let time = human_time(estimate.train_seconds);
        if estimate.train_seconds > hours * 3_600.0 {
            add(Mark::Stop, format!("it takes {time}, more than the {hours} hours that it may"));
        } else {
            add(Mark::Good, format!("{time} of the {hours} hours that it may take"));
        }
    }
    match (limits.nanos, estimate.nanos) {
        (Some(cap), Some(cost)) if cost > cap => {
            add(Mark::Stop, format!("it costs {}, more than the {} that it may", human_money(cost), human_money(cap)));
        }
        (Some(cap), Some(cost)) => add(Mark::Good, format!("{} of the {} that it may cost", human_money(cost), human_money(cap))),
        (Some(_), None) => add(Mark::Look, "there is a cap of money and no price: it will not be reached".to_owned()),
        (None, _) => {}
    }
    list
}
