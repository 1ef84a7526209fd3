//! `switchyard dataset generate` and `dataset corrupt`: rows that a teacher writes, and worse twins of good rows.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::complain;
use super::teacher::Names;
use crate::app::announce::say;
use crate::backends::upstream::Teacher;
use crate::training::corrupt::{Harm, Pool, twin};
use crate::training::dataset::{Body, Example, Options, Reader};
use crate::training::generate::{Cap, Caps, Ended, Prices, Seed, Task, generate};

/// Whom to ask for rows.
const TEACHER: Names =
    Names { server: "teacher", model: "teacher-model", key_file: "teacher-key-file", timeout: "teacher-timeout" };
/// Longest description of a task, bytes.
const MAX_TASK: u64 = 1 << 20;
/// Most seeds that are read.
const MAX_SEEDS: usize = 10_000;
/// Nano-dollars for one token at a price of a dollar for a million.
const NANOS: f64 = 1e3;

fn path(id: &'static str, name: &'static str) -> Arg {
    Arg::new(id).value_name(name).value_parser(value_parser!(PathBuf))
}

fn number(id: &'static str, name: &'static str) -> Arg {
    Arg::new(id).long(id).value_name(name).value_parser(value_parser!(u64))
}

fn dollars(id: &'static str) -> Arg {
    Arg::new(id).long(id).value_name("DOLLARS").value_parser(value_parser!(f64))
}

pub(super) fn generate_command() -> Command {
    Command::new("generate")
        .about("Have another model write examples of a task; a run that was interrupted goes on where it was")
        .args([
            path("out", "OUT").required(true).help("JSONL file to write; its progress is kept beside it."),
            Arg::new("task").long("task").value_name("TEXT").help("What the examples are of, in words."),
            path("task-file", "FILE").long("task-file").help("The same, in a file.").conflicts_with("task"),
            path("seeds", "FILE").long("seeds").help("Good examples, in any format that training takes."),
            Arg::new("system").long("system").value_name("TEXT").help("System message of every example."),
            number("rows", "N").default_value("100").help("Rows to have in OUT."),
            number("per-call", "N").default_value("5").help("Examples to ask for at once."),
            number("max-call-tokens", "N").default_value("2048").help("Most tokens of one answer of the teacher."),
            Arg::new("temperature").long("temperature").value_name("T").value_parser(value_parser!(f32)).default_value("1.0"),
            number("seed", "N").default_value("0").help("Which seeds are shown when."),
            number("max-calls", "N").help("Most calls, over all starts."),
            number("max-tokens", "N").help("Most tokens, sent and answered, over all starts."),
            dollars("max-dollars").help("Most money, over all starts; needs the two prices."),
            dollars("input-price").help("Dollars for a million tokens that are sent."),
            dollars("output-price").help("Dollars for a million tokens that are answered."),
            path("record", "FILE").long("record").help("Write the teacher's answers down, at the end of this file."),
            path("replay", "FILE")
                .long("replay")
                .conflicts_with_all(["record", TEACHER.server])
                .help("Take the answers from such a file instead of a server."),
        ])
        .args(TEACHER.arguments("The teacher"))
}

pub(super) fn corrupt_command() -> Command {
    Command::new("corrupt").about("Make worse twins of good rows: their answers lose structure, labels or clarity").args([
        path("in", "IN").required(true).help("Good rows, in any format that training takes."),
        path("out", "OUT").required(true).help("JSONL file to write: the twins, in the order of their rows."),
        Arg::new("harms")
            .long("harms")
            .value_name("HARM,HARM,..")
            .value_delimiter(',')
            .value_parser(Harm::ALL.map(Harm::name))
            .help("What answers may lose. [default: all]"),
        path("pairs", "FILE").long("pairs").help("JSONL file to write as well: each good answer preferred to its twin's."),
        number("seed", "N").default_value("0").help("Another seed makes other twins."),
        Arg::new("force").long("force").action(ArgAction::SetTrue).help("Replace files that exist."),
    ])
}

pub(super) fn run_generate(matches: &ArgMatches, key: Option<&str>) -> anyhow::Result<()> {
    let number = |id: &str| matches.get_one::<u64>(id).copied();
    let out = matches.get_one::<PathBuf>("out").context("the file is missing")?;
    let description = match (matches.get_one::<String>("task"), matches.get_one::<PathBuf>("task-file")) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) => {
            let bytes = crate::store::read_limited(path, MAX_TASK).with_context(|| path.display().to_string())?;
            String::from_utf8(bytes).with_context(|| format!("{} is no text", path.display()))?
        }
        (None, None) => bail!("--task or --task-file must say what the examples are of"),
    };
    let (seeds, common_system) = match matches.get_one::<PathBuf>("seeds") {
        Some(path) => seeds(path)?,
        None => (Vec::new(), None),
    };
    let tokens = |id| number(id).map_or(0, |tokens| u32::try_from(tokens).unwrap_or(u32::MAX));
    let task = Task {
        description,
        system: matches.get_one::<String>("system").cloned().or(common_system),
        seeds,
        per_call: tokens("per-call"),
        max_tokens: tokens("max-call-tokens"),
        temperature: matches.get_one::<f32>("temperature").copied().unwrap_or(1.0),
        seed: number("seed").unwrap_or(0),
    };
    let caps = caps(matches)?;
    let teacher = teacher(matches, key)?;
    let rows = number("rows").unwrap_or(0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let outcome = runtime.block_on(generate(&task, &caps, &teacher, out, rows, |have, progress| {
        complain(&format!("{have} of {rows} rows after {} calls", progress.spent.calls));
    }))?;
    let (spent, rejected) = (outcome.progress.spent, outcome.progress.rejected);
    let why = match outcome.ended {
        Ended::Enough => String::new(),
        Ended::Capped(Cap::Calls) => "; ended at --max-calls".to_owned(),
        Ended::Capped(Cap::Tokens) => "; another call could exceed --max-tokens".to_owned(),
        Ended::Capped(Cap::Money) => "; another call could exceed --max-dollars".to_owned(),
        Ended::Dry => "; the teacher brought nothing new in its last calls".to_owned(),
    };
    say(&format!(
        "{}: {} rows{why}\n  {} calls, {} tokens sent, {} answered, ${:.4}\n  not taken: {} duplicates, {} in another form than \
         the seeds, {} malformed, {} unreadable answers\n",
        out.display(),
        outcome.rows,
        spent.calls,
        spent.prompt_tokens,
        spent.completion_tokens,
        spent.nanos as f64 / 1e9,
        rejected.duplicate,
        rejected.form,
        rejected.malformed,
        rejected.unreadable
    ));
    ensure!(outcome.rows >= rows, "{} of {rows} rows are missing", rows - outcome.rows);
    Ok(())
}

fn caps(matches: &ArgMatches) -> anyhow::Result<Caps> {
    let number = |id: &str| matches.get_one::<u64>(id).copied();
    let money = |id: &str, unit: f64| -> anyhow::Result<Option<u64>> {
        let Some(dollars) = matches.get_one::<f64>(id) else { return Ok(None) };
        ensure!(dollars.is_finite() && (0.0..1e9).contains(dollars), "--{id} {dollars} is no amount of dollars");
        // Rounded up, so that a price is never nothing.
        Ok(Some((dollars * unit).ceil() as u64))
    };
    let (sent, answered) = (money("input-price", NANOS)?, money("output-price", NANOS)?);
    let nanos = money("max-dollars", 1e9)?;
    ensure!(
        nanos.is_none() || (sent.is_some() && answered.is_some()),
        "--max-dollars needs --input-price and --output-price: what a million tokens cost"
    );
    let prices = Prices { prompt_nanos: sent.unwrap_or(0), completion_nanos: answered.unwrap_or(0) };
    Ok(Caps { calls: number("max-calls"), tokens: number("max-tokens"), nanos, prices })
}

fn teacher(matches: &ArgMatches, key: Option<&str>) -> anyhow::Result<Teacher> {
    if let Some(path) = matches.get_one::<PathBuf>("replay") {
        let Some(model) = TEACHER.model(matches) else { bail!("--{} is missing: the model that was recorded", TEACHER.model) };
        return Ok(Teacher::played(&model, path)?);
    }
    let Some(upstream) = TEACHER.upstream(matches, key)? else { bail!("--{} or --replay must say who writes", TEACHER.server) };
    Ok(match matches.get_one::<PathBuf>("record") {
        Some(path) => Teacher::recorded(upstream, path)?,
        None => Teacher::Live(upstream),
    })
}

/// The last request and answer of each row, and the system message, if all have the same.
fn seeds(path: &Path) -> anyhow::Result<(Vec<Seed>, Option<String>)> {
    let (mut seeds, mut systems) = (Vec::new(), Vec::new());
    for row in Reader::open(path, &Options::default())? {
        let example = row?.map_err(|problem| anyhow::anyhow!("{}: {problem}", path.display()))?;
        let Body::Supervised(turns) = &example.body else { bail!("{}: seeds are conversations", path.display()) };
        let last = |role: &str| turns.iter().rfind(|turn| turn.role() == role).map(|turn| turn.text().to_owned());
        if let (Some(user), Some(assistant)) = (last("user"), last("assistant")) {
            seeds.push(Seed { user, assistant });
            systems.push(last("system"));
        }
        ensure!(seeds.len() <= MAX_SEEDS, "{} has more than {MAX_SEEDS} seeds", path.display());
    }
    systems.dedup();
    let common = if systems.len() == 1 { systems.pop().flatten() } else { None };
    Ok((seeds, common))
}

pub(super) fn run_corrupt(matches: &ArgMatches) -> anyhow::Result<()> {
    let path = |id| matches.get_one::<PathBuf>(id);
    let (input, out) = (path("in").context("IN is missing")?, path("out").context("OUT is missing")?);
    let harms: Vec<Harm> = match matches.get_many::<String>("harms") {
        Some(names) => {
            let names: Vec<&String> = names.collect();
            Harm::ALL.into_iter().filter(|harm| names.iter().any(|name| *name == harm.name())).collect()
        }
        None => Harm::ALL.to_vec(),
    };
    let seed = matches.get_one::<u64>("seed").copied().unwrap_or(0);
    for path in [Some(out), path("pairs")].into_iter().flatten() {
        ensure!(matches.get_flag("force") || !path.exists(), "{} exists; --force replaces it", path.display());
    }
    let mut pool = Pool::new(seed);
    each(input, |example| {
        pool.add(example);
        Ok(())
    })?;
    let create = |path: &PathBuf| File::create(path).map(BufWriter::new).with_context(|| path.display().to_string());
    let mut twins = create(out)?;
    let mut pairs = path("pairs").map(create).transpose()?;
    let (mut counts, mut same): (BTreeMap<Harm, u64>, u64) = (BTreeMap::new(), 0);
    each(input, |good| {
        let Some(bad) = twin(good, &harms, &pool, seed) else {
            same += 1;
            return Ok(());
        };
        *counts.entry(bad.harm).or_default() += 1;
        writeln!(twins, "{}", bad.example.to_row())?;
        if let (Some(pairs), Some(row)) = (&mut pairs, bad.preference(good)) {
            writeln!(pairs, "{}", row.to_row())?;
        }
        Ok(())
    })?;
    twins.flush()?;
    pairs.map_or(Ok(()), |mut pairs| pairs.flush())?;
    let counted: Vec<String> = counts.iter().map(|(harm, rows)| format!("{} {rows}", harm.name())).collect();
    let left_out = if same > 0 { format!("; {same} rows have no worse twin and were left out") } else { String::new() };
    say(&format!("{}: {} twins ({}){left_out}\n", out.display(), counts.values().sum::<u64>(), counted.join(", ")));
    Ok(())
}

/// Every row of a file; a bad one is an error.
fn each(path: &Path, mut visit: impl FnMut(&Example) -> anyhow::Result<()>) -> anyhow::Result<()> {
    for row in Reader::open(path, &Options::default())? {
        visit(&row?.map_err(|problem| anyhow::anyhow!("{}: {problem}", path.display()))?)?;
    }
    Ok(())
}
