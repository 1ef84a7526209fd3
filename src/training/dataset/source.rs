//! Files as rows of named values, whatever they are written in. Knows containers (lines, arrays, tables, Parquet), not what rows mean.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use super::columnar::Columnar;
use super::elements::{Element, Elements};
use super::lines::{Line, Lines, MAX_ROW};
use super::messages::{Fault, shortened};
use super::table::Table;
use super::{DatasetError, Problem, ProblemKind, encoding};

/// What a file is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Container {
    /// A JSON object on each line.
    Jsonl,
    /// One JSON document: a list of rows, or an object with such a list.
    Json,
    /// Values between commas (or semicolons), the names in the first line.
    Csv,
    /// Values between tabs, the names in the first line.
    Tsv,
    /// Apache Parquet.
    Parquet,
}

impl Container {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Jsonl, Self::Json, Self::Csv, Self::Tsv, Self::Parquet];

    /// As it is typed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Json => "json",
            Self::Csv => "csv",
            Self::Tsv => "tsv",
            Self::Parquet => "parquet",
        }
    }
}

/// Keys that a document's list of rows can be under.
pub(super) const LIST_KEYS: [&str; 6] = ["conversations", "training_pairs", "data", "rows", "examples", "train"];

/// A row before anything is known of it.
pub(super) struct Raw {
    pub(super) line: u64,
    pub(super) fields: Map<String, Value>,
    /// What had to be repaired to read it.
    pub(super) fault: Option<Fault>,
}

/// A row, or what is wrong with it.
pub(super) type Taken = Result<Raw, Problem>;

/// An open file.
pub(super) enum Source {
    Lines(Lines<BufReader<File>>),
    Document(Elements<BufReader<File>>, VecDeque<Taken>),
    Table(Box<Table>),
    Columnar(Box<Columnar>),
}

impl Source {
    pub(super) fn open(path: &Path, container: Container, delimiter: u8) -> Result<Self, DatasetError> {
        let io = |source| DatasetError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        let buffered = |file| BufReader::with_capacity(1 << 16, file);
        Ok(match container {
            Container::Jsonl => Self::Lines(Lines::new(buffered(file))),
            Container::Json => match Elements::open(buffered(file), &LIST_KEYS, 1).map_err(io)? {
                Some(elements) => Self::Document(elements, VecDeque::new()),
                None => {
                    let message = format!("the JSON document is no list of rows and has none under {}", LIST_KEYS.join(", "));
                    return Err(DatasetError::Unusable(message));
                }
            },
            Container::Csv | Container::Tsv => Self::Table(Box::new(Table::open(file, delimiter)?)),
            Container::Parquet => Self::Columnar(Box::new(Columnar::open(file)?)),
        })
    }

    /// Names of the columns, where the container has them.
    pub(super) fn columns(&self) -> Option<Vec<String>> {
        match self {
            Self::Table(table) => Some(table.names().to_vec()),
            Self::Columnar(columnar) => Some(columnar.names()),
            Self::Lines(_) | Self::Document(..) => None,
        }
    }

    /// The next row.
    pub(super) fn next_row(&mut self) -> io::Result<Option<Taken>> {
        match self {
            Self::Lines(lines) => loop {
                let Some((number, line)) = lines.next_line()? else { return Ok(None) };
                let bytes = match line {
                    Line::Whole(bytes) => bytes,
                    Line::TooLong(length) => return Ok(Some(Err(too_long(number, Some(length))))),
                };
                let bytes = if number == 1 { bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes) } else { &bytes };
                if !bytes.iter().all(u8::is_ascii_whitespace) {
                    return Ok(Some(object(number, bytes)));
                }
            },
            Self::Document(elements, waiting) => loop {
                if let Some(row) = waiting.pop_front() {
                    return Ok(Some(row));
                }
                let bytes = match elements.next_element()? {
                    None => return Ok(None),
                    Some(Element::TooLong(line)) => return Ok(Some(Err(too_long(line, None)))),
                    Some(Element::Broken(line, what)) => return Ok(Some(Err(problem(line, ProblemKind::Syntax, what)))),
                    Some(Element::Whole(line, bytes)) => (line, bytes),
                };
                let (line, bytes) = bytes;
                match object(line, &bytes) {
                    Ok(raw) if raw.fields.get("training_pairs").is_some_and(Value::is_array) => {
                        *waiting = pairs(line, &bytes, &raw.fields)?;
                    }
                    row => return Ok(Some(row)),
                }
            },
            Self::Table(table) => table.next_row(),
            Self::Columnar(columnar) => Ok(columnar.next_row()),
        }
    }
}

pub(super) fn problem(line: u64, kind: ProblemKind, message: impl Into<String>) -> Problem {
    Problem { line, kind, message: message.into(), repaired: None }
}

/// A row over the limit.
pub(super) fn too_long(line: u64, length: Option<u64>) -> Problem {
    let length = length.map_or_else(|| "more".to_owned(), |length| format!("{length} bytes"));
    problem(line, ProblemKind::TooLong, format!("the row has {length}; {MAX_ROW} bytes are the most"))
}

/// About the bytes of a value as text.
pub(super) fn rough_size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(list) => list.iter().map(rough_size).sum(),
        Value::Object(fields) => fields.values().map(rough_size).sum(),
        _ => 8,
    }
}

/// The training pairs of a BrightRun conversation, each with its own line and its conversation's id.
fn pairs(line: u64, conversation: &[u8], fields: &Map<String, Value>) -> io::Result<VecDeque<Taken>> {
    let id = fields
        .get("conversation_metadata")
        .and_then(|metadata| metadata.get("conversation_id"))
        .or_else(|| fields.get("conversation_id"))
        .or_else(|| fields.get("id"))
        .cloned()
        .unwrap_or_else(|| line.into());
    let mut rows = VecDeque::new();
    let Some(mut elements) = Elements::open(conversation, &["training_pairs"], line)? else { return Ok(rows) };
    while let Some(element) = elements.next_element()? {
        if let Element::Whole(line, bytes) = element {
            let mut row = object(line, &bytes);
            if let Ok(raw) = &mut row {
                raw.fields.entry("conversation_id").or_insert_with(|| id.clone());
            }
            rows.push_back(row);
        }
    }
    Ok(rows)
}

/// Reads one JSON object.
pub(super) fn object(line: u64, bytes: &[u8]) -> Taken {
    let (text, mut fault) = match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), None),
        Err(error) => {
            let message = format!("the row is not UTF-8 from its byte {} on", error.valid_up_to() + 1);
            (encoding::from_windows_1252(bytes), Some(Fault::new(ProblemKind::Encoding, message)))
        }
    };
    let mut parsed: Result<Value, _> = serde_json::from_str(&text);
    if parsed.is_err() && text.contains('\0') {
        fault = fault.or_else(|| Some(Fault::new(ProblemKind::Encoding, "the row holds NUL bytes")));
        parsed = serde_json::from_str(&text.replace('\0', ""));
    }
    match parsed {
        Ok(Value::Object(fields)) => Ok(Raw { line, fields, fault }),
        Ok(_) => Err(problem(line, ProblemKind::Syntax, format!("{} is not an object", shortened(&text)))),
        // Bytes that are no text say more than what they do to JSON.
        Err(error) => Err(match fault {
            Some(fault) => problem(line, fault.kind, fault.message),
            None => problem(line, ProblemKind::Syntax, format!("not JSON: {}", what(&error))),
        }),
    }
}

/// The parser's complaint; lines are counted in the file, not in the row.
fn what(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    format!("{what} (column {})", error.column())
}
