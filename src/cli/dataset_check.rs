//! `switchyard dataset check`: the report on a file of examples, and a cleaned copy of it.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use time::OffsetDateTime;

use super::arguments::base_flags;
use crate::app::announce::say;
use crate::app::base;
use crate::config::Config;
use crate::training::dataset::render::Renderer;
use crate::training::dataset::report::RowScore;
use crate::training::dataset::split::USUAL_SHARE;
use crate::training::dataset::{Checking, Fix, NearDuplicates, Options, Reader, check};

const EXAMPLES: &str = "\
Examples:
  switchyard dataset check rows.jsonl
      What is in it, what is wrong with it, line by line; exit code 1 where training would refuse it.
  switchyard dataset check faq.csv --map prompt=question,completion=reply --fix clean.jsonl
      A table whose columns are named, and a cleaned copy as chat JSONL.
  switchyard dataset check advice.json --least-quality 3
      A BrightRun file, without pairs of a quality score under 3.";

pub(super) fn command() -> Command {
    let path = |name: &'static str| Arg::new(name).long(name).value_name("FILE").value_parser(value_parser!(PathBuf));
    let formats = Options::formats();
    Command::new("check")
        .about("What a file of examples is worth: format, missing and repeated rows, lengths, languages, split")
        .after_help(EXAMPLES)
        .args([
            Arg::new("file").value_name("FILE").required(true).value_parser(value_parser!(PathBuf)).help(
                "JSONL, a JSON document, CSV, TSV or Parquet; chat, preference, prompt and completion, Alpaca, ShareGPT or BrightRun.",
            ),
            Arg::new("format").long("format").value_name("FORMAT").value_parser(formats).help("Its format. [default: found]"),
            Arg::new("map").long("map").value_name("FIELD=COLUMN,..").help(
                "Which column is what: prompt, completion, system, input, messages, history, chosen, rejected, conversation. \
                 [default: found]",
            ),
            path("fix").help("Write a cleaned copy as JSONL."),
            Arg::new("drop-near")
                .long("drop-near")
                .action(ArgAction::SetTrue)
                .requires("fix")
                .help("Leave rows that were nearly there before out of the copy."),
            path("validation").help("Rows to judge by; it is looked at for rows that are known from FILE."),
            Arg::new("least-quality")
                .long("least-quality")
                .value_name("SCORE")
                .value_parser(value_parser!(f64))
                .help("Pass over rows that say a quality_score under this."),
            Arg::new("context").long("context").value_name("TOKENS").value_parser(value_parser!(u32).range(1..)).help(
                "Tokens of a row beyond which it is cut off. [default: the base's]",
            ),
            Arg::new("held-out")
                .long("held-out")
                .value_name("SHARE")
                .value_parser(value_parser!(f64))
                .help(format!("Share of the rows to judge by. [default: {USUAL_SHARE}]")),
            Arg::new("seed").long("seed").value_name("N").value_parser(value_parser!(u64)).help("Seed of the split. [default: 0]"),
            path("scores").help("Write the score of each row as CSV."),
            Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print JSON."),
        ])
        .args(base_flags())
}

pub(super) fn run(matches: &ArgMatches, config: &Config) -> anyhow::Result<()> {
    let path = |name: &str| matches.get_one::<PathBuf>(name);
    let file = path("file").context("FILE is missing")?;
    let mut options = Options { least_quality: matches.get_one::<f64>("least-quality").copied(), ..Options::default() };
    if let Some(format) = matches.get_one::<String>("format") {
        options.set_format(format)?;
    }
    options.mapping = matches.get_one::<String>("map").map(|text| text.parse()).transpose()?;
    let share = matches.get_one::<f64>("held-out").copied().unwrap_or(USUAL_SHARE);
    if !(0.0..1.0).contains(&share) {
        bail!("--held-out {share}: it must be from 0 to less than 1");
    }
    if let Some(to) = path("fix")
        && to.exists()
        && to.canonicalize()? == file.canonicalize()?
    {
        bail!("--fix would replace FILE ({}); write to another file", to.display());
    }
    let reader = Reader::open(file, &options).with_context(|| format!("{} is no dataset", file.display()))?;
    let validation =
        path("validation").map(|path| Reader::open(path, &options).with_context(|| format!("{} is no dataset", path.display())));
    let base = base::open(config)?.checkpoint;
    let context = matches.get_one::<u32>("context").map_or(base.config.context_length, |context| *context as usize);
    let renderer = Renderer::of(&base, context, OffsetDateTime::now_utc())?;
    let mut scores = path("scores").map(File::create).transpose().context("--scores")?.map(BufWriter::new);
    let mut failed = scores.as_mut().and_then(|scores| writeln!(scores, "line,score,reasons").err());
    let mut each = |row: &RowScore| {
        if let (Some(scores), None) = (&mut scores, &failed) {
            failed = writeln!(scores, "{},{},{}", row.line, row.score, row.reasons.join("; ")).err();
        }
    };
    let near_duplicates = if matches.get_flag("drop-near") { NearDuplicates::Drop } else { NearDuplicates::Keep };
    let checking = Checking {
        renderer: Some(&renderer),
        validation: validation.transpose()?,
        held_out: share,
        seed: matches.get_one::<u64>("seed").copied().unwrap_or(0),
        fix: path("fix").map(|path| Fix { path, near_duplicates }),
        each: Some(&mut each),
        stop: None,
    };
    let report = check(reader, checking)?;
    let written = scores.map_or(Ok(()), |mut scores| scores.flush());
    failed.map_or(written, Err).context("cannot write --scores")?;
    if matches.get_flag("json") {
        say(&(serde_json::to_string_pretty(&report)? + "\n"));
    } else {
        say(&report.text(&file.display().to_string()));
    }
    if report.has_errors() {
        bail!("{} has rows that training refuses", file.display());
    }
    Ok(())
}
