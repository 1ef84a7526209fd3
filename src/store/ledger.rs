//! The ledger's table and the hourly counters that are kept with it, in one transaction.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;

use serde::{Deserialize, Serialize};
use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, AnyConnection, Row};

use super::{Database, StoreError};

/// One answered request.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LedgerRow {
    /// Unique in all processes that share a database.
    pub id: String,
    /// The process's data directory.
    pub node: String,
    /// When it was admitted, microseconds since 1970.
    pub at_micros: i64,
    /// As in the response's `x-request-id`.
    pub request_id: String,
    /// Tenant.
    pub project_id: String,
    /// Key.
    pub key_id: String,
    /// On whose behalf.
    pub end_user: Option<String>,
    /// `chat.completions`, `completions`.
    pub endpoint: String,
    /// As asked.
    pub model: String,
    /// As served: `base`, `name@number+digest`.
    pub version: String,
    /// Side of an experiment.
    pub arm: Option<String>,
    /// Tokens of prompts.
    pub input_tokens: i64,
    /// Those whose computation was reused.
    pub cached_tokens: i64,
    /// Tokens of answers.
    pub output_tokens: i64,
    /// Those that were reasoning.
    pub reasoning_tokens: i64,
    /// From admission to the first step, microseconds.
    pub queue_micros: i64,
    /// From admission to the first token, microseconds; 0 where there was none.
    pub first_token_micros: i64,
    /// From admission to the end, microseconds.
    pub total_micros: i64,
    /// The sequences' shares of the model's steps, microseconds.
    pub engine_micros: i64,
    /// KV blocks times the time that they were held, microseconds.
    pub kv_block_micros: i64,
    /// The price that held.
    pub price_id: Option<String>,
    /// Nano-dollars.
    pub cost_nanos: i64,
    /// `hit`, `miss`, `bypass`.
    pub cache: String,
    /// `stop`, `length`, `cancelled`, `failed`.
    pub outcome: String,
}

/// In the order of the fields.
pub(super) const COLUMNS: &str = "id, node, at_micros, request_id, project_id, key_id, end_user, endpoint, model, version, arm, input_tokens, \
                       cached_tokens, output_tokens, reasoning_tokens, queue_micros, first_token_micros, total_micros, \
                       engine_micros, kv_block_micros, price_id, cost_nanos, cache, outcome";
const COLUMN_COUNT: usize = 24;
/// Rows of one statement; each size is prepared once. SQLite finds every numbered value by looking through all of the statement's:
/// at 64 rows that took a quarter of a busy server's processor time.
const BATCHES: [usize; 2] = [8, 1];

/// Adds rows, counts them by the hour, and returns how many were new: a row that is there already changes nothing, so that a
/// journal can be replayed.
pub async fn append<R: Borrow<LedgerRow> + Sync>(database: &Database, rows: &[R]) -> Result<usize, StoreError> {
    let mut transaction = database.begin().await?;
    let mut new = HashSet::with_capacity(rows.len());
    let mut rest = rows;
    while !rest.is_empty() {
        let size = BATCHES.into_iter().find(|size| *size <= rest.len()).unwrap_or(1);
        let (batch, after) = rest.split_at(size);
        let sql = sqlx::AssertSqlSafe(insert(size));
        let query = batch.iter().map(Borrow::borrow).fold(sqlx::query(sql), bind);
        let added = query.fetch_all(&mut *transaction).await.map_err(StoreError::sql("append to the ledger"))?;
        for row in added {
            new.insert(row.try_get::<String, _>(0).map_err(StoreError::sql("append to the ledger"))?);
        }
        rest = after;
    }
    count(&mut transaction, rows.iter().map(Borrow::borrow).filter(|row| new.contains(&row.id))).await?;
    transaction.commit().await?;
    Ok(new.len())
}

fn insert(rows: usize) -> String {
    let mut sql = format!("INSERT INTO ledger ({COLUMNS}) VALUES ");
    for row in 0..rows {
        sql.push_str(if row == 0 { "(" } else { ", (" });
        for column in 1..=COLUMN_COUNT {
            let comma = if column == 1 { "" } else { ", " };
            // Writing to a string does not fail.
            let _ = write!(sql, "{comma}${}", row * COLUMN_COUNT + column);
        }
        sql.push(')');
    }
    sql.push_str(" ON CONFLICT (id) DO NOTHING RETURNING id");
    sql
}

fn bind<'q>(query: Query<'q, Any, AnyArguments>, row: &LedgerRow) -> Query<'q, Any, AnyArguments> {
    query
        .bind(row.id.clone())
        .bind(row.node.clone())
        .bind(row.at_micros)
        .bind(row.request_id.clone())
        .bind(row.project_id.clone())
        .bind(row.key_id.clone())
        .bind(row.end_user.clone())
        .bind(row.endpoint.clone())
        .bind(row.model.clone())
        .bind(row.version.clone())
        .bind(row.arm.clone())
        .bind(row.input_tokens)
        .bind(row.cached_tokens)
        .bind(row.output_tokens)
        .bind(row.reasoning_tokens)
        .bind(row.queue_micros)
        .bind(row.first_token_micros)
        .bind(row.total_micros)
        .bind(row.engine_micros)
        .bind(row.kv_block_micros)
        .bind(row.price_id.clone())
        .bind(row.cost_nanos)
        .bind(row.cache.clone())
        .bind(row.outcome.clone())
}

async fn count(connection: &mut AnyConnection, rows: impl Iterator<Item = &LedgerRow>) -> Result<(), StoreError> {
    let mut hours: BTreeMap<(&str, i64, &str, &str, &str), [i64; 5]> = BTreeMap::new();
    let mut upstreams: BTreeMap<(&str, i64, &str, &str), [i64; 3]> = BTreeMap::new();
    for row in rows {
        let hour = row.at_micros.div_euclid(3_600_000_000);
        let sums = hours.entry((&row.node, hour, &row.project_id, &row.key_id, &row.model)).or_default();
        let of_row = [1, row.input_tokens, row.cached_tokens, row.output_tokens, row.cost_nanos];
        sums.iter_mut().zip(of_row).for_each(|(sum, value)| *sum = sum.saturating_add(value));
        if row.version.starts_with(UPSTREAM) {
            let sums = upstreams.entry((&row.node, hour, &row.version, &row.model)).or_default();
            sums.iter_mut().zip(&of_row[1..]).for_each(|(sum, value)| *sum = sum.saturating_add(*value));
        }
    }
    for ((node, hour, project, key, model), sums) in hours {
        let query = sqlx::query(
            "INSERT INTO usage_hours (node, hour, project_id, key_id, model, requests, input_tokens, cached_tokens, \
             output_tokens, cost_nanos) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
             ON CONFLICT (hour, project_id, key_id, model, node) DO UPDATE SET \
             requests = usage_hours.requests + excluded.requests, \
             input_tokens = usage_hours.input_tokens + excluded.input_tokens, \
             cached_tokens = usage_hours.cached_tokens + excluded.cached_tokens, \
             output_tokens = usage_hours.output_tokens + excluded.output_tokens, \
             cost_nanos = usage_hours.cost_nanos + excluded.cost_nanos",
        );
        let query = query.bind(node.to_owned()).bind(hour).bind(project.to_owned()).bind(key.to_owned()).bind(model.to_owned());
        let query = sums.into_iter().fold(query, Query::bind);
        query.execute(&mut *connection).await.map_err(StoreError::sql("count usage"))?;
    }
    for ((node, hour, version, model), sums) in upstreams {
        let query = sqlx::query(
            "INSERT INTO upstream_hours (node, hour, version, model, input_tokens, cached_tokens, output_tokens) \
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (version, hour, model, node) DO UPDATE SET \
             input_tokens = upstream_hours.input_tokens + excluded.input_tokens, \
             cached_tokens = upstream_hours.cached_tokens + excluded.cached_tokens, \
             output_tokens = upstream_hours.output_tokens + excluded.output_tokens",
        );
        let query = query.bind(node.to_owned()).bind(hour).bind(version.to_owned()).bind(model.to_owned());
        let query = sums.into_iter().fold(query, Query::bind);
        query.execute(&mut *connection).await.map_err(StoreError::sql("count usage"))?;
    }
    Ok(())
}

/// Money that was spent by a key of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpentRow {
    /// Tenant.
    pub project_id: String,
    /// Key.
    pub key_id: String,
    /// Nano-dollars since the beginning.
    pub total: i64,
    /// From the first hour of the month on.
    pub month: i64,
    /// From the first hour of the day on.
    pub day: i64,
}

/// Whose spending is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nodes<'a> {
    /// This one's.
    Only(&'a str),
    /// That of all others.
    Except(&'a str),
}

/// What was spent, by tenant and key; `day` and `month` are the first hours (since 1970) of the running ones.
pub async fn spent(database: &Database, nodes: Nodes<'_>, day: i64, month: i64) -> Result<Vec<SpentRow>, StoreError> {
    let sql = |condition| {
        format!(
            "SELECT project_id, key_id, CAST(SUM(cost_nanos) AS BIGINT), \
             CAST(SUM(CASE WHEN hour >= $2 THEN cost_nanos ELSE 0 END) AS BIGINT), \
             CAST(SUM(CASE WHEN hour >= $3 THEN cost_nanos ELSE 0 END) AS BIGINT) \
             FROM usage_hours WHERE node {condition} $1 GROUP BY project_id, key_id"
        )
    };
    let (sql, node) = match nodes {
        Nodes::Only(node) => (sql("="), node),
        Nodes::Except(node) => (sql("<>"), node),
    };
    let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(node.to_owned()).bind(month).bind(day);
    let doing = "read what was spent";
    let rows = query.fetch_all(database.pool()).await.map_err(StoreError::sql(doing))?;
    let row = |row: &sqlx::any::AnyRow| {
        Ok(SpentRow {
            project_id: row.try_get(0)?,
            key_id: row.try_get(1)?,
            total: row.try_get(2)?,
            month: row.try_get(3)?,
            day: row.try_get(4)?,
        })
    };
    rows.iter().map(row).collect::<Result<_, _>>().map_err(StoreError::sql(doing))
}

/// Begins the version of answers that come from another server.
pub const UPSTREAM: &str = "upstream/";

/// Tokens of prompts, of those the reused ones, and of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Used {
    /// Of prompts.
    pub input: i64,
    /// The part of them whose computation was reused.
    pub cached: i64,
    /// Of answers.
    pub output: i64,
}

/// What each node has used of another server (`version` begins with [`UPSTREAM`]), under this name or under all, since an hour
/// (since 1970).
pub async fn used_by_node(
    database: &Database,
    version: &str,
    model: Option<&str>,
    since_hour: i64,
) -> Result<Vec<(String, Used)>, StoreError> {
    let sql = "SELECT node, CAST(SUM(input_tokens) AS BIGINT), CAST(SUM(cached_tokens) AS BIGINT), CAST(SUM(output_tokens) AS BIGINT) \
               FROM upstream_hours WHERE version = $1 AND hour >= $2 AND ($3 = '' OR model = $3) GROUP BY node";
    let doing = "read what was used";
    // An empty text is no model's name.
    let query = sqlx::query(sql).bind(version.to_owned()).bind(since_hour).bind(model.unwrap_or_default().to_owned());
    let rows = query.fetch_all(database.pool()).await.map_err(StoreError::sql(doing))?;
    let row = |row: &sqlx::any::AnyRow| {
        Ok((row.try_get(0)?, Used { input: row.try_get(1)?, cached: row.try_get(2)?, output: row.try_get(3)? }))
    };
    rows.iter().map(row).collect::<Result<_, _>>().map_err(StoreError::sql(doing))
}

/// What each node has spent of a tenant's or a key's money (of all, where neither is named): all in all, in the month and in the day
/// that begin at the given hours (`(day, month)`, since 1970).
pub async fn spent_by_node(
    database: &Database,
    project: Option<&str>,
    key: Option<&str>,
    (day, month): (i64, i64),
) -> Result<Vec<(String, [i64; 3])>, StoreError> {
    let doing = "read what nodes have spent";
    // An empty text is no tenant's and no key's name.
    let query = sqlx::query(
        "SELECT node, CAST(SUM(cost_nanos) AS BIGINT), \
         CAST(SUM(CASE WHEN hour >= $1 THEN cost_nanos ELSE 0 END) AS BIGINT), \
         CAST(SUM(CASE WHEN hour >= $2 THEN cost_nanos ELSE 0 END) AS BIGINT) \
         FROM usage_hours WHERE ($3 = '' OR project_id = $3) AND ($4 = '' OR key_id = $4) GROUP BY node",
    );
    let query = query.bind(month).bind(day).bind(project.unwrap_or_default().to_owned()).bind(key.unwrap_or_default().to_owned());
    let rows = query.fetch_all(database.pool()).await.map_err(StoreError::sql(doing))?;
    let row = |row: &sqlx::any::AnyRow| Ok((row.try_get(0)?, [row.try_get(1)?, row.try_get(2)?, row.try_get(3)?]));
    rows.iter().map(row).collect::<Result<_, _>>().map_err(StoreError::sql(doing))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;
    use crate::store::Location;

    fn row(index: usize) -> LedgerRow {
        LedgerRow {
            id: format!("r{index}"),
            node: "n1".into(),
            at_micros: 3_600_000_000 * (index as i64 % 3) + 5,
            project_id: "acme".into(),
            key_id: format!("key_{}", index % 2),
            model: "base".into(),
            input_tokens: 10,
            cached_tokens: 4,
            output_tokens: 1,
            cost_nanos: 7,
            ..LedgerRow::default()
        }
    }

    #[tokio::test]
    async fn what_is_used_of_another_server_is_counted_once_by_node() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(&Location::File(dir.path().join("a.db"))).await.unwrap();
        let asked = |index: usize, node: &str, model: &str| {
            let (node, version) = (node.to_owned(), format!("{UPSTREAM}big"));
            LedgerRow { node, version, model: model.to_owned(), ..row(index) }
        };
        // Hours 0, 1, 2, 0, and one of the base.
        let rows = [asked(0, "n1", "big"), asked(1, "n1", "big"), asked(2, "n2", "answers"), asked(3, "n1", "big"), row(4)];
        for _ in 0..2 {
            append(&database, &rows).await.unwrap();
        }
        let used = async |model, since| used_by_node(&database, "upstream/big", model, since).await.unwrap();
        let times = |n: i64| Used { input: 10 * n, cached: 4 * n, output: n };
        let mut all = used(None, 0).await;
        all.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(all, [("n1".to_owned(), times(3)), ("n2".to_owned(), times(1))]);
        assert_eq!(used(Some("big"), 1).await, [("n1".to_owned(), times(1))]);
        assert_eq!(used(Some("answers"), 0).await, [("n2".to_owned(), times(1))]);
    }

    #[tokio::test]
    async fn rows_count_once_however_often_they_are_appended() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(&Location::File(dir.path().join("a b%.db"))).await.unwrap();
        let rows: Vec<_> = (0..150).map(row).collect();
        assert_eq!(append(&database, &rows[..100]).await.unwrap(), 100);
        assert_eq!(append(&database, &rows).await.unwrap(), 50);
        assert_eq!(append(&database, &rows).await.unwrap(), 0);
        assert_eq!(append::<LedgerRow>(&database, &[]).await.unwrap(), 0);
        let mut spent = spent(&database, Nodes::Only("n1"), 2, 1).await.unwrap();
        spent.sort_by(|a, b| a.key_id.cmp(&b.key_id));
        let key = |key: &str| SpentRow { project_id: "acme".into(), key_id: key.into(), total: 525, month: 350, day: 175 };
        assert_eq!(spent, [key("key_0"), key("key_1")]);
        assert!(super::spent(&database, Nodes::Except("n1"), 2, 1).await.unwrap().is_empty());
        let ledger: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM ledger").fetch_one(database.pool()).await.unwrap();
        assert_eq!(ledger, 150);
    }
}
