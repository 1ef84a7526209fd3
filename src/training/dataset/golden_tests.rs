//! Every format against files and expected rows that `tests/golden/datasets/make.py` made; and files that are no datasets.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::columns::Field;
use super::{DatasetError, Options, Reader, Shape};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/datasets")
}

/// The rows of a file in the form of the expected ones.
fn rows(path: &Path, options: &Options) -> Vec<Value> {
    let reader = Reader::open(path, options).unwrap();
    let line = |row| match row {
        Ok::<_, super::Problem>(example) => {
            let example: super::Example = example;
            json!({"line": example.line, "row": example.to_row()})
        }
        Err(problem) => {
            assert!(!problem.message.is_empty());
            let mut line = json!({"line": problem.line, "problem": problem.kind});
            if let Some(repaired) = problem.repaired {
                line["repaired"] = repaired.to_row();
            }
            line
        }
    };
    reader.map(|row| line(row.unwrap())).collect()
}

#[test]
fn every_format_gives_the_rows_that_are_in_it() {
    let mut seen = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let Some(name) = path.to_str().unwrap().strip_suffix(".expected.jsonl") else { continue };
        let expected = std::fs::read_to_string(&path).unwrap();
        let expected: Vec<Value> = expected.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let found = rows(Path::new(name), &Options::default());
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found, expected, "{name}");
        }
        assert_eq!(found.len(), expected.len(), "{name}: {:?}", found.last());
        seen += 1;
    }
    assert!(seen >= 17, "{seen}");
}

#[test]
fn formats_and_columns_are_named() {
    let open = |name: &str| Reader::open(&folder().join(name), &Options::default()).unwrap();
    for (name, shape) in [
        ("chat.jsonl", Shape::Chat),
        ("preference.jsonl", Shape::Preference),
        ("completion.jsonl", Shape::Completion),
        ("alpaca.json", Shape::Alpaca),
        ("sharegpt.jsonl", Shape::ShareGpt),
        ("brightrun.json", Shape::BrightRun),
        ("brightrun.jsonl", Shape::BrightRun),
        ("messages.parquet", Shape::Chat),
        ("table.csv", Shape::Columns),
    ] {
        assert_eq!(open(name).shape(), shape, "{name}");
    }
    let table = open("table.tsv");
    let columns: Vec<(Field, &str)> = table.columns().iter().map(|column| (column.field, column.column.as_str())).collect();
    assert_eq!(columns, [(Field::Prompt, "question"), (Field::Completion, "answer")]);
    assert!(table.columns().iter().all(|column| column.confidence > 0.8), "{:?}", table.columns());
}

#[test]
fn brightruns_pairs_without_target_are_counted_and_low_quality_is_left_out() {
    let options = Options { least_quality: Some(3.0), ..Options::default() };
    let mut reader = Reader::open(&folder().join("brightrun.json"), &options).unwrap();
    let examples: Vec<_> = reader.by_ref().map(|row| row.unwrap().unwrap()).collect();
    assert_eq!(examples.len(), 2);
    assert_eq!(examples[0].conversation, examples[1].conversation);
    // A pair without a target is that, whatever its quality.
    assert_eq!((reader.skipped().without_target, reader.skipped().low_quality), (4, 2));
}

#[test]
fn a_mapping_that_is_given_is_used() {
    let options = Options { mapping: Some("prompt=answer,completion=question".parse().unwrap()), ..Options::default() };
    let found = rows(&folder().join("table.csv"), &options);
    assert_eq!(found[0]["row"]["messages"][0]["content"], "Vienna.");
    let options = Options { mapping: Some("prompt=nothing,completion=question".parse().unwrap()), ..Options::default() };
    let error = Reader::open(&folder().join("table.csv"), &options).err().unwrap().to_string();
    assert!(error.contains("there is no such column; there are id, question, answer"), "{error}");
}

fn refusal(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, bytes).unwrap();
    match Reader::open(&path, &Options::default()) {
        Err(error @ DatasetError::Unusable(_)) => error.to_string(),
        Err(error) => panic!("{error}"),
        Ok(reader) => panic!("{:?} {:?}", reader.container(), reader.shape()),
    }
}

#[test]
fn files_that_are_no_datasets_are_refused_by_what_they_are() {
    for (bytes, says) in [
        (&b""[..], "empty"),
        (b" \n\r\n", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"\x1f\x8b\x08rest", "gzip"),
        (b"PK\x03\x04rest", "ZIP"),
        (b"\xff\xfe{\0", "UTF-16"),
        (&[0; 4096], "binary"),
        (b"PAR1 but no more", "Parquet"),
        (b"just words\nand more words\n", "neither JSON"),
        (b"{\"a\": 1}\n", "cannot be told"),
        (b"{\"a\":\n 1}\n", "no list of rows"),
        (b"[]", "no rows"),
        (b"[1, 2]", "is not an object"),
        (b"a,a\n1,2\n", "two columns"),
        (b"question,answer\n", "no rows"),
    ] {
        let error = refusal(bytes);
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn rows_of_ten_megabytes_are_read_and_longer_ones_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.jsonl");
    let row = |bytes: usize| {
        json!({"messages": [{"role": "user", "content": "x".repeat(bytes)}, {"role": "assistant", "content": "y"}]}).to_string()
    };
    std::fs::write(&path, [row(10 << 20), row(17 << 20), row(1)].join("\n")).unwrap();
    let found = rows(&path, &Options::default());
    assert_eq!(found[0]["row"]["messages"][0]["content"].as_str().unwrap().len(), 10 << 20);
    assert_eq!(found[1], json!({"line": 2, "problem": "too_long"}));
    assert_eq!(found[2]["line"], 3);

    let path = folder.path().join("endless.csv");
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(b"question,answer\na,b\n\"never closed,").unwrap();
    file.write_all(&vec![b'x'; 40 << 20]).unwrap();
    let found = rows(&path, &Options::default());
    assert_eq!(found[1], json!({"line": 3, "problem": "too_long"}));
}

#[test]
fn damaged_files_of_any_format_are_errors_and_no_panics() {
    let folder_here = tempfile::tempdir().unwrap();
    // The panics that the Parquet library has over damaged files are caught; what they print is not wanted here.
    std::panic::set_hook(Box::new(|_| {}));
    for name in ["chat.jsonl", "alpaca.json", "table.csv", "brightrun.json", "table-snappy.parquet", "messages.parquet"] {
        let sound = std::fs::read(folder().join(name)).unwrap();
        let path = folder_here.path().join(name);
        let mut seed = 1_u64;
        for _ in 0..60 {
            let mut bytes = sound.clone();
            for _ in 0..4 {
                seed = super::digest::mix(seed.wrapping_add(0x9e37_79b9));
                let place = usize::try_from(seed % bytes.len() as u64).unwrap();
                bytes[place] = (seed >> 40) as u8;
            }
            if seed.is_multiple_of(3) {
                bytes.truncate(usize::try_from((seed >> 20) % sound.len() as u64).unwrap());
            }
            std::fs::write(&path, bytes).unwrap();
            if let Ok(reader) = Reader::open(&path, &Options::default()) {
                assert!(reader.take(1000).count() < 1000);
            }
        }
    }
    let _ = std::panic::take_hook();
}
