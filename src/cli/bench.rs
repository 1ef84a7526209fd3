//! `switchyard bench`: loads the configured base and prints what `crate::bench` measures.

use anyhow::bail;
use clap::{Arg, ArgAction, ArgMatches};

use crate::app;
use crate::app::announce::say;
use crate::bench::{self, Options};
use crate::config::Config;

/// Arguments beside the settings of the base.
pub(super) fn arguments() -> Vec<Arg> {
    let default = Options::default();
    let number = |id: &'static str, help: &'static str, default: usize| {
        let arg = Arg::new(id).long(id).value_name("N").value_parser(clap::value_parser!(u32).range(1..=1 << 20));
        arg.help(format!("{help} [default: {default}]"))
    };
    let batches: Vec<String> = default.batches.iter().map(usize::to_string).collect();
    vec![
        Arg::new("batches")
            .long("batches")
            .value_name("N,N,..")
            .value_delimiter(',')
            .value_parser(clap::value_parser!(u32).range(1..=4096))
            .help(format!("Sequences that decode, and prompts that prefill, together. [default: {}]", batches.join(","))),
        number("prefill-tokens", "Tokens of a prefill, of all its prompts together.", default.prefill_tokens),
        number("context-tokens", "Tokens before each decoded one.", default.context_tokens),
        number("decode-steps", "Decode steps of a round.", default.decode_steps),
        number("rounds", "Rounds; the median is reported.", default.rounds),
        number("step-tokens", "Most tokens of one step.", default.step_tokens),
        number("rank", "Rank of the random adapters, on all linear layers.", default.rank),
        Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print JSON instead of a table."),
    ]
}

pub(super) fn run(matches: &ArgMatches, config: &Config) -> anyhow::Result<()> {
    let mut options = Options::default();
    if let Some(batches) = matches.get_many::<u32>("batches") {
        options.batches = batches.map(|batch| *batch as usize).collect();
    }
    for (id, option) in [
        ("prefill-tokens", &mut options.prefill_tokens),
        ("context-tokens", &mut options.context_tokens),
        ("decode-steps", &mut options.decode_steps),
        ("rounds", &mut options.rounds),
        ("step-tokens", &mut options.step_tokens),
        ("rank", &mut options.rank),
    ] {
        if let Some(number) = matches.get_one::<u32>(id) {
            *option = *number as usize;
        }
    }
    let mut base = app::load_base(config)?;
    let context = base.checkpoint.config.context_length;
    let longest = options.prefill_tokens.max(options.context_tokens + options.decode_steps);
    if longest > context {
        bail!(
            "the base has a context of {context} tokens; --prefill-tokens or --context-tokens with --decode-steps need {longest}"
        );
    }
    let report = bench::run(&base.name, &mut *base.model, &options)?;
    if matches.get_flag("json") {
        say(&(serde_json::to_string_pretty(&report)? + "\n"));
    } else {
        say(&format!("{}\n", report.to_string().trim_end()));
    }
    Ok(())
}
