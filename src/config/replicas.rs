//! What replicas of one database share besides it. Understands text; opens nothing.

use std::time::Duration;

use super::Location;
use super::meaning::{Reader, bytes, duration};
use crate::store::objects::ObjectsLocation;
use crate::tenants::shared::{RedisUrl, Settings, Share};

impl Reader<'_> {
    /// `Some(None)` where limits are this process's own.
    pub(super) fn shared_limits(&mut self, database: Option<&Location>) -> Option<Option<Settings>> {
        let timeout = self.value("redis_timeout", Duration::from_millis(25), |text| within(text, 1, 10_000));
        let lease = self.value("redis_lease", Duration::from_secs(15), |text| within(text, 1_000, 3_600_000));
        let share = self.value("redis_local_share", Share::new(0.34), |text| {
            let share = text.parse().ok().and_then(Share::new);
            share.map(Some).ok_or_else(|| "a number above 0 and at most 1 is right, like 0.34 for three replicas".to_owned())
        });
        let Some(typed) = self.raw.typed.get("redis_url") else { return Some(None) };
        // What was typed may hold a password.
        let origin = typed.origin.clone();
        let text = match (typed.values.first().map_or("", String::as_str), database) {
            ("none", _) => return Some(None),
            (text, Some(Location::Postgres(_))) => match RedisUrl::new(text) {
                Some(url) => return Some(Some(Settings { url, timeout: timeout?, lease: lease?, share: share?? })),
                None => "redis_url: an address like redis://host:6379/0, rediss://host or unix:///path is right",
            },
            // Said already.
            (_, None) => return None,
            (_, Some(Location::File(_))) => {
                "redis_url: replicas that share limits share a PostgreSQL; set database to a postgres:// address, or leave redis_url \
                 out"
            }
        };
        self.raw.problem(origin, text);
        None
    }
}

/// What the clouds' own tools read from the environment.
const CLOUDS: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

impl Reader<'_> {
    /// `Some(None)` where adapters are this process's own.
    pub(super) fn objects(&mut self, database: Option<&Location>) -> Option<Option<ObjectsLocation>> {
        let cache = self.value("objects_cache", 10 << 30, bytes);
        let url = self.optional("objects", |text| match text {
            "none" => Ok(None),
            text => ObjectsLocation::parse(text).map(Some).map_err(str::to_owned),
        });
        let Some(url) = url?.flatten() else { return Some(None) };
        match database? {
            Location::Postgres(_) => {}
            Location::File(_) => {
                let origin = self.raw.typed.get("objects").map(|typed| typed.origin.to_string()).unwrap_or_default();
                let text = "objects: replicas that share adapters share a PostgreSQL; set database to a postgres:// address, or leave \
                            objects out";
                self.raw.problem(origin, text);
                return None;
            }
        }
        let variables = self.given.variables.iter().filter_map(|(name, value)| Some((name.to_str()?, value.to_str()?)));
        let options = variables.filter(|(name, _)| CLOUDS.iter().any(|cloud| name.starts_with(cloud)));
        let options = options.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Some(Some(ObjectsLocation { url, options, cache: cache? }))
    }
}

fn within(text: &str, least_ms: u128, most_ms: u128) -> Result<Duration, String> {
    let time = duration(text).ok().filter(|time| (least_ms..=most_ms).contains(&time.as_millis()));
    time.ok_or_else(|| format!("a time from {least_ms}ms to {}s is right", most_ms / 1_000))
}
