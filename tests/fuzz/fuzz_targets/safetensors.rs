//! The header of safetensors files: `cargo +nightly fuzz run --fuzz-dir tests/fuzz safetensors`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use switchyard::model::loader::safetensors_file::read_header;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(tensors) = read_header(bytes) {
        for tensor in tensors.values() {
            assert!(tensor.range.end <= bytes.len());
        }
    }
});
