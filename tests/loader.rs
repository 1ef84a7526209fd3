//! Bases read from disk against what the Python references say: dequantization, tokenization, chat templates, whole directories.
//! The golden files are made by `tests/numerics/make_goldens.py`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::path::{Path, PathBuf};

use serde_json::Value;
use switchyard::model::ModelError;
use switchyard::model::chat_template::{ChatTemplate, Conversation, Ending, RenderError};
use switchyard::model::config::{Architecture, RopeScaling};
use switchyard::model::loader::quantize::quantize_checkpoint;
use switchyard::model::loader::{self, Checkpoint, DType, dequant};
use switchyard::model::tokenizer::{Position, Specials, Tokenizer};
use time::OffsetDateTime;

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

fn json(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(golden(path)).unwrap()).unwrap()
}

#[test]
fn every_type_dequantizes_to_the_bits_of_the_gguf_package() {
    use DType::{BF16, F16, F32, Q4_0, Q4K, Q5_0, Q5K, Q6K, Q8_0};
    for dtype in [F32, F16, BF16, Q8_0, Q6K, Q5K, Q4K, Q5_0, Q4_0] {
        let stored = std::fs::read(golden(&format!("quants/{dtype}.bin"))).unwrap();
        let expected = std::fs::read(golden(&format!("quants/{dtype}.f32"))).unwrap();
        let mut values = vec![f32::NAN; expected.len() / 4];
        dequant::dequantize(dtype, &stored, &mut values);
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert!(bytes == expected, "{dtype}");
    }
}

#[test]
fn tokenization_equals_the_reference() {
    let expected = json("tokenizers/expected.json");
    let corpus: Vec<&str> = expected["corpus"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    for (name, cases) in expected["tokenizers"].as_object().unwrap() {
        let tokenizer = Tokenizer::from_json(&std::fs::read(golden(&format!("tokenizers/{name}.json"))).unwrap()).unwrap();
        for (text, case) in corpus.iter().zip(cases.as_array().unwrap()) {
            let ids = |key: &str| -> Vec<u32> { serde_json::from_value(case[key].clone()).unwrap() };
            assert_eq!(tokenizer.encode(text, Specials::Omit).unwrap(), ids("ids"), "{name}: {text:?}");
            assert_eq!(tokenizer.encode(text, Specials::Keep).unwrap(), ids("with_specials"), "{name}: {text:?}");
            for (specials, key) in [(Specials::Keep, "decoded"), (Specials::Omit, "decoded_without_specials")] {
                let decoded = case[key].as_str().unwrap();
                assert_eq!(tokenizer.decode(&ids("ids"), specials).unwrap(), decoded, "{name}: {text:?}");
                let mut stream = tokenizer.stream(specials, Position::Start);
                let mut pieces: Vec<String> = ids("ids").into_iter().map(|id| stream.push(id)).collect();
                assert!(
                    decoded.contains('\u{fffd}') || pieces.iter().all(|piece| !piece.contains('\u{fffd}')),
                    "{name}: {text:?}"
                );
                pieces.push(stream.finish());
                assert_eq!(pieces.concat(), decoded, "{name}: {text:?}");
            }
        }
    }
}

#[test]
fn a_stream_ends_with_what_is_left_of_a_character() {
    let tokenizer = Tokenizer::from_json(&std::fs::read(golden("tokenizers/gpt-2.json")).unwrap()).unwrap();
    let ids = tokenizer.encode("東", Specials::Omit).unwrap();
    assert_eq!(ids.len(), 3, "one token for each byte");
    let mut stream = tokenizer.stream(Specials::Keep, Position::Start);
    assert_eq!((stream.push(ids[0]), stream.push(ids[1])), (String::new(), String::new()));
    assert_eq!(stream.pending(), &"東".as_bytes()[..2]);
    assert_eq!(stream.finish(), "\u{fffd}");
    assert_eq!(stream.finish(), "");
}

#[test]
fn a_completion_keeps_its_first_space_where_an_answer_does_not() {
    let tokenizer = Tokenizer::from_json(&std::fs::read(golden("tokenizers/sentencepiece.json")).unwrap()).unwrap();
    let ids = tokenizer.encode("the boats", Specials::Omit).unwrap();
    let text = |position| {
        let mut stream = tokenizer.stream(Specials::Keep, position);
        ids.iter().map(|id| stream.push(*id)).collect::<String>()
    };
    assert_eq!(text(Position::Start), "the boats");
    assert_eq!(text(Position::Middle), " the boats");
}

#[test]
fn chat_templates_render_as_transformers_renders_them() {
    let cases = json("templates/cases.json");
    let cases = cases.as_array().unwrap();
    assert!(cases.len() >= 100);
    for case in cases {
        let name = case["template"].as_str().unwrap();
        let source = std::fs::read_to_string(golden(&format!("templates/{name}.jinja"))).unwrap();
        let text = |key: &str| case[key].as_str().map(str::to_owned);
        let template = ChatTemplate::new(&source, text("bos"), text("eos")).unwrap();
        let rendered = template.render(&Conversation {
            messages: case["messages"].as_array().unwrap(),
            tools: case["tools"].as_array().map(Vec::as_slice),
            ending: if case["add_generation_prompt"] == true { Ending::AnswerBegins } else { Ending::Nothing },
            variables: case["variables"].as_object(),
            now: OffsetDateTime::UNIX_EPOCH,
        });
        match (rendered, case["error"].as_str()) {
            (Ok(text), None) => assert_eq!(text, case["text"].as_str().unwrap(), "{name}: {}", case["messages"]),
            (Err(RenderError::Refused(message)), Some(expected)) => assert_eq!(message, expected, "{name}"),
            (other, _) => panic!("{name}: {other:?} for {case}"),
        }
    }
}

#[test]
fn a_template_may_write_the_date() {
    let template = ChatTemplate::new("{{ strftime_now('%d %b %Y %H:%M') }}", None, None).unwrap();
    let now = OffsetDateTime::from_unix_timestamp(1_722_000_000).unwrap();
    let conversation = Conversation { messages: &[], tools: None, ending: Ending::Nothing, variables: None, now };
    assert_eq!(template.render(&conversation).unwrap(), "26 Jul 2024 13:20");
    let broken = ChatTemplate::new("{{ messages[0].content.nothing.more }}", None, None).unwrap();
    assert!(matches!(broken.render(&conversation), Err(RenderError::Failed(_))));
    assert!(ChatTemplate::new("{% if %}", None, None).unwrap_err().to_string().contains("chat template"));
}

#[test]
fn directories_of_every_architecture_open() {
    for (name, architecture, window) in [
        ("llama3", Architecture::Llama, None),
        ("llama-linear", Architecture::Llama, None),
        ("mistral", Architecture::Mistral, Some(24)),
        ("qwen2", Architecture::Qwen2, None),
    ] {
        let checkpoint = loader::open(&golden(&format!("models/{name}"))).unwrap();
        assert_eq!(checkpoint.config.architecture, architecture);
        assert_eq!(checkpoint.config.sliding_window, window);
        assert_eq!(checkpoint.name, name);
        assert_eq!(checkpoint.generation.eos, [2]);
        assert_eq!(checkpoint.generation.bos, (name == "llama3").then_some(0));
        assert!(checkpoint.chat_template.is_some(), "{name}");
        assert_eq!(checkpoint.tensors.contains_key("lm_head.weight"), name != "qwen2");
        let expected = json(&format!("models/{name}/expected.json"));
        for answer in expected["base"].as_object().unwrap().values() {
            let ids: Vec<u32> = serde_json::from_value(answer["tokens"].clone()).unwrap();
            assert_eq!(checkpoint.tokenizer.encode(answer["text"].as_str().unwrap(), Specials::Keep).unwrap(), ids);
        }
    }
    let linear = loader::open(&golden("models/llama-linear")).unwrap().config;
    assert_eq!(linear.rope_scaling, RopeScaling::Linear { factor: 4.0 });
    let llama3 = loader::open(&golden("models/llama3")).unwrap().config;
    assert!(matches!(llama3.rope_scaling, RopeScaling::Llama3 { original_context: 64, .. }));
}

#[test]
fn a_gguf_of_mixed_types_opens() {
    let checkpoint = loader::open(&golden("gguf/llama-mix.gguf")).unwrap();
    assert_eq!(checkpoint.name, "golden llama mix");
    assert!(matches!(&checkpoint.config.rope_scaling, RopeScaling::Factors(factors) if factors.len() == 16));
    assert_eq!((checkpoint.generation.bos, checkpoint.generation.eos.clone()), (Some(0), vec![2, 0]));
    let query = &checkpoint.tensors["model.layers.1.self_attn.q_proj.weight"];
    assert_eq!((query.dtype, query.rows, query.cols, query.interleaved_head_dim), (DType::Q4K, 256, 256, Some(32)));
    // The second stored row of a head is the first of the second half.
    assert_eq!((query.source_row(16), query.source_row(33)), (1, 34));
    let value = &checkpoint.tensors["model.layers.1.self_attn.v_proj.weight"];
    assert_eq!((value.dtype, value.interleaved_head_dim), (DType::Q6K, None));
}

/// Everything that a round trip through a file must keep.
fn assert_same_base(before: &Checkpoint, after: &Checkpoint) {
    let mut config = before.config.clone();
    // GGUF carries Llama 3's scaling as the divisors that follow from it.
    if matches!(config.rope_scaling, RopeScaling::Llama3 { .. }) {
        assert!(matches!(&after.config.rope_scaling, RopeScaling::Factors(factors) if factors.len() == config.head_dim / 2));
        config.rope_scaling = after.config.rope_scaling.clone();
    }
    assert_eq!(config, after.config);
    assert_eq!((&before.name, &before.generation), (&after.name, &after.generation));
    assert_eq!(before.tokenizer.to_json().unwrap(), after.tokenizer.to_json().unwrap());
    let template = |base: &Checkpoint| {
        let template = base.chat_template.as_ref().unwrap();
        [Some(template.source()), template.bos_token(), template.eos_token()].map(|text| text.map(str::to_owned))
    };
    assert_eq!(template(before), template(after));
}

#[test]
fn a_base_written_as_f32_comes_back_the_same() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["models/llama3", "models/llama-linear", "models/mistral", "models/qwen2", "gguf/llama-mix.gguf"] {
        let before = loader::open(&golden(name)).unwrap();
        let path = folder.path().join("out.gguf");
        let report = quantize_checkpoint(&before, &path, DType::F32).unwrap();
        assert_eq!((report.fallbacks.len(), report.notes.len()), (0, 0), "{report:?}");
        assert_eq!(report.bytes, std::fs::metadata(&path).unwrap().len());
        let after = loader::open(&path).unwrap();
        assert_same_base(&before, &after);
        assert!(before.tensors.keys().eq(after.tensors.keys()));
        for (tensor, raw) in &before.tensors {
            assert!(raw.dequantize().unwrap() == after.tensors[tensor].dequantize().unwrap(), "{name}: {tensor}");
        }
    }
}

/// Largest error of a value, as a share of the tensor's largest value.
fn relative_error(before: &[f32], after: &[f32]) -> f32 {
    let largest = before.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    before.iter().zip(after).fold(0f32, |worst, (a, b)| worst.max((a - b).abs())) / largest
}

#[test]
fn every_type_is_written_near_enough_and_equal_types_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let base = loader::open(&golden("gguf/llama-mix.gguf")).unwrap();
    let tensor = "model.layers.0.mlp.down_proj.weight";
    for (dtype, tolerance) in [
        (DType::F16, 1e-3),
        (DType::BF16, 4e-3),
        (DType::Q8_0, 5e-3),
        (DType::Q6K, 0.0),
        (DType::Q5K, 0.05),
        (DType::Q4K, 0.1),
        // The largest value of a block is -8 steps; its opposite is cut to 7.
        (DType::Q4_0, 0.126),
    ] {
        let path = folder.path().join("out.gguf");
        quantize_checkpoint(&base, &path, dtype).unwrap();
        let after = loader::open(&path).unwrap();
        assert_same_base(&base, &after);
        assert_eq!(after.tensors[tensor].dtype, dtype);
        let error = relative_error(&base.tensors[tensor].dequantize().unwrap(), &after.tensors[tensor].dequantize().unwrap());
        assert!(error <= tolerance, "{dtype}: {error}");
        let output = after.tensors["lm_head.weight"].dtype;
        assert_eq!(output, if matches!(dtype, DType::Q5K | DType::Q4K | DType::Q4_0) { DType::Q6K } else { dtype });
    }
}

#[test]
fn rows_that_are_not_whole_blocks_fall_back_and_it_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let base = loader::open(&golden("models/llama3")).unwrap();
    let path = folder.path().join("out.gguf");
    let report = quantize_checkpoint(&base, &path, DType::Q4K).unwrap();
    assert_eq!(report.fallbacks.len(), 2 + 3 * 7);
    assert!(report.fallbacks.iter().all(|fallback| fallback.used == DType::Q8_0));
    let after = loader::open(&path).unwrap();
    assert_eq!(after.tensors["model.layers.0.mlp.up_proj.weight"].dtype, DType::Q8_0);
    assert_eq!(after.tensors["model.norm.weight"].dtype, DType::F32);
    let nowhere = folder.path().join("no such folder/out.gguf");
    assert!(matches!(quantize_checkpoint(&base, &nowhere, DType::F32), Err(ModelError::Io { .. })));
}
