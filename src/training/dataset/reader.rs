//! A file as a stream of examples: what format it has is found from its beginning, then one row after another is read. At most one
//! row is in memory.

use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::lines::{Line, Lines, MAX_ROW};
use super::messages::shortened;
use super::rows::Shape;
use super::{DatasetError, Example, Problem, ProblemKind, encoding};

/// How a file is to be read.
#[derive(Debug, Clone, Default)]
pub struct Options {}

/// The rows of a file.
pub struct Reader {
    path: PathBuf,
    lines: Lines<BufReader<File>>,
    shape: Shape,
}

/// Bytes that the format is found from.
const HEAD: u64 = 1 << 20;

impl Reader {
    /// Opens a file and finds what it is.
    pub fn open(path: &Path, _options: &Options) -> Result<Self, DatasetError> {
        let io = |source| DatasetError::Io { path: path.to_owned(), source };
        let mut head = Vec::new();
        File::open(path).map_err(io)?.take(HEAD).read_to_end(&mut head).map_err(io)?;
        let shape = find_shape(&head)?;
        let file = BufReader::with_capacity(1 << 16, File::open(path).map_err(io)?);
        Ok(Self { path: path.to_owned(), lines: Lines::new(file), shape })
    }

    /// What its rows are.
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// The next row, good or bad; `None` at the end.
    pub fn next_row(&mut self) -> Result<Option<Result<Example, Problem>>, DatasetError> {
        loop {
            let line = self.lines.next_line().map_err(|source| DatasetError::Io { path: self.path.clone(), source })?;
            let Some((number, line)) = line else { return Ok(None) };
            let bytes = match line {
                Line::Whole(bytes) => bytes,
                Line::TooLong(length) => {
                    let message = format!("the row has {length} bytes; {MAX_ROW} are the most");
                    return Ok(Some(Err(Problem { line: number, kind: ProblemKind::TooLong, message, repaired: None })));
                }
            };
            let bytes = if number == 1 { bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes) } else { &bytes };
            if !bytes.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some(self.row(number, bytes)));
            }
        }
    }

    fn row(&self, line: u64, bytes: &[u8]) -> Result<Example, Problem> {
        let problem = |kind, message: String| Problem { line, kind, message, repaired: None };
        let (text, mut faults) = match std::str::from_utf8(bytes) {
            Ok(text) => (text.to_owned(), Vec::new()),
            Err(error) => {
                let text = encoding::from_windows_1252(bytes);
                (
                    text,
                    vec![(ProblemKind::Encoding, format!("the row is not UTF-8 from its byte {} on", error.valid_up_to() + 1))],
                )
            }
        };
        let value: Value = match serde_json::from_str(&text) {
            Ok(value) => value,
            // Bytes that are no text say more than what they do to JSON.
            Err(_) if !faults.is_empty() => return Err(problem(faults[0].0, faults[0].1.clone())),
            Err(_) if text.contains('\0') => return Err(problem(ProblemKind::Encoding, "the row holds NUL bytes".to_owned())),
            Err(error) => {
                let message = format!("not JSON: {} (column {})", what(&error), error.column());
                return Err(problem(ProblemKind::Syntax, message));
            }
        };
        let Some(fields) = value.as_object() else {
            return Err(problem(ProblemKind::Syntax, format!("{} is not an object", shortened(&text))));
        };
        let Some(shape) = Shape::of(fields) else {
            let names: Vec<&str> = fields.keys().map(String::as_str).collect();
            let message = format!("its fields ({}) are not those of {}", shortened(&names.join(", ")), self.shape.name());
            return Err(problem(ProblemKind::Format, message));
        };
        if shape != self.shape {
            faults.push((ProblemKind::Format, format!("a row of {} in a file of {}", shape.name(), self.shape.name())));
        }
        let read = shape.read(line, fields).map_err(|fault| problem(fault.kind, fault.message))?;
        faults.extend(read.faults.into_iter().map(|fault| (fault.kind, fault.message)));
        let Some((kind, message)) = faults.into_iter().next() else { return Ok(read.value) };
        Err(Problem { repaired: Some(Box::new(read.value)), ..problem(kind, message) })
    }
}

impl Iterator for Reader {
    type Item = Result<Result<Example, Problem>, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_row().transpose()
    }
}

/// The parser's complaint without its place: lines are counted in the file, not in the row.
fn what(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}

/// The shape of most rows at the beginning.
fn find_shape(head: &[u8]) -> Result<Shape, DatasetError> {
    if head.iter().all(u8::is_ascii_whitespace) {
        return Err(DatasetError::Unusable("the file is empty".to_owned()));
    }
    let mut found: Vec<Shape> = Vec::new();
    for line in head.split(|byte| *byte == b'\n').take(100) {
        let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        if let Ok(Value::Object(row)) = serde_json::from_slice::<Value>(line) {
            found.extend(Shape::of(&row));
        }
    }
    let count = |shape: Shape| found.iter().filter(|have| **have == shape).count();
    let all = [Shape::Chat, Shape::Preference, Shape::Completion];
    let best = all.into_iter().max_by_key(|shape| count(*shape)).filter(|shape| count(*shape) > 0);
    best.ok_or_else(|| {
        let wanted = "each line must be a JSON object with messages, with prompt and completion, or with input and two outputs";
        DatasetError::Unusable(format!("no row of a known format at the beginning of the file; {wanted}"))
    })
}
