//! The command line: what can be typed, and which part of the house does it.
//!
//! Exit codes: 0 done, 1 failed, 64 the configuration or the command line is wrong (`EX_USAGE` of sysexits).

mod adapters;
mod arguments;
mod bench;
mod cost;
mod dataset;
mod dataset_check;
mod dates;
mod eval;
mod generate;
mod health;
mod keys;
mod prices;
mod quantize;
mod repeat;
mod teacher;
mod tenants;
mod train;
mod train_run;
mod usage;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::ArgMatches;

use crate::app;
use crate::app::announce::say;
use crate::config::{API_KEY_VARIABLE, Config, Given, Problems, StateConfig, TEACHER_KEY_VARIABLE};
use crate::store::{DataDir, StoreError};
use crate::telemetry;

/// `EX_USAGE`.
const BAD_CONFIGURATION: u8 = 64;

/// Why a command did not succeed.
enum Failure {
    /// Wrong configuration.
    Config(Problems),
    /// Anything else.
    Other(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

/// Runs a command line in an environment.
pub fn run(arguments: impl IntoIterator<Item = OsString>, environment: Vec<(OsString, OsString)>) -> ExitCode {
    let matches = match arguments::command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => {
            // Help and version are no errors for clap's printer; a closed pipe is none for us.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(BAD_CONFIGURATION) } else { ExitCode::SUCCESS };
        }
    };
    // Before anybody makes a client: a build may have two libraries to choose from.
    crate::outbound::install_tls();
    let outcome = dispatch(&matches, environment);
    telemetry::flush();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Config(problems)) => {
            complain("the configuration cannot be used:");
            problems.0.iter().for_each(|problem| complain(&format!("  {problem}")));
            ExitCode::from(BAD_CONFIGURATION)
        }
        Err(Failure::Other(error)) => {
            complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(matches: &ArgMatches, environment: Vec<(OsString, OsString)>) -> Result<(), Failure> {
    let Some((name, matches)) = matches.subcommand() else { return Ok(()) };
    match name {
        "serve" => Ok(serve(config(matches, environment)?)?),
        "check-config" => check_config(matches, environment),
        "bench" => {
            let mut given = arguments::given(matches, environment);
            bench::settle_base(matches, &mut given);
            Ok(bench::run(matches, &resolved(&given)?)?)
        }
        "dataset" if matches.subcommand_name() == Some("check") => {
            let matches = innermost(matches);
            Ok(dataset_check::run(matches, &config(matches, environment)?)?)
        }
        "dataset" => Ok(dataset::run(matches, variable(&environment, TEACHER_KEY_VARIABLE))?),
        "eval" => {
            let key = variable(&environment, TEACHER_KEY_VARIABLE).map(str::to_owned);
            Ok(eval::run(matches, &config(matches, environment)?, key.as_deref())?)
        }
        "train" => Ok(train::run(matches, &config(matches, environment)?)?),
        "quantize" => Ok(quantize::run(matches)?),
        "cost" => Ok(cost::run(matches)?),
        "health" => Ok(health::run(matches)?),
        "keys" => Ok(keys::run(matches, &state_config(innermost(matches), environment)?)?),
        "prices" => Ok(prices::run(matches, &state_config(innermost(matches), environment)?)?),
        "tenants" => Ok(tenants::run(matches, &state_config(innermost(matches), environment)?)?),
        "usage" => Ok(usage::run(matches, &state_config(innermost(matches), environment)?)?),
        "adapters" => match matches.subcommand() {
            Some(("list", matches)) => Ok(adapters::list(&state_config(matches, environment)?)?),
            Some(("push", matches)) => Ok(adapters::push(matches, variable(&environment, API_KEY_VARIABLE))?),
            Some(("remove", matches)) => Ok(adapters::remove(matches, &state_config(matches, environment)?)?),
            Some(("add", matches)) => Ok(adapters::add(matches, &config(matches, environment)?)?),
            Some(("inspect", matches)) => Ok(adapters::inspect(matches, &config(matches, environment)?)?),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

fn variable<'a>(environment: &'a [(OsString, OsString)], name: &str) -> Option<&'a str> {
    environment.iter().find(|(key, _)| key == name).and_then(|(_, value)| value.to_str())
}

/// The arguments of the last subcommand.
fn innermost(matches: &ArgMatches) -> &ArgMatches {
    matches.subcommand().map_or(matches, |(_, inner)| innermost(inner))
}

fn config(matches: &ArgMatches, environment: Vec<(OsString, OsString)>) -> Result<Config, Failure> {
    resolved(&arguments::given(matches, environment))
}

fn resolved(given: &Given) -> Result<Config, Failure> {
    let config = Config::resolve(given).map_err(Failure::Config)?;
    telemetry::start(&config.log);
    Ok(config)
}

fn state_config(matches: &ArgMatches, environment: Vec<(OsString, OsString)>) -> Result<StateConfig, Failure> {
    let config = StateConfig::resolve(&arguments::given(matches, environment)).map_err(Failure::Config)?;
    telemetry::start(&config.log);
    Ok(config)
}

fn serve(config: Config) -> anyhow::Result<()> {
    if let Some(address) = &config.otlp_endpoint {
        telemetry::traces::export(address.clone())?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    let outcome = runtime.block_on(Box::pin(app::serve(config)));
    // Work on blocking threads (a download, an adapter being read) must not hold the end up.
    runtime.shutdown_background();
    outcome
}

fn check_config(matches: &ArgMatches, environment: Vec<(OsString, OsString)>) -> Result<(), Failure> {
    let given: Given = arguments::given(matches, environment);
    let (_, lines) = Config::explain(&given).map_err(Failure::Config)?;
    say(&(lines.join("\n") + "\n\nno problems\n"));
    Ok(())
}

/// Opens the data directory for a command that needs it to itself.
fn open_data(path: &Path, advice: &str) -> anyhow::Result<DataDir> {
    DataDir::open(path).map_err(|error| match error {
        StoreError::InUse { .. } => anyhow::anyhow!("{error}; {advice}"),
        other => other.into(),
    })
}

/// Writes a line to standard error.
fn complain(text: &str) {
    // Nobody is left to tell if this fails.
    let _ = writeln!(std::io::stderr(), "{text}");
}
