//! `switchyard keys`: keys beside a running server, by the rules of the admin API. A new key is shown once.

use std::collections::BTreeMap;

use anyhow::{Context, anyhow};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::arguments::state_flags;
use super::tenants::{in_office, required};
use super::{complain, dates};
use crate::app::announce::say;
use crate::config::StateConfig;
use crate::tenants::admin::keys::{self, KeySpec, ShownKey};
use crate::tenants::admin::{Change, KeysOf, Paging};
use crate::tenants::{CacheConsent, DEFAULT_TENANT, Office, Priority, Scopes};

pub(super) fn command() -> Command {
    let id = || Arg::new("id").value_name("ID").required(true).help("Of the key (key_...).");
    let tenant = || Arg::new("tenant").long("tenant").value_name("ID");
    let many = |name: &'static str| Arg::new(name).long(name).action(ArgAction::Append);
    Command::new("keys")
        .about("Keys of the API, also while servers run")
        .subcommand_required(true)
        .subcommand(
            Command::new("create")
                .about("Make a key and show it once")
                .args([
                    Arg::new("name").value_name("NAME").required(true).help("For people."),
                    tenant().conflicts_with("organization").help("Whose it is (proj_...). [default: proj_default]"),
                    Arg::new("organization")
                        .long("organization")
                        .action(ArgAction::SetTrue)
                        .help("A key of the organization: an admin's, unless --scope says something else."),
                    many("scope")
                        .value_name("SCOPE")
                        .help("inference, fine_tuning, read_only, admin. May be repeated. [default: inference, fine_tuning]"),
                    // Not `model`, which is a setting.
                    Arg::new("only-model")
                        .long("model")
                        .action(ArgAction::Append)
                        .value_name("NAME")
                        .help("A model that it may use. May be repeated. [default: all]"),
                    many("label").value_name("NAME=VALUE").help("For programs of its owner. May be repeated."),
                    Arg::new("expires_in")
                        .long("expires-in")
                        .value_name("SECONDS")
                        .value_parser(value_parser!(i64))
                        .help("How long it lives. [default: for good]"),
                    Arg::new("priority")
                        .long("priority")
                        .value_name("CLASS")
                        .default_value("standard")
                        .help("batch, standard or high: its class in the queue."),
                    Arg::new("caching")
                        .long("caching")
                        .value_name("WHEN")
                        .default_value("per_request")
                        .help("per_request or always: whether answers may come from the cache."),
                ])
                .args(state_flags()),
        )
        .subcommand(
            Command::new("list")
                .about("Keys that are not revoked")
                .arg(tenant().help("Only of this tenant, or of the `organization`."))
                .args(state_flags()),
        )
        .subcommand(Command::new("revoke").about("Revoke a key").arg(id()).args(state_flags()))
        .subcommand(
            Command::new("rotate")
                .about("Make a new key like an old one, which ends after an overlap")
                .arg(id())
                .arg(
                    Arg::new("overlap")
                        .long("overlap")
                        .value_name("SECONDS")
                        .default_value("0")
                        .value_parser(value_parser!(i64))
                        .help("How long the old one goes on working."),
                )
                .args(state_flags()),
        )
        .subcommand(
            Command::new("reset-admin").about("Make a new admin key, if it was lost, and show it once").args(state_flags()),
        )
}

pub(super) fn run(matches: &ArgMatches, config: &StateConfig) -> anyhow::Result<()> {
    in_office(config, async |office| match matches.subcommand() {
        Some(("create", matches)) => create(&office, matches).await,
        Some(("list", matches)) => list(&office, matches.get_one::<String>("tenant").map(String::as_str)).await,
        Some(("revoke", matches)) => {
            let id = required(matches, "id")?;
            let mut change = Change::by_operator(&office).await?;
            keys::revoke(&mut change, KeysOf::Everybody, &id).await?;
            change.finish().await?;
            say(&format!("{id} is revoked\n"));
            Ok(())
        }
        Some(("rotate", matches)) => {
            let overlap = *matches.get_one::<i64>("overlap").context("the overlap is missing")?;
            let mut change = Change::by_operator(&office).await?;
            let (key, old) = keys::rotate(&mut change, KeysOf::Everybody, &required(matches, "id")?, overlap).await?;
            change.finish().await?;
            show(&key);
            say(&format!("{} goes on working for {overlap} seconds.\n", old.id));
            Ok(())
        }
        _ => reset_admin(&office, config).await,
    })
}

async fn create(office: &Office, matches: &ArgMatches) -> anyhow::Result<()> {
    let all = |name: &str| matches.get_many::<String>(name).into_iter().flatten().cloned().collect::<Vec<_>>();
    let name = required(matches, "name")?;
    let tenant = matches.get_one::<String>("tenant").map_or(DEFAULT_TENANT, String::as_str);
    let usual =
        if matches.get_flag("organization") { KeySpec::of_organization(&name) } else { KeySpec::of_project(tenant, &name) };
    let scopes = all("scope");
    let models = all("only-model");
    let label = |label: &String| {
        let (name, value) = label.split_once('=').ok_or_else(|| anyhow!("--label {label:?}: NAME=VALUE is right"))?;
        anyhow::Ok((name.to_owned(), value.to_owned()))
    };
    let priority = required(matches, "priority")?;
    let caching = required(matches, "caching")?;
    let expires_in = matches.get_one::<i64>("expires_in").copied();
    let mut change = Change::by_operator(office).await?;
    let spec = KeySpec {
        scopes: if scopes.is_empty() { usual.scopes } else { Scopes::parse(&scopes.join(","))? },
        models: (!models.is_empty()).then_some(models),
        labels: all("label").iter().map(label).collect::<Result<BTreeMap<_, _>, _>>()?,
        priority: Priority::named(&priority)
            .with_context(|| format!("--priority {priority:?}: batch, standard or high is right"))?,
        caching: CacheConsent::named(&caching)
            .with_context(|| format!("--caching {caching:?}: per_request or always is right"))?,
        expires_at: expires_in.map(|seconds| change.now().saturating_add(seconds)),
        ..usual
    };
    let key = keys::create(&mut change, spec).await?;
    change.finish().await?;
    show(&key);
    Ok(())
}

fn show(key: &ShownKey) {
    let row = &key.row;
    let of = row.project_id.as_deref().unwrap_or("the organization");
    say(&format!("{} ({}) of {of}, shown only this once:\n\n  {}\n\n", row.id, row.name, key.value));
}

async fn list(office: &Office, tenant: Option<&str>) -> anyhow::Result<()> {
    let of = match tenant {
        None => KeysOf::Everybody,
        Some("organization") => KeysOf::Organization,
        Some(tenant) => KeysOf::Project(tenant),
    };
    let page = keys::list(office, of, &Paging::ALL).await?;
    let line = |id: &str, tenant: &str, key: &str, scopes: &str, expires: &str, used: &str, name: &str| {
        say(&format!("{id:<29} {tenant:<30} {key:<14} {scopes:<22} {expires:<11} {used:<11} {name}\n"));
    };
    line("id", "tenant", "key", "scopes", "expires", "used", "name");
    for row in page.rows {
        let tenant = row.project_id.as_deref().unwrap_or("organization");
        let at = |time: Option<i64>| time.map_or_else(|| "never".to_owned(), dates::day);
        line(&row.id, tenant, &row.redacted, &row.scopes, &at(row.expires_at), &at(row.last_used_at), &row.name);
    }
    Ok(())
}

async fn reset_admin(office: &Office, config: &StateConfig) -> anyhow::Result<()> {
    let key = office.reset_admin().await?;
    say(&format!("The new admin key, shown only this once; the old one is void:\n\n  {key}\n"));
    if config.admin_key.is_some() {
        complain("SWITCHYARD_ADMIN_KEY is set: the next start with it replaces this key");
    }
    Ok(())
}
