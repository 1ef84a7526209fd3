//! `switchyard usage`: what was used, the ledger as text, and the proof that its sums are what the counters say; beside running
//! servers, as only the database is opened.

use anyhow::bail;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::arguments::state_flags;
use super::dates;
use super::tenants::in_office;
use crate::app::announce::say;
use crate::config::StateConfig;
use crate::tenants::admin::money;
use crate::tenants::admin::usage::{self, Export, Field, Format, Question, Source, Sums, Which};
use crate::tenants::{Office, unix_now};

const DAY: i64 = 86_400;
/// Days that are shown where nothing is said.
const USUAL_DAYS: i64 = 7;

pub(super) fn command() -> Command {
    let time = |name: &'static str| Arg::new(name).long(name).value_name("TIME").value_parser(dates::parse);
    let span = || {
        [
            time("from").help("From this day on, like 2026-11-01 (UTC), or seconds since 1970."),
            time("to").help("Up to this day, not included. [default: now]"),
        ]
    };
    let tenant = || Arg::new("tenant").long("tenant").value_name("ID").help("Only of this tenant.");
    let by =
        Arg::new("by").long("by").value_name("FIELD").action(ArgAction::Append).value_parser(["tenant", "key", "model", "user"]);
    let format = Arg::new("format").long("format").value_name("FORMAT").default_value("csv").value_parser(["csv", "jsonl"]);
    Command::new("usage")
        .about("What was used, also while servers run (what they answered in the last moment is still on its way)")
        .subcommand_required(true)
        .subcommand(
            Command::new("show")
                .about("Requests, tokens and money by the day")
                .args(span())
                .args([tenant(), by.help("Told apart by this. May be repeated.")])
                .args(state_flags()),
        )
        .subcommand(
            Command::new("export")
                .about("Rows of the ledger, on standard output")
                .args(span())
                .args([tenant(), format.help("csv, or jsonl: a JSON object a line.")])
                .args(state_flags()),
        )
        .subcommand(
            Command::new("verify")
                .about(
                    "Prove that the ledger's sums are those that usage and budgets are read from; exit code 1 where they differ",
                )
                .args(state_flags()),
        )
}

pub(super) fn run(matches: &ArgMatches, config: &StateConfig) -> anyhow::Result<()> {
    in_office(config, async |office| match matches.subcommand() {
        Some(("show", matches)) => show(&office, matches).await,
        Some(("export", matches)) => {
            let format = if matches.get_one::<String>("format").is_some_and(|name| name == "jsonl") {
                Format::JsonLines
            } else {
                Format::Csv
            };
            let (from, to) = span(matches, 0);
            let mut export = Export::new(office, which(matches), from, to, format);
            while let Some(piece) = export.next().await? {
                say(&piece);
            }
            Ok(())
        }
        _ => verify(&office).await,
    })
}

fn which(matches: &ArgMatches) -> Which {
    Which { projects: matches.get_one::<String>("tenant").cloned().into_iter().collect(), ..Which::default() }
}

fn span(matches: &ArgMatches, usual_from: i64) -> (i64, i64) {
    let time = |name: &str| matches.get_one::<i64>(name).copied();
    (time("from").unwrap_or(usual_from), time("to").unwrap_or_else(|| unix_now() + 1))
}

async fn show(office: &Office, matches: &ArgMatches) -> anyhow::Result<()> {
    let fields = [("tenant", Field::Project), ("key", Field::Key), ("model", Field::Model), ("user", Field::User)];
    let wanted: Vec<&String> = matches.get_many::<String>("by").into_iter().flatten().collect();
    let by: Vec<Field> = fields.iter().filter(|(name, _)| wanted.iter().any(|by| by == name)).map(|(_, field)| *field).collect();
    let today = unix_now().div_euclid(DAY) * DAY;
    let (from, to) = span(matches, today - (USUAL_DAYS - 1) * DAY);
    let question = Question { sums: Sums { which: which(matches), by: by.clone(), width: DAY }, from, to };
    let mut head = format!("{:<11}", "day");
    for (name, _) in fields.iter().filter(|(_, field)| by.contains(field)) {
        head.push_str(&format!("{name:<31}"));
    }
    say(&format!("{head}{:>10} {:>14} {:>14} {:>14} {:>16}\n", "requests", "input", "cached", "output", "usd"));
    for bucket in usage::buckets(office, &question).await? {
        for sum in &bucket.sums {
            let mut line = format!("{:<11}", dates::day(bucket.from));
            for ((_, field), value) in fields.iter().zip(&sum.fields) {
                if by.contains(field) {
                    line.push_str(&format!("{:<31}", value.as_deref().unwrap_or("-")));
                }
            }
            let usd = money::format(sum.cost_nanos);
            say(&format!(
                "{line}{:>10} {:>14} {:>14} {:>14} {usd:>16}\n",
                sum.requests, sum.input_tokens, sum.cached_tokens, sum.output_tokens
            ));
        }
    }
    Ok(())
}

async fn verify(office: &Office) -> anyhow::Result<()> {
    let verdict = usage::verify(office).await?;
    let [requests, input, cached, output, nanos] = verdict.totals;
    say(&format!(
        "ledger: {requests} requests, {input} input tokens ({cached} cached), {output} output tokens, {} USD\n",
        money::format(nanos)
    ));
    if verdict.differences.is_empty() {
        say("the counters agree\n");
        return Ok(());
    }
    say(&format!(
        "{:<8} {:<17} {:<30} {:<29} {:<24} requests input cached output nano-USD  node\n",
        "source", "hour", "tenant", "key", "model"
    ));
    for difference in &verdict.differences {
        let source = if difference.source == Source::Ledger { "ledger" } else { "counters" };
        let sums: Vec<String> = difference.sums.iter().map(i64::to_string).collect();
        say(&format!(
            "{source:<8} {:<17} {:<30} {:<29} {:<24} {}  {}\n",
            dates::hour(difference.hour.saturating_mul(3_600)),
            difference.project_id,
            difference.key_id,
            difference.model,
            sums.join(" "),
            difference.node
        ));
    }
    bail!("the ledger and its counters differ in {} hours", verdict.hours().len())
}
