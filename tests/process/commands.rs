//! Commands beside `serve`.

use std::time::{Duration, Instant};

use crate::support::{Home, adapter, tiny};

#[tokio::test]
async fn a_lost_admin_key_is_replaced() {
    let home = Home::new();
    let mut server = home.serve(&[]);
    let old = server.key.clone();
    let reset = home.run(&["keys", "reset-admin"]);
    assert_eq!(reset.code, Some(0), "{reset:?}");
    let new = reset.out.split_whitespace().find(|word| word.starts_with("sk-sy-")).unwrap().to_owned();
    // The running server takes it over within a moment.
    server.key = new;
    let deadline = Instant::now() + Duration::from_secs(5);
    while server.get("/v1/models").await.0 != 200 {
        assert!(Instant::now() < deadline, "the new key was not taken over");
    }
    server.key = old;
    assert_eq!(server.get("/v1/models").await.0, 401);
}

#[tokio::test]
async fn the_operators_own_key_is_taken_and_not_shown() {
    let home = Home::new();
    let mut server = home.serve_with(&[], &[("SWITCHYARD_ADMIN_KEY", "a-key-of-the-operator")]);
    assert!(!server.announced.contains("a-key-of-the-operator"), "{}", server.announced);
    server.key = "a-key-of-the-operator".to_owned();
    assert_eq!(server.get("/v1/models").await.0, 200);
    server.stop();
    let short = home
        .command(&["serve", "--listen", "127.0.0.1:0", "--model", tiny().to_str().unwrap()])
        .env("SWITCHYARD_ADMIN_KEY", "short")
        .output()
        .unwrap();
    assert_eq!(short.status.code(), Some(64));
}

#[test]
fn adapters_are_added_listed_and_removed_without_a_server() {
    let home = Home::new();
    let model = tiny();
    let model = model.to_str().unwrap();
    let path = adapter("patterns");
    let path = path.to_str().unwrap();
    let run = |arguments: &[&str]| {
        let finished = home.run(arguments);
        assert_eq!(finished.code, Some(0), "{finished:?}");
        finished.out
    };
    assert!(run(&["adapters", "list"]).contains("no adapters"));
    assert!(!home.data().exists(), "looking makes nothing");
    assert!(run(&["adapters", "add", "support", path, "--model", model]).contains("support@1"));
    assert!(run(&["adapters", "list"]).contains("support"));
    let inspected = run(&["adapters", "inspect", path, "--model", model]);
    assert!(inspected.contains("it fits") && inspected.contains("self_attn.q_proj"), "{inspected}");

    let server = home.serve(&[]);
    assert!(server.announced.contains("support@1"), "{}", server.announced);
    assert!(run(&["adapters", "list"]).contains("support"), "also while a server runs");
    let busy = home.run(&["adapters", "remove", "support"]);
    assert!(busy.code == Some(1) && busy.err.contains("POST /v1/unload_lora_adapter"), "{busy:?}");
    server.stop();

    run(&["adapters", "remove", "support"]);
    assert!(run(&["adapters", "list"]).contains("no adapters"));
    let absent = home.run(&["adapters", "remove", "support"]);
    assert!(absent.code == Some(1) && absent.err.contains("cannot be found"), "{absent:?}");
    let unfit = home.run(&["adapters", "inspect", model, "--model", model]);
    assert!(unfit.code == Some(1) && unfit.err.contains("adapter_config.json"), "{unfit:?}");
}

#[test]
fn adapters_are_pushed_to_a_running_server() {
    let home = Home::new();
    let server = home.serve(&[]);
    let path = adapter("patterns");
    let path = path.to_str().unwrap();
    let push = |name: &str, more: &[&str], key: Option<&str>| {
        let arguments = [&["adapters", "push", name, path, "--server", &server.url], more].concat();
        let mut command = home.command(&arguments);
        key.map(|key| command.env("SWITCHYARD_API_KEY", key));
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout) + &text(output.stderr))
    };
    let (code, text) = push("voice", &["--expected-version", "0"], Some(&server.key));
    assert!(code == Some(0) && text.contains("voice@1 ("), "{text}");
    assert!(home.run(&["adapters", "list"]).out.contains("voice"));
    for (more, key, expected) in [
        (&["--expected-version", "9"][..], Some(server.key.as_str()), "the server answered 409: adapter 'voice' is at voice@1"),
        (&["--tenant", "proj_nobody"], Some(&server.key), "there is no project"),
        (&[], Some("sk-sy-of-nobody-at-all"), "the server answered 401: Incorrect API key"),
        (&[], None, "SWITCHYARD_API_KEY is not set"),
        (&["--server", "nowhere"], Some(&server.key), "--server"),
    ] {
        let (code, text) = push("voice", more, key);
        assert!(code != Some(0) && text.contains(expected), "{expected}\n---\n{text}");
    }
    // Who is refused while much is still to be sent reads why.
    let large = home.path("large");
    std::fs::create_dir(&large).unwrap();
    std::fs::write(large.join("adapter_config.json"), "{}").unwrap();
    std::fs::write(large.join("adapter_model.safetensors"), vec![0; 8 << 20]).unwrap();
    for _ in 0..10 {
        for (more, key, expected) in [
            (&["--tenant", "proj_nobody"][..], server.key.as_str(), "there is no project"),
            (&[], "sk-sy-of-nobody-at-all", "the server answered 401: Incorrect API key"),
        ] {
            let arguments = [&["adapters", "push", "voice", large.to_str().unwrap(), "--server", &server.url], more].concat();
            let output = home.command(&arguments).env("SWITCHYARD_API_KEY", key).output().unwrap();
            let text = String::from_utf8(output.stderr).unwrap();
            assert!(text.contains(expected), "{expected}\n---\n{text}");
        }
    }
    server.stop();
}

#[test]
fn check_config_prints_settings_or_problems() {
    let home = Home::new();
    let model = tiny();
    let model = model.to_str().unwrap();
    let good = home.run(&["check-config", "--model", model, "--threads", "2"]);
    assert_eq!(good.code, Some(0), "{good:?}");
    assert!(good.out.contains("threads = 2  (--threads)") && good.out.contains("no problems"), "{}", good.out);
    let bad = home.run(&["check-config", "--model", model, "--threads", "0", "--quant", "x"]);
    assert_eq!(bad.code, Some(64));
    assert!(bad.err.contains("--threads") && bad.err.contains("--quant"), "{}", bad.err);
    let data = format!("data_dir = {}  (SWITCHYARD_DATA_DIR)", home.data().display());
    assert!(good.out.contains(&data) && good.out.contains("model_name = llama3  (default)"), "{}", good.out);

    let named = format!("a@1={}", adapter("r4-qv").display());
    let mut command = home.command(&["check-config", "--model", model, "--adapter", &named]);
    let refused = command.env("SWITCHYARD_ADMIN_KEY", "short").output().unwrap();
    let err = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(64), "{err}");
    assert!(err.contains("--adapter: ") && err.contains("SWITCHYARD_ADMIN_KEY: "), "{err}");
}
