//! `switchyard eval`: what an adapter is worth on a file of examples, beside the base and perhaps another adapter, without a server.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::{Arg, ArgAction, ArgMatches, value_parser};
use time::OffsetDateTime;

use super::teacher::Names;
use crate::app::announce::say;
use crate::app::{Loaded, start_backend};
use crate::backends::{Backend, Realm};
use crate::config::Config;
use crate::model::lora::PreparedAdapter;
use crate::model::lora::peft::AdapterFiles;
use crate::training::dataset::render::{Parts, Question, Renderer};
use crate::training::dataset::split::{Side, split};
use crate::training::dataset::{Options, Reader};
use crate::training::evaluate::{Bench, Comparison, Evaluation, Role, Subject, compare};
use crate::training::gate::{Decision, Limits, decide};

/// Whom to ask for marks.
const JUDGE: Names = Names { server: "judge", model: "judge-model", key_file: "judge-key-file", timeout: "judge-timeout" };
/// Bad rows that are named.
const NAMED: u64 = 3;

pub(super) fn arguments() -> Vec<Arg> {
    let path = |id: &'static str, name: &'static str| Arg::new(id).value_name(name).value_parser(value_parser!(PathBuf));
    let number = |id: &'static str, default: &'static str| {
        Arg::new(id).long(id).value_name("N").value_parser(value_parser!(u32)).default_value(default)
    };
    let mut arguments = vec![
        path("data", "DATA").required(true).help("File of examples; the last answer of each is the target."),
        path("candidate", "PATH").long("candidate").help("PEFT directory to judge. Without it the base is judged alone."),
        path("incumbent", "PATH").long("incumbent").help("PEFT directory that it must not be worse than."),
        Arg::new("held-out")
            .long("held-out")
            .value_name("SHARE")
            .value_parser(value_parser!(f64))
            .help("Only the share of rows that a training job with the same --seed holds out, like 0.2. [default: all rows]"),
        number("seed", "0").help("Seed of that split."),
        number("rows", "200").help("Most rows; the first ones are taken."),
        number("max-tokens", "512").help("Most tokens of an answer."),
        number("at-once", "8").help("Answers at the same time."),
        number("samples", "6").help("Answers that are shown side by side."),
        Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print the whole report as JSON."),
    ];
    arguments.extend(JUDGE.arguments("A server that marks the answers"));
    arguments
}

pub(super) fn run(matches: &ArgMatches, config: &Config, key: Option<&str>) -> anyhow::Result<()> {
    let path = |id| matches.get_one::<PathBuf>(id);
    let number = |id: &str| matches.get_one::<u32>(id).map_or(0, |number| *number as usize);
    let data = path("data").context("the file is missing")?;
    let judge = JUDGE.teacher(matches, key)?;
    let Loaded { base, backend, .. } = start_backend(config)?;
    let renderer = Renderer::new(Parts {
        tokenizer: base.tokenizer.clone(),
        chat_template: base.chat_template.clone(),
        ends: base.end_tokens.clone(),
        context: backend.facts().max_context,
        now: OffsetDateTime::now_utc(),
    })?;
    let held_out = matches.get_one::<f64>("held-out").map(|share| (*share, number("seed") as u64));
    let questions = questions(data, &renderer, held_out, number("rows"))?;
    anyhow::ensure!(!questions.is_empty(), "{} has no row to judge by", data.display());
    let mut subjects = Vec::new();
    for (role, id) in [(Role::Candidate, "candidate"), (Role::Incumbent, "incumbent")] {
        if let Some(path) = path(id) {
            let name = path.file_name().map_or_else(|| id.to_owned(), |name| name.to_string_lossy().into_owned());
            subjects.push(Subject { role, name, adapter: Some(prepared(&backend, path)?) });
        }
    }
    let alone = subjects.first().is_none_or(|subject| subject.role != Role::Candidate);
    let role = if alone { Role::Candidate } else { Role::Base };
    let of_base = Subject { role, name: base.name.clone(), adapter: None };
    subjects.insert(if alone { 0 } else { subjects.len() }, of_base);
    let bench = Bench {
        backend: backend.clone(),
        tokenizer: base.tokenizer,
        end_tokens: base.end_tokens.into(),
        realm: Realm::named("switchyard eval"),
        max_tokens: number("max-tokens"),
        at_once: number("at-once"),
    };
    let all = subjects.len() * questions.len();
    let comparison = Comparison {
        bench: &bench,
        models: subjects.into_iter().map(|subject| (subject, None)).collect(),
        questions: &questions,
        samples: number("samples"),
        judge: judge.as_ref(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let evaluation = runtime.block_on(compare(comparison, |done| progress(done, all)))?;
    let decision = decide(&evaluation.numbers(), &Limits::default());
    if matches.get_flag("json") {
        let report = serde_json::json!({"evaluation": evaluation, "gate": decision});
        say(&(serde_json::to_string_pretty(&report)? + "\n"));
    } else {
        say(&table(&evaluation, &decision));
    }
    Ok(())
}

/// On standard error, as the report is the command's output; only every tenth of the way.
fn progress(done: usize, all: usize) {
    let step = (all / 10).max(1);
    if done.is_multiple_of(step) || done == all {
        // Nobody is left to tell if this fails.
        let _ = writeln!(std::io::stderr(), "{done} of {all} answers");
    }
}

fn prepared(backend: &Backend, path: &Path) -> anyhow::Result<Arc<PreparedAdapter>> {
    let files = AdapterFiles::read(path).with_context(|| path.display().to_string())?;
    let weights = files.parse(&backend.facts().model).with_context(|| format!("{} does not fit the base", path.display()))?;
    Ok(Arc::new(backend.adapter_preparer().prepare(weights)?))
}

/// The rows to judge by, as questions. Bad rows are told and passed over.
fn questions(path: &Path, renderer: &Renderer, held_out: Option<(f64, u64)>, most: usize) -> anyhow::Result<Vec<Question>> {
    let sides = match held_out {
        Some((share, seed)) => {
            let mut conversations = Vec::new();
            for row in Reader::open(path, &Options::default())? {
                if let Ok(example) = row? {
                    conversations.push(example.conversation);
                }
            }
            Some(split(&conversations, share, seed))
        }
        None => None,
    };
    let (mut questions, mut good, mut bad) = (Vec::new(), 0, 0);
    for row in Reader::open(path, &Options::default())? {
        if questions.len() >= most {
            break;
        }
        let example = match row? {
            Ok(example) => example,
            Err(problem) => {
                bad += 1;
                if bad <= NAMED {
                    tracing::warn!("{}: {problem}", path.display());
                }
                continue;
            }
        };
        let side = sides.as_ref().map_or(Side::HeldOut, |sides| sides.get(good).copied().unwrap_or(Side::Train));
        good += 1;
        if side == Side::HeldOut {
            let question = renderer.question(&example);
            questions.push(question.with_context(|| format!("{}, line {}", path.display(), example.line))?);
        }
    }
    if bad > NAMED {
        tracing::warn!("{}: {bad} rows cannot be used", path.display());
    }
    Ok(questions)
}

fn table(evaluation: &Evaluation, decision: &Decision) -> String {
    let mut text = format!(
        "{:<10} {:<24} {:>7} {:>6} {:>8} {:>6} {:>8} {:>7} {:>7} {:>6} {:>9}\n",
        "", "", "overall", "exact", "words F1", "BLEU", "ROUGE-L", "length", "JSON", "judge", "p50 ms"
    );
    let optional = |value: Option<f64>, digits: usize| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.digits$}"));
    for model in &evaluation.models {
        let metrics = &model.metrics;
        text.push_str(&format!(
            "{:<10} {:<24} {:>7.1} {:>6.1} {:>8.1} {:>6.1} {:>8.1} {:>7} {:>7} {:>6} {:>9.0}\n",
            format!("{:?}", model.role).to_lowercase(),
            model.name,
            model.overall,
            100.0 * metrics.exact_match,
            100.0 * metrics.words.f1,
            metrics.bleu,
            100.0 * metrics.rouge_l.f1,
            optional(metrics.length_ratio, 2),
            optional(metrics.json_valid.map(|share| 100.0 * share), 1),
            optional(model.judge.map(|judge| judge.score), 1),
            model.speed.answer_ms_p50,
        ));
    }
    text.push_str(&format!("\n{} rows; gate: {:?}\n", evaluation.rows, decision.verdict));
    for reason in &decision.reasons {
        text.push_str(&format!("  {:?}: {}\n", reason.verdict, reason.text));
    }
    for sample in &evaluation.samples {
        text.push_str(&format!("\nrow {}\n  wanted     {}\n", sample.row + 1, one_line(&sample.target)));
        for answer in &sample.answers {
            let role = format!("{:?}", answer.role).to_lowercase();
            text.push_str(&format!("  {role:<10} {} ({:.0})\n", one_line(&answer.text), answer.score));
        }
    }
    text
}

fn one_line(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(160) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}
