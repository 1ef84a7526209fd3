//! A GGUF file as a base, all the way: container, configuration, tokenizer, chat template, names and shapes of tensors.
//! `cargo +nightly fuzz run --fuzz-dir tests/fuzz gguf` (seed it with tests/golden/tokenizers/*.gguf).
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use switchyard::model::loader::{self, gguf};

/// Bases are opened by path. One file for each process, as the fuzzer may run several.
static FILE: LazyLock<PathBuf> =
    LazyLock::new(|| std::env::temp_dir().join(format!("switchyard-fuzz-{}.gguf", std::process::id())));

fuzz_target!(|bytes: &[u8]| {
    let Ok(contents) = gguf::parse(bytes) else { return };
    for tensor in contents.tensors.values() {
        assert!(tensor.range.end <= bytes.len());
    }
    if std::fs::write(&*FILE, bytes).is_err() {
        return;
    }
    if let Ok(checkpoint) = loader::open(&FILE) {
        assert!(checkpoint.tensors.values().all(|tensor| tensor.range.end <= bytes.len()));
    }
});
