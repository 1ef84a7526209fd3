//! `[[capability]]` tables of the configuration file: a name for something that models can do, with the models here that do it
//! (students), the upstreams that can do it, too (teachers), which come first, and what the teachers' answers may cost.

use std::collections::BTreeSet;

use super::meaning::Reader;
use super::raw::Table;
use super::upstreams::{TableReader, dollars, number};
use super::{CapabilityConfig, FailoverConfig, UpstreamConfig};
use crate::tenants::{Cap, Period};

/// Keys of a `[[capability]]` table.
const KEYS: [&str; 7] = ["name", "students", "teachers", "order", "when_waiting", "budget", "budget_period"];

/// Who is asked first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    StudentsFirst,
    TeachersFirst,
}

impl Reader<'_> {
    /// Capabilities, as names that several models share.
    pub(super) fn capabilities(&mut self, upstreams: &[UpstreamConfig]) -> Option<Vec<FailoverConfig>> {
        let tables = self.raw.tables.clone();
        // Whatever is asked under them is asked of several.
        let of = |kind| tables.iter().filter(move |table: &&Table| table.kind == kind);
        let name = |table: &Table| table.entries.iter().find(|entry| entry.key == "name").map(|entry| entry.text().to_owned());
        let shared: BTreeSet<String> = of("capability").chain(of("failover")).filter_map(name).collect();
        let mut all = Vec::new();
        let mut sound = true;
        for table in of("capability") {
            let mut reader = TableReader { reader: self, table, kind: "capability", sound: true };
            reader.check_keys(&KEYS);
            let read = reader.capability(upstreams, &shared);
            match read.filter(|_| reader.sound) {
                Some(capability) => all.push(capability),
                None => sound = false,
            }
        }
        let capabilities: BTreeSet<String> = of("capability").filter_map(name).collect();
        for entry in of("failover").flat_map(|table| &table.entries).filter(|entry| entry.key == "models") {
            if let Some(model) = entry.values.iter().find(|model| capabilities.contains(*model)) {
                self.raw.problem(&entry.origin, format!("failover.models: {model:?} is a capability; models are right"));
                sound = false;
            }
        }
        sound.then_some(all)
    }
}

impl TableReader<'_, '_> {
    fn capability(&mut self, upstreams: &[UpstreamConfig], shared: &BTreeSet<String>) -> Option<FailoverConfig> {
        let name = self.required("name", |text| Ok(text.to_owned()));
        let students = self.list("students").unwrap_or_default();
        let teachers = self.list("teachers").unwrap_or_default();
        if students.is_empty() && teachers.is_empty() {
            self.sound = false;
            let text = "capability.students: at least one student or teacher is right";
            self.reader.raw.problem(&self.table.origin, text);
        }
        let upstream = |name: &str| upstreams.iter().find(|upstream| upstream.remote.name == name);
        let twice = |names: &[String], at: usize| names[..at].contains(&names[at]);
        for (at, student) in students.iter().enumerate() {
            let problem = if upstream(student).is_some() {
                "is an upstream; those are teachers"
            } else if shared.contains(student) {
                "is a name that several models share itself; models are right"
            } else if twice(&students, at) {
                "is there twice"
            } else {
                continue;
            };
            self.about("students", student, problem);
        }
        let budget = self.budget();
        for (at, teacher) in teachers.iter().enumerate() {
            let problem = match upstream(teacher) {
                None => "is no [[upstream]]; those are teachers",
                Some(upstream) if budget.is_some() && upstream.price.is_none() => {
                    "has no prices; without `input_price` and `output_price` of its [[upstream]] no budget can hold"
                }
                Some(_) if twice(&teachers, at) => "is there twice",
                Some(_) => continue,
            };
            self.about("teachers", teacher, problem);
        }
        if let (Some(_), true, Some(entry)) = (budget, teachers.is_empty(), self.entry("budget").cloned()) {
            self.problem(&entry, "it is what teachers may cost, and there are none");
        }
        let order = self.value("order", |text| match text {
            "students-first" => Ok(Order::StudentsFirst),
            "teachers-first" => Ok(Order::TeachersFirst),
            _ => Err("students-first or teachers-first is right".to_owned()),
        });
        let when_waiting = self.value("when_waiting", |text| number(text, 0, 1 << 20));
        let models = match order.unwrap_or(Order::StudentsFirst) {
            Order::StudentsFirst => [students, teachers].concat(),
            Order::TeachersFirst => [teachers, students].concat(),
        };
        Some(FailoverConfig { name: name?, models, when_waiting, capability: Some(CapabilityConfig { budget }) })
    }

    fn budget(&mut self) -> Option<Cap> {
        let period =
            self.value("budget_period", |text| Period::named(text).ok_or_else(|| "day, month or total is right".to_owned()));
        let nanos = self.value("budget", dollars);
        if let (None, Some(entry)) = (self.entry("budget"), self.entry("budget_period").cloned()) {
            self.problem(&entry, "there is no `budget` that it could be about");
        }
        nanos.map(|nanos| Cap { period: period.unwrap_or(Period::Month), nanos })
    }

    /// A problem with one of a list.
    fn about(&mut self, key: &str, name: &str, problem: &str) {
        self.sound = false;
        let origin = self.entry(key).map_or(&self.table.origin, |entry| &entry.origin).clone();
        self.reader.raw.problem(origin, format!("capability.{key}: {name:?} {problem}"));
    }
}
