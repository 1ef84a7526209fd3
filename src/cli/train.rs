//! `switchyard train`: a file of examples to an adapter, without a server; or, with `--plan`, what that would take.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Arg, ArgAction, ArgMatches, value_parser};
use serde_json::{Map, Value};
use time::OffsetDateTime;

use crate::app::announce::say;
use crate::app::{self, LoadedBase};
use crate::config::Config;
use crate::model::config::LinearSite;
use crate::model::train::TrainingBase;
use crate::training::dataset::render::{Parts, Rendered, Renderer};
use crate::training::dataset::{Loaded, Loading, NEVER, Options, load, split, tokenized};
use crate::training::idle::Gate;
use crate::training::plan::{self, Facts, Keeping, Limits, Plan, Rows, Speed, Wishes};
use crate::training::trainer::{
    Data, Drive, Ended, Lineage, Method, Next, Origin, Progress, Run, Scored, Settings, Start, drive, memory_of_run, probe,
};

/// Time between two lines on the way.
const LINE_EVERY: Duration = Duration::from_secs(2);
/// Beta of preferences where none is given: the usual one of the method's authors.
const BETA: f32 = 0.1;

pub(super) fn arguments() -> Vec<Arg> {
    let path = |id: &'static str, name: &'static str| Arg::new(id).value_name(name).value_parser(value_parser!(PathBuf));
    vec![
        path("data", "DATA").required(true).help("File of examples, in any format that `dataset check` knows."),
        path("validation", "FILE").long("validation").help("Rows to judge by; without it a fifth of the rows is held out."),
        path("out", "DIR").long("out").default_value("adapter").help("Receives best/, last/ and the state that a killed run goes on from."),
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
    let (data, out) = (file("data").context("the file is missing")?, file("out").context("--out is missing")?);
    let mut given = typed(matches)?;
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
    let renderer = Renderer::new(Parts {
        tokenizer: checkpoint.tokenizer.clone(),
        chat_template: checkpoint.chat_template.clone(),
        ends: checkpoint.generation.eos.clone(),
        context,
        // Templates may write the date: a run that goes on tomorrow must make the same rows.
        now: std::fs::metadata(data).and_then(|data| data.modified()).map_or(OffsetDateTime::UNIX_EPOCH, Into::into),
    })?;
    let loading = Loading {
        renderer: &renderer,
        validation: file("validation"),
        held_out: split::USUAL_SHARE,
        seed: asked.seed,
        questions: 0,
        is_stopped: NEVER,
    };
    let loaded = if tokenized::is_tokenized(data) {
        tokenized::load(data, file("validation"), tokenized::Bounds { vocab: base.config.vocab_size, context })?
    } else {
        load(data, &Options::default(), &loading)?
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
    let origin = match file("from") {
        None => Origin::Fresh,
        Some(path) => {
            let weights = crate::model::lora::peft::read_dir(path, &base.config).with_context(|| path.display().to_string())?;
            Origin::Adapter(weights.modules)
        }
    };
    let lineage = Lineage { base: name, dataset_digest: loaded.digest.clone(), ..Lineage::default() };
    let start = Start {
        base,
        data: Data { train: loaded.train, held_out: loaded.held_out },
        settings,
        gate: Gate::open(),
        origin,
        threads: config.threads,
        memory: app::memory::available_bytes(),
    };
    let save_every = Duration::from_secs(matches.get_one::<u32>("save-seconds").map_or(60, |seconds| u64::from(*seconds)));
    go(start, Drive { dir: out.to_owned(), save_every, lineage }, matches.get_flag("json"))
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

fn go(start: Start, how: Drive, json: bool) -> anyhow::Result<()> {
    let out = how.dir.as_path();
    let mut run = Run::start(start, Some(out)).with_context(|| format!("{} (--out)", out.display()))?;
    let tell = |text: &str, event: Value| say(&if json { format!("{event}\n") } else { format!("{text}\n") });
    for change in run.changes() {
        tell(change, serde_json::json!({"event": "changed", "text": change}));
    }
    let (from, steps) = (run.step_number(), run.steps());
    if from > 0 {
        tell(&format!("going on after step {from}"), serde_json::json!({"event": "resumed", "step": from}));
    }
    let before = if run.has_held_out() { Some(run.score(Scored::Base)?) } else { None };
    if let Some(base) = before {
        let text = format!("base: held-out loss {:.4}, accuracy {:.1} %", base.loss, 100.0 * base.accuracy);
        tell(&text, serde_json::json!({"event": "base", "loss": base.loss, "accuracy": base.accuracy}));
    }
    let began = std::time::Instant::now();
    let mut line: Option<std::time::Instant> = None;
    let ended = drive(&mut run, &how, &mut |run, progress| {
        match progress {
            Progress::Step(step) => {
                let event = serde_json::json!({
                    "event": "step", "step": step.step, "steps": steps, "loss": step.loss, "accuracy": step.accuracy,
                    "learning_rate": step.learning_rate, "gradient_norm": step.gradient_norm,
                    "tokens_per_second": step.tokens as f64 / step.took.as_secs_f64(),
                });
                if json {
                    tell("", event);
                } else if step.step == steps || line.is_none_or(|line| line.elapsed() >= LINE_EVERY) {
                    line = Some(std::time::Instant::now());
                    let left = began.elapsed().as_secs_f64() / (step.step - from) as f64 * (steps - step.step) as f64;
                    let speed = step.tokens as f64 / step.took.as_secs_f64();
                    tell(
                        &format!(
                            "step {}/{steps}, epoch {}: loss {:.4}, {speed:.0} tokens/s, {left:.0} s left",
                            step.step,
                            run.epoch(),
                            step.loss
                        ),
                        event,
                    );
                }
            }
            Progress::Evaluated { step, held_out, is_best } => tell(
                &format!(
                    "step {step}: held-out loss {:.4}, accuracy {:.1} %{}",
                    held_out.loss,
                    100.0 * held_out.accuracy,
                    if is_best { ", the best so far" } else { "" }
                ),
                serde_json::json!({"event": "evaluated", "step": step, "loss": held_out.loss, "accuracy": held_out.accuracy, "best": is_best}),
            ),
            Progress::Alert(text) => tell(&format!("note: {text}"), serde_json::json!({"event": "alert", "text": text})),
            Progress::Saved(_) => {}
        }
        Next::On
    })?;
    let best = out.join(if run.best().is_some() { "best" } else { "last" });
    let why = match ended {
        Ended::Early => "ended early, as evaluations did not improve any more",
        _ => "done",
    };
    let seconds = began.elapsed().as_secs_f64();
    let text = format!(
        "{why} after {} steps in {seconds:.0} s; the adapter is in {}\n  switchyard serve --adapter NAME={}",
        run.step_number(),
        best.display(),
        best.display()
    );
    tell(&text, serde_json::json!({"event": "done", "step": run.step_number(), "seconds": seconds, "adapter": best}));
    Ok(())
}
