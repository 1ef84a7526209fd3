//! Typed metadata of a GGUF file. Knows no model.

use std::collections::BTreeMap;

/// GGUF's value types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    /// Unsigned, signed, float or boolean of fixed width.
    U8,
    /// 8 bits, signed.
    I8,
    /// 16 bits, unsigned.
    U16,
    /// 16 bits, signed.
    I16,
    /// 32 bits, unsigned.
    U32,
    /// 32 bits, signed.
    I32,
    /// 32 bits, float.
    F32,
    /// One byte, 0 or 1.
    Bool,
    /// UTF-8 text.
    String,
    /// Elements of one type.
    Array,
    /// 64 bits, unsigned.
    U64,
    /// 64 bits, signed.
    I64,
    /// 64 bits, float.
    F64,
}

impl ValueType {
    /// In the order of their numbers in the file.
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::String,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// The type of a number in the file.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// The number in the file.
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// Bytes of a value of fixed width.
    pub const fn width(self) -> Option<usize> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::String | Self::Array => None,
        }
    }
}

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// An unsigned number that fits 64 bits, or a signed one that is not negative.
    Unsigned(u64),
    /// A negative number.
    Negative(i64),
    /// A float.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// Text.
    String(String),
    /// An array.
    Array(ArrayValue),
}

impl Value {
    /// Decodes a value of fixed width; `None` for a boolean that is neither 0 nor 1 or bytes that are too few.
    pub fn scalar(kind: ValueType, bytes: &[u8]) -> Option<Self> {
        let signed = |value: i64| u64::try_from(value).map_or(Self::Negative(value), Self::Unsigned);
        Some(match kind {
            ValueType::U8 => Self::Unsigned((*bytes.first()?).into()),
            ValueType::I8 => signed(bytes.first()?.cast_signed().into()),
            ValueType::U16 => Self::Unsigned(u16::from_le_bytes(bytes.try_into().ok()?).into()),
            ValueType::I16 => signed(i16::from_le_bytes(bytes.try_into().ok()?).into()),
            ValueType::U32 => Self::Unsigned(u32::from_le_bytes(bytes.try_into().ok()?).into()),
            ValueType::I32 => signed(i32::from_le_bytes(bytes.try_into().ok()?).into()),
            ValueType::F32 => Self::Float(f32::from_le_bytes(bytes.try_into().ok()?).into()),
            ValueType::U64 => Self::Unsigned(u64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I64 => signed(i64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::F64 => Self::Float(f64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::Bool => match *bytes.first()? {
                0 => Self::Bool(false),
                1 => Self::Bool(true),
                _ => return None,
            },
            ValueType::String | ValueType::Array => return None,
        })
    }
}

/// An array as stored; whole, and its strings UTF-8.
#[derive(Debug, Clone, PartialEq)]
pub struct ArrayValue {
    kind: ValueType,
    count: usize,
    bytes: Vec<u8>,
}

impl ArrayValue {
    /// Wraps bytes that were checked to hold `count` elements.
    pub const fn new(kind: ValueType, count: usize, bytes: Vec<u8>) -> Self {
        Self { kind, count, bytes }
    }

    /// Number of elements.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no element.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The elements, when they are strings.
    pub fn strings(&self) -> Option<impl Iterator<Item = &str>> {
        (self.kind == ValueType::String).then(|| {
            let mut rest = &self.bytes[..];
            std::iter::from_fn(move || {
                let (length, after) = rest.split_first_chunk::<8>()?;
                let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
                let text = std::str::from_utf8(after.get(..length)?).ok()?;
                rest = &after[length..];
                Some(text)
            })
        })
    }

    /// The elements, when they are of fixed width.
    pub fn scalars(&self) -> Option<impl Iterator<Item = Value>> {
        let width = self.kind.width()?;
        Some(self.bytes.chunks_exact(width).filter_map(|bytes| Value::scalar(self.kind, bytes)))
    }
}

/// Metadata by key, read with the type that is needed; a key of another type is an error that names it.
#[derive(Debug)]
pub struct Metadata(BTreeMap<String, Value>);

impl Metadata {
    /// Wraps values.
    pub const fn new(values: BTreeMap<String, Value>) -> Self {
        Self(values)
    }

    /// Whether a key is there.
    pub fn contains(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    fn typed<'a, T>(&'a self, key: &str, what: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>, String> {
        match self.0.get(key) {
            None => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| format!("metadata key {key:?} is {}, not {what}", brief(value))),
        }
    }

    /// A number that is not negative.
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>, String> {
        self.typed(key, "a number that is not negative", |value| match value {
            Value::Unsigned(number) => Some(*number),
            _ => None,
        })
    }

    /// A size; `Err` also when it does not fit.
    pub fn size(&self, key: &str) -> Result<Option<usize>, String> {
        let too_large = |_| format!("metadata key {key:?} is too large");
        self.unsigned(key)?.map(|value| usize::try_from(value).map_err(too_large)).transpose()
    }

    /// A size that must be there.
    pub fn required_size(&self, key: &str) -> Result<usize, String> {
        self.size(key)?.ok_or_else(|| format!("metadata key {key:?} is missing"))
    }

    /// A token id.
    pub fn token_id(&self, key: &str) -> Result<Option<u32>, String> {
        let too_large = |_| format!("metadata key {key:?} is too large for a token id");
        self.unsigned(key)?.map(|value| u32::try_from(value).map_err(too_large)).transpose()
    }

    /// A float (or a whole number).
    pub fn float(&self, key: &str) -> Result<Option<f64>, String> {
        self.typed(key, "a float", |value| match value {
            Value::Float(number) => Some(*number),
            Value::Unsigned(number) => Some(*number as f64),
            _ => None,
        })
    }

    /// A boolean.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, String> {
        self.typed(key, "a boolean", |value| match value {
            Value::Bool(value) => Some(*value),
            _ => None,
        })
    }

    /// Text.
    pub fn text(&self, key: &str) -> Result<Option<&str>, String> {
        self.typed(key, "text", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// An array.
    pub fn array(&self, key: &str) -> Result<Option<&ArrayValue>, String> {
        self.typed(key, "an array", |value| match value {
            Value::Array(array) => Some(array),
            _ => None,
        })
    }

    /// Strings of an array.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<&str>>, String> {
        let Some(array) = self.array(key)? else { return Ok(None) };
        let strings = array.strings().ok_or_else(|| format!("metadata key {key:?} is not an array of strings"))?;
        Ok(Some(strings.collect()))
    }
}

/// A value in an error message, short whatever it holds.
fn brief(value: &Value) -> String {
    match value {
        Value::Unsigned(number) => number.to_string(),
        Value::Negative(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::String(text) => format!("the text {:?}", text.chars().take(40).collect::<String>()),
        Value::Array(array) => format!("an array of {}", array.len()),
    }
}
