//! `switchyard health`: asks a running server how it is, for health checks of images that hold no other client.

use std::time::Duration;

use anyhow::Context;
use clap::{Arg, ArgMatches, Command};

use crate::app::announce::say;
use crate::outbound::{Address, Caller};

/// Longest answer that is read, bytes.
const MAX_ANSWER: usize = 1 << 16;
/// Longest wait.
const PATIENCE: Duration = Duration::from_secs(4);

pub(super) fn command() -> Command {
    let server = Arg::new("server").long("server").value_name("URL").default_value("http://127.0.0.1:8080");
    let page = Arg::new("page").long("page").value_name("PAGE").value_parser(["health", "ready"]).default_value("health");
    Command::new("health")
        .about("Ask a running server whether it can do its work; exit code 1 where it cannot")
        .args([server.help("Address of the server."), page.help("health: it can do its work. ready: it takes requests now.")])
}

pub(super) fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    let given = matches.get_one::<String>("server").context("the server is missing")?;
    let page = matches.get_one::<String>("page").context("the page is missing")?;
    let server = Address::anywhere(given).with_context(|| format!("--server {given:?}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let answer = runtime.block_on(async { Caller::new(server.at([page.as_str()]), PATIENCE)?.get(MAX_ANSWER).await });
    let body = answer.with_context(|| format!("{given} is not well"))?;
    say(&format!("{}\n", String::from_utf8_lossy(&body)));
    Ok(())
}
