//! From the probability of a model's choices to how often such answers are right. Pure.
//!
//! The table is fitted on held-out sentences (`models/recipe/calibrate.py`): pairs of raw probability and share of right answers,
//! both ascending, with straight lines between them (isotonic regression, Zadrozny and Elkan 2002).

use std::sync::LazyLock;

use serde_json::Value;

/// How raw probabilities are to be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration {
    /// Raw probability, share of right answers; both from 0 to 1, the first ascending, the second not descending.
    points: Vec<(f64, f64)>,
}

static BUNDLED: LazyLock<Calibration> =
    LazyLock::new(|| Calibration::from_json(include_str!("calibration.json")).unwrap_or(Calibration { points: Vec::new() }));

impl Calibration {
    /// That of the bundled adapter.
    pub fn bundled() -> &'static Self {
        &BUNDLED
    }

    /// Reads `{"points": [[raw, right], ...]}`; `None` where they are not as they must be.
    pub fn from_json(text: &str) -> Option<Self> {
        let json: Value = serde_json::from_str(text).ok()?;
        let point = |pair: &Value| Some((pair.get(0)?.as_f64()?, pair.get(1)?.as_f64()?));
        let points: Vec<(f64, f64)> = json.get("points")?.as_array()?.iter().map(point).collect::<Option<_>>()?;
        let within = points.iter().all(|(raw, right)| (0.0..=1.0).contains(raw) && (0.0..=1.0).contains(right));
        let ascending = points.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1);
        (within && ascending && !points.is_empty()).then_some(Self { points })
    }

    /// How often answers are right whose choices had this probability, 0 to 1.
    pub fn confidence(&self, raw: f64) -> f64 {
        let raw = if raw.is_finite() { raw.clamp(0.0, 1.0) } else { 0.0 };
        let above = self.points.partition_point(|(at, _)| *at < raw);
        match (above.checked_sub(1).and_then(|below| self.points.get(below)), self.points.get(above)) {
            (None, None) => raw,
            (None, Some((_, right))) | (Some((_, right)), None) => *right,
            (Some((low, from)), Some((high, to))) => from + (to - from) * (raw - low) / (high - low),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_bundled_table_can_be_read_and_is_followed() {
        assert!(Calibration::from_json(include_str!("calibration.json")).is_some());
        let table = Calibration::from_json(r#"{"points": [[0.2, 0.1], [0.6, 0.5], [1, 0.9]]}"#).unwrap();
        for (raw, right) in [(0.0, 0.1), (0.2, 0.1), (0.4, 0.3), (0.8, 0.7), (1.0, 0.9), (2.0, 0.9), (f64::NAN, 0.1)] {
            assert!((table.confidence(raw) - right).abs() < 1e-12, "{raw}");
        }
        for wrong in ["{}", r#"{"points": []}"#, r#"{"points": [[0.5, 0.5], [0.4, 0.6]]}"#, r#"{"points": [[0.5, 1.5]]}"#] {
            assert_eq!(Calibration::from_json(wrong), None, "{wrong}");
        }
    }
}
