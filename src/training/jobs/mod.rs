//! Files that clients send, and the life of a training job: queue, states, events. Knows nothing of gradients.

pub mod corrections;
pub mod desk;
pub mod driver;
mod error;
pub mod examiner;
pub mod files;
pub mod job;
pub mod pulse;
mod queue;
mod record;
mod result;
mod run;
mod runs;
mod shared;
pub mod uploads;
pub mod work;
pub mod workshop;

use rand::Rng;
use rand::distr::Alphanumeric;

pub use crate::store::list::{Order, Page, Paging};
pub use error::JobsError;

/// A new id: the prefix and 24 random letters and digits (143 bits).
fn new_id(prefix: &str) -> String {
    let random = rand::rng().sample_iter(Alphanumeric).take(24).map(char::from);
    prefix.chars().chain(random).collect()
}

/// Seconds since 1970; a clock before that counts as 1970.
fn unix_now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
