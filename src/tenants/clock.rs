//! What time it is, for those who decide and those who date.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::ticket::Now;

/// Now.
pub fn now() -> Now {
    static START: OnceLock<Instant> = OnceLock::new();
    Now { elapsed: START.get_or_init(Instant::now).elapsed(), unix_micros: unix_micros() }
}

/// Microseconds since 1970.
pub fn unix_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Seconds since 1970.
pub fn unix() -> i64 {
    unix_micros().div_euclid(1_000_000)
}
