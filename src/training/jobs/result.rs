//! The metrics of a job as a table, with OpenAI's columns.

use crate::store::jobs::MetricRow;

/// The first line.
const HEADER: &str = "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n";

/// A line a step. What was not measured, and what is no number, is empty.
pub fn csv(metrics: &[MetricRow]) -> Vec<u8> {
    let number = |value: Option<f64>| value.filter(|value| value.is_finite()).map_or(String::new(), |value| value.to_string());
    let mut table = HEADER.to_owned();
    for row in metrics {
        let values = [Some(row.train_loss), row.train_accuracy, row.valid_loss, row.valid_accuracy].map(number);
        table.push_str(&format!("{},{}\n", row.step, values.join(",")));
    }
    table.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_empty() {
        let row =
            MetricRow { step: 1, train_loss: 2.5, train_accuracy: None, valid_loss: Some(0.125), valid_accuracy: Some(1.0) };
        let lost = MetricRow { step: 2, train_loss: f64::NAN, train_accuracy: Some(0.5), valid_loss: None, valid_accuracy: None };
        let table = String::from_utf8(csv(&[row, lost])).unwrap_or_default();
        assert_eq!(table, format!("{HEADER}1,2.5,,0.125,1\n2,,0.5,,\n"));
    }
}
