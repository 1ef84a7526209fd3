//! `switchyard bench`: loads the configured base, or makes a random one, and prints what `crate::bench` measures.

use anyhow::{Context, bail};
use clap::{Arg, ArgAction, ArgMatches};

use crate::app;
use crate::app::announce::say;
use crate::bench::{self, BesideOptions, Options, TrainOptions};
use crate::config::{Config, Given, Quant};
use crate::model::loader::DType;
use crate::model::random::{self, Mix};
use crate::model::{Model, ModelConfig, native};
use crate::training::trainer::ComputeType;

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
        Arg::new("shape")
            .long("shape")
            .value_name("SHAPE")
            .value_parser(random::SHAPES)
            .conflicts_with("model")
            .help("Measure random weights of a well-known shape instead of a base; --quant auto makes Q4_K_M of them."),
        number("vocab", "Vocabulary of the random base.", 32_000),
        Arg::new("train")
            .long("train")
            .action(ArgAction::SetTrue)
            .help("Measure training instead of serving; --rank says of what rank."),
        Arg::new("beside")
            .long("beside")
            .action(ArgAction::SetTrue)
            .conflicts_with("train")
            .help("Measure serving beside a training job, and the job beside serving."),
        number("seconds", "Length of each measurement of --beside.", 10),
        number("train-rows", "Rows of a training step.", 2),
        number("train-tokens", "Tokens of a row.", 512),
        number("train-steps", "Steps that are measured.", 5),
        Arg::new("train-compute")
            .long("train-compute")
            .value_name("TYPE")
            .value_parser(["auto", "f32", "int8"])
            .default_value("auto")
            .help("Type of the products with the base."),
        Arg::new("train-checkpointing")
            .long("train-checkpointing")
            .action(ArgAction::SetTrue)
            .help("Keep the layers' inputs alone and compute the rest again."),
        Arg::new("profile")
            .long("profile")
            .action(ArgAction::SetTrue)
            .conflicts_with_all(["train", "beside"])
            .help("Say beside each figure where the time goes."),
        Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print JSON instead of a table."),
    ]
}

/// Random weights need no base: the setting holds a path that is never opened, so that a missing bundled one is no error.
pub(super) fn settle_base(matches: &ArgMatches, given: &mut Given) {
    if matches.contains_id("shape") {
        given.flags.push(("model", vec![".".to_owned()]));
    }
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
    options.profile = matches.get_flag("profile");
    let (name, mut model) = match matches.get_one::<String>("shape") {
        Some(shape) => (format!("{shape}, random"), random_base(shape, matches, config)?),
        None => {
            let base = app::load_base(config)?;
            (base.name, base.model)
        }
    };
    if matches.get_flag("train") {
        return train(&name, model, matches, config);
    }
    if matches.get_flag("beside") {
        let job = train_options(model.config(), matches, config);
        let beside = BesideOptions {
            job,
            rounds: options.rounds,
            seconds: matches.get_one::<u32>("seconds").map_or(10, |seconds| u64::from(*seconds)),
            prompt: 64,
            answer: 32,
            streams: 1,
            slice_ms: 5,
        };
        let report = bench::beside(&name, model, &beside)?;
        say(&if matches.get_flag("json") { serde_json::to_string_pretty(&report)? + "\n" } else { report.to_string() });
        return Ok(());
    }
    let context = model.config().context_length;
    let longest = options.prefill_tokens.max(options.context_tokens + options.decode_steps);
    if longest > context {
        bail!(
            "the base has a context of {context} tokens; --prefill-tokens or --context-tokens with --decode-steps need {longest}"
        );
    }
    let report = bench::run(&name, &mut *model, &options)?;
    if matches.get_flag("json") {
        say(&(serde_json::to_string_pretty(&report)? + "\n"));
    } else {
        say(&format!("{}\n", report.to_string().trim_end()));
    }
    Ok(())
}

fn train_options(model: &ModelConfig, matches: &ArgMatches, config: &Config) -> TrainOptions {
    let number = |id: &str, default: usize| matches.get_one::<u32>(id).map_or(default, |number| *number as usize);
    let compute = match matches.get_one::<String>("train-compute").map(String::as_str) {
        Some("f32") => ComputeType::F32,
        Some("int8") => ComputeType::Int8,
        _ => ComputeType::Auto,
    };
    TrainOptions {
        rows: number("train-rows", 2),
        tokens: number("train-tokens", 512),
        rank: number("rank", 16),
        steps: number("train-steps", 5),
        compute,
        checkpointing: matches.get_flag("train-checkpointing"),
        threads: app::load_options(config, model).threads,
    }
}

/// Measures training on the base, whose serving side is given up first.
fn train(name: &str, model: Box<dyn Model>, matches: &ArgMatches, config: &Config) -> anyhow::Result<()> {
    let options = train_options(model.config(), matches, config);
    if let Some(reason) = model.config().anatomy().untrainable {
        anyhow::bail!("no training: {reason}");
    }
    let base = model.training_base().context("training runs on the CPU only")?;
    drop(model);
    let report = bench::train(name, base, &options)?;
    say(&if matches.get_flag("json") { serde_json::to_string_pretty(&report)? + "\n" } else { report.to_string() });
    Ok(())
}

fn random_base(shape: &str, matches: &ArgMatches, config: &Config) -> anyhow::Result<Box<dyn Model>> {
    let mix = match config.quant {
        Quant::Auto => Mix::Q4KM,
        Quant::None => Mix::Uniform(DType::F32),
        Quant::Q8_0 => Mix::Uniform(DType::Q8_0),
        Quant::Q6K => Mix::Uniform(DType::Q6K),
        Quant::Q4K => Mix::Uniform(DType::Q4K),
    };
    let mut base = random::shape(shape).context("--shape is none of the known shapes")?;
    if let Some(vocabulary) = matches.get_one::<u32>("vocab") {
        base.vocab_size = *vocabulary as usize;
    }
    let tensors = random::tensors(&base, mix, 1)?;
    Ok(native::load(&base, &tensors, app::load_options(config, &base))?)
}
