//! Files that lie, break off or disagree: each is an error that names what is wrong, without a panic and without an allocation
//! larger than the file could justify.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use serde_json::{Value, json};
use switchyard::model::config::ModelConfig;
use switchyard::model::loader::{self, Checkpoint, gguf, safetensors_file};
use switchyard::model::lora::peft::AdapterFiles;
use tempfile::TempDir;

/// Remembers the largest single request.
struct Watching;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator with the same arguments.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's own promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's own promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

/// Largest allocation that the small files here could justify, bytes; the lies ask for gigabytes.
const JUSTIFIED: usize = 64 << 20;

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

fn read(path: &str) -> Vec<u8> {
    std::fs::read(golden(path)).unwrap()
}

/// Damage to a file.
#[derive(Debug, Clone)]
enum Damage {
    Byte(prop::sample::Index, u8),
    Number(prop::sample::Index, u64),
    Cut(prop::sample::Index),
    Insert(prop::sample::Index, Vec<u8>),
}

impl Damage {
    /// Applies damage within the first `reach` bytes (sizes and names, not weights).
    fn apply(&self, bytes: &mut Vec<u8>, reach: usize) {
        let reach = reach.min(bytes.len());
        if reach < 9 {
            return;
        }
        match self {
            Self::Byte(at, value) => bytes[at.index(reach)] = *value,
            Self::Number(at, value) => {
                let at = at.index(reach - 8);
                bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
            Self::Cut(at) => bytes.truncate(at.index(reach)),
            Self::Insert(at, more) => {
                let at = at.index(reach);
                bytes.splice(at..at, more.iter().copied());
            }
        }
    }
}

fn damage() -> impl Strategy<Value = Vec<Damage>> {
    let index = any::<prop::sample::Index>;
    let number = prop_oneof![
        Just(u64::MAX),
        Just(0),
        Just(1 << 63),
        Just(1 << 40),
        Just(u64::MAX - 7),
        Just(u64::from(u32::MAX)),
        any::<u64>()
    ];
    let one = prop_oneof![
        4 => (index(), any::<u8>()).prop_map(|(at, value)| Damage::Byte(at, value)),
        3 => (index(), number).prop_map(|(at, value)| Damage::Number(at, value)),
        1 => index().prop_map(Damage::Cut),
        1 => (index(), prop::collection::vec(any::<u8>(), 1..20)).prop_map(|(at, more)| Damage::Insert(at, more)),
    ];
    prop::collection::vec(one, 1..4)
}

fn damaged(bytes: &[u8], damage: &[Damage], reach: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    damage.iter().for_each(|damage| damage.apply(&mut bytes, reach));
    bytes
}

/// A base to check adapters against.
fn base() -> &'static ModelConfig {
    static BASE: OnceLock<ModelConfig> = OnceLock::new();
    BASE.get_or_init(|| loader::open(&golden("models/llama3")).unwrap().config)
}

fn files() -> &'static [Vec<u8>; 4] {
    static FILES: OnceLock<[Vec<u8>; 4]> = OnceLock::new();
    FILES.get_or_init(|| {
        [
            read("tokenizers/sentencepiece.gguf"),
            read("gguf/llama-mix.gguf"),
            read("models/llama3/model.safetensors"),
            read("models/llama3/adapters/patterns/adapter_model.safetensors"),
        ]
    })
}

/// Opens bytes as a GGUF file.
fn open_gguf(bytes: &[u8]) -> Result<Checkpoint, String> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("base.gguf");
    std::fs::write(&path, bytes).unwrap();
    loader::open(&path).map_err(|error| error.to_string())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_container_is_an_error_or_a_file(damage in damage()) {
        for bytes in [&files()[0], &files()[1]] {
            let bytes = damaged(bytes, &damage, 12_000);
            if let Ok(contents) = gguf::parse(&bytes) {
                prop_assert!(contents.tensors.values().all(|tensor| tensor.range.end <= bytes.len()));
            }
        }
        prop_assert!(LARGEST.load(Ordering::Relaxed) < JUSTIFIED);
    }

    #[test]
    fn damaged_safetensors_are_an_error_or_a_file(damage in damage()) {
        let bytes = damaged(&files()[2], &damage, 4_000);
        if let Ok(tensors) = safetensors_file::read_header(&bytes) {
            prop_assert!(tensors.values().all(|tensor| tensor.range.end <= bytes.len()));
        }
        prop_assert!(LARGEST.load(Ordering::Relaxed) < JUSTIFIED);
    }

    #[test]
    fn a_damaged_adapter_is_an_error_or_an_adapter(damage in damage(), in_config in any::<bool>()) {
        let config = read("models/llama3/adapters/patterns/adapter_config.json");
        let weights = &files()[3];
        let files = match in_config {
            true => AdapterFiles { config: damaged(&config, &damage, config.len()), weights: weights.clone() },
            false => AdapterFiles { weights: damaged(weights, &damage, weights.len()), config },
        };
        if let Ok(adapter) = files.parse(base()) {
            prop_assert!(adapter.modules.iter().all(|module| module.a.iter().chain(&module.b).all(|value| value.is_finite())));
        }
        prop_assert!(LARGEST.load(Ordering::Relaxed) < JUSTIFIED);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// The whole way: configuration, tokenizer, names and shapes.
    #[test]
    fn a_damaged_gguf_never_opens_half(damage in damage()) {
        if let Ok(checkpoint) = open_gguf(&damaged(&files()[1], &damage, 12_000)) {
            for tensor in checkpoint.tensors.values() {
                tensor.dequantize().unwrap();
            }
        }
        prop_assert!(LARGEST.load(Ordering::Relaxed) < JUSTIFIED);
    }
}

/// Replaces the first occurrence of bytes after another text.
fn replaced(bytes: &[u8], after: &str, from: &[u8], to: &[u8]) -> Vec<u8> {
    let find = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).position(|window| window == what).unwrap();
    let start = find(bytes, after.as_bytes()) + after.len();
    let at = start + find(&bytes[start..], from);
    let mut bytes = bytes.to_vec();
    bytes.splice(at..at + from.len(), to.iter().copied());
    bytes
}

#[test]
fn a_gguf_says_what_is_wrong_with_it() {
    let good = &files()[1];
    let number = |value: u32| value.to_le_bytes();
    for (bytes, word) in [
        (good[..good.len() - 100].to_vec(), "blk.1.ffn_down.weight"),
        (good[..5000].to_vec(), "truncated"),
        (b"GGML....".to_vec(), "does not begin with GGUF"),
        (Vec::new(), "truncated"),
        (replaced(good, "general.architecture", b"llama", b"gptxx"), "gptxx"),
        (replaced(good, "tokenizer.ggml.pre", b"llama-bpe", b"llama-xyz"), "llama-xyz"),
        (replaced(good, "GGUF", &number(3), &number(9)), "version is 9"),
        (replaced(good, "llama.block_count", &number(2), &number(3)), "model.layers.2"),
        (replaced(good, "llama.block_count", &number(2), &number(1)), "configuration has 1 layers"),
        (replaced(good, "llama.block_count", &number(2), &number(u32::MAX)), "number of layers is 4294967295"),
        (replaced(good, "llama.feed_forward_length", &number(512), &number(768)), "[256, 768]"),
        (replaced(good, "llama.attention.head_count", &number(8), &number(0)), "heads"),
        (replaced(good, "blk.0.attn_q.weight", &number(12), &number(10)), "Q2_K"),
        (replaced(good, "blk.0.attn_q.weight", &number(12), &number(77)), "number 77"),
        (replaced(good, "blk.0.attn_q.weight", &256u64.to_le_bytes(), &(1u64 << 62).to_le_bytes()), "blk.0.attn_q.weight"),
    ] {
        let error = open_gguf(&bytes).err().unwrap_or_else(|| panic!("{word} was accepted"));
        assert!(error.contains(word) && error.contains("base.gguf"), "{word}: {error}");
    }
}

/// A copy of a golden directory.
fn copy(name: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    for entry in std::fs::read_dir(golden(name)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    folder
}

fn edit(folder: &TempDir, file: &str, change: impl FnOnce(&mut Value)) {
    let path = folder.path().join(file);
    let mut document: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut document);
    // A copied file may be read-only.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, document.to_string()).unwrap();
}

#[test]
fn a_configuration_that_disagrees_with_its_tensors_names_them() {
    for (field, value, words) in [
        ("num_hidden_layers", json!(2), vec!["model.layers.2", "surplus"]),
        ("num_hidden_layers", json!(4), vec!["model.layers.3", "missing"]),
        ("num_hidden_layers", json!(1_000_000_000_u64), vec!["number of layers"]),
        ("hidden_size", json!(128), vec!["[384, 64]", "[384, 128]"]),
        ("intermediate_size", json!(100), vec!["[64, 128]", "[64, 100]"]),
        ("num_key_value_heads", json!(4), vec!["[32, 64]", "[64, 64]"]),
        ("num_key_value_heads", json!(3), vec!["4 attention heads", "3 key/value heads"]),
        ("head_dim", json!(15), vec!["even"]),
        ("vocab_size", json!(400), vec!["[384, 64]", "[400, 64]"]),
        ("rms_norm_eps", json!(-1.0), vec!["epsilon"]),
        ("tie_word_embeddings", json!(null), vec![]),
        ("eos_token_id", json!(999), vec![]),
    ] {
        let folder = copy("models/llama3");
        edit(&folder, "config.json", |config| config[field] = value.clone());
        match (loader::open(folder.path()), words.is_empty()) {
            (Ok(_), true) => {}
            (Err(error), false) => assert!(words.iter().all(|word| error.to_string().contains(word)), "{field}: {error}"),
            (Ok(_), false) => panic!("{field} = {value} was accepted"),
            (Err(error), true) => panic!("{field} = {value}: {error}"),
        }
    }
    let folder = copy("models/llama3");
    edit(&folder, "generation_config.json", |config| config["eos_token_id"] = json!([2, 999]));
    assert!(loader::open(folder.path()).err().unwrap().to_string().contains("special token 999"));
}

#[test]
fn missing_and_broken_files_are_named() {
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        let folder = copy("models/llama3");
        std::fs::remove_file(folder.path().join(file)).unwrap();
        assert!(loader::open(folder.path()).err().unwrap().to_string().contains(file), "{file}");
        std::fs::write(folder.path().join(file), "{\"no\": ").unwrap();
        assert!(loader::open(folder.path()).err().unwrap().to_string().contains(file), "{file}");
    }
    assert!(loader::open(Path::new("/nowhere/at/all.gguf")).err().unwrap().to_string().contains("all.gguf"));
}

/// Splits a directory's weights over two files.
fn shard(folder: &TempDir) -> BTreeMap<String, String> {
    let path = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let whole = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut map = BTreeMap::new();
    for (index, name) in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"].into_iter().enumerate() {
        let part: Vec<_> = whole.iter().filter(|(tensor, _)| tensor.contains(".mlp.") == (index == 1)).collect();
        map.extend(part.iter().map(|(tensor, _)| ((*tensor).to_owned(), name.to_owned())));
        std::fs::write(folder.path().join(name), safetensors::serialize(part, None).unwrap()).unwrap();
    }
    std::fs::remove_file(path).unwrap();
    map
}

#[test]
fn shards_are_one_base_and_their_index_is_held_to() {
    let folder = copy("models/llama3");
    let map = shard(&folder);
    let write = |map: &BTreeMap<String, String>| {
        let index = json!({"metadata": {}, "weight_map": map}).to_string();
        std::fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
        loader::open(folder.path()).map_err(|error| error.to_string())
    };
    let sharded = write(&map).unwrap();
    let single = loader::open(&golden("models/llama3")).unwrap();
    for (name, tensor) in &single.tensors {
        assert_eq!(tensor.bytes(), sharded.tensors[name].bytes(), "{name}");
    }
    let with = |tensor: &str, file: &str| {
        let mut map = map.clone();
        map.insert(tensor.to_owned(), file.to_owned());
        write(&map).err().unwrap()
    };
    assert!(with("lm_head.weight", "../model.safetensors").contains("plain file name"));
    assert!(with("lm_head.weight", "model-00002-of-00002.safetensors").contains("lm_head.weight"));
    assert!(with("more.weight", "model-00001-of-00002.safetensors").contains("more.weight"));
}
