//! The database: opening it, its migrations, transactions. SQLite in the data directory, or a PostgreSQL that several processes
//! share; one SQL text serves both. Knows no table.

use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyConnection, AnyPool, Executor, SqlSafeStr};
use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use super::StoreError;

/// Migrations in their order. What was released never changes; the next one is added below.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "tenants", include_str!("migrations/0001_tenants.sql")),
    (2, "training", include_str!("migrations/0002_training.sql")),
    (3, "experiments", include_str!("migrations/0003_experiments.sql")),
    (4, "responses", include_str!("migrations/0004_responses.sql")),
    (5, "shared", include_str!("migrations/0005_shared.sql")),
];
/// Name of the SQLite file in the data directory.
pub const FILE: &str = "switchyard.db";
/// Connections to PostgreSQL.
const CONNECTIONS: u32 = 8;
/// Long questions at the same time.
const REPORTS: usize = 2;
/// How long a connection may take to get.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the database is.
#[derive(Clone, PartialEq, Eq)]
pub enum Location {
    /// A SQLite file, made where it is missing.
    File(PathBuf),
    /// A `postgres://` address; it may hold a password and is therefore never printed.
    Postgres(String),
}

impl std::fmt::Debug for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Postgres(_) => f.write_str("Postgres(..)"),
        }
    }
}

/// An open database. Cheap to clone.
#[derive(Clone)]
pub struct Database {
    pool: AnyPool,
    /// SQLite has one writer at a time: whoever writes takes a turn here instead of polling a lock.
    turns: Option<Arc<Mutex<()>>>,
    /// Long questions wait for each other, so that they leave connections to those who authenticate and bill.
    reports: Arc<Semaphore>,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").finish_non_exhaustive()
    }
}

impl Database {
    /// Opens the database and brings its tables up to date.
    pub async fn open(location: &Location) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        let database = match location {
            Location::File(path) => {
                // Owner only, before SQLite writes anything.
                super::dir::create_private_file(path)?;
                let url = format!("sqlite://{}?mode=rwc", percent_encoded(&path.to_string_lossy()));
                let options = options(&url)?;
                let pool = AnyPoolOptions::new()
                    .max_connections(4)
                    .acquire_timeout(PATIENCE)
                    .after_connect(|connection, _| {
                        Box::pin(async move {
                            // Readers do not wait for the writer, and a commit is on the disk when it returns.
                            connection.execute("PRAGMA journal_mode = WAL").await?;
                            connection.execute("PRAGMA synchronous = FULL").await?;
                            connection.execute("PRAGMA busy_timeout = 5000").await?;
                            connection.execute("PRAGMA foreign_keys = ON").await?;
                            Ok(())
                        })
                    })
                    .connect_with(options)
                    .await
                    .map_err(StoreError::sql("open the database"))?;
                Self { pool, turns: Some(Arc::default()), reports: Arc::new(Semaphore::new(REPORTS)) }
            }
            Location::Postgres(url) => {
                let pool = AnyPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(PATIENCE);
                let pool = pool.connect_with(options(url)?).await.map_err(StoreError::sql("open the database"))?;
                Self { pool, turns: None, reports: Arc::new(Semaphore::new(REPORTS)) }
            }
        };
        database.migrate().await?;
        Ok(database)
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        let migrations = MIGRATIONS
            .iter()
            .map(|&(version, name, sql)| Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false));
        let migrator = Migrator::with_migrations(migrations.collect());
        // Two processes that start together take turns: sqlx locks PostgreSQL while it migrates, and SQLite has one writer.
        migrator.run(&self.pool).await.map_err(|error| StoreError::Migration(error.to_string()))
    }

    /// Whether other processes that answer requests may use it at the same time.
    pub const fn is_shared(&self) -> bool {
        self.turns.is_none()
    }

    /// A turn for a question that may take long.
    pub async fn report(&self) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        Arc::clone(&self.reports).acquire_owned().await.ok()
    }

    /// For reading.
    pub const fn pool(&self) -> &AnyPool {
        &self.pool
    }

    /// A connection for reading.
    pub async fn connection(&self) -> Result<PoolConnection<Any>, StoreError> {
        self.pool.acquire().await.map_err(StoreError::sql("reach the database"))
    }

    /// For changes: all or none. Nothing is changed unless [`Transaction::commit`] is called.
    pub async fn begin(&self) -> Result<Transaction, StoreError> {
        let turn = match &self.turns {
            Some(turns) => Some(Arc::clone(turns).lock_owned().await),
            None => None,
        };
        let begun = match self.turns {
            // A transaction that begins by reading could not become a writer when another process has written meanwhile.
            Some(_) => self.pool.begin_with("BEGIN IMMEDIATE").await,
            None => self.pool.begin().await,
        };
        Ok(Transaction { inner: begun.map_err(StoreError::sql("begin a transaction"))?, _turn: turn })
    }

    /// Closes all connections; what was committed is on the disk.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// How often what servers keep in memory was changed, by any process.
    pub async fn revision(&self) -> Result<i64, StoreError> {
        sqlx::query_scalar("SELECT value FROM revisions WHERE name = 'policy'")
            .fetch_one(&self.pool)
            .await
            .map_err(StoreError::sql("read the revision"))
    }

    /// A fact about this database.
    pub async fn fact(&self, name: &str) -> Result<Option<String>, StoreError> {
        let query = sqlx::query_scalar("SELECT value FROM facts WHERE name = $1").bind(name.to_owned());
        query.fetch_optional(&self.pool).await.map_err(StoreError::sql("read a fact"))
    }

    /// Writes a fact unless it is there, and returns what is there then.
    pub async fn settle_fact(&self, name: &str, value: &str) -> Result<String, StoreError> {
        let insert = sqlx::query("INSERT INTO facts (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING");
        let mut transaction = self.begin().await?;
        let insert = insert.bind(name.to_owned()).bind(value.to_owned());
        insert.execute(&mut *transaction).await.map_err(StoreError::sql("write a fact"))?;
        transaction.commit().await?;
        self.fact(name).await.map(Option::unwrap_or_default)
    }
}

/// Changes that belong together. Dropped without a commit, nothing has happened.
pub struct Transaction {
    inner: sqlx::Transaction<'static, Any>,
    // After `inner`: the turn ends when the transaction has.
    _turn: Option<OwnedMutexGuard<()>>,
}

impl Transaction {
    /// Makes the changes durable.
    pub async fn commit(self) -> Result<(), StoreError> {
        self.inner.commit().await.map_err(StoreError::sql("commit"))
    }

    /// Makes the changes durable and tells every process that what it keeps in memory is out of date.
    pub async fn commit_policy(mut self) -> Result<(), StoreError> {
        sqlx::query("UPDATE revisions SET value = value + 1 WHERE name = 'policy'")
            .execute(&mut *self)
            .await
            .map_err(StoreError::sql("count a change"))?;
        self.commit().await
    }
}

impl Deref for Transaction {
    type Target = AnyConnection;

    fn deref(&self) -> &AnyConnection {
        &self.inner
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut AnyConnection {
        &mut self.inner
    }
}

fn options(url: &str) -> Result<AnyConnectOptions, StoreError> {
    use sqlx::ConnectOptions;
    let options = AnyConnectOptions::from_str(url).map_err(StoreError::sql("understand the database's address"))?;
    // Values of statements may be secrets or hashes of them: the library's own log lines stay off.
    Ok(options.disable_statement_logging())
}

/// A path as a part of a URL.
fn percent_encoded(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
