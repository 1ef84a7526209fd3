//! The database, on SQLite and, where there is a server, on PostgreSQL: the same statements must do the same on both.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "tests")]

/// Runs a test on both databases.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test] async fn $name() { super::$name($crate::Place::sqlite().await).await; })+
        }
        mod on_postgres {
            $(#[tokio::test] async fn $name() {
                if let Some(place) = $crate::Place::postgres().await { super::$name(place).await; }
            })+
        }
    };
}

mod changes;
mod ledger;
mod lists;
mod postgres;

use switchyard::store::{Database, Location};
use switchyard::tenants::Office;
use tempfile::TempDir;

/// A new database and the directory with its secret key.
pub(crate) struct Place {
    pub(crate) office: Office,
    location: Location,
    dir: TempDir,
}

impl Place {
    pub(crate) async fn sqlite() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let location = Location::File(dir.path().join("switchyard.db"));
        Self::at(location, dir).await
    }

    pub(crate) async fn postgres() -> Option<Self> {
        let url = postgres::new_database().await?;
        Some(Self::at(Location::Postgres(url), tempfile::tempdir().unwrap()).await)
    }

    async fn at(location: Location, dir: TempDir) -> Self {
        let office = open(&location, &dir).await;
        Self { office, location, dir }
    }

    /// The same database as another process opens it.
    pub(crate) async fn again(&self) -> Office {
        open(&self.location, &self.dir).await
    }
}

async fn open(location: &Location, dir: &TempDir) -> Office {
    let database = Database::open(location).await.unwrap();
    Office::open(database, dir.path(), None).await.unwrap()
}
