//! `[[upstream]]` and `[[failover]]` tables of the configuration file: models that are other servers, and names that several models
//! share. They have no flags and no variables, as there are
//! many of each; their keys are named, never written.

use std::collections::BTreeSet;
use std::time::Duration;

use super::meaning::{Reader, duration};
use super::raw::{Entry, Origin, Table};
use super::settings::{PREFIX, nearest};
use super::{Config, FailoverConfig, UpstreamConfig};
use crate::gateway::{Endpoint, HASH_EMBEDDING, Key, Patience, RemoteSettings, Times, Tolerance};
use crate::outbound::Address;
use crate::registry;
use crate::tenants::{Cap, Period, Price};

/// Keys of an `[[upstream]]` table.
const KEYS: [&str; 25] = [
    "name",
    "address",
    "model",
    "key_variable",
    "key_file",
    "endpoints",
    "tenants",
    "context",
    "parameters",
    "refuses",
    "at_once",
    "connect_timeout",
    "first_event_timeout",
    "event_timeout",
    "timeout",
    "retries",
    "first_wait",
    "longest_wait",
    "breaker_failures",
    "breaker_pause",
    "input_price",
    "cached_input_price",
    "output_price",
    "spend_cap",
    "spend_period",
];
/// Largest file with a key, bytes.
const MAX_KEY_FILE: u64 = 64 * 1024;

/// Reads one table; problems are collected.
pub(super) struct TableReader<'a, 'given> {
    pub(super) reader: &'a mut Reader<'given>,
    pub(super) table: &'a Table,
    /// What the table is called in problems: `upstream`.
    pub(super) kind: &'static str,
    pub(super) sound: bool,
}

impl Reader<'_> {
    /// Models that are other servers.
    pub(super) fn upstreams(&mut self) -> Option<Vec<UpstreamConfig>> {
        let tables = self.raw.tables.clone();
        let mut all = Vec::new();
        let mut sound = true;
        for table in tables.iter().filter(|table| table.kind == "upstream") {
            let mut reader = TableReader { reader: self, table, kind: "upstream", sound: true };
            reader.check_keys(&KEYS);
            let read = reader.upstream();
            match read.filter(|_| reader.sound) {
                Some(upstream) => all.push(upstream),
                None => sound = false,
            }
        }
        sound.then_some(all)
    }

    /// Names that several models share.
    pub(super) fn failovers(&mut self) -> Option<Vec<FailoverConfig>> {
        let tables = self.raw.tables.clone();
        let mut all = Vec::new();
        let mut sound = true;
        for table in tables.iter().filter(|table| table.kind == "failover") {
            let mut reader = TableReader { reader: self, table, kind: "failover", sound: true };
            reader.check_keys(&["name", "models", "when_waiting"]);
            let name = reader.required("name", |text| Ok(text.to_owned()));
            let models = reader.list("models").unwrap_or_default();
            let when_waiting = reader.value("when_waiting", |text| number(text, 0, 1 << 20));
            if models.len() < 2 {
                reader.sound = false;
                reader.reader.raw.problem(&table.origin, "failover.models: a list of at least two models is right");
            }
            match name.filter(|_| reader.sound) {
                Some(name) => all.push(FailoverConfig { name, models, when_waiting, capability: None }),
                None => sound = false,
            }
        }
        let names: BTreeSet<&str> = all.iter().map(|chain: &FailoverConfig| chain.name.as_str()).collect();
        for (chain, table) in all.iter().zip(tables.iter().filter(|table| table.kind == "failover")) {
            if let Some(model) = chain.models.iter().find(|model| names.contains(model.as_str())) {
                let text = format!("failover.models: {model:?} is a name that several models share itself; models are right");
                self.raw.problem(&table.origin, text);
                sound = false;
            }
        }
        sound.then_some(all)
    }

    /// No two models have one name.
    pub(super) fn names_of_upstreams(&mut self, config: &Config) {
        let mut taken = BTreeSet::from([config.base_name(), HASH_EMBEDDING.to_owned()]);
        taken.extend(config.adapters.iter().chain(config.default_adapters()).map(|(name, _)| name.clone()));
        let tables = self.raw.tables.clone();
        for table in &tables {
            let Some(entry) = table.entries.iter().find(|entry| entry.key == "name") else { continue };
            let name = entry.values.first().cloned().unwrap_or_default();
            if let Err(error) = registry::check_name(&name, &[]) {
                self.raw.problem(&entry.origin, format!("{}.name = {name:?}: {error}", table.kind));
            } else if !taken.insert(name.clone()) {
                self.raw.problem(&entry.origin, format!("{}.name = {name:?}: another model has this name", table.kind));
            }
        }
    }
}

impl TableReader<'_, '_> {
    fn upstream(&mut self) -> Option<UpstreamConfig> {
        let name = self.required("name", |text| Ok(text.to_owned()));
        let address = self.required("address", |text| Address::anywhere(text).map_err(|error| error.to_string()));
        let model =
            self.required("model", |text| if text.is_empty() { Err("a name is right".to_owned()) } else { Ok(text.to_owned()) });
        let key = self.key();
        let endpoints = self.list("endpoints").map(|names| self.endpoints(&names)).unwrap_or_else(|| Endpoint::ALL.to_vec());
        let tenants = self.list("tenants");
        let context = self.value("context", |text| number(text, 1, 1 << 32));
        let parameters = self.list("parameters").unwrap_or_default();
        let refuses = self.list("refuses").unwrap_or_default();
        let at_once = self.value("at_once", |text| number(text, 1, 65_536)).unwrap_or(64);
        let usual = Times::default();
        let times = Times {
            connect: self.time("connect_timeout", usual.connect),
            first_event: self.time("first_event_timeout", usual.first_event),
            between_events: self.time("event_timeout", usual.between_events),
            whole: self.time("timeout", usual.whole),
        };
        let retries = self.value("retries", |text| number(text, 0, 100)).unwrap_or(2);
        let patience = Patience {
            retries: u32::try_from(retries).unwrap_or(u32::MAX),
            first_wait: self.time("first_wait", Duration::from_millis(250)),
        };
        let longest_wait = self.time("longest_wait", Duration::from_secs(5));
        let usual = Tolerance::default();
        let failures = self.value("breaker_failures", |text| number(text, 1, 1_000_000)).unwrap_or(usual.failures as usize);
        let tolerance =
            Tolerance { failures: u32::try_from(failures).unwrap_or(u32::MAX), pause: self.time("breaker_pause", usual.pause) };
        let name = name?;
        let price = self.price(&name);
        let cap = self.cap(price.is_some());
        let remote =
            RemoteSettings { name, address: address?, model: model?, key, times, patience, longest_wait, at_once, tolerance };
        Some(UpstreamConfig { remote, price, cap, tenants, endpoints, parameters, refuses, context })
    }

    /// The key itself is in a variable or in a file, never in the configuration.
    fn key(&mut self) -> Option<Key> {
        let (variable, file) = (self.entry("key_variable").cloned(), self.entry("key_file").cloned());
        match (variable, file) {
            (Some(entry), None) => {
                let name = entry.text();
                if name.starts_with(PREFIX) {
                    self.problem(&entry, &format!("variables that begin with {PREFIX} are settings; another name is right"));
                    return None;
                }
                let given = self.reader.given.variables.iter().find(|(known, _)| known.to_str() == Some(name));
                let value = given.and_then(|(_, value)| value.to_str()).filter(|value| !value.trim().is_empty()).map(Key::new);
                if value.is_none() {
                    self.problem(&entry, "this variable is not set, or is empty");
                }
                value
            }
            (None, Some(entry)) => {
                let typed = super::raw::Typed { values: entry.values.clone(), origin: entry.origin.clone() };
                let path = self.reader.path(&typed, entry.text());
                let read = crate::store::read_limited(&path, MAX_KEY_FILE).ok().and_then(|bytes| String::from_utf8(bytes).ok());
                let key = read.filter(|text| !text.trim().is_empty()).map(|text| Key::new(&text));
                if key.is_none() {
                    self.problem(&entry, "this file cannot be read, or is empty");
                }
                key
            }
            (Some(_), Some(entry)) => {
                self.problem(&entry, "there is `key_variable` already; one of them is right");
                None
            }
            (None, None) => None,
        }
    }

    fn endpoints(&mut self, names: &[String]) -> Vec<Endpoint> {
        let known = |name: &String| Endpoint::ALL.into_iter().find(|endpoint| endpoint.name() == name);
        let endpoints: Vec<Endpoint> = names.iter().filter_map(known).collect();
        if (endpoints.len() != names.len() || endpoints.is_empty())
            && let Some(entry) = self.entry("endpoints").cloned()
        {
            self.problem(&entry, "some of chat, completions and embeddings are right");
        }
        endpoints
    }

    fn price(&mut self, name: &str) -> Option<Price> {
        let input = self.value("input_price", dollars);
        let cached_input = self.value("cached_input_price", dollars);
        let output = self.value("output_price", dollars);
        if input.is_none() && cached_input.is_none() && output.is_none() {
            return None;
        }
        let (input, output) = (input.unwrap_or(0), output.unwrap_or(0));
        let cached_input = cached_input.unwrap_or(input);
        Some(Price { id: format!("upstream/{name}").into(), valid_from: 0, input, cached_input, output, training: 0 })
    }

    fn cap(&mut self, priced: bool) -> Option<Cap> {
        let period =
            self.value("spend_period", |text| Period::named(text).ok_or_else(|| "day, month or total is right".to_owned()));
        let nanos = self.value("spend_cap", dollars);
        match (nanos, self.entry("spend_cap").cloned(), self.entry("spend_period").cloned()) {
            (Some(_), Some(entry), _) if !priced => {
                self.problem(&entry, "without prices nothing is spent; `input_price` and `output_price` are missing");
                None
            }
            (Some(nanos), ..) => Some(Cap { period: period.unwrap_or(Period::Month), nanos }),
            (None, None, Some(entry)) => {
                self.problem(&entry, "there is no `spend_cap` that it could be about");
                None
            }
            (None, ..) => None,
        }
    }
}

/// What tables of every kind need.
impl TableReader<'_, '_> {
    pub(super) fn check_keys(&mut self, keys: &[&str]) {
        for entry in &self.table.entries {
            if !keys.contains(&entry.key.as_str()) {
                let hint = nearest(&entry.key, keys.iter().copied()).map(|name| format!("; did you mean `{name}`?"));
                self.sound = false;
                let text = format!("`{}.{}` is not a setting{}", self.kind, entry.key, hint.unwrap_or_default());
                self.reader.raw.problem(&entry.origin, text);
            }
        }
    }

    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        self.table.entries.iter().find(|entry| entry.key == key)
    }

    pub(super) fn problem(&mut self, entry: &Entry, text: &str) {
        self.sound = false;
        // An address may hold a password.
        let shown = if entry.key == "address" { String::new() } else { format!(" = {:?}", entry.text()) };
        self.reader.raw.problem(&entry.origin, format!("{}.{}{shown}: {text}", self.kind, entry.key));
    }

    pub(super) fn value<T>(&mut self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let entry = self.entry(key)?.clone();
        let value = if entry.is_list { Err("one value is right".to_owned()) } else { read(entry.text()) };
        value.map_err(|problem| self.problem(&entry, &problem)).ok()
    }

    pub(super) fn required<T>(&mut self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        if self.entry(key).is_none() {
            self.sound = false;
            let origin: Origin = self.table.origin.clone();
            self.reader.raw.problem(origin, format!("{}.{key} is missing", self.kind));
            return None;
        }
        self.value(key, read)
    }

    fn time(&mut self, key: &str, usual: Duration) -> Duration {
        let read = |text: &str| match duration(text)? {
            Duration::ZERO => Err("a time above 0 is right".to_owned()),
            time => Ok(time),
        };
        self.value(key, read).unwrap_or(usual)
    }

    pub(super) fn list(&mut self, key: &str) -> Option<Vec<String>> {
        let entry = self.entry(key)?.clone();
        if !entry.is_list {
            self.problem(&entry, "a list of strings is right");
        }
        Some(entry.values)
    }
}

pub(super) fn number(text: &str, least: usize, most: usize) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("a whole number from {least} to {most} is right"))
}

/// Dollars, to nano-dollars.
#[expect(clippy::cast_possible_truncation, reason = "at most a million dollars, which are 10^15")]
pub(super) fn dollars(text: &str) -> Result<i64, String> {
    let dollars = text.parse::<f64>().ok().filter(|dollars| (0.0..=1e6).contains(dollars));
    dollars.map(|dollars| (dollars * 1e9).round() as i64).ok_or_else(|| "dollars are right, like 0.15".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn money_is_exact() {
        assert_eq!(dollars("0.15"), Ok(150_000_000));
        assert_eq!(dollars("2"), Ok(2_000_000_000));
        assert!(dollars("-1").is_err() && dollars("much").is_err());
    }
}
