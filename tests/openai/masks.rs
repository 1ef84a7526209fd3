//! How long sets of allowed tokens take over large vocabularies. Ignored: a figure, not a check.

use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};
use switchyard::engine::grammar::{Begins, Grammar, Vocabulary};
use switchyard::gateway::json_rules;
use switchyard::model::tokenizer::Tokenizer;

use crate::corpus;

/// Bytes, signs of JSON, numbers, and made-up words, as many as are wanted; the first token ends an answer.
fn tokenizer(size: usize) -> Tokenizer {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut words: Vec<String> = vec!["<end>".to_owned()];
    let mut next = 256;
    for byte in 0..=255_u8 {
        let printable = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let code = if printable { u32::from(byte) } else { next };
        next += u32::from(!printable);
        words.push(char::from_u32(code).unwrap().to_string());
    }
    words.extend(
        ["\",", "\":", "\"}", "},", "]}", "},{", "{\"", "[\"", "\",\"", ",Ġ\"", "\":Ġ\"", "Ġ\"", "Ġ{"].map(str::to_owned),
    );
    words.extend((10..1000).map(|number| number.to_string()));
    let mut seen: std::collections::HashSet<String> = words.iter().cloned().collect();
    while words.len() < size {
        let letters = (0..random.random_range(2..10)).map(|_| char::from(random.random_range(b'a'..=b'z')));
        let word: String = letters.collect();
        let word = if random.random() { format!("Ġ{word}") } else { word };
        if seen.insert(word.clone()) {
            words.push(word);
        }
    }
    let vocab: Map<String, Value> = words.into_iter().zip(0_u32..).map(|(word, id)| (word, json!(id))).collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let end = json!({"id": 0, "content": "<end>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false});
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [end], "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
                  "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": []},
    });
    Tokenizer::from_json(file.to_string().as_bytes()).unwrap()
}

#[test]
#[ignore = "a measurement; run it with --release and nothing beside it"]
fn masks_of_the_corpus() {
    for size in [32_000, 128_000] {
        let vocabulary = Vocabulary::new(&tokenizer(size), &[0]);
        let mut times: Vec<Duration> = Vec::new();
        for (index, schema) in corpus::schemas().iter().enumerate() {
            let grammar = Grammar::lark(vocabulary.clone(), &json_rules(schema), Begins::AtOnce).unwrap();
            let mut random = ChaCha8Rng::seed_from_u64(index as u64);
            times.extend(grammar.drawn_answer(512, &mut |ways| random.random_range(0..ways.max(1))).1);
        }
        times.sort_unstable();
        let mean = times.iter().sum::<Duration>() / u32::try_from(times.len()).unwrap();
        let at = |share: usize| times[(times.len() - 1) * share / 100];
        eprintln!(
            "{size} tokens: {} sets, mean {mean:?}, median {:?}, 99% {:?}, most {:?}",
            times.len(),
            at(50),
            at(99),
            at(100)
        );
    }
}
