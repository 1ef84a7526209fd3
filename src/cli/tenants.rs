//! `switchyard tenants`: tenants beside a running server, by the rules of the admin API. Also what all such commands share.

use std::future::Future;

use anyhow::Context;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::arguments::state_flags;
use super::dates;
use crate::app;
use crate::app::announce::say;
use crate::config::StateConfig;
use crate::tenants::Office;
use crate::tenants::admin::{Change, Paging, Projects, projects};

pub(super) fn command() -> Command {
    let id = Arg::new("id").value_name("ID").required(true).help("Of the tenant (proj_...).");
    let name = Arg::new("name").value_name("NAME").required(true).help("For people.");
    let all = Arg::new("all").long("all").action(ArgAction::SetTrue).help("Archived ones, too.");
    Command::new("tenants")
        .about("Tenants (projects, in OpenAI's words), also while servers run")
        .subcommand_required(true)
        .subcommand(Command::new("create").about("Make a tenant").arg(name).args(state_flags()))
        .subcommand(Command::new("list").about("Tenants").arg(all).args(state_flags()))
        .subcommand(Command::new("archive").about("Archive a tenant: its keys do not work any more").arg(id).args(state_flags()))
}

pub(super) fn run(matches: &ArgMatches, config: &StateConfig) -> anyhow::Result<()> {
    in_office(config, async |office| match matches.subcommand() {
        Some(("create", matches)) => {
            let mut change = Change::by_operator(&office).await?;
            let row = projects::create(&mut change, &required(matches, "name")?).await?;
            change.finish().await?;
            say(&format!("{}\n", row.id));
            Ok(())
        }
        Some(("archive", matches)) => {
            let mut change = Change::by_operator(&office).await?;
            let row = projects::archive(&mut change, &required(matches, "id")?).await?;
            change.finish().await?;
            say(&format!("{} ({}) is archived\n", row.id, row.name));
            Ok(())
        }
        Some((_, matches)) => list(&office, if matches.get_flag("all") { Projects::All } else { Projects::Active }).await,
        None => Ok(()),
    })
}

async fn list(office: &Office, which: Projects) -> anyhow::Result<()> {
    let page = projects::list(office, which, &Paging::ALL).await?;
    say(&format!("{:<32} {:<9} {:<11} name\n", "id", "status", "made"));
    for row in page.rows {
        say(&format!("{:<32} {:<9} {:<11} {}\n", row.id, row.status, dates::day(row.created_at), row.name));
    }
    Ok(())
}

/// Does something with the database, whether servers run or not.
pub(super) fn in_office<T, F: Future<Output = anyhow::Result<T>>>(
    config: &StateConfig,
    work: impl FnOnce(Office) -> F,
) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(async {
        let office = app::open_office(&config.database, &config.data_dir, config.secret_key.as_ref()).await?;
        let database = office.database.clone();
        let outcome = work(office).await;
        database.close().await;
        outcome
    })
}

/// An argument that must be there.
pub(super) fn required(matches: &ArgMatches, name: &str) -> anyhow::Result<String> {
    matches.get_one::<String>(name).cloned().with_context(|| format!("{name} is missing"))
}
