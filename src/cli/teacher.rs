//! Flags of commands that ask another server, and the client made of them.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Arg, ArgMatches, value_parser};

use crate::backends::upstream::{Key, Patience, Settings, Teacher, Upstream};
use crate::config::TEACHER_KEY_VARIABLE;
use crate::outbound::Address;

/// Longest key file that is read, bytes.
const MAX_KEY: usize = 16 << 10;

/// What the flags of a command are called: `--teacher`, `--teacher-model` ...
pub(super) struct Names {
    /// The address.
    pub(super) server: &'static str,
    /// The model.
    pub(super) model: &'static str,
    /// The file with the key.
    pub(super) key_file: &'static str,
    /// Seconds for one answer.
    pub(super) timeout: &'static str,
}

impl Names {
    pub(super) fn arguments(&self, what: &str) -> Vec<Arg> {
        let flag = |id: &'static str, value: &'static str| Arg::new(id).long(id).value_name(value);
        vec![
            flag(self.server, "URL").help(format!("{what}: where an OpenAI-compatible API begins, like https://example.com/v1.")),
            flag(self.model, "NAME").help("The model to ask there."),
            flag(self.key_file, "FILE")
                .value_parser(value_parser!(PathBuf))
                .help(format!("File with the key for it; without one the key is in {TEACHER_KEY_VARIABLE}, if it needs any.")),
            flag(self.timeout, "SECONDS")
                .value_parser(value_parser!(u64).range(1..=3600))
                .default_value("120")
                .help("Longest time for one answer."),
        ]
    }

    /// The client; `None` where no server is named.
    pub(super) fn upstream(&self, matches: &ArgMatches, key: Option<&str>) -> anyhow::Result<Option<Upstream>> {
        let Some(server) = matches.get_one::<String>(self.server) else { return Ok(None) };
        let address = Address::anywhere(server).with_context(|| format!("--{} {server:?}", self.server))?;
        let Some(model) = self.model(matches) else { bail!("--{} is missing: the name of a model of {address}", self.model) };
        let key = match matches.get_one::<PathBuf>(self.key_file) {
            Some(path) => {
                let bytes = crate::store::read_limited(path, MAX_KEY as u64)
                    .with_context(|| format!("--{} {}", self.key_file, path.display()))?;
                Some(Key::new(&String::from_utf8(bytes).with_context(|| format!("{} is no text", path.display()))?))
            }
            None => key.map(Key::new),
        };
        let seconds = matches.get_one::<u64>(self.timeout).copied().unwrap_or(120);
        let (timeout, patience) = (Duration::from_secs(seconds), Patience::default());
        Ok(Some(Upstream::new(Settings { address, model, key, timeout, patience })?))
    }

    pub(super) fn model(&self, matches: &ArgMatches) -> Option<String> {
        matches.get_one::<String>(self.model).cloned()
    }

    /// The client as it is, without a recording.
    pub(super) fn teacher(&self, matches: &ArgMatches, key: Option<&str>) -> anyhow::Result<Option<Teacher>> {
        Ok(self.upstream(matches, key)?.map(Teacher::Live))
    }
}
