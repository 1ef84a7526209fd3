//! `switchyard dataset`: files of examples, without a server.

use clap::{ArgMatches, Command};

use super::{dataset_check, generate};

pub(super) fn command() -> Command {
    Command::new("dataset")
        .about("Files of examples to learn from")
        .subcommand_required(true)
        .subcommand(dataset_check::command())
        .subcommand(generate::generate_command())
        .subcommand(generate::corrupt_command())
}

/// `key` is the teacher's, from the environment.
pub(super) fn run(matches: &ArgMatches, key: Option<&str>) -> anyhow::Result<()> {
    match matches.subcommand() {
        Some(("generate", matches)) => generate::run_generate(matches, key),
        Some(("corrupt", matches)) => generate::run_corrupt(matches),
        _ => Ok(()),
    }
}
