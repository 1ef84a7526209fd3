//! What is learnt, for each kind of template that is known to us.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::path::Path;

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::render::{Parts, Question, RenderError, Rendered, Renderer, Row, Sample};
use super::rows::Shape;
use super::{Body, DatasetError, Example, Loading, Mapping, NEVER, Options, load};
use crate::model::chat_template::ChatTemplate;
use crate::model::tokenizer::{Specials, Tokenizer};

fn golden(path: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)).unwrap()
}

fn renderer(template: &str, bos: &str, eos: &str, context: usize) -> (Renderer, Tokenizer) {
    let tokenizer = Tokenizer::from_json(&golden("tokenizers/qwen2.json")).unwrap();
    let token = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let template = ChatTemplate::new(template, token(bos), token(eos)).unwrap();
    let ends = ["<|im_end|>", "<|endoftext|>"].into_iter().filter_map(|token| tokenizer.token_id(token)).collect();
    let now = OffsetDateTime::UNIX_EPOCH;
    let parts = Parts { tokenizer: tokenizer.clone(), chat_template: Some(template), ends, context, now };
    (Renderer::new(parts).unwrap(), tokenizer)
}

fn of_file(name: &str) -> (Renderer, Tokenizer) {
    let template = String::from_utf8(golden(&format!("templates/{name}.jinja"))).unwrap();
    renderer(&template, "<|endoftext|>", "<|im_end|>", 4096)
}

fn example(row: Value) -> Example {
    let row = row.as_object().unwrap();
    Shape::of(row).unwrap().read(1, row, &Mapping::default()).unwrap().value
}

fn sample(renderer: &Renderer, row: Value) -> Sample {
    match renderer.render(&example(row)).unwrap().row {
        Row::Sample(sample) => sample,
        Row::Pair(_) => panic!("a pair"),
    }
}

/// The pieces of text that are learnt, with their weights.
fn learnt(tokenizer: &Tokenizer, sample: &Sample) -> Vec<(String, f32)> {
    assert_eq!(sample.tokens.len(), sample.weights.len());
    let mut pieces: Vec<(Vec<u32>, f32)> = Vec::new();
    let mut last = 0.0;
    for (token, weight) in sample.tokens.iter().zip(&sample.weights) {
        if *weight > 0.0 {
            match pieces.last_mut() {
                Some(piece) if last == *weight => piece.0.push(*token),
                _ => pieces.push((vec![*token], *weight)),
            }
        }
        last = *weight;
    }
    pieces.into_iter().map(|(tokens, weight)| (tokenizer.decode(&tokens, Specials::Keep).unwrap(), weight)).collect()
}

fn two_turns() -> Value {
    json!({"messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Größe?"},
        {"role": "assistant", "content": "Größer als klein."},
        {"role": "user", "content": "And now?"},
        {"role": "assistant", "content": "Now 日本."},
    ]})
}

#[test]
fn answers_and_their_ends_are_learnt_and_nothing_else() {
    for (template, end) in [
        ("chatml", "<|im_end|>"),
        ("qwen2", "<|im_end|>"),
        ("qwen2.5", "<|im_end|>"),
        // These end turns with texts that are no token of this vocabulary.
        ("llama3", ""),
        ("llama3.1", ""),
        ("phi3", ""),
    ] {
        let (renderer, tokenizer) = of_file(template);
        let sample = sample(&renderer, two_turns());
        let expected = [(format!("Größer als klein.{end}"), 1.0), (format!("Now 日本.{end}"), 1.0)];
        assert_eq!(learnt(&tokenizer, &sample), expected, "{template}");
    }
}

#[test]
fn templates_that_write_a_space_before_the_answer_have_it_learnt() {
    for template in ["mistral", "llama2"] {
        let (renderer, tokenizer) = of_file(template);
        let pieces = learnt(&tokenizer, &sample(&renderer, two_turns()));
        let texts: Vec<&str> = pieces.iter().map(|(text, _)| text.as_str()).collect();
        assert_eq!(pieces.len(), 2, "{template}: {texts:?}");
        assert!(texts[0].trim_start().starts_with("Größer als klein.") && texts[0].ends_with("<|im_end|>"), "{texts:?}");
        assert_eq!(texts[1].replace(' ', ""), "Now日本.<|im_end|>", "{template}");
    }
}

#[test]
fn weights_are_those_of_the_messages() {
    let (renderer, tokenizer) = of_file("chatml");
    let mut row = two_turns();
    row["messages"][2]["weight"] = json!(0);
    row["messages"][4]["weight"] = json!(0.5);
    assert_eq!(learnt(&tokenizer, &sample(&renderer, row)), [("Now 日本.<|im_end|>".to_owned(), 0.5)]);
}

#[test]
fn calls_of_tools_are_learnt_as_the_template_writes_them() {
    let (renderer, tokenizer) = of_file("qwen2.5");
    let row = json!({
        "messages": [
            {"role": "user", "content": "Weather in Graz?"},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"Graz\"}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "21"},
            {"role": "assistant", "content": "21 degrees."},
        ],
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": {}}}],
    });
    let call = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Graz\"}}\n</tool_call>";
    let pieces = learnt(&tokenizer, &sample(&renderer, row.clone()));
    assert_eq!(pieces, [(format!("{call}<|im_end|>"), 1.0), ("21 degrees.<|im_end|>".to_owned(), 1.0)]);
    let mut asked = row;
    asked["messages"].as_array_mut().unwrap().truncate(2);
    let question = renderer.question(&example(asked)).unwrap();
    assert_eq!(question.target, call);
}

#[test]
fn an_answer_that_repeats_the_prompt_or_the_markers_is_found() {
    let (renderer, tokenizer) = of_file("chatml");
    let row = json!({"messages": [
        {"role": "user", "content": "assistant\nassistant"},
        {"role": "assistant", "content": "assistant\nassistant"},
        {"role": "user", "content": "assistant"},
        {"role": "assistant", "content": "a"},
    ]});
    let pieces = learnt(&tokenizer, &sample(&renderer, row));
    assert_eq!(
        pieces.iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>(),
        ["assistant\nassistant<|im_end|>", "a<|im_end|>"]
    );
}

#[test]
fn answers_that_are_shortened_in_the_middle_are_learnt_as_they_stand() {
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and not loop.last %}\
        {{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}\
        {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let (renderer, tokenizer) = renderer(template, "", "<|im_end|>", 4096);
    let row = json!({"messages": [
        {"role": "user", "content": "1"}, {"role": "assistant", "content": "<think>so</think>one"},
        {"role": "user", "content": "2"}, {"role": "assistant", "content": "<think>so</think>two"},
    ]});
    let pieces = learnt(&tokenizer, &sample(&renderer, row));
    assert_eq!(
        pieces.iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>(),
        ["one<|im_end|>", "<think>so</think>two<|im_end|>"]
    );
}

#[test]
fn templates_that_hide_the_answer_are_refused() {
    let refusal = |template: &str| {
        let (renderer, _) = renderer(template, "", "", 4096);
        let row = json!({"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "one"}]});
        let error = renderer.render(&example(row)).unwrap_err();
        assert!(matches!(error, RenderError::NotFound { index: 1, .. }), "{error}");
        error.to_string()
    };
    assert!(refusal("{% for m in messages %}{{ m.role }}{% endfor %}").contains("leaves it out"));
    let twice = refusal("x{% for m in messages %}[{{ m.content | upper }}]{% endfor %}");
    assert!(twice.contains("more than once, or changes it"), "{twice}");
}

#[test]
fn what_does_not_fit_the_context_is_cut_and_counted() {
    let template = String::from_utf8(golden("templates/chatml.jinja")).unwrap();
    let row = json!({"messages": [{"role": "user", "content": "1 2 3"}, {"role": "assistant", "content": "one two three four"}]});
    let (all, _) = renderer(&template, "", "<|im_end|>", 4096);
    let whole = all.render(&example(row.clone())).unwrap();
    let Row::Sample(whole_sample) = &whole.row else { panic!() };
    assert_eq!(whole.cut, 0);
    let (short, _) = renderer(&template, "", "<|im_end|>", whole_sample.tokens.len() - 3);
    let outcome = short.render(&example(row.clone())).unwrap();
    let Row::Sample(cut) = &outcome.row else { panic!() };
    assert_eq!((outcome.cut, cut.tokens.len()), (3, whole_sample.tokens.len() - 3));
    assert_eq!(cut.tokens[..], whole_sample.tokens[..cut.tokens.len()]);
    assert_eq!(outcome.answer_tokens, whole.answer_tokens);
    let (none, _) = renderer(&template, "", "<|im_end|>", 4);
    assert!(matches!(none.render(&example(row)).unwrap_err(), RenderError::Lost { context: 4, .. }));
}

#[test]
fn a_preference_is_two_samples_of_one_prompt() {
    let (renderer, tokenizer) = of_file("chatml");
    let row = json!({
        "input": {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes?"}, {"role": "user", "content": "hm"}]},
        "preferred_output": [{"role": "assistant", "content": "good"}],
        "non_preferred_output": [{"role": "assistant", "content": "bad"}],
    });
    let example = example(row.clone());
    assert!(matches!(example.body, Body::Preference { .. }));
    let Row::Pair(pair) = renderer.render(&example).unwrap().row else { panic!() };
    assert_eq!(learnt(&tokenizer, &pair.chosen), [("good<|im_end|>".to_owned(), 1.0)]);
    assert_eq!(learnt(&tokenizer, &pair.rejected), [("bad<|im_end|>".to_owned(), 1.0)]);
    let same = pair.chosen.tokens.iter().zip(&pair.rejected.tokens).take_while(|(a, b)| a == b).count();
    assert!(pair.chosen.weights[..same].iter().all(|weight| *weight == 0.0));
    assert_eq!(example.to_row(), row, "back to what it was");
}

#[test]
fn a_question_has_the_prompt_that_the_server_would_make() {
    let (renderer, tokenizer) = of_file("chatml");
    let Question { prompt, prompt_text, target } = renderer.question(&example(two_turns())).unwrap();
    assert!(prompt_text.ends_with("<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n"), "{prompt_text}");
    assert_eq!(prompt, tokenizer.encode(&prompt_text, Specials::Omit).unwrap());
    assert_eq!(target, "Now 日本.");
}

#[test]
fn a_file_is_split_rendered_and_asked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    let rows: Vec<String> = (0..50)
        .map(|n| {
            json!({"messages": [{"role": "user", "content": format!("q{n}")}, {"role": "assistant", "content": format!("a{n}")}]})
                .to_string()
        })
        .collect();
    std::fs::write(&path, rows.join("\n")).unwrap();
    let (renderer, tokenizer) = of_file("chatml");
    let loading = Loading { renderer: &renderer, validation: None, held_out: 0.2, seed: 1, questions: 4, is_stopped: NEVER };
    let loaded = load(&path, &Options::default(), &loading).unwrap();
    assert_eq!((loaded.train.len(), loaded.held_out.len(), loaded.questions.len()), (40, 10, 4));
    assert_eq!(loaded.digest, {
        use sha2::Digest as _;
        let text = rows.join("\n") + "\n";
        sha2::Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    });
    let Rendered::Supervised(held_out) = &loaded.held_out else { panic!() };
    let answers: Vec<String> = held_out.iter().map(|sample| learnt(&tokenizer, sample)[0].0.clone()).collect();
    let asked: Vec<String> = loaded.questions.iter().map(|question| format!("{}<|im_end|>", question.target)).collect();
    assert_eq!(answers[..4], asked);
    assert_eq!(load(&path, &Options::default(), &loading).unwrap(), loaded, "and again the same");

    std::fs::write(&path, format!("{}\n{{\n", rows[0])).unwrap();
    let error = load(&path, &Options::default(), &loading).unwrap_err().to_string();
    let unanswered = r#"{"messages": [{"role": "user", "content": "x"}]}"#;
    std::fs::write(&path, format!("{unanswered}\n{}", rows.join("\n"))).unwrap();
    let with_missing = load(&path, &Options::default(), &loading).unwrap();
    assert_eq!((with_missing.missing, with_missing.questions), (1, loaded.questions));
    assert!(error.starts_with("1 rows cannot be used: line 2: not JSON"), "{error}");
}

#[test]
fn what_follows_an_answer_may_be_any_text() {
    // The end of the turn is no token of this vocabulary, and its characters take several tokens each.
    for end in ["｜fin▁｜", "日", " ｜", "\n\n｜", "</s>", ""] {
        let template = format!(
            "{{% for m in messages %}}[{{{{ m.role }}}}]{{{{ m.content }}}}{end}{{% endfor %}}{{% if add_generation_prompt %}}[assistant]{{% endif %}}"
        );
        let (renderer, tokenizer) = renderer(&template, "", "", 4096);
        for content in ["one", "größer", "日本", "x ", "🙂"] {
            let row = json!({"messages": [
                {"role": "user", "content": "1"}, {"role": "assistant", "content": content},
                {"role": "user", "content": "2"}, {"role": "assistant", "content": content},
            ]});
            let pieces = learnt(&tokenizer, &sample(&renderer, row.clone()));
            assert!(!pieces.is_empty() && pieces.len() <= 2, "{end:?} {content:?} {pieces:?}");
            assert!(pieces.iter().all(|(text, _)| text.contains(content.trim())), "{end:?} {content:?} {pieces:?}");
            assert_eq!(renderer.question(&example(row)).unwrap().target, content);
        }
    }
}

#[test]
fn preferences_are_loaded_and_another_file_is_judged_by() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, rows: &[Value]| {
        let path = folder.path().join(name);
        std::fs::write(&path, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
        path
    };
    let row = |n: u32| json!({"prompt": format!("question {n}"), "chosen": "yes", "rejected": "no"});
    let (train, other) = (write("train", &[row(1), row(2), row(3)]), write("other", &[row(4)]));
    let (renderer, _) = of_file("chatml");
    let loading =
        Loading { renderer: &renderer, validation: Some(&other), held_out: 0.2, seed: 1, questions: 4, is_stopped: NEVER };
    let loaded = load(&train, &Options::default(), &loading).unwrap();
    assert_eq!((loaded.train.len(), loaded.held_out.len()), (3, 1));
    assert!(matches!((&loaded.train, &loaded.held_out), (Rendered::Preference(_), Rendered::Preference(_))));
    assert_eq!((loaded.questions.len(), loaded.questions[0].target.as_str()), (1, "yes"));
    // Without it the rows divide themselves; and both files must be of one kind.
    let stopped = load(&train, &Options::default(), &Loading { is_stopped: &|| true, ..loading }).unwrap_err();
    assert!(matches!(stopped, DatasetError::Stopped));
    let loading = Loading { is_stopped: NEVER, ..loading };
    let alone = load(&train, &Options::default(), &Loading { validation: None, ..loading }).unwrap();
    assert_eq!((alone.train.len(), alone.held_out.len()), (2, 1));
    let chat = write("chat", &[two_turns()]);
    let error = load(&train, &Options::default(), &Loading { validation: Some(&chat), ..loading }).unwrap_err();
    assert!(error.to_string().contains("one of the two files has preferences"), "{error}");
}
