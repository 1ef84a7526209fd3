//! The cleaned copy: rows as OpenAI's fine-tuning files have them. It comes into being whole or not at all.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::digest::hash;
use super::report::Fixed;
use super::{Body, DatasetError, Example, Turn, encoding};

/// What becomes of rows that were nearly there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NearDuplicates {
    /// They stay.
    Keep,
    /// The first stays.
    Drop,
}

/// A cleaned copy that is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Fix<'a> {
    /// The file to write; one that is there is replaced.
    pub path: &'a Path,
    /// What becomes of rows that were nearly there before.
    pub near_duplicates: NearDuplicates,
}

/// A copy that is being written.
pub(super) struct Copy {
    file: BufWriter<File>,
    partial: PathBuf,
    path: PathBuf,
    near_duplicates: NearDuplicates,
    /// Hashes of what was written: a row that was repaired can be one that is there.
    rows: HashSet<u64>,
    pub(super) fixed: Fixed,
    done: bool,
}

impl Copy {
    pub(super) fn begin(fix: &Fix<'_>) -> Result<Self, DatasetError> {
        let mut name = fix.path.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let partial = fix.path.with_file_name(name);
        let file = File::create(&partial).map_err(|source| DatasetError::Io { path: partial.clone(), source })?;
        Ok(Self {
            file: BufWriter::with_capacity(1 << 16, file),
            partial,
            path: fix.path.to_owned(),
            near_duplicates: fix.near_duplicates,
            rows: HashSet::new(),
            fixed: Fixed::default(),
            done: false,
        })
    }

    pub(super) const fn drops_near_duplicates(&self) -> bool {
        matches!(self.near_duplicates, NearDuplicates::Drop)
    }

    /// Writes a row, unless it was written before. Whether it was not.
    pub(super) fn write(&mut self, row: &str) -> Result<bool, DatasetError> {
        if !self.rows.insert(hash(row.as_bytes())) {
            self.fixed.dropped_duplicates += 1;
            return Ok(false);
        }
        self.fixed.written += 1;
        let written = self.file.write_all(row.as_bytes()).and_then(|()| self.file.write_all(b"\n"));
        written.map_err(|source| DatasetError::Io { path: self.partial.clone(), source })?;
        Ok(true)
    }

    pub(super) fn finish(mut self) -> Result<Fixed, DatasetError> {
        let written = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        let renamed = written.and_then(|()| std::fs::rename(&self.partial, &self.path));
        renamed.map_err(|source| DatasetError::Io { path: self.path.clone(), source })?;
        self.done = true;
        Ok(self.fixed.clone())
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if !self.done {
            // What is left of it is of no use to anybody.
            let _ = std::fs::remove_file(&self.partial);
        }
    }
}

/// The example with damaged characters restored; `None` where there are none.
pub(super) fn cleaned(example: &Example) -> Option<Example> {
    let mut clean = example.clone();
    let mut changed = false;
    let mut each = |turns: &mut Vec<Turn>| {
        for turn in turns {
            let restored = encoding::clean(turn.text()).into_owned();
            if restored != turn.text() && !restored.trim().is_empty() {
                turn.message["content"] = Value::String(restored);
                changed = true;
            }
        }
    };
    match &mut clean.body {
        Body::Supervised(turns) => each(turns),
        Body::Preference { prompt, chosen, rejected } => [prompt, chosen, rejected].into_iter().for_each(each),
    }
    changed.then_some(clean)
}
