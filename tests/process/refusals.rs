//! Starts that must not happen say why, all at once, with an exit code that tells configuration from the rest.

use crate::support::{Home, adapter, tiny};

#[test]
fn a_wrong_configuration_names_every_problem_and_exits_with_64() {
    let home = Home::new();
    std::fs::write(home.path("s.toml"), "max_sequence = 3\nthreads = 'many'\n").unwrap();
    let mut command = home.command(&["serve", "--config", "s.toml", "--listen", "here", "--model", "no/such/thing"]);
    let output = command.env("SWITCHYARD_QANT", "none").output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{err}");
    for expected in [
        "s.toml:1: `max_sequence` is not a setting; did you mean `max_sequences`?",
        "s.toml:2: threads = \"many\"",
        "--listen: listen = \"here\"",
        "--model: model = \"no/such/thing\"",
        "SWITCHYARD_QANT: is not a variable of switchyard; did you mean `SWITCHYARD_QUANT`?",
    ] {
        assert!(err.contains(expected), "{expected}\n{err}");
    }
    assert!(!home.data().exists(), "a refused start leaves nothing behind");
}

#[test]
fn an_unknown_flag_or_command_exits_with_64() {
    let home = Home::new();
    for line in [&["serve", "--lisen", "x"][..], &["sreve"], &[]] {
        let finished = home.run(line);
        assert_eq!(finished.code, Some(64), "{finished:?}");
    }
    let help = home.run(&["serve", "--help"]);
    assert_eq!(help.code, Some(0));
    assert!(help.out.contains("--adapter-root") && help.out.contains("Examples:"), "{}", help.out);
}

#[test]
fn a_taken_port_a_taken_data_directory_and_bad_files_are_named() {
    let home = Home::new();
    let server = home.serve(&[]);
    let model = tiny();
    let model = model.to_str().unwrap();

    let second = home.run(&["serve", "--model", model, "--listen", "127.0.0.1:0"]);
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(second.err.contains("in use by another switchyard process"), "{}", second.err);

    let other = Home::new();
    let address = server.url.strip_prefix("http://").unwrap();
    let taken = other.run(&["serve", "--model", model, "--listen", address]);
    assert_eq!(taken.code, Some(1), "{taken:?}");
    assert!(taken.err.contains(&format!("cannot listen on {address}")), "{}", taken.err);

    std::fs::write(other.path("broken.gguf"), b"GGUF\x03\0\0\0").unwrap();
    let broken = other.run(&["serve", "--model", "broken.gguf", "--listen", "127.0.0.1:0"]);
    assert_eq!(broken.code, Some(1), "{broken:?}");
    assert!(broken.err.contains("broken.gguf"), "{}", broken.err);
    assert!(!broken.out.contains("sk-sy-"), "a key is shown only by a server that starts");
}

#[test]
fn an_adapter_for_another_base_stops_the_start() {
    let home = Home::new();
    let copy = home.path("narrow");
    std::fs::create_dir(&copy).unwrap();
    std::fs::copy(adapter("r4-qv").join("adapter_model.safetensors"), copy.join("adapter_model.safetensors")).unwrap();
    let config = std::fs::read_to_string(adapter("r4-qv").join("adapter_config.json")).unwrap();
    let config = config.replacen("\"r\": 4", "\"r\": 5", 1);
    std::fs::write(copy.join("adapter_config.json"), config).unwrap();
    let model = tiny();
    let arguments = ["serve", "--model", model.to_str().unwrap(), "--listen", "127.0.0.1:0", "--adapter", "support=narrow"];
    let finished = home.run(&arguments);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.err.contains("support") && finished.err.contains("rank 5"), "{}", finished.err);
}
