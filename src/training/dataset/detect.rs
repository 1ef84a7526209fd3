//! What a file is: found from its first bytes and its first rows.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde_json::{Map, Value};

use super::columns::{self, Column, Mapping};
use super::reader::Options;
use super::rows::Shape;
use super::source::{Container, Source, rough_size};
use super::{DatasetError, Problem};

/// What a file was found to be.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) container: Container,
    /// Byte between the values of a table.
    pub(super) delimiter: u8,
    pub(super) shape: Shape,
    pub(super) mapping: Mapping,
    pub(super) columns: Vec<Column>,
}

/// A row.
type Fields = Map<String, Value>;

/// Bytes that the container is found from.
const HEAD: u64 = 1 << 16;
/// Rows that the shape is found from, and about how many bytes of them.
const ROWS: usize = 200;
const BYTES: usize = 4 << 20;

/// Beginnings of files that are no text.
const BINARY: [(&[u8], &str); 10] = [
    (b"\x1f\x8b", "compressed with gzip; decompress it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard; decompress it first"),
    (b"BZh", "compressed with bzip2; decompress it first"),
    (b"\xfd7zXZ", "compressed with xz; decompress it first"),
    (b"PK\x03\x04", "a ZIP archive or an Office document; save the data as CSV or JSONL"),
    (b"%PDF", "a PDF document"),
    (b"GGUF", "a GGUF model"),
    (b"SQLite format 3", "a SQLite database; export its table as CSV"),
    (b"\xff\xfe", "UTF-16 text; save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text; save it as UTF-8"),
];

pub(super) fn detect(path: &Path, options: &Options) -> Result<Found, DatasetError> {
    let io = |source| DatasetError::Io { path: path.to_owned(), source };
    let mut head = Vec::new();
    File::open(path).map_err(io)?.take(HEAD).read_to_end(&mut head).map_err(io)?;
    let container = match options.container {
        Some(container) => {
            refuse_empty(&head)?;
            container
        }
        None => container(&head, path)?,
    };
    let delimiter = if container == Container::Tsv { b'\t' } else { delimiter(&head).unwrap_or(b',') };
    let mut source = Source::open(path, container, delimiter)?;
    let names = source.columns();
    let (rows, first_problem) = beginning(&mut source).map_err(io)?;
    let found = |shape, mapping, columns| Found { container, delimiter, shape, mapping, columns };
    if let Some(mapping) = &options.mapping {
        let mut known = names.unwrap_or_default();
        known.extend(rows.iter().flat_map(Map::keys).cloned());
        known.dedup();
        mapping.check(&known)?;
        return Ok(found(Shape::Columns, mapping.clone(), Vec::new()));
    }
    if let Some(shape) = options.shape.filter(|shape| *shape != Shape::Columns) {
        return Ok(found(shape, Mapping::default(), Vec::new()));
    }
    if rows.is_empty() {
        return Err(DatasetError::Unusable(match first_problem {
            Some(problem) => format!("no row of the file can be read; {problem}"),
            None => "the file has no rows".to_owned(),
        }));
    }
    let shapes: Vec<Shape> = rows.iter().filter_map(Shape::of).collect();
    let count = |shape: Shape| shapes.iter().filter(|have| **have == shape).count();
    let most = Shape::ALL.into_iter().rev().max_by_key(|shape| count(*shape)).filter(|shape| count(*shape) > 0);
    match most {
        Some(shape) if options.shape.is_none() => Ok(found(shape, Mapping::default(), Vec::new())),
        _ => {
            let (mapping, columns) = columns::find(&rows)?;
            Ok(found(Shape::Columns, mapping, columns))
        }
    }
}

/// The first rows, and the first problem among them.
fn beginning(source: &mut Source) -> std::io::Result<(Vec<Fields>, Option<Problem>)> {
    let (mut rows, mut problem, mut bytes) = (Vec::new(), None, 0);
    for _ in 0..ROWS {
        match source.next_row()? {
            None => break,
            Some(Ok(raw)) => {
                bytes += raw.fields.values().map(rough_size).sum::<usize>();
                // BrightRun's files of lines begin with a line about the file.
                if !(raw.fields.len() == 1 && raw.fields.contains_key("_meta")) {
                    rows.push(raw.fields);
                }
            }
            Some(Err(bad)) => problem = problem.or(Some(bad)),
        }
        if bytes > BYTES {
            break;
        }
    }
    Ok((rows, problem))
}

fn refuse_empty(head: &[u8]) -> Result<(), DatasetError> {
    if head.iter().all(u8::is_ascii_whitespace) || head == b"\xef\xbb\xbf" {
        return Err(DatasetError::Unusable("the file is empty".to_owned()));
    }
    Ok(())
}

fn container(head: &[u8], path: &Path) -> Result<Container, DatasetError> {
    refuse_empty(head)?;
    if head.starts_with(b"PAR1") {
        return Ok(Container::Parquet);
    }
    if let Some((_, what)) = BINARY.iter().find(|(beginning, _)| head.starts_with(beginning)) {
        return Err(DatasetError::Unusable(format!("the file is {what}")));
    }
    let stray = head.iter().filter(|byte| **byte < 0x20 && !matches!(**byte, b'\t' | b'\n' | b'\r' | 0x1b)).count();
    // Random bytes have a tenth of them, text has none.
    if stray * 20 > head.len() {
        return Err(DatasetError::Unusable("the file is binary, and not Parquet".to_owned()));
    }
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let lines: Vec<&[u8]> =
        text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()).take(50).collect();
    let first = lines.first().copied().unwrap_or_default();
    let named = |ending: &str| path.extension().is_some_and(|have| have.eq_ignore_ascii_case(ending));
    let whole = |line: &[u8]| serde_json::from_slice::<Map<String, Value>>(line).ok();
    match first.first() {
        Some(b'[') => Ok(Container::Json),
        Some(b'{') => {
            let one_document = match whole(first) {
                // One line that is a document of BrightRun.
                Some(fields) => fields.get("conversations").is_some_and(|list| list.pointer("/0/training_pairs").is_some()),
                // Over many lines, or one that is longer than what was looked at.
                None => {
                    let rows_follow = lines.iter().skip(1).any(|line| whole(line).is_some_and(|row| row.len() > 1));
                    let long = lines.len() == 1 && contains(first, b"\"training_pairs\"") && !contains(first, b"\n");
                    !named("jsonl") && !rows_follow && (lines.len() > 1 || long)
                }
            };
            Ok(if one_document { Container::Json } else { Container::Jsonl })
        }
        _ => {
            let objects = lines.iter().filter(|line| line.starts_with(b"{")).count();
            if named("jsonl") || objects * 2 > lines.len() {
                return Ok(Container::Jsonl);
            }
            if named("tsv") {
                return Ok(Container::Tsv);
            }
            match delimiter(head) {
                Some(b'\t') => Ok(Container::Tsv),
                Some(_) => Ok(Container::Csv),
                None if named("csv") => Ok(Container::Csv),
                None => Err(DatasetError::Unusable(
                    "the file is neither JSON (lines or a list) nor a table (CSV or TSV with names in the first line) nor Parquet"
                        .to_owned(),
                )),
            }
        }
    }
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted)
}

/// What stands most often between the names in the first line.
fn delimiter(head: &[u8]) -> Option<u8> {
    let line = head.split(|byte| *byte == b'\n').find(|line| !line.trim_ascii().is_empty())?;
    let count = |wanted: u8| {
        let mut quoted = false;
        line.iter()
            .filter(|byte| {
                quoted ^= **byte == b'"';
                !quoted && **byte == wanted
            })
            .count()
    };
    [b',', b';', b'\t'].into_iter().max_by_key(|byte| count(*byte)).filter(|byte| count(*byte) > 0)
}
