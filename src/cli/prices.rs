//! `switchyard prices`: the price book beside a running server, by the rules of the admin API.

use anyhow::anyhow;
use clap::{Arg, ArgMatches, Command};

use super::arguments::state_flags;
use super::dates;
use super::tenants::in_office;
use crate::app::announce::say;
use crate::config::StateConfig;
use crate::tenants::admin::prices::{self, PriceSpec};
use crate::tenants::admin::{Change, Paging, money};

pub(super) fn command() -> Command {
    let option = |name: &'static str, value: &'static str| Arg::new(name).long(name).value_name(value);
    let usd = |name: &'static str| option(name, "USD");
    Command::new("prices")
        .about("The price book, in dollars per million tokens, also while servers run")
        .subcommand_required(true)
        .subcommand(
            Command::new("set")
                .about("Add a price, which holds from now or from a day on")
                .args([
                    usd("input").required(true).help("Of prompt tokens."),
                    usd("output").required(true).help("Of generated tokens."),
                    usd("cached-input").help("Of prompt tokens whose computation was reused. [default: as --input]"),
                    usd("training").help("Of tokens trained on. [default: 0]"),
                    option("tenant", "ID").help("For this tenant (proj_...). [default: all]"),
                    Arg::new("for-model").long("model").value_name("NAME").help("For this base or adapter. [default: all]"),
                    option("from", "TIME")
                        .value_parser(dates::parse)
                        .help("A day like 2026-12-01 (UTC), or seconds since 1970. [default: now]"),
                ])
                .args(state_flags()),
        )
        .subcommand(Command::new("list").about("All prices").args(state_flags()))
}

pub(super) fn run(matches: &ArgMatches, config: &StateConfig) -> anyhow::Result<()> {
    in_office(config, async |office| {
        if let Some(("set", matches)) = matches.subcommand() {
            let text = |name: &str| matches.get_one::<String>(name).cloned();
            let usd = |name: &str| {
                let read = |text: String| {
                    let problem = || anyhow!("--{name} {text:?}: dollars like 0.15 are right, not finer than a nano-dollar");
                    money::parse(&text).ok_or_else(problem)
                };
                text(name).map(read).transpose()
            };
            let input = usd("input")?.unwrap_or_default();
            let spec = PriceSpec {
                project: text("tenant").unwrap_or_else(|| "*".to_owned()),
                model: text("for-model").unwrap_or_else(|| "*".to_owned()),
                valid_from: matches.get_one::<i64>("from").copied(),
                input,
                cached_input: usd("cached-input")?.unwrap_or(input),
                output: usd("output")?.unwrap_or_default(),
                training: usd("training")?.unwrap_or_default(),
            };
            let mut change = Change::by_operator(&office).await?;
            let row = prices::create(&mut change, spec).await?;
            change.finish().await?;
            say(&format!("{}\n", row.id));
            return Ok(());
        }
        let line = |id: &str, tenant: &str, model: &str, from: &str, usd: [&str; 4]| {
            let [input, cached, output, training] = usd;
            say(&format!("{id:<31} {tenant:<30} {model:<24} {from:<11} {input:>10} {cached:>10} {output:>10} {training:>10}\n"));
        };
        line("id", "tenant", "model", "from", ["input", "cached", "output", "training"]);
        for row in prices::list(&office, None, None, &Paging::ALL).await?.rows {
            let usd = [row.input_nanos, row.cached_input_nanos, row.output_nanos, row.training_nanos].map(money::format);
            line(&row.id, &row.project_id, &row.model, &dates::day(row.valid_from), [&usd[0], &usd[1], &usd[2], &usd[3]]);
        }
        Ok(())
    })
}
