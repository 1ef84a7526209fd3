//! From tokens a second and what a machine costs an hour to money for a million tokens. Pure arithmetic: it measures nothing, and what
//! was not measured has no cost.

use std::fmt;

use serde_json::Value;

use super::Adapters;

/// What a machine can be kept busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Capability {
    /// Reading prompts.
    Prefill,
    /// Generating.
    Decode,
    /// Prompts whose computation is reused.
    Cached,
    /// Learning.
    Training,
}

impl Capability {
    /// All, in the order of a sheet.
    pub const ALL: [Self; 4] = [Self::Prefill, Self::Decode, Self::Cached, Self::Training];

    /// The word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::Cached => "cached",
            Self::Training => "training",
        }
    }
}

/// Tokens per second of each capability, where that was measured; in the order of [`Capability::ALL`].
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Speeds([Option<f64>; 4]);

impl Speeds {
    /// Of one capability.
    pub fn of(&self, capability: Capability) -> Option<f64> {
        self.0[capability as usize]
    }

    /// Sets one.
    pub fn set(&mut self, capability: Capability, tokens_per_second: f64) {
        self.0[capability as usize] = Some(tokens_per_second);
    }
}

/// Which of a report's figures count.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Sequences that decode together; the most that were measured without it.
    pub batch: Option<u64>,
    /// Adapters in use.
    pub adapters: Adapters,
}

/// A machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Machine {
    /// Dollars an hour.
    pub usd_per_hour: f64,
    /// Share of the time in which it does what was measured, above 0, at most 1.
    pub busy: f64,
}

/// Why there is no sheet.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CostError {
    /// A number that cannot be meant.
    #[error("{field} is {value}; {right} is right")]
    Number {
        /// Whose.
        field: &'static str,
        /// What was given.
        value: f64,
        /// What would do.
        right: &'static str,
    },
    /// Not what `bench --json` writes.
    #[error("it is not what `switchyard bench --json` or `switchyard bench --train --json` prints")]
    Report,
    /// The case was not measured.
    #[error("it has no decoding of {batch} sequences with adapters: {adapters}")]
    Case {
        /// Sequences.
        batch: u64,
        /// In the report's word.
        adapters: &'static str,
    },
}

/// A line of the sheet.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Line {
    /// What is done.
    pub capability: Capability,
    /// As measured.
    pub tokens_per_second: Option<f64>,
    /// What a million tokens cost.
    pub usd_per_million_tokens: Option<f64>,
}

/// All lines.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Sheet {
    /// Dollars an hour.
    pub usd_per_hour: f64,
    /// Share of the time.
    pub busy: f64,
    /// In the order of [`Capability::ALL`].
    pub lines: Vec<Line>,
}

/// What tokens cost on a machine.
pub fn sheet(machine: Machine, speeds: &Speeds) -> Result<Sheet, CostError> {
    let Machine { usd_per_hour, busy } = machine;
    within("hourly", usd_per_hour, usd_per_hour >= 0.0, "a number of dollars")?;
    within("busy", busy * 100.0, busy > 0.0 && busy <= 1.0, "a percentage above 0 and up to 100")?;
    let mut lines = Vec::new();
    for capability in Capability::ALL {
        let tokens_per_second = speeds.of(capability);
        if let Some(speed) = tokens_per_second {
            within(capability.name(), speed, speed > 0.0, "a number of tokens per second above 0")?;
        }
        let usd_per_million_tokens = tokens_per_second.map(|speed| usd_per_hour / (speed * 3_600.0 * busy) * 1e6);
        lines.push(Line { capability, tokens_per_second, usd_per_million_tokens });
    }
    Ok(Sheet { usd_per_hour, busy, lines })
}

fn within(field: &'static str, value: f64, holds: bool, right: &'static str) -> Result<(), CostError> {
    if holds && value.is_finite() { Ok(()) } else { Err(CostError::Number { field, value, right }) }
}

/// The speeds of a report of `bench`, of serving or of training.
pub fn speeds(report: &Value, wanted: Wanted) -> Result<Speeds, CostError> {
    let mut speeds = Speeds::default();
    if let Some(speed) = report["tokens_per_second"].as_f64() {
        speeds.set(Capability::Training, speed);
        return Ok(speeds);
    }
    let (Some(prefill), Some(decode)) = (report["prefill"].as_array(), report["decode"].as_array()) else {
        return Err(CostError::Report);
    };
    let adapters = match wanted.adapters {
        Adapters::Base => "base",
        Adapters::One => "one",
        Adapters::Different => "different",
    };
    let speed_of = |cases: &[Value], adapters: &str, batch: u64| {
        let case = cases.iter().find(|case| case["adapters"] == adapters && case["batch"] == batch);
        case.and_then(|case| case["tokens_per_second"].as_f64())
    };
    let most = || decode.iter().filter_map(|case| case["batch"].as_u64()).max();
    let batch = wanted.batch.or_else(most).ok_or(CostError::Report)?;
    let decoded = speed_of(decode, adapters, batch).ok_or(CostError::Case { batch, adapters })?;
    speeds.set(Capability::Decode, decoded);
    // One prompt of the whole length, where that was measured; several that share a prefill otherwise.
    let alone = if wanted.adapters == Adapters::Base { "base" } else { "one" };
    if let Some(read) = speed_of(prefill, alone, 1).or_else(|| speed_of(prefill, adapters, batch)) {
        speeds.set(Capability::Prefill, read);
    }
    Ok(speeds)
}

impl Sheet {
    /// The command that makes these costs the prices, where both prompts and answers have one.
    pub fn command(&self) -> Option<String> {
        let usd = |capability: Capability| self.lines.iter().find(|line| line.capability == capability)?.usd_per_million_tokens;
        let mut command = format!("switchyard prices set --input {:.6}", usd(Capability::Prefill)?);
        if let Some(cached) = usd(Capability::Cached) {
            command.push_str(&format!(" --cached-input {cached:.6}"));
        }
        command.push_str(&format!(" --output {:.6}", usd(Capability::Decode)?));
        if let Some(training) = usd(Capability::Training) {
            command.push_str(&format!(" --training {training:.6}"));
        }
        Some(command)
    }
}

impl fmt::Display for Sheet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} USD an hour, busy {} % of the time", self.usd_per_hour, self.busy * 100.0)?;
        writeln!(f)?;
        writeln!(f, "{:<10} {:>10} {:>22}", "", "tokens/s", "USD per million tokens")?;
        for Line { capability, tokens_per_second, usd_per_million_tokens } in &self.lines {
            match (tokens_per_second, usd_per_million_tokens) {
                (Some(speed), Some(usd)) => writeln!(f, "{:<10} {speed:>10.1} {usd:>22.6}", capability.name())?,
                _ => writeln!(f, "{:<10} {:>10} {:>22}", capability.name(), "-", "not measured")?,
            }
        }
        match self.command() {
            Some(command) => write!(f, "\nAs prices, without a margin:\n  {command}\n"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const BUSY: Machine = Machine { usd_per_hour: 3.6, busy: 1.0 };

    fn given(pairs: &[(Capability, f64)]) -> Speeds {
        let mut speeds = Speeds::default();
        pairs.iter().for_each(|(capability, speed)| speeds.set(*capability, *speed));
        speeds
    }

    #[test]
    fn an_hour_is_shared_by_the_tokens_that_it_takes() {
        // A thousandth of a dollar a second: a million tokens at 1,000 a second take a thousand of them.
        let found = sheet(BUSY, &given(&[(Capability::Prefill, 1_000.0), (Capability::Decode, 500.0)])).unwrap();
        let usd: Vec<_> = found.lines.iter().map(|line| line.usd_per_million_tokens).collect();
        assert_eq!(usd, [Some(1.0), Some(2.0), None, None]);
        assert_eq!(found.command().unwrap(), "switchyard prices set --input 1.000000 --output 2.000000");
        assert!(found.to_string().contains("cached              -           not measured"), "{found}");
        // A machine that stands idle for half of the time costs twice as much a token.
        let half = sheet(Machine { busy: 0.5, ..BUSY }, &given(&[(Capability::Training, 1_000.0)])).unwrap();
        assert_eq!(half.lines[3].usd_per_million_tokens, Some(2.0));
        assert_eq!(half.command(), None, "nobody can be charged for answers that have no price");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_name() {
        let speeds = given(&[(Capability::Decode, 1.0)]);
        for (machine, speeds, field) in [
            (Machine { usd_per_hour: -1.0, ..BUSY }, speeds, "hourly"),
            (Machine { usd_per_hour: f64::NAN, ..BUSY }, speeds, "hourly"),
            (Machine { busy: 0.0, ..BUSY }, speeds, "busy"),
            (Machine { busy: 1.1, ..BUSY }, speeds, "busy"),
            (BUSY, given(&[(Capability::Cached, 0.0)]), "cached"),
            (BUSY, given(&[(Capability::Prefill, f64::INFINITY)]), "prefill"),
        ] {
            assert!(sheet(machine, &speeds).unwrap_err().to_string().starts_with(field));
        }
    }

    #[test]
    fn a_report_of_bench_gives_the_case_that_is_wanted() {
        let case =
            |adapters: &str, batch: u64, speed: f64| json!({"adapters": adapters, "batch": batch, "tokens_per_second": speed});
        let report = json!({
            "prefill": [case("base", 1, 400.0), case("one", 1, 380.0), case("base", 16, 390.0), case("different", 16, 300.0)],
            "decode": [case("base", 1, 57.0), case("base", 16, 320.0), case("different", 16, 250.0)],
        });
        let of = |batch, adapters| speeds(&report, Wanted { batch, adapters });
        assert_eq!(of(None, Adapters::Base).unwrap(), given(&[(Capability::Prefill, 400.0), (Capability::Decode, 320.0)]));
        assert_eq!(of(Some(1), Adapters::Base).unwrap().of(Capability::Decode), Some(57.0));
        let different = given(&[(Capability::Prefill, 380.0), (Capability::Decode, 250.0)]);
        assert_eq!(of(Some(16), Adapters::Different).unwrap(), different);
        assert_eq!(of(Some(4), Adapters::One), Err(CostError::Case { batch: 4, adapters: "one" }));
        let training = speeds(&json!({"tokens_per_second": 144.5}), Wanted { batch: None, adapters: Adapters::Base });
        assert_eq!(training.unwrap(), given(&[(Capability::Training, 144.5)]));
        let nothing = speeds(&json!([1]), Wanted { batch: None, adapters: Adapters::Base });
        assert_eq!(nothing, Err(CostError::Report));
    }

    proptest! {
        /// Who sells the tokens of an hour at their cost has what the hour cost.
        #[test]
        fn the_tokens_of_an_hour_cost_the_hour(usd in 0.0..100.0f64, speed in 0.01..1e6f64, busy in 0.001..1.0f64) {
            let machine = Machine { usd_per_hour: usd, busy };
            let line = sheet(machine, &given(&[(Capability::Decode, speed)])).unwrap().lines[1];
            let sold = line.usd_per_million_tokens.unwrap() * (speed * busy * 3_600.0 / 1e6);
            prop_assert!((sold - usd).abs() <= 1e-9 * usd.max(1.0));
        }
    }
}
