//! `switchyard cost`: what a million tokens cost on a machine, from measured speeds.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::app::announce::say;
use crate::bench::Adapters;
use crate::bench::cost::{self, Capability, Machine, Speeds, Wanted};

pub(super) fn command() -> Command {
    let number = |id: &'static str, value: &'static str| {
        Arg::new(id).long(id).value_name(value).value_parser(value_parser!(f64)).allow_negative_numbers(true)
    };
    let speed = |id: &'static str, help: &'static str| number(id, "TOKENS/S").help(help);
    Command::new("cost").about("What a million tokens cost on a machine, from measured speeds and the machine's price").args([
        number("hourly", "USD").required(true).help("What the machine costs an hour."),
        number("busy", "PERCENT").default_value("100").help("How much of the time it does what was measured."),
        Arg::new("bench")
            .long("bench")
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .action(ArgAction::Append)
            .help("Speeds: what `bench --json` or `bench --train --json` has printed on it. May be repeated."),
        Arg::new("batch")
            .long("batch")
            .value_name("N")
            .value_parser(value_parser!(u64).range(1..))
            .help("Of the file, the decoding of so many sequences. [default: the most that were measured]"),
        Arg::new("adapters")
            .long("adapters")
            .value_name("WHICH")
            .value_parser(["base", "one", "different"])
            .default_value("base")
            .help("Of the file, with these adapters: none, all the same one, each its own."),
        speed("prefill", "Prompt tokens per second. Goes before the file, as the others do."),
        speed("decode", "Generated tokens per second, of all sequences together."),
        speed("cached", "Prompt tokens per second whose computation is reused."),
        speed("training", "Trained tokens per second."),
        Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print JSON instead of a table."),
    ])
}

pub(super) fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    let number = |id: &str| matches.get_one::<f64>(id).copied();
    let adapters = match matches.get_one::<String>("adapters").map(String::as_str) {
        Some("one") => Adapters::One,
        Some("different") => Adapters::Different,
        _ => Adapters::Base,
    };
    let wanted = Wanted { batch: matches.get_one("batch").copied(), adapters };
    let mut speeds = Speeds::default();
    for path in matches.get_many::<PathBuf>("bench").into_iter().flatten() {
        let named = || format!("--bench {}", path.display());
        let report = serde_json::from_slice(&std::fs::read(path).with_context(named)?).with_context(named)?;
        let measured = cost::speeds(&report, wanted).with_context(named)?;
        for capability in Capability::ALL {
            if let Some(speed) = measured.of(capability) {
                speeds.set(capability, speed);
            }
        }
    }
    for capability in Capability::ALL {
        if let Some(speed) = number(capability.name()) {
            speeds.set(capability, speed);
        }
    }
    if Capability::ALL.iter().all(|capability| speeds.of(*capability).is_none()) {
        bail!("there is no speed: --bench FILE, or --prefill, --decode, --cached, --training, are right");
    }
    let machine = Machine {
        usd_per_hour: number("hourly").context("--hourly is missing")?,
        busy: number("busy").context("--busy is missing")? / 100.0,
    };
    let sheet = cost::sheet(machine, &speeds)?;
    say(&if matches.get_flag("json") { serde_json::to_string_pretty(&sheet)? + "\n" } else { sheet.to_string() });
    Ok(())
}
