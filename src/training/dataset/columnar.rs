//! Parquet files as rows. Rows are counted from 1, as there are no lines.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};

use parquet::basic::{ConvertedType, Type as PhysicalType};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use parquet::schema::types::SchemaDescriptor;
use serde_json::{Map, Value};

use super::lines::MAX_ROW;
use super::messages::Fault;
use super::source::{Raw, Taken, problem, rough_size, too_long};
use super::{DatasetError, ProblemKind};

/// An open Parquet file.
pub(super) struct Columnar {
    rows: RowIter<'static>,
    names: Vec<String>,
    number: u64,
    over: bool,
}

impl Columnar {
    pub(super) fn open(file: File) -> Result<Self, DatasetError> {
        let unusable = |what: String| DatasetError::Unusable(format!("the Parquet file cannot be read: {what}"));
        let opened = guarded(|| {
            let reader = SerializedFileReader::new(file).map_err(|error| error.to_string())?;
            let schema = reader.metadata().file_metadata().schema_descr_ptr();
            refuse_unknown_types(&schema)?;
            let names = schema.root_schema().get_fields().iter().map(|field| field.name().to_owned()).collect();
            Ok((RowIter::from_file_into(Box::new(reader)), names))
        });
        let (rows, names) = opened.map_err(unusable)?;
        Ok(Self { rows, names, number: 0, over: false })
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.names.clone()
    }

    pub(super) fn next_row(&mut self) -> Option<Taken> {
        if self.over {
            return None;
        }
        self.number += 1;
        let row = guarded(|| self.rows.next().transpose().map_err(|error| error.to_string()));
        match row {
            Ok(None) => None,
            Ok(Some(row)) => {
                let raw = raw(self.number, row);
                let length: usize = raw.fields.values().map(rough_size).sum();
                if length > MAX_ROW { Some(Err(too_long(self.number, Some(length as u64)))) } else { Some(Ok(raw)) }
            }
            Err(what) => {
                // The pages after a broken one are not found again.
                self.over = true;
                Some(Err(problem(self.number, ProblemKind::Syntax, format!("the Parquet file is damaged here: {what}"))))
            }
        }
    }
}

/// The library meets damaged files with panics in places; here they are errors.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("its content contradicts itself".to_owned()))
}

/// Types that rows cannot be made of in this library; it panics over them.
fn refuse_unknown_types(schema: &SchemaDescriptor) -> Result<(), String> {
    use ConvertedType as C;
    for column in schema.columns() {
        let converted = column.converted_type();
        let known = match column.physical_type() {
            PhysicalType::INT32 => !matches!(converted, C::INT_64 | C::UINT_64 | C::TIME_MICROS | C::TIMESTAMP_MILLIS),
            PhysicalType::FIXED_LEN_BYTE_ARRAY => matches!(converted, C::DECIMAL | C::NONE),
            PhysicalType::BYTE_ARRAY => {
                matches!(converted, C::UTF8 | C::ENUM | C::JSON | C::BSON | C::NONE | C::DECIMAL)
            }
            _ => true,
        };
        if !known {
            return Err(format!("column {} has the type {converted}, which is not supported", column.path()));
        }
    }
    Ok(())
}

fn raw(number: u64, row: Row) -> Raw {
    let mut fault = None;
    let fields = row.into_columns().into_iter().map(|(name, field)| {
        let value = value(field, &name, &mut fault);
        (name, value)
    });
    let fields: Map<String, Value> = fields.collect();
    Raw { line: number, fields, fault }
}

fn value(field: Field, name: &str, fault: &mut Option<Fault>) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(value) => value.into(),
        Field::Byte(value) => value.into(),
        Field::Short(value) => value.into(),
        Field::Int(value) | Field::Date(value) | Field::TimeMillis(value) => value.into(),
        Field::Long(value) | Field::TimeMicros(value) | Field::TimestampMillis(value) | Field::TimestampMicros(value) => {
            value.into()
        }
        Field::UByte(value) => value.into(),
        Field::UShort(value) => value.into(),
        Field::UInt(value) => value.into(),
        Field::ULong(value) => value.into(),
        Field::Float16(value) => f64::from(value).into(),
        Field::Float(value) => value.into(),
        Field::Double(value) => value.into(),
        Field::Decimal(_) => field.to_string().into(),
        Field::Str(text) => text.into(),
        // Older writers do not say that bytes are text.
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => text.into(),
            Err(_) => {
                fault.get_or_insert_with(|| Fault::new(ProblemKind::Encoding, format!("{name} is not UTF-8")));
                super::encoding::from_windows_1252(bytes.data()).into()
            }
        },
        Field::Group(row) => {
            let fields = row.into_columns().into_iter().map(|(name, field)| {
                let value = value(field, &name, fault);
                (name, value)
            });
            fields.collect::<Map<String, Value>>().into()
        }
        Field::ListInternal(list) => {
            list.elements().iter().map(|element| value(element.clone(), name, fault)).collect::<Vec<Value>>().into()
        }
        Field::MapInternal(map) => {
            let entries = map.entries().iter().map(|(key, element)| {
                let key = match value(key.clone(), name, fault) {
                    Value::String(text) => text,
                    other => other.to_string(),
                };
                (key, value(element.clone(), name, fault))
            });
            entries.collect::<Map<String, Value>>().into()
        }
    }
}
