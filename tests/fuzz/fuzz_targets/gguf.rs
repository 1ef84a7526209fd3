//! The GGUF container: `cargo +nightly fuzz run --fuzz-dir tests/fuzz gguf` (seed it with tests/golden/tokenizers/*.gguf).
#![no_main]

use libfuzzer_sys::fuzz_target;
use switchyard::model::loader::gguf;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(contents) = gguf::parse(bytes) {
        for tensor in contents.tensors.values() {
            assert!(tensor.range.end <= bytes.len());
        }
    }
});
