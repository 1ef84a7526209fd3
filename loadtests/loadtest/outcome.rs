//! What a run found: every latency, kept whole, so that percentiles are exact.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::plan::Kind;

/// Percentiles that are reported.
pub const REPORTED: [f64; 8] = [50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99, 100.0];

/// Why there was no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// No connection.
    Connect,
    /// The connection broke.
    Reset,
    /// It took too long.
    Timeout,
    /// What came is not HTTP.
    NotHttp,
    /// A stream ended without its end, or with an error.
    BrokenStream,
}

impl Failure {
    const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::NotHttp => "not_http",
            Self::BrokenStream => "broken_stream",
        }
    }
}

/// One answer.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// How it was read.
    pub kind: Kind,
    /// Status.
    pub status: u16,
    /// The intended time of sending, since the beginning.
    pub at: Duration,
    /// From the intended time of sending to the last byte.
    pub latency: Duration,
    /// The same, to the first byte of the body.
    pub first: Duration,
}

#[derive(Debug, Default)]
struct Class {
    latencies: Vec<Duration>,
    firsts: Vec<Duration>,
    /// Intended times, in the order of `latencies` before they are sorted.
    times: Vec<Duration>,
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub struct Outcome {
    classes: BTreeMap<(Kind, u16), Class>,
    failures: BTreeMap<Failure, u64>,
    /// Requests that were sent in the measured time.
    pub sent: u64,
    /// How late they were sent: the generator's own slowness, and connections that were not free.
    pub lags: Vec<Duration>,
    /// Requests without an answer at the end.
    pub unfinished: u64,
    /// Connections at the end.
    pub connections: usize,
    /// Measured time.
    pub measured: Duration,
    /// Processor time of this program in the measured time.
    pub generator_time: Option<Duration>,
    /// Processor time of the server.
    pub server_time: Option<Duration>,
}

impl Outcome {
    /// Keeps an answer.
    pub fn record(&mut self, sample: Sample) {
        let class = self.classes.entry((sample.kind, sample.status)).or_default();
        class.latencies.push(sample.latency);
        class.firsts.push(sample.first);
        class.times.push(sample.at);
    }

    /// Counts a failure.
    pub fn fail(&mut self, failure: Failure) {
        *self.failures.entry(failure).or_default() += 1;
    }

    /// Answers, of any status.
    pub fn answered(&self) -> usize {
        self.classes.values().map(|class| class.latencies.len()).sum()
    }

    /// Every answer on a line: kind, status, intended time and latency in milliseconds.
    pub fn samples(&self) -> String {
        let mut out = "kind,status,at_ms,latency_ms\n".to_owned();
        for ((kind, status), class) in &self.classes {
            for (at, latency) in class.times.iter().zip(&class.latencies) {
                let (at, latency) = (at.as_secs_f64() * 1e3, latency.as_secs_f64() * 1e3);
                // Writing to a string does not fail.
                let _ = writeln!(out, "{},{status},{at:.3},{latency:.3}", kind.name());
            }
        }
        out
    }

    /// Everything as JSON; `base` is what the backend itself takes and is left out of the added latencies.
    pub fn json(mut self, base: Duration) -> Value {
        let answered = self.answered();
        let good: usize =
            self.classes.iter().filter(|((_, status), _)| *status == 200).map(|(_, class)| class.latencies.len()).sum();
        let classes: Map<String, Value> = self
            .classes
            .iter_mut()
            .map(|((kind, status), class)| {
                let mut value = summary(&mut class.latencies);
                value["added_ms"] = percentiles(&class.latencies, base);
                value["curve_ms"] = curve(&class.latencies);
                value["first_byte_ms"] = {
                    class.firsts.sort_unstable();
                    percentiles(&class.firsts, Duration::ZERO)
                };
                (format!("{} {status}", kind.name()), value)
            })
            .collect();
        let failures: Map<String, Value> =
            self.failures.iter().map(|(failure, count)| (failure.name().to_owned(), json!(count))).collect();
        let per_answer = |time: Option<Duration>| time.map(|time| round(time.as_secs_f64() * 1e6 / answered.max(1) as f64));
        let cores = |time: Option<Duration>| time.map(|time| round(time.as_secs_f64() / self.measured.as_secs_f64()));
        self.lags.sort_unstable();
        json!({
            "answers_per_second": round(good as f64 / self.measured.as_secs_f64()),
            "sent": self.sent,
            "answered": answered,
            "unfinished": self.unfinished,
            "failures": failures,
            "classes": classes,
            "connections": self.connections,
            "sent_late_ms": percentiles(&self.lags, Duration::ZERO),
            "generator": {"us_per_answer": per_answer(self.generator_time), "cores": cores(self.generator_time)},
            "server": {"us_per_answer": per_answer(self.server_time), "cores": cores(self.server_time)},
        })
    }
}

/// The smallest value that at least so many percent of all do not exceed. `sorted` is.
fn percentile(sorted: &[Duration], percent: f64) -> Duration {
    // The small number keeps 99.9 % of 1000 at 999.
    let rank = (percent * sorted.len() as f64 / 100.0 - 1e-6).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or_default()
}

fn milliseconds(time: Duration, base: Duration) -> Value {
    let value = (time.as_secs_f64() - base.as_secs_f64()) * 1e3;
    json!(round(value))
}

/// Three digits after the point are microseconds.
fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

fn percentiles(sorted: &[Duration], base: Duration) -> Value {
    REPORTED
        .iter()
        .map(|&percent| {
            let name = if percent >= 100.0 { "max".to_owned() } else { format!("p{percent}") };
            (name, milliseconds(percentile(sorted, percent), base))
        })
        .collect()
}

fn summary(latencies: &mut [Duration]) -> Value {
    latencies.sort_unstable();
    let mean = latencies.iter().sum::<Duration>() / u32::try_from(latencies.len()).unwrap_or(u32::MAX).max(1);
    json!({
        "count": latencies.len(),
        "mean_ms": milliseconds(mean, Duration::ZERO),
        "latency_ms": percentiles(latencies, Duration::ZERO),
    })
}

/// Points for a plot: percentiles that come closer to 100 by equal factors.
fn curve(sorted: &[Duration]) -> Value {
    let tails = (0..=40).map(|step| 10f64.powf(-f64::from(step) / 10.0));
    // A percentile says something when at least one sample lies beyond it.
    let told = tails.take_while(|tail| tail * sorted.len() as f64 >= 1.0);
    told.map(|tail| 100.0 * (1.0 - tail))
        .map(|percent| json!([round(percent), milliseconds(percentile(sorted, percent), Duration::ZERO)]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let sorted: Vec<Duration> = (1..=1000).map(Duration::from_millis).collect();
        for (percent, expected) in [(50.0, 500), (99.0, 990), (99.9, 999), (99.99, 1000), (100.0, 1000), (0.0, 1)] {
            assert_eq!(percentile(&sorted, percent), Duration::from_millis(expected), "{percent}");
        }
        assert_eq!(percentile(&[], 50.0), Duration::ZERO);
        assert_eq!(percentile(&sorted[..1], 99.0), Duration::from_millis(1));
    }

    #[test]
    fn added_latency_is_what_the_backend_does_not_take() {
        let mut outcome = Outcome { measured: Duration::from_secs(2), ..Outcome::default() };
        for micros in [5200, 5100, 5300] {
            let latency = Duration::from_micros(micros);
            outcome.record(Sample { kind: Kind::Whole, status: 200, at: latency, latency, first: latency });
        }
        outcome.record(Sample {
            kind: Kind::Whole,
            status: 429,
            at: Duration::ZERO,
            latency: Duration::ZERO,
            first: Duration::ZERO,
        });
        outcome.fail(Failure::Reset);
        let json = outcome.json(Duration::from_millis(5));
        assert_eq!(json["answers_per_second"], 1.5);
        assert_eq!(json["answered"], 4);
        assert_eq!(json["failures"], json!({"reset": 1}));
        let whole = &json["classes"]["whole 200"];
        assert_eq!((&whole["latency_ms"]["p50"], &whole["added_ms"]["p50"]), (&json!(5.2), &json!(0.2)));
        assert_eq!(whole["added_ms"]["max"], 0.3);
        assert_eq!(json["classes"]["whole 429"]["count"], 1);
    }
}
