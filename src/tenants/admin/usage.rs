//! What was used, in buckets of time: which part of a question the hourly counters can answer, and which only the ledger. Also the
//! proof that the two agree.

use std::collections::{BTreeMap, BTreeSet};

use super::AdminError;
use crate::store::ledger::LedgerRow;
use crate::store::usage::{self as rows, Span};
pub use crate::store::usage::{Difference, Field, Source, SumRow, Sums, Which};
use crate::tenants::{Office, TenantError};

const HOUR: i64 = 3_600;
/// Rows of a piece of an export.
const PIECE: i64 = 1_000;

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What is summed, and how it is told apart.
    pub sums: Sums,
    /// Seconds since 1970, included.
    pub from: i64,
    /// Seconds since 1970, not included.
    pub to: i64,
}

/// A span of time and what was used in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Seconds since 1970, included.
    pub from: i64,
    /// Seconds since 1970, not included.
    pub to: i64,
    /// Sums, told apart as asked; empty where nothing was used.
    pub sums: Vec<SumRow>,
}

/// Buckets from `from` to `to`. They begin at whole minutes, hours or days (UTC); the first and the last are cut to the question.
pub async fn buckets(office: &Office, question: &Question) -> Result<Vec<Bucket>, AdminError> {
    let width = question.sums.width;
    let mut found: BTreeMap<(i64, [Option<String>; 4]), SumRow> = BTreeMap::new();
    let mut connection = office.database.connection().await?;
    for span in spans(question) {
        for row in rows::sums(&mut connection, &question.sums, span).await? {
            let sum = found.entry((row.bucket, row.fields.clone())).or_insert_with(|| SumRow {
                bucket: row.bucket,
                fields: row.fields.clone(),
                ..SumRow::default()
            });
            for (sum, value) in [
                (&mut sum.requests, row.requests),
                (&mut sum.input_tokens, row.input_tokens),
                (&mut sum.cached_tokens, row.cached_tokens),
                (&mut sum.output_tokens, row.output_tokens),
                (&mut sum.cost_nanos, row.cost_nanos),
            ] {
                *sum = sum.saturating_add(value);
            }
        }
    }
    let mut buckets = Vec::new();
    let mut from = question.from;
    while from < question.to {
        let number = from.div_euclid(width);
        let to = (number + 1).saturating_mul(width).min(question.to);
        let range = (number, [const { None }; 4])..(number + 1, [const { None }; 4]);
        buckets.push(Bucket { from, to, sums: found.range(range).map(|(_, sum)| sum.clone()).collect() });
        from = to;
    }
    Ok(buckets)
}

/// Whole hours come from the counters; what is cut or told apart more finely comes from the ledger.
fn spans(question: &Question) -> Vec<Span> {
    let Question { sums, from, to } = question;
    let micros = |seconds: i64| seconds.saturating_mul(1_000_000);
    if from >= to {
        return Vec::new();
    }
    if sums.width % HOUR != 0 || sums.by.contains(&Field::User) || !sums.which.users.is_empty() {
        return vec![Span::Ledger(micros(*from), micros(*to))];
    }
    let (first, last) = (from.saturating_add(HOUR - 1).div_euclid(HOUR), to.div_euclid(HOUR));
    if first >= last {
        return vec![Span::Ledger(micros(*from), micros(*to))];
    }
    let mut spans = vec![Span::Hours(first, last)];
    if *from < first * HOUR {
        spans.push(Span::Ledger(micros(*from), micros(first * HOUR)));
    }
    if last * HOUR < *to {
        spans.push(Span::Ledger(micros(last * HOUR), micros(*to)));
    }
    spans
}

/// The form of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Comma-separated values with a line of names.
    Csv,
    /// A JSON object a line.
    JsonLines,
}

/// Rows of the ledger as text, piece by piece: an export of any size needs the memory of one piece.
pub struct Export {
    office: Office,
    which: Which,
    from: i64,
    to: i64,
    format: Format,
    at: Place,
}

enum Place {
    Beginning,
    After((i64, String)),
    End,
}

impl Export {
    /// Rows admitted from `from` to `to` (seconds since 1970, the end not included).
    pub const fn new(office: Office, which: Which, from: i64, to: i64, format: Format) -> Self {
        Self { office, which, from, to, format, at: Place::Beginning }
    }

    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<String>, AdminError> {
        let (after, first) = match &self.at {
            Place::Beginning => (None, true),
            Place::After((at, id)) => (Some((*at, id.as_str())), false),
            Place::End => return Ok(None),
        };
        let micros = |seconds: i64| seconds.saturating_mul(1_000_000);
        let _turn = self.office.database.report().await;
        let mut connection = self.office.database.connection().await?;
        let found = rows::rows(&mut connection, &self.which, micros(self.from), micros(self.to), after, PIECE).await?;
        drop(connection);
        self.at = match found.last() {
            Some(last) if i64::try_from(found.len()).is_ok_and(|count| count == PIECE) => {
                Place::After((last.at_micros, last.id.clone()))
            }
            _ => Place::End,
        };
        let text = match self.format {
            Format::Csv => csv_text(&found, if first { Names::First } else { Names::Written }),
            Format::JsonLines => json_lines(&found),
        };
        text.map(Some)
    }
}

/// Whether the line of names is to be written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    First,
    Written,
}

fn csv_text(rows: &[LedgerRow], names: Names) -> Result<String, AdminError> {
    let mut writer = csv::WriterBuilder::new().has_headers(names == Names::First).from_writer(Vec::new());
    let failed = |error: &dyn std::fmt::Display| AdminError::Tenant(TenantError::Export(error.to_string()));
    if rows.is_empty() && names == Names::First {
        let row = serde_json::to_value(LedgerRow::default()).map_err(|error| failed(&error))?;
        let names = row.as_object().into_iter().flat_map(|map| map.keys());
        writer.write_record(names).map_err(|error| failed(&error))?;
    }
    for row in rows {
        writer.serialize(row).map_err(|error| failed(&error))?;
    }
    let bytes = writer.into_inner().map_err(|error| failed(&error))?;
    String::from_utf8(bytes).map_err(|error| failed(&error))
}

fn json_lines(rows: &[LedgerRow]) -> Result<String, AdminError> {
    let mut text = String::new();
    for row in rows {
        let line = serde_json::to_string(row).map_err(|error| AdminError::Tenant(TenantError::Export(error.to_string())))?;
        text.push_str(&line);
        text.push('\n');
    }
    Ok(text)
}

/// What comparing the ledger with its counters has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Requests, input, cached and output tokens, nano-dollars of the whole ledger.
    pub totals: [i64; 5],
    /// Where the two differ; not all of them, where there are very many.
    pub differences: Vec<Difference>,
}

impl Verdict {
    /// Hours that differ.
    pub fn hours(&self) -> BTreeSet<i64> {
        self.differences.iter().map(|difference| difference.hour).collect()
    }
}

/// Compares the ledger with the counters that budgets and usage are read from.
pub async fn verify(office: &Office) -> Result<Verdict, AdminError> {
    let mut connection = office.database.connection().await?;
    let differences = rows::differences(&mut connection).await?;
    Ok(Verdict { totals: rows::totals(&mut connection).await?, differences })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn question(width: i64, from: i64, to: i64) -> Question {
        Question { sums: Sums { which: Which::default(), by: Vec::new(), width }, from, to }
    }

    #[test]
    fn cut_hours_come_from_the_ledger() {
        let ledger = |from: i64, to: i64| Span::Ledger(from * 1_000_000, to * 1_000_000);
        assert_eq!(spans(&question(86_400, 86_400, 172_800)), [Span::Hours(24, 48)]);
        assert_eq!(spans(&question(86_400, 3_601, 7_300)), [ledger(3_601, 7_300)], "no whole hour is in between");
        assert_eq!(spans(&question(3_600, 3_599, 7_201)), [Span::Hours(1, 2), ledger(3_599, 3_600), ledger(7_200, 7_201)]);
        assert_eq!(spans(&question(60, 0, 7_200)), [ledger(0, 7_200)], "minutes are not in the counters");
        let mut by_user = question(86_400, 0, 86_400);
        by_user.sums.by.push(Field::User);
        assert_eq!(spans(&by_user), [ledger(0, 86_400)]);
        assert!(spans(&question(60, 5, 5)).is_empty());
    }

    proptest! {
        #[test]
        fn every_second_is_asked_for_once(from in 0i64..100_000, length in 0i64..100_000, day in any::<bool>()) {
            let question = question(if day { 86_400 } else { 3_600 }, from, from + length);
            let mut parts: Vec<(i64, i64)> = spans(&question)
                .into_iter()
                .map(|span| match span {
                    Span::Ledger(from, to) => (from / 1_000_000, to / 1_000_000),
                    Span::Hours(from, to) => (from * HOUR, to * HOUR),
                })
                .collect();
            parts.sort_unstable();
            let mut at = from;
            for (begin, end) in parts {
                prop_assert_eq!(begin, at);
                prop_assert!(end > begin);
                at = end;
            }
            prop_assert_eq!(at, from + length);
        }
    }
}
