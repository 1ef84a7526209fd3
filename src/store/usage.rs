//! Sums of what was used: from the hourly counters, and from the ledger where hours are too coarse or a field is only there. Also
//! whether the two agree.

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::StoreError;
use super::ledger::{COLUMNS, LedgerRow};
use super::list::{Query, number};

/// What sums can be told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Field {
    /// Tenant.
    Project,
    /// Key.
    Key,
    /// Model, as asked.
    Model,
    /// On whose behalf; only the ledger knows.
    User,
}

impl Field {
    /// In the order of [`SumRow::fields`].
    pub const ALL: [Self; 4] = [Self::Project, Self::Key, Self::Model, Self::User];

    const fn column(self) -> &'static str {
        match self {
            Self::Project => "project_id",
            Self::Key => "key_id",
            Self::Model => "model",
            Self::User => "end_user",
        }
    }
}

/// Which use; empty is any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Which {
    /// Of these tenants.
    pub projects: Vec<String>,
    /// By these keys.
    pub keys: Vec<String>,
    /// Of these models.
    pub models: Vec<String>,
    /// On behalf of these users; only the ledger knows.
    pub users: Vec<String>,
}

/// What is summed, and how it is told apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sums {
    /// Which use.
    pub which: Which,
    /// What it is told apart by.
    pub by: Vec<Field>,
    /// Length of a bucket, seconds; from the hourly counters, hours in seconds.
    pub width: i64,
}

/// A sum.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SumRow {
    /// Number of the bucket since 1970.
    pub bucket: i64,
    /// The fields that it is told apart by, in the order of [`Field::ALL`]; `None` for the others.
    pub fields: [Option<String>; 4],
    /// Requests.
    pub requests: i64,
    /// Tokens of prompts.
    pub input_tokens: i64,
    /// Those whose computation was reused.
    pub cached_tokens: i64,
    /// Tokens of answers.
    pub output_tokens: i64,
    /// Nano-dollars.
    pub cost_nanos: i64,
}

/// Where and when sums are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// The ledger, microseconds since 1970, the end not included.
    Ledger(i64, i64),
    /// The hourly counters, hours since 1970, the end not included.
    Hours(i64, i64),
}

/// Sums over a span.
pub async fn sums(connection: &mut AnyConnection, sums: &Sums, span: Span) -> Result<Vec<SumRow>, StoreError> {
    let Sums { which, by, width } = sums;
    let (table, time, from, to, unit, requests) = match span {
        Span::Ledger(from, to) => ("ledger", "at_micros", from, to, width.saturating_mul(1_000_000), "COUNT(*)"),
        Span::Hours(from, to) => ("usage_hours", "hour", from, to, (width / 3_600).max(1), "SUM(requests)"),
    };
    let mut groups = format!("{time} / {unit}");
    let mut fields = String::new();
    for field in Field::ALL {
        fields.push_str(", ");
        if by.contains(&field) {
            let column = field.column();
            fields.push_str(&format!("COALESCE({column}, '')"));
            groups.push_str(&format!(", {column}"));
        } else {
            fields.push_str("''");
        }
    }
    let sum = |column: &str| format!(", CAST(SUM({column}) AS BIGINT)");
    let select = format!(
        "SELECT {time} / {unit}{fields}, CAST({requests} AS BIGINT){}{}{}{} FROM {table} WHERE ",
        sum("input_tokens"),
        sum("cached_tokens"),
        sum("output_tokens"),
        sum("cost_nanos"),
    );
    let query = Query::new(&select)
        .with(&format!("{time} >= ?"), from)
        .and(&format!("{time} < ?"), Some(to))
        .and_any("project_id", &which.projects)
        .and_any("key_id", &which.keys)
        .and_any("model", &which.models)
        .and_any("end_user", &which.users);
    let mut rows = query.then(&format!(" GROUP BY {groups}")).read(connection, "sum usage", sum_row).await?;
    for row in &mut rows {
        for (place, field) in row.fields.iter_mut().zip(Field::ALL) {
            place.take_if(|text| !by.contains(&field) || text.is_empty());
        }
    }
    Ok(rows)
}

fn sum_row(row: &AnyRow) -> Result<SumRow, sqlx::Error> {
    let text = |column| row.try_get::<String, _>(column).map(Some);
    Ok(SumRow {
        bucket: number(row, 0)?,
        fields: [text(1)?, text(2)?, text(3)?, text(4)?],
        requests: number(row, 5)?,
        input_tokens: number(row, 6)?,
        cached_tokens: number(row, 7)?,
        output_tokens: number(row, 8)?,
        cost_nanos: number(row, 9)?,
    })
}

/// Rows of the ledger in the order of their admission, after the row `after` (its time in microseconds and its id).
pub async fn rows(
    connection: &mut AnyConnection,
    which: &Which,
    from: i64,
    to: i64,
    after: Option<(i64, &str)>,
    limit: i64,
) -> Result<Vec<LedgerRow>, StoreError> {
    let query = Query::new(&format!("SELECT {COLUMNS} FROM ledger WHERE"))
        .with(" at_micros >= ?", after.map_or(from, |(at, _)| at.max(from)))
        .and("at_micros < ?", Some(to))
        .and_any("project_id", &which.projects)
        .and_any("key_id", &which.keys)
        .and_any("model", &which.models)
        .and_any("end_user", &which.users);
    let query = match after {
        Some((at, id)) => query.with(" AND (at_micros > ?", at).with(" OR id > ?)", id),
        None => query,
    };
    query.with(" ORDER BY at_micros, id LIMIT ?", limit).read(connection, "read the ledger", ledger_row).await
}

fn ledger_row(row: &AnyRow) -> Result<LedgerRow, sqlx::Error> {
    Ok(LedgerRow {
        id: row.try_get(0)?,
        node: row.try_get(1)?,
        at_micros: row.try_get(2)?,
        request_id: row.try_get(3)?,
        project_id: row.try_get(4)?,
        key_id: row.try_get(5)?,
        end_user: row.try_get(6)?,
        endpoint: row.try_get(7)?,
        model: row.try_get(8)?,
        version: row.try_get(9)?,
        arm: row.try_get(10)?,
        input_tokens: row.try_get(11)?,
        cached_tokens: row.try_get(12)?,
        output_tokens: row.try_get(13)?,
        reasoning_tokens: row.try_get(14)?,
        queue_micros: row.try_get(15)?,
        first_token_micros: row.try_get(16)?,
        total_micros: row.try_get(17)?,
        engine_micros: row.try_get(18)?,
        kv_block_micros: row.try_get(19)?,
        price_id: row.try_get(20)?,
        cost_nanos: row.try_get(21)?,
        cache: row.try_get(22)?,
        outcome: row.try_get(23)?,
    })
}

/// Which of the two says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The ledger, summed.
    Ledger,
    /// The hourly counters.
    Hours,
}

/// An hour's sums that only one of the two has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Which one.
    pub source: Source,
    /// The process that wrote it.
    pub node: String,
    /// Hours since 1970.
    pub hour: i64,
    /// Tenant.
    pub project_id: String,
    /// Key.
    pub key_id: String,
    /// Model, as asked.
    pub model: String,
    /// Requests, input, cached and output tokens, nano-dollars.
    pub sums: [i64; 5],
}

/// Most differences that are reported.
pub const MOST_DIFFERENCES: usize = 1_000;

/// Where the ledger and the hourly counters differ. One statement: it sees one state of a database that others write to.
pub async fn differences(connection: &mut AnyConnection) -> Result<Vec<Difference>, StoreError> {
    let ledger = "SELECT node, at_micros / 3600000000 AS hour, project_id, key_id, model, CAST(COUNT(*) AS BIGINT) AS requests, \
                  CAST(SUM(input_tokens) AS BIGINT) AS input_tokens, CAST(SUM(cached_tokens) AS BIGINT) AS cached_tokens, \
                  CAST(SUM(output_tokens) AS BIGINT) AS output_tokens, CAST(SUM(cost_nanos) AS BIGINT) AS cost_nanos \
                  FROM ledger GROUP BY node, at_micros / 3600000000, project_id, key_id, model";
    let hours = "SELECT node, hour, project_id, key_id, model, requests, input_tokens, cached_tokens, output_tokens, cost_nanos \
                 FROM usage_hours";
    let select = format!(
        "SELECT 'ledger' AS source, l.* FROM ({ledger} EXCEPT {hours}) l UNION ALL \
         SELECT 'hours' AS source, h.* FROM ({hours} EXCEPT {ledger}) h ORDER BY 3, 2, 4, 5, 6, 1 LIMIT {MOST_DIFFERENCES}"
    );
    let difference = |row: &AnyRow| {
        let source: String = row.try_get(0)?;
        Ok(Difference {
            source: if source == "ledger" { Source::Ledger } else { Source::Hours },
            node: row.try_get(1)?,
            hour: row.try_get(2)?,
            project_id: row.try_get(3)?,
            key_id: row.try_get(4)?,
            model: row.try_get(5)?,
            sums: [number(row, 6)?, number(row, 7)?, number(row, 8)?, number(row, 9)?, number(row, 10)?],
        })
    };
    Query::new(&select).read(connection, "compare the ledger with its counters", difference).await
}

/// Requests, input, cached and output tokens, nano-dollars of the whole ledger.
pub async fn totals(connection: &mut AnyConnection) -> Result<[i64; 5], StoreError> {
    let sum = |column: &str| format!(", CAST(COALESCE(SUM({column}), 0) AS BIGINT)");
    let select = format!(
        "SELECT CAST(COUNT(*) AS BIGINT){}{}{}{} FROM ledger WHERE 1 = 1",
        sum("input_tokens"),
        sum("cached_tokens"),
        sum("output_tokens"),
        sum("cost_nanos")
    );
    let five = |row: &AnyRow| Ok([number(row, 0)?, number(row, 1)?, number(row, 2)?, number(row, 3)?, number(row, 4)?]);
    let rows = Query::new(&select).read(connection, "sum the ledger", five).await?;
    Ok(rows.first().copied().unwrap_or_default())
}
