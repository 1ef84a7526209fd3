//! A PostgreSQL database of its own for a test, on the server that `SWITCHYARD_TEST_POSTGRES` names; `tests/run` starts one.

use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{Connection, Executor};

/// Names the server: the address of a database in which databases may be made.
const VARIABLE: &str = "SWITCHYARD_TEST_POSTGRES";

/// The address of a new, empty database; `None` where there is no server.
pub async fn new_database() -> Option<String> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let Ok(server) = std::env::var(VARIABLE) else {
        eprintln!("SKIPPED: no PostgreSQL to test with; run tests/run, or set {VARIABLE}");
        return None;
    };
    sqlx::any::install_default_drivers();
    let name = format!("test_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let mut connection = sqlx::AnyConnection::connect(&server).await.unwrap_or_else(|error| panic!("{VARIABLE}: {error}"));
    connection.execute(sqlx::AssertSqlSafe(format!("DROP DATABASE IF EXISTS {name}"))).await.unwrap();
    connection.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
    connection.close().await.unwrap();
    let (address, parameters) = server.split_once('?').map_or((server.as_str(), ""), |(address, rest)| (address, rest));
    let (address, _) = address.rsplit_once('/').unwrap();
    Some(format!("{address}/{name}?{parameters}"))
}
