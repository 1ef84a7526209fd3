//! The reader against a corpus of adapters, good and bad, written with the safetensors crate.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use super::*;
use crate::model::config::{Architecture, LinearSite, RopeScaling};

fn base() -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Llama,
        vocab_size: 32,
        hidden_size: 8,
        intermediate_size: 12,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        head_dim: 4,
        rms_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        context_length: 64,
        sliding_window: None,
        tied_embeddings: false,
        details: crate::model::config::Details::default(),
    }
}

/// An adapter under construction: configuration fields and tensors by name.
#[derive(Clone)]
struct Corpus {
    config: Value,
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
}

impl Corpus {
    /// Rank 2 on every q and v projection, values counting up from 0 in steps of 1/4.
    fn plain() -> Self {
        let config = json!({"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 8, "bias": "none",
            "target_modules": ["v_proj", "q_proj"], "lora_dropout": 0.1, "inference_mode": true, "use_dora": false});
        let mut corpus = Self { config, tensors: BTreeMap::new() };
        for layer in 0..2 {
            corpus.pair(layer, LinearSite::Q, 2);
            corpus.pair(layer, LinearSite::V, 2);
        }
        corpus
    }

    fn empty(config: Value) -> Self {
        let mut corpus = Self::plain();
        corpus.tensors.clear();
        corpus.merge(config);
        corpus
    }

    fn merge(&mut self, fields: Value) {
        for (name, value) in fields.as_object().unwrap() {
            self.config[name] = value.clone();
        }
    }

    fn with(mut self, fields: Value) -> Self {
        self.merge(fields);
        self
    }

    fn pair(&mut self, layer: usize, site: LinearSite, rank: usize) {
        let (out, inner) = base().linear_shape(site);
        self.put(&name(layer, site, "lora_A"), vec![rank, inner]);
        self.put(&name(layer, site, "lora_B"), vec![out, rank]);
    }

    fn put(&mut self, name: &str, shape: Vec<usize>) {
        let count: usize = shape.iter().product();
        let bytes = (0..count).flat_map(|index| (index as f32 / 4.0).to_le_bytes()).collect();
        self.tensors.insert(name.to_owned(), (Dtype::F32, shape, bytes));
    }

    fn files(&self) -> AdapterFiles {
        let views = self
            .tensors
            .iter()
            .map(|(name, (dtype, shape, bytes))| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
        AdapterFiles { config: serde_json::to_vec(&self.config).unwrap(), weights: safetensors::serialize(views, None).unwrap() }
    }

    fn parse(&self) -> Result<LoraWeights, ModelError> {
        self.files().parse(&base())
    }

    fn refusal(&self) -> String {
        self.parse().expect_err("must be refused").to_string()
    }
}

fn name(layer: usize, site: LinearSite, half: &str) -> String {
    format!("base_model.model.model.layers.{layer}.{}.{half}.weight", site.module())
}

fn scales(weights: &LoraWeights) -> Vec<(usize, LinearSite, usize, f32)> {
    weights.modules.iter().map(|module| (module.layer, module.site, module.rank, module.scale)).collect()
}

#[test]
fn a_plain_adapter_is_read_in_order_with_its_values() {
    let weights = Corpus::plain().parse().unwrap();
    use LinearSite::{Q, V};
    assert_eq!(scales(&weights), [(0, Q, 2, 4.0), (0, V, 2, 4.0), (1, Q, 2, 4.0), (1, V, 2, 4.0)]);
    assert_eq!(weights.max_rank, 2);
    assert_eq!(weights.modules[1].a.len(), 2 * 8);
    assert_eq!(weights.modules[1].b.len(), 4 * 2);
    assert_eq!(weights.modules[0].a[..3], [0.0, 0.25, 0.5]);
}

#[test]
fn half_precision_and_named_tensors_are_read() {
    for (dtype, half) in [(Dtype::F16, f16::from_f32(0.5).to_le_bytes()), (Dtype::BF16, bf16::from_f32(0.5).to_le_bytes())] {
        let mut corpus = Corpus::plain();
        corpus.tensors = corpus
            .tensors
            .into_iter()
            .map(|(name, (_, shape, bytes))| {
                let bytes = half.repeat(bytes.len() / 4);
                (name.replace(".weight", ".default.weight"), (dtype, shape, bytes))
            })
            .collect();
        let weights = corpus.parse().unwrap();
        assert!(weights.modules.iter().all(|module| module.a.iter().chain(&module.b).all(|value| *value == 0.5)));
    }
}

#[test]
fn rank_stabilized_scale_divides_by_the_root() {
    let weights = Corpus::plain().with(json!({"use_rslora": true, "lora_alpha": 3})).parse().unwrap();
    assert!((weights.modules[0].scale - 3.0 / 2f32.sqrt()).abs() < 1e-6);
}

#[test]
fn patterns_match_the_end_of_the_path_and_the_first_one_decides() {
    use LinearSite::{Q, V};
    let mut corpus = Corpus::empty(json!({
        "rank_pattern": {"model.layers.1.self_attn.q_proj": 4, "q_proj": 3, "proj": 9},
        "alpha_pattern": {r"layers\.0\.self_attn\.[qv]_proj": 16, "v_proj": 1.5},
    }));
    corpus.pair(0, Q, 3);
    corpus.pair(0, V, 2);
    corpus.pair(1, Q, 4);
    corpus.pair(1, V, 2);
    let weights = corpus.parse().unwrap();
    // "proj" alone is not the end of "..v_proj" after a dot, so it matches nothing.
    assert_eq!(scales(&weights), [(0, Q, 3, 16.0 / 3.0), (0, V, 2, 8.0), (1, Q, 4, 2.0), (1, V, 2, 0.75)]);
    assert_eq!(weights.max_rank, 4);
}

#[test]
fn targets_by_regex_and_all_linear() {
    let mut corpus = Corpus::empty(json!({"target_modules": r".*layers\.(?!0).*\.(gate|down)_proj"}));
    corpus.pair(1, LinearSite::Gate, 2);
    corpus.pair(1, LinearSite::Down, 2);
    assert_eq!(corpus.parse().unwrap().modules.len(), 2);

    let mut corpus = Corpus::empty(json!({"target_modules": "all-linear"}));
    for layer in 0..2 {
        LinearSite::ALL.into_iter().for_each(|site| corpus.pair(layer, site, 2));
    }
    assert_eq!(corpus.parse().unwrap().modules.len(), 14);

    // A regular expression must match the whole path, a list its end.
    let refusal = Corpus::plain().with(json!({"target_modules": "q_proj"})).refusal();
    assert!(refusal.contains("does not target"), "{refusal}");

    let mut corpus = Corpus::empty(json!({"exclude_modules": ["layers.0.self_attn.q_proj", "v_proj"]}));
    corpus.pair(1, LinearSite::Q, 2);
    assert_eq!(corpus.parse().unwrap().modules.len(), 1);
}

#[test]
fn unsupported_settings_are_refused_by_name() {
    for (fields, named) in [
        (json!({"use_dora": true}), "use_dora"),
        (json!({"modules_to_save": ["lm_head"]}), "modules_to_save"),
        (json!({"bias": "all"}), "bias"),
        (json!({"lora_bias": true}), "lora_bias"),
        (json!({"fan_in_fan_out": true}), "fan_in_fan_out"),
        (json!({"layers_to_transform": [0]}), "layers_to_transform"),
        (json!({"layers_to_transform": 0}), "layers_to_transform"),
        (json!({"layer_replication": [[0, 2]]}), "layer_replication"),
        (json!({"trainable_token_indices": [1]}), "trainable_token_indices"),
        (json!({"alora_invocation_tokens": [1]}), "alora_invocation_tokens"),
        (json!({"megatron_config": {"x": 1}}), "megatron_config"),
        (json!({"target_parameters": ["w"]}), "target_parameters"),
        (json!({"use_something_new": true}), "use_something_new"),
        (json!({"peft_type": "IA3"}), "peft_type"),
        (json!({"peft_type": null}), "peft_type"),
        (json!({"task_type": "SEQ_CLS"}), "task_type"),
        (json!({"init_lora_weights": "pissa"}), "init_lora_weights"),
        (json!({"target_modules": ["q_proj", "lm_head"]}), "lm_head"),
        (json!({"target_modules": ["embed_tokens"]}), "embed_tokens"),
        (json!({"target_modules": ".*"}), "embed_tokens"),
        (json!({"target_modules": null}), "target_modules"),
        (json!({"target_modules": 3}), "target_modules"),
        (json!({"target_modules": [3]}), "target_modules"),
        (json!({"target_modules": "(q_proj"}), "target_modules"),
        (json!({"target_modules": ["c_attn"]}), "\"c_attn\""),
        (json!({"r": 0}), "r is 0"),
        (json!({"r": -1}), "r is -1"),
        (json!({"r": 2.5}), "r is 2.5"),
        (json!({"r": "8"}), "r is"),
        (json!({"r": null}), "r is null"),
        (json!({"r": 1u64 << 60}), "rank"),
        (json!({"lora_alpha": 1e39}), "lora_alpha"),
        (json!({"lora_alpha": "16"}), "lora_alpha"),
        (json!({"rank_pattern": {"q_proj": 0}}), "rank_pattern"),
        (json!({"rank_pattern": [1]}), "rank_pattern"),
        (json!({"alpha_pattern": {"(": 1}}), "alpha_pattern"),
        (json!({"use_rslora": "yes"}), "use_rslora"),
    ] {
        let refusal = Corpus::plain().with(fields.clone()).refusal();
        assert!(refusal.contains(named), "{fields}: {refusal}");
    }
}

#[test]
fn settings_of_training_are_accepted() {
    let extra = json!({"loftq_config": {"loftq_bits": 4}, "eva_config": null, "revision": "main", "auto_mapping": null,
        "qalora_group_size": 16, "megatron_core": "megatron.core", "layer_replication": null, "lora_bias": false,
        "rank_pattern": {}, "alpha_pattern": {}, "init_lora_weights": true, "some_future_switch": false,
        "some_future_list": [], "ensure_weight_tying": false, "base_model_name_or_path": "org/base"});
    Corpus::plain().with(extra).parse().unwrap();
}

#[test]
fn shapes_of_another_base_are_named() {
    let mut corpus = Corpus::plain();
    let wide = name(1, LinearSite::Q, "lora_A");
    corpus.put(&wide, vec![2, 16]);
    let refusal = corpus.refusal();
    assert!(refusal.contains("another base") && refusal.contains(&wide) && refusal.contains("[2, 8]"), "{refusal}");

    let mut corpus = Corpus::plain();
    corpus.pair(2, LinearSite::Q, 2);
    let refusal = corpus.refusal();
    assert!(refusal.contains("another base") && refusal.contains("2 layers"), "{refusal}");

    // Right for the base, wrong for the configuration.
    let refusal = Corpus::plain().with(json!({"r": 3})).refusal();
    assert!(refusal.contains("rank 3") && !refusal.contains("another base"), "{refusal}");

    let mut corpus = Corpus::plain();
    corpus.put(&wide, vec![16]);
    assert!(corpus.refusal().contains("[16]"));
}

#[test]
fn missing_and_surplus_tensors_are_named() {
    for half in ["lora_A", "lora_B"] {
        let mut corpus = Corpus::plain();
        corpus.tensors.remove(&name(1, LinearSite::V, half)).unwrap();
        let refusal = corpus.refusal();
        assert!(refusal.contains(&format!("layers.1.self_attn.v_proj.{half}")), "{refusal}");
    }
    for surplus in [
        "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector",
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "base_model.model.lm_head.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias",
        "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight",
        "base_model.model.model.layers.00.self_attn.q_proj.lora_A.weight",
        "model.layers.0.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight",
        "something",
    ] {
        let mut corpus = Corpus::plain();
        corpus.put(surplus, vec![2, 8]);
        let refusal = corpus.refusal();
        assert!(refusal.contains(surplus) || refusal.contains("twice"), "{refusal}");
    }
}

#[test]
fn weights_that_are_not_finite_are_refused_with_their_tensor() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut corpus = Corpus::plain();
        let tensor = name(0, LinearSite::V, "lora_B");
        corpus.tensors.get_mut(&tensor).unwrap().2[8..12].copy_from_slice(&bad.to_le_bytes());
        let refusal = corpus.refusal();
        assert!(refusal.contains(&tensor) && refusal.contains("index 2"), "{refusal}");
    }
    let mut corpus = Corpus::plain();
    let tensor = name(0, LinearSite::V, "lora_B");
    corpus.tensors.get_mut(&tensor).unwrap().0 = Dtype::I32;
    assert!(corpus.refusal().contains("I32"));
}

#[test]
fn the_digest_follows_what_is_computed() {
    let digest = |corpus: &Corpus| corpus.files().digest().unwrap();
    let plain = digest(&Corpus::plain());
    assert_eq!(plain, Corpus::plain().parse().unwrap().id);
    let same = json!({"target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": "x", "rank_pattern": {}});
    assert_eq!(plain, digest(&Corpus::plain().with(same)));
    assert_ne!(plain, digest(&Corpus::plain().with(json!({"lora_alpha": 9}))));
    assert_ne!(plain, digest(&Corpus::plain().with(json!({"use_rslora": true}))));
    assert_ne!(plain, digest(&Corpus::plain().with(json!({"alpha_pattern": {"q_proj": 1}}))));
    let mut other = Corpus::plain();
    other.tensors.get_mut(&name(0, LinearSite::Q, "lora_A")).unwrap().2[0] ^= 1;
    assert_ne!(plain, digest(&other));
}

#[test]
fn directories_are_read_and_their_absence_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let error = read_dir(dir.path(), &base()).unwrap_err().to_string();
    assert!(error.contains(CONFIG_FILE) && !error.contains(&dir.path().display().to_string()), "{error}");
    let files = Corpus::plain().files();
    std::fs::write(dir.path().join(CONFIG_FILE), &files.config).unwrap();
    std::fs::create_dir(dir.path().join(WEIGHTS_FILE)).unwrap();
    assert!(read_dir(dir.path(), &base()).unwrap_err().to_string().contains("regular file"));
    std::fs::remove_dir(dir.path().join(WEIGHTS_FILE)).unwrap();
    std::fs::write(dir.path().join(WEIGHTS_FILE), &files.weights).unwrap();
    assert_eq!(read_dir(dir.path(), &base()).unwrap().modules.len(), 4);
}

#[test]
fn patterns_cannot_hang_the_reader() {
    let corpus = Corpus::plain().with(json!({"target_modules": r"(?=(x+x+)+y)((.+)+)+\1z"}));
    corpus.refusal();
}

#[test]
fn a_name_that_is_nothings_is_refused_of_who_comes_and_not_of_who_was_accepted() {
    let plain = Corpus::plain();
    let more = plain.clone().with(json!({"target_modules": ["v_proj", "q_proj", "c_attn"]}));
    assert!(more.refusal().contains("\"c_attn\""));
    let accepted = more.files().parse_accepted(&base()).unwrap();
    assert_eq!(scales(&accepted), scales(&plain.parse().unwrap()));
    let nothing = Corpus::empty(json!({"target_modules": ["c_attn"]})).files().parse_accepted(&base()).unwrap_err();
    assert!(nothing.to_string().contains("matches no linear layer"), "{nothing}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Truncated files, lying sizes and flipped bytes end in an error or in an adapter, never in a panic.
    #[test]
    fn damaged_files_never_panic(cut in 0usize..2000, at in 0usize..2000, byte: u8, length: u64) {
        let files = Corpus::plain().files();
        let parse = |weights: Vec<u8>, config: Vec<u8>| AdapterFiles { config, weights }.parse(&base());
        let mut cut_short = files.weights.clone();
        cut_short.truncate(cut.min(files.weights.len() - 1));
        prop_assert!(parse(cut_short, files.config.clone()).is_err());
        let mut lying = files.weights.clone();
        lying[..8].copy_from_slice(&length.to_le_bytes());
        prop_assert!(parse(lying, files.config.clone()).is_err());
        let mut flipped = files.weights.clone();
        let index = at % flipped.len();
        flipped[index] = byte;
        let _ = parse(flipped, files.config.clone());
        let mut flipped = files.config.clone();
        let index = at % flipped.len();
        flipped[index] = byte;
        let _ = parse(files.weights.clone(), flipped);
    }
}

#[test]
fn adapters_on_projections_that_are_stored_together_come_apart_by_rows() {
    let phi = ModelConfig { architecture: Architecture::Phi3, ..base() };
    let mut corpus = Corpus::empty(json!({"target_modules": ["qkv_proj", "gate_up_proj"]}));
    for layer in 0..2 {
        // Queries 8, keys 4, values 4 rows; gate and up 12 each.
        for (module, out) in [("self_attn.qkv_proj", 16), ("mlp.gate_up_proj", 24)] {
            let name = |half: &str| format!("base_model.model.model.layers.{layer}.{module}.{half}.weight");
            corpus.put(&name("lora_A"), vec![2, 8]);
            corpus.put(&name("lora_B"), vec![out, 2]);
        }
    }
    let weights = corpus.files().parse(&phi).unwrap();
    use LinearSite::{Gate, K, Q, Up, V};
    let found: Vec<(LinearSite, usize, f32)> =
        weights.modules[..5].iter().map(|module| (module.site, module.b.len(), module.b[0])).collect();
    assert_eq!(found, [(Q, 16, 0.0), (K, 8, 4.0), (V, 8, 6.0), (Gate, 24, 0.0), (Up, 24, 6.0)]);
    assert!(weights.modules[..5].iter().all(|module| module.a == weights.modules[0].a));

    let refusal = |corpus: Corpus, base: &ModelConfig| corpus.files().parse(base).expect_err("must be refused").to_string();
    let error = refusal(Corpus::plain(), &phi);
    assert!(error.contains("q_proj") && error.contains("qkv_proj, o_proj, gate_up_proj, down_proj"), "{error}");
    let error = refusal(corpus.with(json!({"target_modules": ["qkv_proj", "gate_up_proj", "q_proj"]})), &phi);
    assert!(error.contains("\"q_proj\"") && error.contains("Phi-3"), "{error}");
}
