//! What can be typed. Flags of settings come from the list in `config`, so that they cannot differ from file and variables.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::config::{Arity, Given, SETTINGS, Setting};

const SERVE_EXAMPLES: &str = "\
Examples:
  switchyard serve
      The bundled base and its adapters on 127.0.0.1:8080.
  switchyard serve --model llama-3.2-1b.Q4_K_M.gguf --adapter support=adapters/support
      A GGUF file and one adapter.
  switchyard serve --model org/name --quant q4_k --listen 0.0.0.0:8000 --adapter-root /srv/adapters
      A base from the hub, quantized while loading; the API may load adapters from one directory.
  switchyard serve --config config/switchyard.toml
      Settings from a file. Flags and SWITCHYARD_* variables go before it; each flag's variable has its name in capitals
      (--max-sequences: SWITCHYARD_MAX_SEQUENCES). SWITCHYARD_ADMIN_KEY sets the admin key.";

const EXAMPLES: &str = "\
Examples:
  switchyard serve                                  serve the bundled base and its adapters
  switchyard serve --model M --adapter NAME=PATH    serve another base and an adapter
  switchyard check-config --config FILE             say what is wrong with a configuration
  switchyard adapters inspect PATH                  what is in an adapter, and whether it fits the base
  switchyard adapters push NAME PATH --server URL   send an adapter to a running server
  switchyard bench --model M --batches 1,16         how fast this machine is
  switchyard train rows.jsonl --out support         an adapter from a file of examples
  switchyard eval rows.jsonl --candidate PATH       what an adapter is worth beside the base
  switchyard dataset generate rows.jsonl --task T   have another model write examples
  switchyard dataset corrupt good.jsonl bad.jsonl   worse twins of good rows
  switchyard quantize DIR base.gguf --type q4_k     a Hugging Face directory as a GGUF file
  switchyard dataset check rows.jsonl               what a file of examples is worth, and what is wrong with it
  switchyard tenants create Acme                    a tenant
  switchyard keys create worker --tenant proj_...   a key of a tenant, shown once
  switchyard prices set --input 0.15 --output 0.60  what tokens cost, in dollars a million
  switchyard usage show --by tenant                 requests, tokens and money by the day
  switchyard cost --hourly 0.40 --bench speed.json  what a million tokens cost on this machine
  switchyard usage verify                           whether the ledger and its counters agree
  switchyard keys reset-admin                       a new admin key, if it was lost";

/// The whole command line.
pub(super) fn command() -> Command {
    Command::new("switchyard")
        .version(env!("CARGO_PKG_VERSION"))
        .about("One base model, many hot-swapped LoRA adapters, behind an OpenAI-compatible API.")
        .after_help(EXAMPLES)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("serve").about("Serve a base and its adapters").after_help(SERVE_EXAMPLES).args(settings(|_| true)),
        )
        .subcommand(
            Command::new("check-config")
                .about("Print the settings and where each comes from, or everything that is wrong with them")
                .args(settings(|_| true)),
        )
        .subcommand(
            Command::new("bench")
                .about("Measure tokens per second of a base, alone and with adapters")
                .args(super::bench::arguments())
                .args(settings(|setting| of_base(setting) || ["quant", "device", "threads"].contains(&setting.key))),
        )
        .subcommand(super::dataset::command())
        .subcommand(
            Command::new("train")
                .about("Fine-tune an adapter on a file of examples")
                .args(super::train::arguments())
                .args(settings(|setting| of_base(setting) || ["quant", "device", "threads"].contains(&setting.key))),
        )
        .subcommand(
            Command::new("eval")
                .about("Judge an adapter by its answers to a file of examples, beside the base and another adapter")
                .args(super::eval::arguments())
                .args(settings(|setting| of_base(setting) || ["quant", "device", "threads", "kv_memory"].contains(&setting.key))),
        )
        .subcommand(
            Command::new("quantize")
                .about("Write a base as one GGUF file with smaller weights")
                .args(super::quantize::arguments()),
        )
        .subcommand(super::tenants::command())
        .subcommand(super::keys::command())
        .subcommand(super::prices::command())
        .subcommand(super::usage::command())
        .subcommand(super::cost::command())
        .subcommand(super::health::command())
        .subcommand(adapters())
}

fn adapters() -> Command {
    let name = || Arg::new("name").value_name("NAME").required(true).help("Public name of the adapter.");
    let path = || {
        let path = Arg::new("path").value_name("PATH").required(true).value_parser(value_parser!(PathBuf));
        path.help("PEFT directory (adapter_config.json, adapter_model.safetensors).")
    };
    let tenant = || {
        let tenant = Arg::new("tenant").long("tenant").value_name("ID");
        tenant.help("Whose adapter it is (a project's id, proj_...). Without it the adapter is shared by all tenants.")
    };
    let server = Arg::new("server").long("server").value_name("URL").default_value("http://127.0.0.1:8080");
    let server = server.help("Address of the server. The key is sent there, so that it should be https or this machine.");
    let expected = Arg::new("expected_version").long("expected-version").value_name("VERSION");
    let expected = expected.help("Only if the name points at this version now (a number or a digest; 0: not loaded).");
    Command::new("adapters")
        .about("Adapters in service (while a server runs, they are changed over its API)")
        .subcommand_required(true)
        .subcommand(Command::new("list").about("Adapters in service, also while a server runs").args(settings(of_state)))
        .subcommand(
            Command::new("add")
                .about("Check an adapter against the base and put it into service, replacing the one of that name")
                .args([name(), path(), tenant()])
                .args(settings(of_base)),
        )
        .subcommand(
            Command::new("push")
                .about("Send an adapter to a running server, which checks it and puts it into service ($SWITCHYARD_API_KEY)")
                .args([name(), path(), tenant(), server, expected]),
        )
        .subcommand(
            Command::new("remove").about("Take an adapter out of service").args([name(), tenant()]).args(settings(of_state)),
        )
        .subcommand(
            Command::new("inspect")
                .about("What is in an adapter, and whether it fits the base")
                .arg(path())
                .args(settings(of_base)),
        )
}

/// Flags of commands that need the database only.
pub(super) fn state_flags() -> Vec<Arg> {
    settings(of_state)
}

/// Flags of commands that read a base.
pub(super) fn base_flags() -> Vec<Arg> {
    settings(of_base)
}

fn of_state(setting: &Setting) -> bool {
    ["data_dir", "database", "log_level"].contains(&setting.key)
}

fn of_base(setting: &Setting) -> bool {
    of_state(setting) || setting.key == "model"
}

fn settings(wanted: impl Fn(&Setting) -> bool) -> Vec<Arg> {
    let config = Arg::new("config").long("config").value_name("FILE").value_parser(value_parser!(PathBuf));
    let config = config.help("TOML file with any of the settings.");
    SETTINGS.iter().filter(|setting| wanted(setting)).map(flag).chain([config]).collect()
}

fn flag(setting: &'static Setting) -> Arg {
    let action = match setting.arity {
        Arity::One => ArgAction::Set,
        Arity::Many => ArgAction::Append,
    };
    // Any text: the configuration reports all wrong values at once, clap would stop at the first.
    Arg::new(setting.key)
        .long(setting.flag)
        .value_name(setting.value_name)
        .action(action)
        .allow_hyphen_values(true)
        .value_parser(ValueParser::string())
        .help(format!("{} [default: {}]", setting.help, setting.default))
}

/// What was typed, for the configuration.
pub(super) fn given(matches: &ArgMatches, variables: Vec<(OsString, OsString)>) -> Given {
    let values = |setting: &'static Setting| {
        // Not every command has every flag.
        let values = matches.try_get_many::<String>(setting.key).ok().flatten()?;
        Some((setting.key, values.cloned().collect()))
    };
    Given {
        flags: SETTINGS.iter().filter_map(values).collect(),
        variables,
        config_file: matches.try_get_one::<PathBuf>("config").ok().flatten().cloned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn flags_reach_the_configuration_as_typed() {
        let line = ["switchyard", "serve", "--listen", "x", "--adapter", "a=b", "--adapter", "c=d", "--config", "f"];
        let matches = command().try_get_matches_from(line).unwrap();
        let given = given(matches.subcommand().unwrap().1, Vec::new());
        let typed = |key| given.flags.iter().find(|(name, _)| *name == key).map(|(_, values)| values.join(" "));
        assert_eq!(typed("listen").as_deref(), Some("x"));
        assert_eq!(typed("adapters").as_deref(), Some("a=b c=d"));
        assert_eq!(typed("quant"), None);
        assert_eq!(given.config_file, Some("f".into()));
    }
}
