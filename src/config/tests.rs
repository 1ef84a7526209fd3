//! Precedence, meaning and problems, on data: no test reads the real environment.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::ffi::OsString;
use std::path::Path;

use super::*;

struct Fixture {
    dir: tempfile::TempDir,
    given: Given,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("m.gguf"), b"").unwrap();
        let given = Given {
            flags: vec![("model", vec![dir.path().join("m.gguf").to_str().unwrap().to_owned()])],
            variables: vec![("HOME".into(), dir.path().into()), ("PATH".into(), "/bin".into())],
            config_file: None,
        };
        Self { dir, given }
    }

    fn flag(mut self, key: &'static str, values: &[&str]) -> Self {
        self.given.flags.push((key, values.iter().map(|value| (*value).to_owned()).collect()));
        self
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.given.variables.push((name.into(), value.into()));
        self
    }

    fn file(mut self, text: &str) -> Self {
        let path = self.dir.path().join("switchyard.toml");
        std::fs::write(&path, text).unwrap();
        self.given.config_file = Some(path);
        self
    }

    fn config(&self) -> Config {
        Config::resolve(&self.given).unwrap_or_else(|problems| panic!("{:?}", problems.0))
    }

    fn problems(&self) -> Vec<String> {
        Config::resolve(&self.given).expect_err("has problems").0.iter().map(ToString::to_string).collect()
    }
}

#[test]
fn defaults_are_as_documented() {
    let fixture = Fixture::new();
    let config = fixture.config();
    assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    assert_eq!((config.max_batch_tokens, config.max_sequences, config.queue_capacity), (512, 64, 1024));
    assert_eq!((config.kv_memory, config.quant, config.device), (KvMemory::Auto, Quant::Auto, Device::Auto));
    assert_eq!(config.drain_deadline, Duration::from_secs(30));
    assert!(config.data_dir.starts_with(fixture.dir.path()) && config.data_dir.ends_with("switchyard"));
    assert_eq!((config.adapter_roots, config.adapters.len()), (None, 0));
}

#[test]
fn command_line_over_variables_over_file_over_defaults() {
    let file = "listen = '127.0.0.1:1'\nqueue_capacity = 10\nthreads = 3\nprefix_cache = false\n";
    let config = Fixture::new()
        .file(file)
        .variable("SWITCHYARD_LISTEN", "127.0.0.1:2")
        .variable("SWITCHYARD_THREADS", "4")
        .flag("listen", &["127.0.0.1:3"])
        .config();
    assert_eq!(config.listen.port(), 3);
    assert_eq!((config.threads, config.queue_capacity, config.prefix_cache), (4, 10, false));
}

#[test]
fn every_problem_is_found_at_once_and_names_its_place() {
    let problems = Fixture::new()
        .file("# one\nlisten = 'nowhere'\nthread = 2\n\nmax_sequences = [1]\n[adapters]\nx = 'no/such'\n")
        .variable("SWITCHYARD_QUANT", "q3")
        .variable("SWITCHYARD_DEVISE", "cpu")
        .variable("SWITCHYARD_API_KEY", "a client's")
        .flag("kv_memory", &["lots"])
        .flag("drain_deadline", &["-1"])
        .flag("log_level", &["loud"])
        .problems();
    let text = problems.join("\n");
    for expected in [
        "switchyard.toml:2: listen = \"nowhere\"",
        "switchyard.toml:3: `thread` is not a setting; did you mean `threads`?",
        "switchyard.toml:5: `max_sequences` is a array",
        "switchyard.toml:6: adapters: \"x=no/such\": the path is not a directory",
        "SWITCHYARD_QUANT: quant = \"q3\"",
        "SWITCHYARD_DEVISE: is not a variable of switchyard; did you mean `SWITCHYARD_DEVICE`?",
        "--kv-memory: kv_memory = \"lots\"",
        "--drain-deadline",
        "--log-level",
    ] {
        assert!(text.contains(expected), "{expected}\n---\n{text}");
    }
    assert_eq!(problems.len(), 9, "{text}");
}

#[test]
fn a_broken_or_missing_file_is_a_problem() {
    let broken = Fixture::new().file("listen = \n").problems();
    assert!(broken[0].contains("switchyard.toml:1: is not TOML"), "{broken:?}");
    let mut missing = Fixture::new();
    missing.given.config_file = Some("no/such.toml".into());
    assert!(missing.problems()[0].starts_with("--config: cannot read no/such.toml"), "{:?}", missing.problems());
    let missing = Fixture::new().variable("SWITCHYARD_CONFIG", "no/such.toml").problems();
    assert!(missing[0].starts_with("SWITCHYARD_CONFIG"), "{missing:?}");
}

#[test]
fn paths_of_the_file_begin_at_the_file() {
    let fixture = Fixture::new();
    std::fs::create_dir_all(fixture.dir.path().join("ad/one")).unwrap();
    let fixture = fixture.file("adapter_roots = ['ad']\ndata_dir = 'data'\n[adapters]\none = 'ad/one'\n");
    let config = fixture.config();
    let at = |path: &str| fixture.dir.path().join(path);
    assert_eq!(config.adapter_roots, Some(vec![at("ad")]));
    assert_eq!(config.adapters, [("one".to_owned(), at("ad/one"))]);
    assert_eq!(config.data_dir, at("data"));
    assert!(fixture.flag("adapters", &["ad/one"]).problems()[0].contains("NAME=PATH"));
}

#[test]
fn models_are_files_directories_or_hub_ids() {
    let model = |text: &str| Fixture::new().flag("model", &[text]);
    let hub = |text: &str| match model(text).config().model {
        ModelSource::Hub(hub) => (hub.repository, hub.revision, hub.file),
        other => panic!("{other:?}"),
    };
    let wanted = |revision: &str, file: Option<&str>| ("org/na.me-1".to_owned(), revision.to_owned(), file.map(str::to_owned));
    assert_eq!(hub("org/na.me-1"), wanted("main", None));
    assert_eq!(hub("hf://org/na.me-1@v1.0"), wanted("v1.0", None));
    assert_eq!(hub("org/na.me-1@refs/pr/1:sub/f.gguf"), wanted("refs/pr/1", Some("sub/f.gguf")));
    for bad in
        ["", "./x", "/no/such", "a/b/c", "x.gguf", "dir/x.gguf", "org/", "hf://org", "org/n:../f.gguf", "org/n:f.bin", "org/n@"]
    {
        let problems = model(bad).problems();
        assert!(problems[0].starts_with("--model"), "{bad}: {problems:?}");
    }
}

#[test]
fn sizes_times_and_addresses() {
    let kv = |text: &str| Fixture::new().flag("kv_memory", &[text]).config().kv_memory;
    assert_eq!(kv("1.5GiB"), KvMemory::Bytes(3 << 29));
    assert_eq!(kv("2 mb"), KvMemory::Bytes(2_000_000));
    assert_eq!(kv("4096"), KvMemory::Bytes(4096));
    for bad in ["0", "-1", "1e9", "GiB", "1XB", "999999999TB", "", "1.2.3"] {
        Fixture::new().flag("kv_memory", &[bad]).problems();
    }
    assert_eq!(Fixture::new().flag("response_cache", &["0"]).config().cache.bytes, 0, "no cache, as the README says");
    assert_eq!(Fixture::new().flag("listen", &["localhost:0"]).config().listen.to_string(), "127.0.0.1:0");
    assert_eq!(Fixture::new().flag("drain_deadline", &["1.5s"]).config().drain_deadline, Duration::from_millis(1500));
    let null = Fixture::new().flag("null_delay", &["250us"]).flag("null_token_gap", &["1.5 ms"]).config().null;
    assert_eq!((null.delay, null.token_gap), (Duration::from_micros(250), Duration::from_micros(1500)));
    for bad in ["", "ms", "5 m", "-1ms", "1e3s", "86401"] {
        assert!(Fixture::new().flag("null_delay", &[bad]).problems()[0].contains("1.5s or 5ms"), "{bad}");
    }
    assert_eq!(Fixture::new().flag("max_context", &["4096"]).config().max_context, Some(4096));
    let clash = Fixture::new().flag("max_batch_tokens", &["8"]).flag("max_sequences", &["9"]).problems();
    assert!(clash[0].contains("max_sequences (9)"), "{clash:?}");
}

#[test]
fn hub_variables_are_honoured_and_secrets_are_not_printed() {
    let config = Fixture::new()
        .variable("HF_HOME", "/somewhere")
        .variable("HF_TOKEN", "hf_secret")
        .variable("HF_ENDPOINT", "http://127.0.0.1:9/")
        .variable("HF_HUB_OFFLINE", "1")
        .variable("SWITCHYARD_ADMIN_KEY", "sk-very-secret-indeed")
        .config();
    assert_eq!(config.hub.cache, Path::new("/somewhere/hub"));
    assert_eq!((config.hub.endpoint.as_str(), config.hub.offline), ("http://127.0.0.1:9", true));
    let printed = format!("{config:?}");
    assert!(!printed.contains("hf_secret") && !printed.contains("very-secret"), "{printed}");
    let cache = |variables: &[(&str, &str)]| {
        let fixture = variables.iter().fold(Fixture::new(), |fixture, (name, value)| fixture.variable(name, value));
        fixture.config().hub.cache
    };
    let (xdg, home, cache_only) = (("XDG_CACHE_HOME", "/xdg"), ("HF_HOME", "/somewhere"), ("HF_HUB_CACHE", "/downloads"));
    assert_eq!(cache(&[xdg]), Path::new("/xdg/huggingface/hub"));
    assert_eq!(cache(&[xdg, home]), Path::new("/somewhere/hub"));
    assert_eq!(cache(&[xdg, home, cache_only]), Path::new("/downloads"));
    assert!(Fixture::new().variable("HF_ENDPOINT", "ftp://x").problems()[0].starts_with("HF_ENDPOINT"));
    let fixture = Fixture::new();
    std::fs::create_dir_all(fixture.dir.path().join(".cache/huggingface")).unwrap();
    std::fs::write(fixture.dir.path().join(".cache/huggingface/token"), "from_file\n").unwrap();
    assert_eq!(fixture.config().hub.token.as_deref(), Some("from_file"));
}

#[test]
fn without_a_home_the_data_directory_must_be_named() {
    let mut fixture = Fixture::new();
    fixture.given.variables = vec![(OsString::from("SWITCHYARD_LOG_FORMAT"), "json".into())];
    assert!(fixture.problems()[0].contains("--data-dir"));
    fixture.given.flags.push(("data_dir", vec!["somewhere".into()]));
    assert_eq!(fixture.config().data_dir, Path::new("somewhere"));
}

#[test]
fn the_explanation_says_where_each_value_was_typed() {
    let fixture = Fixture::new().file("threads = 2\n").variable("SWITCHYARD_QUANT", "none");
    let lines = Config::explain(&fixture.given).unwrap().1;
    assert_eq!(lines.len(), SETTINGS.len());
    assert!(lines.iter().all(|line| !line.contains("= ?") && !line.contains("the platform") && !line.contains("number of")));
    let text = lines.join("\n");
    assert!(text.contains("threads = 2  (") && text.contains("switchyard.toml:1)"), "{text}");
    assert!(text.contains("quant = none  (SWITCHYARD_QUANT)") && text.contains("listen = 127.0.0.1:8080  (default)"), "{text}");
    let home = fixture.dir.path().display();
    for resolved in [
        format!("model = {home}/m.gguf  (--model)"),
        "model_name = m  (default)".to_owned(),
        format!("adapter_roots = {home}/.local/share/switchyard/adapters  (default)"),
        format!("data_dir = {home}/.local/share/switchyard  (default)"),
        "max_body_bytes = 8388608  (default)".to_owned(),
    ] {
        assert!(!cfg!(target_os = "linux") || text.contains(&resolved), "{resolved}\n---\n{text}");
    }
    let lines = Config::explain(&Fixture::new().given).unwrap().1;
    assert!(lines.contains(&format!("threads = {}  (default)", std::thread::available_parallelism().unwrap())), "{lines:?}");
}

#[test]
fn what_the_start_would_refuse_is_a_problem_of_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let given = |name: &str| format!("{name}={}", dir.path().display());
    for name in ["a@1", "a b", "..", "x/y", &"x".repeat(65)] {
        let problems = Fixture::new().flag("adapters", &[&given(name)]).problems();
        assert!(problems[0].starts_with("--adapter: adapters: ") && problems[0].contains("cannot be the name"), "{problems:?}");
    }
    let problems = Fixture::new().flag("adapters", &[&given("m")]).problems();
    assert!(problems[0].starts_with("--adapter: ") && problems[0].contains("name of the base"), "{problems:?}");
    let problems = Fixture::new().flag("model_name", &["own"]).flag("adapters", &[&given("own")]).problems();
    assert!(problems[0].contains("name of the base"), "{problems:?}");
    for key in ["", "brief", "has a space in the middle of it", &"x".repeat(513)] {
        let problems = Fixture::new().variable("SWITCHYARD_ADMIN_KEY", key).problems();
        assert!(problems[0].starts_with("SWITCHYARD_ADMIN_KEY"), "{key}: {problems:?}");
        assert!(key.is_empty() || !problems[0].contains(key), "a key is not repeated: {problems:?}");
    }
}

#[test]
fn tokens_need_an_issuer_an_audience_and_keys_that_fit_the_algorithms() {
    let keys = |fixture: Fixture| {
        std::fs::write(fixture.dir.path().join("keys.json"), "{}").unwrap();
        let path = fixture.dir.path().join("keys.json");
        fixture.flag("jwt_keys", &[path.to_str().unwrap()])
    };
    let named = |fixture: Fixture| fixture.flag("jwt_issuer", &["https://i.example"]).flag("jwt_audience", &["a", "b"]);
    let secret = |fixture: Fixture| fixture.variable("SWITCHYARD_JWT_SECRET", "0123456789abcdef0123456789abcdef");
    assert_eq!(Fixture::new().config().jwt, None);
    let algorithms = |fixture: Fixture| {
        let names = fixture.config().jwt.unwrap().algorithms;
        names.iter().map(|algorithm| algorithm.name()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(algorithms(named(keys(Fixture::new()))), "RS256 RS384 RS512 ES256 EdDSA");
    assert_eq!(algorithms(named(secret(Fixture::new()))), "HS256");
    assert_eq!(algorithms(named(keys(Fixture::new())).flag("jwt_algorithms", &["ES256"])), "ES256");
    let url = named(Fixture::new().flag("jwt_keys", &["https://i.example/keys"]));
    assert_eq!(url.config().jwt.unwrap().keys.unwrap().to_string(), "https://i.example/keys");
    for (fixture, expected) in [
        (keys(Fixture::new()), "jwt_issuer is missing"),
        (keys(Fixture::new()), "jwt_audience is missing"),
        (named(Fixture::new()), "has no effect without jwt_keys or SWITCHYARD_JWT_SECRET"),
        (named(keys(Fixture::new())).flag("jwt_algorithms", &["HS256"]), "HS256 needs SWITCHYARD_JWT_SECRET"),
        (named(secret(Fixture::new())).flag("jwt_algorithms", &["RS256"]), "RS256 needs jwt_keys"),
        (named(keys(Fixture::new())).flag("jwt_algorithms", &["none"]), "\"none\": one of HS256"),
        (named(Fixture::new()).variable("SWITCHYARD_JWT_SECRET", "short-secret"), "shorter than 32 bytes"),
        (named(Fixture::new().flag("jwt_keys", &["http://i.example/keys"])), "https is right"),
        (named(Fixture::new().flag("jwt_keys", &["no/such.json"])), "no such file"),
        (named(keys(Fixture::new())).flag("jwt_leeway", &["0.5"]), "whole seconds from 0 to 600"),
        (named(keys(Fixture::new())).flag("jwt_refresh", &["1"]), "whole seconds from 10 to 3600"),
        (named(keys(Fixture::new())).variable("SWITCHYARD_ADMIN_KEY", "0123456789.0123456789.0123"), "two dots like a token"),
    ] {
        let text = fixture.problems().join("\n");
        assert!(text.contains(expected) && !text.contains("short-secret"), "{expected}\n---\n{text}");
    }
    let printed = format!("{:?}", named(secret(Fixture::new())).config());
    assert!(!printed.contains("0123456789abcdef"), "{printed}");
}

#[test]
fn traces_are_exported_by_builds_that_can() {
    assert_eq!(Fixture::new().config().otlp_endpoint, None);
    let given = |text: &str| Fixture::new().flag("otlp_endpoint", &[text]);
    if cfg!(feature = "otlp") {
        let address = given("http://collector:4318").config().otlp_endpoint.unwrap();
        assert_eq!(address.to_string(), "http://collector:4318/");
    } else {
        let problems = given("http://collector:4318").problems();
        assert!(problems[0].starts_with("--otlp-endpoint: ") && problems[0].contains("--features otlp"), "{problems:?}");
    }
    for bad in ["", "collector:4318", "ftp://collector", "http://user:hunter2@collector:4318"] {
        let problems = given(bad).problems();
        assert!(problems[0].starts_with("--otlp-endpoint: ") && !problems[0].contains("hunter2"), "{bad}: {problems:?}");
    }
}

#[test]
fn bases_have_names_that_can_be_typed() {
    let hub = HubModel { repository: "org/My Model@2".to_owned(), revision: "main".to_owned(), file: None };
    assert_eq!(ModelSource::Hub(hub).public_name(), "org/My-Model-2");
    assert_eq!(ModelSource::Path("some/dir/Llama.Q4.gguf".into()).public_name(), "Llama.Q4");
    assert_eq!(typeable(""), "base");
}

#[test]
fn upstreams_are_tables_whose_keys_are_elsewhere() {
    let file = "[[upstream]]\nname = 'big'\naddress = 'https://api.example.com/v1'\nmodel = 'gpt-x'\nkey_variable = 'THEIR_KEY'\n\
                tenants = ['acme']\nat_once = 3\ntimeout = '90s'\ninput_price = 0.15\noutput_price = 2\nspend_cap = 20\n\
                spend_period = 'day'\n\n[[upstream]]\nname = 'near'\naddress = 'http://127.0.0.1:9/v1'\nmodel = 'm'\n\
                key_file = 'key'\nendpoints = ['chat']\n";
    let fixture = Fixture::new().file(file).variable("THEIR_KEY", " sk-secret \n");
    std::fs::write(fixture.dir.path().join("key"), "sk-other\n").unwrap();
    let config = fixture.config();
    let [big, near] = config.upstreams.as_slice() else { panic!("two") };
    assert_eq!((big.remote.at_once, big.remote.times.whole.as_secs()), (3, 90));
    assert_eq!(big.price.as_ref().map(|price| (price.input, price.cached_input)), Some((150_000_000, 150_000_000)));
    assert_eq!(big.cap.map(|cap| cap.nanos), Some(20_000_000_000));
    assert_eq!((big.tenants.as_deref(), near.endpoints.len()), (Some(&["acme".to_owned()][..]), 1));
    assert!(big.remote.key != near.remote.key && near.remote.key.is_some());
    assert!(!format!("{config:?}").contains("sk-"), "keys are shown to nobody");
}

#[test]
fn what_is_wrong_with_an_upstream_is_named_with_its_line() {
    let file = "[[upstream]]\nname = 'm'\nadress = 'x'\nmodel = 'a'\nkey_variable = 'NO_SUCH'\nendpoints = ['images']\n\
                spend_cap = 3\nretries = 'many'\n[[upstream]]\nname = 'x y'\naddress = 'https://a:b@c/v1'\nmodel = 'a'\n";
    let text = Fixture::new().flag("model_name", &["m"]).file(file).problems().join("\n");
    for expected in [
        "switchyard.toml:3: `upstream.adress` is not a setting; did you mean `address`?",
        "switchyard.toml:1: upstream.address is missing",
        "switchyard.toml:5: upstream.key_variable = \"NO_SUCH\": this variable is not set",
        "switchyard.toml:6: upstream.endpoints = \"images\": some of chat, completions and embeddings are right",
        "switchyard.toml:7: upstream.spend_cap = \"3\": without prices nothing is spent",
        "switchyard.toml:8: upstream.retries = \"many\"",
        "switchyard.toml:11: upstream.address",
    ] {
        assert!(text.contains(expected), "{expected}\n---\n{text}");
    }
    assert!(!text.contains("a:b@"), "an address may hold a password: {text}");
    let file = "[[upstream]]\nname = 'm'\naddress = 'http://c/v1'\nmodel = 'a'\n";
    let text = Fixture::new().flag("model_name", &["m"]).file(file).problems().join("\n");
    assert!(text.contains("switchyard.toml:2: upstream.name = \"m\": another model has this name"), "{text}");
    assert!(Fixture::new().file("upstream = 'x'\n").problems()[0].contains("[[upstream]] is right"));
    let file = "[[failover]]\nname = 'any'\nmodels = ['m', 'any']\n[[failover]]\nname = 'one'\nmodels = ['m']\n";
    let text = Fixture::new().file(file).problems().join("\n");
    for expected in
        ["switchyard.toml:1: failover.models: \"any\" is a name that several", "switchyard.toml:4: failover.models: a list"]
    {
        assert!(text.contains(expected), "{expected}\n---\n{text}");
    }
}

#[test]
fn a_capability_has_students_teachers_an_order_and_a_budget() {
    let upstream =
        |name: &str, more: &str| format!("[[upstream]]\nname = '{name}'\naddress = 'http://c/v1'\nmodel = 'a'\n{more}");
    let file = upstream("dear", "input_price = 1\noutput_price = 2\n")
        + "[[capability]]\nname = 'answers'\nstudents = ['m', 'support']\nteachers = ['dear']\norder = 'teachers-first'\n\
           when_waiting = 4\nbudget = 2.5\nbudget_period = 'day'\n";
    let config = Fixture::new().flag("model_name", &["m"]).file(&file).config();
    let answers = &config.failovers[0];
    assert_eq!((answers.name.as_str(), answers.when_waiting), ("answers", Some(4)));
    assert_eq!(answers.models, ["dear", "m", "support"]);
    let budget = answers.capability.and_then(|capability| capability.budget).unwrap();
    assert_eq!((budget.nanos, budget.period.name()), (2_500_000_000, "day"));
    let file = upstream("free", "")
        + "[[capability]]\nname = 'a'\nstudents = ['free', 'b']\nteachers = ['free', 'm']\nbudget = 1\norder = 'none'\n\
           [[capability]]\nname = 'b'\nbudget_period = 'day'\n[[failover]]\nname = 'c'\nmodels = ['m', 'a']\n";
    let text = Fixture::new().flag("model_name", &["m"]).file(&file).problems().join("\n");
    for expected in [
        "switchyard.toml:7: capability.students: \"free\" is an upstream; those are teachers",
        "switchyard.toml:7: capability.students: \"b\" is a name that several models share itself",
        "switchyard.toml:8: capability.teachers: \"free\" has no prices",
        "switchyard.toml:8: capability.teachers: \"m\" is no [[upstream]]",
        "switchyard.toml:10: capability.order = \"none\": students-first or teachers-first is right",
        "switchyard.toml:11: capability.students: at least one student or teacher is right",
        "switchyard.toml:13: capability.budget_period = \"day\": there is no `budget`",
        "switchyard.toml:16: failover.models: \"a\" is a capability; models are right",
    ] {
        assert!(text.contains(expected), "{expected}\n---\n{text}");
    }
}
