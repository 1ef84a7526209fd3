//! `switchyard quantize`: a base written as one GGUF file, with its tokenizer and chat template, in a smaller type.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Arg, ArgAction, ArgMatches, value_parser};

use crate::app::announce::say;
use crate::app::memory::human;
use crate::model::loader::quantize::quantize_checkpoint;
use crate::model::loader::{self, DType};

/// What `--type` takes.
const TYPES: [DType; 9] =
    [DType::Q4K, DType::Q8_0, DType::Q6K, DType::Q5K, DType::Q5_0, DType::Q4_0, DType::F16, DType::BF16, DType::F32];

/// What can be typed after the command.
pub(super) fn arguments() -> Vec<Arg> {
    let path = |id: &'static str, name: &'static str, help: &'static str| {
        Arg::new(id).value_name(name).required(true).value_parser(value_parser!(PathBuf)).help(help)
    };
    vec![
        path("in", "IN", "Hugging Face directory, or a GGUF file."),
        path("out", "OUT", "GGUF file to write; it comes into being whole or not at all."),
        Arg::new("type")
            .long("type")
            .value_name("TYPE")
            .required(true)
            .value_parser(TYPES.map(DType::name))
            .help("Type of the matrices. Vectors stay f32; the output matrix keeps at least q6_k."),
        Arg::new("force").long("force").action(ArgAction::SetTrue).help("Replace OUT if it exists."),
    ]
}

pub(super) fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    let path = |id| matches.get_one::<PathBuf>(id).cloned().context("a path is missing");
    let (from, to) = (path("in")?, path("out")?);
    let wanted = matches.get_one::<String>("type").context("--type is missing")?;
    let dtype = TYPES.into_iter().find(|dtype| dtype.name() == wanted).context("--type is none of the known types")?;
    if to.exists() {
        if !matches.get_flag("force") {
            bail!("{} exists; --force replaces it", to.display());
        }
        if from.canonicalize()? == to.canonicalize()? {
            bail!("OUT is IN ({}); write to another file", to.display());
        }
    }
    let checkpoint = loader::open(&from).with_context(|| format!("cannot read the base {}", from.display()))?;
    let report = quantize_checkpoint(&checkpoint, &to, dtype).with_context(|| format!("cannot write {}", to.display()))?;
    let types: Vec<String> = report.types.iter().map(|(name, bytes)| format!("{name} {}", human(*bytes))).collect();
    say(&format!("{}: {} ({})\n", to.display(), human(report.bytes), types.join(", ")));
    for fallback in &report.fallbacks {
        say(&format!("  {} is {}: rows of {} do not fit {dtype}\n", fallback.tensor, fallback.used, fallback.cols));
    }
    report.notes.iter().for_each(|note| say(&format!("  note: {note}\n")));
    Ok(())
}
