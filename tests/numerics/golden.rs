//! The golden files, typed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use switchyard::model::loader::{self, Checkpoint};

/// Largest difference of a log-probability.
pub const TOLERANCE: f32 = 1e-3;
/// What leaving out a feature must change at least.
pub const MUST_MOVE: f32 = 0.05;
/// The bases, by their folders.
pub const BASES: [&str; 9] = ["llama3", "llama-linear", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "gemma3", "phi2"];
/// The same from GGUF files.
pub const FILES: [&str; 6] = ["llama-mix.gguf", "qwen3.gguf", "phi3.gguf", "gemma2.gguf", "gemma3.gguf", "phi2.gguf"];

/// What the reference computed of one prompt.
#[derive(Deserialize)]
pub struct Answer {
    pub text: String,
    pub tokens: Vec<u32>,
    /// The first token has none.
    pub logprobs: Vec<Option<f32>>,
    pub top: Vec<Option<Vec<(u32, f32)>>>,
    pub greedy: Vec<u32>,
    pub greedy_logprobs: Vec<f32>,
}

/// What the reference computed of one base.
#[derive(Deserialize)]
pub struct Expected {
    pub base: BTreeMap<String, Answer>,
    #[serde(default)]
    pub adapters: BTreeMap<String, BTreeMap<String, Answer>>,
    pub leaving_out_moves: BTreeMap<String, f32>,
    /// Of a base that serves no more than its original context (Phi-3).
    #[serde(default)]
    pub within_original: BTreeMap<String, Answer>,
    /// Of the weights before they were quantized.
    #[serde(default)]
    pub unquantized: BTreeMap<String, Answer>,
}

impl Expected {
    /// Answers of the base (`None`) and of every adapter.
    pub fn all(&self) -> impl Iterator<Item = (Option<&str>, &BTreeMap<String, Answer>)> {
        let adapters = self.adapters.iter().map(|(name, answers)| (Some(name.as_str()), answers));
        std::iter::once((None, &self.base)).chain(adapters)
    }
}

/// A base with what is expected of it.
pub struct Case {
    pub checkpoint: Checkpoint,
    pub expected: Expected,
    /// Folder of its adapters.
    pub adapters: PathBuf,
}

/// Opens a case: a folder under `models`, or a GGUF file.
pub fn case(name: &str) -> Case {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let (base, expected) = match name.strip_suffix(".gguf") {
        Some(stem) => (root.join("gguf").join(name), root.join(format!("gguf/{stem}.expected.json"))),
        None => (root.join("models").join(name), root.join(format!("models/{name}/expected.json"))),
    };
    let expected: Expected = serde_json::from_slice(&std::fs::read(expected).unwrap()).unwrap();
    for (feature, moved) in &expected.leaving_out_moves {
        assert!(*moved > MUST_MOVE, "{name}: {feature} hardly shows");
    }
    Case { checkpoint: loader::open(&base).unwrap(), expected, adapters: base.join("adapters") }
}
