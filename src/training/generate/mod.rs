//! A dataset written by a teacher: examples from the description of a task and a few seeds, until there are enough or a cap is
//! reached. What was written stays: a run that ends early, however it ends, goes on where it was when it is started again. Knows
//! neither how the teacher is reached nor what is done with the rows.

mod accept;
mod ask;
mod spend;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub use accept::{Rejected, Seed};
pub use spend::{Cap, Caps, Prices, Spent};

use crate::backends::upstream::{Teacher, UpstreamError};
use crate::store::{self, Access, StoreError};
use accept::Judge;

/// Calls in a row that bring no row before the teacher is taken to have nothing more to say.
const MOST_DRY_CALLS: u32 = 5;

/// What is to be written.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Task {
    /// What the examples are of, in words.
    pub description: String,
    /// The system message that each example begins with.
    pub system: Option<String>,
    /// Examples that are known to be good.
    pub seeds: Vec<Seed>,
    /// Examples asked for in one call.
    pub per_call: u32,
    /// Most tokens of one call's answer.
    pub max_tokens: u32,
    /// Sampling temperature.
    pub temperature: f32,
    /// Which seeds are shown when, and the teacher's own seed.
    pub seed: u64,
}

/// How far a run has come. Kept beside its file, so that caps hold over all its starts.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Digest of the task and the teacher's model: a file holds examples of one task.
    task: String,
    /// Calls, tokens and money.
    pub spent: Spent,
    /// Why examples were not taken.
    pub rejected: Rejected,
    /// Calls since the last row.
    dry: u32,
}

/// Why a run has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// There are as many rows as were wanted.
    Enough,
    /// One more call could exceed this cap.
    Capped(Cap),
    /// The teacher only repeats itself.
    Dry,
}

/// What a run has done, all its starts together.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Rows in the file.
    pub rows: u64,
    /// Why it has ended.
    pub ended: Ended,
    /// How far it has come.
    pub progress: Progress,
}

/// Why a run could not go on. What was written stays, and the next start goes on.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// A file cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A line of the file is none of ours.
    #[error("{path}, line {line} is no example that was written here; name another file", path = path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: u64,
    },
    /// The file belongs to something else.
    #[error("{path} {problem}; name another file, or the same task, seeds, model and settings as before", path = path.display())]
    Another {
        /// The file.
        path: PathBuf,
        /// What it is.
        problem: &'static str,
    },
    /// The progress cannot be kept.
    #[error(transparent)]
    Progress(#[from] StoreError),
    /// The teacher.
    #[error("the teacher: {0}")]
    Teacher(#[from] UpstreamError),
}

/// Writes examples into `path` until it has `rows` of them or a cap is reached. `heard` is told after every call.
pub async fn generate(
    task: &Task,
    caps: &Caps,
    teacher: &Teacher,
    path: &Path,
    rows: u64,
    mut heard: impl FnMut(u64, &Progress),
) -> Result<Outcome, GenerateError> {
    let mut run = Run::open(task, teacher.model(), path)?;
    loop {
        let ended = if run.rows >= rows {
            Some(Ended::Enough)
        } else if run.progress.dry >= MOST_DRY_CALLS {
            Some(Ended::Dry)
        } else {
            None
        };
        let chat = ask::chat(task, run.progress.spent.calls, rows - run.rows.min(rows), run.judge.last());
        let most = Spent::most(&chat, &caps.prices);
        let ended = ended.or_else(|| caps.reached(&run.progress.spent, &most).map(Ended::Capped));
        if let Some(ended) = ended {
            return Ok(Outcome { rows: run.rows, ended, progress: run.progress });
        }
        // Counted in full before it is made: whatever becomes of the call, no cap is exceeded.
        let before = run.progress.spent;
        run.progress.spent = before.and(&most);
        run.keep()?;
        let reply = match teacher.chat(&chat).await {
            Ok(reply) => reply,
            Err(error) => {
                // A refusal costs nothing; what broke off may have.
                if matches!(error, UpstreamError::Refused { .. } | UpstreamError::Cassette(_)) {
                    run.progress.spent = before;
                    run.keep()?;
                }
                return Err(error.into());
            }
        };
        if let Some(usage) = reply.usage {
            run.progress.spent = before.and(&Spent::of(usage, &caps.prices));
        }
        run.take(task, &reply.text, rows)?;
        heard(run.rows, &run.progress);
    }
}

/// A run that is open.
struct Run {
    path: PathBuf,
    file: File,
    rows: u64,
    progress: Progress,
    judge: Judge,
}

impl Run {
    fn open(task: &Task, model: &str, path: &Path) -> Result<Self, GenerateError> {
        // A path without a directory has none to sync.
        let path = &std::path::absolute(path).map_err(|source| GenerateError::File { path: path.to_owned(), source })?;
        let of_file = |source| GenerateError::File { path: path.to_owned(), source };
        let another = |problem| Err(GenerateError::Another { path: path.to_owned(), problem });
        let digest = digest(task, model);
        let kept = match std::fs::read(beside(path)) {
            Ok(bytes) => serde_json::from_slice::<Progress>(&bytes).ok(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(GenerateError::File { path: beside(path), source: error }),
        };
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(of_file)?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(of_file)?;
        match &kept {
            None if !text.is_empty() => return another("exists and was not written here"),
            Some(kept) if kept.task != digest => return another("holds examples of another task"),
            _ => {}
        }
        // A line without its end was being written when something happened.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        file.set_len(whole as u64).map_err(of_file)?;
        file.seek(SeekFrom::End(0)).map_err(of_file)?;
        let mut judge = Judge::new(&task.seeds);
        let mut rows = 0;
        for line in text[..whole].lines() {
            rows += 1;
            let example = read_row(line).ok_or(GenerateError::Line { path: path.to_owned(), line: rows })?;
            judge.note(&example);
        }
        let progress = kept.unwrap_or(Progress { task: digest, ..Progress::default() });
        let run = Self { path: path.to_owned(), file, rows, progress, judge };
        run.keep()?;
        Ok(run)
    }

    /// Takes what a call brought.
    fn take(&mut self, task: &Task, text: &str, most: u64) -> Result<(), GenerateError> {
        let before = self.rows;
        let mut lines = String::new();
        match ask::read(text) {
            None => self.progress.rejected.unreadable += 1,
            Some(examples) => {
                for example in examples {
                    if self.rows >= most {
                        break;
                    }
                    if let Some(example) = self.judge.accept(example, &mut self.progress.rejected) {
                        lines.push_str(&row(task.system.as_deref(), &example).to_string());
                        lines.push('\n');
                        self.rows += 1;
                    }
                }
            }
        }
        self.progress.dry = if self.rows > before { 0 } else { self.progress.dry + 1 };
        let written = self.file.write_all(lines.as_bytes()).and_then(|()| self.file.sync_data());
        written.map_err(|source| GenerateError::File { path: self.path.clone(), source })?;
        self.keep()
    }

    /// Puts the progress on the disk, whole.
    fn keep(&self) -> Result<(), GenerateError> {
        let path = beside(&self.path);
        let of_file = |source: std::io::Error| GenerateError::File { path: path.clone(), source };
        let text = serde_json::to_vec(&self.progress).map_err(|error| of_file(error.into()))?;
        Ok(store::write_durably(&path, &text, Access::Normal)?)
    }
}

/// Where the progress is kept: `rows.jsonl.progress`.
pub fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".progress");
    name.into()
}

fn digest(task: &Task, model: &str) -> String {
    let text = json!({"task": task, "model": model}).to_string();
    crate::ids::hex(&Sha256::digest(text))
}

/// An example as OpenAI's fine-tuning files have it.
fn row(system: Option<&str>, example: &Seed) -> Value {
    let mut messages = Vec::new();
    messages.extend(system.map(|text| json!({"role": "system", "content": text})));
    messages.push(json!({"role": "user", "content": example.user}));
    messages.push(json!({"role": "assistant", "content": example.assistant}));
    json!({"messages": messages})
}

fn read_row(line: &str) -> Option<Seed> {
    let row: Value = serde_json::from_str(line).ok()?;
    let messages = row["messages"].as_array()?;
    let text = |role: &str| {
        let message = messages.iter().rfind(|message| message["role"] == role)?;
        message["content"].as_str().map(str::to_owned)
    };
    Some(Seed { user: text("user")?, assistant: text("assistant")? })
}
