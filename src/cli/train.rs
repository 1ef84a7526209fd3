//! `switchyard train`: a file of examples to an adapter, without a server; or, with `--plan`, what that would take.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, value_parser};
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::repeat::{self, Named, Repeat};
use super::train_run::{self, Task};
use crate::app::announce::say;
use crate::app::{self, LoadedBase};
use crate::config::Config;
use crate::model::config::LinearSite;
use crate::model::lora::peft;
use crate::model::train::TrainingBase;
use crate::training::dataset::render::{Parts, Rendered, Renderer};
use crate::training::dataset::{Loaded, Loading, NEVER, Options, load, split, tokenized};
use crate::training::idle::Gate;
use crate::training::plan::{self, Facts, Keeping, Limits, Plan, Rows, Speed, Wishes};
use crate::training::run_record::Data;
use crate::training::trainer::{self, Drive, Lineage, Made, Method, Origin, STATE_FILE, Settings, Start, memory_of_run, probe};

/// Beta of preferences where none is given: the usual one of the method's authors.
const BETA: f32 = 0.1;

pub(super) fn arguments() -> Vec<Arg> {
    let path = |id: &'static str, name: &'static str| Arg::new(id).value_name(name).value_parser(value_parser!(PathBuf));
    vec![
        path("data", "DATA")
            .required_unless_present("repeat")
            .help("File of examples, in any format that `dataset check` knows. With --repeat only where it is not found by its digest."),
        path("repeat", "RUN_JSON")
            .long("repeat")
            .conflicts_with_all(["set", "method", "plan"])
            .help("Do the training of this record again, and say whether the same adapter comes of it."),
        path("validation", "FILE").long("validation").help("Rows to judge by; without it a fifth of the rows is held out."),
        path("out", "DIR").long("out").default_value("adapter").help(
            "Receives best/, last/, the record run.json and the state that a killed run goes on from; with --repeat usually `repeat`.",
        ),
        path("from", "PATH").long("from").help("PEFT directory to go on from, instead of a fresh adapter; the run's rank must be at least its."),
        Arg::new("method").long("method").value_parser(["supervised", "dpo"]).default_value("supervised").help("What is learnt from."),
        Arg::new("set").long("set").value_name("KEY=VALUE").action(ArgAction::Append).help(
            "A setting, before the rules that `--plan` explains: rank, alpha, rslora, dropout, targets, epochs, max_steps, batch_size, \
             accumulation, learning_rate, scheduler, warmup_ratio, weight_decay, betas, epsilon, max_grad_norm, lora_plus_ratio, seed, \
             shuffle, packing, context, checkpointing, compute, eval_every, patience.",
        ),
        Arg::new("save-seconds")
            .long("save-seconds")
            .value_name("N")
            .value_parser(value_parser!(u32))
            .default_value("60")
            .help("Time between two saved states that a killed run goes on from; 0 saves after every step."),
        Arg::new("plan").long("plan").action(ArgAction::SetTrue).help("Say what the run would take and why, and do nothing."),
        Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print JSON, a line for each thing that happens."),
    ]
}

/// The settings that were typed, as JSON.
fn typed(matches: &ArgMatches) -> anyhow::Result<Map<String, Value>> {
    let mut out = Map::new();
    for text in matches.get_many::<String>("set").into_iter().flatten() {
        let (key, value) = text.split_once('=').with_context(|| format!("--set {text}: KEY=VALUE is expected"))?;
        let value = match (key, serde_json::from_str(value)) {
            ("targets", Err(_)) if value == "all-linear" => serde_json::to_value(LinearSite::ALL)?,
            ("targets", Err(_)) => value.split(',').map(|name| Value::from(name.trim())).collect(),
            (_, Ok(value)) => value,
            (_, Err(_)) => Value::from(value),
        };
        out.insert(key.to_owned(), value);
    }
    Ok(out)
}

pub(super) fn run(matches: &ArgMatches, config: &Config) -> anyhow::Result<()> {
    let file = |id| matches.get_one::<PathBuf>(id).map(PathBuf::as_path);
    let repeat = file("repeat").map(|path| {
        let (training, validation, from) = (file("data"), file("validation"), file("from"));
        Repeat::read(path, &Named { training, validation, from, data_dir: &config.data_dir })
    });
    let repeat = repeat.transpose()?;
    let validation = repeat.as_ref().map_or(file("validation"), |repeat| repeat.validation.as_deref());
    let data = repeat.as_ref().map_or(file("data"), |repeat| Some(&repeat.training)).context("the file is missing")?;
    let out = match matches.value_source("out") {
        Some(ValueSource::DefaultValue) if repeat.is_some() => Path::new("repeat"),
        _ => file("out").context("--out is missing")?,
    };
    if repeat.is_some() && out.join(STATE_FILE).exists() {
        bail!(
            "{} holds a run already; a training is repeated from its beginning: name another directory with --out",
            out.display()
        );
    }
    let mut given = match &repeat {
        Some(repeat) => repeated(&repeat.made)?,
        None => typed(matches)?,
    };
    let asked_for = Value::Object(given.clone());
    if matches.get_one::<String>("method").is_some_and(|method| method == "dpo") {
        given.entry("method").or_insert_with(|| serde_json::json!({"type": "dpo", "beta": BETA}));
    }
    let parsed = |given: &Map<String, Value>| serde_json::from_value::<Settings>(Value::Object(given.clone())).context("--set");
    let asked = parsed(&given)?;
    asked.check()?;
    let LoadedBase { name, checkpoint, model, .. } = app::load_base(config)?;
    if let Some(reason) = model.config().anatomy().untrainable {
        anyhow::bail!("no training: {reason}");
    }
    let base = model.training_base().context("training runs on the CPU only (--device cpu)")?;
    drop(model);
    let context = if given.contains_key("context") { asked.context } else { base.config.context_length.min(asked.context) };
    given.insert("context".to_owned(), context.into());
    // Templates may write the date: a run that goes on tomorrow must make the same rows.
    let template_time = match &repeat {
        Some(repeat) => repeat.data.template_time,
        None => modified(data),
    };
    let renderer = Renderer::new(Parts {
        tokenizer: checkpoint.tokenizer.clone(),
        chat_template: checkpoint.chat_template.clone(),
        ends: checkpoint.generation.eos.clone(),
        context,
        now: OffsetDateTime::from_unix_timestamp(template_time).unwrap_or(OffsetDateTime::UNIX_EPOCH),
    })?;
    let held_out = repeat.as_ref().map_or(Some(split::USUAL_SHARE), |repeat| repeat.data.held_out_share);
    let loading = Loading {
        renderer: &renderer,
        validation,
        held_out: held_out.unwrap_or(0.0),
        seed: asked.seed,
        questions: 0,
        is_stopped: NEVER,
    };
    let is_tokenized = tokenized::is_tokenized(data);
    let loaded = if is_tokenized {
        tokenized::load(data, validation, tokenized::Bounds { vocab: base.config.vocab_size, context })?
    } else {
        let mut options = Options::default();
        // A file that a server keeps has no name of its own.
        repeat.iter().for_each(|repeat| options.hint(&repeat.data.training.name));
        load(data, &options, &loading)?
    };
    let wishes = wishes(&given, &asked);
    for (key, value) in chosen(&loaded, &base) {
        given.entry(key).or_insert(value);
    }
    let settings = parsed(&given)?;
    settings.check()?;
    if matches.get_flag("plan") {
        let plan = planned(&name, &base, &loaded, (&settings, wishes), config.threads)?;
        say(&if matches.get_flag("json") { serde_json::to_string_pretty(&plan)? + "\n" } else { plan.text() });
        return Ok(());
    }
    let digest = app::base_digest(&checkpoint.tensors);
    if let Some(repeat) = &repeat {
        repeat.check_base(&name, &digest, base.quantization().as_deref())?;
    }
    let (origin, from) = match file("from") {
        None => (Origin::Fresh, None),
        Some(path) => {
            let weights = peft::read_dir(path, &base.config).with_context(|| path.display().to_string())?;
            (Origin::Adapter(weights.modules), Some(weights.id.to_string()))
        }
    };
    let read = Data {
        training: repeat::facts(data)?,
        validation: validation.map(repeat::facts).transpose()?,
        held_out_share: held_out.filter(|_| validation.is_none() && !is_tokenized),
        template_time,
        rows: loaded.train.len() as u64,
        held_out_rows: loaded.held_out.len() as u64,
        tokens: loaded.train_tokens,
        truncated_rows: loaded.truncated,
        lost_rows: loaded.lost,
        missing_rows: loaded.missing,
        dataset_digest: loaded.digest.clone(),
    };
    let lineage = Lineage { base: name, base_digest: digest, dataset_digest: loaded.digest.clone(), ..Lineage::default() };
    let start = Start {
        base,
        data: trainer::Data { train: loaded.train, held_out: loaded.held_out },
        settings,
        gate: Gate::open(),
        origin,
        threads: config.threads,
        memory: app::memory::available_bytes(),
    };
    let save_every = Duration::from_secs(matches.get_one::<u32>("save-seconds").map_or(60, |seconds| u64::from(*seconds)));
    let drive = Drive { dir: out.to_owned(), save_every, lineage };
    train_run::go(start, Task { drive, asked: asked_for, read, from, repeat, json: matches.get_flag("json") })
}

/// The settings of a record. What `auto` became then holds, whatever it would become here.
fn repeated(made: &Made) -> anyhow::Result<Map<String, Value>> {
    let Value::Object(mut settings) = serde_json::to_value(&made.settings)? else { bail!("the record's settings are no object") };
    settings.insert("compute".to_owned(), serde_json::to_value(made.compute)?);
    Ok(settings)
}

/// When a file was written, seconds since 1970.
fn modified(path: &Path) -> i64 {
    let modified = std::fs::metadata(path).and_then(|file| file.modified()).ok();
    modified.map_or(0, |time| OffsetDateTime::from(time).unix_timestamp())
}

/// What the rules choose for these rows and this base.
fn chosen(loaded: &Loaded, base: &TrainingBase) -> Vec<(String, Value)> {
    let rules = plan::auto(loaded.train.len() as u64, loaded.train_tokens, base.config.parameters());
    // A step's rows are cut into micro-batches of four; larger ones are hardly faster and take more memory.
    let (rows, micro) = (rules.batch_size.value, rules.batch_size.value.min(4));
    [
        ("epochs", Value::from(rules.epochs.value)),
        ("batch_size", Value::from(micro)),
        ("accumulation", Value::from(rows.div_ceil(micro))),
        ("learning_rate", Value::from(rules.learning_rate.value)),
        ("rank", Value::from(rules.rank.value)),
        ("alpha", Value::from(rules.alpha.value)),
        ("warmup_ratio", Value::from(rules.warmup_ratio.value)),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// What was asked for; the rules choose the rest.
fn wishes(given: &Map<String, Value>, asked: &Settings) -> Wishes {
    let typed = |key: &str| given.contains_key(key);
    let batch = typed("batch_size") || typed("accumulation");
    Wishes {
        epochs: typed("epochs").then_some(asked.epochs),
        batch_size: batch.then(|| u32::try_from(asked.batch_size * asked.accumulation).ok()).flatten(),
        learning_rate_multiplier: None,
        rank: typed("rank").then(|| u32::try_from(asked.rank).ok()).flatten(),
    }
}

fn planned(
    name: &str,
    base: &TrainingBase,
    loaded: &Loaded,
    (settings, wishes): (&Settings, Wishes),
    threads: usize,
) -> anyhow::Result<Plan> {
    let measured = probe(base.clone(), settings, threads)?;
    let longest = longest(&loaded.train).max(longest(&loaded.held_out));
    let memory = |rank: u32, keeping: Keeping| memory_of_run(base, &settings.with(rank, keeping), longest, threads);
    let facts = Facts {
        rows: Rows {
            train: loaded.train.len() as u64,
            held_out: loaded.held_out.len() as u64,
            train_tokens: loaded.train_tokens,
            held_out_tokens: tokens(&loaded.held_out),
            longest: longest as u64,
            truncated: loaded.truncated,
            preferences: matches!(settings.method, Method::Dpo { .. }),
        },
        base: plan::Base {
            name: name.to_owned(),
            parameters: base.config.parameters(),
            quantization: base.quantization(),
            context: base.config.context_length as u64,
        },
        speed: Speed {
            train_tokens_per_second: measured.tokens_per_second,
            answer_tokens_per_second: None,
            steps: measured.steps,
        },
        limits: Limits { memory_bytes: app::memory::available_bytes(), ..Limits::default() },
        wishes,
        memory: &memory,
        cost: &|_| None,
    };
    Ok(plan::plan(&facts))
}

fn longest(rows: &Rendered) -> usize {
    rows.lengths().into_iter().max().unwrap_or(0)
}

fn tokens(rows: &Rendered) -> u64 {
    rows.lengths().into_iter().map(|length| length as u64).sum()
}
