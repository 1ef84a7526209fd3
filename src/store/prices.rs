//! Rows of the price book: single ones and lists, for changes. `policy` reads all of them at once. A price is never changed: it is
//! added, or taken back before it holds.

use sqlx::AnyConnection;

use super::StoreError;
use super::list::{Listed, Page, Paging, Query, first};
use super::policy::{PriceRow, price};

const PRICE: &str = "SELECT id, project_id, model, valid_from, input_nanos, cached_input_nanos, output_nanos, training_nanos, \
                     created_at FROM prices WHERE 1 = 1";

/// A price.
pub async fn get(connection: &mut AnyConnection, id: &str) -> Result<Option<PriceRow>, StoreError> {
    Query::new(PRICE).and("id = ?", Some(id)).read(connection, "read a price", price).await.map(first)
}

/// Prices in pages, of a project and a model where they are given.
pub async fn list(
    connection: &mut AnyConnection,
    project_id: Option<&str>,
    model: Option<&str>,
    paging: &Paging,
) -> Result<Page<PriceRow>, StoreError> {
    let listed = Listed { table: "prices", prefix: "", time: "created_at" };
    let query = Query::new(PRICE).and("project_id = ?", project_id).and("model = ?", model);
    query.page(connection, &listed, paging, price).await
}

/// Adds a price.
pub async fn insert(connection: &mut AnyConnection, row: &PriceRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO prices (id, project_id, model, valid_from, input_nanos, cached_input_nanos, output_nanos, training_nanos, \
         created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(row.id.clone())
    .bind(row.project_id.clone())
    .bind(row.model.clone())
    .bind(row.valid_from)
    .bind(row.input_nanos)
    .bind(row.cached_input_nanos)
    .bind(row.output_nanos)
    .bind(row.training_nanos)
    .bind(row.created_at)
    .execute(connection)
    .await
    .map_err(StoreError::sql("add a price"))?;
    Ok(())
}

/// Removes a price; false where it is gone.
pub async fn delete(connection: &mut AnyConnection, id: &str) -> Result<bool, StoreError> {
    let query = sqlx::query("DELETE FROM prices WHERE id = $1").bind(id.to_owned());
    let done = query.execute(connection).await.map_err(StoreError::sql("remove a price"))?;
    Ok(done.rows_affected() == 1)
}
