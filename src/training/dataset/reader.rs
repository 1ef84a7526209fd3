//! A file as a stream of examples: what format it has is found from its beginning, then one row after another is read. At most one
//! row (of a BrightRun document one conversation) is in memory.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::columns::{Column, Mapping};
use super::detect::{Found, detect};
use super::messages::shortened;
use super::rows::Shape;
use super::source::{Container, Raw, Source, problem};
use super::{DatasetError, Example, Problem, ProblemKind};

/// How a file is to be read; what is not said is found.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What it is written in.
    pub container: Option<Container>,
    /// What its rows are.
    pub shape: Option<Shape>,
    /// Which column is what.
    pub mapping: Option<Mapping>,
    /// Rows that say a `quality_score` below this are left out.
    pub least_quality: Option<f64>,
}

impl Options {
    /// Sets the format by its name: a container's or a shape's.
    pub fn set_format(&mut self, name: &str) -> Result<(), DatasetError> {
        let container = Container::ALL.into_iter().find(|container| container.name() == name);
        let shape = Shape::ALL.into_iter().find(|shape| shape.name() == name);
        if container.is_none() && shape.is_none() {
            return Err(DatasetError::Unusable(format!("{name:?} is no format; there are {}", Self::formats().join(", "))));
        }
        (self.container, self.shape) = (container, shape);
        Ok(())
    }

    /// Takes from a file's name what its content alone may not say: that it is a table.
    pub fn hint(&mut self, name: &str) {
        let ending = name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
        let tables = [Container::Csv, Container::Tsv];
        self.container = tables.into_iter().find(|table| ending.as_deref() == Some(table.name())).or(self.container);
    }

    /// Names that [`Options::set_format`] takes.
    pub fn formats() -> Vec<&'static str> {
        Shape::ALL.map(Shape::name).into_iter().chain(Container::ALL.map(Container::name)).collect()
    }
}

/// Rows that were passed over because they are not meant to be learnt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// BrightRun's pairs without a target: turns of the user.
    pub without_target: u64,
    /// Rows whose quality score is below the limit.
    pub low_quality: u64,
}

/// The rows of a file.
pub struct Reader {
    path: PathBuf,
    source: Source,
    found: Found,
    least_quality: Option<f64>,
    skipped: Skipped,
}

impl Reader {
    /// Opens a file and finds what it is.
    pub fn open(path: &Path, options: &Options) -> Result<Self, DatasetError> {
        let found = detect(path, options)?;
        let source = Source::open(path, found.container, found.delimiter)?;
        Ok(Self { path: path.to_owned(), source, found, least_quality: options.least_quality, skipped: Skipped::default() })
    }

    /// What its rows are.
    pub const fn shape(&self) -> Shape {
        self.found.shape
    }

    /// What it is written in.
    pub const fn container(&self) -> Container {
        self.found.container
    }

    /// Columns that were found, where they had to be.
    pub fn columns(&self) -> &[Column] {
        &self.found.columns
    }

    /// Rows that were passed over so far.
    pub const fn skipped(&self) -> Skipped {
        self.skipped
    }

    /// The next row, good or bad; `None` at the end.
    pub fn next_row(&mut self) -> Result<Option<Result<Example, Problem>>, DatasetError> {
        loop {
            let row = self.source.next_row().map_err(|source| DatasetError::Io { path: self.path.clone(), source })?;
            match row {
                None => return Ok(None),
                Some(Err(problem)) => return Ok(Some(Err(problem))),
                Some(Ok(raw)) if self.passes_over(&raw) => {}
                Some(Ok(raw)) => return Ok(Some(self.read(raw))),
            }
        }
    }

    /// Whether a row is none to learn from, and counts it.
    fn passes_over(&mut self, raw: &Raw) -> bool {
        let fields = &raw.fields;
        if self.found.shape == Shape::BrightRun {
            if fields.len() == 1 && fields.contains_key("_meta") {
                return true;
            }
            let empty = |value: &Value| value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty());
            if fields.contains_key("current_user_input") && fields.get("target_response").is_none_or(empty) {
                self.skipped.without_target += 1;
                return true;
            }
        }
        let Some(least) = self.least_quality else { return false };
        let score = fields.get("quality_score").or_else(|| fields.get("training_metadata")?.get("quality_score"));
        let low = score.and_then(Value::as_f64).is_some_and(|score| score < least);
        self.skipped.low_quality += u64::from(low);
        low
    }

    fn read(&self, raw: Raw) -> Result<Example, Problem> {
        let Raw { line, fields, fault } = raw;
        let mine = self.found.shape;
        let shape = match Shape::of(&fields) {
            // Columns that were named are looked for in every row.
            _ if mine == Shape::Columns => mine,
            Some(shape) => shape,
            // A row of this shape that lacks a field: that field is what is to be said.
            None if mine.fields().split(", ").any(|name| fields.contains_key(name)) => mine,
            None => {
                let names: Vec<&str> = fields.keys().map(String::as_str).collect();
                let message =
                    format!("its fields ({}) are not those of {} ({})", shortened(&names.join(", ")), mine.name(), mine.fields());
                return Err(problem(line, ProblemKind::Format, message));
            }
        };
        let read = shape.read(line, &fields, &self.found.mapping);
        let read = read.map_err(|fault| problem(line, fault.kind, fault.message))?;
        let mut faults: Vec<_> = fault.into_iter().collect();
        if shape != mine {
            let message = format!("a row of {} ({}) in a file of {}", shape.name(), shape.fields(), mine.name());
            faults.push(super::messages::Fault::new(ProblemKind::Format, message));
        }
        faults.extend(read.faults);
        match faults.into_iter().next() {
            None => Ok(read.value),
            Some(fault) => Err(Problem { line, kind: fault.kind, message: fault.message, repaired: Some(Box::new(read.value)) }),
        }
    }
}

impl Iterator for Reader {
    type Item = Result<Result<Example, Problem>, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_row().transpose()
    }
}
