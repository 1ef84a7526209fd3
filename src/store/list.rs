//! Queries with conditions that are there or not, and lists in pages: after or before a row, so many, in the order in which the
//! rows were made. Knows no table.

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::StoreError;

/// The order of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// The oldest first.
    #[default]
    Ascending,
    /// The newest first.
    Descending,
}

/// Which part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paging {
    /// Id of the row that it follows.
    pub after: Option<String>,
    /// Id of the row that it precedes.
    pub before: Option<String>,
    /// Most rows.
    pub limit: usize,
    /// Order.
    pub order: Order,
}

impl Paging {
    /// Everything, as far as memory is concerned.
    pub const ALL: Self = Self { after: None, before: None, limit: 100_000, order: Order::Ascending };
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Whether there are more in the direction that was asked for.
    pub has_more: bool,
}

/// Where a list's rows are.
pub(super) struct Listed {
    /// The table that has the cursors.
    pub table: &'static str,
    /// What stands before its columns in the query: nothing, or `k.`.
    pub prefix: &'static str,
    /// The column with the time.
    pub time: &'static str,
}

/// A value of a statement.
#[derive(Debug, Clone)]
pub(super) enum Bound {
    Text(String),
    Number(i64),
}

impl From<&str> for Bound {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<i64> for Bound {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

/// A query that is put together from texts of this room, never from a caller's.
pub(super) struct Query {
    sql: String,
    values: Vec<Bound>,
}

impl Query {
    /// `select` ends with `WHERE` and at least one condition.
    pub(super) fn new(select: &str) -> Self {
        Self { sql: select.to_owned(), values: Vec::new() }
    }

    /// Adds text.
    pub(super) fn then(mut self, text: &str) -> Self {
        self.sql.push_str(text);
        self
    }

    /// Adds text with the value's place at `?`.
    pub(super) fn with(mut self, text: &str, value: impl Into<Bound>) -> Self {
        self.values.push(value.into());
        let place = format!("${}", self.values.len());
        self.sql.push_str(&text.replacen('?', &place, 1));
        self
    }

    /// Adds a condition, where there is a value, at `?`.
    pub(super) fn and<T: Into<Bound>>(self, condition: &str, value: Option<T>) -> Self {
        match value {
            Some(value) => self.then(" AND ").with(condition, value),
            None => self,
        }
    }

    /// Adds that a column has one of the values; no values: no condition.
    pub(super) fn and_any(mut self, column: &str, values: &[String]) -> Self {
        if values.is_empty() {
            return self;
        }
        self = self.then(" AND ").then(column).then(" IN (");
        for (index, value) in values.iter().enumerate() {
            self = self.with(if index == 0 { "?" } else { ", ?" }, value.as_str());
        }
        self.then(")")
    }

    /// All rows.
    pub(super) async fn fetch(self, connection: &mut AnyConnection, doing: &'static str) -> Result<Vec<AnyRow>, StoreError> {
        let mut query = sqlx::query(sqlx::AssertSqlSafe(self.sql));
        for value in self.values {
            query = match value {
                Bound::Text(text) => query.bind(text),
                Bound::Number(number) => query.bind(number),
            };
        }
        query.fetch_all(connection).await.map_err(StoreError::sql(doing))
    }

    /// All rows, understood.
    pub(super) async fn read<T>(
        self,
        connection: &mut AnyConnection,
        doing: &'static str,
        read: fn(&AnyRow) -> Result<T, sqlx::Error>,
    ) -> Result<Vec<T>, StoreError> {
        let rows = self.fetch(connection, doing).await?;
        rows.iter().map(read).collect::<Result<_, _>>().map_err(StoreError::sql(doing))
    }

    /// A page of the rows.
    pub(super) async fn page<T>(
        mut self,
        connection: &mut AnyConnection,
        listed: &Listed,
        paging: &Paging,
        read: fn(&AnyRow) -> Result<T, sqlx::Error>,
    ) -> Result<Page<T>, StoreError> {
        let doing = "read a list";
        let Listed { table, prefix, time } = listed;
        let (later, earlier) = match paging.order {
            Order::Ascending => (">", "<"),
            Order::Descending => ("<", ">"),
        };
        for (cursor, sign) in [(&paging.after, later), (&paging.before, earlier)] {
            let Some(cursor) = cursor else { continue };
            let known = Query::new(&format!("SELECT id FROM {table} WHERE")).with(" id = ?", cursor.as_str());
            if known.fetch(connection, doing).await?.is_empty() {
                return Err(StoreError::UnknownCursor(cursor.clone()));
            }
            let text = format!(" AND ({prefix}{time}, {prefix}id) {sign} (SELECT {time}, id FROM {table} WHERE id = ?)");
            self = self.with(&text, cursor.as_str());
        }
        // What precedes a row is counted from that row backwards.
        let backwards = paging.before.is_some() && paging.after.is_none();
        let ascending = (paging.order == Order::Ascending) != backwards;
        let direction = if ascending { "ASC" } else { "DESC" };
        let more = i64::try_from(paging.limit).unwrap_or(i64::MAX - 1) + 1;
        let order = format!(" ORDER BY {prefix}{time} {direction}, {prefix}id {direction} LIMIT ?");
        let mut rows = self.with(&order, more).read(connection, doing, read).await?;
        let has_more = rows.len() > paging.limit;
        rows.truncate(paging.limit);
        if backwards {
            rows.reverse();
        }
        Ok(Page { rows, has_more })
    }
}

/// The only row, where there is one.
pub(super) fn first<T>(rows: Vec<T>) -> Option<T> {
    rows.into_iter().next()
}

/// A number of a row.
pub(super) fn number(row: &AnyRow, column: usize) -> Result<i64, sqlx::Error> {
    row.try_get(column)
}
