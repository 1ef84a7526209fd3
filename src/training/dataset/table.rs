//! Tables as text: CSV and TSV, with the names of the columns in the first record. Knows nothing of what columns mean.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use csv::{ByteRecord, ReaderBuilder};
use serde_json::{Map, Value};

use super::lines::MAX_ROW;
use super::messages::Fault;
use super::source::{Raw, Taken, problem};
use super::{DatasetError, ProblemKind, encoding};

/// An open table.
pub(super) struct Table {
    reader: csv::Reader<Metered>,
    read: Arc<AtomicUsize>,
    names: Vec<String>,
    record: ByteRecord,
    over: bool,
}

/// Stops a record that does not end: an open quote would otherwise take the rest of the file into memory.
struct Metered {
    file: File,
    /// Bytes since the last record.
    read: Arc<AtomicUsize>,
}

/// What the meter says.
const ENDLESS: &str = "a record is longer than 16 MiB: is a quotation mark not closed?";

/// Bytes that the reader may have taken in before it hands out a record.
const AHEAD: usize = 1 << 16;

impl Read for Metered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        if self.read.fetch_add(count, Ordering::Relaxed) > MAX_ROW + AHEAD {
            return Err(io::Error::other(ENDLESS));
        }
        Ok(count)
    }
}

impl Table {
    pub(super) fn open(file: File, delimiter: u8) -> Result<Self, DatasetError> {
        let read = Arc::new(AtomicUsize::new(0));
        let mut reader = ReaderBuilder::new()
            .delimiter(delimiter)
            .flexible(true)
            // With the usual setting a record after CR LF has the line before it; so the CR is taken off here.
            .terminator(csv::Terminator::Any(b'\n'))
            .buffer_capacity(AHEAD)
            .from_reader(Metered { file, read: read.clone() });
        let unusable = |message: String| DatasetError::Unusable(message);
        let header = reader.byte_headers().map_err(|error| unusable(format!("the first line of the table: {error}")))?;
        let mut names: Vec<String> = Vec::new();
        for (index, name) in header.iter().enumerate() {
            let name = String::from_utf8_lossy(name).trim_start_matches('\u{feff}').trim().to_owned();
            let name = if name.is_empty() { format!("column {}", index + 1) } else { name };
            if names.contains(&name) {
                return Err(unusable(format!("the table has two columns {name:?}; give each its own name")));
            }
            names.push(name);
        }
        Ok(Self { reader, read, names, record: ByteRecord::new(), over: false })
    }

    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    pub(super) fn next_row(&mut self) -> io::Result<Option<Taken>> {
        if self.over {
            return Ok(None);
        }
        let before = self.reader.position().line();
        loop {
            self.read.store(0, Ordering::Relaxed);
            match self.reader.read_byte_record(&mut self.record) {
                Ok(false) => return Ok(None),
                // An empty line.
                Ok(true) if self.record.len() == 1 && self.record[0] == *b"\r" => {}
                Ok(true) => break,
                Err(error) => {
                    self.over = true;
                    return match error.into_kind() {
                        csv::ErrorKind::Io(error) if error.to_string() == ENDLESS => {
                            Ok(Some(Err(problem(before, ProblemKind::TooLong, ENDLESS))))
                        }
                        csv::ErrorKind::Io(error) => Err(error),
                        other => Ok(Some(Err(problem(before, ProblemKind::Syntax, format!("{other:?}"))))),
                    };
                }
            }
        }
        let line = self.record.position().map_or(before, csv::Position::line);
        let (have, wanted) = (self.record.len(), self.names.len());
        if have != wanted {
            let message = format!("the record has {have} values and the table {wanted} columns");
            return Ok(Some(Err(problem(line, ProblemKind::Syntax, message))));
        }
        let mut fields = Map::new();
        let mut fault = None;
        for (index, (name, value)) in self.names.iter().zip(&self.record).enumerate() {
            let last = index + 1 == wanted;
            let value = value.strip_suffix(b"\r").filter(|_| last).unwrap_or(value);
            let text = match std::str::from_utf8(value) {
                Ok(text) => text.to_owned(),
                Err(_) => {
                    fault.get_or_insert_with(|| Fault::new(ProblemKind::Encoding, format!("{name} is not UTF-8")));
                    encoding::from_windows_1252(value)
                }
            };
            fields.insert(name.clone(), Value::String(text));
        }
        Ok(Some(Ok(Raw { line, fields, fault })))
    }
}
