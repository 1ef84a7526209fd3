//! What was typed, where: flags, variables and the file, merged by precedence but not yet understood.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::settings::{
    ADMIN_KEY_VARIABLE, API_KEY_VARIABLE, Arity, CONFIG_VARIABLE, JWT_SECRET_VARIABLE, PREFIX, SECRET_KEY_VARIABLE, SETTINGS,
    Setting, TEACHER_KEY_VARIABLE, nearest, setting,
};

/// Where a value was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere.
    Default,
    /// A line of the configuration file.
    File(PathBuf, usize),
    /// A variable of the environment.
    Variable(String),
    /// A flag of the command line.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => write!(f, "--{name}"),
        }
    }
}

/// One thing that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it was typed.
    pub origin: String,
    /// What is wrong and what would be right.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.text)
    }
}

/// What was typed for one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Typed {
    pub(super) values: Vec<String>,
    pub(super) origin: Origin,
}

/// One line of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) values: Vec<String>,
    /// It was written as a list.
    pub(super) is_list: bool,
    pub(super) origin: Origin,
}

impl Entry {
    /// Its only value.
    pub(super) fn text(&self) -> &str {
        self.values.first().map_or("", String::as_str)
    }
}

/// One of the tables of which there may be many: `[[upstream]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) kind: &'static str,
    pub(super) entries: Vec<Entry>,
    pub(super) origin: Origin,
}

/// Kinds of tables of which there may be many.
const TABLES: [&str; 3] = ["upstream", "failover", "capability"];

/// Everything that the process was given: its environment and its command line, as data.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// Flags by the setting's key, values in order.
    pub flags: Vec<(&'static str, Vec<String>)>,
    /// Variables of the environment.
    pub variables: Vec<(OsString, OsString)>,
    /// `--config`.
    pub config_file: Option<PathBuf>,
}

/// What was typed, merged.
#[derive(Default)]
pub(super) struct Raw {
    pub(super) typed: BTreeMap<&'static str, Typed>,
    pub(super) tables: Vec<Table>,
    /// Directory of the configuration file: its relative paths begin there.
    pub(super) file_dir: Option<PathBuf>,
    pub(super) admin_key: Option<String>,
    pub(super) jwt_secret: Option<String>,
    pub(super) secret_key: Option<String>,
    pub(super) problems: Vec<Problem>,
}

impl Raw {
    pub(super) fn collect(given: &Given) -> Self {
        let mut raw = Self::default();
        // Lowest first; each layer replaces what is below.
        let mut variables = Vec::new();
        let mut from_variable = None;
        for (name, value) in &given.variables {
            let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
            let Some(value) = value.to_str() else {
                raw.problem(name, "is not UTF-8");
                continue;
            };
            if name == CONFIG_VARIABLE {
                from_variable = Some(PathBuf::from(value));
            } else {
                variables.push((name, value));
            }
        }
        let file = given
            .config_file
            .as_ref()
            .map(|path| (path, "--config"))
            .or(from_variable.as_ref().map(|path| (path, CONFIG_VARIABLE)));
        if let Some((path, origin)) = file {
            raw.read_file(path, origin);
        }
        variables.sort_unstable();
        for (name, value) in variables {
            raw.read_variable(name, value);
        }
        for (key, values) in &given.flags {
            if let Some(setting) = setting(key) {
                raw.typed.insert(key, Typed { values: values.clone(), origin: Origin::Flag(setting.flag) });
            }
        }
        raw
    }

    pub(super) fn problem(&mut self, origin: impl fmt::Display, text: impl Into<String>) {
        self.problems.push(Problem { origin: origin.to_string(), text: text.into() });
    }

    fn read_variable(&mut self, name: &str, value: &str) {
        if name == ADMIN_KEY_VARIABLE {
            self.admin_key = Some(value.to_owned());
            return;
        }
        if name == JWT_SECRET_VARIABLE {
            self.jwt_secret = Some(value.to_owned());
            return;
        }
        if name == SECRET_KEY_VARIABLE {
            self.secret_key = Some(value.to_owned());
            return;
        }
        if name == API_KEY_VARIABLE || name == TEACHER_KEY_VARIABLE {
            return;
        }
        let Some(setting) = SETTINGS.iter().find(|setting| setting.variable() == name) else {
            let known: Vec<String> = SETTINGS.iter().map(Setting::variable).collect();
            let others = [CONFIG_VARIABLE, ADMIN_KEY_VARIABLE, JWT_SECRET_VARIABLE, SECRET_KEY_VARIABLE];
            let hint = hint(nearest(name, known.iter().map(String::as_str).chain(others)));
            return self.problem(name, format!("is not a variable of switchyard{hint}"));
        };
        let values = match setting.arity {
            Arity::One => vec![value.to_owned()],
            Arity::Many => value.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect(),
        };
        self.typed.insert(setting.key, Typed { values, origin: Origin::Variable(name.to_owned()) });
    }

    fn read_file(&mut self, path: &Path, origin: &str) {
        let text = match crate::store::read_limited(path, MAX_FILE_BYTES).map(String::from_utf8) {
            Ok(Ok(text)) => text,
            Ok(Err(_)) => return self.problem(path.display(), "is not UTF-8"),
            Err(error) => return self.problem(origin, format!("cannot read {}: {error}", path.display())),
        };
        let (table, errors) = DeTable::parse_recoverable(&text);
        let line = |offset: usize| 1 + text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count();
        for error in errors {
            let at = error.span().map_or(1, |span| line(span.start));
            self.problem(Origin::File(path.to_owned(), at), format!("is not TOML: {}", error.message()));
        }
        self.file_dir = path.parent().map(Path::to_owned);
        for (key, value) in table.get_ref() {
            let place = |offset: usize| Origin::File(path.to_owned(), line(offset));
            let origin = place(key.span().start);
            if let Some(kind) = TABLES.into_iter().find(|kind| kind == key.get_ref()) {
                self.read_tables(kind, value, &place);
                continue;
            }
            let Some(setting) = setting(key.get_ref()) else {
                let hint = hint(nearest(key.get_ref(), SETTINGS.iter().map(|setting| setting.key)));
                self.problem(origin, format!("`{}` is not a setting{hint}", key.get_ref()));
                continue;
            };
            match file_values(setting, value.get_ref()) {
                Ok(values) => _ = self.typed.insert(setting.key, Typed { values, origin }),
                Err(text) => self.problem(origin, text),
            }
        }
    }
}

impl Raw {
    fn read_tables(&mut self, kind: &'static str, value: &Spanned<DeValue<'_>>, place: &dyn Fn(usize) -> Origin) {
        let at = |value: &Spanned<DeValue<'_>>| place(value.span().start);
        let DeValue::Array(items) = value.get_ref() else {
            return self.problem(at(value), format!("`{kind}` is a {}; [[{kind}]] is right", value.get_ref().type_str()));
        };
        for item in items {
            let DeValue::Table(table) = item.get_ref() else {
                self.problem(at(item), format!("`{kind}` is a list of tables; [[{kind}]] is right"));
                continue;
            };
            let mut entries = Vec::new();
            for (key, value) in table {
                let (name, origin) = (key.get_ref().to_string(), place(key.span().start));
                let (values, is_list) = match value.get_ref() {
                    DeValue::Array(items) => (items.iter().map(|item| scalar(item.get_ref())).collect(), true),
                    value => (scalar(value).map(|value| vec![Some(value)]).unwrap_or_else(|| vec![None]), false),
                };
                let values: Option<Vec<String>> = values.into_iter().collect();
                match values {
                    Some(values) => entries.push(Entry { key: name, values, is_list, origin }),
                    None => self.problem(origin, format!("`{kind}.{name}`: one value or a list of values is right")),
                }
            }
            self.tables.push(Table { kind, entries, origin: at(item) });
        }
    }
}

/// Largest configuration file, bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

fn hint(nearest: Option<&str>) -> String {
    nearest.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

fn file_values(setting: &Setting, value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let key = setting.key;
    match (setting.arity, value) {
        (Arity::One, value) => {
            scalar(value).map(|value| vec![value]).ok_or_else(|| format!("`{key}` is a {}; one value is right", value.type_str()))
        }
        (Arity::Many, DeValue::Array(items)) => items
            .iter()
            .map(|item| item.get_ref().as_str().map(str::to_owned).ok_or_else(|| format!("`{key}` is a list of strings")))
            .collect(),
        // [adapters] with a line for each name.
        (Arity::Many, DeValue::Table(entries)) if key == "adapters" => entries
            .iter()
            .map(|(name, path)| match path.get_ref().as_str() {
                Some(path) => Ok(format!("{}={path}", name.get_ref())),
                None => Err(format!("`{key}.{}` must be a path as a string", name.get_ref())),
            })
            .collect(),
        (Arity::Many, other) => Err(format!("`{key}` is a {}; a list of strings is right", other.type_str())),
    }
}

/// A value of the file as the text that a flag would have.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().replace('_', "")),
        DeValue::Float(number) => Some(number.as_str().replace('_', "")),
        DeValue::Boolean(flag) => Some(if *flag { "on" } else { "off" }.to_owned()),
        DeValue::Integer(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}
