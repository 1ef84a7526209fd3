//! The report, point by point.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::path::Path;

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::render::{Parts, Renderer};
use super::report::{FindingKind, Level, Report};
use super::{Checking, Fix, NearDuplicates, Options, Reader, check};
use crate::model::chat_template::ChatTemplate;
use crate::model::tokenizer::Tokenizer;

fn renderer(context: usize) -> Renderer {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let tokenizer = Tokenizer::from_json(&std::fs::read(golden.join("tokenizers/qwen2.json")).unwrap()).unwrap();
    let template = std::fs::read_to_string(golden.join("templates/chatml.jinja")).unwrap();
    let chat_template = Some(ChatTemplate::new(&template, None, Some("<|im_end|>".to_owned())).unwrap());
    let ends = vec![tokenizer.token_id("<|im_end|>").unwrap()];
    Renderer::new(Parts { tokenizer, chat_template, ends, context, now: OffsetDateTime::UNIX_EPOCH }).unwrap()
}

fn row(question: &str, answer: &str) -> String {
    json!({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}).to_string()
}

/// Rows without fault, each different.
fn sound(count: usize) -> Vec<String> {
    let word = |n: usize| ["amber", "birch", "cedar", "delta", "ember", "frost", "grove", "heron", "ivory", "jade"][n % 10];
    (0..count)
        .map(|n| {
            let words = format!("{} {} {} number {n}", word(n), word(n / 10), word(n / 100 + 3));
            row(
                &format!("Please tell me what you know about the {words} in a few words"),
                &format!("The {words} is known for its calm"),
            )
        })
        .collect()
}

/// Reports on rows, with so many tokens of context.
fn report(rows: &[String], context: usize) -> Report {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    std::fs::write(&path, rows.join("\n")).unwrap();
    let renderer = renderer(context);
    let reader = Reader::open(&path, &Options::default()).unwrap();
    check(reader, checking(&renderer)).unwrap()
}

fn checking(renderer: &Renderer) -> Checking<'_> {
    Checking { renderer: Some(renderer), validation: None, held_out: 0.2, seed: 1, fix: None, each: None, stop: None }
}

fn lines(report: &Report, kind: FindingKind) -> Vec<u64> {
    report.finding(kind).map(|finding| finding.lines.clone()).unwrap_or_default()
}

#[test]
fn a_sound_file_has_nothing_to_complain_about() {
    let report = report(&sound(200), 512);
    assert_eq!(report.findings, [], "{}", report.text("rows"));
    assert_eq!((report.rows, report.usable, report.split.train, report.split.held_out), (200, 200, 160, 40));
    assert_eq!(report.quality.mean, 100.0);
    assert_eq!(report.languages[0].code, "eng");
    let tokens = report.tokens.clone().unwrap();
    assert!(tokens.input.min > 10 && tokens.row.max < 160 && tokens.total > 4000, "{tokens:?}");
    assert!(report.text("rows.jsonl").starts_with("rows.jsonl: jsonl, 200 rows of chat\n"));
    // And what is sent over the API is the same.
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["quality"]["histogram"][9], 200);
}

#[test]
fn every_point_is_found_with_its_lines() {
    let mut rows = sound(120);
    rows[3] = rows[1].clone();
    let near = "Please describe the whole history of the old harbour town and of the people who built its walls over many years";
    rows[5] = row(near, "It was built by fishermen and by traders who came over the sea from the north a long time ago");
    rows[6] = row(near, "It was built by fishermen and by traders who came over the sea from the north a long, long time ago");
    rows[7] = row("hi", "Hello there, how are you doing on this fine day, my friend?");
    rows[8] = row(
        "Write down every number that you know of, please, one after another",
        &(0..600).map(|n| format!("{n} ")).collect::<String>(),
    );
    rows[9] =
        row("Was ist denn das fÃ¼r ein schÃ¶nes Haus an der StraÃŸe, in dem wir hier stehen?", "An old house it is, of course");
    rows[10] = row("What is the special thing that ends a message of yours, if I may ask?", "It is <|im_end|> of course");
    rows[11] = row(
        "Erzähle mir bitte etwas",
        "Das ist eine lange Geschichte, die ich dir gerne erzähle, wenn du morgen wieder zu mir kommst",
    );
    rows[12] = row("What would you like to have for your dinner tonight, dear friend of mine?", "TODO: ask");
    rows[13] = r#"{"messages": [{"role": "user", "content": "only this"}]}"#.to_owned();
    rows[14] = "not json".to_owned();
    rows[15] = json!({"messages": [{"role": "robot", "content": "x"}]}).to_string();
    let report = report(&rows, 256);
    let kinds: Vec<FindingKind> = report.findings.iter().map(|finding| finding.kind).collect();
    let found = |kind| lines(&report, kind);
    assert_eq!(found(FindingKind::Duplicates), [4]);
    assert_eq!(report.finding(FindingKind::Duplicates).unwrap().examples, ["line 4: the same as line 2"]);
    assert_eq!(found(FindingKind::Contradictions), [7], "{kinds:?}");
    assert_eq!(found(FindingKind::ShortInputs), [8]);
    assert_eq!(found(FindingKind::LongOutputs), [9]);
    assert_eq!(found(FindingKind::Truncated), [9]);
    assert_eq!(found(FindingKind::Ratio), [8, 9]);
    assert_eq!(found(FindingKind::Characters), [10]);
    assert_eq!(found(FindingKind::SpecialTokens), [11]);
    assert_eq!(found(FindingKind::Languages), [12]);
    assert_eq!(found(FindingKind::Answers), [13]);
    assert_eq!(found(FindingKind::Missing), [14]);
    assert_eq!(found(FindingKind::Syntax), [15]);
    assert_eq!(found(FindingKind::Role), [16]);
    assert!(report.has_errors());
    assert_eq!((report.rows, report.usable), (120, 117));
    assert_eq!(report.finding(FindingKind::Missing).unwrap().level, Level::Note, "under 5%");
    assert!(report.findings.is_sorted_by_key(|finding| finding.level));
    // The worst row is the one with the most against it.
    assert_eq!((report.quality.worst[0].line, report.quality.worst[0].score), (4, 60));
    let text = report.text("rows");
    for says in ["line 4", "fix: --fix keeps the first", "training refuses this file"] {
        assert!(text.contains(says), "{text}");
    }
}

#[test]
fn shares_make_warnings() {
    let mut rows = sound(100);
    for (n, row) in rows.iter_mut().enumerate().take(6) {
        *row = self::row(&format!("question {n}"), "");
    }
    for n in 10..13 {
        rows.swap_remove(n);
        rows.push(rows[20].clone());
    }
    let report = report(&rows, 512);
    assert_eq!(report.finding(FindingKind::Missing).unwrap().level, Level::Warning);
    assert_eq!(report.finding(FindingKind::Duplicates).unwrap().level, Level::Warning);
    assert_eq!(report.finding(FindingKind::FewRows).unwrap().level, Level::Warning);
    assert!(!report.has_errors());
}

#[test]
fn files_without_a_usable_row_are_errors() {
    let report = report(&[r#"{"messages": [{"role": "user", "content": "x"}]}"#.to_owned()], 512);
    assert!(report.has_errors());
    assert_eq!((report.rows, report.usable), (1, 0));
    let one = self::report(&sound(1), 512);
    assert_eq!((one.split.train, one.split.held_out), (1, 0));
    assert!(!one.has_errors());
}

#[test]
fn what_is_known_from_training_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, rows: &[String]| {
        let path = folder.path().join(name);
        std::fs::write(&path, rows.join("\n")).unwrap();
        Reader::open(&path, &Options::default()).unwrap()
    };
    let rows = sound(150);
    let mut other = vec![row("What is quite another question than all of the others in here?", "It is this one, which is new")];
    other.push(rows[7].clone());
    let renderer = renderer(512);
    let checking = Checking { validation: Some(write("validation", &other)), ..checking(&renderer) };
    let report = check(write("train", &rows), checking).unwrap();
    let leak = report.finding(FindingKind::Leakage).unwrap();
    assert_eq!((leak.lines.clone(), leak.examples[0].as_str()), (vec![2], "line 2 of the validation file is line 8"));
    assert_eq!((report.split.validation, report.split.train), (Some(2), 150));

    // One file: repeated rows of different conversations, which the split may tear apart.
    let rows: Vec<String> = (0..150)
        .map(|n| {
            let mut value: Value = serde_json::from_str(&sound(75)[n % 75]).unwrap();
            value["conversation_id"] = n.into();
            value.to_string()
        })
        .collect();
    let report = check(write("one", &rows), self::checking(&renderer)).unwrap();
    let leaks = report.finding(FindingKind::Leakage).unwrap();
    assert!(leaks.count > 5 && leaks.count < 60, "{}", leaks.count);
}

#[test]
fn a_cleaned_copy_has_nothing_left_to_fix() {
    let folder = tempfile::tempdir().unwrap();
    let (path, fixed) = (folder.path().join("rows.jsonl"), folder.path().join("fixed.jsonl"));
    let mut rows = sound(130);
    rows[0] = "not json".to_owned();
    rows[1] = json!({"messages": [{"role": "human", "content": "hi"}, {"role": "bot", "content": "hello"}]}).to_string();
    rows[2] = json!({"instruction": "Say something nice to me", "output": "You are very kind"}).to_string();
    rows[3] = rows[50].clone();
    rows[4] = row("cafÃ© or tea?", "tea\u{7}");
    rows[5] = row(&"x ".repeat(2000), "never seen");
    std::fs::write(&path, rows.join("\n")).unwrap();
    let renderer = renderer(256);
    let open = |path: &Path| Reader::open(path, &Options::default()).unwrap();
    let fix = Fix { path: &fixed, near_duplicates: NearDuplicates::Keep };
    let mut scores = Vec::new();
    let mut each = |score: &super::report::RowScore| scores.push((score.line, score.score));
    let checking = Checking { fix: Some(fix), each: Some(&mut each), ..checking(&renderer) };
    let report = check(open(&path), checking).unwrap();
    let written = report.fixed.unwrap();
    assert_eq!((written.written, written.repaired, written.cleaned), (127, 2, 1));
    assert_eq!((written.dropped_bad, written.dropped_duplicates, written.dropped_lost), (1, 1, 1));
    assert_eq!(scores.len(), 127, "every usable row has a score");
    let text = std::fs::read_to_string(&fixed).unwrap();
    assert!(text.contains("café or tea?") && text.contains("\"content\":\"hello\""), "{text}");
    assert!(!folder.path().join("fixed.jsonl.partial").exists());
    let again = check(open(&fixed), self::checking(&renderer)).unwrap();
    let kinds: Vec<FindingKind> = again.findings.iter().map(|finding| finding.kind).collect();
    assert!(!again.has_errors(), "{kinds:?}");
    assert!(!kinds.contains(&FindingKind::Duplicates) && !kinds.contains(&FindingKind::Characters), "{kinds:?}");
    // The digest of a clean file is that of its bytes.
    let digest: String = {
        use sha2::Digest as _;
        sha2::Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    };
    assert_eq!(again.digest, digest);
}

/// Bytes of memory of this process that were ever resident.
#[cfg(target_os = "linux")]
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
#[cfg(target_os = "linux")]
fn a_million_rows_are_read_in_bounded_memory() {
    use std::io::Write as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("million.jsonl");
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
    for n in 0..1_000_000 {
        if n == 777_777 {
            file.write_all(b"{\"messages\": 5}\n").unwrap();
        } else {
            writeln!(file, "{{\"prompt\": \"question {n}\", \"completion\": \"an answer to number {n}, of some words\"}}")
                .unwrap();
        }
    }
    drop(file);
    let before = peak();
    let reader = Reader::open(&path, &Options::default()).unwrap();
    let (mut good, mut bad) = (0, Vec::new());
    for row in reader {
        match row.unwrap() {
            Ok(_) => good += 1,
            Err(problem) => bad.push(problem.line),
        }
    }
    assert_eq!((good, bad), (999_999, vec![777_778]));
    assert!(peak() - before < 16 << 20, "{} bytes more", peak() - before);
}
